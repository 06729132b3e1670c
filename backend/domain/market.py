"""The exchanges' own rules for one order: its vocabulary, ticks, price bands and market-wide halts, as dated data."""

from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from enum import StrEnum


class Exchange(StrEnum):
    """The exchanges Sauda knows the rules of."""

    NSE = "nse"
    BSE = "bse"


class Side(StrEnum):
    """BUY or SELL, as the order says it."""

    BUY = "buy"
    SELL = "sell"


class Product(StrEnum):
    """CNC is delivery; MIS is intraday, squared off the same day."""

    CNC = "cnc"
    MIS = "mis"


class OrderType(StrEnum):
    """STOP_LIMIT is the exchanges' "SL": a limit order that rests until its trigger price trades."""

    LIMIT = "limit"
    STOP_LIMIT = "sl"
    MARKET = "market"


class Validity(StrEnum):
    """DAY rests until the session ends; IOC fills at once or is cancelled."""

    DAY = "day"
    IOC = "ioc"


class StockClass(StrEnum):
    """CAS: the stock has derivatives on any exchange and closes by auction since 2026-08-03; NON_CAS: it has none."""

    CAS = "cas"
    NON_CAS = "non_cas"


@dataclass(frozen=True, slots=True)
class TickRegime:
    """Ticks in rupees by price from `valid_from`: the first step whose bound holds gives the tick."""

    valid_from: date
    steps: tuple[tuple[Decimal, Decimal], ...]
    above: Decimal
    source: str


_PAISA = Decimal("0.01")
_FIVE_PAISE = Decimal("0.05")
_BELOW_250 = Decimal("249.99")
"""The press prints both "up to 250" and "below 250"; at exactly 250 the 0.05 grid is valid under either reading."""

TICK_REGIMES = (
    TickRegime(date.min, (), _FIVE_PAISE, "NSE, 0.05 for every share until 2024-06-09"),
    TickRegime(date(2024, 6, 10), ((_BELOW_250, _PAISA),), _FIVE_PAISE, "NSE, 0.01 below 250 from 2024-06-10"),
    TickRegime(
        date(2025, 4, 15),
        (
            (_BELOW_250, _PAISA),
            (Decimal(1000), _FIVE_PAISE),
            (Decimal(5000), Decimal("0.10")),
            (Decimal(10000), Decimal("0.50")),
            (Decimal(20000), Decimal(1)),
        ),
        Decimal(5),
        "NSE, price-linked ticks from 2025-04-15; agrees with 2,145 of 2,145 shares in an October 2025 instrument dump",
    ),
)


def tick_size(price: Decimal, on: date, is_etf: bool = False) -> Decimal:
    """The tick in rupees on `on` of a share whose reviewed close is `price` rupees.

    The exchange reviews it monthly, on the close of the previous month's last session; pass that close where it is
    known, and prefer the instrument master's tick to this rule. ETFs tick at 0.01 or 0.05 at any price: 0.05 is
    answered, whose grid is valid under both. Raises ValueError for a price that is not positive. Source: TICK_REGIMES.
    """
    _require_positive(price, "price")
    if is_etf:
        return _FIVE_PAISE
    regime = next(regime for regime in reversed(TICK_REGIMES) if regime.valid_from <= on)
    return next((tick for up_to, tick in regime.steps if price <= up_to), regime.above)


def round_to_tick(price: Decimal, tick: Decimal, side: Side) -> Decimal:
    """A limit price in rupees on the tick grid and never worse than `price`: down for a buy, up for a sell.

    Raises ValueError for a price or tick that is not positive, and where a buy would round down to nothing.
    """
    rounded = _on_grid(price, tick, ROUND_FLOOR if side is Side.BUY else ROUND_CEILING)
    if rounded <= 0:
        raise ValueError(f"a price of {price} is below one tick of {tick}")
    return rounded


def round_nearest(price: Decimal, tick: Decimal) -> Decimal:
    """`price` rupees on the nearest point of the tick grid, halves up. Raises ValueError as round_to_tick does."""
    return _on_grid(price, tick, ROUND_HALF_UP)


def _on_grid(price: Decimal, tick: Decimal, rounding: str) -> Decimal:
    _require_positive(price, "price")
    _require_positive(tick, "tick")
    return (price / tick).to_integral_value(rounding) * tick


def _require_positive(value: Decimal, name: str) -> None:
    if not (value.is_finite() and value > 0):
        raise ValueError(f"{name} must be positive, not {value}")


@dataclass(frozen=True, slots=True)
class PriceBand:
    """Lowest and highest price in rupees the exchange accepts; both ends are on the tick grid and accepted."""

    lower: Decimal
    upper: Decimal

    def __contains__(self, price: Decimal) -> bool:
        return self.lower <= price <= self.upper


DYNAMIC_BAND_PCT = Decimal(10)
"""Operating range that shares with derivatives open with (SEBI circular of 2024-05-24); the exchange may widen it."""

CLOSING_AUCTION_BAND_PCT = Decimal(3)
"""Around the auction's reference price (NSE/CMTR/74466 of 2026-05-29)."""


def fixed_band(previous_close: Decimal, pct: Decimal, tick: Decimal) -> PriceBand:
    """The daily band of ±`pct` per cent around `previous_close`, in rupees, rounded inwards to the tick.

    Raises ValueError unless 0 < pct < 100 and the close and tick are positive.
    """
    if not 0 < pct < 100:
        raise ValueError(f"a band's width must lie between 0 and 100 per cent, not {pct}")
    width = previous_close * pct / 100
    return PriceBand(
        _on_grid(previous_close - width, tick, ROUND_CEILING), _on_grid(previous_close + width, tick, ROUND_FLOOR)
    )


def dynamic_band(previous_close: Decimal, tick: Decimal) -> PriceBand:
    """The operating range a share with derivatives opens with: ±10 % of `previous_close`. Raises as fixed_band does."""
    return fixed_band(previous_close, DYNAMIC_BAND_PCT, tick)


def closing_auction_band(reference_price: Decimal, tick: Decimal) -> PriceBand:
    """What the closing auction accepts: ±3 % of its reference price. Raises as fixed_band does."""
    return fixed_band(reference_price, CLOSING_AUCTION_BAND_PCT, tick)


@dataclass(frozen=True, slots=True)
class Halt:
    """A market-wide halt: nothing trades for `closed_for`, then a pre-open auction lasts `pre_open`.

    `closed_for` is None where the market stays shut for the rest of the day.
    """

    closed_for: timedelta | None
    pre_open: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class HaltRule:
    """From `valid_from`, a fall or rise of `level_pct` per cent from time of day `start` (IST) on leads to `halt`."""

    valid_from: date
    level_pct: int
    start: time
    halt: Halt | None
    source: str


_MWCB = "nseindia.com and bseindia.com, index-based market-wide circuit breakers (in force before 2019)"
_REST_OF_DAY = Halt(None)


def _halt(minutes: int) -> Halt:
    return Halt(timedelta(minutes=minutes), timedelta(minutes=15))


HALT_RULES = (
    HaltRule(date.min, 10, time(0), _halt(45), _MWCB),
    HaltRule(date.min, 10, time(13), _halt(15), _MWCB),
    HaltRule(date.min, 10, time(14, 30), None, _MWCB),
    HaltRule(date.min, 15, time(0), _halt(105), _MWCB),
    HaltRule(date.min, 15, time(13), _halt(45), _MWCB),
    HaltRule(date.min, 15, time(14), _REST_OF_DAY, _MWCB),
    HaltRule(date.min, 20, time(0), _REST_OF_DAY, _MWCB),
)
HALT_LEVELS_PCT = (20, 15, 10)


def circuit_breaker_level(index_previous_close: Decimal, index_value: Decimal) -> int | None:
    """The widest level in per cent (20, 15 or 10) that the index has moved either way, or None below 10 %.

    Ask it of NIFTY 50 and of SENSEX: whichever is first counts. Raises ValueError for a close that is not positive.
    """
    _require_positive(index_previous_close, "index_previous_close")
    moved_pct = abs(index_value - index_previous_close) * 100 / index_previous_close
    return next((level for level in HALT_LEVELS_PCT if moved_pct >= level), None)


def circuit_breaker_halt(level_pct: int, at: time, on: date) -> Halt | None:
    """The halt that follows when a level (10, 15 or 20 per cent) is reached at time of day `at` (IST) on `on`.

    None where trading goes on (10 % from 14:30 on). Raises ValueError for any other level. Source: HALT_RULES.
    """
    if level_pct not in HALT_LEVELS_PCT:
        raise ValueError(f"the market-wide circuit breaker has no level of {level_pct} per cent")
    rules = [r for r in HALT_RULES if r.level_pct == level_pct and r.valid_from <= on and r.start <= at]
    return max(rules, key=lambda rule: (rule.valid_from, rule.start)).halt
