"""Makes coarser bars of finer ones along the sessions, so that every interval is served from what is stored."""

from dataclasses import replace
from datetime import timedelta

import numpy as np

from contracts.market import Interval
from data_service.bars import INTERVAL_S, Bars, Ints, grouped, joined, taken
from data_service.sessions import EPOCH, Sessions


def finer_than(interval: Interval) -> list[Interval]:
    """The intervals whose bars add up to bars of `interval`, coarsest first: the fewest bars have to be read."""
    if interval is Interval.DAY_1:
        return list(reversed(INTERVAL_S))
    length_s = INTERVAL_S[interval]
    return [finer for finer, finer_s in reversed(INTERVAL_S.items()) if finer_s < length_s and length_s % finer_s == 0]


def session_spans(days: Ints, sessions: Sessions, has_derivatives: bool) -> tuple[Ints, Ints]:
    """Per day (since 1970-01-01) the session's open and the end of its continuous trading, in epoch seconds."""
    unique, place = np.unique(days, return_inverse=True)
    of = [sessions.usual(EPOCH + timedelta(days=number)) for number in unique.tolist()]
    opens = np.array([session.open_s for session in of], dtype=np.int64)
    closes = np.array([session.close_s(has_derivatives) for session in of], dtype=np.int64)
    return opens[place], closes[place]


def resampled(bars: Bars, interval: Interval, sessions: Sessions, has_derivatives: bool) -> Bars:
    """Intraday `bars` as bars of an intraday `interval`; the last one of a session ends when continuous trading does.

    Since 2026-08-03 that is 15:15 for shares with derivatives (NSE/CMTR/74466): their last 5-minute bar starts 15:10.
    """
    opens, closes = session_spans(bars.day, sessions, has_derivatives)
    return grouped(bars, INTERVAL_S[interval], opens, closes)


def daily_of(bars: Bars, sessions: Sessions, has_derivatives: bool) -> Bars:
    """Intraday `bars` as daily bars of the sessions they cover from the first bar to the last.

    The close is the last trade's, not the exchange's official one, so an official daily bar is always preferred. It
    counts as known when the official close would be.
    """
    opens, closes = session_spans(bars.day, sessions, has_derivatives)
    whole = grouped(bars, int((closes - opens).max(initial=0)) or 1, opens, closes)
    first = np.searchsorted(bars.day, whole.day, side="left")
    last = np.searchsorted(bars.day, whole.day, side="right") - 1
    covered = (bars.start[first] == opens[first]) & (bars.end[last] >= closes[last])
    kept = taken(whole, np.flatnonzero(covered))
    return replace(kept, end=official_closes(kept.day, sessions, has_derivatives))


def official_closes(days: Ints, sessions: Sessions, has_derivatives: bool) -> Ints:
    """When the official close of each day is known, seconds since the epoch."""
    unique, place = np.unique(days, return_inverse=True)
    of = [sessions.usual(EPOCH + timedelta(days=number)) for number in unique.tolist()]
    return np.array([session.official_close_s(has_derivatives) for session in of], dtype=np.int64)[place]


def filled_up(best: Bars | None, fallback: Bars | None) -> Bars | None:
    """`best`, with the sessions it lacks taken from `fallback`, oldest first."""
    if best is None or not len(best) or fallback is None or not len(fallback):
        return best if best is not None and len(best) else fallback
    missing = taken(fallback, np.flatnonzero(~np.isin(fallback.day, best.day)))
    if not len(missing):
        return best
    both = joined([best, missing])
    return taken(both, np.argsort(both.start, kind="stable"))
