"""The book of a broker that misbehaves on purpose: what it really took, apart from what it answers and shows."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

CHARGES_RATE = Decimal("0.001")
PAISA = Decimal("0.01")
FIRST_CASH = Decimal(500_000)


class Mode(StrEnum):
    """What an account's requests meet. Modes combine: one of placing with one of the book."""

    ACCEPT = "accept"
    REST = "rest"
    REFUSE = "refuse"
    REFUSE_IN_BOOK = "refuse_in_book"
    ACCEPT_THEN_HANG = "accept_then_hang"
    ACCEPT_THEN_RESET = "accept_then_reset"
    ACCEPT_THEN_502 = "accept_then_502"
    ACCEPT_THEN_CUT = "accept_then_cut"
    ACCEPT_THEN_GARBAGE = "accept_then_garbage"
    DROP_BEFORE_ACCEPT = "drop_before_accept"
    SHOW_LATE = "show_late"
    PARTIAL = "partial"
    FILL_LATE = "fill_late"
    DOUBLE_TRADES = "double_trades"
    OUT_OF_ORDER = "out_of_order"
    TOKEN_EXPIRED = "token_expired"
    RATE_LIMITED = "rate_limited"
    BOOK_502 = "book_502"
    BOOK_HANGS = "book_hangs"
    BOOK_GARBAGE = "book_garbage"


NOTHING_BOOKED = frozenset({Mode.REFUSE, Mode.DROP_BEFORE_ACCEPT, Mode.TOKEN_EXPIRED, Mode.RATE_LIMITED})
_RESTING = frozenset({Mode.REST, Mode.FILL_LATE})


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Modes and their figures: SHOW_LATE by `late_s`, PARTIAL and OUT_OF_ORDER in `parts`, 429 with `retry_after_s`."""

    modes: frozenset[Mode] = frozenset({Mode.ACCEPT})
    late_s: float = 1.0
    parts: int = 3
    retry_after_s: int = 1


@dataclass(frozen=True, slots=True)
class Ticket:
    """An order as it comes over the wire: shares, rupees per share."""

    symbol: str
    exchange: str
    side: str
    product: str
    order_type: str
    quantity: int
    limit_price: Decimal | None
    tag: str = ""


@dataclass(slots=True)
class Trade:
    """One execution: shares, rupees per share, rupees of charges."""

    trade_id: str
    order_id: str
    quantity: int
    price: Decimal
    charges: Decimal
    traded_at: datetime


@dataclass(slots=True)
class BookedOrder:
    """An order that exists at the broker. `shown_from_s` is monotonic: before it the account's reports leave it out."""

    order_id: str
    account: int
    ticket: Ticket
    status: str
    message: str
    placed_at: datetime
    shown_from_s: float
    parts: list[int]
    fills_after_cancel: bool
    by_hand: bool
    cancel_shown: bool = False
    trades: list[Trade] = field(default_factory=list[Trade])

    @property
    def filled(self) -> int:
        return sum(trade.quantity for trade in self.trades)


@dataclass(frozen=True, slots=True)
class Arrival:
    """An order request that reached the broker, at its monotonic second; no `order_id` where nothing was booked."""

    at_s: float
    account: int
    tag: str
    symbol: str
    side: str
    quantity: int
    order_id: str | None


class Book:
    """All accounts of one broker. `now` is the market's instant, `monotonic` counts real seconds."""

    def __init__(self, now: Callable[[], datetime], monotonic: Callable[[], float]) -> None:
        self.now = now
        self._monotonic = monotonic
        self._behaviours: dict[int | None, Behaviour] = {None: Behaviour()}
        self.orders: dict[str, BookedOrder] = {}
        self.arrivals: list[Arrival] = []

    def copy(self) -> "Book":
        """A book of the same orders that goes its own way from here, with no arrivals yet."""
        twin = Book(self.now, self._monotonic)
        twin._behaviours = dict(self._behaviours)
        twin.orders = deepcopy(self.orders)
        return twin

    def behave(self, account: int | None, behaviour: Behaviour) -> None:
        """Set one account's behaviour, or, with None, that of all accounts."""
        if account is None:
            self._behaviours.clear()
        self._behaviours[account] = behaviour

    def behaviour(self, account: int) -> Behaviour:
        return self._behaviours.get(account, self._behaviours[None])

    def arrive(self, account: int, ticket: Ticket) -> BookedOrder | None:
        """Take an order request as the account's behaviour says; None where nothing is booked."""
        behaviour = self.behaviour(account)
        order = None if behaviour.modes & NOTHING_BOOKED else self._book(account, ticket, behaviour)
        order_id = order.order_id if order else None
        at = self._monotonic()
        self.arrivals.append(Arrival(at, account, ticket.tag, ticket.symbol, ticket.side, ticket.quantity, order_id))
        return order

    def place_by_hand(self, account: int, ticket: Ticket) -> BookedOrder:
        """An order from the broker's own app: it rests until it is filled or cancelled by hand."""
        return self._book(account, ticket, Behaviour(frozenset({Mode.REST})), by_hand=True)

    def _book(self, account: int, ticket: Ticket, behaviour: Behaviour, by_hand: bool = False) -> BookedOrder:
        modes = behaviour.modes
        split = behaviour.parts if modes & {Mode.PARTIAL, Mode.OUT_OF_ORDER} else 1
        refused = Mode.REFUSE_IN_BOOK in modes
        order = BookedOrder(
            order_id=f"B{len(self.orders) + 1:06d}",
            account=account,
            ticket=ticket,
            status="REJECTED" if refused else "OPEN",
            message="RMS: margin exceeded" if refused else "",
            placed_at=self.now(),
            shown_from_s=self._monotonic() + (behaviour.late_s if Mode.SHOW_LATE in modes else 0),
            parts=[] if refused or modes & _RESTING else _split(ticket.quantity, split),
            fills_after_cancel=Mode.FILL_LATE in modes,
            by_hand=by_hand,
        )
        self.orders[order.order_id] = order
        at_once = 1 if Mode.PARTIAL in modes else len(order.parts)
        for _ in range(at_once):
            self._fill_part(order)
        return order

    def cancel(self, account: int | None, order_id: str) -> bool:
        """Cancel an open order; False where there is none of that number (in that account)."""
        order = self.orders.get(order_id)
        if order is None or account not in {None, order.account} or order.status != "OPEN":
            return False
        order.status, order.message, order.parts = "CANCELLED", "cancelled on request", []
        return True

    def fill(self, order_id: str, quantity: int | None = None) -> None:
        """Execute `quantity` shares of an order (all that is left by default) at its limit."""
        order = self.orders[order_id]
        left = order.ticket.quantity - order.filled
        self._execute(order, left if quantity is None else min(quantity, left))

    def shown(self, account: int) -> list[BookedOrder]:
        """The account's orders as of this report. Every report lets what fills in parts or late go one step on."""
        behaviour = self.behaviour(account)
        visible = [o for o in self.orders.values() if o.account == account and o.shown_from_s <= self._monotonic()]
        for order in visible:
            if order.parts:
                self._fill_part(order)
            elif order.status == "CANCELLED" and order.fills_after_cancel and order.cancel_shown:
                self.fill(order.order_id)
            order.cancel_shown = order.status == "CANCELLED"
        return visible[::-1] if Mode.OUT_OF_ORDER in behaviour.modes else visible

    def trades_shown(self, account: int) -> list[Trade]:
        """The executions of the orders that the account's report shows."""
        modes = self.behaviour(account).modes
        visible = [o for o in self.orders.values() if o.account == account and o.shown_from_s <= self._monotonic()]
        trades = [trade for order in visible for trade in order.trades]
        if Mode.DOUBLE_TRADES in modes:
            trades = trades + trades
        return trades[::-1] if Mode.OUT_OF_ORDER in modes else trades

    def _fill_part(self, order: BookedOrder) -> None:
        self._execute(order, order.parts.pop(0))

    def _execute(self, order: BookedOrder, quantity: int) -> None:
        if not quantity:
            return
        price = order.ticket.limit_price or Decimal(100)
        charges = (price * quantity * CHARGES_RATE).quantize(PAISA)
        number = sum(len(o.trades) for o in self.orders.values()) + 1
        order.trades.append(Trade(f"T{number:06d}", order.order_id, quantity, price, charges, self.now()))
        if order.filled == order.ticket.quantity:
            order.status, order.message = "COMPLETE", ""

    def holdings(self, account: int) -> dict[str, int]:
        """Shares by symbol: bought less sold. Negative where more was sold than held."""
        held: Counter[str] = Counter()
        for order in self._of(account):
            held[order.ticket.symbol] += order.filled if order.ticket.side == "buy" else -order.filled
        return {symbol: shares for symbol, shares in held.items() if shares}

    def funds(self, account: int) -> tuple[Decimal, Decimal]:
        """Cash, and cash less what open buys reserve, in rupees."""
        cash, reserved = FIRST_CASH, Decimal(0)
        for order in self._of(account):
            buys = order.ticket.side == "buy"
            for trade in order.trades:
                cash += (-1 if buys else 1) * trade.price * trade.quantity - trade.charges
            if buys and order.status == "OPEN":
                reserved += (order.ticket.limit_price or Decimal(0)) * (order.ticket.quantity - order.filled)
        return cash, cash - reserved

    def _of(self, account: int) -> Sequence[BookedOrder]:
        return [order for order in self.orders.values() if order.account == account]

    def truth(self) -> dict[str, Any]:
        """What really happened: orders with their trades, arrivals, what is held, and the counts that matter."""
        accounts = {order.account for order in self.orders.values()}
        accepted = [arrival for arrival in self.arrivals if arrival.order_id is not None]
        return {
            "orders": list(self.orders.values()),
            "arrivals": self.arrivals,
            "accepted_per_tag": Counter(a.tag for a in accepted),
            "accepted_per_symbol": Counter(a.symbol for a in accepted),
            "orders_per_second_max": per_second_max([a.at_s for a in self.arrivals]),
            "holdings": {account: self.holdings(account) for account in accounts},
            "cash": {account: str(self.funds(account)[0]) for account in accounts},
        }


def per_second_max(at_s: Sequence[float]) -> int:
    """The most arrivals in any second, ends included: `at_s` are ascending monotonic seconds."""
    return max((bisect_right(at_s, start + 1.0) - i for i, start in enumerate(at_s)), default=0)


def _split(quantity: int, parts: int) -> list[int]:
    """`quantity` shares in at most `parts` whole parts, the larger first."""
    parts = min(parts, quantity)
    return [quantity // parts + (i < quantity % parts) for i in range(parts)]
