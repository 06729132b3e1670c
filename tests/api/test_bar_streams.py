"""Bars over a WebSocket: what stands, what finishes and what forms, from a real simulated market."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest
import websockets.asyncio.client as ws
from pydantic import TypeAdapter
from websockets.exceptions import ConnectionClosed

from backend.api.schemas.stream import StreamMessage
from backend.domain.calendar import IST, standard_calendar
from backend.domain.market import Exchange, StockClass
from backend.services.bar_channel import BARS_KEPT_MAX, BarChannel, Cursor
from backend.services.bar_stream import Due, bars_of
from backend.services.forming_bar import MINUTE, Bar, Forming, Slot, minute_of, slot_at
from backend.services.market_data_client import MarketDataClient
from backend.services.stream_slots import StreamLimits
from contracts.common import Environment
from contracts.market import BarsRequest, Interval
from tests.support.market_server import Stock, quote_of
from tests.support.stream_world import (
    BAR_PACE,
    WAIT_S_MAX,
    DataService,
    World,
    gateway_before,
    serving_data,
)

MESSAGE: TypeAdapter[Any] = TypeAdapter(StreamMessage)
WITHOUT_DERIVATIVES = "VTL"


@pytest.fixture(scope="module")
def data_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataService]:
    with serving_data(tmp_path_factory.mktemp("simulated")) as made:
        yield made


@pytest.fixture
def data(data_service: DataService) -> DataService:
    data_service.switch.away, data_service.switch.lost = False, b""
    data_service.switch.asked.clear()
    data_service.clock.at("2026-08-04 10:02:30")
    return data_service


@pytest.fixture
async def world(data: DataService) -> AsyncIterator[World]:
    async with gateway_before(data) as made:
        yield made


class Bars:
    """An open stream of bars; each message is true to its model."""

    def __init__(self, socket: ws.ClientConnection) -> None:
        self.socket = socket

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(WAIT_S_MAX):
            message = json.loads(await self.socket.recv())
        read = MESSAGE.validate_python(message)
        assert MESSAGE.dump_python(read, mode="json", exclude_unset=True) == message
        return message

    async def rest(self) -> list[dict[str, Any]]:
        """All messages until the gateway closes."""
        found = []
        with suppress(ConnectionClosed):
            async with asyncio.timeout(WAIT_S_MAX):
                while True:
                    found.append(json.loads(await self.socket.recv()))
        return found

    def closing(self) -> tuple[int | None, str]:
        """The gateway's code and reason."""
        return self.socket.close_code, self.socket.close_reason or ""

    async def until(self, start: str, finished: bool) -> list[dict[str, Any]]:
        """All messages up to the bar that starts at a time of day."""
        found = [await self.next()]
        while not (found[-1]["bar"]["start"][11:16] == start and found[-1]["finished"] is finished):
            found.append(await self.next())
        return found


@asynccontextmanager
async def streaming(world: World, query: str = "symbol=TCS&interval=5m") -> AsyncIterator[Bars]:
    async with ws.connect(f"{world.ws_url}?{query}") as socket:
        yield Bars(socket)


async def truth(world: World, symbol: str, interval: Interval) -> list[Bar]:
    """The finished bars of 2026-08-04 as data_service has them now."""
    async with httpx.AsyncClient() as http:
        client = MarketDataClient(http, world.data.url, 5)
        now, day = (await client.clock()).now, date(2026, 8, 4)
        reply = await client.bars(
            BarsRequest(symbols=[symbol], interval=interval, from_=day, through=day, as_of=now, adjusted=False)
        )
    return bars_of(reply.series[symbol])


def bar_in(message: dict[str, Any]) -> Bar:
    return read(message["bar"])


def read(row: dict[str, Any]) -> Bar:
    opened, high, low, close = (Decimal(row[name]) for name in ("open", "high", "low", "close"))
    return Bar(datetime.fromisoformat(row["start"]), opened, high, low, close, row["volume"])


async def test_the_sessions_bars_then_the_forming_one_then_each_as_it_finishes(world: World) -> None:
    async with streaming(world) as bars:
        snapshot = await bars.next()
        assert (snapshot["type"], snapshot["day"], snapshot["environment"]) == ("snapshot", "2026-08-04", "simulated")
        assert [read(row) for row in snapshot["bars"]] == await truth(world, "TCS", Interval.MIN_5)
        assert snapshot["bars"][-1]["start"] == "2026-08-04T09:55:00+05:30"
        forming = await bars.next()
        assert (forming["type"], forming["finished"]) == ("bar", False)
        minutes = (await truth(world, "TCS", Interval.MIN_1))[-2:]
        assert [minute.start.minute for minute in minutes] == [0, 1]
        assert bar_in(forming) == Bar(
            datetime(2026, 8, 4, 10, 0, tzinfo=IST),
            minutes[0].open,
            max(minute.high for minute in minutes),
            min(minute.low for minute in minutes),
            minutes[1].close,
            minutes[0].volume + minutes[1].volume,
        )
        world.data.clock.at("2026-08-04 10:04:30")
        assert bar_in(await bars.next()).volume > bar_in(forming).volume
        world.data.clock.at("2026-08-04 10:06:10")
        *others, finished = await bars.until("10:00", finished=True)
        assert all(not message["finished"] for message in others)
        assert bar_in(finished) == (await truth(world, "TCS", Interval.MIN_5))[-1]
        assert (await bars.next())["bar"]["start"] == "2026-08-04T10:05:00+05:30"


@pytest.mark.parametrize(("symbol", "last"), [("TCS", "15:10"), (WITHOUT_DERIVATIVES, "15:25")])
async def test_a_session_ends_when_continuous_trading_of_the_share_does(world: World, symbol: str, last: str) -> None:
    world.data.clock.at("2026-08-04 15:08:30")
    async with streaming(world, f"symbol={symbol}&interval=5m") as bars:
        assert (await bars.next())["bars"][-1]["start"][11:16] == "15:00"
        assert (await bars.next())["bar"]["start"][11:16] == "15:05"
        world.data.clock.at("2026-08-04 15:35:00")
        finished = [m for m in await bars.until(last, finished=True) if m["finished"]]
        known = await truth(world, symbol, Interval.MIN_5)
        assert [bar_in(message) for message in finished] == known[-len(finished) :]
        assert finished[0]["bar"]["start"][11:16] == "15:05"
        world.data.clock.at("2026-08-05 09:16:30")
        tomorrow = await bars.next()
        assert (tomorrow["finished"], tomorrow["bar"]["start"]) == (False, "2026-08-05T09:15:00+05:30")
        async with streaming(world, f"symbol={symbol}&interval=5m") as early:
            snapshot = await early.next()
            assert (snapshot["day"], snapshot["bars"][-1]["start"][11:16]) == ("2026-08-04", last)


async def test_shares_without_derivatives_trade_on_while_the_others_are_in_the_auction(world: World) -> None:
    world.data.clock.at("2026-08-04 15:18:30")
    async with streaming(world, f"symbol={WITHOUT_DERIVATIVES}&interval=5m") as bars:
        assert (await bars.next())["bars"][-1]["start"][11:16] == "15:10"
        forming = await bars.next()
        assert (forming["finished"], forming["bar"]["start"][11:16]) == (False, "15:15")
        world.data.clock.at("2026-08-04 15:22:30")
        await bars.until("15:15", finished=True)
        assert (await bars.next())["bar"]["start"][11:16] == "15:20"


async def test_an_old_quote_forms_no_bar(world: World) -> None:
    quote = quote_of("TCS", Stock(Decimal(100)), datetime(2026, 8, 4, 10, 4, tzinfo=IST))
    slots = [
        world.streams.bars._forming_slot(("TCS", Interval.MIN_5), quote, datetime(2026, 8, 4, 10, 4, s, tzinfo=IST))
        for s in (0, 59)
    ]
    assert slots[0] == slots[1] is not None
    ended = datetime(2026, 8, 4, 10, 5, tzinfo=IST)
    assert world.streams.bars._forming_slot(("TCS", Interval.MIN_5), quote, ended) is None


async def test_the_day_so_far_is_a_forming_daily_bar(world: World) -> None:
    async with streaming(world, "symbol=INFY&interval=1d") as bars:
        snapshot = await bars.next()
        assert [row["start"] for row in snapshot["bars"]] == ["2026-08-03T09:15:00+05:30"]
        forming = bar_in(await bars.next())
        minutes = await truth(world, "INFY", Interval.MIN_1)
        assert forming == Bar(
            minutes[0].start,
            minutes[0].open,
            max(minute.high for minute in minutes),
            min(minute.low for minute in minutes),
            minutes[-1].close,
            sum(minute.volume for minute in minutes),
        )
        world.data.clock.at("2026-08-04 15:36:00")
        (*_, finished) = await bars.until("09:15", finished=True)
        assert bar_in(finished) == (await truth(world, "INFY", Interval.DAY_1))[-1]


async def test_all_sockets_share_one_look_at_the_market(world: World) -> None:
    async with streaming(world) as one, streaming(world) as two, streaming(world, "symbol=TCS") as three:
        seen = [[await bars.next(), await bars.next()] for bars in (one, two, three)]
        assert seen[0] == seen[1] == seen[2]
        # the snapshot's bars and the forming bar's minutes, each asked for once
        asked = world.data.switch.asked["/v1/quotes"]
        while world.data.switch.asked["/v1/quotes"] < asked + 60:
            await world.client.get("/health")
        assert world.data.switch.asked["/v1/bars"] == 2
        world.data.clock.at("2026-08-04 10:06:10")
        for bars in (one, two, three):
            await bars.until("10:05", finished=False)
        assert world.data.switch.asked["/v1/bars"] <= 4
    assert [task.get_name() for task in asyncio.all_tasks() if not task.cancelling()].count("bar-stream") <= 1
    await world.streams.slots.emptied(WAIT_S_MAX)
    assert [task.get_name() for task in asyncio.all_tasks() if not task.cancelling()].count("bar-stream") == 0


async def test_an_outage_is_told_once_and_a_snapshot_follows(world: World) -> None:
    async with streaming(world) as bars:
        first = await bars.next()
        await bars.next()
        world.data.switch.away = True
        stale = await bars.next()
        assert (stale["type"], "503" in stale["reason"]) == ("stale", True)
        world.data.switch.away = False
        assert await bars.next() == first
        assert (await bars.next())["finished"] is False


async def test_a_share_whose_bars_cannot_be_had_keeps_no_other_stream_from_its_own(world: World) -> None:
    async with streaming(world) as bars:
        await bars.next()
        forming = await bars.next()
        world.data.switch.lost = b'["WIPRO"],"interval"'
        async with streaming(world, "symbol=WIPRO&interval=5m") as other:
            stale = await other.next()
            assert (stale["type"], "503" in stale["reason"]) == ("stale", True)
            world.data.clock.at("2026-08-04 10:04:30")
            assert bar_in(await bars.next()).volume > bar_in(forming).volume
            world.data.switch.lost = b""
            assert (await other.next())["type"] == "snapshot"
            assert (await other.next())["finished"] is False


async def test_without_its_minutes_no_bar_is_shown_forming(world: World) -> None:
    world.data.switch.lost = b'"interval":"1m"'
    async with streaming(world) as bars, streaming(world, "symbol=TCS&interval=1d") as days:
        assert [(await stream.next())["type"] for stream in (bars, days)] == ["snapshot", "snapshot"]
        assert (await days.next())["finished"] is False
        world.data.switch.lost = b""
        forming = bar_in(await bars.next())
        assert forming.volume == sum(minute.volume for minute in (await truth(world, "TCS", Interval.MIN_1))[-2:])


def test_a_late_bar_is_asked_for_less_and_less_often() -> None:
    due, first, second = Due(), datetime(2026, 8, 4, 10, 0, tzinfo=IST), datetime(2026, 8, 4, 10, 5, tzinfo=IST)
    due.want(first)
    waits = []
    for _ in range(100):
        due.missed(50.0, BAR_PACE)
        waits.append(round(due.ask_at - 50.0, 6))
        due.want(first)
    assert waits[:4] == [0.02, 0.04, 0.08, BAR_PACE.retry_s_max]
    assert waits[-1] == BAR_PACE.retry_s_max
    due.want(second)
    assert (due.misses, due.ask_at) == (0, 0.0)


async def test_an_idle_socket_is_pinged(data: DataService) -> None:
    data.clock.at("2026-08-04 15:36:00")
    async with gateway_before(data, bar_pace=replace(BAR_PACE, heartbeat_s=0.05)) as world, streaming(world) as bars:
        kinds = {(await bars.next())["type"] for _ in range(3)}
        assert kinds == {"snapshot", "ping"}


@pytest.mark.parametrize(
    ("query", "code", "reason"),
    [
        ("symbol=NOSUCH", 4404, "There is no instrument NOSUCH."),
        ("symbol=TCS&interval=2m", 4422, "interval: "),
        ("symbol=tcs", 4422, "symbol: "),
        ("interval=5m", 4422, "symbol: "),
        ("symbol=TCS&speed=2", 4422, "speed: "),
    ],
)
async def test_why_a_stream_cannot_be_had_is_in_the_closing_code(
    world: World, query: str, code: int, reason: str
) -> None:
    async with streaming(world, query) as bars:
        assert await bars.rest() == []
        assert (bars.closing()[0], bars.closing()[1][: len(reason)]) == (code, reason)


async def test_no_more_sockets_than_an_address_may_have(data: DataService) -> None:
    async with gateway_before(data, limits=StreamLimits(streams_per_address_max=1)) as world:
        async with streaming(world) as bars, streaming(world) as second:
            await bars.next()
            assert await second.rest() == []
            assert (second.closing()[0], second.closing()[1][:12]) == (1013, "Your address")
        await world.streams.slots.emptied(WAIT_S_MAX)
        async with streaming(world) as bars:
            assert (await bars.next())["type"] == "snapshot"


async def test_without_data_service_a_socket_is_told_to_try_later(data: DataService) -> None:
    async with gateway_before(data) as world:
        data.switch.away = True
        async with streaming(world, "symbol=WIPRO") as bars:
            assert (await bars.rest(), bars.closing()[0]) == ([], 1013)


async def test_a_socket_takes_no_messages(world: World) -> None:
    async with streaming(world) as bars:
        await bars.next()
        await bars.socket.send("subscribe")
        assert {message["type"] for message in await bars.rest()} <= {"bar"}
        assert bars.closing() == (1008, "This stream takes no messages.")
    async with streaming(world) as bars:
        await bars.next()
        await bars.socket.send("x" * 5000)
        assert {message["type"] for message in await bars.rest()} <= {"bar"}
        assert bars.closing()[0] == 1009


def minute(number: int) -> Bar:
    price = Decimal(100 + number)
    return Bar(datetime(2026, 8, 4, 9, 15, tzinfo=IST) + number * MINUTE, price, price, price, price, 1)


def told(channel: BarChannel, cursor: Cursor) -> list[dict[str, Any]]:
    messages = []
    while (message := channel.next_for(cursor)) is not None:
        messages.append(json.loads(message))
    return messages


def test_a_slow_listener_misses_no_finished_bar_or_gets_a_snapshot() -> None:
    channel, slow = BarChannel("TCS", Interval.MIN_1, Environment.SIMULATED), Cursor()
    assert told(channel, slow) == []
    channel.take([minute(0)], "test", None)
    assert [message["type"] for message in told(channel, slow)] == ["snapshot"]
    channel.take([minute(number) for number in range(5)], "test", None)
    channel.take([minute(number) for number in range(3, 10)], "test", None)
    assert [bar_in(message) for message in told(channel, slow)] == [minute(number) for number in range(1, 10)]
    (newcomers,) = told(channel, Cursor())
    assert [read(row) for row in newcomers["bars"]] == [minute(number) for number in range(10)]
    channel.take([minute(number) for number in range(10, BARS_KEPT_MAX)], "test", None)
    assert [bar_in(message) for message in told(channel, slow)][-1] == minute(BARS_KEPT_MAX - 1)
    channel.take([minute(number) for number in range(500, 501 + BARS_KEPT_MAX)], "test", None)
    (snapshot,) = told(channel, slow)
    assert (snapshot["type"], read(snapshot["bars"][-1])) == ("snapshot", minute(500 + BARS_KEPT_MAX))
    assert told(channel, slow) == []


def test_a_finished_minute_replaces_the_prices_seen_in_it() -> None:
    open_at = minute(0).start
    forming = Forming(Slot(open_at, open_at + 5 * MINUTE)).with_price(Decimal(150))
    early = Decimal(150)
    assert forming.bar() == Bar(open_at, early, early, early, early, 0)
    forming = forming.with_minutes([minute(0)]).with_price(Decimal(99))
    assert forming.bar() == Bar(open_at, Decimal(100), Decimal(100), Decimal(99), Decimal(99), 1)


def test_a_minute_without_volume_stands_for_none() -> None:
    at = minute(0).start + 2 * MINUTE
    quote = quote_of("TCS", Stock(Decimal(100)), at)
    told = quote.model_copy(update={"bar_start": at - MINUTE, "bar_end": at, "bar_volume": 5})
    known = minute_of(told)
    assert known is not None
    assert (known.start, known.volume) == (at - MINUTE, 5)
    assert minute_of(told.model_copy(update={"bar_volume": 0})) is None


def test_the_last_slot_of_a_session_is_as_short_as_it_must_be() -> None:
    session = standard_calendar().session_on(Exchange.NSE, date(2026, 8, 4))
    assert session is not None
    late = datetime(2026, 8, 4, 15, 20, tzinfo=IST)
    slot = slot_at(session, StockClass.NON_CAS, Interval.HOUR_1, late)
    assert slot == Slot(late.replace(minute=15), late.replace(minute=30))
    assert slot_at(session, StockClass.CAS, Interval.HOUR_1, late) is None
