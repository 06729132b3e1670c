"""PostgreSQL stopped at once in the middle of running cycles: nothing doubled, ready again soon, no connection lost."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

import psutil

from backend.trading_loop import TradingLoop
from tests.crash.children import Child, Say, Work, run_all, run_child
from tests.crash.points import Points
from tests.crash.recovery import recover
from tests.crash.world import CRASH_TICK, SCALED, TICK, Desk, Hall, Stage, set_up, tear_down, trading_on
from tests.support.broker_book import Mode

SPEED = 120
"""Market seconds per real second: two ticks each second."""
RECONCILE_INTERVAL_S = 1.0
READY_AGAIN_S_MAX = 5.0
READY_AGAIN_BUSY_S_MAX = 20.0
"""On a machine that runs other tests meanwhile."""
LOOK_S = 0.02
LOOKS_MAX = 150
GIVE_UP_S = 60.0
LATE_TICK = 80


@dataclass(frozen=True, slots=True)
class Stop:
    """One round: PostgreSQL is stopped when the trader comes to its `at`-th point."""

    number: int
    at: int

    def stage(self, hall: Hall) -> Stage:
        return Stage(hall, f"stop_{self.number}", "crash_three")


def postmaster(hall: Hall) -> int:
    """The server's process id, out of its own lock file."""
    return int((hall.folder / "postgres" / "postmaster.pid").read_text().split()[0])


def trader(stage: Stage, stop: Stop, say: Say) -> None:
    """The trading loop as a deployment runs it, at a faster clock; it takes the database down at its point."""

    def pull(where: str) -> None:
        os.kill(postmaster(stage.hall), signal.SIGQUIT)  # what `pg_ctl stop -m immediate` sends
        say(where)

    Points(stop.at, pull).install()
    asyncio.run(_trade(stage, say))


async def _trade(stage: Stage, say: Say) -> None:
    """Trade until a cycle has ended after SIGUSR1, which tells that the database runs again."""
    began = time.monotonic()
    restarted, ready = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, restarted.set)

    async def clock() -> datetime:
        return CRASH_TICK + (time.monotonic() - began) * SPEED / 60 * TICK

    def announce(line: str) -> None:
        if " cycle: " in line and restarted.is_set():
            ready.set()

    async with trading_on(stage, at=CRASH_TICK, rules=SCALED, pool_size=10) as desk:
        loop = TradingLoop(
            replace(desk.trading, clock=clock, announce=announce),
            speed=SPEED,
            reconcile_interval_s=RECONCILE_INTERVAL_S,
        )
        await loop.start()
        await restarted.wait()
        restarted_s = time.monotonic()
        with suppress(TimeoutError):
            await asyncio.wait_for(ready.wait(), GIVE_UP_S)
        ready_s = round(time.monotonic() - restarted_s, 2) if ready.is_set() else None
        loop.stop()
        say({"ready_s": ready_s, "checked_out": await _at_rest(desk)})


async def _at_rest(desk: Desk) -> int:
    """Connections still checked out once the last jobs have had their time."""
    pool: Any = desk.engine.pool
    for _ in range(LOOKS_MAX):
        if not pool.checkedout():
            break
        await asyncio.sleep(LOOK_S)
    return pool.checkedout()


def one_stop(hall: Hall, stop: Stop) -> Work:
    """One round in a process of its own; rounds share the server: one at a time."""

    def work(say: Say) -> None:
        stage = stop.stage(hall)
        set_up(stage, [Mode.ACCEPT])
        pid = postmaster(hall)
        child = Child(partial(trader, stage, stop))
        while not child.said() and child.hear():
            pass
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(GIVE_UP_S)
        hall.postgres.ensure_running()
        child.signal(signal.SIGUSR1)
        where, told = child.end().said
        after = run_child(partial(_judge, stage)).said[-1]
        say({"where": where, "at": stop.at} | told | after)
        tear_down(stage)

    return work


def _judge(stage: Stage, say: Say) -> None:
    async def run() -> None:
        async with trading_on(stage, at=CRASH_TICK, rules=SCALED, trader="judge") as desk:
            done = await recover(desk, frozenset({Mode.ACCEPT}), timeout_s=GIVE_UP_S, first_tick=LATE_TICK)
        say({"recovered_s": round(done.recovered_s, 2), "breaches": done.breaches})

    asyncio.run(run())


def stops(rounds: int, points: int, seed: int) -> list[Stop]:
    """Rounds at random points of the first ticks."""
    chosen = random.Random(seed)
    return [Stop(number, chosen.randint(1, points)) for number in range(rounds)]


def run_stops(hall: Hall, rounds: Sequence[Stop], ready_s_max: float) -> Iterator[dict[str, Any]]:
    """Run the rounds one after the other, and yield what came of each; late and leaking ones are breaches."""
    for said in run_all([one_stop(hall, stop) for stop in rounds], 1):
        result = said[-1]
        if result["ready_s"] is None or result["ready_s"] > ready_s_max:
            result["breaches"].append(f"not ready again: {result['ready_s']} s after the start")
        if result["checked_out"]:
            result["breaches"].append(f"{result['checked_out']} connections were never given back")
        yield result
