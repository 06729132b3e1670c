"""What a real broker's book costs: brokers report executions without their charges, so these are computed here."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal

from backend.domain.calendar import IST
from backend.domain.charges import charges_on_turnover, dp_charge, rates_on
from backend.domain.market import Exchange, Product, Side
from backend.domain.reconcile import BookOrder, BookTrade


def with_charges(orders: Iterable[BookOrder], broker: str) -> list[BookOrder]:
    """The orders of an account's book, each trade with its charges in rupees by the broker's plan.

    Charges are an order's (its brokerage is capped), so a trade carries what it adds to those of the trades before it.
    The depository's charge is on the day's first delivery sell of a share. It stays where it is between two reports as
    long as executions are reported in the order of their instants.

    Raises:
        ValueError: no brokerage plan of `broker` is recorded, or none for the day of a trade.
    """
    book = [replace(order, trades=tuple(sorted(order.trades, key=_when))) for order in orders]
    first_sells = _first_delivery_sells(book)
    return [replace(order, trades=tuple(_priced(order, first_sells, broker))) for order in book]


def _when(trade: BookTrade) -> tuple[object, ...]:
    return trade.traded_at, trade.trade_id


def _day(trade: BookTrade) -> date:
    return trade.traded_at.astimezone(IST).date()


def _first_delivery_sells(book: Sequence[BookOrder]) -> set[tuple[str, str]]:
    """(order, trade) of the first delivery sell of each share and day."""
    sells = [
        (*_when(trade), order, trade)
        for order in book
        if order.side is Side.SELL and order.product is Product.CNC
        for trade in order.trades
    ]
    first: dict[tuple[str, date], tuple[str, str]] = {}
    for *_, order, trade in sorted(sells, key=lambda sell: sell[:2]):
        first.setdefault((order.symbol, _day(trade)), (order.broker_order_id, trade.trade_id))
    return set(first.values())


def _priced(order: BookOrder, first_sells: set[tuple[str, str]], broker: str) -> Iterable[BookTrade]:
    turnover = paid = Decimal(0)
    for trade in order.trades:
        rates = rates_on(order.product, Exchange(order.exchange), _day(trade), broker)
        turnover += trade.price * trade.quantity
        due = charges_on_turnover(rates, order.side, turnover).total
        delivered = (order.broker_order_id, trade.trade_id) in first_sells
        yield replace(trade, charges=due - paid + (dp_charge(broker) if delivered else 0))
        paid = due
