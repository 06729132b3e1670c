"""Serves imported bars: the market as it was, with quotes made of the finest bars there are."""

import hashlib
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property, lru_cache

import numpy as np
import polars as pl

from contracts.market import ActionKind, CorporateAction, Instrument, Interval, Quote
from data_service.actions import NameSpan, company_names, names_of
from data_service.adjust import NO_FACTORS, Factors, factors_of, multipliers
from data_service.bars import INTERVAL_S, Bars, Ints, day_number, joined, without_days
from data_service.encode import wire_actions
from data_service.instruments import InstrumentMaster
from data_service.quote_history import SessionFacts, closes_before
from data_service.quotes import SessionSoFar, build_quote
from data_service.resample import complete_by, daily_of, filled_up, finer_than, resampled
from data_service.sessions import DAY_S, EPOCH, IST_OFFSET_S, Sessions, ist_instant, ist_midnight_s
from data_service.store.base import Part
from data_service.store.frames import Decoder, StoreSnapshot
from data_service.store.schemas import INSTRUMENT_SCHEMA
from data_service.store.stores import Stores
from data_service.ticks import bands_paise
from data_service.views import Missing

NOTHING_ENDED = Missing("no bar of it that had ended is stored: import more with `sauda data import FILE`")
"""One reason for all, because whether a symbol appears later must not show."""

FACTORS_CACHED_MAX = 4096
REFERENCE_KEPT_S = 600


@dataclass(frozen=True, slots=True)
class _Latest:
    """The last session with ended bars of one interval: its bars, and the close before it (with its day)."""

    day: int
    bars: Bars
    previous: tuple[int, int] | None


def _latest(newest_first: Iterator[Bars]) -> _Latest | None:
    """Of one share's ended bars of one interval, in parts without an empty one."""
    newest = next(newest_first, None)
    if newest is None:
        return None
    day = int(newest.day[-1])
    first = int(np.searchsorted(newest.day, day, side="left"))
    before = newest.part(0, first) if first else next(newest_first, None)
    previous = (int(before.day[-1]), int(before.close[-1])) if before else None
    return _Latest(day, newest.part(first, len(newest)), previous)


@dataclass(frozen=True, slots=True)
class Reference:
    """What is known of a share before its session, in paise; `previous_close` is on that scale, None if unknown.

    `tick_said` is whether a source said the tick lately; `factor` is what the splits and bonuses of that very day
    multiply earlier prices by.
    """

    previous_close: int | None
    tick: int
    band_pct: int
    has_derivatives: bool
    tick_said: bool = True
    factor: float = 1.0

    def bands(self, previous_close: int) -> tuple[int, int]:
        """Lowest and highest price allowed around a previous close."""
        low, high = bands_paise(np.array([previous_close]), np.array([self.tick]), self.band_pct)
        return int(low[0]), int(high[0])


class RecordedView:
    """One state of the store."""

    def __init__(self, snapshot: StoreSnapshot, master: InstrumentMaster, sessions: Sessions) -> None:
        self._snapshot, self._master, self._sessions = snapshot, master, sessions
        self._names = lru_cache(FACTORS_CACHED_MAX)(self._names_of)
        self._factors = lru_cache(FACTORS_CACHED_MAX)(self._factors_of)
        self._references = lru_cache(FACTORS_CACHED_MAX)(self._reference_of)
        self._could_be_known = lru_cache(len(Interval))(self._could_be_known_of)

    @cached_property
    def _renamed(self) -> frozenset[str]:
        renames = self._snapshot.renames
        return frozenset({*renames["symbol"], *renames["new_symbol"].drop_nulls()})

    def _names_of(self, symbol: str, as_of: date) -> tuple[NameSpan, ...]:
        if symbol not in self._renamed:
            return (NameSpan(symbol, date.min, date.max),)
        return tuple(names_of(symbol, self._snapshot.renames, as_of))

    def _factors_of(self, symbol: str, as_of: date) -> Factors:
        told = self._snapshot.actions_by_symbol
        found = [told[name] for name in sorted(self._told_as(symbol, as_of)) if name in told]
        return factors_of(pl.concat(found), as_of) if found else NO_FACTORS

    def _told_as(self, symbol: str, as_of: date) -> set[str]:
        """The names under which actions of the share called `symbol` on `as_of` are told: later ones of it too."""
        if symbol not in self._renamed:
            return {symbol}
        spans = company_names(symbol, self._effective_renames, as_of)
        if not any(span.name == symbol and span.first <= as_of <= span.last for span in spans):
            # The name is given to another share later, whose actions are not this one's.
            spans = self._names(symbol, as_of)
        return {span.name for span in spans}

    @cached_property
    def _effective_renames(self) -> pl.DataFrame:
        """The changes of symbols by the day on which they had happened and were known."""
        return self._snapshot.renames.with_columns(ex_date=pl.max_horizontal("ex_date", "known_on"))

    def bars(self, symbol: str, interval: Interval, from_: date, through: date, as_of_s: int) -> Bars | Missing:
        """See MarketView. A renamed share's bars are joined under the name it had at `as_of_s`."""
        parts = [
            self._named(span.name, interval, max(from_, span.first), min(through, span.last), as_of_s)
            for span in self._names(symbol, ist_instant(as_of_s).date())
            if span.first <= through and span.last >= from_
        ]
        found = [bars for bars in parts if bars is not None and len(bars)]
        return joined(found) if found else NOTHING_ENDED

    def _named(self, name: str, interval: Interval, from_: date, through: date, as_of_s: int) -> Bars | None:
        """The bars stored under one name; sessions without a bar of this interval are made of finer ones."""
        bars = self._stored(name, interval, from_, through, as_of_s)
        held = self._snapshot.intervals()
        for finer in finer_than(interval):
            if finer not in held:
                continue
            # Finer bars are many: years in which nothing lacks are not even read.
            span = self._lacking(bars, interval, from_, through, as_of_s)
            if span is None:
                break
            extra = self._stored(name, finer, *span, as_of_s)
            if extra is not None and bars is not None:
                extra = without_days(extra, bars.day)
            if extra is not None and len(extra):
                has_derivatives = self._master.with_derivatives(name, extra.day)
                if interval is Interval.DAY_1:
                    made = daily_of(extra, self._sessions, has_derivatives)
                    made = made.part(0, made.ended_by(as_of_s))
                else:
                    made = resampled(extra, interval, self._sessions, has_derivatives)
                    made = complete_by(made, extra, as_of_s)
                bars = filled_up(bars, made)
        return bars

    def _lacking(
        self, bars: Bars | None, interval: Interval, from_: date, through: date, as_of_s: int
    ) -> tuple[date, date] | None:
        """First and last of the days without a bar that could have one by `as_of_s`; None where there is no such day.

        Days outside the calendar may be sessions, so they count as lacking.
        """
        days, known_s = self._could_be_known(interval)
        low, high = day_number(from_), min(day_number(through), (as_of_s + IST_OFFSET_S) // DAY_S)
        place = slice(np.searchsorted(days, low, side="left"), np.searchsorted(days, high, side="right"))
        due = days[place][known_s[place] <= as_of_s]
        lacking = due if bars is None else due[~np.isin(due, bars.day)]
        outside = [day for day in (low, high) if not days[0] <= day <= days[-1] and low <= high]
        found = [*lacking.tolist(), *outside]
        return (EPOCH + timedelta(days=min(found)), EPOCH + timedelta(days=max(found))) if found else None

    def _could_be_known_of(self, interval: Interval) -> tuple[Ints, Ints]:
        """The calendar's days (since 1970-01-01), and when the first bar of each is known at the earliest."""
        length_s, sessions = INTERVAL_S.get(interval), self._sessions.all
        known = [of.official_close_s(False) if length_s is None else of.open_s + 60 for of in sessions]
        return np.array([day_number(of.day) for of in sessions]), np.array(known)

    def _stored(self, name: str, interval: Interval, from_: date, through: date, as_of_s: int) -> Bars | None:
        stored = self._snapshot.between(name, interval, from_.year, through.year)
        return stored.between(from_, through, as_of_s) if stored else None

    def _ended(self, symbol: str, interval: Interval, as_of_s: int) -> Iterator[Bars]:
        """The share's ended bars under the names it had by `as_of_s`, newest first, none of them empty."""
        for span in reversed(self._names(symbol, ist_instant(as_of_s).date())):
            for bars in self._snapshot.ended(span.name, interval, as_of_s):
                inside = bars.between(span.first, span.last, as_of_s)
                if len(inside):
                    yield inside

    def factors(self, symbol: str, as_of: date) -> Factors:
        """See MarketView."""
        return self._factors(symbol, as_of)

    def actions(self, from_: date, through: date, as_of: date) -> list[CorporateAction]:
        """See MarketView. Each under the name that its share had on `as_of`, whatever the source called it."""
        known = pl.col("ex_date").is_between(from_, through) & (pl.col("known_on") <= as_of)
        found = self._snapshot.actions.filter(known)
        names = [
            symbol if kind == ActionKind.RENAME else self._name_on(symbol, ex_date, as_of)
            for symbol, ex_date, kind in found.select("symbol", "ex_date", "kind").iter_rows()
        ]
        return wire_actions(found.with_columns(symbol=pl.Series(names, dtype=pl.String)))

    def _name_on(self, symbol: str, ex_date: date, as_of: date) -> str:
        """The name on `as_of` of the share of which an action was told as `symbol`'s."""
        if symbol not in self._renamed:
            return symbol
        spans = company_names(symbol, self._effective_renames, ex_date)
        return next((span.name for span in spans if span.first <= as_of <= span.last), symbol)

    def quote(self, symbol: str, as_of_s: int) -> Quote | Missing:
        """See MarketView. Its `as_of` is the end of the last bar: nothing is known of the time after it.

        Of the last session it is made of the intraday bars that reach furthest, of these the ones that begin first and
        are finest.
        """
        found = [
            (interval, latest)
            for interval in Interval
            if (latest := _latest(self._ended(symbol, interval, as_of_s))) is not None
        ]
        if not found:
            return NOTHING_ENDED
        _, chosen = max(
            found,
            key=lambda of: (of[1].day, of[0] is not Interval.DAY_1, int(of[1].bars.end[-1]), -int(of[1].bars.start[0])),
        )
        previous = self._previous_close(symbol, chosen.day, as_of_s)
        if previous is None:
            return Missing("no close of an earlier session is stored")
        day = EPOCH + timedelta(days=chosen.day)
        return build_quote(
            SessionSoFar(
                symbol=symbol,
                source="recorded",
                day=day,
                as_of_s=int(chosen.bars.end[-1]),
                asked_s=as_of_s,
                bars=chosen.bars,
                previous_close=previous,
                band_pct=self._master.band_pct(symbol, day),
            )
        )

    def reference(self, symbol: str, day: date, as_of_s: int) -> Reference:
        """What is known of `symbol` at `as_of_s` for the session of `day`."""
        return self._references(symbol, day, as_of_s // REFERENCE_KEPT_S)

    def _reference_of(self, symbol: str, day: date, period: int) -> Reference:
        previous = self._previous_close(symbol, day_number(day), (period + 1) * REFERENCE_KEPT_S - 1)
        listed = self._master.at(symbol, previous or 1, day)
        tick = int(listed.tick_size_rupees * 100)
        today = multipliers(np.array([day_number(day) - 1]), self.factors(symbol, day), day)
        return Reference(
            previous,
            tick,
            self._master.band_pct(symbol, day),
            listed.has_derivatives,
            tick_said=self._master.tick_said(symbol, day) is not None,
            factor=float(today[0]),
        )

    def _previous_close(self, symbol: str, day: int, as_of_s: int) -> int | None:
        """The last close before `day` in paise on `day`'s scale; a daily (official) close before an intraday one."""
        closes: list[tuple[int, int]] = []
        for interval in reversed(Interval):
            latest = _latest(self._ended(symbol, interval, as_of_s))
            if latest and latest.day < day:
                closes.append((latest.day, int(latest.bars.close[-1])))
            elif latest and latest.previous:
                closes.append(latest.previous)
        if not closes:
            return None
        closed_on, close = max(closes, key=lambda candidate: candidate[0])
        on = EPOCH + timedelta(days=day)
        scale = multipliers(np.array([closed_on]), self.factors(symbol, on), on)
        return max(round(close * float(scale[0])), 1)

    def session_facts(self, symbol: str, days: Ints, as_of_s: int) -> SessionFacts:
        """See MarketView."""
        parts = [
            (span.name, days[(days >= day_number(span.first)) & (days <= day_number(span.last))])
            for span in self._names(symbol, ist_instant(as_of_s).date())
        ]
        terms = [self._master.terms(name, EPOCH + timedelta(days=day)) for name, part in parts for day in part.tolist()]
        runs = [self._previous_closes(name, run) for name, part in parts for run in self._runs(name, part) if len(run)]
        return SessionFacts(
            day=days,
            previous_close=np.concatenate([days[:0], *runs]),
            band_pct=np.array([each.band_pct for each in terms], dtype=np.int64),
            lot=np.array([each.lot_size for each in terms], dtype=np.int64),
            freeze_quantity=np.array([each.freeze_quantity for each in terms], dtype=np.int64),
            has_derivatives=np.array([each.has_derivatives for each in terms], dtype=bool),
        )

    def _kin(self, name: str) -> set[str]:
        """All names that a chain of renames, at any time, leads to from this one."""
        renames = self._snapshot.renames.drop_nulls("new_symbol").select("symbol", "new_symbol").rows()
        kin, before = {name}, 0
        while len(kin) > before and name in self._renamed:
            before = len(kin)
            kin |= {each for pair in renames if not kin.isdisjoint(pair) for each in pair}
        return kin

    def _runs(self, name: str, days: Ints) -> list[Ints]:
        """The days, in runs in which it stays the same what is known of the share's names."""
        if name not in self._renamed:
            return [days]
        kin = list(self._kin(name))
        known = self._effective_renames.filter(pl.col("symbol").is_in(kin) | pl.col("new_symbol").is_in(kin))
        starts = np.unique([day_number(day) for day in known["ex_date"]])
        return np.split(days, np.searchsorted(days, starts))

    def _previous_closes(self, name: str, days: Ints) -> Ints:
        """`_previous_close` of each of the sessions, all of one run (see `_runs`); 0 where there is none."""
        end_s = ist_midnight_s(EPOCH + timedelta(days=int(days[-1]))) + DAY_S - 1
        tables = [self._back_to(name, interval, int(days[0]), end_s) for interval in reversed(Interval)]
        closed_on, close = closes_before([bars for bars in tables if bars is not None], days)
        told = [self._snapshot.actions_by_symbol.get(each) for each in self._kin(name)]
        ex_days = np.unique([day_number(day) for actions in told if actions is not None for day in actions["ex_date"]])
        # Most sessions have no action between them and the close before.
        for row in np.flatnonzero(
            np.searchsorted(ex_days, closed_on, "right") < np.searchsorted(ex_days, days, "right")
        ):
            on = EPOCH + timedelta(days=int(days[row]))
            scale = multipliers(closed_on[row : row + 1], self.factors(name, on), on)
            close[row] = round(int(close[row]) * float(scale[0]))
        return np.where(closed_on >= 0, np.maximum(close, 1), 0)

    def _back_to(self, name: str, interval: Interval, day: int, as_of_s: int) -> Bars | None:
        """The share's ended bars from the last session before `day` on, or earlier."""
        parts: list[Bars] = []
        for bars in self._ended(name, interval, as_of_s):
            parts.append(bars)
            if int(bars.day[0]) < day:
                break
        return joined(parts[::-1]) if parts else None

    def instruments(self, as_of_s: int) -> list[Instrument]:
        """See MarketView. A share is known from its first ended bar on, under any name, until a symbol is given up."""
        day = ist_instant(as_of_s).date()
        names = [symbol for symbol in sorted({*self._snapshot.symbols, *self._renamed}) if self._in_use(symbol, day)]
        listed = ((symbol, self._last_close(symbol, as_of_s)) for symbol in names)
        return [self._master.at(symbol, close, day) for symbol, close in listed if close]

    def _in_use(self, symbol: str, day: date) -> bool:
        return self._names(symbol, day)[-1].last >= day

    def _last_close(self, symbol: str, as_of_s: int) -> int | None:
        ended = (next(self._ended(symbol, interval, as_of_s), None) for interval in Interval)
        newest = max((bars for bars in ended if bars), key=lambda bars: int(bars.end[-1]), default=None)
        return int(newest.close[-1]) if newest else None

    def days(self, as_of_s: int) -> tuple[date, date] | None:
        """See MarketView."""
        frames = [bars for interval in Interval for _, bars in self._snapshot.years(interval)]
        first = min((int(year.bars.day.min()) for year in frames if len(year.bars)), default=None)
        last = max((day for year in frames if (day := year.last_day(as_of_s)) is not None), default=None)
        if first is None or last is None:
            return None
        return EPOCH + timedelta(days=first), EPOCH + timedelta(days=last)


class RecordedMarket:
    """The market as it is stored; notices an import by the store's stamps and then shows a new view."""

    name = "recorded"

    def __init__(self, stores: Stores, sessions: Sessions, reference: Mapping[str, str]) -> None:
        self._stores, self._sessions, self._reference = stores, sessions, reference
        self._decoder = Decoder(sessions, InstrumentMaster(pl.DataFrame(schema=INSTRUMENT_SCHEMA), reference))
        self._current: tuple[Hashable, RecordedView] | None = None

    def version(self) -> str | None:
        """See MarketSource: of the files' times and sizes."""
        return hashlib.sha256(repr(self._key(self._stores.bars.stamps())).encode()).hexdigest()[:16]

    def _key(self, stamps: Mapping[Part, Hashable]) -> Hashable:
        return tuple(sorted(stamps.items())), self._stores.facts.signature()

    def view(self) -> RecordedView:
        """The store as it is now. Raises StoreError."""
        stamps, facts = self._stores.bars.stamps(), self._stores.facts
        key = self._key(stamps)
        current = self._current
        if current is None or current[0] != key:
            master = InstrumentMaster(facts.instruments(), self._reference)
            self._decoder = self._decoder.for_master(master)
            snapshot = StoreSnapshot(self._stores, self._decoder, stamps)
            current = self._current = key, RecordedView(snapshot, master, self._sessions)
        return current[1]
