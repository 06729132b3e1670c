"""Backtests as events: each step once, one question for all who listen, and an end that is not asked for again."""

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, cast

import pytest

from backend.db import act_for
from backend.services import backtest_queue as queue
from backend.services.backtest_queue import Progress
from backend.services.backtest_stream import BacktestStreamPace, BacktestStreams
from tests.api.backtest_calls import claimed, get, made_by, problem_of
from tests.api.conftest import Gateway


def parsed(wire: bytes) -> tuple[str, str, dict[str, Any]]:
    lines = dict(line.split(": ", 1) for line in wire.decode().strip().splitlines())
    return lines["event"], lines["id"], json.loads(lines["data"])


async def test_events_tell_each_step_and_end_with_the_backtest(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    made = await made_by(gateway, user)
    claim = await claimed(gateway, made)
    slots = gateway.state.streams.slots
    streams = BacktestStreams(gateway.sessions, slots, BacktestStreamPace(poll_s=0.01, wake_s=5))
    with streams.subscribed(made) as channel:
        events = streams.listen(channel)
        async with asyncio.timeout(20):
            event, first, data = parsed(await anext(events))
            assert (event, data["status"]) == ("progress", "running")
            await queue.renew(gateway.sessions, claim, Progress(1, 2, "half"), 60)
            event, second, data = parsed(await anext(events))
            assert (event, data["progress"]) == ("progress", {"done": 1, "total": 2, "doing": "half"})
            # Who comes back with the last id hears nothing that is known.
            back = streams.listen(channel, second)
            waiting = asyncio.create_task(cast("Coroutine[Any, Any, bytes]", anext(back)))
            await queue.fail(gateway.sessions, claim, "no such market")
            for listener, heard in ((events, anext(events)), (back, waiting)):
                event, last, data = parsed(await heard)
                assert (event, data["status"], data["error"]) == ("done", "failed", "no such market")
                with pytest.raises(StopAsyncIteration):
                    await anext(listener)
        assert len({first, second, last}) == 3


async def test_many_listeners_are_one_question_to_the_database(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    made = [await made_by(gateway, user) for _ in range(2)]
    asked = 0

    def counting():
        nonlocal asked
        asked += 1
        return gateway.sessions()

    streams = BacktestStreams(counting, gateway.state.streams.slots, BacktestStreamPace(poll_s=60, wake_s=5))
    async with asyncio.timeout(20):
        with (
            streams.subscribed(made[0]) as one,
            streams.subscribed(made[1]) as two,
            streams.subscribed(made[0]) as again,
        ):
            assert one is again
            heard = [await anext(streams.listen(channel)) for channel in (one, two, again)]
    assert heard[0] == heard[2]
    assert asked <= 2


async def test_users_listen_side_by_side(gateway: Gateway) -> None:
    """The one question serves all of them, in the gateway's own place: no user's place shows the other's rows."""
    users = [await gateway.someone("pro") for _ in range(2)]
    made = [await made_by(gateway, user) for user in users]
    pace = BacktestStreamPace(poll_s=0.01, wake_s=5)
    streams = BacktestStreams(gateway.state.sessions, gateway.state.streams.slots, pace)
    act_for(users[0].id)
    async with asyncio.timeout(20):
        with streams.subscribed(made[0]) as one, streams.subscribed(made[1]) as two:
            for channel in (one, two):
                event, _, data = parsed(await anext(streams.listen(channel)))
                assert (event, data["status"]) == ("progress", "queued")


async def test_the_stream_over_http_ends_and_is_not_asked_for_again(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    made = await made_by(gateway, user)
    await gateway.client.delete(f"/v1/backtests/{made}", headers=user.headers)
    reply = await get(gateway, user, f"/{made}/events")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    event, event_id, data = parsed(reply.content)
    assert (event, data["status"]) == ("done", "cancelled")
    again = await gateway.client.get(f"/v1/backtests/{made}/events", headers=user.headers | {"Last-Event-ID": event_id})
    assert (again.status_code, again.content) == (204, b"")
    assert gateway.state.streams.slots.open == 0


async def test_streams_of_backtests_share_the_places_of_all_streams(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    made = await made_by(gateway, user)
    slots = gateway.state.streams.slots
    before, slots.limits = slots.limits, replace(slots.limits, streams_per_address_max=0)
    try:
        async with asyncio.timeout(20):
            reply = await get(gateway, user, f"/{made}/events")
    finally:
        slots.limits = before
    assert problem_of(reply, 429).code == "too_many_streams"
