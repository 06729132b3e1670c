"""The market by session for the baselines: one row per session, one column per share, made from the bars."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt

from backend.backtest.history import MarketHistory, ShareHistory
from backend.backtest.report.series import Floats, Ints, days_of, number_of
from backend.domain.corporate_actions import RESCALING, ActionKind, CorporateAction

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Panel:
    """Prices in paise as they were quoted, shape (sessions, symbols), 0 where a share did not trade; `member`: in the
    universe on that day; `actions` by the index of the first session from their ex-date on."""

    days: tuple[date, ...]
    symbols: tuple[str, ...]
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    member: Flags
    actions: Mapping[int, Sequence[CorporateAction]]


def panel_of(history: MarketHistory, days: Sequence[date]) -> Panel:
    """The sessions `days` of every share that traded or was a member in one of them."""
    symbols = tuple(sorted(history.shares))
    numbers = np.array([number_of(day) for day in days], dtype=np.int64)
    shape = (len(days), len(symbols))
    prices = tuple(np.zeros(shape, dtype=np.int64) for _ in range(4))
    for column, symbol in enumerate(symbols):
        rows, found = _sessions_of(history.shares[symbol], numbers)
        for values, of_kind in zip(prices, found, strict=True):
            values[rows, column] = of_kind
    opened, high, low, close = prices
    member, actions = _members(history, days, symbols), _by_session(history.actions, days)
    return Panel(tuple(days), symbols, opened, high, low, close, member, actions)


def _sessions_of(share: ShareHistory, numbers: Ints) -> tuple[Ints, Ints]:
    """Which of the days `numbers` a share traded on, and its open, high, low and close of them, shape (4, days)."""
    days = days_of(share.start)
    place = np.searchsorted(numbers, days)
    inside = place < len(numbers)
    inside[inside] = numbers[place[inside]] == days[inside]
    bars, rows = np.flatnonzero(inside), place[inside]
    if not len(bars):
        return rows, np.zeros((4, 0), dtype=np.int64)
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    last = np.append(first[1:], len(bars)) - 1
    return rows[first], np.stack(
        (
            share.open[bars[first]],
            np.maximum.reduceat(share.high[bars], first),
            np.minimum.reduceat(share.low[bars], first),
            share.close[bars[last]],
        )
    )


def _members(history: MarketHistory, days: Sequence[date], symbols: Sequence[str]) -> Flags:
    """Who is in the universe on each day: by the last list determined by then (the first one before it); every share
    where no list is told."""
    if not history.members:
        return np.ones((len(days), len(symbols)), dtype=np.bool_)
    told = sorted(history.members)
    rows = np.array([[symbol in history.members[day] for symbol in symbols] for day in told], dtype=np.bool_)
    return rows[[max(bisect_right(told, day) - 1, 0) for day in days]].reshape(len(days), len(symbols))


def _by_session(actions: Sequence[CorporateAction], days: Sequence[date]) -> dict[int, list[CorporateAction]]:
    """Actions with an ex-date after the first session, in the order in which they take effect."""
    found: dict[int, list[CorporateAction]] = {}
    for action in sorted(actions, key=lambda a: (a.ex_date, a.turn, a.symbol)):
        if days and days[0] < action.ex_date <= days[-1]:
            found.setdefault(bisect_left(days, action.ex_date), []).append(action)
    return found


@dataclass(frozen=True, slots=True)
class Adjusted:
    """Prices in rupees on the scale of the last session, shape (sessions, symbols), NaN where a share did not trade;
    `held`: the last close by each session; `dividends`: rupees per share paid up to each session, on the same scale."""

    open: Floats
    high: Floats
    low: Floats
    close: Floats
    held: Floats
    dividends: Floats


def adjusted(panel: Panel) -> Adjusted:
    """The panel adjusted for splits and bonuses, so that a split is no loss."""
    column = {symbol: place for place, symbol in enumerate(panel.symbols)}
    factor = np.ones(panel.close.shape)
    paid = np.zeros(panel.close.shape)
    known = [(row, a) for row, of_day in panel.actions.items() for a in of_day if a.symbol in column and not a.flagged]
    for row, action in known:
        if action.kind in RESCALING:
            factor[:row, column[action.symbol]] *= action.shares_before / action.shares_after
    for row, action in known:
        if action.kind is ActionKind.DIVIDEND:
            # What is paid goes to the shares from before a split of the same day.
            paid[row, column[action.symbol]] += float(action.amount) * factor[row - 1, column[action.symbol]]
    prices = [
        np.where(values > 0, values / 100 * factor, np.nan)
        for values in (panel.open, panel.high, panel.low, panel.close)
    ]
    return Adjusted(*prices, held=_filled(prices[-1]), dividends=np.cumsum(paid, axis=0))


def _filled(values: Floats) -> Floats:
    """Each column's last known value by each row; NaN before its first."""
    row = np.where(np.isfinite(values), np.arange(len(values))[:, None], 0)
    return np.take_along_axis(values, np.maximum.accumulate(row, axis=0), axis=0) if len(values) else values
