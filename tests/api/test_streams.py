"""Quotes as server-sent events: a snapshot at once, one event per change, limits, outages and the end."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import httpx
import pytest
import websockets.asyncio.client as ws
from fastapi import APIRouter, WebSocket

from backend.api.app import require_access
from backend.api.routes import stream
from backend.api.schemas.market import QuotesView
from backend.errors import UpstreamError
from backend.services.market_data_client import MarketDataClient
from backend.services.quote_board import SYMBOLS_DEFAULT
from backend.services.quote_stream import Event
from backend.services.stream_slots import StreamLimits, StreamsExhaustedError
from contracts.market import Interval
from tests.api.test_problems import problem_of
from tests.support.stream_world import (
    QUOTE_PACE,
    WAIT_S_MAX,
    DataService,
    World,
    gateway_before,
    listening,
    serving_data,
)


@pytest.fixture(scope="module")
def data_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataService]:
    with serving_data(tmp_path_factory.mktemp("simulated")) as made:
        yield made


@pytest.fixture
def data(data_service: DataService) -> DataService:
    data_service.switch.away = False
    data_service.switch.asked.clear()
    data_service.clock.at("2026-08-04 10:02:30")
    return data_service


@pytest.fixture
async def world(data: DataService) -> AsyncIterator[World]:
    async with gateway_before(data) as made:
        yield made


async def test_the_present_comes_at_once_and_each_change_once(world: World) -> None:
    async with listening(world) as events:
        assert events.response.headers["cache-control"] == "no-store"
        assert "x-request-id" in events.response.headers
        first = await events.next()
        assert first.event == "quotes"
        assert tuple(QuotesView.model_validate(first.data).quotes) == SYMBOLS_DEFAULT
        plain = await world.client.get("/v1/market/quotes")
        assert (plain.json(), plain.headers["etag"]) == (first.data, first.id)
        world.data.clock.at("2026-08-04 10:03:30")
        second = await events.next()
        assert second.data["as_of"] == "2026-08-04T10:03:30+05:30"
        assert second.id not in (None, first.id)
        world.data.clock.at("2026-08-04 10:04:30")
        assert (await events.next()).data["as_of"] == "2026-08-04T10:04:30+05:30"


async def test_who_comes_back_hears_nothing_that_is_known(data: DataService) -> None:
    async with gateway_before(data, quote_pace=replace(QUOTE_PACE, heartbeat_s=0.1)) as world:
        async with listening(world, "?symbols=TCS,M%26M") as events:
            known = (await events.next()).id
        assert known is not None
        async with listening(world, "?symbols=TCS,M%26M", last_event_id=known) as events:
            silence = await events.next()
            assert (silence.event, silence.data) == (None, None)
            data.clock.at("2026-08-04 10:05:30")
            heard = await events.next()
            while heard.event is None:
                heard = await events.next()
            assert heard.data["as_of"] == "2026-08-04T10:05:30+05:30"
        async with listening(world, "?symbols=TCS,M%26M", last_event_id=known) as events:
            assert (await events.next()).id == heard.id


async def test_all_listeners_of_a_set_get_the_same_bytes(world: World) -> None:
    streams = world.streams.quotes
    with streams.subscribed(("TCS",)) as one, streams.subscribed(("TCS",)) as other:
        assert one is other
        first, second = streams.listen(one), streams.listen(other)
        assert await anext(first) is await anext(second)
        world.data.clock.at("2026-08-04 10:06:30")
        assert await anext(first) is await anext(second)


async def test_a_slow_listener_gets_the_newest_and_no_backlog(world: World) -> None:
    streams = world.streams.quotes
    with streams.subscribed(("TCS",)) as channel:
        slow = streams.listen(channel)
        await anext(slow)
        for number in range(1000):
            channel.publish(Event(b"%d" % number, b"%d" % number))
        assert await anext(slow) == b"999"
        channel.publish(Event(b"last", b"last"))
        assert await anext(slow) == b"last"


async def test_an_outage_is_told_once_and_its_end_too(world: World) -> None:
    async with listening(world, "?symbols=INFY") as events:
        first = await events.next()
        world.data.switch.away = True
        stale = await events.next()  # after the seconds that the board's answers count as fresh
        assert (stale.event, stale.id) == ("stale", None)
        assert stale.data["reason"] == "/v1/quotes answered 503"
        async with listening(world, "?symbols=INFY") as newcomer:
            assert (await newcomer.next()).event == "stale"
        with world.streams.quotes.subscribed(("INFY",)) as channel:
            told, asked = channel.newest, world.data.switch.asked["/v1/quotes"]
            while world.data.switch.asked["/v1/quotes"] < asked + 20:
                await world.client.get("/health")
            assert channel.newest is told
        world.data.switch.away = False
        again = await events.next()
        assert (again.event, again.id, again.data) == ("quotes", first.id, first.data)


async def test_the_public_is_not_told_where_services_are() -> None:
    async with httpx.AsyncClient() as http:
        with pytest.raises(UpstreamError) as nobody_there:
            await MarketDataClient(http, "http://127.0.0.1:1", 5).clock()
    assert nobody_there.value.detail == "/v1/clock did not answer: ConnectError"


async def test_no_more_streams_than_an_address_and_the_process_may_have(data: DataService) -> None:
    limits = StreamLimits(streams_per_process_max=3, streams_per_address_max=2)
    async with gateway_before(data, limits=limits) as world:
        async with listening(world) as one, listening(world) as two:
            assert [(await events.next()).event for events in (one, two)] == ["quotes", "quotes"]
            refused = problem_of(await world.client.get("/v1/stream/quotes"))
            assert (refused.status, refused.code) == (429, "too_many_streams")
            with world.streams.slots.held("192.0.2.1"):
                reply = await world.client.get("/v1/stream/quotes")
                assert (problem_of(reply).status, problem_of(reply).code) == (503, "streams_exhausted")
                assert reply.headers["retry-after"] == "5"
        async with asyncio.timeout(WAIT_S_MAX):
            await world.streams.slots.emptied(WAIT_S_MAX)
        async with listening(world) as events:
            assert (await events.next()).event == "quotes"


async def test_no_more_different_sets_than_are_allowed(data: DataService) -> None:
    async with gateway_before(data, limits=StreamLimits(channels_max=1)) as world, listening(world) as events:
        assert (await events.next()).event == "quotes"
        refused = problem_of(await world.client.get("/v1/stream/quotes?symbols=TCS"))
        assert (refused.status, refused.code) == (503, "streams_exhausted")
        async with listening(world) as same:
            assert (await same.next()).event == "quotes"
        bars = world.streams.bars
        with (
            bars.subscribed("TCS", Interval.MIN_1),
            bars.subscribed("TCS", Interval.MIN_1),
            pytest.raises(StreamsExhaustedError),
            bars.subscribed("TCS", Interval.MIN_5),
        ):
            raise AssertionError("one too many")


@pytest.mark.parametrize("query", ["?symbols=tcs", "?symbols=", "?x=1", "?symbols=TCS&interval=5m"])
async def test_a_bad_question_is_a_problem(world: World, query: str) -> None:
    assert problem_of(await world.client.get(f"/v1/stream/quotes{query}")).code == "validation_failed"


async def test_nobody_is_followed_when_nobody_listens(world: World) -> None:
    async with listening(world, "?symbols=TCS") as events:
        await events.next()
        assert [task.get_name() for task in asyncio.all_tasks()].count("quote-stream") == 1
    await world.streams.slots.emptied(WAIT_S_MAX)
    assert [task.get_name() for task in asyncio.all_tasks() if not task.cancelling()].count("quote-stream") == 0


async def test_all_streams_end_at_once_when_the_gateway_stops(world: World) -> None:
    async with (
        listening(world) as quotes,
        listening(world, "?symbols=TCS") as others,
        ws.connect(f"{world.ws_url}?symbol=TCS") as bars,
    ):
        for events in (quotes, others):
            await events.next()
        await bars.recv()
        started = time.monotonic()
        await world.stop()
        assert time.monotonic() - started < 1.0
        for events in (quotes, others):
            with pytest.raises(StopAsyncIteration):
                await events.next()
        assert [message async for message in bars][1:] == []
        assert (bars.close_code, (bars.close_reason or "")[:17]) == (1001, "The gateway stops")
    assert world.stopped == [True]
    with pytest.raises(StreamsExhaustedError), world.streams.slots.held("192.0.2.1"):
        raise AssertionError("a stream was opened after the end")


async def test_a_client_that_does_not_read_cannot_keep_the_gateway_from_stopping(world: World) -> None:
    with socket.create_connection(("127.0.0.1", int(world.url.rpartition(":")[2]))) as stuck:
        stuck.sendall(b"GET /v1/stream/quotes HTTP/1.1\r\nHost: gateway\r\n\r\n")
        async with listening(world) as events:
            await events.next()
            while world.streams.slots.open < 2:
                await world.client.get("/health")
        with world.streams.quotes.subscribed(SYMBOLS_DEFAULT) as channel:
            channel.publish(Event(b"x" * 64_000_000, b"huge"))
        started = time.monotonic()
        await world.stop()
        assert time.monotonic() - started < 5.0
    assert world.stopped == [True]


async def test_a_refused_connection_has_no_place(world: World) -> None:
    async with httpx.AsyncClient(base_url=world.url) as client:
        await client.get("/v1/stream/quotes?symbols=tcs")
    assert world.streams.slots.open == 0


def test_a_websocket_without_a_declared_access_is_refused() -> None:
    router = APIRouter()

    @router.websocket("/open")
    async def forgotten(websocket: WebSocket) -> None:
        await websocket.accept()

    with pytest.raises(LookupError, match="declare who may call"):
        require_access(router)
    require_access(stream.router)
