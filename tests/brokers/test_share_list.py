"""What the brokers' adapters share beside the wire: the day's list, and what reports have in common."""

from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from structlog.testing import capture_logs

from backend.brokers.adapter import Instrument, Position
from backend.brokers.base import BrokerUnavailableError, NotPlacedError, OrderRequest
from backend.brokers.book_rows import Words, require_sendable, sold_from_holdings
from backend.brokers.share_list import NO_LIST, DayList, ShareList, readable, tick_of_paise
from backend.brokers.wire_fields import MalformedError
from backend.domain.calendar import IST
from backend.domain.market import OrderType, Product, Side
from backend.domain.reconcile import BookStatus

D = Decimal
NEW_FROM = timedelta(hours=6, minutes=30)


def share(symbol: str) -> Instrument:
    return Instrument(symbol, "nse", f"key of {symbol}", D("0.05"), 1)


async def test_a_list_is_new_from_its_hour_in_india_on():
    now = [datetime(2026, 11, 20, 6, 29, tzinfo=IST)]
    made: list[ShareList] = []

    async def download() -> ShareList:
        made.append(ShareList.of([share(f"S{len(made)}")]))
        return made[-1]

    listed = DayList(download, lambda: now[0], NEW_FROM)
    assert await listed.today() is made[0]
    now[0] = datetime(2026, 11, 20, 6, 31, tzinfo=IST)
    assert await listed.today() is made[1]
    now[0] = datetime(2026, 11, 21, 6, 29, tzinfo=IST)
    assert await listed.today_or_none() is made[1]


async def test_there_is_no_list_of_yesterday_today():
    now = [datetime(2026, 11, 20, 9, 0, tzinfo=IST)]
    answers: list[ShareList | None] = [ShareList.of([share("ACME")]), None, ShareList.of([share("BETA")])]

    async def download() -> ShareList:
        answer = answers.pop(0)
        if answer is None:
            raise BrokerUnavailableError("it is down")
        return answer

    listed = DayList(download, lambda: now[0], NEW_FROM)
    await listed.today()
    now[0] = datetime(2026, 11, 21, 9, 0, tzinfo=IST)
    assert await listed.today_or_none() is NO_LIST
    with pytest.raises(BrokerUnavailableError, match="just now"):
        await listed.today()
    now[0] = datetime(2026, 11, 21, 9, 0, 30, tzinfo=IST)
    assert ("nse", "BETA") in (await listed.today()).by_name


@pytest.mark.parametrize("paise", ["0", "-5", "0.5"])
def test_a_tick_is_a_whole_number_of_paise(paise: str):
    with pytest.raises(MalformedError):
        tick_of_paise(D(paise))
    assert tick_of_paise(D(5)) == D("0.05")


def test_a_row_that_cannot_be_read_costs_that_share_alone():
    def read(symbol: str) -> Instrument:
        if not symbol:
            raise MalformedError("no symbol")
        return share(symbol)

    assert [found.symbol for found in readable(["A", "", "B"], read)] == ["A", "B"]
    for nothing in ([], ["", ""]):
        with pytest.raises(MalformedError):
            readable(nothing, read)


def order(**changed: object) -> OrderRequest:
    usual = {"symbol": "ACME", "exchange": "nse", "side": Side.BUY, "product": Product.CNC, "tag": "t1"}
    usual |= {"order_type": OrderType.LIMIT, "quantity": 1, "limit_price": D(10)}
    return OrderRequest(**usual | changed)  # type: ignore[arg-type]


MARKET = {"order_type": OrderType.MARKET, "limit_price": D(0)}


@pytest.mark.parametrize(
    "changed",
    [
        {"tag": ""},
        {"tag": "t-1"},
        {"tag": "t" * 21},
        {"quantity": 0},
        {"quantity": -1},
        {"order_type": OrderType.STOP_LIMIT},
        {"order_type": OrderType.STOP_LIMIT, "trigger_price": D(0)},
        MARKET,
        MARKET | {"protection_percent": D(0)},
        MARKET | {"protection_percent": D("25.1")},
    ],
)
def test_what_no_broker_could_take_as_it_is_meant_is_not_sent(changed: dict[str, object]):
    require_sendable(order(), D(25))
    with pytest.raises(NotPlacedError):
        require_sendable(order(**changed), D(25))


def test_a_market_order_is_protected_as_far_as_the_broker_can():
    require_sendable(order(**MARKET, protection_percent=D(25)), D(25))
    require_sendable(order(**MARKET, protection_percent=D(26)))


def test_only_what_is_delivered_beyond_the_days_buys_leaves_the_holdings():
    def position(symbol: str, product: Product, quantity: int) -> Position:
        return Position(symbol, "nse", product, quantity, D(1))

    days = [position("A", Product.CNC, -5), position("A", Product.CNC, 2), position("A", Product.MIS, -7)]
    assert sold_from_holdings([*days, position("B", Product.CNC, 3)]) == {"A": 3}


def test_a_word_without_a_meaning_is_logged_once():
    words = Words("upstox", {"open": BookStatus.OPEN})
    with capture_logs() as logged:
        assert [words.status(word) for word in ("open", "odd", "odd", "even")] == [
            BookStatus.OPEN,
            *[BookStatus.UNKNOWN] * 3,
        ]
    assert [entry["status"] for entry in logged] == ["odd", "even"]
