"""What stands behind the doubles of Upstox and Dhan: one client's orders, trades, cash and shares, and a hand to move
them. The doubles show it as each broker does."""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from backend.domain.calendar import IST

LAST_PRICE = Decimal("1500.00")


class State(StrEnum):
    OPEN = "open"
    COMPLETE = "complete"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    EXPIRED = "expired"


@dataclass
class Fill:
    trade_id: str
    quantity: int
    price: Decimal
    at: datetime


@dataclass
class Standing:
    """An order; `word` is shown as its status where a test set one. Products and types are the broker's words."""

    order_id: str
    tag: str
    key: str
    symbol: str
    side: str
    product: str
    order_type: str
    validity: str
    quantity: int
    price: Decimal
    trigger_price: Decimal
    placed_at: datetime
    state: State = State.OPEN
    word: str = ""
    message: str = ""
    fills: list[Fill] = field(default_factory=list)

    @property
    def filled(self) -> int:
        return sum(fill.quantity for fill in self.fills)

    @property
    def left(self) -> int:
        return self.quantity - self.filled if self.state is State.OPEN else 0

    @property
    def average(self) -> Decimal:
        return sum((f.price * f.quantity for f in self.fills), Decimal(0)) / self.filled if self.filled else Decimal(0)


@dataclass
class Day:
    """A share's trades of one product."""

    key: str
    symbol: str
    product: str
    bought: int = 0
    sold: int = 0
    bought_for: Decimal = Decimal(0)
    sold_for: Decimal = Decimal(0)


class Book:
    """One client's day."""

    def __init__(self, first_number: int) -> None:
        self._numbers = itertools.count(first_number)
        self.orders: dict[str, Standing] = {}
        self.cash = Decimal(0)
        self.holdings: dict[str, int] = {}
        self.refusal: str | None = None

    def now(self) -> datetime:
        return datetime.now(IST).replace(microsecond=0)

    def number(self) -> str:
        return str(next(self._numbers))

    def take(self, **asked: Any) -> Standing:
        order = Standing(order_id=self.number(), placed_at=self.now(), **asked)
        self.orders[order.order_id] = order
        return order

    def change(self, order_id: str, **fields: Any) -> None:
        self.orders[order_id] = replace(self.orders[order_id], **fields)

    def fill(self, order_id: str, quantity: int) -> Decimal:
        order = self.orders[order_id]
        assert 0 < quantity <= order.left
        price = order.price or LAST_PRICE
        order.fills.append(Fill(self.number(), quantity, price, self.now()))
        if not order.left:
            order.state = State.COMPLETE
        return price

    def end(self, order_id: str, state: State, message: str = "") -> None:
        order = self.orders[order_id]
        order.state, order.message = state, message

    def end_session(self, state: State) -> None:
        for order in self.orders.values():
            if order.state is State.OPEN:
                order.state = state

    def cash_free(self) -> Decimal:
        """Cash less what was spent today and what open orders to buy hold back."""
        held_back = sum((o.left * (o.price or LAST_PRICE) for o in self.orders.values() if o.side == "BUY"), Decimal(0))
        moved = sum((day.sold_for - day.bought_for for day in self.days()), Decimal(0))
        return self.cash + moved - held_back

    def days(self) -> list[Day]:
        days: dict[tuple[str, str], Day] = {}
        for order, fill in self.fills():
            day = days.setdefault((order.key, order.product), Day(order.key, order.symbol, order.product))
            if order.side == "BUY":
                day.bought, day.bought_for = day.bought + fill.quantity, day.bought_for + fill.quantity * fill.price
            else:
                day.sold, day.sold_for = day.sold + fill.quantity, day.sold_for + fill.quantity * fill.price
        return list(days.values())

    def fills(self) -> Iterator[tuple[Standing, Fill]]:
        for order in self.orders.values():
            for fill in order.fills:
                yield order, fill

    def used_shares(self, delivery: str) -> dict[str, int]:
        """Shares held that are sold today, or offered, by symbol: what the day's buys do not cover."""
        used: dict[str, int] = defaultdict(int)
        for order in self.orders.values():
            if order.product == delivery:
                used[order.symbol] += (order.filled + order.left) if order.side == "SELL" else -order.filled
        return {symbol: max(0, quantity) for symbol, quantity in used.items()}
