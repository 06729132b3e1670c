"""Sending a thousand recorded orders through the gate to a broker that answers at once, against bare commits."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from backend.db import create_sessions
from backend.domain.ranking import MarketView
from backend.services.auto_trading_service import decide_all, rank_modes
from backend.services.context import Trading
from backend.services.cycle_service import claim_shard, open_cycle
from backend.services.gather_service import gather_users
from backend.services.record_service import Recorded, record
from backend.services.send_service import send
from tests.bench.result import Result

ORDERS = 1_000
COMMITS_PER_ORDER = 2
"""SUBMITTED before the socket, the answer after it."""


class Instant:
    """A broker that takes everything at once."""

    name, real_money, absence_is_proof_after_s = "paper", False, None

    def __init__(self) -> None:
        self.taken = 0

    async def place(self, _account_id: int, _order: object) -> str:
        self.taken += 1
        return f"B{self.taken}"


async def run(engine: AsyncEngine, trading: Trading, market: Callable[[Trading, datetime], MarketView], now: datetime):
    """One shard's sends after its decisions; the reference commits as many rows, as many at a time."""
    view = market(trading, now)
    cycle = await open_cycle(trading, now)
    claim = await claim_shard(trading, cycle.id)
    if claim is None:
        raise LookupError("a fresh cycle has a shard to claim")
    users = await gather_users(trading, claim.shard, claim.shards, view)
    decisions = decide_all(view, rank_modes(view, trading.rules.limits), users, trading.rules.limits)
    recorded = await record(trading, claim, now, now, view.today, decisions)
    # One order per account: its own rate limit must not be what is measured.
    firsts = {order.account_id: order for order in reversed(recorded)}
    chosen: list[Recorded] = list(firsts.values())[:ORDERS]
    broker = Instant()
    batch = SimpleNamespace(quotes={s: SimpleNamespace(view=q) for s, q in view.quotes.items()})

    async def quotes(*_: object) -> object:
        return batch

    patient = replace(trading.rules, entry_send_s_max=600.0, lease_s=600.0)
    world = replace(
        trading,
        rules=patient,
        brokers={"paper": cast("Any", broker)},
        market_data=cast("Any", SimpleNamespace(quotes=quotes)),
    )
    started = time.perf_counter()
    await send(world, claim, chosen, now)
    sent_s = time.perf_counter() - started
    if broker.taken != len(chosen):
        raise RuntimeError(f"{broker.taken} of {len(chosen)} orders reached the broker")
    bare_s = await _bare_commits(engine, len(chosen) * COMMITS_PER_ORDER, trading.rules.sends_at_once_max)
    name = f"send of {len(chosen):,} orders through the gate, {len(chosen) / sent_s:,.0f} a second"
    return [Result(name, sent_s, "s", bare_s, "as many single-row commits, as many at a time", "≤ 10")]


async def _bare_commits(engine: AsyncEngine, commits: int, at_once: int) -> float:
    sessions = create_sessions(engine)
    async with sessions.begin() as session:
        await session.execute(text("CREATE TABLE bare (id bigint PRIMARY KEY)"))
    turns = iter(range(commits))

    async def work() -> None:
        for i in turns:
            async with sessions.begin() as session:
                await session.execute(text("INSERT INTO bare VALUES (:i)"), {"i": i})

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return time.perf_counter() - started
