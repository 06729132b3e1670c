"""What administrators send and see."""

from datetime import date, time
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from backend.api.schemas.common import Body, Day, Id, Line, MarketReply, Moment, PageQuery, Reply
from backend.domain.calendar import OverrideKind
from backend.domain.market import Exchange
from backend.models import CalendarOverride, Cycle, CycleShard, CycleStatus, SubscriptionStatus
from backend.services.admin_service import CalendarCorrection, LastCycle
from backend.services.reconcile_service import ReconcileReport
from contracts.common import Environment


def _naive(clock: time) -> time:
    if clock.tzinfo is not None or clock.microsecond:
        raise ValueError("times are India's, as HH:MM or HH:MM:SS without an offset")
    return clock


ClockTime = Annotated[time, AfterValidator(_naive)]


class SubscriptionsQuery(PageQuery):
    status: SubscriptionStatus | None = None


class OverrideBody(Body):
    """`exchange` null is both; times are IST, and the standard day where both are null."""

    day: Day
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


class ShardView(Reply):
    """A share of the cycle's users: `recorded` its decisions, `done` its sends; `claimed_until` is real time."""

    shard: int
    claimed_until: Moment | None
    recorded: bool
    done: bool

    @classmethod
    def of(cls, row: CycleShard) -> "ShardView":
        return cls(**{name: getattr(row, name) for name in cls.model_fields})


class LastCycleReply(MarketReply):
    """`quote_age_s_*`: market seconds; `missing`: symbols without a quote, and why; `problems`: batches that did not
    come. `duration_s` is in real seconds, null until the cycle is done."""

    cycle: CycleView
    duration_s: float | None
    shards: list[ShardView]
    market_now: Moment | None
    quotes: int
    quote_age_s_median: float | None
    quote_age_s_max: float | None
    missing: dict[str, str]
    predictions: int
    candidates: int
    model_version: str | None
    features_through: date | None
    problems: dict[str, str]

    @classmethod
    def of(cls, environment: Environment, last: LastCycle) -> "LastCycleReply":
        computed = {"environment", "cycle", "duration_s", "shards"}
        ended = last.cycle.finished_at
        return cls(
            environment=environment,
            cycle=CycleView.of(last.cycle),
            duration_s=(ended - last.cycle.opened_at).total_seconds() if ended else None,
            shards=[ShardView.of(row) for row in last.shards],
            **{name: getattr(last, name) for name in cls.model_fields.keys() - computed},
        )


class ReconcileBody(Body):
    """`account_id`: that account alone; null: all of them."""

    account_id: Id | None = None


class ReconcileReply(MarketReply):
    """Orders looked at, changed, and dropped because they were never sent. `failed_accounts` gave no report, and their
    orders were left alone; `unsettled` orders show what cannot be, and wait for a person."""

    orders: int
    changed: int
    abandoned: int
    failed_accounts: list[int]
    unsettled: list[int]

    @classmethod
    def of(cls, environment: Environment, report: ReconcileReport) -> "ReconcileReply":
        return cls(
            environment=environment,
            orders=report.orders,
            changed=report.changed,
            abandoned=report.abandoned,
            failed_accounts=sorted(report.failed_accounts),
            unsettled=report.unsettled,
        )
