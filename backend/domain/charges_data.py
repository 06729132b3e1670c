"""The published rates behind the charges, as dated rows with their source.

MEMORY marks what no document was at hand for. Where history is uncertain the dearer rate is recorded, so that a
back-test errs on the side of too little profit.
"""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from backend.domain.market import Exchange, Product

SCHEDULE_BEGINS = date(2019, 1, 1)
MEMORY = "from memory"


@dataclass(frozen=True, slots=True)
class Rate:
    """`pct` per cent from `valid_from` until the next row's `valid_from`."""

    valid_from: date
    pct: Decimal
    source: str


@dataclass(frozen=True, slots=True)
class BrokeragePlan:
    """What a broker itself charges: per cent of turnover up to `order_rupees_max` per executed order, and fixed fees.

    The two fixed fees include GST.
    """

    cnc_pct: Decimal
    mis_pct: Decimal
    order_rupees_max: Decimal
    dp_rupees_per_isin_and_day: Decimal
    auto_square_off_rupees: Decimal
    source: str


def _always(pct: str, source: str) -> tuple[Rate, ...]:
    return (Rate(SCHEDULE_BEGINS, Decimal(pct), source),)


_STT = "Equity rates 'No Change' in NSE's circular of 2026-03-31 (Finance Act 2026), and none since 2019"
STT_BUY = {Product.CNC: _always("0.1", _STT), Product.MIS: _always("0", _STT)}
STT_SELL = {Product.CNC: _always("0.1", _STT), Product.MIS: _always("0.025", _STT)}

EXCHANGE_TRANSACTION = {
    Exchange.NSE: (
        Rate(SCHEDULE_BEGINS, Decimal("0.00325"), "dated broker tables"),
        Rate(date(2021, 1, 1), Decimal("0.00345"), f"dated broker tables; day of change {MEMORY}"),
        Rate(date(2023, 4, 1), Decimal("0.00335"), f"dated broker tables; day of change {MEMORY}"),
        Rate(date(2024, 4, 1), Decimal("0.00322"), f"dated broker tables; day of change {MEMORY}"),
        Rate(
            date(2024, 10, 1), Decimal("0.00307"), "SEBI 'true to label' circular of 2024-07-01: 297 + 10 IPFT / crore"
        ),
        Rate(date(2026, 3, 1), Decimal("0.00307"), "NSE/FA/73061 of 2026-02-27: 306.99 + 0.01 IPFT / crore"),
    ),
    Exchange.BSE: _always(
        "0.00375", "2026 broker tables, groups A, B and the like; earlier and lower rates are not recorded"
    ),
}
"""Includes the investor protection fund's part (IPFT). BSE's X, XT, Z and ZP groups pay more and are not traded."""

SEBI_FEE = _always("0.0001", "Rs 10 a crore, 2026 broker tables; lower for a while in 2020-21, not recorded")

_STAMP = "uniform rates of 2020-07-01; the states' own rates before it differ and are approximated by the same"
STAMP_DUTY_BUY = {Product.CNC: _always("0.015", _STAMP), Product.MIS: _always("0.003", _STAMP)}

GST = _always("18", "on brokerage, exchange transaction charge and SEBI fee; 2026 broker tables")

BROKERAGE_PLANS = {
    "zerodha": BrokeragePlan(
        cnc_pct=Decimal(0),
        mis_pct=Decimal("0.03"),
        order_rupees_max=Decimal(20),
        dp_rupees_per_isin_and_day=Decimal("15.34"),
        auto_square_off_rupees=Decimal("59.00"),
        source=f"2026 broker tables; depository charge (3.50 + 9.50) + GST {MEMORY}; square-off 50 + GST, support page",
    ),
    "upstox": BrokeragePlan(
        cnc_pct=Decimal("2.5"),
        mis_pct=Decimal("0.1"),
        order_rupees_max=Decimal(20),
        dp_rupees_per_isin_and_day=Decimal("23.60"),
        auto_square_off_rupees=Decimal("59.00"),
        source="upstox.com/brokerage-charges: delivery 20 (2.5 % is the most a broker may take), intraday 20 or 0.1 %, "
        f"square-off 59 all-in; depository 20 + GST {MEMORY} (18.50 until 2025)",
    ),
    "dhan": BrokeragePlan(
        cnc_pct=Decimal(0),
        mis_pct=Decimal("0.03"),
        order_rupees_max=Decimal(20),
        dp_rupees_per_isin_and_day=Decimal("14.75"),
        auto_square_off_rupees=Decimal("23.60"),
        source="dhan.co/pricing as of 2025-26: intraday 20 or 0.03 %, depository 12.50 + GST, square-off 20 + GST",
    ),
}
