"""Fills of the paper book, written: trade, entries, position, charges, and the order's progress."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from backend.brokers.paper_ledger import CASH, RESTING, Posting, owes_dp_charge, post
from backend.brokers.paper_market import PaperQuote, PaperRules
from backend.brokers.paper_orders import resting_order
from backend.brokers.paper_positions import note_trade
from backend.domain.calendar import IST
from backend.domain.charges import auto_square_off_charge, charges_on_turnover, dp_charge, rates_on
from backend.domain.market import Exchange, Side, Validity
from backend.domain.matching import FillModel, Match, PaperStatus, match_on_arrival, offered
from backend.models.paper import PaperEntryKind, PaperOrder, PaperTrade

IOC_ENDED = "immediate or cancel: what was not filled at once is cancelled"


def end(order: PaperOrder, status: PaperStatus, message: str, at: datetime) -> None:
    """The order rests no more, as of `at`."""
    order.status, order.message, order.ended_at = status, message, at


async def meet(
    session: AsyncSession, order: PaperOrder, quote: PaperQuote, fills: FillModel, rules: PaperRules, at: datetime
) -> None:
    """Let an order meet the market of `at`: what it can be filled at once it is; an IOC's rest ends. The caller has
    locked the account."""
    view, bar = quote.view, quote.bar
    volume = offered(order.side, bar.low, bar.high, bar.volume, view.lower_band, view.upper_band)
    taken = await _taken_since(session, order, bar.end) if rules.queues else 0
    match = match_on_arrival(resting_order(order), view.bid, view.ask, volume, view.tick, fills, taken)
    await book_match(session, order, match, at)
    if order.validity is Validity.IOC and order.status in RESTING:
        end(order, PaperStatus.CANCELLED, IOC_ENDED, at)


async def _taken_since(session: AsyncSession, order: PaperOrder, bar_end: datetime) -> int:
    """Shares that the account's orders of the side have taken of the bar that ended then."""
    taken = (
        select(func.sum(PaperTrade.quantity))
        .join(PaperOrder, PaperOrder.id == PaperTrade.order_id)
        .where(
            PaperTrade.account_id == order.account_id,
            PaperTrade.traded_at >= bar_end,
            PaperOrder.symbol == order.symbol,
            PaperOrder.side == order.side,
        )
    )
    return int(await session.scalar(taken) or 0)


async def book_match(session: AsyncSession, order: PaperOrder, match: Match, at: datetime) -> None:
    """Write a fill: trade, cash and holding entries, and the order's progress. The caller has locked the account."""
    if match.triggered and order.status is PaperStatus.TRIGGER_PENDING:
        order.status = PaperStatus.OPEN
    if not match.quantity:
        return
    value = match.price * match.quantity
    day = at.astimezone(IST).date()
    # Charges are per order: a partial fill pays the difference to what the order has paid before.
    rates = rates_on(order.product, Exchange(order.exchange), day)
    due = charges_on_turnover(rates, order.side, order.filled_value + value).total
    charges = due - order.charges
    if await owes_dp_charge(session, order, day):
        charges += dp_charge()
    if order.squares_off and not order.filled_quantity:
        charges += auto_square_off_charge()
    trade = PaperTrade(
        order_id=order.id,
        account_id=order.account_id,
        quantity=match.quantity,
        price=match.price,
        charges=charges,
        trade_date=day,
        traded_at=at,
    )
    session.add(trade)
    await session.flush()
    sign = 1 if order.side is Side.BUY else -1
    postings = (
        Posting(CASH, PaperEntryKind.TRADE, -sign * value),
        Posting(CASH, PaperEntryKind.CHARGES, -charges),
        Posting(order.symbol, PaperEntryKind.TRADE, Decimal(sign * match.quantity)),
    )
    await post(session, order.account_id, postings, at, trade.id)
    await note_trade(session, order, match.quantity, value, day)
    order.filled_quantity += match.quantity
    order.filled_value += value
    order.charges = due
    if order.filled_quantity == order.quantity:
        end(order, PaperStatus.COMPLETE, order.message, at)
