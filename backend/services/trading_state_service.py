"""Imposing, lifting and reading the states that hold trading back; each change is a row, a message and a log line."""

import structlog
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.trading_states import (
    ADMIN_LIFTS,
    DETAIL_LENGTH_MAX,
    Cause,
    Scope,
    Standing,
    Standings,
    TradingState,
    imposed,
)
from backend.errors import InvalidRequestError, NotAllowedError, NotFoundError
from backend.models import BrokerAccount, OutboxMessage, Role, TradingStatePeriod, User
from backend.services.audit_service import SYSTEM, Actor, record

log = structlog.get_logger()

REASON_LENGTH_MIN = 10
TOPIC = "trading_state.changed"


async def impose(
    session: AsyncSession,
    scope: Scope,
    key: str,
    state: TradingState,
    cause: Cause,
    detail: str,
    *,
    flatten: bool = False,
    by: int | None = None,
) -> bool:
    """Let `state` stand for a scope and key, as far as what stands already is not graver. Joins the transaction.

    Once the caller has committed, no further order that the state forbids is sent. Doing it twice changes nothing.

    Returns:
        Whether anything changed (`backend.domain.trading_states.imposed` says how two states become one).
    """
    while True:
        row = await _standing_row(session, scope, key)
        set_at = (await session.execute(select(func.clock_timestamp()))).scalar_one()
        wanted = Standing(scope, key, state, flatten, cause, detail[:DETAIL_LENGTH_MAX], set_at, by)
        then = imposed(_standing(row) if row else None, wanted)
        if then is None:
            return False
        before = row.state if row else TradingState.ACTIVE
        if row is not None:
            _end(row, by, f"replaced: {cause}")
            await session.flush()
        if await _insert(session, then):
            await _tell(session, scope, key, before, then.state, then.flatten, then.cause, then.detail, by)
            return True
        # Another transaction imposed one in between, and has committed: the two are brought together.


async def lift(session: AsyncSession, scope: Scope, key: str, by: User | None, reason: str) -> TradingStatePeriod:
    """End what stands for a scope and key: it is ACTIVE again; `by` None is the operator. Joins the transaction.

    Raises:
        InvalidRequestError: the reason has fewer than REASON_LENGTH_MIN characters.
        NotFoundError: nothing stands.
        NotAllowedError: only an administrator may lift it: another's, or for a cause of `ADMIN_LIFTS`.
    """
    reason = reason.strip()
    if len(reason) < REASON_LENGTH_MIN:
        raise InvalidRequestError(f"Say why, in {REASON_LENGTH_MIN} characters or more.", code="reason_too_short")
    row = await _standing_row(session, scope, key)
    if row is None:
        raise NotFoundError("Nothing holds trading back here.", code="nothing_to_lift")
    if by is not None and by.role is not Role.ADMIN:
        own = (scope, key) in await own_scopes(session, by.id)
        if not own or row.cause in ADMIN_LIFTS:
            raise NotAllowedError(f"Only an administrator can lift this ({row.cause}).", code="admin_required")
    by_id = by.id if by else None
    _end(row, by_id, reason)
    await session.flush()
    await _tell(session, scope, key, row.state, TradingState.ACTIVE, False, row.cause, reason, by_id)
    await session.refresh(row)
    return row


async def lift_period(
    session: AsyncSession, period_id: int, by: User | None, reason: str, actor: Actor = SYSTEM
) -> TradingStatePeriod:
    """`lift` of what stands as the period with this id; `actor` is whom the audit log names.

    Raises:
        NotFoundError: there is no such period, or it is over.
    """
    period = await session.get(TradingStatePeriod, period_id)
    if period is None or period.ended_at is not None:
        raise NotFoundError(f"There is no standing state {period_id}.", code="nothing_to_lift")
    before = {"state": period.state.value, "cause": period.cause.value}
    lifted = await lift(session, period.scope, period.key, by, reason)
    subject_id = int(period.key) if period.scope is Scope.USER else None
    target = f"{period.scope}:{period.key}"
    await record(session, actor, "trading.lift", subject_id=subject_id, target=target, before=before, reason=reason)
    return lifted


async def lift_own(session: AsyncSession, user: User, reason: str) -> None:
    """End what stands for a user's own trading and holdings, by that user; nothing to do where nothing stands.

    Raises:
        NotAllowedError: only an administrator may lift it.
    """
    for scope, key in sorted(await own_scopes(session, user.id)):
        if await _standing_row(session, scope, key) is not None:
            await lift(session, scope, key, user, reason)


async def own_scopes(session: AsyncSession, user_id: int) -> set[tuple[Scope, str]]:
    """The scopes that concern this user alone: their trading, and what stands for single holdings of their accounts."""
    period = TradingStatePeriod
    holdings = await session.scalars(
        select(period.key)
        .join(BrokerAccount, period.key.startswith(func.concat(BrokerAccount.id, ":")))
        .where(period.scope == Scope.HOLDING, period.ended_at.is_(None), BrokerAccount.user_id == user_id)
    )
    return {(Scope.USER, str(user_id)), *((Scope.HOLDING, key) for key in holdings)}


async def standings(session: AsyncSession) -> Standings:
    """Everything that stands now, in one question: there are few, so that all are read for any number of users."""
    rows = await session.scalars(
        select(TradingStatePeriod).where(TradingStatePeriod.ended_at.is_(None)).order_by(TradingStatePeriod.id)
    )
    return Standings(tuple(_standing(row) for row in rows.all()))


async def periods(
    session: AsyncSession, before_id: int | None, limit: int, *, standing_only: bool = False
) -> list[TradingStatePeriod]:
    """Periods of every scope, newest first, below `before_id`."""
    query = select(TradingStatePeriod)
    if before_id is not None:
        query = query.where(TradingStatePeriod.id < before_id)
    if standing_only:
        query = query.where(TradingStatePeriod.ended_at.is_(None))
    return list((await session.scalars(query.order_by(TradingStatePeriod.id.desc()).limit(limit))).all())


async def _standing_row(session: AsyncSession, scope: Scope, key: str) -> TradingStatePeriod | None:
    period = TradingStatePeriod
    standing = select(period).where(period.scope == scope, period.key == key, period.ended_at.is_(None))
    return (await session.scalars(standing.with_for_update().execution_options(populate_existing=True))).one_or_none()


def _standing(row: TradingStatePeriod) -> Standing:
    return Standing(row.scope, row.key, row.state, row.flatten, row.cause, row.detail, row.set_at, row.set_by)


def _end(row: TradingStatePeriod, by: int | None, reason: str) -> None:
    row.ended_at = func.clock_timestamp()
    row.ended_by, row.end_reason = by, reason[:DETAIL_LENGTH_MAX]


async def _insert(session: AsyncSession, standing: Standing) -> bool:
    """Write the period; False where another one stands by now."""
    period = TradingStatePeriod
    values = {
        "scope": standing.scope,
        "key": standing.key,
        "state": standing.state,
        "flatten": standing.flatten,
        "cause": standing.cause,
        "detail": standing.detail,
        "set_by": standing.by,
        "set_at": standing.since,
    }
    statement = (
        insert(period)
        .values(values)
        .on_conflict_do_nothing(index_elements=[period.scope, period.key], index_where=period.ended_at.is_(None))
        .returning(period.id)
    )
    return await session.scalar(statement) is not None


async def _tell(
    session: AsyncSession,
    scope: Scope,
    key: str,
    before: TradingState,
    after: TradingState,
    flatten: bool,
    cause: Cause,
    detail: str,
    by: int | None,
) -> None:
    """Leave the message in the transaction it tells of; it is delivered after the commit."""
    payload = {
        "scope": scope.value,
        "key": key,
        "before": before.value,
        "state": after.value,
        "flatten": flatten,
        "cause": cause.value,
        "detail": detail,
        "by": by,
    }
    user_id = int(key) if scope is Scope.USER else None
    session.add(OutboxMessage(topic=TOPIC, user_id=user_id, payload=payload))
    await session.flush()
    log.warning("trading_state_changed", **payload)
