"""Guards: stop orders that rest at the broker while a trade is open, so that an outage of Sauda leaves no trade naked.

A guard is a plain SL order for the day (type STOP_LIMIT), and not a GTT: an order that the broker itself places when a
GTT fires bears neither our tag nor an algo id. It sells at the trade's own stop, down to the same distance as an exit.
Pending SL orders vanish as the continuous session ends (facts of CAS: NSE/CMTR/74466): a guard is taken back before.
"""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum

from backend.domain.market import OrderType, Product, Side, round_to_tick
from backend.domain.orders import Intent
from backend.domain.risk import OrderIntent, QuoteView, RiskLimits

GONE_BEFORE_CLOSE = timedelta(minutes=3)
"""Guards are taken back this long before continuous trading ends; the ticks' own exits cover what is left of it."""
GAP = timedelta(seconds=60)
"""Between two guards of a trade: while an entry fills in small parts, its guard follows once a minute."""
REFUSALS_MAX = 2
"""Guards of a trade that the broker may refuse in a day; then the ticks' own exits alone are its stops."""


class GuardStep(StrEnum):
    """What to do about a trade's guard now."""

    KEEP = "keep"
    PLACE = "place"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class RestingGuard:
    """The guard that rests, or is on its way: shares still open, rupees per share."""

    open_quantity: int
    trigger_price: Decimal


@dataclass(frozen=True, slots=True)
class Guarded:
    """An open trade: `held` shares, its `stop` in rupees, the time since its last guard was decided (None: it had
    none), and how many of today's the broker refused."""

    symbol: str
    exchange: str
    product: Product
    held: int
    stop: Decimal
    since_last: timedelta | None = None
    refusals: int = 0


def guard_step(trade: Guarded, wanted: OrderIntent | None, resting: RestingGuard | None) -> GuardStep:
    """What brings the resting guard in line with the one that is wanted; None: none may rest now.

    One that would sell more than is held goes at once; one that sells too little is replaced once GAP has passed.
    """
    if wanted is None:
        return GuardStep.CANCEL if resting is not None else GuardStep.KEEP
    waits = trade.since_last is not None and trade.since_last < GAP
    if resting is None:
        return GuardStep.KEEP if waits or trade.refusals >= REFUSALS_MAX else GuardStep.PLACE
    if resting.open_quantity > wanted.quantity:
        return GuardStep.CANCEL
    same = resting.open_quantity == wanted.quantity and resting.trigger_price == wanted.trigger_price
    return GuardStep.KEEP if same or waits else GuardStep.CANCEL


def guard_order(trade: Guarded, quote: QuoteView, limits: RiskLimits) -> OrderIntent | None:
    """The guard of a trade; None where the exchange would take none: nothing is held, the stop lies outside the day's
    band, or the price is at it already, which the next tick's exit deals with."""
    quantity = trade.held // quote.lot * quote.lot
    if quantity <= 0 or trade.stop < quote.lower_band:
        return None
    trigger = round_to_tick(trade.stop, quote.tick, Side.SELL)
    if trigger >= quote.last or trigger > quote.upper_band:
        return None
    lowest = round_to_tick(quote.lower_band, quote.tick, Side.SELL)
    limit = max(round_to_tick(trigger * (1 - limits.exit_protection_fraction), quote.tick, Side.SELL), lowest)
    return OrderIntent(
        trade.symbol,
        trade.exchange,
        Side.SELL,
        trade.product,
        OrderType.STOP_LIMIT,
        quantity,
        limit,
        Intent.EXIT,
        trigger_price=trigger,
    )
