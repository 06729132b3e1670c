"""The gate: the last pure check before an order may be recorded or sent. Only it can make an `Approved`."""

from dataclasses import InitVar, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import final

from backend.domain.market import OrderType, Product, Side
from backend.domain.orders import Intent
from backend.domain.reasons import Reason


@dataclass(frozen=True, slots=True)
class RiskLimits:
    """The platform's limits, each with its unit. Fractions are of the last price; `cluster_positions_max` counts one
    user's trades in shares that move together."""

    quote_age_s_max: float = 10.0
    collar_fraction_max: Decimal = Decimal("0.03")
    order_value_rupees_max: Decimal = Decimal(1_000_000)
    entry_protection_fraction: Decimal = Decimal("0.003")
    exit_protection_fraction: Decimal = Decimal("0.01")
    price_drift_fraction_max: Decimal = Decimal("0.015")
    cluster_positions_max: int = 3


@dataclass(frozen=True, slots=True)
class QuoteView:
    """What the decision needs of a quote: rupees per share, shares, and when it was true."""

    symbol: str
    as_of: datetime
    last: Decimal
    bid: Decimal
    ask: Decimal
    lower_band: Decimal
    upper_band: Decimal
    tick: Decimal
    lot: int
    freeze_quantity: int
    source: str


@dataclass(frozen=True, slots=True)
class OrderIntent:
    """An order as the decision wants it; prices in rupees per share. A STOP_LIMIT order has its `trigger_price`."""

    symbol: str
    exchange: str
    side: Side
    product: Product
    order_type: OrderType
    quantity: int
    limit_price: Decimal
    intent: Intent
    trigger_price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Denied:
    """The gate's refusal."""

    reason: Reason


class _Seal:
    """Held by this module alone, so that nothing else can construct an `Approved`."""


_SEAL = _Seal()


@final
@dataclass(frozen=True, slots=True)
class Approved:
    """An order the gate has checked. Recording and sending accept nothing else.

    Raises:
        TypeError: constructed outside the gate.
    """

    order: OrderIntent
    seal: InitVar[_Seal]  # not kept, so that no approval can lend its seal to another order

    def __post_init__(self, seal: _Seal) -> None:
        if seal is not _SEAL:
            raise TypeError("an order is approved by risk.check and by nothing else")


def quote_problem(quote: QuoteView | None, now: datetime, limits: RiskLimits) -> Reason | None:
    """Why `quote` must not be traded on at `now`; None where it may."""
    if quote is None:
        return Reason.NO_QUOTE
    age = now - quote.as_of
    if age > timedelta(seconds=limits.quote_age_s_max) or age < timedelta(0):
        return Reason.QUOTE_STALE
    return None if _coherent(quote) else Reason.QUOTE_UNUSABLE


def _coherent(quote: QuoteView) -> bool:
    prices = (quote.bid, quote.ask, quote.last, quote.lower_band, quote.upper_band, quote.tick)
    if quote.lot <= 0 or not all(price.is_finite() for price in prices):
        return False
    in_band = quote.lower_band <= quote.last <= quote.upper_band
    return 0 < quote.bid <= quote.ask and 0 < quote.tick <= quote.last and in_band


def check(
    order: OrderIntent,
    quote: QuoteView | None,
    now: datetime,
    *,
    cash_free: Decimal,
    held: int,
    limits: RiskLimits,
) -> Approved | Denied:
    """Approve `order` or say why not. Fails closed: whatever cannot be checked is refused.

    Args:
        cash_free: rupees not reserved by other orders.
        held: shares that may be sold.
    """
    problem = quote_problem(quote, now, limits)
    if problem is not None or quote is None:
        return Denied(problem or Reason.NO_QUOTE)
    price = order.limit_price
    if order.quantity <= 0 or order.quantity % quote.lot:
        return Denied(Reason.QUANTITY_INVALID)
    if order.quantity > quote.freeze_quantity:
        return Denied(Reason.ABOVE_FREEZE_QUANTITY)
    if not price.is_finite() or price <= 0 or price % quote.tick:
        return Denied(Reason.NOT_ON_TICK)
    if not quote.lower_band <= price <= quote.upper_band:
        return Denied(Reason.OUTSIDE_PRICE_BAND)
    if order.order_type is OrderType.STOP_LIMIT and not _rests(order, quote):
        return Denied(Reason.TRIGGER_PASSED)
    # A stop trades from its trigger on, wherever the price is now.
    reference = order.trigger_price or quote.last
    if abs(price - reference) > reference * limits.collar_fraction_max:
        return Denied(Reason.OUTSIDE_COLLAR)
    if order.intent is Intent.EXIT:
        return Approved(order, _SEAL) if order.quantity <= held else Denied(Reason.SELL_EXCEEDS_HOLDING)
    value = price * order.quantity
    if value > limits.order_value_rupees_max:
        return Denied(Reason.ORDER_VALUE_LIMIT)
    if value > cash_free:
        return Denied(Reason.INSUFFICIENT_FUNDS)
    return Approved(order, _SEAL)


def _rests(order: OrderIntent, quote: QuoteView) -> bool:
    """Whether a stop has a trigger that waits: beyond the last price on the order's side, on the tick, in the band, and
    with its limit behind it."""
    trigger = order.trigger_price
    if trigger is None or not trigger.is_finite() or trigger % quote.tick:
        return False
    if not quote.lower_band <= trigger <= quote.upper_band:
        return False
    if order.side is Side.SELL:
        return order.limit_price <= trigger < quote.last
    return quote.last < trigger <= order.limit_price
