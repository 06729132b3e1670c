"""One simulated account: its orders along the state table, the paper broker's rules of money and fills, its trades.

It keeps in memory what live trading keeps in PostgreSQL, with the same pure rules: `transition` moves an order,
`match_on_arrival` and `match_in_bar` fill it, `charges_on_turnover` charges it, `ledger` carries positions at cost, and
`summarize` says where its trade stands.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal

from backend.backtest.result import FillRecord
from backend.backtest.spec import Proceeds
from backend.domain import ledger
from backend.domain.calendar import IST, YearNotRecorded, standard_calendar
from backend.domain.charges import Charges, charges_on_turnover, dp_charge, rates_on
from backend.domain.corporate_actions import RESCALING, ActionKind, CorporateAction, Levels, entitlement, levels_after
from backend.domain.decide import ExitReason, OpenTrade, PlannedEntry, TradeStatus
from backend.domain.ledger import LedgerAccount
from backend.domain.market import Exchange, OrderType, Product, Side
from backend.domain.matching import BarView, FillModel, Match, RestingOrder, match_in_bar
from backend.domain.orders import Intent, OrderEventKind, OrderState, Progress, transition
from backend.domain.positions import Execution
from backend.domain.reasons import Reason
from backend.domain.risk import OrderIntent
from backend.domain.trades import TradeFill, TradeSummary, summarize

EXCHANGE = Exchange.NSE
ZERO = Decimal(0)
_STORED_PRICE = Decimal("0.0001")
"""Live trading keeps a plan's prices to four decimals."""


@dataclass(slots=True, eq=False)
class SimTrade:
    """An auto-trade under way or over. `levels`: its plan on today's scale; `actions`: those of its share since."""

    number: int
    symbol: str
    planned: PlannedEntry
    mode: str
    decided_at: datetime
    levels: Levels
    status: TradeStatus = TradeStatus.ENTERING
    exit_reason: ExitReason | None = None
    closed_at: datetime | None = None
    orders: list["SimOrder"] = field(default_factory=list["SimOrder"])
    fills: list[TradeFill] = field(default_factory=list[TradeFill])
    actions: list[CorporateAction] = field(default_factory=list[CorporateAction])
    summary: TradeSummary | None = None
    seen: OpenTrade | None = None

    @property
    def held(self) -> int:
        return 0 if self.summary is None else self.summary.entry_quantity - self.summary.exit_quantity

    def as_open(self) -> OpenTrade:
        """The trade as the decision reads it."""
        known = self.seen
        if known is None:
            signal, order = self.planned.candidate.signal, self.planned.approved.order
            self.seen = known = OpenTrade(
                trade_id=self.number,
                symbol=self.symbol,
                product=order.product,
                strategy=signal.strategy,
                held=self.held,
                target=self.levels.target,
                stop=self.levels.stop,
                horizon_ends_on=self.planned.horizon_ends_on,
                entering=self.status is TradeStatus.ENTERING,
                cluster=signal.cluster,
            )
        return known

    @property
    def live(self) -> bool:
        return self.status in {TradeStatus.ENTERING, TradeStatus.OPEN, TradeStatus.EXITING}


@dataclass(slots=True, eq=False)
class SimOrder:
    """One order. `reserve`: rupees our books still hold back for it; `arrived`: when it reaches the market;
    `matched_through`: until when bars were met."""

    number: int
    trade: SimTrade
    at: datetime
    intent: OrderIntent
    strategy: str
    funds_total: Decimal
    state: OrderState = OrderState.PENDING
    filled: int = 0
    value: Decimal = ZERO
    charges: Charges | None = None
    dp: Decimal = ZERO
    reserve: Decimal = ZERO
    arrived: datetime | None = None
    matched_through: datetime | None = None
    late: bool = False
    """It has not reached the market yet: it meets the first bar that begins at `matched_through` or later."""
    sent: bool = False
    withdrawn: bool = False
    fills: list[FillRecord] = field(default_factory=list[FillRecord])
    message: str = ""
    denied: Reason | None = None

    @property
    def open_quantity(self) -> int:
        return self.intent.quantity - self.filled

    def event(self, kind: OrderEventKind, message: str = "") -> None:
        self.state = transition(self.state, kind)
        if message:
            self.message = message


@dataclass(frozen=True, slots=True)
class Posting:
    """A change of an account, for its curve: rupees of cash, and shares of a symbol."""

    at: datetime
    cash: Decimal
    symbol: str = ""
    shares: int = 0


@dataclass(slots=True)
class Position:
    """Shares held and what they cost in rupees, as the ledger carries them."""

    shares: int = 0
    cost: Decimal = ZERO


class Account:
    """Cash, shares, orders and trades of one simulated user."""

    def __init__(self, capital: Decimal, at: datetime, fills: FillModel, proceeds: Proceeds) -> None:
        self.cash = capital
        self.positions: dict[str, Position] = {}
        self.resting: list[SimOrder] = []
        self.orders: list[SimOrder] = []
        self.trades: list[SimTrade] = []
        self.live_trades: list[SimTrade] = []
        self.ended_trades: list[SimTrade] = []
        self.postings: list[Posting] = [Posting(at, capital)]
        self.entries_used: dict[date, int] = {}
        self.rejections_running = 0
        self.changes = 0
        """How often a trade has changed: what was concluded from the trades holds as long as it stays."""
        self._fills = fills
        self._proceeds = proceeds
        self._sold_today: set[tuple[str, date]] = set()
        self._unsettled: list[tuple[date, Decimal]] = []
        self._left: dict[date, dict[str, Reason]] = {}

    @property
    def holdings(self) -> dict[str, int]:
        return {symbol: position.shares for symbol, position in self.positions.items() if position.shares}

    def left_on(self, today: date) -> Mapping[str, Reason]:
        """Symbols of trades that ended today, or whose entry was sent today and came to nothing, and which it was."""
        return self._left.get(today, {})

    def books_free(self, today: date) -> Decimal:
        """Rupees our own books leave free: cash without what live orders reserve, and without unsettled proceeds."""
        return self.cash - sum((order.reserve for order in self.resting), ZERO) - self._locked(today)

    def broker_free(self, today: date) -> Decimal:
        """Rupees the broker leaves free: cash without all that resting buys can still cost, charges included."""
        buys = (order for order in self.resting if order.intent.side is Side.BUY and not order.withdrawn)
        return self.cash - sum((self.cost_of(order) for order in buys), ZERO) - self._locked(today)

    def _locked(self, today: date) -> Decimal:
        if self._proceeds is Proceeds.AT_ONCE:
            return ZERO
        self._unsettled = [(settles, rupees) for settles, rupees in self._unsettled if settles > today]
        return sum((rupees for _, rupees in self._unsettled), ZERO)

    def cost_of(self, order: SimOrder) -> Decimal:
        """Rupees, charges included, that a buy still needs for all of its open shares."""
        open_value = order.intent.limit_price * order.open_quantity
        paid = ZERO if order.charges is None else order.charges.total
        rates = rates_on(order.intent.product, EXCHANGE, order.at.astimezone(IST).date())
        return open_value + charges_on_turnover(rates, Side.BUY, order.value + open_value).total - paid

    def shares_free(self, symbol: str) -> int:
        """Shares held that no resting order sells."""
        held = self.positions.get(symbol)
        selling = (o.open_quantity for o in self.resting if o.intent.symbol == symbol and o.intent.side is Side.SELL)
        return (held.shares if held else 0) - sum(selling)

    def open_value(self) -> Decimal:
        """Rupees at stake: positions at cost and the open part of resting buys at their limits."""
        buys = (o.intent.limit_price * o.open_quantity for o in self.resting if o.intent.side is Side.BUY)
        return sum(buys, ZERO) + sum((position.cost for position in self.positions.values()), ZERO)

    def opposite_open(self, order: OrderIntent) -> bool:
        """Whether an own resting order on the other side could trade with `order`."""
        for other in self.resting:
            mine = other.intent
            if mine.symbol == order.symbol and mine.side is not order.side:
                meets = mine.limit_price <= order.limit_price
                if meets if order.side is Side.BUY else mine.limit_price >= order.limit_price:
                    return True
        return False

    def record(
        self, trade: SimTrade, intent: OrderIntent, at: datetime, strategy: str, funds_total: Decimal
    ) -> SimOrder:
        """A PENDING order of a trade."""
        number = len(self.orders) + 1
        order = SimOrder(number, trade, at, intent, strategy, funds_total, arrived=at, matched_through=at)
        self.orders.append(order)
        trade.orders.append(order)
        self.changes += 1
        return order

    def enter(self, planned: PlannedEntry, mode: str, at: datetime, funds_total: Decimal) -> SimOrder:
        """Record an entry and its trade, and claim one of the day's entries."""
        signal, order = planned.candidate.signal, planned.approved.order
        levels = Levels(order.quantity, planned.candidate.quote.last, signal.target, signal.stop)
        trade = SimTrade(len(self.trades) + 1, order.symbol, planned, mode, at, levels)
        self.trades.append(trade)
        self.live_trades.append(trade)
        self.changes += 1
        today = at.astimezone(IST).date()
        self.entries_used[today] = self.entries_used.get(today, 0) + 1
        return self.record(trade, order, at, signal.strategy, funds_total)

    def refuse(self, order: SimOrder, kind: OrderEventKind, message: str, at: datetime) -> None:
        """An order that never existed at the broker: its entry is given back, and what it reserved."""
        order.event(kind, message)
        order.reserve = ZERO
        if order.intent.intent is Intent.ENTRY:
            self.entries_used[order.at.astimezone(IST).date()] -= 1
        self._drop(order)
        self._update(order.trade, at)

    def rest(self, order: SimOrder) -> None:
        """The broker took the order."""
        order.event(OrderEventKind.ACCEPTED)
        self.resting.append(order)

    def advance(self, order: SimOrder, bar: BarView) -> None:
        """Let a resting order meet one finished bar that began after it was placed."""
        self.book(order, match_in_bar(self.as_resting(order), bar, self._fills), bar.end)
        order.matched_through = bar.end

    @staticmethod
    def as_resting(order: SimOrder) -> RestingOrder:
        """The order as the matching reads it."""
        intent = order.intent
        return RestingOrder(intent.side, OrderType.LIMIT, order.open_quantity, intent.limit_price, None, triggered=True)

    def book(self, order: SimOrder, match: Match, at: datetime) -> None:
        """Write a fill: cash, shares, charges, and the order's and its trade's progress."""
        if not match.quantity:
            return
        intent, day = order.intent, at.astimezone(IST).date()
        buys, value = intent.side is Side.BUY, match.price * match.quantity
        before = ZERO if order.charges is None else order.charges.total
        order.value += value
        # Charges are per order: a partial fill pays the difference to what the order has paid before.
        order.charges = charges_on_turnover(rates_on(intent.product, EXCHANGE, day), intent.side, order.value)
        charges = order.charges.total - before
        if not buys and intent.product is Product.CNC and (intent.symbol, day) not in self._sold_today:
            self._sold_today.add((intent.symbol, day))
            order.dp += dp_charge()
            charges += dp_charge()
        if order.reserve:
            order.reserve -= ledger.used_of_reserve(order.reserve, match.quantity, order.open_quantity)
        self._move(intent, match, charges)
        change = -value - charges if buys else value - charges
        self.cash += change
        self.postings.append(Posting(at, change, intent.symbol, match.quantity if buys else -match.quantity))
        if not buys and self._proceeds is Proceeds.SETTLED:
            self._unsettled.append((settles_on(day), change))
        order.filled += match.quantity
        order.fills.append(FillRecord(at, match.quantity, match.price, charges))
        order.event(Progress(order.filled, intent.quantity).fill_event())
        fill = TradeFill(intent.intent, Execution(intent.side, match.quantity, match.price, charges), at)
        order.trade.fills.append(fill)
        if order.state is OrderState.FILLED:
            self._drop(order)
        self._update(order.trade, at)

    def _move(self, intent: OrderIntent, match: Match, charges: Decimal) -> None:
        """Carry the position at cost, as the ledger's journals do."""
        position = self.positions.setdefault(intent.symbol, Position())
        if intent.side is Side.BUY:
            journal = ledger.buy(intent.symbol, match.quantity, match.price, charges, ZERO, held=position.shares)
        else:
            journal = ledger.sell(
                intent.symbol, match.quantity, match.price, charges, held=position.shares, held_cost=position.cost
            )
        for line in journal.lines:
            if line.account is LedgerAccount.POSITIONS:
                position.shares += line.quantity
                position.cost += line.amount

    def withdraw(self, order: SimOrder, why: str) -> None:
        """Ask for the cancel of a resting order: the broker's book says so at the next look, as in live trading."""
        if order.state in {OrderState.ACCEPTED, OrderState.PARTIALLY_FILLED}:
            order.event(OrderEventKind.CANCEL_REQUESTED, why)
            order.withdrawn = True

    def settle_cancels(self, at: datetime) -> None:
        """What was asked to be cancelled is cancelled."""
        for order in [order for order in self.resting if order.withdrawn]:
            self._end(order, OrderEventKind.CANCELLED, order.message, at)

    def expire(self, at: datetime) -> None:
        """Day orders end with their session."""
        for order in list(self.resting):
            kind = OrderEventKind.CANCELLED if order.withdrawn else OrderEventKind.EXPIRED
            self._end(order, kind, order.message or "day order: the session has ended", at)

    def _end(self, order: SimOrder, kind: OrderEventKind, message: str, at: datetime) -> None:
        order.event(kind, message)
        order.reserve = ZERO
        self._drop(order)
        self._update(order.trade, at)

    def _drop(self, order: SimOrder) -> None:
        if order in self.resting:
            self.resting.remove(order)

    def _update(self, trade: SimTrade, at: datetime) -> None:
        """Where the trade stands, from its orders, fills and actions."""
        states = [(order.intent.intent, order.state) for order in trade.orders]
        trade.summary = summary = summarize(states, trade.fills, trade.actions)
        trade.seen = None
        self.changes += 1
        trade.status = summary.status
        if summary.status is TradeStatus.CANCELLED:
            trade.closed_at = trade.closed_at or at
        else:
            trade.closed_at = summary.closed_at
        if summary.status is TradeStatus.OPEN:
            trade.exit_reason = None
        if not trade.live and trade in self.live_trades:
            self.live_trades.remove(trade)
            self.ended_trades.append(trade)
            if trade.status is TradeStatus.CLOSED or any(order.sent for order in trade.orders):
                closed = trade.status is TradeStatus.CLOSED
                why = Reason.EXITED_TODAY if closed else Reason.ENTRY_FAILED_TODAY
                self._left.setdefault((trade.closed_at or at).astimezone(IST).date(), {})[trade.symbol] = why

    def apply(self, actions: Iterable[CorporateAction], at: datetime) -> None:
        """Adjust shares, cash and plans for the actions of one morning, in their turn. Orders do not live overnight."""
        for action in sorted(actions, key=lambda a: a.turn):
            position = self.positions.get(action.symbol)
            if position is None or not position.shares or action.flagged:
                continue
            due = entitlement(action, position.shares)
            change = due.shares - position.shares
            if action.kind in RESCALING:
                journal = ledger.rescale(action.symbol, position.shares, position.cost, due, action.symbol)
                lines = [line for line in journal.lines if line.account is LedgerAccount.POSITIONS]
                position.shares += sum(line.quantity for line in lines)
                position.cost += sum((line.amount for line in lines), ZERO)
            elif action.kind is not ActionKind.DIVIDEND:
                continue
            self.cash += due.cash
            self.postings.append(Posting(at, due.cash, action.symbol, change))
            for trade in [trade for trade in self.live_trades if trade.symbol == action.symbol]:
                trade.actions.append(action)
                trade.levels = _stored(levels_after(action, trade.levels))
                self._update(trade, at)
                if trade.status is TradeStatus.CLOSED and trade.exit_reason is None:
                    trade.exit_reason = ExitReason.EXTERNAL


def settles_on(day: date) -> date:
    """When the money of a sale of `day` may be spent where it must settle first; the day after beyond the record."""
    try:
        return standard_calendar().settlement_day(day, EXCHANGE)
    except YearNotRecorded:
        return day + timedelta(days=1)


def _stored(levels: Levels) -> Levels:
    kept = (p.quantize(_STORED_PRICE, ROUND_HALF_UP) for p in (levels.reference, levels.target, levels.stop))
    return Levels(levels.quantity, *kept)
