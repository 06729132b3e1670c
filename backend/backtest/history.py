"""The market of a backtest as columns, and what the strategies said before each of its sessions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import numpy.typing as npt

from backend.domain.calendar import Session
from backend.domain.corporate_actions import CorporateAction
from backend.domain.ranking import Signal
from contracts.market import Interval

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ShareHistory:
    """One share's bars as columns of one length, oldest first. `start` and `end`: seconds since 1970-01-01 UTC; prices
    in paise, unadjusted; `volume` and `lot` in shares. What is known before a session opens (`previous_close`, bands,
    `tick`, `lot`, `freeze_quantity`) stands in each of its bars."""

    symbol: str
    start: Ints
    end: Ints
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    volume: Ints
    previous_close: Ints
    lower_band: Ints
    upper_band: Ints
    tick: Ints
    lot: Ints
    freeze_quantity: Ints
    has_derivatives: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True, slots=True)
class DaySignals:
    """What may be acted on in one session: the machine-learned strategy's signals by symbol, the others' proposals, and
    how many symbols had nothing to act on, by reason."""

    signals: Mapping[str, Signal] = field(default_factory=dict[str, Signal])
    proposals: Mapping[str, Sequence[Signal]] = field(default_factory=dict[str, Sequence[Signal]])
    idle: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class MarketHistory:
    """Everything a backtest reads. `sessions`: every session of its days, oldest first, and, before them and after
    them, as many as protections and horizons look at (`first`..`last` of the spec bound what is traded);
    `members`: the universe in force from a session's day on, by the day it was determined; `benchmark`: the index to
    compare with, as (day, level) pairs, empty where none is stored; `timed`: signals that change within a session, as
    (seconds since 1970-01-01 UTC, day, signals), each in force until the next.
    """

    interval: Interval
    environment: str
    provider: str
    sessions: Sequence[Session]
    shares: Mapping[str, ShareHistory]
    actions: Sequence[CorporateAction]
    members: Mapping[date, frozenset[str]]
    half_spread_bp: float
    session_days: Sequence[date]
    predictions: Mapping[date, DaySignals] = field(default_factory=dict[date, DaySignals])
    timed: Sequence[tuple[int, date, DaySignals]] = ()
    benchmark: Sequence[tuple[date, float]] = ()
    notes: tuple[str, ...] = ()
