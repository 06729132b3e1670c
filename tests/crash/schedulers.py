"""Three traders on one tick; the holder of a shard is frozen for longer than its lease, and woken after the others."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import text

from backend.services.auto_trading_service import run_cycle
from backend.services.reconcile_service import reconcile
from backend.trading_loop import PASSING_ERRORS
from tests.crash.checks import Facts
from tests.crash.children import Child, Say, Work, run_all, run_child
from tests.crash.points import Points
from tests.crash.recovery import recover
from tests.crash.world import CRASH_TICK, TICK, Hall, Stage, set_up, tear_down, trading_on
from tests.support.broker_book import Mode

HOLDER = ("record_service", "order_service", "send_service", "gate_service")
"""Where only the holder of a shard comes by."""
HANDING_OVER = ("_hand_over",)
"""Where SUBMITTED is committed and the broker has not answered: no claim of others can be waited for any more."""
HANDING_OVER_POINTS = 4
TRADERS = 3
LOOK_S = 0.05
START_S = 0.7
REACH_TIMEOUT_S = 60.0
RECOVERY_TIMEOUT_S = 60.0
LOOKS_PER_TICK = 3
LATE_TICK = 40
GIVEN_UP = {"abandoned", "lost", "denied"}


@dataclass(frozen=True, slots=True)
class Pause:
    """One round: the first trader to come to the holder's `at`-th point is frozen for `frozen_s`."""

    number: int
    at: int
    frozen_s: float
    tick_s: float
    rules: Mapping[str, Any]
    narrow: bool = False
    """Only points between the commit of SUBMITTED and the broker's answer."""

    def stage(self, hall: Hall) -> Stage:
        return Stage(hall, f"pause_{self.number}", "crash_three")


@dataclass(frozen=True, slots=True)
class Signs:
    """Files by which the processes of a round tell each other where they are."""

    folder: Path

    @property
    def frozen(self) -> Path:
        return self.folder / "frozen"

    @property
    def done(self) -> Path:
        return self.folder / "done"


def freeze_first(signs: Signs, where: str) -> None:
    """Freeze this process, unless another one has been frozen in this round."""
    with suppress(FileExistsError):
        descriptor = os.open(signs.frozen, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.write(descriptor, f"{os.getpid()} {where}\n".encode())
        os.close(descriptor)
        os.kill(os.getpid(), signal.SIGSTOP)


def trader(stage: Stage, pause: Pause, signs: Signs, name: str, began: float, _: Say) -> None:
    """One of the three: the ticks as they come, until the round is done."""
    Points(pause.at, partial(freeze_first, signs), HOLDER, HANDING_OVER if pause.narrow else ()).install()

    async def run() -> None:
        async with trading_on(stage, at=CRASH_TICK, rules=dict(pause.rules), trader=name) as desk:
            await asyncio.sleep(began - time.monotonic())
            while not signs.done.exists():
                desk.now = CRASH_TICK + int((time.monotonic() - began) / pause.tick_s) * TICK
                with suppress(*PASSING_ERRORS):
                    await run_cycle(desk.trading, desk.now)
                    await reconcile(desk.trading)
                await asyncio.sleep(pause.tick_s / LOOKS_PER_TICK)

    asyncio.run(run())


def watch_tokens(stage: Stage, signs: Signs, say: Say) -> None:
    """Note when each shard's token was first seen, in monotonic seconds, and whether it had been recorded by then."""
    query = text("SELECT cycle_id, shard, token, recorded FROM cycle_shards WHERE token IS NOT NULL")
    seen: set[tuple[Any, ...]] = set()

    async def run() -> None:
        async with trading_on(stage, at=CRASH_TICK, pool_size=1) as desk:
            while not signs.done.exists():
                async with desk.trading.sessions() as session:
                    rows = {tuple(row) for row in await session.execute(query)}
                at_s = time.monotonic()
                for row in sorted(rows - seen):
                    say([at_s, *row])
                seen.update(rows)
                await asyncio.sleep(LOOK_S)

    asyncio.run(run())


def one_pause(hall: Hall, pause: Pause, folder: Path) -> Work:
    """One round in a process of its own."""

    def work(say: Say) -> None:
        stage = pause.stage(hall)
        signs = Signs(folder / stage.name)
        signs.folder.mkdir(parents=True)
        set_up(stage, [Mode.ACCEPT])
        began = time.monotonic() + START_S
        watcher = Child(partial(watch_tokens, stage, signs))
        names = [f"trader{i}" for i in range(TRADERS)]
        traders = [Child(partial(trader, stage, pause, signs, name, began)) for name in names]
        where = _freeze_and_wake(pause, signs)
        signs.done.touch()
        for child in (*traders, watcher):
            child.signal(signal.SIGCONT)
        for child in traders:
            child.end()
        tokens = watcher.end().said
        after = run_child(partial(_judge, stage, pause)).said[-1]
        late = stale(Facts(**after.pop("facts")), tokens, time.time() - time.monotonic())
        say({"where": where, "at": pause.at} | after | {"breaches": [*after["breaches"], *late]})
        tear_down(stage)

    return work


def _freeze_and_wake(pause: Pause, signs: Signs) -> str:
    """Wait for the holder to freeze, let its lease lapse, wake it, and give it the time to do harm; where it froze."""
    until = time.monotonic() + START_S + REACH_TIMEOUT_S
    while not (signs.frozen.exists() and signs.frozen.read_text().endswith("\n")):
        if time.monotonic() > until:
            return "never reached"
        time.sleep(LOOK_S)
    pid, _, where = signs.frozen.read_text().strip().partition(" ")
    time.sleep(pause.frozen_s)
    os.kill(int(pid), signal.SIGCONT)
    time.sleep(2 * pause.tick_s)
    return where


def _judge(stage: Stage, pause: Pause, say: Say) -> None:
    async def run() -> None:
        async with trading_on(stage, at=CRASH_TICK, rules=dict(pause.rules), trader="judge") as desk:
            modes = frozenset({Mode.ACCEPT})
            done = await recover(desk, modes, timeout_s=RECOVERY_TIMEOUT_S, first_tick=LATE_TICK)
        say({"recovered_s": round(done.recovered_s, 2), "breaches": done.breaches, "facts": asdict(done.facts)})

    asyncio.run(run())


def stale(facts: Facts, tokens: Sequence[Sequence[Any]], wall_less_monotonic_s: float) -> Iterator[str]:
    """Orders that reached the broker after their shard was taken from their sender, or after they were given up.

    Args:
        tokens: (monotonic seconds, cycle, shard, token, recorded) as each was first seen.
    """
    taken_at: dict[tuple[int, int], float] = {}
    recorded_under: dict[tuple[int, int], int] = {}
    for at_s, cycle, shard, token, recorded in sorted(tokens, key=lambda token: token[0]):
        if recorded and recorded_under.setdefault((cycle, shard), token) != token:
            taken_at.setdefault((cycle, shard), at_s)
    given_up: dict[int, float] = {}
    for event in facts.events:
        if event["kind"] in GIVEN_UP:
            given_up.setdefault(event["order_id"], event["at"] - wall_less_monotonic_s)
    by_tag = {order["tag"]: order for order in facts.orders}
    for arrival in facts.truth["arrivals"]:
        order = by_tag.get(arrival["tag"])
        if order is None:
            continue
        after_s = arrival["at_s"] - taken_at.get((order["cycle_id"], order["shard"]), float("inf"))
        if after_s > 0:
            yield f"stale: {arrival['tag']} reached the broker {after_s:.2f} s after its shard was taken over"
        after_s = arrival["at_s"] - given_up.get(order["id"], float("inf"))
        if after_s > 0:
            yield f"stale: {arrival['tag']} reached the broker {after_s:.2f} s after it was given up"


def pauses(
    rounds: int, points: int, seed: int, *, frozen_s: float, tick_s: float, rules: dict[str, Any]
) -> list[Pause]:
    """Rounds at random points of the holder's way; every fourth between the commit of SUBMITTED and the answer."""
    chosen = random.Random(seed)
    return [
        Pause(
            number,
            chosen.randint(1, HANDING_OVER_POINTS if (narrow := number % 4 == 3) else points),
            frozen_s,
            tick_s,
            rules,
            narrow,
        )
        for number in range(rounds)
    ]


def run_pauses(hall: Hall, rounds: Sequence[Pause], folder: Path, at_once: int) -> Iterator[dict[str, Any]]:
    """Run the rounds, several at once, and yield what came of each."""
    for said in run_all([one_pause(hall, pause, folder) for pause in rounds], at_once):
        yield said[-1]
