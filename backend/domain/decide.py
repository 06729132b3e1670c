"""The decision, pure: what to leave, what to enter, how much, and why not, for one user at one instant."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import StrEnum

from backend.domain.market import OrderType, Product, Side, round_to_tick
from backend.domain.modes import MODE_RULES, Mode, ModeRules
from backend.domain.orders import Intent
from backend.domain.ranking import Candidate, MarketView, Ranking, Signal, SignalAction, edge_survives
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
    cluster: str | None = None
    """The one its symbol was in when it was entered; None where there was none, or none was told."""


@dataclass(frozen=True, slots=True)
class UserState:
    """One user at the instant of decision. Money in rupees; `blocked`: symbols not to be entered, and why; `unscaled`:
    symbols of which shares and prices may be on two scales, so that nothing is decided on either, and why.

    `paused`: no symbol is to be entered, and why; exits go on. `strategies`: those that may enter, all of them where it
    is empty. `standings` is what holds trading back now,
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
    strategies: frozenset[str] = frozenset()

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
    strategy: str | None = None


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
    # A model that no mode may trade on, held or never certified, has no say in what is left either.
    if signal is None or signal.abstained or not signal.certified_modes or signal.expired(market.now):
        return None
    return ExitReason.OPPOSITE_SIGNAL if signal.action is SignalAction.SELL else None


def _decide_exit(
    market: MarketView, trade: OpenTrade, reason: ExitReason, decision: UserDecision, limits: RiskLimits
) -> None:
    def tell(denied: Reason | None, quantity: int = trade.held, price: Decimal | None = None) -> None:
        outcome = Outcome(trade.symbol, Intent.EXIT, denied, quantity, price, reason, trade.strategy)
        decision.outcomes.append(outcome)

    if trade.entering:
        return decision.entry_cancels.append(trade)
    # What was bought today is on today's scale: an intraday trade is always squared off.
    unscaled = decision.user.unscaled.get(trade.symbol)
    if unscaled is not None and reason is not ExitReason.SQUARE_OFF:
        return tell(unscaled)
    standing = decision.user.standing(trade.strategy, trade.symbol)
    if not permits(standing, Intent.EXIT):
        return tell(held_back(standing))
    if not market.continuous.get(trade.symbol, False):
        return tell(Reason.MARKET_NOT_CONTINUOUS)
    quote = market.quotes.get(trade.symbol)
    problem = quote_problem(quote, market.now, limits)
    if problem is not None or quote is None:
        return tell(problem or Reason.NO_QUOTE)
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
        return tell(verdict.reason, price=price)
    decision.exits.append(PlannedExit(verdict, trade, reason))
    return tell(None, quantity, price)


@dataclass(slots=True)
class _Left:
    """What is left for a user's next entry of this cycle; rupees, entries, and trades by cluster."""

    cash_free: Decimal
    funds_in_use: Decimal
    plan: int
    own: int | None
    clusters: Counter[str]

    def claim(self, needed: Decimal, cluster: str | None) -> None:
        self.cash_free -= needed
        self.funds_in_use += needed
        self.plan -= 1
        self.own = None if self.own is None else self.own - 1
        if cluster is not None:
            self.clusters[cluster] += 1


_NOT_OF_THIS_USER = (Reason.STRATEGY_NOT_ENABLED, Reason.NO_INTRADAY_MODEL, Reason.INTRADAY_ONLY)
"""Why a proposal is none for this user: what another strategy's proposal of the symbol comes to says more."""


def _decide_entries(market: MarketView, ranking: Ranking, decision: UserDecision, limits: RiskLimits) -> None:
    """At most one entry per symbol, of the best strategy that comes through; one outcome per symbol."""
    user = decision.user
    clustered = any(candidate.signal.cluster is not None for candidate in ranking.candidates)
    clusters = _clusters(market, user) if clustered else Counter[str]()
    left = _Left(user.cash_free, user.funds_in_use, user.plan_entries_left, user.own_entries_left, clusters)
    outcomes: dict[str, Outcome] = {}
    for candidate in ranking.candidates:
        symbol = candidate.signal.symbol
        if symbol not in user.symbols:
            continue
        told = outcomes.get(symbol)
        if told is not None and told.reason is None:
            continue
        outcome = _decide_entry(market, candidate, decision, left, limits)
        if told is None or outcome.reason is None or _says_more(outcome.reason, told.reason):
            outcomes[symbol] = outcome
    decision.outcomes.extend(outcomes.values())


def _says_more(reason: Reason, told: Reason | None) -> bool:
    return told in _NOT_OF_THIS_USER and reason not in _NOT_OF_THIS_USER


def _clusters(market: MarketView, user: UserState) -> Counter[str]:
    """The user's open and entering trades by cluster: each in the one it was entered with, and its symbol's present.

    A cluster is named after a member, so that the name of the same shares may change from day to day.
    """
    found: Counter[str] = Counter()
    for trade in user.open_trades:
        clusters = {trade.cluster, market.cluster_of(trade.symbol)}
        found.update(cluster for cluster in clusters if cluster is not None)
    return found


def _decide_entry(
    market: MarketView, candidate: Candidate, decision: UserDecision, left: _Left, limits: RiskLimits
) -> Outcome:
    """Plan the entry, or say why not."""
    user, signal = decision.user, candidate.signal
    denied = _barred(user, signal, left, limits)
    if denied is not None:
        return Outcome(signal.symbol, Intent.ENTRY, denied, strategy=signal.strategy)
    rules = MODE_RULES[user.mode]
    budget = budget_rupees(user.funds_total, left.funds_in_use, left.cash_free, rules.funds_fraction)
    verdict = _entry_order(market, candidate, rules, user, budget, left.cash_free, limits)
    if isinstance(verdict, Denied):
        return Outcome(signal.symbol, Intent.ENTRY, verdict.reason, 0, candidate.limit_price, strategy=signal.strategy)
    order = verdict.order
    left.claim(order.limit_price * order.quantity * (1 + ENTRY_CHARGES_FRACTION), signal.cluster)
    ends_on = market.today if user.product is Product.MIS else market.horizon_end(signal.horizon_sessions)
    decision.entries.append(PlannedEntry(verdict, candidate, ends_on))
    return Outcome(signal.symbol, Intent.ENTRY, None, order.quantity, order.limit_price, strategy=signal.strategy)


def _barred(user: UserState, signal: Signal, left: _Left, limits: RiskLimits) -> Reason | None:
    """What keeps the user from a proposal whatever its price."""
    if user.strategies and signal.strategy not in user.strategies:
        return Reason.STRATEGY_NOT_ENABLED
    standing = user.standing(signal.strategy, signal.symbol)
    if not permits(standing, Intent.ENTRY):
        return held_back(standing)
    blocked = user.blocked.get(signal.symbol, user.paused)
    if blocked is not None:
        return blocked
    if left.plan <= 0:
        return Reason.PLAN_LIMIT
    if left.own is not None and left.own <= 0:
        return Reason.OWN_DAY_LIMIT
    if signal.cluster is not None and left.clusters[signal.cluster] >= limits.cluster_positions_max:
        return Reason.CLUSTER_FULL
    return None


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
    if product is Product.MIS and not candidate.signal.intraday and candidate.signal.horizon_sessions != 1:
        # Ten sessions' numbers say nothing of a trade that ends today.
        return Denied(Reason.NO_INTRADAY_MODEL)
    if product is not Product.MIS and candidate.signal.intraday:
        return Denied(Reason.INTRADAY_ONLY)
    if product is Product.MIS and (square_off is None or market.now >= square_off):
        return Denied(Reason.TOO_LATE_FOR_INTRADAY)
    price = candidate.limit_price
    budget = min(budget, limits.order_value_rupees_max)
    quantity = _whole_lots(whole_shares(budget, price, ENTRY_CHARGES_FRACTION), quote)
    if quantity <= 0:
        squeezed = budget < user.funds_total * rules.funds_fraction
        return Denied(Reason.FUNDS_IN_USE_LIMIT if squeezed else Reason.BUDGET_BELOW_ONE_SHARE)
    if quantity < candidate.shares_that_pay[product] and not edge_survives(
        market, candidate.signal, price, quantity, product, candidate.expected_return_net, rules
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
