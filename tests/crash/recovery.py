"""What a fresh trader does after a crash: reconcile, run the ticks that follow, and come to rest."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass

from backend.services.auto_trading_service import run_cycle
from backend.services.outbox_service import deliver
from backend.services.position_service import watch_positions
from backend.services.reconcile_service import reconcile
from backend.trading_loop import PASSING_ERRORS
from tests.crash.checks import Facts, breaches, gather
from tests.crash.world import CRASH_TICK, TICK, Desk
from tests.support.broker_book import Mode

HEALING = frozenset({Mode.TOKEN_EXPIRED, Mode.RATE_LIMITED, Mode.BOOK_502, Mode.BOOK_HANGS, Mode.BOOK_GARBAGE})
"""Modes in which nobody can learn anything: the broker comes back after some ticks."""
TICKS_ILL = 2
TICKS_AFTER = 2
PACE_FRACTION = 5
"""Ticks per lease: a fresh trader meets its dead predecessor's claims, and outlives them."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """Real seconds until every promise held and a tick was traded again, and the promises broken at the very end."""

    recovered_s: float
    breaches: list[str]
    facts: Facts


async def recover(desk: Desk, modes: frozenset[Mode], *, timeout_s: float, first_tick: int = 1) -> Recovery:
    """Run the trader until all is settled and a few ticks more; the last state is judged."""
    began = time.monotonic()
    pace_s = desk.trading.rules.lease_s / PACE_FRACTION
    number = first_tick
    while True:
        traded = await one_tick(desk, number)
        if number == first_tick + TICKS_ILL - 1 and modes & HEALING:
            await desk.behave([Mode.ACCEPT])
        number += 1
        _, found = await _look(desk, modes)
        healthy = number >= first_tick + TICKS_ILL
        if (traded and healthy and not found) or time.monotonic() - began > timeout_s:
            break
        await asyncio.sleep(pace_s)
    recovered_s = time.monotonic() - began
    for _ in range(TICKS_AFTER):
        await one_tick(desk, number)
        number += 1
    until = time.monotonic() + timeout_s
    facts, found = await _look(desk, modes)
    while found and time.monotonic() < until:
        await asyncio.sleep(pace_s)
        facts, found = await _look(desk, modes)
    return Recovery(recovered_s, found, facts)


async def one_tick(desk: Desk, number: int) -> bool:
    """The tick `number` minutes after the crash, as the trading loop does it; whether a cycle ran."""
    await desk.set_clock(CRASH_TICK + number * TICK)
    with suppress(*PASSING_ERRORS):
        await reconcile(desk.trading)
        await watch_positions(desk.trading)
        report = await run_cycle(desk.trading, desk.now)
        await deliver(desk.trading)
        return report is not None
    return False


async def _look(desk: Desk, modes: frozenset[Mode]) -> tuple[Facts, list[str]]:
    """Two passes, of which the first may ask for cancels and the second hears of them; then the promises."""
    with suppress(*PASSING_ERRORS):
        await reconcile(desk.trading)
        await reconcile(desk.trading)
    facts = await gather(desk.trading.sessions, await desk.truth())
    return facts, breaches(facts, oversell_allowed=Mode.FILL_LATE in modes)
