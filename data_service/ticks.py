"""Tick sizes and daily price bands, as dated facts."""

from datetime import date, timedelta

import numpy as np

from data_service.bars import Ints, day_number
from data_service.sessions import EPOCH

TICK_TABLES: tuple[tuple[date, tuple[tuple[int, int], ...]], ...] = (
    (date(2025, 4, 15), ((250_00, 1), (1_000_00, 5), (5_000_00, 10), (10_000_00, 50), (20_000_00, 100))),
    (date(2024, 6, 10), ((250_00, 1),)),
    (date.min, ()),
)
"""From that day on: (price in paise up to which, tick in paise). NSE's table of 2025-04-15, the earlier rule of
2024-06-10 (one paisa below 250 rupees), and five paise everywhere before. At exactly 250 rupees the
coarser tick holds."""

TICK_ABOVE = {date(2025, 4, 15): 500, date(2024, 6, 10): 5, date.min: 5}
"""The tick in paise above a table's last price."""

BAND_DYNAMIC_PCT = 10
"""Shares with derivatives start a session with a dynamic range of 10 % around the previous close (SEBI, 2024-05-24)."""


def tick_paise(price: Ints, day: date) -> Ints:
    """The tick in paise for prices in paise on `day`. The exchange reviews it on the last close, so pass that."""
    since, table = next((since, table) for since, table in TICK_TABLES if since <= day)
    tick = np.full(np.shape(price), TICK_ABOVE[since], dtype=np.int64)
    for limit, size in reversed(table):
        inside = price < limit if limit == 250_00 else price <= limit
        tick[inside] = size
    return tick


def ticks_paise(price: Ints, days: Ints) -> Ints:
    """`tick_paise` of one price per day (days since 1970-01-01)."""
    starts = np.array(sorted(day_number(since) for since, _ in TICK_TABLES))
    table = np.searchsorted(starts, days, side="right")
    tick = np.zeros(len(days), dtype=np.int64)
    for number in np.unique(table):
        rows = table == number
        tick[rows] = tick_paise(price[rows], EPOCH + timedelta(days=int(days[rows][0])))
    return tick


def bands_paise(previous_close: Ints, tick: Ints, band_pct: int | Ints) -> tuple[Ints, Ints]:
    """Lowest and highest price allowed, in paise on the tick, `band_pct` per cent around the previous close."""
    low = -(-previous_close * (100 - band_pct) // (100 * tick)) * tick
    high = previous_close * (100 + band_pct) // (100 * tick) * tick
    return np.maximum(low, tick), np.maximum(high, tick)
