"""What a trader may act on, and from when: one segment of time for each set of signals."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

from backend.backtest.history import DaySignals, MarketHistory
from backend.backtest.spec import Trader
from backend.domain.calendar import Session
from backend.domain.market import StockClass
from backend.domain.ranking import Signal, SignalAction

NOTHING = DaySignals()


@dataclass(frozen=True, slots=True)
class Segment:
    """The signals in force from `start` (seconds since 1970-01-01 UTC) to the next segment's, within one session.

    `buys`: those that a trader's mode and strategies might enter on; `sells`: symbols whose open trades they end.
    """

    start: int
    day: date
    said: DaySignals
    buys: tuple[Signal, ...] = ()
    sells: frozenset[str] = field(default_factory=frozenset[str])

    def without_buys(self) -> "Segment":
        """The same with nothing to enter on."""
        return replace(self, buys=()) if self.buys else self

    @property
    def symbols(self) -> set[str]:
        return {signal.symbol for signal in self.buys} | self.sells


def _segment(start: int, day: date, said: DaySignals, trader: Trader) -> Segment:
    proposed = [signal for each in said.proposals.values() for signal in each]
    buys = tuple(
        signal
        for signal in (*said.signals.values(), *proposed)
        if signal.action is SignalAction.BUY
        and not signal.abstained
        and trader.mode in signal.certified_modes
        and (not trader.strategies or signal.strategy in trader.strategies)
    )
    sells = frozenset(
        symbol
        for symbol, signal in said.signals.items()
        if signal.action is SignalAction.SELL and not signal.abstained and signal.certified_modes
    )
    return Segment(start, day, said, buys, sells)


class Timeline:
    """A trader's segments in order of time; a session without any has none in force."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = segments
        self._starts = [segment.start for segment in segments]

    def at(self, second: int, day: date) -> Segment:
        """The segment in force at an instant of a session; an empty one where nothing was said for the session."""
        place = bisect_right(self._starts, second) - 1
        if place >= 0 and self.segments[place].day == day:
            return self.segments[place]
        return Segment(second, day, NOTHING)

    def after(self, second: int, day: date) -> Sequence[Segment]:
        """The session's segments that begin later than an instant."""
        first = last = bisect_right(self._starts, second)
        while last < len(self.segments) and self.segments[last].day == day:
            last += 1
        return self.segments[first:last]


def timeline(history: MarketHistory, trader: Trader) -> Timeline:
    """A history's signals as one trader may act on them: the day's from its open, timed ones from their instant."""
    opens = {session.day: _open_s(session) for session in history.sessions}
    said = [(opens[day], day, signals) for day, signals in history.predictions.items() if day in opens]
    said += [(start, day, signals) for start, day, signals in history.timed if day in opens]
    return Timeline([_segment(start, day, signals, trader) for start, day, signals in sorted(said, key=_when)])


def _open_s(session: Session) -> int:
    return int(session.continuous_open(StockClass.NON_CAS).timestamp())


def _when(said: tuple[int, date, DaySignals]) -> int:
    return said[0]


def idle_counts(predictions: Mapping[date, DaySignals]) -> dict[str, int]:
    """How many predictions could not be acted on, by reason."""
    found: dict[str, int] = {}
    for said in predictions.values():
        for reason, count in said.idle.items():
            found[reason] = found.get(reason, 0) + count
    return found
