"""What a backtest is asked: the days, the shares, who trades with what, and how orders are taken to fill."""

from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import StrEnum

from backend.domain.gate import GateLimits
from backend.domain.market import Product
from backend.domain.matching import FillModel
from backend.domain.modes import Mode
from backend.domain.protections import DEFAULTS, Protections
from backend.domain.risk import RiskLimits
from contracts.market import Interval

ENTRIES_PER_DAY_DEFAULT = 1000


class Proceeds(StrEnum):
    """When the money of a sale may be spent again: at once, as brokers allow and the paper broker does, or once the
    sale has settled (T+1; T+2 until 2023-01-26)."""

    AT_ONCE = "at_once"
    SETTLED = "settled"


@dataclass(frozen=True, slots=True)
class Trader:
    """One user to be simulated, with an account of their own. `capital`: rupees at the start; `entries_per_day_max`:
    the plan's and the user's own limit, whichever is lower; `strategies`: all of them where it is empty."""

    name: str
    mode: Mode
    capital: Decimal = Decimal(500_000)
    product: Product = Product.CNC
    strategies: frozenset[str] = frozenset()
    protections: Protections = DEFAULTS
    entries_per_day_max: int = ENTRIES_PER_DAY_DEFAULT


@dataclass(frozen=True, slots=True)
class Spec:
    """A whole backtest. Days are IST and inclusive; `latency_bars`: an order meets the market so many bars after it was
    decided (0: at the quote it was decided on, as the paper broker fills); `order_rest_s_max`: market seconds after
    which what has not filled is cancelled.

    Raises:
        ValueError: the days are in the wrong order, nobody trades, or daily bars are given a latency in bars.
    """

    first: date
    last: date
    traders: tuple[Trader, ...]
    interval: Interval = Interval.DAY_1
    fills: FillModel = field(default_factory=FillModel)
    latency_bars: int = 0
    proceeds: Proceeds = Proceeds.AT_ONCE
    limits: RiskLimits = field(default_factory=RiskLimits)
    gate: GateLimits = field(default_factory=GateLimits)
    day_loss_fraction_max: Decimal = Decimal("0.02")
    order_rest_s_max: int = 600

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise ValueError(f"the first day, {self.first}, is after the last, {self.last}")
        if not self.traders:
            raise ValueError("a backtest needs at least one trader")
        if self.latency_bars < 0 or (self.latency_bars and self.interval is Interval.DAY_1):
            raise ValueError("a latency is a whole number of intraday bars: with daily bars it must be 0")
