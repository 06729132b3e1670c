"""Which symbols a mode takes now, best first, and why it does not take the others: once for all users of the mode."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
"""The charges that ml_service's net figures already contain (0.35 % of the entry value)."""


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
    moved = float(signal.reference_close / quote.last)
    confidence = _touch_at((1 + rules.return_net_min) / moved - 1, rules.return_net_min, signal.touch)
    # Thresholds are asked as "not reached", so that a NaN is refused like any other number that does not reach them.
    if not confidence >= rules.confidence_min:
        return Reason.CONFIDENCE_BELOW_MODE
    # The plan's end value does not depend on today's entry price, so a dearer entry earns less.
    expected = _return_at(signal.expected_return_net, moved)
    if not expected >= rules.return_net_min:
        return Reason.RETURN_BELOW_MODE
    if not _return_at(signal.expected_return_net_lower, moved) > 0:
        return Reason.LOWER_BOUND_NOT_POSITIVE
    limit = round_to_tick(quote.last * (1 + limits.entry_protection_fraction), quote.tick, Side.BUY)
    price = min(limit, round_to_tick(quote.upper_band, quote.tick, Side.BUY))
    pays = {product: _shares_that_pay(market, price, product, expected, rules) for product in Product}
    return Candidate(signal, quote, price, confidence, rules.confidence_kind, expected, pays)


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
    while shares < SHARES_BEYOND_ANY_ORDER and not edge_survives(market, price, shares, product, expected_net, rules):
        shares *= 2
    return shares


def _return_at(predicted: float, moved: float) -> float:
    """(1 + predicted) × moved − 1, in the form that leaves `predicted` exact where the price has not moved."""
    return predicted * moved + (moved - 1)
