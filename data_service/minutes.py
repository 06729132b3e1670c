"""Makes minute bars of quotes as they come in, for the paper broker's fills and for charts of the session under way."""

from dataclasses import dataclass

from data_service.providers.base import RawQuote
from data_service.store.buffer import Row

MINUTE_S = 60
LATE_S = 10
"""A quote may reach us so long after its own instant and still count for its minute."""


@dataclass(slots=True)
class Minute:
    """One minute of one share under way; paise, shares. `volume_before` is the session's volume when it began."""

    start_s: int
    open: int
    high: int
    low: int
    close: int
    volume_before: int
    volume_now: int

    @property
    def volume(self) -> int:
        return max(self.volume_now - self.volume_before, 0)


class MinuteBars:
    """The minute under way and the last finished one of each share. Highs and lows are those of the quotes seen.

    A minute's volume counts from the last quote of the minute before it, at the session's open from nothing, and else
    from its own first quote: what was traded unseen is in no bar.
    """

    def __init__(self) -> None:
        self._current: dict[str, Minute] = {}
        self._finished: dict[str, Minute] = {}

    def finished(self, symbol: str) -> Minute | None:
        """The last minute that is over."""
        return self._finished.get(symbol)

    def add(self, quote: RawQuote, open_s: int) -> Row | None:
        """Take an accepted quote of the session that opened at `open_s` in; returns the bar that is finished by it.

        A quote of a minute that is over, or of before the open, is left out.
        """
        if quote.last is None or quote.as_of_s is None:
            return None
        start_s, price, volume = int(quote.as_of_s) // MINUTE_S * MINUTE_S, int(quote.last * 100), quote.volume or 0
        current, finished = self._current.get(quote.symbol), self._finished.get(quote.symbol)
        latest = current or finished
        if start_s < open_s or (latest is not None and start_s < latest.start_s):
            return None
        if current is not None and start_s == current.start_s:
            current.high, current.low, current.close = max(current.high, price), min(current.low, price), price
            current.volume_now = max(current.volume_now, volume)
            return None
        if current is None and finished is not None and start_s == finished.start_s:
            return None
        if start_s == open_s:
            before = 0
        elif latest is not None and latest.start_s == start_s - MINUTE_S and latest.volume_now <= volume:
            before = latest.volume_now
        else:
            before = volume
        self._current[quote.symbol] = Minute(start_s, price, price, price, price, before, volume)
        return None if current is None else self._over(quote.symbol, current)

    def over(self, now_s: float) -> list[Row]:
        """The bars of all minutes that ended LATE_S ago: nothing comes after the last quote of a session."""
        ended = {symbol: m for symbol, m in self._current.items() if m.start_s + MINUTE_S + LATE_S <= now_s}
        for symbol in ended:
            del self._current[symbol]
        return [self._over(symbol, minute) for symbol, minute in ended.items()]

    def _over(self, symbol: str, minute: Minute) -> Row:
        self._finished[symbol] = minute
        return (symbol, minute.start_s, minute.open, minute.high, minute.low, minute.close, minute.volume, "stream")
