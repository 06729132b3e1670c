"""The trading clock's rows: opening a tick once, and claiming its shards under growing fencing tokens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import ColumnElement, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from backend.db import Sessions
from backend.domain.calendar import IST
from backend.domain.orders import Intent
from backend.models import Cycle, CycleShard, CycleStatus, Order, fencing_token
from backend.services.context import Trading

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class OpenCycle:
    """One tick that is being worked on. `mine` says whether this trader opened it."""

    id: int
    scheduled_at: datetime
    mine: bool


@dataclass(frozen=True, slots=True)
class ShardClaim:
    """The right to work on one shard until a newer claim replaces its token."""

    cycle_id: int
    shard: int
    shards: int
    token: int


class FencedError(Exception):
    """A newer claim exists: this worker was too slow and must write and send nothing more for the shard."""


def planned_tick(now: datetime, interval_s: int) -> datetime:
    """The tick `now` belongs to: ticks lie on whole multiples of the interval, so every trader names it the same."""
    seconds = int(now.timestamp())
    return now.astimezone(IST).replace(microsecond=0) - timedelta(seconds=seconds % interval_s)


async def open_cycle(trading: Trading, scheduled_at: datetime) -> OpenCycle:
    """Insert the tick's row, or find that another trader did."""
    async with trading.sessions.begin() as session:
        cycle_id = await session.scalar(
            insert(Cycle)
            .values(
                scheduled_at=scheduled_at,
                trade_date=scheduled_at.astimezone(IST).date(),
                environment=trading.rules.environment.value,
                status=CycleStatus.OPEN,
            )
            .on_conflict_do_nothing(index_elements=[Cycle.scheduled_at])
            .returning(Cycle.id)
        )
        if cycle_id is not None:
            shards = [{"cycle_id": cycle_id, "shard": shard} for shard in range(trading.rules.shards)]
            await session.execute(insert(CycleShard), shards)
            return OpenCycle(cycle_id, scheduled_at, mine=True)
        found = await session.scalar(select(Cycle.id).where(Cycle.scheduled_at == scheduled_at))
    if found is None:
        raise LookupError(f"the cycle of {scheduled_at} was opened and is gone")
    return OpenCycle(found, scheduled_at, mine=False)


async def store_inputs(sessions: Sessions, cycle_id: int, inputs: dict[str, Any]) -> None:
    """Keep what the cycle's decisions are made from, so that each can be explained later; the first trader's stand."""
    async with sessions.begin() as session:
        await session.execute(update(Cycle).where(Cycle.id == cycle_id, Cycle.inputs.is_(None)).values(inputs=inputs))


async def anything_left(sessions: Sessions, cycle_id: int) -> bool:
    """Whether a shard of the cycle waits for a worker."""
    async with sessions() as session:
        free = CycleShard.claimed_until.is_(None) | (CycleShard.claimed_until < func.clock_timestamp())
        found = await session.scalar(
            select(CycleShard.shard)
            .where(CycleShard.cycle_id == cycle_id, ~CycleShard.done, ~CycleShard.recorded, free)
            .limit(1)
        )
        return found is not None


_CLAIM = text("""
    UPDATE cycle_shards SET token = nextval('fencing_token_seq'),
           claimed_until = clock_timestamp() + make_interval(secs => :lease_s)
     WHERE (cycle_id, shard) = (
           SELECT cycle_id, shard FROM cycle_shards
            WHERE cycle_id = :cycle_id AND NOT done AND NOT recorded
              AND (claimed_until IS NULL OR claimed_until < clock_timestamp())
              -- not while an earlier tick's holder is still at the same users
              AND NOT EXISTS (
                  SELECT 1 FROM cycle_shards e
                   WHERE e.cycle_id BETWEEN :cycle_id - 50 AND :cycle_id - 1 AND e.shard = cycle_shards.shard
                     AND NOT e.done AND e.claimed_until > clock_timestamp())
            ORDER BY shard LIMIT 1 FOR UPDATE SKIP LOCKED)
 RETURNING shard, token, (SELECT count(*) FROM cycle_shards c WHERE c.cycle_id = :cycle_id) AS shards
""")


async def claim_shard(trading: Trading, cycle_id: int) -> ShardClaim | None:
    """Take a shard nobody holds; None where none is left. One that was recorded already is left to reconciliation."""
    async with trading.sessions.begin() as session:
        row = (await session.execute(_CLAIM, {"cycle_id": cycle_id, "lease_s": trading.rules.lease_s})).one_or_none()
    return None if row is None else ShardClaim(cycle_id, row.shard, row.shards, row.token)


async def hold(session: AsyncSession, claim: ShardClaim, lease_s: float) -> None:
    """Prove inside a transaction that `claim` is still the newest, renew its lease, and keep others out until it ends.

    Raises:
        FencedError: a newer claim exists.
    """
    held = await session.scalar(
        update(CycleShard)
        .where(
            CycleShard.cycle_id == claim.cycle_id,
            CycleShard.shard == claim.shard,
            CycleShard.token == claim.token,
        )
        .values(claimed_until=func.clock_timestamp() + timedelta(seconds=lease_s))
        .returning(CycleShard.token)
    )
    if held is None:
        raise FencedError(f"shard {claim.shard} of cycle {claim.cycle_id} has a newer claim")


@asynccontextmanager
async def kept(trading: Trading, claim: ShardClaim) -> AsyncIterator[None]:
    """Renew a claim's lease while the block runs, so that a lease may be short: only who fell silent loses it."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(trading.rules.lease_s / 3)
            try:
                async with trading.sessions.begin() as session:
                    await hold(session, claim, trading.rules.lease_s)
            except FencedError:
                return
            except (SQLAlchemyError, OSError) as error:
                log.warning("lease_not_renewed", cycle=claim.cycle_id, shard=claim.shard, error=repr(error))

    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing


_SEND_LOCK = 0x5AD1
"""Class of the advisory locks between those who send a shard's orders, side by side, and who takes that right away."""


def _send_lock(cycle_id: int, shard: int) -> int:
    return _SEND_LOCK << 44 | (cycle_id & 0xFFFFFFFFF) << 8 | shard & 0xFF


async def share_claim(session: AsyncSession, claim: ShardClaim) -> None:
    """Keep others from fencing a shard until the transaction ends, as far as that has not happened (`is_newest`).

    Sends of one shard share it; a row's lock would make them queue. Who fences waits for them, and they for nobody
    behind: PostgreSQL's advisory locks are first come, first served.
    """
    await session.execute(select(func.pg_advisory_xact_lock_shared(_send_lock(claim.cycle_id, claim.shard))))


def is_newest(claim: ShardClaim) -> ColumnElement[bool]:
    """The condition, in a statement after `share_claim`, that no newer claim exists."""
    return (
        select(CycleShard.token)
        .where(
            CycleShard.cycle_id == claim.cycle_id,
            CycleShard.shard == claim.shard,
            CycleShard.token == claim.token,
        )
        .exists()
    )


async def fence(session: AsyncSession, cycle_id: int, shard: int) -> None:
    """Take the right to send from whoever holds the shard. Joins the caller's transaction."""
    await session.execute(select(func.pg_advisory_xact_lock(_send_lock(cycle_id, shard))))
    await session.execute(
        update(CycleShard)
        .where(CycleShard.cycle_id == cycle_id, CycleShard.shard == shard)
        .values(token=fencing_token.next_value(), done=True)
    )


async def finish_shard(sessions: Sessions, claim: ShardClaim) -> None:
    """Mark a shard as done, unless somebody with a newer fencing token has taken it over."""
    async with sessions.begin() as session:
        await session.execute(
            update(CycleShard)
            .where(
                CycleShard.cycle_id == claim.cycle_id,
                CycleShard.shard == claim.shard,
                CycleShard.token == claim.token,
            )
            .values(done=True)
        )


async def finish_cycle(sessions: Sessions, cycle_id: int, summary: dict[str, Any]) -> None:
    """Close the tick with its figures, if no shard of it is left; whoever worked on the last one does."""
    async with sessions.begin() as session:
        unfinished = select(CycleShard.shard).where(CycleShard.cycle_id == cycle_id, ~CycleShard.done).exists()
        rows = await session.execute(
            select(Order.intent, func.count()).where(Order.cycle_id == cycle_id).group_by(Order.intent)
        )
        by_intent = {row[0]: row[1] for row in rows}
        summary |= {"entries": by_intent.get(Intent.ENTRY, 0), "exits": by_intent.get(Intent.EXIT, 0)}
        await session.execute(
            update(Cycle)
            .where(Cycle.id == cycle_id, ~unfinished)
            .values(status=CycleStatus.DONE, summary=summary, finished_at=func.clock_timestamp())
        )


async def record_missed(trading: Trading, cycle: OpenCycle) -> int:
    """Write down the planned ticks of the day that passed before `cycle` without anybody there; returns how many.

    A day on which no trader was there at all has no rows; the first day ever begins with its first tick.
    """
    interval = timedelta(seconds=trading.rules.cycle_interval_s)
    async with trading.sessions.begin() as session:
        last = await session.scalar(select(func.max(Cycle.scheduled_at)).where(Cycle.scheduled_at < cycle.scheduled_at))
        if last is None:
            return 0
        day_start = datetime.combine(cycle.scheduled_at.astimezone(IST).date(), datetime.min.time(), tzinfo=IST)
        missed = []
        tick = cycle.scheduled_at - interval
        while tick > max(last, day_start):
            if trading.calendar.any_continuous(tick):
                missed.append(tick)
            tick -= interval
        for scheduled_at in missed:
            await session.execute(
                insert(Cycle)
                .values(
                    scheduled_at=scheduled_at,
                    trade_date=day_start.date(),
                    environment=trading.rules.environment.value,
                    status=CycleStatus.MISSED,
                    finished_at=func.clock_timestamp(),
                )
                .on_conflict_do_nothing(index_elements=[Cycle.scheduled_at])
            )
    return len(missed)


async def mark_missed(sessions: Sessions, before: datetime) -> int:
    """Close older ticks that nobody finished, and say how many there were."""
    async with sessions.begin() as session:
        missed = await session.scalars(
            update(Cycle)
            .where(Cycle.status == CycleStatus.OPEN, Cycle.scheduled_at < before)
            .values(status=CycleStatus.MISSED, finished_at=func.clock_timestamp())
            .returning(Cycle.id)
        )
        return len(missed.all())
