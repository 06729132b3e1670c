"""What administrators send and see."""

from datetime import date, time
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from backend.api.schemas.common import Body, Line, MarketReply, Moment, PageQuery, Reply
from backend.domain.calendar import OverrideKind
from backend.domain.market import Exchange
from backend.models import CalendarOverride, Cycle, CycleStatus, SubscriptionStatus
from backend.services.admin_service import CalendarCorrection


def _naive(clock: time) -> time:
    if clock.tzinfo is not None or clock.microsecond:
        raise ValueError("times are India's, as HH:MM or HH:MM:SS without an offset")
    return clock


ClockTime = Annotated[time, AfterValidator(_naive)]


class SubscriptionsQuery(PageQuery):
    status: SubscriptionStatus | None = None


class OverrideBody(Body):
    """`exchange` null is both; times are IST, and the standard day where both are null."""

    day: date
    exchange: Exchange | None = None
    kind: OverrideKind
    open_at: ClockTime | None = None
    close_at: ClockTime | None = None
    reason: Annotated[Line, Field(min_length=3, max_length=300)]

    def correction(self) -> CalendarCorrection:
        return CalendarCorrection(self.day, self.exchange, self.kind, self.open_at, self.close_at, self.reason)


class OverrideView(Reply):
    id: int
    day: date
    exchange: str | None
    kind: str
    open_at: time | None
    close_at: time | None
    reason: str
    created_by: int | None
    created_at: Moment

    @classmethod
    def of(cls, row: CalendarOverride) -> "OverrideView":
        return cls(**{name: getattr(row, name) for name in cls.model_fields})


class OverridesReply(Reply):
    overrides: list[OverrideView]
    next_cursor: str | None


class CycleView(Reply):
    """`summary` counts users, entries, exits and denials; null until the cycle is done."""

    id: int
    scheduled_at: Moment
    trade_date: date
    environment: str
    status: CycleStatus
    summary: dict[str, Any] | None
    opened_at: Moment
    finished_at: Moment | None

    @classmethod
    def of(cls, row: Cycle) -> "CycleView":
        return cls(**{name: getattr(row, name) for name in cls.model_fields})


class CyclesReply(MarketReply):
    cycles: list[CycleView]
    next_cursor: str | None
