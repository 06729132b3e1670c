"""What the paper broker takes and what it refuses, in the words of an exchange and of a broker's risk desk."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncSession

from backend.brokers.base import OrderChange, OrderRequest
from backend.brokers.paper_ledger import CASH, RESTING, balances, cost_of_opening, reserved_cash, reserved_shares
from backend.brokers.paper_market import PaperMarket, PaperRules
from backend.brokers.paper_positions import OpenPosition, margin_money, open_intraday
from backend.domain.calendar import IST, Phase
from backend.domain.market import (
    Exchange,
    OrderType,
    PriceBand,
    Product,
    Side,
    StockClass,
    Validity,
    closing_auction_band,
    round_to_tick,
)
from backend.domain.risk import QuoteView
from backend.models.paper import PaperOrder

AUCTION_ENTRY = (Phase.CLOSING_ORDER_ENTRY, Phase.CLOSING_LIMIT_ONLY)
NO_POSITION = OpenPosition(0, Decimal(0))
NO_PROTECTION = "Market orders are not accepted through the API without protection."


def protected(order: OrderRequest, view: QuoteView | None) -> OrderRequest:
    """A MARKET order with protection as the limit order that it becomes: at its collar around the last price, inside
    the band and on the tick. Kite shows such orders as LIMIT, too (kite.trade forum 52902). Others stay as they are."""
    if order.order_type is not OrderType.MARKET or view is None or not order.protection_percent:
        return order
    away = view.last * order.protection_percent / 100
    buys = order.side is Side.BUY
    collar = min(view.last + away, view.upper_band) if buys else max(view.last - away, view.lower_band)
    limit = round_to_tick(max(collar, view.tick), view.tick, order.side)
    return replace(order, order_type=OrderType.LIMIT, limit_price=limit)


def refusal_by_market(
    order: OrderRequest, phase: Phase, view: QuoteView | None, *, auctions: bool = False
) -> str | None:
    """The words in which an exchange refuses `order` in this phase and market (None: no quote); None: it takes it."""
    in_auction = auctions and phase in AUCTION_ENTRY
    if phase is not Phase.CONTINUOUS and not in_auction:
        return "Market is closed: orders are taken in the continuous session only."
    if view is None:
        return f"No market in {order.symbol} now."
    if order.quantity <= 0 or order.quantity % view.lot:
        return f"Quantity must be a positive multiple of {view.lot}."
    if order.order_type is OrderType.MARKET:
        return NO_PROTECTION
    if order.limit_price % view.tick or (order.trigger_price or 0) % view.tick:
        return f"Price must be a multiple of the tick {view.tick}."
    band = PriceBand(view.lower_band, view.upper_band)
    if in_auction:
        if order.order_type is OrderType.STOP_LIMIT or order.validity is Validity.IOC:
            return "The closing auction takes limit orders for the day only."
        band = closing_auction_band(view.last, view.tick)
    if order.limit_price not in band:
        return f"Price is outside the band {band.lower}-{band.upper}."
    if order.order_type is OrderType.STOP_LIMIT and order.trigger_price is None:
        return "A stop order needs a trigger price."
    if order.order_type is OrderType.STOP_LIMIT and order.validity is Validity.IOC:
        return "A stop order waits for its trigger: it cannot be IOC."
    return None


def refusal_of_stop(order: OrderRequest, view: QuoteView | None, rules: PaperRules) -> str | None:
    """A broker's words for a stop that would not wait, or could not fill once triggered (Zerodha's, from memory)."""
    trigger = order.trigger_price
    if not rules.intraday or view is None or order.order_type is not OrderType.STOP_LIMIT or trigger is None:
        return None
    buys = order.side is Side.BUY
    if (trigger <= view.last) if buys else (trigger >= view.last):
        beyond = "above" if buys else "below"
        return f"Trigger price of a stop {order.side.value} must be {beyond} the last price {view.last}."
    if (trigger > order.limit_price) if buys else (trigger < order.limit_price):
        return f"Trigger price of a stop {order.side.value} must not be {'above' if buys else 'below'} its price."
    return None


def refusal_by_hours(
    symbol: str, product: Product, market: PaperMarket, rules: PaperRules, now: datetime
) -> str | None:
    """The broker's words after the time at which it squares intraday positions off; None: it takes the order."""
    if not rules.intraday or product is not Product.MIS or market.hours is None:
        return None
    ends = market.hours.square_off_at(symbol, now.astimezone(IST).date())
    if ends is None or now < ends:
        return None
    return f"Intraday orders in {symbol} ended at {ends.astimezone(IST):%H:%M}: use CNC."


def closes_by_auction(symbol: str, market: PaperMarket, rules: PaperRules) -> bool:
    hours = market.hours
    return rules.auctions and hours is not None and hours.stock_class(symbol) is StockClass.CAS


async def admit(session: AsyncSession, order: PaperOrder, rules: PaperRules) -> str | None:
    """Decide what of the order closes and what it holds back; the broker's words if the account cannot pay for or
    deliver it. The caller has locked the account."""
    held = (await balances(session, [order.account_id])).get(order.account_id, {})
    open_now: Mapping[str, OpenPosition] = {}
    if rules.intraday:
        open_now = (await open_intraday(session, [order.account_id])).get(order.account_id, {})
    if rules.intraday and order.product is Product.MIS:
        order.leverage = rules.leverage
        order.closing_quantity = await _closable(session, order, open_now)
    elif order.side is Side.SELL:
        order.closing_quantity = order.quantity
        shares = await _deliverable(session, order, held, open_now, rules)
        if order.quantity - order.filled_quantity > shares:
            return f"Insufficient holdings: sells {order.quantity - order.filled_quantity}, holds {shares}."
    return await _refusal_by_funds(session, order, held, rules)


async def _closable(session: AsyncSession, order: PaperOrder, open_now: Mapping[str, OpenPosition]) -> int:
    """Of the order's shares, those that reduce the intraday position, beyond what earlier orders reduce."""
    position = open_now.get(order.symbol, NO_POSITION).quantity
    against = -position if order.side is Side.BUY else position
    taken = await reserved_shares(session, order.account_id, order.symbol, order.side, Product.MIS, besides=order.id)
    return order.filled_quantity + min(max(against - taken, 0), order.quantity - order.filled_quantity)


async def _deliverable(
    session: AsyncSession,
    order: PaperOrder,
    held: Mapping[str, Decimal],
    open_now: Mapping[str, OpenPosition],
    rules: PaperRules,
) -> int:
    """Shares that may be sold out of what the account has; those of open intraday positions are not among it where
    products stand apart."""
    shares = int(held.get(order.symbol, 0))
    if rules.intraday:
        shares -= open_now.get(order.symbol, NO_POSITION).quantity
    product = Product.CNC if rules.intraday else None
    return shares - await reserved_shares(session, order.account_id, order.symbol, product=product, besides=order.id)


async def _refusal_by_funds(
    session: AsyncSession, order: PaperOrder, held: Mapping[str, Decimal], rules: PaperRules
) -> str | None:
    opening = order.quantity - max(order.filled_quantity, order.closing_quantity)
    if opening <= 0:
        return None
    needed = cost_of_opening(
        order.side,
        order.product,
        Exchange(order.exchange),
        order.placed_at.astimezone(IST).date(),
        order.limit_price * opening,
        leverage=order.leverage,
        filled_value=order.filled_value,
        charges_paid=order.charges,
    )
    account, none = order.account_id, Decimal(0)
    reserved = (await reserved_cash(session, [account], besides=order.id)).get(account, none)
    margins = (await margin_money(session, {account: held}, rules)).get(account, none)
    free = held.get(CASH, none) + margins - reserved
    return f"Insufficient funds: needs {needed:.2f}, free {free:.2f}." if needed > free else None


def refusal_of_change(order: PaperOrder, change: OrderChange) -> str | None:
    """The words in which a change of an order is refused for what the order is; None: it may be."""
    if order.status not in RESTING:
        return f"The order {order.id} is {order.status.value} and cannot be modified."
    if change.order_type is OrderType.MARKET:
        return NO_PROTECTION
    if change.quantity <= order.filled_quantity:
        return f"Quantity must be above the {order.filled_quantity} that are filled: cancel the order to end it."
    return None
