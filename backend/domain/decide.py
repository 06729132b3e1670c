"""The decision, pure: what to leave, what to enter, how much, and why not, for one user at one instant."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

from backend.domain.market import OrderType, Product, Side, round_to_tick
from backend.domain.modes import MODE_RULES, Mode, ModeRules
from backend.domain.orders import Intent
from backend.domain.reasons import Reason
from backend.domain.risk import Approved, Denied, OrderIntent, QuoteView, RiskLimits, check, quote_problem
from backend.domain.sizing import budget_rupees, whole_shares


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


class SignalAction(StrEnum):
    BUY = "buy"
    SELL = "sell"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Signal:
    """A prediction as the decision reads it. Returns and probabilities are fractions, prices rupees per share.

    `touch` maps a net return to P(the price reaches it within the horizon); `abstained` holds the model's reasons.
    """

    symbol: str
    action: SignalAction
    strategy: str
    model_version: str | None
    horizon_sessions: int
    touch: Mapping[float, float]
    expected_return_net: float
    expected_return_net_lower: float
    reference_close: Decimal
    target: Decimal
    stop: Decimal
    abstained: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MarketView:
    """One instant of the market, the same for every user. `horizon_end` turns sessions into the day a plan ends."""

    now: datetime
    today: date
    continuous: Mapping[str, bool]
    square_off_at: Mapping[str, datetime]
    signals: Mapping[str, Signal]
    quotes: Mapping[str, QuoteView]
    exchange: str
    certified_modes: frozenset[Mode]
    horizon_end: Callable[[int], date]
    round_trip_charges: Callable[[Decimal, int, Product], Decimal]
    """(price, shares, product) → entry and exit charges together, as a fraction of the entry value."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A symbol that a mode takes, priced: the most the entry may pay per share, the numbers that decided it, and from
    how many shares on its edge surely survives the charges.
    """

    signal: Signal
    quote: QuoteView
    limit_price: Decimal
    confidence: float
    confidence_kind: str
    expected_return_net: float
    shares_that_pay: Mapping[Product, int]


@dataclass(frozen=True, slots=True)
class Ranking:
    """One mode's view of the market: candidates, best lower bound first, and why the other symbols are none."""

    mode: Mode
    candidates: tuple[Candidate, ...]
    rejected: Mapping[str, Reason]


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


@dataclass(frozen=True, slots=True)
class UserState:
    """One user at the instant of decision. Money in rupees; `blocked`: symbols not to be entered, and why."""

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
    unavailable: Reason | None = None


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
    outcomes: list[Outcome] = field(default_factory=list[Outcome])


def rank(market: MarketView, mode: Mode, limits: RiskLimits) -> Ranking:
    """Which symbols `mode` takes now, best first; every other symbol with its reason.

    A mode (R, C) takes a signal when P(the price reaches +R net within the horizon) ≥ C, the calibrated expected net
    return at the present price ≥ R, and its lower bound is positive.
    """
    candidates: list[Candidate] = []
    rejected: dict[str, Reason] = {}
    for symbol in market.continuous:
        found = _candidate(market, symbol, mode, limits)
        if isinstance(found, Candidate):
            candidates.append(found)
        else:
            rejected[symbol] = found
    candidates.sort(key=lambda c: (-c.signal.expected_return_net_lower, -c.confidence, c.signal.symbol))
    return Ranking(mode, tuple(candidates), rejected)


def _candidate(market: MarketView, symbol: str, mode: Mode, limits: RiskLimits) -> Candidate | Reason:
    rules = MODE_RULES[mode]
    if not market.continuous[symbol]:
        return Reason.MARKET_NOT_CONTINUOUS
    signal = market.signals.get(symbol)
    if signal is None:
        return Reason.NO_PREDICTION
    if signal.abstained:
        return Reason.MODEL_ABSTAINED
    if mode not in market.certified_modes:
        return Reason.MODE_NOT_CERTIFIED
    if signal.action is not SignalAction.BUY:
        return Reason.NOT_A_BUY
    quote = market.quotes.get(symbol)
    problem = quote_problem(quote, market.now, limits)
    if problem is not None or quote is None:
        return problem or Reason.NO_QUOTE
    if abs(quote.last - signal.reference_close) > signal.reference_close * limits.price_drift_fraction_max:
        return Reason.PRICE_MOVED
    confidence = signal.touch.get(rules.return_net_min, 0.0)
    # Thresholds are asked as "not reached", so that a NaN is refused like any other number that does not reach them.
    if not confidence >= rules.confidence_min:
        return Reason.CONFIDENCE_BELOW_MODE
    # The plan's end value does not depend on today's entry price, so a dearer entry earns less.
    moved = float(signal.reference_close / quote.last)
    expected = _return_at(signal.expected_return_net, moved)
    if not expected >= rules.return_net_min:
        return Reason.RETURN_BELOW_MODE
    if not _return_at(signal.expected_return_net_lower, moved) > 0:
        return Reason.LOWER_BOUND_NOT_POSITIVE
    limit = round_to_tick(quote.last * (1 + limits.entry_protection_fraction), quote.tick, Side.BUY)
    price = min(limit, quote.upper_band)
    pays = {product: _shares_that_pay(market, price, product, expected, rules) for product in Product}
    return Candidate(signal, quote, price, confidence, rules.confidence_kind, expected, pays)


def _edge_survives(
    market: MarketView, price: Decimal, quantity: int, product: Product, expected_net: float, rules: ModeRules
) -> bool:
    """Whether the mode's return is left after the charges at this size.

    The prediction is net of typical charges; at a small size the flat ones (depository, brokerage floor) weigh more.
    """
    excess = float(market.round_trip_charges(price, quantity, product) - TYPICAL_ROUND_TRIP_FRACTION)
    return expected_net - max(0.0, excess) >= rules.return_net_min


def _shares_that_pay(
    market: MarketView, price: Decimal, product: Product, expected_net: float, rules: ModeRules
) -> int:
    """A power of two of shares at which the edge survives, so that larger orders need not ask: charges never weigh more
    on a larger order. Beyond any order's size where it survives nowhere."""
    shares = 1
    while shares < SHARES_BEYOND_ANY_ORDER and not _edge_survives(market, price, shares, product, expected_net, rules):
        shares *= 2
    return shares


def _return_at(predicted: float, moved: float) -> float:
    """(1 + predicted) × moved − 1, in the form that leaves `predicted` exact where the price has not moved."""
    return predicted * moved + (moved - 1)


def decide(market: MarketView, ranking: Ranking, user: UserState, limits: RiskLimits) -> UserDecision:
    """Exits first, then entries as funds, plan and gate allow. Nothing is sent and nothing is changed."""
    decision = UserDecision(user)
    if user.unavailable is not None:
        return decision
    for trade in user.open_trades:
        _decide_exit(market, trade, decision, limits)
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


def _decide_exit(market: MarketView, trade: OpenTrade, decision: UserDecision, limits: RiskLimits) -> None:
    reason = exit_reason(market, trade)
    if reason is None:
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
    price = max(price, quote.lower_band)
    # What one order may not carry is left on a later cycle: an exit is delayed by such a limit, never barred by it.
    quantity = _whole_lots(trade.held, quote)
    order = OrderIntent(
        trade.symbol, market.exchange, Side.SELL, trade.product, OrderType.LIMIT, quantity, price, Intent.EXIT
    )
    held = decision.user.holdings.get(trade.symbol, 0)
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
        denied = user.blocked.get(symbol)
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
        value = order.limit_price * order.quantity
        cash_free -= value * (1 + ENTRY_CHARGES_FRACTION)
        in_use += value
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
    if product is Product.MIS and (square_off is None or market.now >= square_off):
        return Denied(Reason.TOO_LATE_FOR_INTRADAY)
    price = candidate.limit_price
    budget = min(budget, limits.order_value_rupees_max)
    quantity = _whole_lots(whole_shares(budget, price, ENTRY_CHARGES_FRACTION), quote)
    if quantity <= 0:
        squeezed = budget < user.funds_total * rules.funds_fraction
        return Denied(Reason.FUNDS_IN_USE_LIMIT if squeezed else Reason.BUDGET_BELOW_ONE_SHARE)
    if quantity < candidate.shares_that_pay[product] and not _edge_survives(
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


ENTRY_CHARGES_FRACTION = Decimal("0.0015")
"""Reserve for the entry's own charges when sizing: delivery buys cost about 0.12 % on NSE."""

SHARES_BEYOND_ANY_ORDER = 2**24

TYPICAL_ROUND_TRIP_FRACTION = Decimal("0.0035")
"""The charges that ml_service's net figures already contain (0.35 % of the entry value)."""
