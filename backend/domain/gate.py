"""The gate before the socket, pure: the last check of a recorded order, on facts read at the moment of its send.

Brokers' own limits for orders (facts of 2026): Zerodha 10 a second, 400 a minute, 5,000 a day; Upstox 10 and 500; Dhan
10, 250 and 7,000; the exchanges want algorithms registered above 10 a second (NSE/INVG/67858). Sauda stays below all.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache

from backend.domain.market import Side
from backend.domain.orders import Intent
from backend.domain.reasons import Reason
from backend.domain.risk import Approved, Denied, OrderIntent, QuoteView, RiskLimits, check
from backend.domain.sizing import ENTRY_CHARGES_FRACTION, FUNDS_IN_USE_FRACTION_MAX
from backend.domain.trading_states import Cause, Effective, TradingState, held_back, permits


@dataclass(frozen=True, slots=True)
class GateLimits:
    """Limits of one account at the send, each with its unit; counts are of orders sent in real time.

    `symbol_window_s` is for a market in real time: where its clock runs faster, the window is as much shorter.
    """

    quote_age_s_max: float = 5.0
    open_value_rupees_max: Decimal = Decimal(10_000_000)
    orders_per_second_max: int = 8
    orders_per_minute_max: int = 200
    orders_per_day_max: int = 3000
    symbol_orders_max: int = 20
    symbol_window_s: float = 300.0
    rejections_running_max: int = 5


@dataclass(frozen=True, slots=True)
class LiveSwitches:
    """The three that must all be on before a real order is sent: deployment, plan and compliance, the user."""

    deployment: bool
    compliance: bool
    user: bool

    @property
    def all_on(self) -> bool:
        return self.deployment and self.compliance and self.user


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """One account at the send, read under its lock. Money in rupees, counts of orders sent before this one.

    `funds_total` is what the account was worth when the order was decided; `shares_free` are held and not on sale;
    `symbol_sent` and `rejections_running` count since a person last lifted a halt. `opposite_open`: whether an own open
    order on the other side could trade with this one, its limit being met by this one's, or not known.
    """

    standing: Effective
    cash_free: Decimal
    funds_total: Decimal
    open_value: Decimal
    shares_free: int
    opposite_open: bool
    sent_last_second: int
    sent_last_minute: int
    sent_today: int
    symbol_sent: int
    rejections_running: int
    live_switches: LiveSwitches | None
    """None where the broker trades no real money."""
    unknown_open: bool = False
    """Whether the outcome of another order of this account in this symbol is UNKNOWN."""
    action_pending: bool = False
    """Whether a corporate action of the symbol is not booked in this account yet."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The gate's no. `impose`: the state it puts the user in; `wait`: a moment later it may say yes."""

    reason: Reason
    impose: tuple[TradingState, Cause] | None = None
    wait: bool = False


def admit(
    order: OrderIntent,
    quote: QuoteView | None,
    quote_age_s: float,
    facts: AccountFacts,
    limits: GateLimits,
    risk: RiskLimits,
) -> Approved | Refused:
    """Whether `order` may be sent now. Fails closed: without a fresh quote there is no yes.

    Args:
        quote_age_s: seconds since the quote was true, counted on to this moment.
    """
    refused = _standing(order, facts) or _runaway(facts, limits) or _rate(facts, limits)
    if refused is not None:
        return refused
    if facts.action_pending:
        return Refused(Reason.ACTION_PENDING)
    # An exit sells only what no other order may be selling: it needs no such block.
    if facts.unknown_open and order.intent is Intent.ENTRY:
        return Refused(Reason.ORDER_UNKNOWN)
    if facts.opposite_open:
        return Refused(Reason.OWN_OPPOSITE_ORDER)
    now = quote.as_of + timedelta(seconds=quote_age_s) if quote is not None else None
    if quote is None or now is None:
        return Refused(Reason.NO_QUOTE)
    verdict = check(
        order,
        quote,
        now,
        cash_free=facts.cash_free / (1 + ENTRY_CHARGES_FRACTION),
        held=facts.shares_free,
        limits=_at_send(risk, limits.quote_age_s_max),
    )
    if isinstance(verdict, Denied):
        return Refused(verdict.reason)
    return verdict if order.intent is Intent.EXIT else _exposure(order, facts, limits) or verdict


@lru_cache(maxsize=16)
def _at_send(risk: RiskLimits, quote_age_s_max: float) -> RiskLimits:
    return replace(risk, quote_age_s_max=quote_age_s_max)


def needed_rupees(order: OrderIntent) -> Decimal:
    """What a buy may cost, its charges included: this much is reserved when it is sent."""
    if order.side is Side.SELL:
        return Decimal(0)
    return order.limit_price * order.quantity * (1 + ENTRY_CHARGES_FRACTION)


def _standing(order: OrderIntent, facts: AccountFacts) -> Refused | None:
    if not permits(facts.standing, order.intent):
        return Refused(held_back(facts.standing))
    if facts.live_switches is not None and not facts.live_switches.all_on:
        return Refused(Reason.LIVE_SWITCH_OFF)
    return None


def _runaway(facts: AccountFacts, limits: GateLimits) -> Refused | None:
    """More orders than any strategy needs, or a broker that refuses them all: a person must look."""
    if facts.symbol_sent >= limits.symbol_orders_max:
        return Refused(Reason.SYMBOL_ORDER_RATE, (TradingState.HALTED, Cause.ORDER_RATE))
    if facts.rejections_running >= limits.rejections_running_max:
        return Refused(Reason.REJECTIONS_RUNNING, (TradingState.HALTED, Cause.REJECTIONS))
    return None


def _rate(facts: AccountFacts, limits: GateLimits) -> Refused | None:
    if facts.sent_today >= limits.orders_per_day_max:
        return Refused(Reason.ORDERS_PER_DAY)
    if facts.sent_last_minute >= limits.orders_per_minute_max:
        return Refused(Reason.ORDERS_PER_MINUTE)
    if facts.sent_last_second >= limits.orders_per_second_max:
        return Refused(Reason.ORDERS_PER_SECOND, wait=True)
    return None


def _exposure(order: OrderIntent, facts: AccountFacts, limits: GateLimits) -> Refused | None:
    needed = needed_rupees(order)
    # What is not free is in use: free cash must not fall below the fifth that stays out of the market.
    if facts.cash_free - needed < facts.funds_total * (1 - FUNDS_IN_USE_FRACTION_MAX):
        return Refused(Reason.FUNDS_IN_USE_LIMIT)
    if facts.open_value + order.limit_price * order.quantity > limits.open_value_rupees_max:
        return Refused(Reason.OPEN_VALUE_LIMIT)
    return None
