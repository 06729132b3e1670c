"""Corporate actions, universes and what was found wrong with prices, on the wire."""

from datetime import date
from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from backend.api.schemas.common import (
    PAGE_ROWS_DEFAULT,
    PAGE_ROWS_MAX,
    Body,
    Day,
    MarketReply,
    Moment,
    Money,
    Reply,
    Symbol,
)
from contracts.common import Environment
from contracts.market import (
    ActionKind,
    ActionsReply,
    CorporateAction,
    Interval,
    QualityFinding,
    QualityReply,
    UniverseReply,
)

ACTION_DAYS_MAX = 370
ACTION_DAYS_OF_ONE_MAX = 3700
"""Days of actions of all shares per request; and of one share."""
MEMBERS_MAX = 500


class ActionView(Reply):
    """A corporate action. Of a split, bonus or consolidation `shares_before` shares become `shares_after`; `amount` is
    rupees per share of a dividend; `known_on` is the first day on which anything may use it."""

    symbol: str
    ex_date: date
    known_on: date
    kind: ActionKind
    shares_before: int | None
    shares_after: int | None
    amount: Money | None
    new_symbol: str | None
    subject: str
    source: str

    @classmethod
    def of(cls, action: CorporateAction) -> "ActionView":
        return cls(**{name: getattr(action, name) for name in cls.model_fields})


class ActionsQuery(Body):
    """Ex-dates `from`..`to`, both inclusive; days to come show what is announced already."""

    from_: Annotated[Day, Field(alias="from")]
    to: Day
    symbol: Symbol | None = None

    @model_validator(mode="after")
    def _days(self) -> "ActionsQuery":
        if not 1990 <= self.from_.year <= self.to.year <= 9000:
            raise ValueError("days lie between 1990 and 9000, from before to")
        if self.from_ > self.to:
            raise ValueError("from must not be after to")
        days_max = ACTION_DAYS_MAX if self.symbol is None else ACTION_DAYS_OF_ONE_MAX
        if (self.to - self.from_).days >= days_max:
            raise ValueError(f"{days_max} days at most: ask in parts")
        return self


class ActionsView(MarketReply):
    """Corporate actions as they were known at `as_of`, by ex-date and symbol."""

    as_of: Moment
    actions: list[ActionView]

    @classmethod
    def of(cls, environment: Environment, reply: ActionsReply, symbol: str | None) -> "ActionsView":
        wanted = [ActionView.of(action) for action in reply.actions if symbol in (None, action.symbol)]
        return cls(environment=environment, as_of=reply.as_of, actions=wanted)


class UniverseName(StrEnum):
    """`default`: five large shares; `nifty50`: the index; `top`: the largest by turnover."""

    DEFAULT = "default"
    NIFTY50 = "nifty50"
    TOP = "top"


class UniverseQuery(Body):
    """`n` is how many members of `top`."""

    name: UniverseName = UniverseName.DEFAULT
    n: Annotated[int, Field(ge=1, le=MEMBERS_MAX)] = 50


class UniverseView(MarketReply):
    """The members as of `as_of`, in the universe's own order; `note` says what is not as it should be."""

    as_of: Moment
    name: str
    members: list[str]
    note: str

    @classmethod
    def of(cls, environment: Environment, reply: UniverseReply) -> "UniverseView":
        return cls(environment=environment, as_of=reply.as_of, name=reply.name, members=reply.members, note=reply.note)


class QualityQuery(Body):
    symbol: Symbol | None = None
    reason: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,40}$")] | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_ROWS_MAX)] = PAGE_ROWS_DEFAULT
    cursor: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")] | None = None


class FindingView(Reply):
    """`interval` is null and `start` the quote's instant where the finding is about a quote. What is `quarantined` is
    in no answer; the rest is served."""

    symbol: str
    interval: Interval | None
    start: Moment | None
    source: str
    reason: str
    detail: str
    quarantined: bool
    found_at: Moment

    @classmethod
    def of(cls, finding: QualityFinding) -> "FindingView":
        return cls(**{name: getattr(finding, name) for name in cls.model_fields})


class QualityView(MarketReply):
    """Findings, newest first, and how many of each reason there are in all."""

    as_of: Moment
    counts: dict[str, int]
    findings: list[FindingView]
    next_cursor: str | None

    @classmethod
    def of(cls, environment: Environment, reply: QualityReply) -> "QualityView":
        return cls(
            environment=environment,
            as_of=reply.as_of,
            counts=reply.counts,
            findings=[FindingView.of(finding) for finding in reply.findings],
            next_cursor=reply.next_cursor,
        )
