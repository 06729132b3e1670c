"""How the paper broker fills an order: against a quote on arrival, against finished bars while it rests.

The rules are the cautious ones: a resting limit needs the market to trade through it or to open beyond it, a stop fills
at the worse of its trigger and the open, no fill takes more than a part of what the bar really traded, and a share
locked at its band offers nothing on that side.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import TypeVar

from backend.domain.market import OrderType, Side

Key = TypeVar("Key")


class PaperStatus(StrEnum):
    """A paper order as the paper broker's book shows it."""

    OPEN = "open"
    TRIGGER_PENDING = "trigger_pending"
    COMPLETE = "complete"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class FillModel:
    """`participation` of a bar's volume at most; marketable orders pay `slippage` (a fraction of the price)."""

    participation: Decimal = Decimal("0.10")
    slippage: Decimal = Decimal("0.0002")


@dataclass(frozen=True, slots=True)
class RestingOrder:
    """The part of an order the matching needs. Prices in rupees per share, quantity in shares still open."""

    side: Side
    order_type: OrderType
    open_quantity: int
    limit_price: Decimal
    trigger_price: Decimal | None
    triggered: bool


@dataclass(frozen=True, slots=True)
class BarView:
    """A finished bar: instants, rupees per share, shares traded."""

    start: datetime
    end: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int


@dataclass(frozen=True, slots=True)
class Match:
    """The outcome: shares filled at a price (0 shares: none), and whether a stop has been triggered."""

    quantity: int
    price: Decimal
    triggered: bool


def offered(side: Side, low: Decimal, high: Decimal, volume: int, lower_band: Decimal, upper_band: Decimal) -> int:
    """Of a bar's `volume`, the shares that an order arriving after it could have met: none where the share is locked at
    its band, as there only buyers wait at the upper one and only sellers at the lower."""
    band = upper_band if side is Side.BUY else lower_band
    return 0 if low == high == band else volume


def match_on_arrival(
    order: RestingOrder,
    bid: Decimal,
    ask: Decimal,
    bar_volume: int,
    tick: Decimal,
    model: FillModel,
    taken: int = 0,
) -> Match:
    """Fill what the market offers at once.

    A buy limit at or above the ask trades at the ask plus slippage, never above its limit (a sell mirrors it), up to
    `participation` of the last finished bar's volume, less the shares `taken` of it already. A stop order waits for its
    trigger.
    """
    if order.order_type is OrderType.STOP_LIMIT and not order.triggered:
        return Match(0, Decimal(0), triggered=False)
    available = max(int(bar_volume * model.participation) - taken, 0)
    if order.side is Side.BUY:
        marketable = order.limit_price >= ask
        price = min(order.limit_price, _step(ask, ask * model.slippage, tick))
    else:
        marketable = order.limit_price <= bid
        price = max(order.limit_price, _step(bid, -bid * model.slippage, tick))
    quantity = min(order.open_quantity, available) if marketable else 0
    return Match(quantity, price, triggered=False)


def match_in_bar(order: RestingOrder, bar: BarView, model: FillModel, taken: int = 0) -> Match:
    """Fill a resting order inside one finished bar that began after the order arrived.

    A stop that the bar triggers on its way joins the market there: what the bar traded before its trigger is not its.
    `taken` are the shares that others of the same account took of the bar before it.
    """
    buy = order.side is Side.BUY
    limit, start_price = order.limit_price, bar.open
    fills = bar.low < limit if buy else bar.high > limit
    if order.order_type is OrderType.STOP_LIMIT and not order.triggered:
        trigger = order.trigger_price
        if trigger is None or (bar.high < trigger if buy else bar.low > trigger):
            return Match(0, Decimal(0), triggered=False)
        start_price = max(trigger, bar.open) if buy else min(trigger, bar.open)
        marketable = start_price <= limit if buy else start_price >= limit
        fills = marketable or (fills and start_price == bar.open)
    available = min(order.open_quantity, int(bar.volume * model.participation) - taken)
    if available <= 0 or not fills:
        return Match(0, Decimal(0), triggered=True)
    price = min(limit, start_price) if buy else max(limit, start_price)
    return Match(available, price, triggered=True)


def match_queue(
    resting: Mapping[Key, tuple[RestingOrder, Sequence[BarView]]], model: FillModel
) -> Iterator[tuple[Key, Match, datetime]]:
    """Fill one account's orders in one share, each inside its own bars, by price-time priority.

    Within a bar the better price comes first, then the earlier order, in the order of `resting`; together the orders of
    one side take no more than `participation` of what the bar traded. Yields each trigger and fill at its bar's end.
    """
    orders = {key: order for key, (order, _) in resting.items()}
    own = {key: frozenset(bars) for key, (_, bars) in resting.items()}
    for bar in sorted(frozenset[BarView]().union(*own.values()), key=lambda bar: bar.start):
        taken = dict.fromkeys(Side, 0)
        for key in sorted(orders, key=lambda key: _price_priority(orders[key])):
            order = orders[key]
            if bar not in own[key] or not order.open_quantity:
                continue
            match = match_in_bar(order, bar, model, taken[order.side])
            if match.quantity or (match.triggered and not order.triggered):
                taken[order.side] += match.quantity
                left = order.open_quantity - match.quantity
                orders[key] = replace(order, open_quantity=left, triggered=match.triggered)
                yield key, match, bar.end


def match_in_auction(order: RestingOrder, price: Decimal, volume: int, model: FillModel, taken: int = 0) -> Match:
    """Fill an order at an auction's single price, where its limit allows that price; waiting stops take no part."""
    within = order.limit_price >= price if order.side is Side.BUY else order.limit_price <= price
    if not order.triggered or not within:
        return Match(0, Decimal(0), triggered=order.triggered)
    available = min(order.open_quantity, int(volume * model.participation) - taken)
    return Match(max(available, 0), price, triggered=order.triggered)


def _price_priority(order: RestingOrder) -> Decimal:
    return -order.limit_price if order.side is Side.BUY else order.limit_price


def _step(price: Decimal, move: Decimal, tick: Decimal) -> Decimal:
    """`price` moved by at least one whole number of ticks in the direction of `move` (away from the trader)."""
    ticks = (abs(move) / tick).to_integral_value(rounding="ROUND_CEILING")
    return price + (ticks * tick if move >= 0 else -ticks * tick)
