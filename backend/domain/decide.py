"""The decision, pure: what to leave, what to enter, how much, and why not, for one user at one instant."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import StrEnum

from backend.domain.market import OrderType, Product, Side, round_to_tick
from backend.domain.modes import MODE_RULES, Mode, ModeRules
from backend.domain.orders import Intent
from backend.domain.ranking import Candidate, MarketView, Ranking, SignalAction, edge_survives
from backend.domain.reasons import Reason
from backend.domain.risk import Approved, Denied, OrderIntent, QuoteView, RiskLimits, check, quote_problem
from backend.domain.sizing import ENTRY_CHARGES_FRACTION, budget_rupees, whole_shares
from backend.domain.trading_states import Effective, Standings, held_back, holding_key, permits


class TradeStatus(StrEnum):
    ENTERING = "entering"
    OPEN = "open"
    EXITING = "exiting"
    CLOSED = "closed"
    CANCELLED = "cancelled"


class ExitReason(StrEnum):
    TARGET = "target"
    STOP = "stop"
    HORIZON = "horizon"
    OPPOSITE_SIGNAL = "opposite_signal"
    SQUARE_OFF = "square_off"
    KILL_SWITCH = "kill_switch"
    EXTERNAL = "external"


@dataclass(frozen=True, slots=True)
class OpenTrade:
    """An open auto-trade, as its exits see it: shares held, rupees per share."""

    trade_id: int
    symbol: str
    product: Product
    strategy: str
    held: int
    target: Decimal
    stop: Decimal
    horizon_ends_on: date
    entering: bool = False
    """Its entry still rests: it is cancelled before anything is sold."""


@dataclass(frozen=True, slots=True)
class UserState:
    """One user at the instant of decision. Money in rupees; `blocked`: symbols not to be entered, and why; `unscaled`:
    symbols of which shares and prices may be on two scales, so that nothing is decided on either, and why.

    `paused`: no symbol is to be entered, and why; exits go on. `standings` is what holds trading back now,
    `day_equity` what the account was worth at the day's first look, None before it.
    """

    user_id: int
    account_id: int
    mode: Mode
    product: Product
    symbols: frozenset[str]
    enabled: bool
    cash_free: Decimal
    funds_total: Decimal
    funds_in_use: Decimal
    plan_entries_left: int
    own_entries_left: int | None
    entries_cap: int
    holdings: Mapping[str, int]
    open_trades: tuple[OpenTrade, ...]
    blocked: Mapping[str, Reason]
    unscaled: Mapping[str, Reason] = field(default_factory=dict[str, Reason])
    unavailable: Reason | None = None
    paused: Reason | None = None
    broker: str = ""
    standings: Standings = field(default_factory=lambda: Standings(()))
    day_equity: Decimal | None = None

    def standing(self, strategy: str | None = None, symbol: str | None = None) -> Effective:
        """What holds for this user's orders, of one strategy and in one symbol where they are named."""
        holding = holding_key(self.account_id, symbol) if symbol is not None else None
        return self.standings.effective(self.user_id, strategy, self.broker, holding)


@dataclass(frozen=True, slots=True)
class PlannedEntry:
    approved: Approved
    candidate: Candidate
    horizon_ends_on: date


@dataclass(frozen=True, slots=True)
class PlannedExit:
    approved: Approved
    trade: OpenTrade
    reason: ExitReason


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the answer to "why did or didn't it trade": `reason` is None where an order was approved."""

    symbol: str
    intent: Intent
    reason: Reason | None
    quantity: int = 0
    limit_price: Decimal | None = None
    exit_reason: ExitReason | None = None


@dataclass(slots=True)
class UserDecision:
    """Everything one cycle decided for one user."""

    user: UserState
    entries: list[PlannedEntry] = field(default_factory=list[PlannedEntry])
    exits: list[PlannedExit] = field(default_factory=list[PlannedExit])
    entry_cancels: list[OpenTrade] = field(default_factory=list[OpenTrade])
    outcomes: list[Outcome] = field(default_factory=list[Outcome])


def decide(market: MarketView, ranking: Ranking, user: UserState, limits: RiskLimits) -> UserDecision:
    """Exits first, then entries as funds, plan and gate allow. Nothing is sent and nothing is changed."""
    decision = UserDecision(user)
    if user.unavailable is not None:
        return decision
    flatten = user.standing().flatten
    for trade in user.open_trades:
        reason = ExitReason.KILL_SWITCH if flatten else exit_reason(market, trade)
        if reason is not None:
            _decide_exit(market, trade, reason, decision, limits)
    if user.enabled:
        _decide_entries(market, ranking, decision, limits)
    return decision


def exit_reason(market: MarketView, trade: OpenTrade) -> ExitReason | None:
    """Why `trade` should be left now, the most urgent reason first; None to stay."""
    quote = market.quotes.get(trade.symbol)
    square_off = market.square_off_at.get(trade.symbol)
    late = square_off is not None and market.now >= square_off
    if trade.product is Product.MIS and late:
        return ExitReason.SQUARE_OFF
    if quote is not None and quote.last <= trade.stop:
        return ExitReason.STOP
    if quote is not None and quote.last >= trade.target:
        return ExitReason.TARGET
    if market.today > trade.horizon_ends_on or (market.today == trade.horizon_ends_on and late):
        return ExitReason.HORIZON
    signal = market.signals.get(trade.symbol)
    if signal is not None and signal.action is SignalAction.SELL and not signal.abstained:
        return ExitReason.OPPOSITE_SIGNAL
    return None


def _decide_exit(
    market: MarketView, trade: OpenTrade, reason: ExitReason, decision: UserDecision, limits: RiskLimits
) -> None:
    if trade.entering:
        decision.entry_cancels.append(trade)
        return
    # What was bought today is on today's scale: an intraday trade is always squared off.
    unscaled = decision.user.unscaled.get(trade.symbol)
    if unscaled is not None and reason is not ExitReason.SQUARE_OFF:
        decision.outcomes.append(Outcome(trade.symbol, Intent.EXIT, unscaled, trade.held, None, reason))
        return
    standing = decision.user.standing(trade.strategy, trade.symbol)
    if not permits(standing, Intent.EXIT):
        decision.outcomes.append(Outcome(trade.symbol, Intent.EXIT, held_back(standing), trade.held, None, reason))
        return
    if not market.continuous.get(trade.symbol, False):
        decision.outcomes.append(
            Outcome(trade.symbol, Intent.EXIT, Reason.MARKET_NOT_CONTINUOUS, trade.held, None, reason)
        )
        return
    quote = market.quotes.get(trade.symbol)
    problem = quote_problem(quote, market.now, limits)
    if problem is not None or quote is None:
        problem = problem or Reason.NO_QUOTE
        decision.outcomes.append(Outcome(trade.symbol, Intent.EXIT, problem, trade.held, None, reason))
        return
    price = round_to_tick(quote.last * (1 - limits.exit_protection_fraction), quote.tick, Side.SELL)
    price = max(price, round_to_tick(quote.lower_band, quote.tick, Side.SELL))
    # What one order may not carry is left on a later cycle: an exit is delayed by such a limit, never barred by it.
    # Nor by shares that left by another way: what is still there must not be held for want of the rest.
    held = decision.user.holdings.get(trade.symbol, 0)
    quantity = _whole_lots(min(trade.held, held) if held > 0 else trade.held, quote)
    order = OrderIntent(
        trade.symbol, market.exchange, Side.SELL, trade.product, OrderType.LIMIT, quantity, price, Intent.EXIT
    )
    verdict = check(order, quote, market.now, cash_free=Decimal(0), held=held, limits=limits)
    if isinstance(verdict, Denied):
        decision.outcomes.append(Outcome(trade.symbol, Intent.EXIT, verdict.reason, trade.held, price, reason))
        return
    decision.exits.append(PlannedExit(verdict, trade, reason))
    decision.outcomes.append(Outcome(trade.symbol, Intent.EXIT, None, quantity, price, reason))


def _decide_entries(market: MarketView, ranking: Ranking, decision: UserDecision, limits: RiskLimits) -> None:
    user = decision.user
    rules = MODE_RULES[ranking.mode]
    cash_free, in_use = user.cash_free, user.funds_in_use
    plan_left, own_left = user.plan_entries_left, user.own_entries_left
    for candidate in ranking.candidates:
        symbol = candidate.signal.symbol
        if symbol not in user.symbols:
            continue
        standing = user.standing(candidate.signal.strategy, symbol)
        denied = user.blocked.get(symbol, user.paused) if permits(standing, Intent.ENTRY) else held_back(standing)
        if denied is None and plan_left <= 0:
            denied = Reason.PLAN_LIMIT
        if denied is None and own_left is not None and own_left <= 0:
            denied = Reason.OWN_DAY_LIMIT
        if denied is not None:
            decision.outcomes.append(Outcome(symbol, Intent.ENTRY, denied))
            continue
        budget = budget_rupees(user.funds_total, in_use, cash_free, rules.funds_fraction)
        verdict = _entry_order(market, candidate, rules, user, budget, cash_free, limits)
        if isinstance(verdict, Denied):
            decision.outcomes.append(Outcome(symbol, Intent.ENTRY, verdict.reason, 0, candidate.limit_price))
            continue
        order = verdict.order
        needed = order.limit_price * order.quantity * (1 + ENTRY_CHARGES_FRACTION)
        cash_free -= needed
        in_use += needed
        plan_left -= 1
        own_left = None if own_left is None else own_left - 1
        ends_on = market.today if user.product is Product.MIS else market.horizon_end(candidate.signal.horizon_sessions)
        decision.entries.append(PlannedEntry(verdict, candidate, ends_on))
        decision.outcomes.append(Outcome(symbol, Intent.ENTRY, None, order.quantity, order.limit_price))


def _entry_order(
    market: MarketView,
    candidate: Candidate,
    rules: ModeRules,
    user: UserState,
    budget: Decimal,
    cash_free: Decimal,
    limits: RiskLimits,
) -> Approved | Denied:
    quote, product = candidate.quote, user.product
    square_off = market.square_off_at.get(quote.symbol)
    if product is Product.MIS and candidate.signal.horizon_sessions != 1:
        # Ten sessions' numbers say nothing of a trade that ends today.
        return Denied(Reason.NO_INTRADAY_MODEL)
    if product is Product.MIS and (square_off is None or market.now >= square_off):
        return Denied(Reason.TOO_LATE_FOR_INTRADAY)
    price = candidate.limit_price
    budget = min(budget, limits.order_value_rupees_max)
    quantity = _whole_lots(whole_shares(budget, price, ENTRY_CHARGES_FRACTION), quote)
    if quantity <= 0:
        squeezed = budget < user.funds_total * rules.funds_fraction
        return Denied(Reason.FUNDS_IN_USE_LIMIT if squeezed else Reason.BUDGET_BELOW_ONE_SHARE)
    if quantity < candidate.shares_that_pay[product] and not edge_survives(
        market, price, quantity, product, candidate.expected_return_net, rules
    ):
        return Denied(Reason.EDGE_BELOW_CHARGES)
    order = OrderIntent(
        quote.symbol, market.exchange, Side.BUY, product, OrderType.LIMIT, quantity, price, Intent.ENTRY
    )
    return check(order, quote, market.now, cash_free=cash_free, held=0, limits=limits)


def _whole_lots(shares: int, quote: QuoteView) -> int:
    """As many of `shares` as one order may carry: whole lots, at most the freeze quantity."""
    shares = min(shares, quote.freeze_quantity)
    return shares - shares % quote.lot
