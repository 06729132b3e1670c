"""Serves the generated market: daily bars from its history, minutes by replaying a session's noise."""

from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np

from contracts.market import CorporateAction, Instrument, Interval, Quote
from data_service.adjust import NO_FACTORS, Factors
from data_service.bars import PRICE_FIELDS, SOURCE_CODES, Bars, Ints, day_number, joined
from data_service.instruments import FREEZE_QUANTITY, LOT_SIZE
from data_service.quote_history import SessionFacts
from data_service.quotes import SessionSoFar, build_quote, rupees
from data_service.resample import resampled
from data_service.sessions import Sessions
from data_service.simulator.history import NoiseSource, load_or_generate
from data_service.simulator.model import Minutes, session_noise, simulate_session
from data_service.simulator.universe import Universe
from data_service.ticks import BAND_DYNAMIC_PCT, tick_paise
from data_service.views import UNKNOWN_SYMBOL, Missing

MINUTE_SESSIONS_CACHED_MAX = 64


class SimulatedMarket:
    """The provider and its only view: the market does not change, only how much of it has happened."""

    name = "simulated"

    def __init__(
        self,
        universe: Universe,
        sessions: Sessions,
        *,
        seed: int,
        edge: float,
        folder: Path,
        noise: NoiseSource = session_noise,
    ) -> None:
        """Generates the history, or reads it from `folder`. Raises OSError."""
        self._universe, self._sessions, self._seed, self._edge, self._noise = universe, sessions, seed, edge, noise
        self._history = load_or_generate(folder, universe, sessions, seed, edge, noise)
        self._days = np.array([day_number(session.day) for session in sessions.all])
        self._opens = np.array([session.open_s for session in sessions.all])
        self._closes = {
            derivatives: np.array([session.close_s(derivatives) for session in sessions.all])
            for derivatives in (True, False)
        }
        self._minutes = lru_cache(MINUTE_SESSIONS_CACHED_MAX)(self._simulated_minutes)

    def version(self) -> str | None:
        """See MarketSource: it is computed."""
        return None

    def view(self) -> Self:
        return self

    def _simulated_minutes(self, index: int) -> Minutes:
        session = self._sessions.all[index]
        noise = self._noise(self._seed, session, len(self._universe))
        return simulate_session(self._universe, self._edge, session, self._history.state_before(index), noise)[0]

    def _daily(self, column: int) -> Bars:
        history = self._history
        prices = {name: getattr(history, name)[:, column] for name in PRICE_FIELDS}
        ends = self._closes[self._universe.has_derivatives[column]]
        source = np.full(len(self._days), SOURCE_CODES[self.name])
        volume = history.volume[:, column]
        return Bars(day=self._days, start=self._opens, end=ends, volume=volume, source=source, **prices)

    def _minute_bars(self, column: int, index: int) -> Bars:
        session = self._sessions.all[index]
        count = (session.close_s(self._universe.has_derivatives[column]) - session.open_s) // 60
        minutes = self._minutes(index)
        start = session.open_s + 60 * np.arange(count)
        columns = {name: getattr(minutes, name)[:count, column] for name in (*PRICE_FIELDS, "volume")}
        day, source = (np.full(count, value) for value in (self._days[index], SOURCE_CODES[self.name]))
        return Bars(day=day, start=start, end=start + 60, source=source, **columns)

    def _intraday(self, column: int, interval: Interval, index: int, as_of_s: int) -> Bars:
        bars = self._minute_bars(column, index)
        if interval is not Interval.MIN_1:
            bars = resampled(bars, interval, self._sessions, self._universe.has_derivatives[column])
        return bars.part(0, bars.ended_by(as_of_s))

    def bars(self, symbol: str, interval: Interval, from_: date, through: date, as_of_s: int) -> Bars | Missing:
        """See MarketView."""
        column = self._universe.position.get(symbol)
        if column is None:
            return UNKNOWN_SYMBOL
        daily = self._daily(column)
        if interval is Interval.DAY_1:
            bars = daily.between(from_, through, as_of_s)
        else:
            first, last = np.searchsorted(self._days, [day_number(from_), day_number(through) + 1])
            opened = self._sessions.index_opened_by(as_of_s) + 1
            parts = [self._intraday(column, interval, index, as_of_s) for index in range(first, min(last, opened))]
            bars = joined(parts) if parts else daily.part(0, 0)
        return bars if len(bars) else Missing("no bar of these sessions had ended")

    def quote(self, symbol: str, as_of_s: int) -> Quote | Missing:
        """See MarketView. Within a session the last price is the market's until the next minute ends."""
        column = self._universe.position.get(symbol)
        if column is None:
            return UNKNOWN_SYMBOL
        index = self._sessions.index_opened_by(as_of_s)
        if index < 0:
            return Missing("no session before this instant")
        session = self._sessions.all[index]
        bars = self._intraday(column, Interval.MIN_1, index, as_of_s)
        if not len(bars):
            return Missing("no trade yet in this session: its first minute has not ended")
        return build_quote(
            SessionSoFar(
                symbol=symbol,
                source=self.name,
                day=session.day,
                as_of_s=min(as_of_s, session.close_s(self._universe.has_derivatives[column])),
                asked_s=as_of_s,
                bars=bars,
                previous_close=int(self._history.previous_close[index, column]),
                band_pct=BAND_DYNAMIC_PCT,
            )
        )

    def session_facts(self, symbol: str, days: Ints, as_of_s: int) -> SessionFacts:  # noqa: ARG002 - no names change
        """See MarketView."""
        column = self._universe.position[symbol]
        return SessionFacts(
            day=days,
            previous_close=self._history.previous_close[np.searchsorted(self._days, days), column],
            band_pct=np.full(len(days), BAND_DYNAMIC_PCT),
            lot=np.full(len(days), LOT_SIZE),
            freeze_quantity=np.full(len(days), FREEZE_QUANTITY),
            has_derivatives=np.full(len(days), self._universe.has_derivatives[column]),
        )

    def instruments(self, as_of_s: int) -> list[Instrument]:
        """See MarketView. The tick follows the last close before `as_of_s`."""
        return [self._instrument(column, as_of_s) for column in range(len(self._universe))]

    def _instrument(self, column: int, as_of_s: int) -> Instrument:
        universe, daily = self._universe, self._daily(column)
        ended = daily.ended_by(as_of_s)
        close = daily.close[ended - 1] if ended else universe.price_paise[column]
        opened = max(self._sessions.index_opened_by(as_of_s), 0)
        tick = tick_paise(np.array([close]), self._sessions.all[opened].day)
        return Instrument(
            symbol=universe.symbols[column],
            name=universe.names[column],
            tick_size_rupees=rupees(tick[0]),
            has_derivatives=universe.has_derivatives[column],
            band_pct=None if universe.has_derivatives[column] else rupees(BAND_DYNAMIC_PCT * 100),
        )

    def factors(self, symbol: str, as_of: date) -> Factors:  # noqa: ARG002 - invented companies split nothing
        """See MarketView."""
        return NO_FACTORS

    def actions(self, from_: date, through: date, as_of: date) -> list[CorporateAction]:  # noqa: ARG002
        """See MarketView."""
        return []

    def days(self, as_of_s: int) -> tuple[date, date] | None:
        """See MarketView."""
        opened = self._sessions.index_opened_by(as_of_s)
        return (self._sessions.all[0].day, self._sessions.all[opened].day) if opened >= 0 else None
