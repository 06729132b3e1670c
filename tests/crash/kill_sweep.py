"""SIGKILL before every await of a tick, under every misbehaviour of the broker; a fresh process must set all right."""

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from backend.services.auto_trading_service import run_cycle
from backend.services.position_service import watch_positions
from backend.services.reconcile_service import reconcile
from backend.trading_loop import PASSING_ERRORS
from tests.crash.children import Say, Work, run_all, run_child, spread
from tests.crash.points import Points
from tests.crash.recovery import recover
from tests.crash.world import CRASH_TICK, PRODUCTION, SCALED, Hall, Stage, set_up, tear_down, trading_on
from tests.support.broker_book import Mode

RECOVERY_TIMEOUT_SCALED_S = 45.0
RECOVERY_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Variant:
    """One misbehaviour to sweep under."""

    mode: Mode
    late_s: float = 0.5
    by_hand: bool = False
    """The user has bought a few shares in the broker's own app meanwhile."""

    @property
    def name(self) -> str:
        if self.by_hand:
            return f"{self.mode}, one order by hand"
        return f"{self.mode} {self.late_s:g} s" if self.mode is Mode.SHOW_LATE else self.mode.value


VARIANTS = (*(Variant(mode) for mode in Mode), Variant(Mode.SHOW_LATE, 3.0), Variant(Mode.ACCEPT, by_hand=True))


@dataclass(frozen=True, slots=True)
class Kill:
    """One round: killed before the `at`-th point (0: not at all) under a variant."""

    variant: Variant
    at: int
    scaled: bool = True
    template: str = "crash_one"

    def stage(self, hall: Hall) -> Stage:
        variant = f"{self.variant.mode}_{self.variant.late_s:g}_{self.variant.by_hand:d}".replace(".", "_")
        return Stage(hall, f"kill_{self.template[6:]}_{variant}_{self.at}_{self.scaled:d}", self.template)

    @property
    def rules(self) -> dict[str, Any]:
        return SCALED if self.scaled else PRODUCTION


async def tick(stage: Stage, rules: dict[str, Any]) -> None:
    """What is killed: a tick with a reconciliation before and after it, and a look at what was traded elsewhere."""
    async with trading_on(stage, at=CRASH_TICK, rules=rules) as desk:
        try:
            await reconcile(desk.trading)
            await watch_positions(desk.trading)
            await run_cycle(desk.trading, CRASH_TICK)
            await reconcile(desk.trading)
        except PASSING_ERRORS:
            pass  # as the trading loop takes it


def victim(stage: Stage, kill: Kill, say: Say) -> None:
    def die(where: str) -> None:
        say(where)
        os.kill(os.getpid(), signal.SIGKILL)

    points = Points(kill.at, die)
    points.install()
    asyncio.run(tick(stage, kill.rules))
    say(len(points.seen))


def count_points(hall: Hall, variant: Variant, template: str) -> Work:
    """A dry run: how many points the tick has under this variant."""

    def work(say: Say) -> None:
        kill = Kill(variant, 0, template=template)
        stage = kill.stage(hall)
        set_up(stage, [variant.mode], by_hand=variant.by_hand, late_s=variant.late_s)
        ended = run_child(partial(victim, stage, kill))
        tear_down(stage)
        say([VARIANTS.index(variant), ended.said[-1]])

    return work


def one_kill(hall: Hall, kill: Kill) -> Work:
    """One round in a process of its own; it says what was left after the recovery."""

    def work(say: Say) -> None:
        stage = kill.stage(hall)
        set_up(stage, [kill.variant.mode], by_hand=kill.variant.by_hand, late_s=kill.variant.late_s)
        ended = run_child(partial(victim, stage, kill))
        after = run_child(partial(_recover, stage, kill)).said[-1]
        where = ended.said[-1] if ended.killed else "never reached"
        say({"variant": kill.variant.name, "at": kill.at, "where": where, "killed": ended.killed} | after)
        tear_down(stage)

    return work


def _recover(stage: Stage, kill: Kill, say: Say) -> None:
    async def run() -> None:
        timeout_s = RECOVERY_TIMEOUT_SCALED_S if kill.scaled else RECOVERY_TIMEOUT_S
        async with trading_on(stage, at=CRASH_TICK, rules=kill.rules, trader="fresh") as desk:
            recovery = await recover(desk, frozenset({kill.variant.mode}), timeout_s=timeout_s)
        unknown = sum(order["state"] == "unknown" for order in recovery.facts.orders)
        say({"recovered_s": round(recovery.recovered_s, 2), "unknown": unknown, "breaches": recovery.breaches})

    asyncio.run(run())


def counts(hall: Hall, variants: Sequence[Variant], at_once: int, template: str = "crash_one") -> dict[Variant, int]:
    """How many points a tick has under each variant, by a dry run."""
    told = run_all([count_points(hall, variant, template) for variant in variants], at_once)
    return {VARIANTS[index]: points for ((index, points),) in told}


def plan(
    hall: Hall, variants: Sequence[Variant], samples: int, at_once: int, template: str = "crash_one"
) -> list[Kill]:
    """The rounds of a sweep: `samples` points under each variant at most, spread over the tick."""
    points = counts(hall, variants, at_once, template)
    return [Kill(variant, at, template=template) for variant in variants for at in spread(points[variant], samples)]


def sweep(hall: Hall, kills: Sequence[Kill], at_once: int) -> Iterator[dict[str, Any]]:
    """Run the rounds, several at once, and yield what came of each."""
    for said in run_all([one_kill(hall, kill) for kill in kills], at_once):
        yield said[-1]
