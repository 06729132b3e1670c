"""What a backtest found: every order, fill and trade, and each account bar by bar."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from backend.backtest.spec import Spec, Trader
from backend.domain.charges import Charges
from backend.domain.decide import ExitReason, TradeStatus
from backend.domain.market import Product, Side
from backend.domain.orders import Intent, OrderState
from backend.domain.reasons import Reason

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FillRecord:
    """One execution: shares, rupees per share, and all charges on it in rupees, the depository's included."""

    at: datetime
    quantity: int
    price: Decimal
    charges: Decimal


@dataclass(frozen=True, slots=True)
class OrderRecord:
    """One order that passed the decision. `charges`: by kind, of all its fills together (None: nothing filled);
    `dp_charge`: the depository's, in rupees; `denied`: why the gate refused it at the send."""

    number: int
    trade: int
    at: datetime
    symbol: str
    side: Side
    intent: Intent
    product: Product
    strategy: str
    quantity: int
    limit_price: Decimal
    state: OrderState
    filled_quantity: int
    fills: tuple[FillRecord, ...]
    charges: Charges | None
    dp_charge: Decimal
    message: str = ""
    denied: Reason | None = None


@dataclass(frozen=True, slots=True)
class TradeRecord:
    """One auto-trade, as the live record keeps it. Shares and prices are on the scale after the last corporate action;
    `realized_pnl` is net of all charges, `dividends` are beside it; `last_price` values what is still held."""

    number: int
    symbol: str
    strategy: str
    model_version: str | None
    mode: str
    product: Product
    status: TradeStatus
    decided_at: datetime
    opened_at: datetime | None
    closed_at: datetime | None
    entry_quantity: int
    entry_price: Decimal | None
    exit_quantity: int
    exit_price: Decimal | None
    target: Decimal
    stop: Decimal
    horizon_ends_on: date
    confidence: float
    expected_return_net: float
    charges: Decimal
    realized_pnl: Decimal
    unrealized_pnl: Decimal
    dividends: Decimal
    exit_reason: ExitReason | None


@dataclass(frozen=True, slots=True)
class Curve:
    """An account at the end of every bar (and once at the start): instants in seconds since 1970-01-01 UTC, rupees.

    `cash` includes what resting orders hold back; `equity` = `cash` + `positions` on every bar. The rupees are exact to
    a millionth before they become floats, for statistics and plots only.
    """

    at: Ints
    cash: Floats
    positions: Floats
    equity: Floats


@dataclass(frozen=True, slots=True)
class TraderResult:
    """One simulated user. `denied`: decisions not to enter or leave, counted once per session, symbol and reason."""

    trader: Trader
    orders: tuple[OrderRecord, ...]
    trades: tuple[TradeRecord, ...]
    curve: Curve
    denied: Mapping[Reason, int]
    cash: Decimal
    """Rupees at the end, exactly."""
    equity: Decimal
    """Cash and shares at their last prices at the end, rupees, exactly."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Session closes for the report, adjusted for splits and bonuses to the scale of the last session: one row per
    session day, one column per symbol, NaN where a share did not trade."""

    days: tuple[date, ...]
    symbols: tuple[str, ...]
    close: Floats


@dataclass(frozen=True, slots=True)
class BacktestResult:
    """A finished backtest. `idle`: predictions that could not be acted on, by reason; `notes`: what a reader must know;
    `interrupted`: it was stopped before its last session."""

    spec: Spec
    environment: str
    provider: str
    sessions: int
    bars: int
    traders: tuple[TraderResult, ...]
    prices: Prices
    benchmark: Sequence[tuple[date, float]] = ()
    idle: Mapping[str, int] = field(default_factory=dict[str, int])
    notes: tuple[str, ...] = ()
    interrupted: bool = False
