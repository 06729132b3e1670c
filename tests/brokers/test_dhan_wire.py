"""Dhan's words, read: its documents' own samples, every status and error, and what nobody would document."""

import contextlib
import gzip
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.brokers import dhan_wire as wire
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
from backend.brokers.book_rows import Words
from backend.brokers.credential_fields import CredentialField
from backend.brokers.dhan import Dhan
from backend.brokers.share_list import NO_LIST, ShareList
from backend.brokers.wire_fields import MalformedError
from backend.domain.calendar import IST
from backend.domain.market import OrderType, Product, Side
from backend.domain.reconcile import BookStatus
from backend.errors import InvalidRequestError
from tests.brokers.conformance import EGRESS_IP, LIMIT
from tests.brokers.rest_server import Answer, RestServer, json_answer
from tests.support.dhan_server import LISTED
from tests.support.dhan_server import Dhan as Double

D = Decimal
LIST = ShareList.of([Instrument("TCS", "nse", "11536", D("0.1"), 1), Instrument("INFY", "bse", "500209", D(1), 1)])

ORDER = {
    "dhanClientId": "1000000003",
    "orderId": "112111182198",
    "correlationId": "123abc678",
    "orderStatus": "PENDING",
    "transactionType": "BUY",
    "exchangeSegment": "NSE_EQ",
    "productType": "INTRADAY",
    "orderType": "MARKET",
    "validity": "DAY",
    "tradingSymbol": "",
    "securityId": "11536",
    "quantity": 5,
    "disclosedQuantity": 0,
    "price": D("0.0"),
    "triggerPrice": D("0.0"),
    "afterMarketOrder": False,
    "createTime": "2021-11-24 13:33:03",
    "updateTime": "2021-11-24 13:33:03",
    "exchangeTime": "2021-11-24 13:33:03",
    "drvExpiryDate": None,
    "drvOptionType": None,
    "drvStrikePrice": D("0.0"),
    "omsErrorCode": None,
    "omsErrorDescription": None,
    "algoId": "string",
    "remainingQuantity": 5,
    "averageTradedPrice": 0,
    "filledQty": 0,
}
"""orders, "Order Book"."""
TRADE = {
    "dhanClientId": "1000000009",
    "orderId": "112111182198",
    "exchangeOrderId": "15112111182045",
    "exchangeTradeId": "15112111182045",
    "transactionType": "BUY",
    "exchangeSegment": "NSE_EQ",
    "productType": "INTRADAY",
    "orderType": "LIMIT",
    "tradingSymbol": "TCS",
    "securityId": "11536",
    "tradedQuantity": 40,
    "tradedPrice": D("3345.8"),
    "createTime": "2021-03-10 11:20:06",
    "updateTime": "2021-11-25 17:35:12",
    "exchangeTime": "2021-11-25 17:35:12",
}
"""orders, "Trade Book"."""
HOLDING = {
    "exchange": "ALL",
    "tradingSymbol": "HDFC",
    "securityId": "1330",
    "isin": "INE001A01036",
    "totalQty": 1000,
    "dpQty": 1000,
    "t1Qty": 0,
    "availableQty": 1000,
    "collateralQty": 0,
    "avgCostPrice": D("2655.0"),
}
"""portfolio, "Holdings"."""
POSITION = {
    "dhanClientId": "1000000009",
    "tradingSymbol": "TCS",
    "securityId": "11536",
    "positionType": "LONG",
    "exchangeSegment": "NSE_EQ",
    "productType": "CNC",
    "buyAvg": D("3345.8"),
    "buyQty": 40,
    "costPrice": D("3215.0"),
    "sellAvg": D("0.0"),
    "sellQty": 0,
    "netQty": 40,
    "carryForwardBuyQty": 0,
    "carryForwardSellQty": 0,
    "dayBuyQty": 40,
    "daySellQty": 0,
}
"""portfolio, "Positions"."""
LIMITS = {
    "dhanClientId": "1000000009",
    "availabelBalance": D("98440.0"),
    "sodLimit": 113642,
    "collateralAmount": D("0.0"),
    "receiveableAmount": D("0.0"),
    "utilizedAmount": D("15202.0"),
    "blockedPayoutAmount": D("0.0"),
    "withdrawableBalance": D("98310.0"),
}
"""funds, "Fund Limit"."""
LOGIN = {
    "dhanClientId": "1000000401",
    "dhanClientName": "JOHN DOE",
    "dhanClientUcc": "ABCD12345E",
    "givenPowerOfAttorney": False,
    "accessToken": "eyJ0",
    "expiryTime": "2026-01-01T00:00:00.000",
}
"""authentication, "Consume Consent"."""


def words() -> Words:
    return Words("dhan", wire.STATUSES)


def orders_of(orders: Any, trades: Any = (), listed: ShareList = LIST) -> Any:
    return wire.orders_of(orders, list(trades) if isinstance(trades, tuple) else trades, listed, words())


def test_the_documented_order_and_trade():
    (order,) = orders_of([ORDER | {"orderStatus": "TRADED", "quantity": 40, "filledQty": 40}], (TRADE,))
    assert (order.broker_order_id, order.tag, order.symbol) == ("112111182198", "123abc678", "TCS")
    assert (order.exchange, order.side, order.product, order.quantity) == ("nse", Side.BUY, Product.MIS, 40)
    assert (order.limit_price, order.status, order.message) == (None, BookStatus.COMPLETE, "")
    assert order.placed_at == datetime(2021, 11, 24, 13, 33, 3, tzinfo=IST)
    (trade,) = order.trades
    assert (trade.trade_id, trade.quantity, trade.price) == ("15112111182045", 40, D("3345.8"))
    assert trade.traded_at == datetime(2021, 11, 25, 17, 35, 12, tzinfo=IST)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        *wire.STATUSES.items(),
        ("TRIGGERED", BookStatus.UNKNOWN),
        ("CLOSED", BookStatus.UNKNOWN),
        ("MOON", BookStatus.UNKNOWN),
    ],
)
def test_every_documented_status_has_its_meaning(word: str, status: BookStatus):
    assert orders_of([ORDER | {"orderStatus": word}])[0].status is status


def test_an_end_waits_for_the_trades_of_what_was_filled():
    row = ORDER | {"orderStatus": "CANCELLED", "quantity": 50, "filledQty": 40}
    assert orders_of([row])[0].status is BookStatus.UNKNOWN
    assert orders_of([row], (TRADE,))[0].status is BookStatus.CANCELLED


@pytest.mark.parametrize(
    ("word", "told", "message"),
    [
        ("REJECTED", "RMS: margin exceeded", "RMS: margin exceeded"),
        ("CANCELLED", "CONFIRMED", ""),
        ("PENDING", "CONFIRMED", ""),
        ("PENDING", "anything", ""),
        ("EXPIRED", None, ""),
    ],
)
def test_only_an_end_has_a_reason(word: str, told: str | None, message: str):
    assert orders_of([ORDER | {"orderStatus": word, "omsErrorDescription": told}])[0].message == message


def test_what_is_no_share_or_bought_on_margin_is_left_out():
    others = [{"exchangeSegment": "NSE_FNO"}, {"exchangeSegment": "MCX_COMM"}, {"productType": "MTF"}]
    found = orders_of([ORDER, *(ORDER | other for other in others)])
    assert len(found) == 1


def test_a_time_that_never_came_is_none():
    never = "0001-01-01 00:00:00"
    (order,) = orders_of([ORDER], (TRADE | {"exchangeTime": never, "updateTime": None},))
    assert order.trades[0].traded_at == datetime(2021, 3, 10, 11, 20, 6, tzinfo=IST)
    with pytest.raises(MalformedError):
        orders_of([ORDER | {"createTime": never}])


@pytest.mark.parametrize(
    "changed",
    [
        {"exchangeSegment": "LSE_EQ"},
        {"productType": "X"},
        {"transactionType": "HOLD"},
        {"createTime": None},
        {"quantity": "many"},
        {"orderId": None},
        {"orderStatus": None},
        {"orderType": "LIMIT", "price": None},
        {"securityId": "99999"},
    ],
)
def test_a_malformed_order_fails_the_whole_report(changed: dict[str, Any]):
    with pytest.raises(MalformedError):
        orders_of([ORDER, ORDER | changed])


@pytest.mark.parametrize(
    "changed", [{"tradedQuantity": 0}, {"tradedPrice": 0}, {"exchangeTradeId": None}, {"orderId": None}]
)
def test_a_malformed_trade_fails_the_whole_report(changed: dict[str, Any]):
    with pytest.raises(MalformedError):
        orders_of([ORDER], (TRADE, TRADE | changed))


def test_documented_holdings_positions_and_funds():
    assert wire.holdings_of([HOLDING], (), NO_LIST) == [Holding("HDFC", "nse", "INE001A01036", 1000, 0, D(2655))]
    assert wire.positions_of([POSITION], LIST) == [Position("TCS", "nse", Product.CNC, 40, D("3345.8"))]
    sold = POSITION | {"dayBuyQty": 0, "daySellQty": 7, "sellAvg": D(3400), "carryForwardBuyQty": 9}
    assert wire.positions_of([sold], LIST) == [Position("TCS", "nse", Product.CNC, -7, D(3400))]
    assert wire.funds_of(LIMITS).cash_free == 98440
    assert wire.funds_of(LIMITS | {"collateralAmount": 440}).cash == 98000
    assert wire.funds_of(LIMITS | {"collateralAmount": -440}).cash == 98440


@pytest.mark.parametrize(
    ("available", "net", "left"), [(1000, 0, 1000), (900, 0, 1000), (900, -100, 900), (1000, -100, 1000), (0, -2000, 0)]
)
def test_shares_sold_today_are_held_no_more(available: int, net: int, left: int):
    positions = [Position("HDFC", "nse", Product.CNC, net, D(1)), Position("HDFC", "nse", Product.MIS, -5, D(1))]
    (holding,) = wire.holdings_of([HOLDING | {"availableQty": available}], positions, NO_LIST)
    assert holding.quantity == left


def test_what_was_sold_leaves_only_once_and_what_comes_last():
    positions = [Position("HDFC", "nse", Product.CNC, -1200, D(1))]
    blocked = HOLDING | {"totalQty": 1500, "t1Qty": 500, "availableQty": 0}
    holdings = wire.holdings_of([blocked, blocked | {"securityId": "9"}], positions, NO_LIST)
    assert [(held.quantity, held.t1_quantity) for held in holdings] == [(0, 300), (1000, 500)]


def test_the_detailed_list():
    found = wire.shares_of(("\ufeff" + LISTED).encode())
    assert found == [
        Instrument("INFY", "nse", "1594", D("0.1"), 1),
        Instrument("INFY", "bse", "500209", D("0.05"), 1),
    ]
    head, nifty, infy, *others = LISTED.splitlines()
    in_be = infy.replace("1594", "77").replace(",EQ,", ",BE,")
    listed = ShareList.of(wire.shares_of("\n".join([head, in_be, nifty, infy, *others]).encode()))
    assert listed.by_key["nse", "77"].symbol == "INFY"
    bond, future = infy.replace("INE009A01021", "INE009A07023"), infy.replace(",E,", ",D,")
    assert wire.shares_of("\n".join([head, infy, bond, future, infy.replace("EQUITY", "FUTSTK")]).encode()) == found[:1]
    assert listed.by_name["nse", "INFY"].key == "1594"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"EXCH_ID,SEGMENT\nNSE,E\n",
        LISTED.encode()[:330],
        LISTED.replace("10.0000", "0.1").replace("5.0000", "0.05").encode(),
        b"\xff\xfe" + LISTED.encode("utf-16-le"),
    ],
)
def test_a_list_that_is_none_or_has_changed_its_unit_is_refused(content: bytes):
    with pytest.raises(MalformedError):
        wire.shares_of(content)


@pytest.mark.parametrize(
    ("expiry", "end"),
    [
        ("2026-01-01T00:00:00.000", "2025-12-31T18:30:00"),
        ("2026-01-09T00:00:00", "2026-01-01T06:00:00"),
        ("2025-12-31T00:00:00", None),
        ("soon", None),
        (None, None),
    ],
)
def test_a_token_ends_as_it_says_and_within_a_day(expiry: str | None, end: str | None):
    now = datetime(2025, 12, 31, 6, 0, tzinfo=UTC)
    if end is None:
        with pytest.raises(MalformedError):
            wire.login_of(LOGIN | {"expiryTime": expiry}, now)
    else:
        session = wire.login_of(LOGIN | {"expiryTime": expiry}, now)
        assert session.ends_at == datetime.fromisoformat(end).replace(tzinfo=UTC)
        assert session.client_id == "1000000401"


def test_a_change_leaves_out_what_does_not_apply():
    body = wire.change_body("c", "1", OrderChange(OrderType.LIMIT, 5, D("10.50")))
    assert body.keys() == {"dhanClientId", "orderId", "orderType", "quantity", "price", "validity"}
    body = wire.change_body("c", "1", OrderChange(OrderType.STOP_LIMIT, 5, D("10.50"), D(11)))
    assert (body["orderType"], body["price"], body["triggerPrice"]) == ("STOP_LOSS", 10.5, 11)


def test_a_postback_is_read_as_a_hint():
    hint = wire.hint_of(ORDER)
    assert (hint.client_id, hint.broker_order_id, hint.tag) == ("1000000003", "112111182198", "123abc678")
    for wrong in ({}, [ORDER], ORDER | {"orderId": ""}, None):
        with pytest.raises(MalformedError):
            wire.hint_of(wrong)


NASTY = [None, True, False, 0, -1, 10**40, D("1e-900"), D("1e900"), "", " ", "x" * 400, "\x00", "٣", [], [None], {}]
NASTY += [{"a": 1}, "2023-10-19 09:23:23", "0001-01-01 00:00:00", "9999-12-31T23:59:59-12:00", "NSE_EQ", "CNC", "1e9"]
VALUES = st.sampled_from(NASTY) | st.integers() | st.text(max_size=6)


def hostile(sample: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Anything, or the sample with some of its fields made anything, alone or in a list."""
    spoilt = st.dictionaries(st.sampled_from(sorted(sample)), VALUES, min_size=1, max_size=3).map(
        lambda odd: sample | odd
    )
    return spoilt | st.tuples(spoilt, spoilt).map(list) | st.lists(spoilt, max_size=1) | VALUES


NOW = datetime(2025, 12, 31, 6, 0, tzinfo=UTC)
READERS: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "orders": (lambda said: orders_of(said, (TRADE,)), ORDER),
    "trades": (lambda said: orders_of([ORDER], said), TRADE),
    "holdings": (lambda said: (wire.blocks_shares(said), wire.holdings_of(said, (), LIST)), HOLDING),
    "positions": (lambda said: wire.positions_of(said, LIST), POSITION),
    "funds": (wire.funds_of, LIMITS),
    "login": (lambda said: wire.login_of(said, NOW), LOGIN),
    "consent": (wire.consent_of, {"consentAppId": "x"}),
    "placed": (wire.order_id_of, {"orderId": "1", "orderStatus": "TRANSIT"}),
    "postback": (wire.hint_of, ORDER),
}


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_whatever_is_said_is_read_or_refused(data: st.DataObject):
    read, sample = READERS[data.draw(st.sampled_from(sorted(READERS)))]
    with contextlib.suppress(MalformedError):
        read(data.draw(hostile(sample)))


@settings(max_examples=80, deadline=None)
@given(
    line=st.integers(0, 4),
    cell=st.integers(0, 16),
    odd=st.sampled_from(["", "NaN", "1e400", "-5", '"', "x\ny", "a,b", "\x00"]) | st.text(max_size=6),
    cut=st.integers(0, len(LISTED)),
)
def test_whatever_a_list_holds_is_read_or_refused(line: int, cell: int, odd: str, cut: int):
    lines = LISTED.splitlines()
    cells = lines[line].split(",")
    cells[cell] = odd
    lines[line] = ",".join(cells)
    for content in ("\n".join(lines), LISTED[:cut]):
        with contextlib.suppress(MalformedError):
            found = wire.shares_of(content.encode("utf-8", "surrogatepass"))
            assert all(share.tick > 0 and share.symbol and share.key for share in found)


class Said:
    """An adapter whose broker answers everything the same."""

    def __init__(self, server: RestServer, http: httpx.AsyncClient) -> None:
        self.server, self.answer = server, json_answer([])
        self.double = Double()
        file_url = f"{server.url}/api-scrip-master-detailed.csv"
        urls = {"url": server.url, "login_url": server.url, "file_url": file_url}
        self.adapter = Dhan(http=http, now=lambda: datetime.now(UTC), **urls)
        self.access = Access(1, "A", "k", "token", http, EGRESS_IP)

    async def outcome(self, call: str) -> BaseException | None:
        calls = {
            "place": lambda: self.adapter.place(self.access, LIMIT),
            "modify": lambda: self.adapter.modify(self.access, "1", OrderChange(OrderType.LIMIT, 1, D(1))),
            "cancel": lambda: self.adapter.cancel(self.access, "1"),
            "funds": lambda: self.adapter.funds(self.access),
            "holdings": lambda: self.adapter.holdings(self.access),
            "look up": lambda: self.adapter.order_by_tag(self.access, "t1"),
        }
        try:
            await calls[call]()
        except BrokerError as error:
            return error
        return None


@pytest.fixture
async def said():
    world: list[Said] = []
    handle = lambda r: world[0].double.handle(r) if r.path.endswith(".csv") else world[0].answer  # noqa: E731
    async with RestServer(handle) as server, httpx.AsyncClient(verify=False) as http:
        world.append(Said(server, http))
        await world[0].adapter.instruments()
        yield world[0]


def refusal(code: str, words: str = "No.") -> dict[str, Any]:
    return {"errorType": "Some_Exception", "errorCode": code, "errorMessage": words}


@pytest.mark.parametrize(
    ("status", "body", "written", "asked"),
    [
        (400, refusal("DH-905", "Invalid IP"), OrderRejectedError, BrokerUnavailableError),
        (400, refusal("DH-906"), OrderRejectedError, BrokerUnavailableError),
        (403, refusal("DH-902"), OrderRejectedError, BrokerUnavailableError),
        (403, refusal("DH-911"), OrderRejectedError, BrokerUnavailableError),
        (401, refusal("DH-901"), SessionExpiredError, SessionExpiredError),
        (401, refusal("DH-999"), SessionExpiredError, SessionExpiredError),
        (400, refusal("807"), SessionExpiredError, SessionExpiredError),
        (400, refusal("DH-906", "Invalid Token"), SessionExpiredError, SessionExpiredError),
        (401, "<html>", OutcomeUnknownError, BrokerUnavailableError),
        (429, refusal("DH-904"), RateLimitedError, RateLimitedError),
        (400, refusal("805"), RateLimitedError, RateLimitedError),
        (429, "slow down", RateLimitedError, RateLimitedError),
        (400, refusal("DH-907"), OutcomeUnknownError, BrokerUnavailableError),
        (500, refusal("DH-908"), OutcomeUnknownError, BrokerUnavailableError),
        (400, refusal("DH-909"), OutcomeUnknownError, BrokerUnavailableError),
        (400, refusal("DH-910"), OutcomeUnknownError, BrokerUnavailableError),
        (500, refusal("DH-905"), OutcomeUnknownError, BrokerUnavailableError),
        (400, {"errorCode": "DH-905"}, OutcomeUnknownError, BrokerUnavailableError),
        (404, {"timestamp": "2026", "status": 404, "error": "Not Found"}, OutcomeUnknownError, BrokerUnavailableError),
        (200, refusal("DH-905"), OutcomeUnknownError, BrokerUnavailableError),
        (200, [{"message": "No.", "status": "ERROR"}], OutcomeUnknownError, BrokerUnavailableError),
        (200, {"orderStatus": "TRANSIT"}, OutcomeUnknownError, BrokerUnavailableError),
    ],
)
async def test_what_an_answer_proves(said: Said, status: int, body: Any, written: type, asked: type):
    said.answer = json_answer(body, status) if not isinstance(body, str) else Answer(status, body.encode())
    for call in ("place", "modify", "cancel"):
        assert type(await said.outcome(call)) is written
    for call in ("funds", "holdings", "look up"):
        assert type(await said.outcome(call)) is asked


async def test_an_order_that_is_not_found_proves_nothing_and_a_session_that_is_over_does(said: Said):
    for answer in (json_answer(refusal("DH-906"), 404), json_answer([])):
        said.answer = answer
        assert await said.adapter.order_by_tag(said.access, "t1") is None
    said.answer = json_answer(refusal("DH-901"), 404)
    assert type(await said.outcome("look up")) is SessionExpiredError


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, refusal("DH-905"), InvalidRequestError),
        (401, refusal("DH-901"), InvalidRequestError),
        (429, refusal("DH-904"), BrokerUnavailableError),
        (500, refusal("DH-908"), BrokerUnavailableError),
        (400, ["no"], BrokerUnavailableError),
    ],
)
async def test_only_a_refusal_says_that_the_login_was_wrong(said: Said, status: int, body: Any, kind: type):
    said.answer = json_answer(body, status)
    fields = (CredentialField.API_KEY, CredentialField.API_SECRET, CredentialField.CLIENT_ID)
    with pytest.raises(kind):
        await said.adapter.log_in(said.access.http, dict.fromkeys(fields, "x"), {"tokenId": "t"}, datetime.now(UTC))


async def test_without_a_list_or_with_one_that_unpacks_to_too_much_nothing_is_sent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("backend.brokers.dhan.FILE_BYTES_MAX", 10_000)
    for content in (gzip.compress(bytes(1_000_000)), bytes(20_000)):
        async with RestServer(lambda _, said=content: Answer(200, said)) as server:
            async with httpx.AsyncClient(verify=False) as http:
                adapter = Dhan(http=http, now=lambda: datetime.now(UTC), url=server.url, file_url=server.url)
                with pytest.raises(NotPlacedError, match="10000 bytes"):
                    await adapter.place(Access(1, "A", "k", "token", http, EGRESS_IP), LIMIT)
            assert [request.method for request in server.requests] == ["GET"]


async def test_a_cancel_may_be_accepted_without_a_word(said: Said):
    said.answer = Answer(202, b"")
    assert await said.outcome("cancel") is None
    assert type(await said.outcome("modify")) is OutcomeUnknownError
    said.answer = Answer(200, b"")
    assert type(await said.outcome("cancel")) is OutcomeUnknownError


async def test_a_number_is_no_part_of_another_path(said: Said):
    said.answer = json_answer({"orderId": "1", "orderStatus": "CANCELLED"}, 202)
    await said.adapter.cancel(said.access, "../positions?x")
    assert said.server.requests[-1].path == "/orders/../positions?x"
    assert not said.server.requests[-1].query
