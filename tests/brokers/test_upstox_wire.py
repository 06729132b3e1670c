"""Upstox's words, read: its documents' own samples, every status and error, and what nobody would document."""

import contextlib
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.brokers import upstox_wire as wire
from backend.brokers.adapter import Access, Holding, Instrument, Position
from backend.brokers.base import (
    BrokerError,
    BrokerUnavailableError,
    NotPlacedError,
    OrderChange,
    OrderRejectedError,
    OutcomeUnknownError,
    RateLimitedError,
    SessionExpiredError,
)
from backend.brokers.book_rows import Words, concluded, plain_symbol
from backend.brokers.credential_fields import CredentialField
from backend.brokers.share_list import NO_LIST, ShareList, is_share
from backend.brokers.upstox import REFUSAL_CODES, Upstox
from backend.brokers.wire_fields import MalformedError
from backend.domain.calendar import IST
from backend.domain.market import OrderType, Product, Side
from backend.domain.reconcile import BookStatus, BookTrade
from backend.errors import InvalidRequestError
from tests.brokers.conformance import EGRESS_IP, LIMIT
from tests.brokers.rest_server import Answer, RestServer, json_answer
from tests.support.upstox_trading_server import INFY, LISTED, REDIRECT_URL
from tests.support.upstox_trading_server import Upstox as Double

D = Decimal

ORDER = {
    "exchange": "BSE",
    "product": "D",
    "price": D("0.8"),
    "quantity": 1,
    "status": "complete",
    "guid": None,
    "tag": None,
    "instrument_token": "BSE_EQ|INE220J01025",
    "placed_by": "202251",
    "trading_symbol": "FCONSUMER",
    "tradingsymbol": "FCONSUMER",
    "order_type": "LIMIT",
    "validity": "DAY",
    "trigger_price": 0,
    "disclosed_quantity": 0,
    "transaction_type": "BUY",
    "average_price": D("0.8"),
    "filled_quantity": 1,
    "pending_quantity": 0,
    "status_message": None,
    "status_message_raw": None,
    "exchange_order_id": "1697686200000169148",
    "parent_order_id": None,
    "order_id": "231019025057849",
    "variety": "SIMPLE",
    "order_timestamp": "2023-10-19 09:23:23",
    "exchange_timestamp": "2023-10-19 09:23:23",
    "is_amo": False,
    "order_request_id": "2",
    "order_ref_id": "57744821658411",
}
"""get-order-book."""
DERIVATIVE = ORDER | {
    "exchange": "NFO",
    "product": "I",
    "status": "rejected",
    "instrument_token": "NSE_FO|52567",
    "status_message": "You need to add Rs. 138385.27 in your account to place this trade.",
}
TRADE = {
    "exchange": "NSE",
    "product": "D",
    "trading_symbol": "GMRINFRA-EQ",
    "instrument_token": "151064324",
    "order_type": "MARKET",
    "transaction_type": "BUY",
    "quantity": 1,
    "exchange_order_id": "221013001021540",
    "order_id": "231019025057849",
    "exchange_timestamp": "03-Aug-2017 15:03:42",
    "average_price": D("299.4"),
    "trade_id": "50091502",
    "order_ref_id": "udapi-aqwsed14356",
    "order_timestamp": "23-Apr-2021 14:22:06",
}
"""get-trade-history."""
HOLDING = {
    "isin": "INE528G01035",
    "cnc_used_quantity": 0,
    "company_name": "YES BANK LTD.",
    "product": "D",
    "quantity": 36,
    "trading_symbol": "YESBANK",
    "tradingsymbol": "YESBANK",
    "last_price": D("17.05"),
    "instrument_token": "NSE_EQ|INE528G01035",
    "average_price": D("18.75"),
    "collateral_quantity": 0,
    "t1_quantity": 0,
    "exchange": "NSE",
}
"""get-holdings."""
POSITION = {
    "exchange": "NSE",
    "product": "I",
    "instrument_token": "NSE_EQ|INE528G01035",
    "average_price": 0,
    "overnight_quantity": 0,
    "day_buy_quantity": 1,
    "day_sell_quantity": 0,
    "quantity": 1,
    "tradingsymbol": "YESBANK",
    "trading_symbol": "YESBANK",
}
"""get-positions."""
AVAILABLE = {
    "available_to_trade": {
        "total": D("5379.03"),
        "cash_available_to_trade": {"total": D("5117.34"), "cash": {"opening_balance": D("5137.34")}},
        "pledge_available_to_trade": {"total": D("261.69")},
    }
}
"""get-funds-and-margin-v3."""


def words() -> Words:
    return Words("upstox", wire.STATUSES)


def test_the_documented_order_and_trade():
    (order,) = wire.orders_of([ORDER, DERIVATIVE], [TRADE], NO_LIST, words())
    assert (order.broker_order_id, order.symbol, order.exchange) == ("231019025057849", "FCONSUMER", "bse")
    assert (order.side, order.product, order.quantity) == (Side.BUY, Product.CNC, 1)
    assert (order.limit_price, order.status, order.tag, order.message) == (D("0.8"), BookStatus.COMPLETE, "", "")
    assert order.placed_at == datetime(2023, 10, 19, 9, 23, 23, tzinfo=IST)
    (trade,) = order.trades
    assert (trade.trade_id, trade.quantity, trade.price) == ("50091502", 1, D("299.4"))
    assert trade.traded_at == datetime(2017, 8, 3, 15, 3, 42, tzinfo=IST)


@pytest.mark.parametrize(("word", "status"), wire.STATUSES.items())
def test_every_documented_status_has_its_meaning(word: str, status: BookStatus):
    (order,) = wire.orders_of([ORDER | {"status": word, "filled_quantity": 0}], [], NO_LIST, words())
    assert order.status is status


def test_the_appendix_has_seventeen_statuses_and_any_other_concludes_nothing():
    assert len(wire.STATUSES) == 17
    (order,) = wire.orders_of([ORDER | {"status": "sublimated"}], [TRADE], NO_LIST, words())
    assert order.status is BookStatus.UNKNOWN


@pytest.mark.parametrize("word", ["complete", "cancelled", "rejected", "open"])
def test_an_end_waits_for_the_trades_of_what_was_filled(word: str):
    row = ORDER | {"status": word, "quantity": 5, "filled_quantity": 2}
    told = [
        wire.orders_of([row], trades, NO_LIST, words())[0].status for trades in ([], [TRADE], [TRADE | {"quantity": 2}])
    ]
    whole = wire.STATUSES[word]
    waiting = BookStatus.OPEN if word == "open" else BookStatus.UNKNOWN
    assert told == [waiting, waiting, whole]
    trade = BookTrade("1", 2, D(1), D(0), datetime.now(UTC))
    assert concluded(whole, 2, [trade]) is whole


@pytest.mark.parametrize(
    "changed",
    [
        {"exchange": "LSE"},
        {"product": "X"},
        {"transaction_type": "HOLD"},
        {"order_timestamp": None},
        {"order_timestamp": "19.10.2023"},
        {"quantity": D("1.5")},
        {"quantity": -1},
        {"order_id": ""},
        {"order_id": None},
        {"status": None},
        {"price": "NaN"},
        {"trading_symbol": None, "tradingsymbol": None},
    ],
)
def test_a_malformed_order_fails_the_whole_report(changed: dict[str, Any]):
    with pytest.raises(MalformedError):
        wire.orders_of([ORDER, ORDER | changed], [TRADE], NO_LIST, words())


@pytest.mark.parametrize(
    "changed",
    [{"quantity": 0}, {"average_price": 0}, {"trade_id": None}, {"exchange_timestamp": None}, {"order_id": []}],
)
def test_a_malformed_trade_fails_the_whole_report(changed: dict[str, Any]):
    with pytest.raises(MalformedError):
        wire.orders_of([ORDER], [TRADE, TRADE | changed], NO_LIST, words())


def test_words_of_a_tag_are_taken_only_where_they_can_be_ours():
    tags = [None, "", "a tag", "x" * 21, "0123456789abcdefGHIJ", 7]
    found = wire.orders_of([ORDER | {"tag": tag} for tag in tags], [TRADE], NO_LIST, words())
    assert [order.tag for order in found] == ["", "", "", "", "0123456789abcdefGHIJ", ""]


def test_symbols_are_those_of_the_list_or_else_without_their_series():
    listed = ShareList.of([Instrument("NHPC", "nse", "NSE_EQ|INE848E01016", D("0.01"), 1)])
    by_key = ORDER | {"exchange": "NSE", "instrument_token": "NSE_EQ|INE848E01016", "trading_symbol": "OLDNAME"}
    by_name = ORDER | {"exchange": "NSE", "trading_symbol": "NHPC-BE"}
    found = wire.orders_of([by_key, by_name], [TRADE], listed, words())
    assert [order.symbol for order in found] == ["NHPC", "NHPC"]
    assert [plain_symbol(name) for name in ("BAJAJ-AUTO", "M&M-EQ", "NIFTYBEES")] == ["BAJAJ-AUTO", "M&M", "NIFTYBEES"]


def test_documented_holdings_and_positions():
    assert wire.holdings_of([HOLDING], (), NO_LIST) == [Holding("YESBANK", "nse", "INE528G01035", 36, 0, D("18.75"))]
    found = wire.positions_of([POSITION, POSITION | {"product": "MTF"}, POSITION | {"exchange": "NFO"}], NO_LIST)
    assert found == [Position("YESBANK", "nse", Product.MIS, 1, D(0))]


@pytest.mark.parametrize(
    ("held", "used", "net", "left"),
    [
        ((36, 0), 0, 0, (36, 0)),
        ((36, 0), 10, 0, (36, 0)),  # offered, not sold
        ((36, 0), 10, -10, (26, 0)),  # sold
        ((36, 0), 20, -10, (26, 0)),  # ten sold, ten offered
        ((36, 0), 0, -10, (36, 0)),  # the report has left them out by itself
        ((36, 0), 36, -50, (0, 0)),
        ((36, 0), 10, 5, (36, 0)),  # bought more than was sold
        ((10, 5), 12, -12, (0, 3)),  # what is on its way is sold after what has arrived
    ],
)
def test_shares_sold_today_are_held_no_more(held: tuple[int, int], used: int, net: int, left: tuple[int, int]):
    row = HOLDING | {"quantity": held[0], "t1_quantity": held[1], "cnc_used_quantity": used}
    positions = [
        Position("YESBANK", "nse", Product.CNC, net - 3, D(17)),
        Position("YESBANK", "bse", Product.CNC, 3, D(17)),
        Position("YESBANK", "nse", Product.MIS, -100, D(17)),
    ]
    (holding,) = wire.holdings_of([row], positions, NO_LIST)
    assert (holding.quantity, holding.t1_quantity) == left
    assert wire.blocks_shares([row]) is (used > 0)


def test_cash_is_what_may_be_traded_with_and_no_pledge():
    funds = wire.funds_of(AVAILABLE)
    assert (funds.cash, funds.cash_free) == (D("5117.34"), D("5117.34"))


def test_the_file_of_instruments():
    be = LISTED[0] | {"instrument_type": "BE", "instrument_key": "NSE_EQ|INE000A01012", "isin": "INE000A01012"}
    fund = LISTED[0] | {"trading_symbol": "NIFTYBEES", "isin": "INF204KB14I2", "tick_size": 1.0, "cas_eligible": None}
    broken = LISTED[0] | {"trading_symbol": "BROKEN", "lot_size": "many"}
    found = wire.shares_of(json.dumps([be, *LISTED, fund, broken]).encode(), "nse")
    assert found[:2] == [
        Instrument("INFY", "nse", INFY, D("0.1"), 1, True),
        Instrument("NIFTYBEES", "nse", INFY, D("0.01"), 1, None),
    ]
    assert [(share.symbol, share.key) for share in found[2:]] == [("INFY", "NSE_EQ|INE000A01012")]
    assert ShareList.of(found).by_name["nse", "INFY"].key == INFY


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"<html>", json.dumps([LISTED[0] | {"tick_size": 0.05}]).encode()]
)
def test_a_file_that_is_none_or_has_changed_its_unit_is_refused(content: bytes):
    with pytest.raises(MalformedError):
        wire.shares_of(content, "nse")


@pytest.mark.parametrize(
    ("isin", "whether"),
    [
        ("INE009A01021", True),
        ("INF204KB14I2", True),
        ("IN9155A01020", True),
        ("INE121A08PJ0", False),
        ("IN1520190043", False),
        ("None", False),
        ("", False),
    ],
)
def test_shares_and_funds_are_told_from_bonds_by_their_isin(isin: str, whether: bool):
    assert is_share(isin) is whether


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2026-09-12T13:57:47", "2026-09-13T03:30:00"),
        ("2026-09-13T02:00:00", "2026-09-13T03:30:00"),
        ("2026-09-13T03:30:00", "2026-09-14T03:30:00"),
        ("2026-12-31T23:59:59", "2027-01-01T03:30:00"),
    ],
)
def test_a_token_ends_at_half_past_three_in_the_morning(now: str, end: str):
    at = datetime.fromisoformat(now).replace(tzinfo=IST)
    assert wire.token_end(at.astimezone(UTC)) == datetime.fromisoformat(end).replace(tzinfo=IST)


def test_a_change_of_a_market_order_leaves_protection_to_upstox():
    body = wire.change_body("1", OrderChange(OrderType.MARKET, 5, D(100)))
    assert (body["market_protection"], body["price"]) == (-1, 0)
    assert "disclosed_quantity" not in body


def test_a_notice_is_read_as_a_hint():
    notice = {"update_type": "order", "user_id": "AB1234", "order_id": "240221025997024", "tag": "t1", "status": "open"}
    hint = wire.hint_of(notice)
    assert (hint.client_id, hint.broker_order_id, hint.tag) == ("AB1234", "240221025997024", "t1")
    for wrong in ({}, notice | {"update_type": "gtt_order"}, notice | {"order_id": None}, [notice], None):
        with pytest.raises(MalformedError):
            wire.hint_of(wrong)


NASTY = [None, True, False, 0, -1, 10**40, D("1e-900"), D("1e900"), "", " ", "x" * 400, "\x00", "٣", [], [None], {}]
NASTY += [{"a": 1}, [[]], "2023-10-19 09:23:23", "0001-01-01 00:00:00", "9999-12-31T23:59:59-12:00", "NSE", "D", "1e9"]
VALUES = st.sampled_from(NASTY) | st.integers() | st.text(max_size=6)


def hostile(sample: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Anything, or the sample with some of its fields made anything, alone or in a list."""
    spoilt = st.dictionaries(st.sampled_from(sorted(sample)), VALUES, min_size=1, max_size=3).map(
        lambda odd: sample | odd
    )
    return spoilt | st.tuples(spoilt, spoilt).map(list) | st.lists(spoilt, max_size=1) | VALUES


READERS: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "orders": (lambda said: wire.orders_of(said, [TRADE], NO_LIST, words()), ORDER),
    "trades": (lambda said: wire.orders_of([ORDER], said, NO_LIST, words()), TRADE),
    "holdings": (lambda said: (wire.blocks_shares(said), wire.holdings_of(said, (), NO_LIST)), HOLDING),
    "positions": (lambda said: wire.positions_of(said, NO_LIST), POSITION),
    "funds": (wire.funds_of, AVAILABLE),
    "login": (lambda said: wire.login_of(said, datetime.now(UTC)), {"access_token": "x", "user_id": "y"}),
    "placed": (wire.order_id_of, {"status": "success", "data": {"order_ids": ["1"]}}),
    "notice": (wire.hint_of, {"update_type": "order", "user_id": "A", "order_id": "1"}),
}


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_whatever_is_said_is_read_or_refused(data: st.DataObject):
    read, sample = READERS[data.draw(st.sampled_from(sorted(READERS)))]
    with contextlib.suppress(MalformedError):
        read(data.draw(hostile(sample)))


class Said:
    """An adapter whose broker answers everything the same."""

    def __init__(self, server: RestServer, http: httpx.AsyncClient) -> None:
        self.answer = json_answer([])
        self.double = Double()
        self.server = server
        self.adapter = Upstox(
            http=http,
            now=lambda: datetime.now(UTC),
            redirect_url=REDIRECT_URL,
            url=server.url,
            orders_url=server.url,
            files_url=server.url,
        )
        self.access = Access(1, "A", "k", "token", http, EGRESS_IP)

    async def outcome(self, call: str) -> BaseException | None:
        calls = {
            "place": lambda: self.adapter.place(self.access, LIMIT),
            "modify": lambda: self.adapter.modify(self.access, "1", OrderChange(OrderType.LIMIT, 1, D(1))),
            "cancel": lambda: self.adapter.cancel(self.access, "1"),
            "funds": lambda: self.adapter.funds(self.access),
            "orders": lambda: self.adapter.orders(self.access),
        }
        try:
            await calls[call]()
        except BrokerError as error:
            return error
        return None


@pytest.fixture
async def said():
    world: list[Said] = []
    handle = lambda r: world[0].double.handle(r) if r.path.endswith(".gz") else world[0].answer  # noqa: E731
    async with RestServer(handle) as server, httpx.AsyncClient(verify=False) as http:
        world.append(Said(server, http))
        await world[0].adapter.instruments()
        yield world[0]


def refusal(code: str, words: str = "No.") -> dict[str, Any]:
    return {"status": "error", "errors": [{"errorCode": code, "message": words, "error_code": code}]}


@pytest.mark.parametrize(
    ("status", "body", "written", "asked"),
    [
        (400, refusal("UDAPI1052", "Quantity cannot be zero"), OrderRejectedError, BrokerUnavailableError),
        (403, refusal("UDAPI1154"), OrderRejectedError, BrokerUnavailableError),
        (400, refusal("UDAPI1158"), OrderRejectedError, BrokerUnavailableError),
        (423, refusal("UDAPI100074"), OrderRejectedError, BrokerUnavailableError),
        (401, refusal("UDAPI100050"), SessionExpiredError, SessionExpiredError),
        (400, refusal("UDAPI100050"), SessionExpiredError, SessionExpiredError),
        (401, refusal("UDAPI999999"), SessionExpiredError, SessionExpiredError),
        (401, "<html>", OutcomeUnknownError, BrokerUnavailableError),
        (429, refusal("UDAPI10005"), RateLimitedError, RateLimitedError),
        (400, refusal("UDAPI10005"), RateLimitedError, RateLimitedError),
        (429, "slow down", RateLimitedError, RateLimitedError),
        (400, refusal("UDAPI100500"), OutcomeUnknownError, BrokerUnavailableError),
        (400, refusal("UDAPI424242"), OutcomeUnknownError, BrokerUnavailableError),
        (500, refusal("UDAPI1052"), OutcomeUnknownError, BrokerUnavailableError),
        (400, {"status": "error", "errors": []}, OutcomeUnknownError, BrokerUnavailableError),
        (400, {"errors": [{"errorCode": "UDAPI1052", "message": "x"}]}, OutcomeUnknownError, BrokerUnavailableError),
        (400, "Bad Request", OutcomeUnknownError, BrokerUnavailableError),
        (200, refusal("UDAPI1052"), OutcomeUnknownError, BrokerUnavailableError),
        (200, {"status": "success", "data": None}, OutcomeUnknownError, BrokerUnavailableError),
        (200, {"status": "success", "data": {"order_ids": []}}, OutcomeUnknownError, BrokerUnavailableError),
        (200, {"status": "partial_success", "data": {"order_ids": ["1"]}}, OutcomeUnknownError, BrokerUnavailableError),
    ],
)
async def test_what_an_answer_proves(said: Said, status: int, body: Any, written: type, asked: type):
    said.answer = json_answer(body, status) if not isinstance(body, str) else Answer(status, body.encode())
    assert type(await said.outcome("place")) is written
    assert type(await said.outcome("funds")) is asked
    assert type(await said.outcome("orders")) is asked
    if status != 200:
        assert type(await said.outcome("modify")) is written
        assert type(await said.outcome("cancel")) is written


async def test_a_refusal_has_upstoxs_words_and_code(said: Said):
    said.answer = json_answer(refusal("UDAPI1052", "Quantity\ncannot be zero" + "!" * 400), 400)
    error = await said.outcome("place")
    assert isinstance(error, OrderRejectedError)
    assert str(error).startswith("Quantity cannot be zero!")
    assert (len(str(error)), error.code) == (300, "UDAPI1052")
    assert "UDAPI100500" not in REFUSAL_CODES


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, refusal("UDAPI100016"), InvalidRequestError),
        (400, refusal("UDAPI100057", "Invalid Auth code"), InvalidRequestError),
        (500, refusal("UDAPI100500"), BrokerUnavailableError),
        (400, "<html>", BrokerUnavailableError),
        (429, refusal("UDAPI10005"), RateLimitedError),
        (400, refusal("UDAPI10005"), RateLimitedError),
    ],
)
async def test_only_a_refusal_says_that_the_login_was_wrong(said: Said, status: int, body: Any, kind: type):
    said.answer = json_answer(body, status) if not isinstance(body, str) else Answer(status, body.encode())
    credentials = {CredentialField.API_KEY: "key", CredentialField.API_SECRET: "secret"}
    with pytest.raises(kind):
        await said.adapter.log_in(said.access.http, credentials, {"code": "x"}, datetime.now(UTC))


async def test_a_session_that_is_over_is_logged_out_already(said: Said):
    said.answer = json_answer(refusal("UDAPI100050"), 401)
    await said.adapter.log_out(said.access)
    said.answer = json_answer(refusal("UDAPI100500"), 500)
    with pytest.raises(OutcomeUnknownError):
        await said.adapter.log_out(said.access)


async def test_protection_beyond_what_upstox_takes_is_not_sent(said: Said):
    order = replace(LIMIT, order_type=OrderType.MARKET, protection_percent=D("25.5"))
    with pytest.raises(NotPlacedError, match="25 %"):
        await said.adapter.place(said.access, order)


async def test_a_sliced_orders_first_number_stands_for_it(said: Said):
    said.answer = json_answer({"status": "success", "data": {"order_ids": ["7", "8"]}})
    assert await said.adapter.place(said.access, LIMIT) == "7"


@settings(max_examples=60, deadline=None)
@given(
    content=st.binary(max_size=60) | hostile(dict(LISTED[0])).map(lambda said: json.dumps(said, default=str).encode())
)
def test_whatever_a_file_holds_is_read_or_refused(content: bytes):
    with contextlib.suppress(MalformedError):
        assert all(share.tick > 0 and share.symbol and share.key for share in wire.shares_of(content, "nse"))


async def test_the_list_is_of_today_or_none():
    """Fetched once a day; a failure keeps yesterday's out, and is not tried again at once."""
    clock = [datetime(2026, 11, 23, 3, 0, tzinfo=UTC)]
    double = Double()
    async with RestServer(double.handle) as server, httpx.AsyncClient(verify=False) as http:
        adapter = Upstox(http=http, now=lambda: clock[0], redirect_url="", url=server.url, files_url=server.url)
        access = Access(1, "A", "k", "token", http, EGRESS_IP)
        double.tokens.add("token")
        first = await adapter.instruments()
        clock[0] += timedelta(hours=12)
        assert await adapter.instruments() is first
        assert server.count() == 2
        clock[0] += timedelta(hours=12)
        double.list_fails = True
        with pytest.raises(BrokerUnavailableError):
            await adapter.instruments()
        assert server.count() == 3
        with pytest.raises(NotPlacedError, match="just now"):
            await adapter.place(access, LIMIT)
        assert server.count() == 3
        assert list(await adapter.orders(access)) == []
        double.list_fails = False
        clock[0] += timedelta(seconds=31)
        double.listed = [*LISTED, LISTED[0] | {"trading_symbol": "NEW", "instrument_key": "NSE_EQ|INE000A01012"}]
        assert ("nse", "NEW") in await adapter.instruments()
        with pytest.raises(NotPlacedError, match="lists no share"):
            await adapter.place(access, type(LIMIT)("GONE", "nse", *[getattr(LIMIT, f) for f in FIELDS]))


FIELDS = ("side", "product", "order_type", "quantity", "limit_price", "tag")


async def test_a_file_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("backend.brokers.upstox.FILE_BYTES_MAX", 10_000)
    bomb = gzip.compress(bytes(1_000_000))
    async with RestServer(lambda _: Answer(200, bomb)) as server, httpx.AsyncClient(verify=False) as http:
        adapter = Upstox(http=http, now=lambda: datetime.now(UTC), redirect_url="", files_url=server.url)
        with pytest.raises(BrokerUnavailableError, match="10000 bytes"):
            await adapter.instruments()
