"""Kite Connect's words in Sauda's: its published samples, every status, every class of error, and hostile replies."""

import contextlib
import hashlib
import json
from copy import deepcopy
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.brokers.base import (
    BrokerError,
    BrokerUnavailableError,
    OrderRejectedError,
    OutcomeUnknownError,
    RateLimitedError,
    SessionExpiredError,
)
from backend.brokers.kite_postback import Postback, parsed_postback, postback_is_genuine
from backend.brokers.kite_reports import (
    STATUSES,
    book_orders,
    charges_of,
    funds_of,
    holdings_of,
    instruments_of,
    positions_of,
    unknown_statuses,
)
from backend.brokers.kite_wire import REFUSALS, data_of, order_id_of
from backend.brokers.wire import Reply
from backend.brokers.wire_fields import MalformedError, parsed_json
from backend.domain.market import Product, Side
from backend.domain.reconcile import BookStatus

ORDER = {
    "order_id": "220303000308932",
    "status": "OPEN",
    "status_message": None,
    "status_message_raw": None,
    "order_timestamp": "2024-03-18 10:05:00",
    "exchange_timestamp": "2024-03-18 10:00:01",
    "exchange": "NSE",
    "tradingsymbol": "SBIN",
    "order_type": "LIMIT",
    "transaction_type": "BUY",
    "product": "CNC",
    "quantity": 10,
    "price": Decimal("470.05"),
    "filled_quantity": 0,
    "tag": "a1",
}
TRADE = {
    "trade_id": "10000000",
    "order_id": "220303000308932",
    "exchange": "NSE",
    "tradingsymbol": "SBIN",
    "product": "CNC",
    "average_price": Decimal("470"),
    "quantity": 4,
    "transaction_type": "BUY",
    "fill_timestamp": "2024-03-18 10:00:03",
    "order_timestamp": "10:00:01",
    "exchange_timestamp": "2024-03-18 10:00:03",
}
HOLDING = {
    "tradingsymbol": "BHEL",
    "exchange": "BSE",
    "isin": "INE257A01026",
    "product": "CNC",
    "quantity": 11,
    "used_quantity": 0,
    "t1_quantity": 1,
    "realised_quantity": 11,
    "opening_quantity": 12,
    "average_price": Decimal("56.35"),
}
POSITION = {"tradingsymbol": "BHEL", "exchange": "NSE", "product": "CNC", "quantity": -5, "average_price": 75}
MARGINS = {"net": Decimal("149725.05"), "available": {"cash": Decimal("245431.6"), "live_balance": Decimal("99725.05")}}
CHARGES = {
    "tradingsymbol": "SBIN",
    "exchange": "NSE",
    "charges": {
        "transaction_tax": Decimal("0.56"),
        "exchange_turnover_charge": Decimal("0.01876"),
        "sebi_turnover_charge": Decimal("0.00056"),
        "brokerage": 0,
        "stamp_duty": 0,
        "gst": {"total": Decimal("0.0033767999999999997")},
    },
}


def sample(shared_data: Path, name: str) -> Any:
    return data_of(Reply(200, (shared_data / "kite_samples" / name).read_bytes()), BrokerUnavailableError, name)


def test_the_published_book_is_read_without_other_segments_and_products(shared_data: Path):
    orders = book_orders(sample(shared_data, "orders.json"), [])
    shown = [(o.symbol, o.side, o.status, o.limit_price) for o in orders]
    assert shown[:3] == [
        ("IOC", Side.BUY, BookStatus.COMPLETE, Decimal("109.4")),
        ("IOC", Side.SELL, BookStatus.COMPLETE, None),
        ("SBIN", Side.BUY, BookStatus.REJECTED, Decimal(463)),
    ]
    assert orders[2].message.startswith("Insufficient funds. Required margin is 95417.84")
    assert orders[2].tag == "icebergord"
    assert {order.exchange for order in orders} == {"nse"}
    assert {order.product for order in orders} == {Product.CNC}
    assert not unknown_statuses(sample(shared_data, "orders.json"))


def test_the_published_margins_session_and_answers_are_read(shared_data: Path):
    funds = funds_of(sample(shared_data, "margins.json")["equity"])
    assert (funds.cash, funds.cash_free) == (Decimal("99725.05"),) * 2
    assert sample(shared_data, "generate_session.json")["user_id"] == "XX0000"
    assert order_id_of(sample(shared_data, "order_response.json")) == "151220000000000"
    assert order_id_of(sample(shared_data, "order_cancel.json")) == "151220000000000"
    assert sample(shared_data, "session_logout.json") is True


def test_the_published_instruments_are_shares_by_symbol(shared_data: Path):
    content = (shared_data / "kite_samples" / "instruments_nse_2021-04_head.csv").read_bytes()
    listed = instruments_of(content, "nse")
    assert (listed["63MOONS"].key, listed["63MOONS"].tick, listed["63MOONS"].lot) == ("63MOONS-BE", Decimal("0.05"), 1)
    assert listed["AAKASH-SM"].lot == 3000
    assert "NIFTY 50" not in listed


@pytest.mark.parametrize(("word", "status"), STATUSES.items())
def test_every_status_has_its_meaning(word: str, status: BookStatus):
    (order,) = book_orders([ORDER | {"status": word}], [])
    assert order.status is status


def test_the_documented_statuses_are_all_known():
    documented = ["PUT ORDER REQ RECEIVED", "VALIDATION PENDING", "OPEN PENDING", "OPEN", "MODIFY VALIDATION PENDING"]
    documented += ["MODIFY PENDING", "MODIFIED", "TRIGGER PENDING", "CANCEL PENDING", "AMO REQ RECEIVED"]
    documented += ["COMPLETE", "CANCELLED", "REJECTED"]
    assert set(documented) <= STATUSES.keys()
    assert not unknown_statuses([ORDER | {"status": word} for word in documented])


@pytest.mark.parametrize("word", ["LAPSED", "complete", "OPEN ", "CANCEL"])
def test_another_word_concludes_nothing(word: str):
    (order,) = book_orders([ORDER | {"status": word}], [])
    assert order.status is BookStatus.UNKNOWN
    assert unknown_statuses([ORDER | {"status": word}]) == {word}


def test_an_order_has_not_ended_before_its_executions_are_shown():
    cancelled = ORDER | {"status": "CANCELLED", "filled_quantity": 4}
    assert book_orders([cancelled], [])[0].status is BookStatus.OPEN
    (order,) = book_orders([cancelled], [TRADE])
    assert (order.status, [t.quantity for t in order.trades]) == (BookStatus.CANCELLED, [4])


def test_an_execution_is_of_its_order_and_counts_once():
    other = TRADE | {"order_id": "220303000308933"}
    later = TRADE | {"trade_id": "9", "quantity": 6, "fill_timestamp": "2024-03-18 10:01:00"}
    (order,) = book_orders([ORDER], [later, TRADE, other, TRADE])
    assert [(t.trade_id, t.quantity) for t in order.trades] == [
        ("220303000308932-10000000", 4),
        ("220303000308932-9", 6),
    ]
    assert order.trades[0].traded_at == datetime(2024, 3, 18, 4, 30, 3, tzinfo=UTC)


def test_an_order_was_placed_at_the_earliest_instant_it_tells_of():
    for first in ({}, {"order_timestamp": "2024-03-18 10:00:01", "exchange_timestamp": None}):
        (order,) = book_orders([ORDER | first], [])
        assert order.placed_at == datetime(2024, 3, 18, 4, 30, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("told", "tag"),
    [
        ({"tag": "a1", "tags": ["a1"]}, "a1"),
        ({"tag": "a1", "tags": ["mktp", "mktp:2.00", "a1"]}, "a1"),
        ({"tag": "mktp", "tags": ["mktp", "mktp:2.00", "a1"]}, "a1"),
        ({"tag": "", "tags": ["mktp", "mktp:2.00"]}, ""),
        ({"tag": None, "tags": None}, ""),
        ({"tag": 5, "tags": [None, 6, ["a1"]]}, ""),
    ],
)
def test_a_protected_orders_own_tag_is_found_beside_kites(told: dict[str, Any], tag: str):
    assert book_orders([ORDER | told], [])[0].tag == tag


@pytest.mark.parametrize("elsewhere", [{"exchange": "NFO"}, {"product": "MTF"}, {"product": "NRML", "exchange": "MCX"}])
def test_what_is_not_cash_equity_is_left_out(elsewhere: dict[str, str]):
    assert book_orders([ORDER | elsewhere], [TRADE | elsewhere]) == []
    assert positions_of({"net": [POSITION | elsewhere]}) == []


@pytest.mark.parametrize("name", [n for n in ORDER if n not in {"status_message", "status_message_raw", "tag"}])
def test_an_order_without_what_it_is_fails_the_report(name: str):
    for broken in ({k: v for k, v in ORDER.items() if k != name}, ORDER | {name: ["?"]}):
        if broken.get(name) is None and name in {"exchange_timestamp", "filled_quantity"}:
            continue
        if name == "filled_quantity":
            broken["status"] = "CANCELLED"
        with pytest.raises(MalformedError):
            book_orders([ORDER, broken], [])


def test_shares_sold_today_are_held_no_more():
    positions = positions_of({"net": [POSITION, POSITION | {"product": "MIS", "quantity": -3}]})
    (holding,) = holdings_of([HOLDING], positions)
    assert (holding.symbol, holding.exchange, holding.isin) == ("BHEL", "bse", "INE257A01026")
    assert (holding.quantity, holding.t1_quantity) == (6, 1)
    (all_sold,) = holdings_of([HOLDING], positions_of({"net": [POSITION | {"quantity": -12}]}))
    assert (all_sold.quantity, all_sold.t1_quantity) == (0, 0)
    (bought,) = holdings_of([HOLDING], positions_of({"net": [POSITION | {"quantity": 12}]}))
    assert (bought.quantity, bought.t1_quantity) == (11, 1)


def test_shares_listed_twice_are_sold_once():
    rows = [HOLDING | {"opening_quantity": 3, "t1_quantity": 0}, HOLDING | {"exchange": "NSE"}]
    holdings = holdings_of(rows, positions_of({"net": [POSITION]}))
    assert [h.quantity + h.t1_quantity for h in holdings] == [0, 10]


def test_pledged_shares_are_no_cash():
    funds = funds_of(MARGINS)
    assert funds.cash_free == Decimal("99725.05")


def test_the_charges_are_read_as_the_contract_note_has_them():
    order = book_orders([ORDER], [TRADE])[0]
    (charges,) = charges_of([CHARGES], [order])
    assert charges.total == Decimal("0.5826968")
    for told in ([], [CHARGES, CHARGES], [CHARGES | {"tradingsymbol": "TCS"}]):
        with pytest.raises(MalformedError):
            charges_of(told, [order])


SLICES = [{"order_id": "1"}, {"error": {"code": 400, "error_type": "MarginException", "message": "no", "data": None}}]


def test_a_sliced_order_was_placed_where_a_slice_was():
    assert order_id_of({"order_id": "9", "children": SLICES}) == "9"
    with pytest.raises(MalformedError):
        order_id_of({"order_id": "9", "children": SLICES[1:]})


@pytest.mark.parametrize("data", [None, [], {}, {"order_id": None}, {"order_id": ""}, {"order_id": True}, "1"])
def test_an_answer_without_a_number_is_no_answer(data: Any):
    with pytest.raises(MalformedError):
        order_id_of(data)


def error(error_type: Any, message: Any = "RMS: no") -> bytes:
    return json.dumps({"status": "error", "message": message, "error_type": error_type, "data": None}).encode()


WORDS = [
    *[(status, error(kind), OrderRejectedError) for kind in sorted(REFUSALS) for status in (400, 403, 500)],
    (403, error("TokenException"), SessionExpiredError),
    (429, error("NetworkException", "Too many requests"), RateLimitedError),
    (429, b"<html>", RateLimitedError),
    (503, error("NetworkException", "Too many requests"), RateLimitedError),
    (503, error("NetworkException", "Gateway timed out"), OutcomeUnknownError),
    (500, error("GeneralException"), OutcomeUnknownError),
    (502, error("DataException"), OutcomeUnknownError),
    (500, error("NewException"), OutcomeUnknownError),
    (400, error(None), OutcomeUnknownError),
    (400, b'{"status": "error"}', OutcomeUnknownError),
    (400, error("InputException")[:-2], OutcomeUnknownError),
    (403, b"<html>Forbidden</html>", OutcomeUnknownError),
    (200, b'{"status": "success"}', OutcomeUnknownError),
    (200, b"[]", OutcomeUnknownError),
    (500, b'{"status": "success", "data": {"order_id": "1"}}', OutcomeUnknownError),
    (200, error("InputException"), OrderRejectedError),
]


@pytest.mark.parametrize(("status", "content", "kind"), WORDS)
def test_every_class_of_error_has_its_meaning(status: int, content: bytes, kind: type[BrokerError]):
    with pytest.raises(BrokerError) as told:
        data_of(Reply(status, content), OutcomeUnknownError, "POST /orders/regular")
    assert type(told.value) is kind
    with pytest.raises(BrokerError) as told:
        data_of(Reply(status, content), BrokerUnavailableError, "GET /orders")
    report = kind if kind in {SessionExpiredError, RateLimitedError} else BrokerUnavailableError
    assert type(told.value) is report


def test_the_brokers_words_are_one_bounded_line():
    with pytest.raises(OrderRejectedError) as told:
        data_of(Reply(400, error("MarginException", "RMS:\x00\nno " + "x" * 5000)), OutcomeUnknownError, "an order")
    assert str(told.value).startswith("RMS: no xxx")
    assert len(str(told.value)) == 300
    assert told.value.code == "MarginException"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.decimals() | st.sampled_from(["NSE", "OPEN"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["status", "data"]), inner, max_size=2),
    max_leaves=4,
)
REPORTS: tuple[tuple[Any, Any], ...] = (
    ([[ORDER], [TRADE]], lambda said: book_orders(*said)),
    ([ORDER], unknown_statuses),
    ({"net": [POSITION], "day": []}, positions_of),
    ([HOLDING], lambda said: holdings_of(said, positions_of({"net": [POSITION]}))),
    (MARGINS, funds_of),
    ([CHARGES], lambda said: charges_of(said, [book_orders([ORDER], [TRADE])[0]])),
    ({"order_id": "1", "children": SLICES}, order_id_of),
)


def paths(said: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where anything stands in a report."""
    inside = said.items() if isinstance(said, dict) else enumerate(said) if isinstance(said, list) else ()
    return [at, *(path for key, value in inside for path in paths(value, (*at, key)))]


@settings(max_examples=300)
@given(st.data())
def test_a_hostile_report_is_read_or_malformed_and_nothing_else(data: st.DataObject):
    report, reader = data.draw(st.sampled_from(REPORTS))
    path = data.draw(st.sampled_from(paths(report)[1:]))
    said = deepcopy(report)
    parent = said
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = data.draw(ANYTHING)
    with contextlib.suppress(MalformedError):
        reader(said)


@given(
    st.integers(200, 599), st.binary(max_size=60) | ANYTHING.map(lambda said: json.dumps(said, default=str).encode())
)
def test_a_hostile_reply_is_a_brokers_error(status: int, content: bytes):
    with contextlib.suppress(BrokerError):
        data_of(Reply(status, content), OutcomeUnknownError, "an order")
        assert parsed_json(content)["status"] == "success"


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe", b'"', b"{}"])
def test_what_is_no_list_of_instruments_is_malformed(content: bytes):
    with pytest.raises(MalformedError):
        instruments_of(content, "nse")


def test_an_instrument_is_listed_once_and_by_its_own_series_first():
    head = "exchange_token,tradingsymbol,tick_size,lot_size,instrument_type,segment,exchange"
    rows = ["1,XYZ-BE,0.05,1,EQ,NSE,NSE", "2,XYZ,0.1,1,EQ,NSE,NSE", "3,OFF,0,1,EQ,NSE,NSE", "4,F-BE,0.05,1,EQ,BSE,BSE"]
    for order in (rows, rows[::-1]):
        listed = instruments_of("\n".join([head, *order]).encode(), "nse")
        assert {symbol: i.key for symbol, i in listed.items()} == {"XYZ": "XYZ"}
    assert set(instruments_of("\n".join([head, *rows]).encode(), "bse")) == {"F-BE"}
    for row in ("5,,1,1,EQ,NSE,NSE", "5,A,one,1,EQ,NSE,NSE", "5,A,1,1.5,EQ,NSE,NSE", "5,A,NaN,1,EQ,NSE,NSE"):
        with pytest.raises(MalformedError):
            instruments_of("\n".join([head, row]).encode(), "nse")


POSTBACK = {
    "user_id": "AB1234",
    "order_id": "220303000308932",
    "order_timestamp": "2022-03-03 09:24:25",
    "status": "UPDATE",
    "tag": "a1",
}


def signed(**changes: Any) -> bytes:
    said = POSTBACK | changes
    proof = hashlib.sha256(f"{POSTBACK['order_id']}{POSTBACK['order_timestamp']}secret".encode()).hexdigest()
    return json.dumps({"checksum": proof} | said).encode()


def test_a_postback_is_genuine_where_its_checksum_is():
    assert postback_is_genuine(signed(), "secret")
    assert not postback_is_genuine(signed(), "another")
    assert not postback_is_genuine(signed(order_id="220303000308933"), "secret")
    assert not postback_is_genuine(signed(order_timestamp="2022-03-03 09:24:26"), "secret")
    assert not postback_is_genuine(signed(checksum=""), "secret")
    assert not postback_is_genuine(signed(checksum="é" * 64), "secret")
    assert parsed_postback(signed()) == Postback("AB1234", "220303000308932", "a1", "UPDATE")


@given(st.binary(max_size=60) | ANYTHING.map(lambda said: json.dumps(said, default=str).encode()))
def test_a_hostile_postback_is_not_genuine(body: bytes):
    assert not postback_is_genuine(body, "secret")
    with pytest.raises(MalformedError):
        parsed_postback(body)


def test_a_postback_is_bounded():
    assert not postback_is_genuine(signed(meta="x" * 20_000), "secret")
