"""Makes coarser bars of finer ones along the sessions, so that every interval is served from what is stored."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from contracts.market import Interval
from data_service.bars import INTERVAL_S, Bars, Ints, grouped, joined, taken
from data_service.sessions import EPOCH, Session, Sessions

Flags = bool | NDArray[np.bool_]

LATE_S = 120
"""Minute bars of quotes are stored once a minute."""


def finer_than(interval: Interval) -> list[Interval]:
    """The intervals whose bars add up to bars of `interval`, coarsest first: the fewest bars have to be read."""
    if interval is Interval.DAY_1:
        return list(reversed(INTERVAL_S))
    length_s = INTERVAL_S[interval]
    return [finer for finer, finer_s in reversed(INTERVAL_S.items()) if finer_s < length_s and length_s % finer_s == 0]


def session_spans(days: Ints, sessions: Sessions, has_derivatives: Flags) -> tuple[Ints, Ints]:
    """Per day (since 1970-01-01) the session's open and the end of its continuous trading, in epoch seconds."""
    opens, with_derivatives, others = _of_sessions(
        days, sessions, lambda of: (of.open_s, of.close_cas_s, of.close_other_s)
    )
    return opens, np.where(has_derivatives, with_derivatives, others)


def official_closes(days: Ints, sessions: Sessions, has_derivatives: Flags) -> Ints:
    """When the official close of each day is known, seconds since the epoch."""
    with_derivatives, others = _of_sessions(
        days, sessions, lambda of: (of.official_close_s(True), of.official_close_s(False))
    )
    return np.where(has_derivatives, with_derivatives, others)


def _of_sessions(days: Ints, sessions: Sessions, instants: Callable[[Session], tuple[int, ...]]) -> tuple[Ints, ...]:
    unique, place = np.unique(days, return_inverse=True)
    told = [instants(sessions.usual(EPOCH + timedelta(days=number))) for number in unique.tolist()]
    width = len(instants(sessions.all[0]))
    return tuple(np.array(told, dtype=np.int64).reshape(-1, width)[place].T)


def resampled(bars: Bars, interval: Interval, sessions: Sessions, has_derivatives: Flags) -> Bars:
    """Intraday `bars` as bars of an intraday `interval`; the last one of a session ends when continuous trading does.

    Since 2026-08-03 that is 15:15 for shares with derivatives (NSE/CMTR/74466): their last 5-minute bar starts 15:10.
    `has_derivatives` is one flag or one per bar.
    """
    opens, closes = session_spans(bars.day, sessions, has_derivatives)
    inside = np.flatnonzero((opens <= bars.start) & (bars.start < closes))
    return grouped(taken(bars, inside), INTERVAL_S[interval], opens[inside], closes[inside])


def complete_by(made: Bars, finer: Bars, as_of_s: int) -> Bars:
    """The bars of `made` that had ended by `as_of_s`; the last one not before the bars it is made of are all there.

    Live bars reach the store some time after their end. Once LATE_S have passed, what has not come was not traded.
    """
    ended = made.part(0, made.ended_by(as_of_s))
    if not len(ended) or int(finer.end[-1]) >= (end_s := int(ended.end[-1])) or as_of_s >= end_s + LATE_S:
        return ended
    return ended.part(0, len(ended) - 1)


def daily_of(bars: Bars, sessions: Sessions, has_derivatives: Flags) -> Bars:
    """Intraday `bars` as daily bars of the sessions they cover from the first bar to the last.

    The close is the last trade's, not the exchange's official one, so an official daily bar is always preferred. It
    counts as known when the official close would be. `has_derivatives` is one flag or one per bar.
    """
    opens, closes = session_spans(bars.day, sessions, has_derivatives)
    known = np.broadcast_to(official_closes(bars.day, sessions, has_derivatives), bars.day.shape)
    inside = np.flatnonzero((opens <= bars.start) & (bars.start < closes))
    bars, opens, closes, known = taken(bars, inside), opens[inside], closes[inside], known[inside]
    whole = grouped(bars, int((closes - opens).max(initial=0)) or 1, opens, closes)
    first = np.searchsorted(bars.day, whole.day, side="left")
    last = np.searchsorted(bars.day, whole.day, side="right") - 1
    covered = (bars.start[first] == opens[first]) & (bars.end[last] >= closes[last])
    return replace(taken(whole, np.flatnonzero(covered)), end=known[first][covered])


def filled_up(best: Bars | None, fallback: Bars | None) -> Bars | None:
    """`best`, with the sessions it lacks taken from `fallback`, oldest first."""
    if best is None or not len(best) or fallback is None or not len(fallback):
        return best if best is not None and len(best) else fallback
    missing = taken(fallback, np.flatnonzero(~np.isin(fallback.day, best.day)))
    if not len(missing):
        return best
    both = joined([best, missing])
    return taken(both, np.argsort(both.start, kind="stable"))
