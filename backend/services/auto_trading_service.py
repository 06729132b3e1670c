"""One trading cycle, step by step: tick → open → gather → gather users → decide → record → send → settle."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from backend.domain.calendar import IST
from backend.domain.decide import UserDecision, UserState, decide
from backend.domain.modes import MODE_RULES, Mode
from backend.domain.ranking import MarketView, Ranking, rank
from backend.domain.risk import RiskLimits
from backend.services.context import Trading
from backend.services.corporate_action_service import settle_actions
from backend.services.cycle_service import (
    FencedError,
    OpenCycle,
    ShardClaim,
    anything_left,
    claim_shard,
    finish_cycle,
    finish_shard,
    kept,
    open_cycle,
    planned_tick,
    record_missed,
    store_inputs,
)
from backend.services.day_loss_service import watch_day_loss
from backend.services.gather_service import MarketInputs, gather_market, gather_users
from backend.services.guard_service import release_guards
from backend.services.reconcile_service import cancel_entries, reconcile
from backend.services.record_service import Recorded, record
from backend.services.send_service import send

log = structlog.get_logger()


@dataclass(slots=True)
class CycleReport:
    """What one tick did, for the console, the log and the cycle's row."""

    scheduled_at: datetime
    users: int = 0
    entries: int = 0
    exits: int = 0
    denied: dict[str, int] = field(default_factory=dict[str, int])
    candidates: dict[str, int] = field(default_factory=dict[str, int])
    rejected: dict[str, int] = field(default_factory=dict[str, int])
    symbols: int = 0
    missed: int = 0
    problems: dict[str, str] = field(default_factory=dict[str, str])

    def line(self) -> str:
        """One readable line, market time first."""
        at = self.scheduled_at.astimezone(IST)
        modes = ", ".join(f"{mode} {count}" for mode, count in self.candidates.items())
        denied = ", ".join(f"{reason} {count}" for reason, count in sorted(self.denied.items()))
        parts = [
            f"{at:%a %d %b %Y %H:%M} IST  cycle: {self.symbols} symbols, candidates {modes or 'none'}",
            f"{self.users} users, {self.entries} entries, {self.exits} exits",
            f"denied: {denied}" if denied else "",
            f"{self.missed} ticks missed before" if self.missed else "",
            "; ".join(f"no {name}: {detail}" for name, detail in self.problems.items()),
        ]
        return " | ".join(part for part in parts if part)

    def summary(self) -> dict[str, Any]:
        return {
            "users": self.users,
            "entries": self.entries,
            "exits": self.exits,
            "denied": self.denied,
            "candidates": self.candidates,
            "rejected": self.rejected,
            "symbols": self.symbols,
            "missed": self.missed,
            "problems": self.problems,
        }


async def run_cycle(trading: Trading, now: datetime) -> CycleReport | None:
    """Run the tick that `now` belongs to; None where no stock trades now or every part of it is done or being done."""
    scheduled_at = planned_tick(now, trading.rules.cycle_interval_s)
    if not trading.calendar.any_continuous(now):
        return None
    cycle = await open_cycle(trading, scheduled_at)
    if not cycle.mine and not await anything_left(trading.sessions, cycle.id):
        return None
    # Before any decision of the day: what a share is may have changed overnight.
    await settle_actions(trading, now)
    inputs = await gather_market(trading, now)
    report = CycleReport(scheduled_at, symbols=len(inputs.view.continuous), problems=dict(inputs.problems))
    await store_inputs(trading.sessions, cycle.id, inputs.stored())
    if cycle.mine:
        report.missed = await record_missed(trading, cycle)
    rankings = rank_modes(inputs.view, trading.rules.limits)
    report.candidates = {mode.value: len(r.candidates) for mode, r in rankings.items() if r.candidates}
    report.rejected = dict(Counter(missed.reason.value for r in rankings.values() for missed in r.rejected.values()))
    shards_done = await run_shards(trading, cycle, inputs, rankings, report)
    if shards_done:
        await finish_cycle(trading.sessions, cycle.id, report.summary())
    return report if shards_done else None


async def run_shards(
    trading: Trading, cycle: OpenCycle, inputs: MarketInputs, rankings: dict[Mode, Ranking], report: CycleReport
) -> int:
    """Claim and run shards until none is left, two at a time: one decides while the other's rows are written."""

    async def work() -> int:
        done = 0
        while claim := await claim_shard(trading, cycle.id):
            await run_shard(trading, cycle, claim, inputs, rankings, report)
            done += 1
        return done

    # Both workers come to their end before a failure of one is told: none is left behind, working on.
    results = await asyncio.gather(*(work() for _ in range(trading.rules.shards_at_once)), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return sum(result for result in results if isinstance(result, int))


async def run_shard(
    trading: Trading,
    cycle: OpenCycle,
    claim: ShardClaim,
    inputs: MarketInputs,
    rankings: dict[Mode, Ranking],
    report: CycleReport,
) -> None:
    """One shard of users: gather → decide → record → send → settle. A newer claim ends it quietly."""
    market = inputs.view
    async with kept(trading, claim):
        users = await gather_users(trading, claim.shard, claim.shards, market)
        users = await watch_day_loss(trading, users, market)
        decisions = decide_all(market, rankings, users, trading.rules.limits)
        await release_guards_of_exits(trading, decisions, market.now)
        try:
            recorded = await record(trading, claim, cycle.scheduled_at, market.now, market.today, decisions)
        except FencedError as fenced:
            log.warning("record_fenced", detail=str(fenced))
            return
        count(report, decisions)
        try:
            await send(trading, claim, recorded, market.now)
        finally:
            # What was not sent is free at once: the next reconciliation drops it, and the next tick decides anew.
            await finish_shard(trading.sessions, claim)
    await settle(trading, recorded, decisions, market.now)


async def release_guards_of_exits(trading: Trading, decisions: list[UserDecision], market_now: datetime) -> None:
    """Take back the stops that rest at real brokers for trades that are decided to be left."""
    real = [d for d in decisions if d.exits and trading.brokers[d.user.broker].real_money]
    leaving = {planned.trade.trade_id for decision in real for planned in decision.exits}
    if leaving:
        await release_guards(trading, leaving, market_now)


def rank_modes(market: MarketView, limits: RiskLimits) -> dict[Mode, Ranking]:
    """Every mode's candidates, ranked once for all of its users."""
    return {mode: rank(market, mode, limits) for mode in MODE_RULES}


def decide_all(
    market: MarketView, rankings: dict[Mode, Ranking], users: list[UserState], limits: RiskLimits
) -> list[UserDecision]:
    """The pure decision for each user."""
    return [decide(market, rankings[user.mode], user, limits) for user in users]


async def settle(
    trading: Trading, recorded: list[Recorded], decisions: list[UserDecision], market_now: datetime
) -> None:
    """Cancel entries whose trades should be left, and bring what was sent in line with the brokers' books."""
    leaving = [trade.trade_id for decision in decisions for trade in decision.entry_cancels]
    if leaving:
        await cancel_entries(trading, leaving, "the trade should be left before its entry has filled", market_now)
    accounts = {order.account_id for order in recorded}
    if accounts:
        await reconcile(trading, accounts)


def count(report: CycleReport, decisions: list[UserDecision]) -> None:
    """Add a shard's decisions, as recorded, to the tick's figures."""
    report.users += len(decisions)
    for decision in decisions:
        report.entries += len(decision.entries)
        report.exits += len(decision.exits)
        reasons = [o.reason.value for o in decision.outcomes if o.reason is not None]
        if decision.user.unavailable is not None:
            reasons.append(decision.user.unavailable.value)
        for reason in reasons:
            report.denied[reason] = report.denied.get(reason, 0) + 1
