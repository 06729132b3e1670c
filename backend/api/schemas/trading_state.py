"""Trading states and the kill switch on the wire."""

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from backend.api.schemas.common import Body, Line, MarketReply, Moment, PageQuery, Reply
from backend.domain.orders import Intent
from backend.domain.trading_states import WHAT_TO_DO, Cause, Effective, Scope, Standing, TradingState, permits
from backend.models import TradingStatePeriod
from backend.services.cancel_service import CancelCounts
from backend.services.kill_switch_service import KillSwitchReport
from backend.services.trading_state_service import REASON_LENGTH_MIN
from contracts.common import Environment

Reason = Annotated[Line, Field(max_length=280)]
Key = Annotated[str, StringConstraints(max_length=60, pattern=r"^[A-Za-z0-9_.\-]*$")]


class KillSwitchBody(Body):
    """`flatten` sells open auto-trades at the next tick, and nothing else that is held; without it nothing is sold."""

    flatten: bool = Field(default=False, strict=True)
    reason: Reason = ""


class AdminKillSwitchBody(Body):
    """`key`: the broker, the strategy or the user's id; empty for the platform. `flatten`: sell open auto-trades."""

    scope: Scope
    key: Key = ""
    flatten: bool = Field(default=False, strict=True)
    reason: Annotated[Reason, Field(min_length=3)]

    @model_validator(mode="after")
    def _keyed(self) -> "AdminKillSwitchBody":
        if (self.scope is Scope.PLATFORM) != (self.key == ""):
            raise ValueError("the platform has no key, and every other scope has one")
        return self


class PauseBody(Body):
    """`key`: the broker, the strategy or the user's id; empty for the platform. Entries stop, exits go on."""

    scope: Scope
    key: Key = ""
    reason: Annotated[Reason, Field(min_length=3)]

    @model_validator(mode="after")
    def _keyed(self) -> "PauseBody":
        if (self.scope is Scope.PLATFORM) != (self.key == ""):
            raise ValueError("the platform has no key, and every other scope has one")
        return self


class LiftBody(Body):
    reason: Annotated[Line, Field(min_length=REASON_LENGTH_MIN, max_length=300)]


class StandingView(Reply):
    """`by_system`: Sauda itself imposed it."""

    scope: Scope
    key: str
    state: TradingState
    flatten: bool
    cause: Cause
    detail: str
    since: Moment
    by_system: bool
    what_to_do: str

    @classmethod
    def of(cls, standing: Standing) -> "StandingView":
        return cls(
            scope=standing.scope,
            key=standing.key,
            state=standing.state,
            flatten=standing.flatten,
            cause=standing.cause,
            detail=standing.detail,
            since=standing.since,
            by_system=standing.by is None,
            what_to_do=WHAT_TO_DO[standing.cause],
        )


class TradingStateReply(MarketReply):
    """What holds for the user's orders through the primary account; `standing` is why, the gravest first.

    A state of one strategy or one holding is listed too: it holds for that strategy's or that share's orders only.
    """

    state: TradingState
    flatten: bool
    entries_allowed: bool
    exits_allowed: bool
    standing: list[StandingView]

    @classmethod
    def of(cls, environment: Environment, effective: Effective, partly: list[Standing]) -> "TradingStateReply":
        return cls(
            environment=environment,
            state=effective.state,
            flatten=effective.flatten,
            entries_allowed=permits(effective, Intent.ENTRY),
            exits_allowed=permits(effective, Intent.EXIT),
            standing=[StandingView.of(standing) for standing in (*effective.because, *partly)],
        )


class CancelsView(Reply):
    """Orders: open at the brokers when it began; their cancel recorded; asked for; and not known to be over yet."""

    open: int
    cancel_requested: int
    cancel_asked: int
    unconfirmed: int

    @classmethod
    def of(cls, counts: CancelCounts) -> "CancelsView":
        return cls(
            open=counts.open,
            cancel_requested=counts.requested,
            cancel_asked=counts.asked,
            unconfirmed=counts.unconfirmed,
        )


class KillSwitchReply(MarketReply):
    """`changed` is false where as much stood already. `message` says what goes on from here."""

    scope: Scope
    key: str
    state: TradingState
    flatten: bool
    changed: bool
    cancels: CancelsView
    message: str

    @classmethod
    def of(cls, environment: Environment, scope: Scope, key: str, report: KillSwitchReport) -> "KillSwitchReply":
        return cls(
            environment=environment,
            scope=scope,
            key=key,
            state=report.effective.state,
            flatten=report.effective.flatten,
            changed=report.changed,
            cancels=CancelsView.of(report.cancels),
            message=_message(report),
        )


def _message(report: KillSwitchReport) -> str:
    sentences = ["Nothing is sent any more."]
    if report.effective.state is TradingState.REDUCING:
        sentences = ["No entry is sent any more; open trades keep their targets, stops and exits."]
    elif report.effective.flatten:
        sentences = [
            "No entry is sent any more.",
            "Open auto-trades are sold at the next tick of the continuous session.",
        ]
    if report.unstopped:
        sentences.append(f"{report.unstopped}.")
    if report.cancels.unconfirmed:
        sentences.append(
            f"{report.cancels.unconfirmed} open orders are not confirmed as cancelled yet: "
            "reconciliation goes on until they are."
        )
    return " ".join(sentences)


class PeriodsQuery(PageQuery):
    """`standing` true leaves out what is over."""

    standing: bool = False


class PeriodView(Reply):
    """One period; the user ids are null where the system did it, the ends null while it stands."""

    id: int
    scope: Scope
    key: str
    state: TradingState
    flatten: bool
    cause: Cause
    detail: str
    set_at: Moment
    set_by: int | None
    ended_at: Moment | None
    ended_by: int | None
    end_reason: str | None

    @classmethod
    def of(cls, row: TradingStatePeriod) -> "PeriodView":
        return cls(**{name: getattr(row, name) for name in cls.model_fields})


class PeriodsReply(Reply):
    trading_states: list[PeriodView]
    next_cursor: str | None
