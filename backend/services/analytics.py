"""What a user's closed trades add up to: pure figures, so that they can be checked by hand."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

TRADES_FOR_EVIDENCE_MIN = 20
"""Below this many closed trades a rate says next to nothing: its 95 % interval spans some ±20 points."""

_TOUCH_PREFIX = "touch_net_"


@dataclass(frozen=True, slots=True)
class ClosedTrade:
    """One closed trade: rupees, `realized_pnl` net of `charges`; `closed_on` is an IST day. `dividends`, gross of tax,
    are income beside the P&L: a confidence is about the price."""

    symbol: str
    mode: str
    strategy: str
    exit_reason: str
    confidence: float
    confidence_kind: str
    entry_value: Decimal
    realized_pnl: Decimal
    charges: Decimal
    closed_on: date
    dividends: Decimal = Decimal(0)

    @property
    def hit(self) -> bool:
        """Whether the trade returned, net, at least what its confidence is the probability of.

        A trade whose price touched that return and fell back before it was left counts as none, so a hit rate is a
        lower bound of the rate of touches.
        """
        needed = _return_in(self.confidence_kind)
        return self.realized_pnl > 0 and self.realized_pnl >= needed * self.entry_value


@dataclass(frozen=True, slots=True)
class Figures:
    """Of a set of closed trades. Ratios are None where they have no denominator; amounts are rupees."""

    trades: int
    wins: int
    realized_pnl: Decimal
    charges: Decimal
    dividends: Decimal
    win_rate: float | None
    profit_factor: float | None
    average_win: Decimal | None
    average_loss: Decimal | None
    mean_confidence: float | None
    hit_rate: float | None


@dataclass(frozen=True, slots=True)
class DayFigures:
    """One IST day with closed trades; `cumulative_pnl` since the first of the period, rupees."""

    day: date
    trades: int
    realized_pnl: Decimal
    cumulative_pnl: Decimal


@dataclass(frozen=True, slots=True)
class Analytics:
    """Everything about a period. `max_drawdown` is the deepest fall of the cumulative P&L from its high, rupees."""

    total: Figures
    insufficient_evidence: bool
    by: Mapping[str, Mapping[str, Figures]]
    daily: Sequence[DayFigures]
    max_drawdown: Decimal


_DIMENSIONS: dict[str, Callable[[ClosedTrade], str]] = {
    "symbol": lambda t: t.symbol,
    "mode": lambda t: t.mode,
    "strategy": lambda t: t.strategy,
    "exit_reason": lambda t: t.exit_reason,
}


def analyse(trades: Sequence[ClosedTrade]) -> Analytics:
    """The figures of `trades`, in total, by each dimension and by day."""
    daily = _daily(trades)
    return Analytics(
        total=figures(trades),
        insufficient_evidence=len(trades) < TRADES_FOR_EVIDENCE_MIN,
        by={name: _grouped(trades, key) for name, key in _DIMENSIONS.items()},
        daily=daily,
        max_drawdown=_max_drawdown(day.cumulative_pnl for day in daily),
    )


def figures(trades: Sequence[ClosedTrade]) -> Figures:
    """The figures of one set. A trade that earned exactly nothing is neither a win nor a loss."""
    wins = [t.realized_pnl for t in trades if t.realized_pnl > 0]
    losses = [t.realized_pnl for t in trades if t.realized_pnl < 0]
    won, lost = sum(wins, Decimal(0)), sum(losses, Decimal(0))
    count = len(trades)
    return Figures(
        trades=count,
        wins=len(wins),
        realized_pnl=won + lost,
        charges=sum((t.charges for t in trades), Decimal(0)),
        dividends=sum((t.dividends for t in trades), Decimal(0)),
        win_rate=len(wins) / count if count else None,
        profit_factor=float(won / -lost) if losses else None,
        average_win=won / len(wins) if wins else None,
        average_loss=lost / len(losses) if losses else None,
        mean_confidence=sum(t.confidence for t in trades) / count if count else None,
        hit_rate=sum(t.hit for t in trades) / count if count else None,
    )


def _grouped(trades: Iterable[ClosedTrade], key: Callable[[ClosedTrade], str]) -> dict[str, Figures]:
    groups: dict[str, list[ClosedTrade]] = {}
    for trade in trades:
        groups.setdefault(key(trade), []).append(trade)
    return {name: figures(groups[name]) for name in sorted(groups)}


def _daily(trades: Iterable[ClosedTrade]) -> list[DayFigures]:
    by_day: dict[date, list[Decimal]] = {}
    for trade in trades:
        by_day.setdefault(trade.closed_on, []).append(trade.realized_pnl)
    days: list[DayFigures] = []
    cumulative = Decimal(0)
    for day in sorted(by_day):
        realized = sum(by_day[day], Decimal(0))
        cumulative += realized
        days.append(DayFigures(day, len(by_day[day]), realized, cumulative))
    return days


def _max_drawdown(cumulative: Iterable[Decimal]) -> Decimal:
    high = deepest = Decimal(0)
    for value in cumulative:
        high = max(high, value)
        deepest = max(deepest, high - value)
    return deepest


def _return_in(confidence_kind: str) -> Decimal:
    """The net return whose probability a confidence is: 0.02 of "touch_net_0.02", 0 of any other kind."""
    if not confidence_kind.startswith(_TOUCH_PREFIX):
        return Decimal(0)
    return Decimal(confidence_kind.removeprefix(_TOUCH_PREFIX))
