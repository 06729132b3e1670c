"""What administrators see and correct: the market's calendar and the record of cycles."""

from dataclasses import dataclass
from datetime import date, time

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from backend.domain.calendar import Override, OverrideKind, standard_calendar
from backend.domain.market import Exchange
from backend.errors import InvalidRequestError
from backend.models import CalendarOverride, Cycle
from backend.services.context import Trading


@dataclass(frozen=True, slots=True)
class CalendarCorrection:
    """One day as an admin sets it; times are IST, and the standard day where both are None."""

    day: date
    exchange: Exchange | None
    kind: OverrideKind
    open_at: time | None
    close_at: time | None
    reason: str


async def correct_calendar(trading: Trading, admin_id: int, correction: CalendarCorrection) -> CalendarOverride:
    """Record a correction and let it take effect at once in this process; others follow on their next refresh.

    Raises:
        InvalidRequestError: its times cannot hold a session's phases.
    """
    _require_possible(correction)
    row = CalendarOverride(
        day=correction.day,
        exchange=correction.exchange.value if correction.exchange else None,
        kind=correction.kind.value,
        open_at=correction.open_at,
        close_at=correction.close_at,
        reason=correction.reason,
        created_by=admin_id,
    )
    async with trading.sessions.begin() as session:
        session.add(row)
        await session.flush()
        await session.refresh(row)
    await trading.calendar.refresh(trading.sessions)
    return row


def _require_possible(correction: CalendarCorrection) -> None:
    """One row that cannot be laid out would stop every later refresh, so none is let in."""
    opens, closes = correction.open_at, correction.close_at
    if (opens is None) != (closes is None):
        raise InvalidRequestError("Give both open_at and close_at, or neither.", code="invalid_session_times")
    if opens is None or closes is None:
        override = Override(correction.day, correction.kind, correction.reason, "", correction.exchange)
    else:
        if correction.kind is not OverrideKind.OPEN:
            raise InvalidRequestError("Only a day of kind open has times.", code="invalid_session_times")
        override = Override(
            correction.day, correction.kind, correction.reason, "", correction.exchange, continuous=((opens, closes),)
        )
    try:
        standard_calendar().with_overrides([override])
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError(str(error), code="invalid_session_times") from None


async def list_corrections(session: AsyncSession, before_id: int | None, limit: int) -> list[CalendarOverride]:
    """Corrections, newest first."""
    query = select(CalendarOverride)
    if before_id is not None:
        query = query.where(CalendarOverride.id < before_id)
    return list((await session.scalars(query.order_by(CalendarOverride.id.desc()).limit(limit))).all())


async def list_cycles(session: AsyncSession, before_id: int | None, limit: int) -> list[Cycle]:
    """Cycles, newest first, without their inputs."""
    query = select(Cycle).options(defer(Cycle.inputs, raiseload=True))
    if before_id is not None:
        query = query.where(Cycle.id < before_id)
    return list((await session.scalars(query.order_by(Cycle.id.desc()).limit(limit))).all())
