"""What administrators see and correct: the market's calendar, the record of cycles, and orders that lag behind."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from statistics import median

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from backend.domain.calendar import Override, OverrideKind, standard_calendar
from backend.domain.market import Exchange
from backend.errors import InvalidRequestError, NotFoundError
from backend.models import BrokerAccount, CalendarOverride, Cycle, CycleShard
from backend.services.audit_service import Actor, record
from backend.services.context import Trading
from backend.services.reconcile_service import ReconcileReport, reconcile


@dataclass(frozen=True, slots=True)
class CalendarCorrection:
    """One day as an admin sets it; times are IST, and the standard day where both are None."""

    day: date
    exchange: Exchange | None
    kind: OverrideKind
    open_at: time | None
    close_at: time | None
    reason: str


async def correct_calendar(trading: Trading, actor: Actor, correction: CalendarCorrection) -> CalendarOverride:
    """Record a correction and let it take effect at once in this process; others follow on their next refresh.

    Raises:
        InvalidRequestError: its times cannot hold a session's phases.
    """
    async with trading.sessions.begin() as session:
        row = await add_correction(session, actor, correction)
    await trading.calendar.refresh(trading.sessions)
    return row


async def add_correction(session: AsyncSession, actor: Actor, correction: CalendarCorrection) -> CalendarOverride:
    """Record a correction; traders see it within a minute. Joins the transaction.

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
        created_by=actor.id,
    )
    session.add(row)
    await session.flush()
    await session.refresh(row)
    after = {name: str(getattr(row, name)) for name in ("day", "exchange", "kind", "open_at", "close_at")}
    await record(session, actor, "calendar.correct", target=str(row.day), after=after, reason=correction.reason)
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


async def force_reconcile(trading: Trading, actor: Actor, account_id: int | None) -> ReconcileReport:
    """Bring orders in line with the brokers' books now, of one account or of all: as often as one likes.

    Raises:
        NotFoundError: no such account.
        UpstreamError: the market's clock did not answer.
    """
    async with trading.sessions() as session:
        if account_id is not None and await session.get(BrokerAccount, account_id) is None:
            raise NotFoundError(f"There is no broker account {account_id}.")
    report = await reconcile(trading, None if account_id is None else [account_id])
    target = "" if account_id is None else f"broker_account:{account_id}"
    after = {"orders": report.orders, "changed": report.changed, "abandoned": report.abandoned}
    async with trading.sessions.begin() as session:
        await record(session, actor, "trading.reconcile", target=target, after=after)
    return report


async def list_corrections(session: AsyncSession, before_id: int | None, limit: int) -> list[CalendarOverride]:
    """Corrections, newest first."""
    query = select(CalendarOverride)
    if before_id is not None:
        query = query.where(CalendarOverride.id < before_id)
    return list((await session.scalars(query.order_by(CalendarOverride.id.desc()).limit(limit))).all())


@dataclass(frozen=True, slots=True)
class LastCycle:
    """The newest cycle, its shards, and how old its inputs were: market seconds before the cycle's own instant.

    `missing`: symbols without a quote, and why; `problems`: batches that did not come, and why.
    """

    cycle: Cycle
    shards: tuple[CycleShard, ...]
    market_now: datetime | None
    quotes: int
    quote_age_s_median: float | None
    quote_age_s_max: float | None
    missing: Mapping[str, str]
    predictions: int
    candidates: int
    model_version: str | None
    features_through: date | None
    problems: Mapping[str, str]


async def last_cycle(session: AsyncSession) -> LastCycle:
    """The newest cycle with everything that tells how it went.

    Raises:
        NotFoundError: no cycle has run yet.
    """
    cycle = (await session.scalars(select(Cycle).order_by(Cycle.id.desc()).limit(1))).first()
    if cycle is None:
        raise NotFoundError("No cycle has run yet: the first one opens with the market.", code="no_cycle")
    shards = await session.scalars(select(CycleShard).where(CycleShard.cycle_id == cycle.id).order_by(CycleShard.shard))
    inputs = cycle.inputs or {}
    quotes, predictions = inputs.get("quotes") or {}, inputs.get("predictions") or {}
    ages = [float(quote["age_s"]) for quote in quotes.get("quotes", {}).values() if "age_s" in quote]
    through = predictions.get("features_through")
    return LastCycle(
        cycle=cycle,
        shards=tuple(shards.all()),
        market_now=datetime.fromisoformat(inputs["now"]) if "now" in inputs else None,
        quotes=len(quotes.get("quotes", {})),
        quote_age_s_median=median(ages) if ages else None,
        quote_age_s_max=max(ages, default=None),
        missing=quotes.get("missing", {}),
        predictions=len(predictions.get("predictions", {})),
        candidates=sum(map(len, predictions.get("candidates", {}).values())),
        model_version=predictions.get("model_version"),
        features_through=date.fromisoformat(through) if through else None,
        problems=inputs.get("problems") or {},
    )


async def list_cycles(session: AsyncSession, before_id: int | None, limit: int) -> list[Cycle]:
    """Cycles, newest first, without their inputs."""
    query = select(Cycle).options(defer(Cycle.inputs, raiseload=True))
    if before_id is not None:
        query = query.where(Cycle.id < before_id)
    return list((await session.scalars(query.order_by(Cycle.id.desc()).limit(limit))).all())
