"""The books add up whatever happens, and one order's fills and cancels end alike in whatever order they come."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from itertools import permutations

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from backend.domain import ledger
from backend.domain.calendar import IST
from backend.domain.gate import AccountFacts, GateLimits, Refused, admit, needed_rupees
from backend.domain.ledger import Journal, JournalKind, LedgerAccount, Line
from backend.domain.market import Product, Side
from backend.domain.orders import LIVE_STATES, Intent, OrderEventKind, OrderState, transition
from backend.domain.reasons import Reason
from backend.domain.reconcile import BookOrder, BookStatus, BookTrade, KnownOrder, settle
from backend.domain.risk import Approved
from backend.domain.trading_states import Effective, TradingState
from tests.support.decision_views import LIMITS, make_order, make_quote

D = Decimal
A = LedgerAccount
AT = datetime(2024, 3, 18, 10, 0, tzinfo=IST)
NOTHING = D(0)
TAG = "0123456789ABCDEF0123"


@dataclass
class Books:
    """The balances of one account after every journal posted to it."""

    balances: dict[tuple[LedgerAccount, str], Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    shares: Counter[str] = field(default_factory=Counter)

    def post(self, journal: Journal) -> None:
        for line in journal.lines:
            self.balances[line.account, line.symbol] += line.amount
            self.shares[line.symbol] += line.quantity

    def sum_of(self, account: LedgerAccount) -> Decimal:
        return sum((rupees for (kind, _), rupees in self.balances.items() if kind is account), D(0))


# ---- single journals


def test_a_journal_adds_up_or_does_not_exist() -> None:
    with pytest.raises(ValueError, match="add up to zero"):
        Journal(JournalKind.FUND, (Line(A.CASH, D(100)), Line(A.EXTERNAL, D("-99.99"))))


@pytest.mark.parametrize("shares", [0, -1])
def test_a_fill_has_shares(shares) -> None:
    with pytest.raises(ValueError, match="at least one share"):
        ledger.buy("INFY", shares, D(100), D(1), D(0))
    with pytest.raises(ValueError, match="at least one share"):
        ledger.sell("INFY", shares, D(100), D(1), held=10, held_cost=D(1000))


@pytest.mark.parametrize(
    ("reserved", "filled", "open_shares", "used"),
    [
        ("1000", 3, 10, "300.00"),
        ("1000", 10, 10, "1000"),
        ("1000", 11, 10, "1000"),
        ("1000", 1, 3, "333.33"),
        ("0.01", 1, 2, "0.00"),
        ("0", 4, 10, "0"),
    ],
)
def test_a_fill_uses_its_part_of_the_reserve_and_the_last_one_all_that_is_left(reserved, filled, open_shares, used):
    assert ledger.used_of_reserve(D(reserved), filled, open_shares) == D(used)


def test_shares_leave_at_their_average_cost_and_the_gain_is_before_charges() -> None:
    lines = ledger.sell("INFY", 3, D(120), D("0.50"), held=10, held_cost=D(1000)).lines
    amounts = {line.account: line.amount for line in lines}
    assert amounts == {A.CASH: D("359.50"), A.CHARGES: D("0.50"), A.POSITIONS: D(-300), A.PNL: D(-60)}
    (position,) = (line for line in lines if line.account is A.POSITIONS)
    assert (position.symbol, position.quantity) == ("INFY", -3)


def test_more_sold_than_held_leaves_a_negative_position_at_no_cost() -> None:
    books = Books()
    books.post(ledger.buy("INFY", 2, D(100), D(0), D(0)))
    books.post(ledger.sell("INFY", 5, D(110), D(0), held=2, held_cost=D(200)))
    assert (books.shares["INFY"], books.balances[A.POSITIONS, "INFY"]) == (-3, 0)
    assert sum(books.balances.values()) == 0


# ---- any sequence of orders


@dataclass
class Held:
    """One order in the books' test: what it still holds back and how far it is filled."""

    symbol: str
    side: Side
    quantity: int
    filled: int = 0
    reserved: Decimal = NOTHING
    ended: bool = False


SYMBOLS = ("INFY", "TCS")
prices = st.integers(1, 400_000).map(lambda ticks: ticks * D("0.05"))
charges = st.decimals(0, 50, places=4)


def fill(books: Books, order: Held, shares: int, price: Decimal, cost: Decimal) -> None:
    """Book an execution as it is booked when the broker's book tells of it, and end the order with its last share."""
    if order.side is Side.BUY:
        used = ledger.used_of_reserve(order.reserved, shares, order.quantity - order.filled)
        order.reserved -= used
        books.post(ledger.buy(order.symbol, shares, price, cost, used))
    else:
        held, held_cost = books.shares[order.symbol], books.balances[A.POSITIONS, order.symbol]
        books.post(ledger.sell(order.symbol, shares, price, cost, held=held, held_cost=held_cost))
    order.filled += shares
    if order.filled == order.quantity:
        end(books, order)


def end(books: Books, order: Held) -> None:
    if order.reserved:
        books.post(ledger.release(order.reserved))
    order.reserved, order.ended = D(0), True


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_sequence_of_journals_adds_up(data) -> None:
    books, orders, cash, shares = Books(), list[Held](), D(0), Counter[str]()
    gained = D(0)
    for _ in range(data.draw(st.integers(1, 25))):
        open_orders = [order for order in orders if order.filled < order.quantity]
        moves = ["fund", "buy", "sell"] + ["fill", "fill", "end"] * bool(open_orders)
        move = data.draw(st.sampled_from(moves))
        event(move)
        if move == "fund":
            rupees = data.draw(st.decimals(-10_000, 1_000_000, places=2))
            books.post(ledger.fund(rupees))
            cash += rupees
        elif move in {"buy", "sell"}:
            symbol, quantity = data.draw(st.sampled_from(SYMBOLS)), data.draw(st.integers(1, 50))
            # A sell is of shares that are free, as the gate has it: held, and not on sale.
            on_sale = sum(o.quantity - o.filled for o in open_orders if o.side is Side.SELL and o.symbol == symbol)
            side = Side.BUY if move == "buy" or shares[symbol] - on_sale < quantity else Side.SELL
            order = Held(symbol, side, quantity)
            if side is Side.BUY:
                order.reserved = needed_rupees(make_order(quantity=quantity, limit_price=data.draw(prices)))
                books.post(ledger.reserve(order.reserved))
            orders.append(order)
        elif move == "end":
            end(books, data.draw(st.sampled_from(open_orders)))
        else:
            # Ended ones among them: a late fill is real.
            order = data.draw(st.sampled_from(open_orders))
            bought = data.draw(st.integers(1, order.quantity - order.filled))
            price, cost = data.draw(prices), data.draw(charges)
            sign = 1 if order.side is Side.BUY else -1
            before = books.sum_of(A.POSITIONS)
            fill(books, order, bought, price, cost)
            cash -= sign * price * bought + cost
            shares[order.symbol] += sign * bought
            if order.side is Side.SELL:
                gained += price * bought - (before - books.sum_of(A.POSITIONS))
        assert sum(books.balances.values()) == 0
        assert books.sum_of(A.CASH) + books.sum_of(A.RESERVED) == cash
        assert books.sum_of(A.RESERVED) == sum(order.reserved for order in orders if not order.ended)
        assert books.sum_of(A.PNL) == -gained
        assert {symbol: n for symbol, n in books.shares.items() if n} == {s: n for s, n in shares.items() if n}
        assert all(n or not books.balances[A.POSITIONS, symbol] for symbol, n in shares.items())
    for order in orders:
        end(books, order)
    assert (books.sum_of(A.RESERVED), books.sum_of(A.CASH)) == (0, cash)


# ---- every order of events


QUANTITY = 10
CANCEL_WANTED = "the cancel is wanted"


def report(status: BookStatus, *trades: tuple[str, int]) -> list[BookOrder]:
    """The broker's word on the order, with the executions that this message tells of."""
    told = tuple(BookTrade(trade_id, shares, D(1000), D(1), AT) for trade_id, shares in trades)
    return [
        BookOrder("b1", TAG, "INFY", "nse", Side.BUY, Product.CNC, QUANTITY, D(1000), AT, status, "its words", told)
    ]


T1, T2, LAST = ("t1", 3), ("t2", 3), ("t3", 4)
FILLED = (
    report(BookStatus.OPEN, T1),
    report(BookStatus.OPEN, T2),
    report(BookStatus.COMPLETE, LAST),
    CANCEL_WANTED,
    report(BookStatus.CANCELLED),
    report(BookStatus.OPEN, T1, T1),
)
"""Two partial fills, the final one, a cancel and its confirmation, and a report that repeats one fill twice."""
SHORT = (
    report(BookStatus.OPEN, T1),
    report(BookStatus.OPEN, T2),
    report(BookStatus.OPEN),
    CANCEL_WANTED,
    report(BookStatus.CANCELLED),
    report(BookStatus.CANCELLED, T2, T1),
)
"""The same where the cancel came before the rest could fill, with one report that is late and one that repeats."""


@dataclass
class Life:
    """One buy order's life in the state table, in the fills and in the books."""

    order: KnownOrder = field(
        default_factory=lambda: KnownOrder(OrderState.ACCEPTED, QUANTITY, TAG, frozenset(), 0, age_s=1.0)
    )
    books: Books = field(default_factory=Books)
    held: Held = field(default_factory=lambda: Held("INFY", Side.BUY, QUANTITY))
    fills: list[BookTrade] = field(default_factory=list[BookTrade])

    def __post_init__(self) -> None:
        self.books.post(ledger.fund(D(50_000)))
        self.held.reserved = D(10_015)
        self.books.post(ledger.reserve(self.held.reserved))

    def hear(self, message: object) -> None:
        """Take one message in, as reconciliation and the cancel request do."""
        if message is CANCEL_WANTED:
            if self.order.state in {OrderState.ACCEPTED, OrderState.PARTIALLY_FILLED}:
                self._move(OrderEventKind.CANCEL_REQUESTED)
            return
        assert isinstance(message, list)
        for step in settle(self.order, message, None).steps:
            self._move(step.event, step.trade)

    def _move(self, kind: OrderEventKind, trade: BookTrade | None = None) -> None:
        self.order = replace(self.order, state=transition(self.order.state, kind))
        if trade is not None:
            self.fills.append(trade)
            ids = self.order.known_trade_ids | {trade.trade_id}
            self.order = replace(
                self.order, known_trade_ids=ids, filled_quantity=self.order.filled_quantity + trade.quantity
            )
            fill(self.books, self.held, trade.quantity, trade.price, trade.charges)
        if self.order.state not in LIVE_STATES:
            end(self.books, self.held)


def exit_of(shares: int, books: Books) -> Reason | None:
    """What the gate says to selling so many of the shares in the books."""
    facts = AccountFacts(
        Effective(TradingState.ACTIVE, False, ()), D(0), D(0), D(0), books.shares["INFY"], False, 0, 0, 0, 0, 0, None
    )
    order = make_order(side=Side.SELL, intent=Intent.EXIT, quantity=shares)
    answer = admit(order, make_quote(), 0.0, facts, GateLimits(), LIMITS)
    assert isinstance(answer, Approved | Refused)
    return answer.reason if isinstance(answer, Refused) else None


def ends_of(messages: Sequence[object]) -> Iterable[tuple[tuple[int, ...], Life]]:
    for order in permutations(range(len(messages))):
        life = Life()
        for n in order:
            life.hear(messages[n])
            held = life.books.shares["INFY"]
            assert held == sum(trade.quantity for trade in life.fills) == life.order.filled_quantity
            assert sum(life.books.balances.values()) == 0
            assert exit_of(held + 1, life.books) is Reason.SELL_EXCEEDS_HOLDING
            assert held == 0 or exit_of(held, life.books) is None
        yield order, life


@pytest.mark.parametrize(
    ("messages", "state", "shares", "cash"),
    [(FILLED, OrderState.FILLED, 10, 39_997), (SHORT, OrderState.CANCELLED, 6, 43_998)],
    ids=["filled", "cancelled"],
)
def test_all_720_orders_of_six_events_end_alike(messages, state, shares, cash) -> None:
    ends = dict(ends_of(messages))
    assert len(ends) == 720
    # Cash: 50,000 less the shares' price and one rupee of charges for each fill.
    for order, life in ends.items():
        assert (life.order.state, life.order.filled_quantity, life.books.shares["INFY"]) == (state, shares, shares), (
            order
        )
        assert (life.books.sum_of(A.CASH), life.books.sum_of(A.RESERVED)) == (cash, 0), order


def amounts(journal: ledger.Journal) -> dict[LedgerAccount, Decimal]:
    return {line.account: line.amount for line in journal.lines}


def test_shares_that_left_take_their_cost_with_them() -> None:
    part = amounts(ledger.adopt("TCS", -4, held=10, held_cost=Decimal(1000)))
    assert part == {LedgerAccount.POSITIONS: -400, LedgerAccount.EXTERNAL: 400}
    gone = amounts(ledger.adopt("TCS", -10, held=10, held_cost=Decimal(1000)))
    assert gone == {LedgerAccount.POSITIONS: -1000, LedgerAccount.EXTERNAL: 1000}
    assert amounts(ledger.adopt("TCS", 5)) == {LedgerAccount.POSITIONS: 0, LedgerAccount.EXTERNAL: 0}


def test_buying_back_what_was_oversold_leaves_no_cost_in_the_position() -> None:
    covering = amounts(ledger.buy("TCS", 10, Decimal(100), Decimal(1), Decimal(0), held=-4))
    assert covering == {
        LedgerAccount.POSITIONS: 600,
        LedgerAccount.PNL: 400,
        LedgerAccount.CHARGES: 1,
        LedgerAccount.RESERVED: 0,
        LedgerAccount.CASH: -1001,
    }
