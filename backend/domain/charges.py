"""What a trade in cash equity costs: an effective-dated schedule of rates, and the arithmetic that applies it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import lru_cache

from backend.domain.charges_data import (
    BROKERAGE_PLANS,
    EXCHANGE_TRANSACTION,
    GST,
    SEBI_FEE,
    STAMP_DUTY_BUY,
    STT_BUY,
    STT_SELL,
    BrokeragePlan,
    Rate,
)
from backend.domain.market import Exchange, Product, Side
from backend.domain.money import round_paise, round_rupee

ZERODHA = "zerodha"


@dataclass(frozen=True, slots=True)
class Rates:
    """Everything that is levied on one (product, exchange, day, broker), as fractions of turnover.

    `brokerage_rupees_max` caps one executed order's brokerage; `gst` is a fraction of brokerage, exchange transaction
    charge and SEBI fee together.
    """

    brokerage: Decimal
    brokerage_rupees_max: Decimal
    stt_buy: Decimal
    stt_sell: Decimal
    exchange_transaction: Decimal
    sebi: Decimal
    stamp_duty_buy: Decimal
    gst: Decimal


@dataclass(frozen=True, slots=True)
class Charges:
    """The charges of one executed order in rupees, exact: only a contract note rounds them."""

    brokerage: Decimal
    stt: Decimal
    exchange_transaction: Decimal
    sebi: Decimal
    stamp_duty: Decimal
    gst: Decimal

    @property
    def total(self) -> Decimal:
        return self.brokerage + self.stt + self.exchange_transaction + self.sebi + self.stamp_duty + self.gst


@dataclass(frozen=True, slots=True)
class ContractNote(Charges):
    """A day's charges in rupees as printed on a contract note: STT and stamp duty to the rupee, others to the paisa."""


@lru_cache(maxsize=8192)
def rates_on(product: Product, exchange: Exchange, on: date, broker: str = ZERODHA) -> Rates:
    """The rates in force on `on`. Raises ValueError for a day before the schedule or a broker without a plan."""
    plan = _plan(broker)
    intraday = product is Product.MIS
    return Rates(
        brokerage=(plan.mis_pct if intraday else plan.cnc_pct) / 100,
        brokerage_rupees_max=plan.order_rupees_max,
        stt_buy=_fraction(STT_BUY[product], on),
        stt_sell=_fraction(STT_SELL[product], on),
        exchange_transaction=_fraction(EXCHANGE_TRANSACTION[exchange], on),
        sebi=_fraction(SEBI_FEE, on),
        stamp_duty_buy=_fraction(STAMP_DUTY_BUY[product], on),
        gst=_fraction(GST, on),
    )


def charges_for(
    side: Side,
    product: Product,
    exchange: Exchange,
    quantity: int,
    price: Decimal,
    *,
    on: date,
    broker: str = ZERODHA,
) -> Charges:
    """The charges of one executed order of `quantity` shares at `price` rupees (its average, where it filled in parts).

    The depository's charge is not in it: it is per share and day (see dp_charge). Raises ValueError for a quantity or
    price that is not positive, a day before the schedule or an unknown broker. Source: charges_data.
    """
    if quantity <= 0 or price <= 0:
        raise ValueError(f"an executed order has a positive quantity and price, not {quantity} at {price}")
    return charges_on_turnover(rates_on(product, exchange, on, broker), side, quantity * price)


def charges_on_turnover(rates: Rates, side: Side, turnover: Decimal) -> Charges:
    """The charges of one executed order of `turnover` rupees. Raises ValueError for a turnover that is not positive."""
    if not turnover > 0:
        raise ValueError(f"an executed order's turnover is positive, not {turnover}")
    buys = side is Side.BUY
    brokerage = min(turnover * rates.brokerage, rates.brokerage_rupees_max)
    exchange_transaction = turnover * rates.exchange_transaction
    sebi = turnover * rates.sebi
    return Charges(
        brokerage,
        turnover * (rates.stt_buy if buys else rates.stt_sell),
        exchange_transaction,
        sebi,
        turnover * rates.stamp_duty_buy if buys else _ZERO,
        (brokerage + exchange_transaction + sebi) * rates.gst,
    )


def dp_charge(broker: str = ZERODHA) -> Decimal:
    """Rupees, GST included, for delivering one ISIN out of a demat account on one day, whatever the quantity.

    Levied once per share and day with a delivery (CNC) sell. Raises ValueError for an unknown broker.
    """
    return _plan(broker).dp_rupees_per_isin_and_day


def auto_square_off_charge(broker: str = ZERODHA) -> Decimal:
    """Rupees, GST included, per order that the broker itself squares off. Raises ValueError for an unknown broker."""
    return _plan(broker).auto_square_off_rupees


def round_trip_fraction(
    price: Decimal, quantity: int, product: Product, exchange: Exchange, *, on: date, broker: str = ZERODHA
) -> Decimal:
    """What buying and selling `quantity` shares at `price` costs, as a fraction of the entry value (0.002 is 0.2 %).

    A delivery sell's depository charge is included. Raises ValueError as charges_for does.
    """
    rates, turnover = rates_on(product, exchange, on, broker), quantity * price
    cost = charges_on_turnover(rates, Side.BUY, turnover).total + charges_on_turnover(rates, Side.SELL, turnover).total
    if product is Product.CNC:
        cost += dp_charge(broker)
    return cost / turnover


def contract_note(charges: Iterable[Charges]) -> ContractNote:
    """One day's orders of one account and exchange as its contract note rounds them (see ContractNote)."""
    orders = tuple(charges)
    return ContractNote(
        brokerage=round_paise(sum((c.brokerage for c in orders), _ZERO)),
        stt=round_rupee(sum((c.stt for c in orders), _ZERO)),
        exchange_transaction=round_paise(sum((c.exchange_transaction for c in orders), _ZERO)),
        sebi=round_paise(sum((c.sebi for c in orders), _ZERO)),
        stamp_duty=round_rupee(sum((c.stamp_duty for c in orders), _ZERO)),
        gst=round_paise(sum((c.gst for c in orders), _ZERO)),
    )


_ZERO = Decimal(0)


def _fraction(rates: tuple[Rate, ...], on: date) -> Decimal:
    for rate in reversed(rates):
        if rate.valid_from <= on:
            return rate.pct / 100
    raise ValueError(f"no charges are recorded for {on}: the schedule begins on {rates[0].valid_from}")


def _plan(broker: str) -> BrokeragePlan:
    try:
        return BROKERAGE_PLANS[broker]
    except KeyError:
        raise ValueError(f"no brokerage plan is recorded for {broker!r}") from None
