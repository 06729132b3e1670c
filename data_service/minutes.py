"""Makes minute bars of quotes as they come in, for the paper broker's fills and for charts of the session under way."""

from dataclasses import dataclass

from data_service.providers.base import RawQuote
from data_service.store.buffer import Row

MINUTE_S = 60


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
    """The minute under way and the last finished one of each share. Highs and lows are those of the quotes seen."""

    def __init__(self) -> None:
        self._current: dict[str, Minute] = {}
        self._finished: dict[str, Minute] = {}

    def finished(self, symbol: str) -> Minute | None:
        """The last minute that is over."""
        return self._finished.get(symbol)

    def add(self, quote: RawQuote) -> Row | None:
        """Take an accepted quote in; returns the bar that is finished by it. A quote that goes back is left out."""
        if quote.last is None or quote.as_of_s is None:
            return None
        start_s, price = int(quote.as_of_s) // MINUTE_S * MINUTE_S, int(quote.last * 100)
        current = self._current.get(quote.symbol)
        if current is not None and start_s < current.start_s:
            return None
        if current is not None and start_s == current.start_s:
            current.high, current.low, current.close = max(current.high, price), min(current.low, price), price
            current.volume_now = max(current.volume_now, quote.volume or 0)
            return None
        volume = quote.volume or 0
        before = current.volume_now if current is not None and current.volume_now <= volume else volume
        self._current[quote.symbol] = Minute(start_s, price, price, price, price, before, volume)
        if current is None:
            return None
        self._finished[quote.symbol] = current
        prices = (current.open, current.high, current.low, current.close)
        return (quote.symbol, current.start_s, *prices, current.volume, "stream")
