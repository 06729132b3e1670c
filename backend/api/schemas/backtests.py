"""Backtests on the wire: what may be asked, how far one is, what came of it."""

import unicodedata
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from math import prod
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainSerializer, StringConstraints, ValidationInfo, model_validator

from backend.api.schemas.auto_trading import STRATEGIES_PER_USER_MAX
from backend.api.schemas.common import Body, Day, Line, MarketReply, Moment, Reply
from backend.api.schemas.protections import ProtectionRules
from backend.api.schemas.signals import StrategyName
from backend.domain.market import Product
from backend.domain.modes import Mode
from backend.domain.protections import from_stored, to_stored
from backend.models import Backtest, BacktestStatus
from contracts.common import Environment
from contracts.market import Interval
from contracts.predictions import WALK_FORWARD

DAYS_MAX = 3700
SHARES_MAX = 200
TRADERS_MAX = 8
SWEEP_VALUES_MAX = 20
BARS_MAX = 8_000_000
"""Bars that one run reads: years of daily bars of any universe, a quarter of one-minute bars of fifty shares."""
STEPS_MAX = 20_000_000
"""Bars times traders or combinations: what one process does within BACKTEST_SECONDS_MAX, and some to spare."""
STORED = {"stored": True}
"""Validation context of a request that was accepted before: bounds that have changed since do not matter to it."""

_SHARES_OF = {"default": 5, "nifty50": 50}
_SESSIONS_PER_DAY = 250 / 365
_MINUTES_PER_SESSION = 375
_MINUTES = {
    Interval.MIN_1: 1,
    Interval.MIN_3: 3,
    Interval.MIN_5: 5,
    Interval.MIN_10: 10,
    Interval.MIN_15: 15,
    Interval.MIN_30: 30,
    Interval.HOUR_1: 60,
    Interval.DAY_1: _MINUTES_PER_SESSION,
}


def _distinct(values: list[Any]) -> list[Any]:
    if any(value in values[:i] for i, value in enumerate(values)):
        raise ValueError("something is listed twice")
    return values


def _universe(text: str) -> str:
    shares = shares_of(text)
    if not 1 <= shares <= SHARES_MAX:
        raise ValueError(f"a universe has 1 to {SHARES_MAX} shares, not {shares}")
    _distinct(text.split(","))
    return text


def shares_of(universe: str) -> int:
    """How many shares a universe has at most at once."""
    if universe in _SHARES_OF:
        return _SHARES_OF[universe]
    kind, _, n = universe.partition(":")
    return int(n) if kind == "top" else len(universe.split(","))


_AS_TEXT = PlainSerializer(str, return_type=str)
Universe = Annotated[
    str,
    StringConstraints(
        max_length=4200,
        pattern=r"^(default|nifty50|top:[0-9]{1,4}|[A-Z0-9][A-Z0-9&\-]{0,19}(,[A-Z0-9][A-Z0-9&\-]{0,19})*)$",
    ),
    AfterValidator(_universe),
]
"""`default`, `nifty50`, `top:N` (the N largest by turnover) or symbols with commas between; as of each month."""
Capital = Annotated[Decimal, Field(ge=1_000, le=1_000_000_000, decimal_places=2), _AS_TEXT]
Slippage = Annotated[Decimal, Field(ge=0, le=Decimal("0.05"), decimal_places=6), _AS_TEXT]
Participation = Annotated[Decimal, Field(ge=Decimal("0.0001"), le=1, decimal_places=4), _AS_TEXT]
LatencyBars = Annotated[int, Field(strict=True, ge=0, le=60)]
LimitDistance = Annotated[Decimal, Field(gt=0, le=Decimal("0.03"), decimal_places=6), _AS_TEXT]
ModelName = Annotated[str, StringConstraints(max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:+\-]*$")]
StrategyNames = Annotated[list[StrategyName], Field(max_length=STRATEGIES_PER_USER_MAX), AfterValidator(_distinct)]
_VALUES = Field(min_length=1, max_length=SWEEP_VALUES_MAX)


_JOINERS = "\u200c\u200d"
"""The format characters that Indian scripts are written with."""


def _plain(name: str, info: ValidationInfo) -> str:
    if info.context is not STORED and any(_is_invisible(character) for character in name):
        raise ValueError("a name holds no control characters and none that turn the direction of the text")
    return name


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and character not in _JOINERS


class TraderBody(Body):
    """One user to be simulated, with an account of their own."""

    name: Annotated[Line, Field(max_length=40), AfterValidator(_plain)] = Field(
        default="", description="The mode's where it is empty."
    )
    mode: Mode
    capital: Capital = Field(default=Decimal(500_000), description="Rupees at the start.")
    product: Product = Product.CNC
    strategies: StrategyNames = Field(default=[], description="Empty is every certified one.")
    protections: ProtectionRules = ProtectionRules()
    entries_per_day_max: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = Field(
        default=None, description="May only lower the plan's limit; null is the plan's limit."
    )


class SweepBody(Body):
    """Values to try by parameter: every combination is run. Fractions are of the last price (limit distances) or of
    the fill's price (slippage)."""

    mode: Annotated[list[Mode], _VALUES, AfterValidator(_distinct)] | None = None
    strategies: Annotated[list[StrategyNames], _VALUES, AfterValidator(_distinct)] | None = None
    entry_protection_fraction: Annotated[list[LimitDistance], _VALUES, AfterValidator(_distinct)] | None = None
    exit_protection_fraction: Annotated[list[LimitDistance], _VALUES, AfterValidator(_distinct)] | None = None
    cluster_positions_max: (
        Annotated[list[Annotated[int, Field(strict=True, ge=1, le=50)]], _VALUES, AfterValidator(_distinct)] | None
    ) = None
    slippage_fraction: Annotated[list[Slippage], _VALUES, AfterValidator(_distinct)] | None = None
    latency_bars: Annotated[list[LatencyBars], _VALUES, AfterValidator(_distinct)] | None = None

    def given(self) -> dict[str, list[Any]]:
        """The parameters that are swept."""
        return {name: values for name in type(self).model_fields if (values := getattr(self, name)) is not None}


class BacktestBody(Body):
    """`mode` is short for one trader with the defaults. Days are IST and inclusive."""

    mode: Mode | None = None
    traders: Annotated[list[TraderBody], Field(min_length=1, max_length=TRADERS_MAX)] | None = None
    from_: Annotated[Day, Field(alias="from")]
    to: Day
    universe: Universe = "default"
    interval: Interval = Interval.DAY_1
    slippage_fraction: Slippage = Decimal("0.0002")
    participation_fraction: Participation = Field(
        default=Decimal("0.1"), description="Of a bar's volume, at most so much is filled."
    )
    latency_bars: LatencyBars = Field(
        default=0, description="So many bars after it was decided an order meets the market; 0 for daily bars."
    )
    proceeds: Literal["at_once", "settled"] = Field(
        default="at_once", description="When the money of a sale may be spent again."
    )
    model: ModelName = Field(
        default=WALK_FORWARD, description="walk_forward: each day by a model of before it; or a registered version."
    )
    sweep: SweepBody | None = None

    @model_validator(mode="after")
    def _possible(self, info: ValidationInfo) -> "BacktestBody":
        if (self.mode is None) == (self.traders is None):
            raise ValueError("give either mode or traders")
        self._check_days()
        names = [_name_of(trader) for trader in self.users()]
        if len(set(names)) != len(names):
            raise ValueError("two traders have one name: give each its own")
        latencies = [self.latency_bars, *((self.sweep.latency_bars or []) if self.sweep else [])]
        if self.interval is Interval.DAY_1 and any(latencies):
            raise ValueError("latency_bars counts intraday bars: with daily bars it must be 0")
        if self.sweep is not None and len(names) != 1:
            raise ValueError("a sweep is of one trader")
        if self.sweep is not None and not self.sweep.given():
            raise ValueError("the sweep names no parameter")
        if info.context is not STORED:
            self._check_size(self.combinations * len(names))
        return self

    def _check_days(self) -> None:
        if self.from_ > self.to:
            raise ValueError("from must not be after to")
        if not 1990 <= self.from_.year <= self.to.year <= 2200:
            raise ValueError("days lie between 1990 and 2200")
        if self.to - self.from_ > timedelta(days=DAYS_MAX):
            raise ValueError(f"a backtest has {DAYS_MAX} days at most")

    def _check_size(self, runs: int) -> None:
        if self.bars > BARS_MAX:
            raise ValueError(
                f"about {self.bars:,} bars would be read, {BARS_MAX:,} at most: fewer days or shares, or longer bars"
            )
        if self.bars * runs > STEPS_MAX:
            raise ValueError(
                f"{runs} runs over {self.bars:,} bars each are {self.bars * runs:,} in all, {STEPS_MAX:,} at most: "
                "fewer traders, combinations, days or shares, or longer bars"
            )

    @property
    def bars(self) -> int:
        """About how many bars it reads."""
        sessions = ((self.to - self.from_).days + 1) * _SESSIONS_PER_DAY
        per_session = -(-_MINUTES_PER_SESSION // _MINUTES[self.interval])
        return round(sessions * per_session * shares_of(self.universe))

    @property
    def combinations(self) -> int:
        """How many runs the sweep asks for; 1 without one."""
        return prod(len(values) for values in self.sweep.given().values()) if self.sweep else 1

    def users(self) -> list[TraderBody]:
        """The traders, also where only a mode is given."""
        return self.traders or ([TraderBody(mode=self.mode)] if self.mode else [])

    def strategies(self) -> list[str]:
        """Every strategy that is named anywhere in it."""
        swept = (self.sweep.strategies or []) if self.sweep else []
        named = [name for names in ([trader.strategies for trader in self.users()] + swept) for name in names]
        return list(dict.fromkeys(named))

    def stored(self, entries_per_day: int) -> dict[str, Any]:
        """What the queue keeps and a worker reads: nothing left out, the daily entries at most the plan's."""
        document = self.model_dump(mode="json", by_alias=True, exclude={"mode", "traders", "sweep"})
        document["traders"] = [_stored_trader(trader, entries_per_day) for trader in self.users()]
        document["sweep"] = self.sweep.model_dump(mode="json", exclude_none=True) if self.sweep else None
        return document


def _name_of(trader: TraderBody) -> str:
    return trader.name or trader.mode.value


def _stored_trader(trader: TraderBody, entries_per_day: int) -> dict[str, Any]:
    return {
        "name": _name_of(trader),
        "mode": trader.mode.value,
        "capital": str(trader.capital),
        "product": trader.product.value,
        "strategies": trader.strategies,
        "protections": to_stored(trader.protections.rules()),
        "entries_per_day_max": min(entries_per_day, trader.entries_per_day_max or entries_per_day),
    }


def asked_in(stored: Mapping[str, Any]) -> BacktestBody:
    """The request that was stored, in the API's own shape and whole. What is too large by now is read, too."""
    traders = [
        trader | {"protections": ProtectionRules.of(from_stored(trader["protections"]))} for trader in stored["traders"]
    ]
    return BacktestBody.model_validate({**stored, "traders": traders}, context=STORED)


class ProgressView(Reply):
    """`done` of `total` steps of what is done now (`doing`); 0 of 0 before it begins."""

    done: int
    total: int
    doing: str


class BacktestView(Reply):
    """`cancelling`: it runs and was asked to stop. `error` says why it failed, and what to do."""

    id: int
    status: BacktestStatus
    cancelling: bool
    request: BacktestBody
    progress: ProgressView
    error: str | None
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None

    @classmethod
    def of(cls, row: Backtest) -> "BacktestView":
        return cls(
            id=row.id,
            status=row.status,
            cancelling=row.status is BacktestStatus.RUNNING and row.cancel_asked_at is not None,
            request=asked_in(row.request),
            progress=ProgressView(done=row.done, total=row.total, doing=row.doing),
            error=row.error,
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
        )


class BacktestReply(MarketReply):
    """`summary` holds the figures of the report once it is done: rupees as strings, statistics as numbers."""

    backtest: BacktestView
    summary: dict[str, Any] | None = None
    message: str = ""

    @classmethod
    def of(cls, environment: Environment, row: Backtest, message: str = "") -> "BacktestReply":
        """Without the summary."""
        return cls(environment=environment, backtest=BacktestView.of(row), message=message)


class BacktestsReply(MarketReply):
    backtests: list[BacktestView]
    next_cursor: str | None


class BacktestEventView(Reply):
    """The data of an event. `status` is `deleted` where the backtest is no more."""

    status: BacktestStatus | Literal["deleted"]
    progress: ProgressView
    error: str | None
