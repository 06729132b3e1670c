"""Which proposals a mode takes now, best first, and why it does not take the others: once for all users of the mode."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

from backend.domain.market import Product, Side, round_to_tick
from backend.domain.modes import MODE_RULES, Mode, ModeRules
from backend.domain.reasons import Reason
from backend.domain.risk import QuoteView, RiskLimits, quote_problem

LEVEL_EPSILON = 1e-9

SHARES_BEYOND_ANY_ORDER = 2**24

TYPICAL_ROUND_TRIP_FRACTION = Decimal("0.0035")
"""The charges in a net figure whose prediction does not tell its gross one (0.35 % of the entry value)."""

NEAREST_MISS = (
    Reason.NO_PREDICTION,
    Reason.MODEL_ABSTAINED,
    Reason.MODE_NOT_CERTIFIED,
    Reason.NOT_A_BUY,
    Reason.PREDICTION_EXPIRED,
    Reason.NO_QUOTE,
    Reason.QUOTE_STALE,
    Reason.QUOTE_UNUSABLE,
    Reason.PRICE_MOVED,
    Reason.CONFIDENCE_BELOW_MODE,
    Reason.RETURN_BELOW_MODE,
    Reason.LOWER_BOUND_NOT_POSITIVE,
)
"""The checks of a signal in their order: of two refused ones, the later refused was nearer to a trade."""


class SignalAction(StrEnum):
    BUY = "buy"
    SELL = "sell"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Signal:
    """One strategy's prediction as the decision reads it. Returns and probabilities are fractions, prices rupees per
    share.

    `touch` maps a net return to P(the price reaches it within the horizon); `abstained` holds the model's reasons.
    `certified_modes` are those that may trade on it, `cost_fraction` the charges its net figures already contain;
    shares of one `cluster` moved together of late. An `intraday` plan ends with the session.
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
    certified_modes: frozenset[Mode] = frozenset()
    abstained: tuple[str, ...] = ()
    cost_fraction: Decimal = TYPICAL_ROUND_TRIP_FRACTION
    cluster: str | None = None
    intraday: bool = False
    valid_until: datetime | None = None
    logic_version: str | None = None

    def expired(self, now: datetime) -> bool:
        """Whether it is not to be acted upon any more; a buy that does not say until when it holds never is."""
        if self.valid_until is None:
            return self.action is SignalAction.BUY
        return now >= self.valid_until


@dataclass(frozen=True, slots=True)
class MarketView:
    """One instant of the market, the same for every user. `horizon_end` turns sessions into the day a plan ends.

    `signals` are the machine-learned strategy's, one per symbol; `proposals` what other strategies propose besides.
    """

    now: datetime
    today: date
    continuous: Mapping[str, bool]
    square_off_at: Mapping[str, datetime]
    signals: Mapping[str, Signal]
    quotes: Mapping[str, QuoteView]
    exchange: str
    horizon_end: Callable[[int], date]
    round_trip_charges: Callable[[Decimal, int, Product], Decimal]
    """(price, shares, product) → entry and exit charges together, as a fraction of the entry value."""
    proposals: Mapping[str, Sequence[Signal]] = field(default_factory=dict[str, Sequence[Signal]])

    def signals_of(self, symbol: str) -> tuple[Signal, ...]:
        """Every strategy's signal of a symbol, the machine-learned one's first."""
        learned = self.signals.get(symbol)
        return (*((learned,) if learned is not None else ()), *self.proposals.get(symbol, ()))

    def cluster_of(self, symbol: str) -> str | None:
        """The cluster that a symbol belongs to at present."""
        return next((signal.cluster for signal in self.signals_of(symbol) if signal.cluster is not None), None)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A strategy's proposal of a symbol that a mode takes, priced: the most the entry may pay per share, the numbers
    that decided it at the present price, and from how many shares on its edge surely survives the charges.
    """

    signal: Signal
    quote: QuoteView
    limit_price: Decimal
    confidence: float
    confidence_kind: str
    expected_return_net: float
    expected_return_net_lower: float
    shares_that_pay: Mapping[Product, int]


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a mode takes no proposal of a symbol: that of the strategy that came nearest; None where there is none."""

    reason: Reason
    strategy: str | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """One mode's view of the market: candidates, best lower bound first, and why the other symbols have none."""

    mode: Mode
    candidates: tuple[Candidate, ...]
    rejected: Mapping[str, Rejection]


def rank(market: MarketView, mode: Mode, limits: RiskLimits, products: Collection[Product] = tuple(Product)) -> Ranking:
    """Which (symbol, strategy) pairs `mode` takes now, best first; every symbol without one with its reason.

    A mode (R, C) takes a signal of a strategy that is certified for it when P(the price reaches +R net within the
    horizon) ≥ C, the calibrated expected net return at the present price ≥ R, and its lower bound there is positive.

    Args:
        products: those that the mode's users trade in.
    """
    candidates: list[Candidate] = []
    rejected: dict[str, Rejection] = {}
    for symbol, continuous in market.continuous.items():
        if not continuous:
            rejected[symbol] = Rejection(Reason.MARKET_NOT_CONTINUOUS)
            continue
        taken, missed = _judged(market, symbol, mode, limits, products)
        if taken:
            candidates += taken
        else:
            rejected[symbol] = missed
    candidates.sort(key=lambda c: (-c.expected_return_net_lower, -c.confidence, c.signal.symbol, c.signal.strategy))
    return Ranking(mode, tuple(candidates), rejected)


def _judged(
    market: MarketView, symbol: str, mode: Mode, limits: RiskLimits, products: Collection[Product]
) -> tuple[list[Candidate], Rejection]:
    """The strategies' candidates of a symbol, and the nearest miss of the others."""
    taken: list[Candidate] = []
    missed = Rejection(Reason.NO_PREDICTION)
    for signal in market.signals_of(symbol):
        found = _candidate(market, signal, mode, limits, products)
        if isinstance(found, Candidate):
            taken.append(found)
        elif NEAREST_MISS.index(found) > NEAREST_MISS.index(missed.reason):
            missed = Rejection(found, signal.strategy)
    return taken, missed


def _candidate(
    market: MarketView, signal: Signal, mode: Mode, limits: RiskLimits, products: Collection[Product]
) -> Candidate | Reason:
    rules = MODE_RULES[mode]
    if signal.abstained:
        return Reason.MODEL_ABSTAINED
    if mode not in signal.certified_modes:
        return Reason.MODE_NOT_CERTIFIED
    if signal.action is not SignalAction.BUY:
        return Reason.NOT_A_BUY
    if signal.expired(market.now):
        return Reason.PREDICTION_EXPIRED
    quote = market.quotes.get(signal.symbol)
    problem = quote_problem(quote, market.now, limits)
    if problem is not None or quote is None:
        return problem or Reason.NO_QUOTE
    if abs(quote.last - signal.reference_close) > signal.reference_close * limits.price_drift_fraction_max:
        return Reason.PRICE_MOVED
    moved = float(signal.reference_close / quote.last)
    confidence = _touch_at((1 + rules.return_net_min) / moved - 1, rules.return_net_min, signal.touch)
    # Thresholds are asked as "not reached", so that a NaN is refused like any other number that does not reach them.
    if not confidence >= rules.confidence_min:
        return Reason.CONFIDENCE_BELOW_MODE
    # The plan's end value does not depend on today's entry price, so a dearer entry earns less.
    expected = _return_at(signal.expected_return_net, moved)
    if not expected >= rules.return_net_min:
        return Reason.RETURN_BELOW_MODE
    lower = _return_at(signal.expected_return_net_lower, moved)
    if not lower > 0:
        return Reason.LOWER_BOUND_NOT_POSITIVE
    limit = round_to_tick(quote.last * (1 + limits.entry_protection_fraction), quote.tick, Side.BUY)
    price = min(limit, round_to_tick(quote.upper_band, quote.tick, Side.BUY))
    pays = {product: _shares_that_pay(market, signal, price, product, expected, rules) for product in products}
    return Candidate(signal, quote, price, confidence, rules.confidence_kind, expected, lower, pays)


def _touch_at(level: float, published: float, touch: Mapping[float, float]) -> float:
    """P(the price reaches `level` net of the prediction's reference), between the levels the model publishes.

    From a dearer entry the mode's return lies further from the reference, from a cheaper one nearer. Never more than at
    the lowest level; 0 above the highest: what is not published is not reached. A price that has not moved asks for the
    published level itself, exactly.
    """
    if abs(level - published) < LEVEL_EPSILON:
        return touch.get(published, 0.0)
    levels = sorted(touch)
    if not levels or level > levels[-1]:
        return 0.0
    if level <= levels[0]:
        return touch[levels[0]]
    upper = next(i for i, known in enumerate(levels) if known >= level)
    below, above = levels[upper - 1], levels[upper]
    share = (level - below) / (above - below)
    return touch[below] + (touch[above] - touch[below]) * share


def edge_survives(
    market: MarketView,
    signal: Signal,
    price: Decimal,
    quantity: int,
    product: Product,
    expected_net: float,
    rules: ModeRules,
) -> bool:
    """Whether the mode's return is left after the charges at this size.

    The prediction is net of typical charges; at a small size the flat ones (depository, brokerage floor) weigh more.
    """
    excess = float(market.round_trip_charges(price, quantity, product) - signal.cost_fraction)
    return expected_net - max(0.0, excess) >= rules.return_net_min


def _shares_that_pay(
    market: MarketView, signal: Signal, price: Decimal, product: Product, expected_net: float, rules: ModeRules
) -> int:
    """A power of two of shares at which the edge survives, so that larger orders need not ask: charges never weigh more
    on a larger order. Beyond any order's size where it survives nowhere."""
    shares = 1
    while shares < SHARES_BEYOND_ANY_ORDER:
        if edge_survives(market, signal, price, shares, product, expected_net, rules):
            break
        shares *= 2
    return shares


def _return_at(predicted: float, moved: float) -> float:
    """(1 + predicted) × moved − 1, in the form that leaves `predicted` exact where the price has not moved."""
    return predicted * moved + (moved - 1)
