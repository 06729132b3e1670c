"""A user's backtests: asked for within the plan's bounds, listed, read, cancelled and deleted."""

import zlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Date, Delete, cast, delete, func, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer

from backend.errors import NotAllowedError, NotFoundError
from backend.models import Backtest, BacktestStatus, BacktestUsage, Feature, User
from backend.services.idempotency_service import KEPT_H
from backend.services.plan_service import require_feature

UNFINISHED = frozenset({BacktestStatus.QUEUED, BacktestStatus.RUNNING})

# One statement decides between any number of racers; no row comes back from who asks for more than the plan has.
_USE = text("""
    INSERT INTO backtest_usage AS u (user_id, day, used)
    VALUES (:user_id, CAST(clock_timestamp() AT TIME ZONE 'Asia/Kolkata' AS date), 1)
        ON CONFLICT (user_id, day) DO UPDATE SET used = u.used + 1 WHERE u.used < :per_day
    RETURNING used
""")


async def enqueue(
    session: AsyncSession, user_id: int, request: Mapping[str, Any], *, combinations: int, key: str | None
) -> Backtest:
    """Put a backtest into the queue and count it against the plan's day (IST, of real time).

    The same `key` within its hours is the same backtest: the first one's row comes back.

    Raises:
        NotAllowedError: the plan has none, the day's are used up, or the sweep has more combinations than it allows.
    """
    # Two requests with one key wait for each other here, so the second one sees the first one's row.
    await session.execute(select(User.id).where(User.id == user_id).with_for_update(key_share=True))
    if key is not None and (standing := await _with_key(session, user_id, key)) is not None:
        return standing
    plan = await require_feature(session, user_id, Feature.BACKTESTS)
    if combinations > plan.backtest_combinations_max:
        raise NotAllowedError(
            f"The sweep has {combinations} combinations, your plan {plan.name} allows "
            f"{plan.backtest_combinations_max}: give fewer values, or ask for a larger plan.",
            code="too_many_combinations",
        )
    used = await session.scalar(_USE, {"user_id": user_id, "per_day": plan.backtests_per_day})
    if used is None:
        raise NotAllowedError(
            f"Your plan {plan.name} has {plan.backtests_per_day} backtests a day, and today's are used up: "
            "ask again after midnight in India, or ask for a larger plan.",
            code="backtests_used_up",
        )
    row = Backtest(user_id=user_id, status=BacktestStatus.QUEUED, request=dict(request), request_key=key)
    session.add(row)
    await session.flush()
    await session.refresh(row)
    return row


async def _with_key(session: AsyncSession, user_id: int, key: str) -> Backtest | None:
    recent = func.clock_timestamp() - timedelta(hours=KEPT_H)
    query = select(Backtest).where(
        Backtest.user_id == user_id, Backtest.request_key == key, Backtest.created_at > recent
    )
    return (await session.scalars(query.order_by(Backtest.id.desc()).limit(1))).first()


async def backtests_of(session: AsyncSession, user_id: int, before_id: int | None, limit: int) -> list[Backtest]:
    """The user's backtests without their results, newest first."""
    query = select(Backtest).where(Backtest.user_id == user_id)
    if before_id is not None:
        query = query.where(Backtest.id < before_id)
    return list((await session.scalars(query.order_by(Backtest.id.desc()).limit(limit))).all())


async def backtest_of(session: AsyncSession, user_id: int, backtest_id: int) -> Backtest:
    """One of the user's own, with its summary.

    Raises:
        NotFoundError: there is none, or it is another user's.
    """
    query = select(Backtest).where(Backtest.id == backtest_id, Backtest.user_id == user_id)
    row = (await session.scalars(query.options(undefer(Backtest.summary)))).first()
    if row is None:
        raise NotFoundError(f"You have no backtest {backtest_id}.")
    return row


async def report_of(session: AsyncSession, user_id: int, backtest_id: int) -> bytes:
    """The report of one of the user's own, a whole HTML page.

    Raises:
        NotFoundError: there is no such backtest, or it has no report (yet).
    """
    row = await backtest_of(session, user_id, backtest_id)
    packed = await session.scalar(select(Backtest.report).where(Backtest.id == row.id))
    if packed is None:
        raise NotFoundError(f"The backtest is {row.status}: only one that is done has a report.", code="no_report")
    return zlib.decompress(packed)


async def withdraw(session: AsyncSession, user_id: int, backtest_id: int) -> tuple[Backtest, bool]:
    """Cancel a backtest, or delete a finished one. A running one is stopped by its worker within a second or two, or at
    once where its worker has not been heard of for the length of its claim.

    Returns the row as it then stands, and whether it was deleted (then as it was).

    Raises:
        NotFoundError: there is none, or it is another user's.
    """
    query = select(Backtest).where(Backtest.id == backtest_id, Backtest.user_id == user_id)
    row = (await session.scalars(query.with_for_update())).first()
    if row is None:
        raise NotFoundError(f"You have no backtest {backtest_id}.")
    if row.status is BacktestStatus.QUEUED or await _is_forsaken(session, row):
        row.status, row.finished_at = BacktestStatus.CANCELLED, func.clock_timestamp()
        row.claim = row.claimed_until = None
    elif row.status is BacktestStatus.RUNNING:
        row.cancel_asked_at = row.cancel_asked_at or func.clock_timestamp()
    else:
        await session.execute(delete(Backtest).where(Backtest.id == row.id))
        return row, True
    await session.flush()
    await session.refresh(row)
    return row, False


async def _is_forsaken(session: AsyncSession, row: Backtest) -> bool:
    """Whether its worker has let the claim lapse: then nobody may be there to stop it."""
    lapsed = select(Backtest.id).where(Backtest.id == row.id, Backtest.claimed_until < func.clock_timestamp())
    return await session.scalar(lapsed) is not None


def old_backtests(kept_days: int, kept_per_user: int, rows_max: int) -> tuple[Delete, ...]:
    """Statements that drop finished backtests of before `kept_days` days, and of each user all but the newest
    `kept_per_user`; each drops at most `rows_max` rows and is to be run until it finds fewer."""
    before = func.clock_timestamp() - timedelta(days=kept_days)
    old = select(Backtest.id).where(Backtest.finished_at < before)
    newness = func.row_number().over(partition_by=Backtest.user_id, order_by=Backtest.id.desc())
    ranked = select(Backtest.id, newness.label("newness")).where(Backtest.finished_at.is_not(None)).subquery()
    too_many = select(ranked.c.id).where(ranked.c.newness > kept_per_user)
    usage = (BacktestUsage.user_id, BacktestUsage.day)
    old_usage = select(*usage).where(BacktestUsage.day < cast(before, Date))
    return (
        delete(Backtest).where(Backtest.id.in_(old.limit(rows_max))),
        delete(Backtest).where(Backtest.id.in_(too_many.limit(rows_max))),
        delete(BacktestUsage).where(tuple_(*usage).in_(old_usage.limit(rows_max))),
    )
