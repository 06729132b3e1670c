"""Protections: a user's own closed trades may bar entries for some sessions, so that a bad run is not chased.

The four rules are those freqtrade's users know (its documentation, "Protections"), counted in sessions instead of
candles: a swing trader's prediction changes once a session, so a pause of minutes would end before anything new is
known, and one of calendar days would be spent on weekends. A pause of N sessions is the rest of the session that set it
off and the N after it.

A rule looks only at the sessions up to the trade that set it off and then holds for its pause, whatever closes
meanwhile; another trade that sets it off begins a new pause. So the answer follows from the trades alone: nothing is
stored that could be lost or forgotten. Protections bar entries, never exits.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from backend.domain.calendar import IST
from backend.domain.decide import ExitReason
from backend.domain.money import round_paise
from backend.domain.reasons import Reason

LOOKBACK_SESSIONS_MAX = 40
PAUSE_SESSIONS_MAX = 20
COUNT_MAX = 100
"""The most stops or trades a rule may ask for."""
DRAWDOWN_FRACTION_LEAST = Decimal("0.001")
RETURN_FRACTION_LEAST = Decimal(-1)


def _count(name: str, value: int, maximum: int) -> None:
    if type(value) is not int:
        raise TypeError(f"{name} is a whole number, never {type(value).__name__}")
    if not 1 <= value <= maximum:
        raise ValueError(f"{name} lies between 1 and {maximum}, not at {value}")


def _fraction(name: str, value: Decimal, minimum: Decimal) -> None:
    if type(value) is not Decimal:
        raise TypeError(f"{name} is a Decimal, never {type(value).__name__}")
    if not (value.is_finite() and minimum <= value <= 1):
        raise ValueError(f"{name} lies between {minimum} and 1, not at {value}")


@dataclass(frozen=True, slots=True)
class Cooldown:
    """After a trade closed, its symbol is not entered for `pause_sessions`; `stops_only`: after a stop alone.

    One session by default: the model has then seen the stop's close and one more before the symbol is bought again. A
    target or a horizon that was reached says nothing against it.

    Raises:
        TypeError, ValueError: a number of another type or outside its bounds. So do the other rules.
    """

    pause_sessions: int = 1
    stops_only: bool = True

    def __post_init__(self) -> None:
        _count("pause_sessions", self.pause_sessions, PAUSE_SESSIONS_MAX)
        if type(self.stops_only) is not bool:
            raise TypeError("stops_only is true or false")


@dataclass(frozen=True, slots=True)
class StoplossGuard:
    """`stops_min` losing stops within `lookback_sessions` bar every entry for `pause_sessions`.

    Four in a week by default: a stop lies three average ranges away and costs about half a per cent of the funds, so a
    normal week has none to two; four together are the market's doing, not the shares'. `symbol_stops_min`, off by
    default since the cooldown and the low-profit rule watch single symbols, bars one symbol after as many of its own.
    """

    lookback_sessions: int = 5
    stops_min: int = 4
    symbol_stops_min: int | None = None
    pause_sessions: int = 2

    def __post_init__(self) -> None:
        _count("lookback_sessions", self.lookback_sessions, LOOKBACK_SESSIONS_MAX)
        _count("stops_min", self.stops_min, COUNT_MAX)
        if self.symbol_stops_min is not None:
            _count("symbol_stops_min", self.symbol_stops_min, COUNT_MAX)
        _count("pause_sessions", self.pause_sessions, PAUSE_SESSIONS_MAX)


@dataclass(frozen=True, slots=True)
class MaxDrawdown:
    """A fall of realized P&L from its peak by more than a fraction of the funds bars every entry for `pause_sessions`.

    Counted over at least `trades_min` trades closed within `lookback_sessions`. 6 % in a month by default: about a
    dozen full stops more than the gains between them, and so nothing that a model which works does in a normal month.
    Five trades at least, so that one large loss is left to its own stop.
    """

    lookback_sessions: int = 20
    trades_min: int = 5
    drawdown_fraction_max: Decimal = Decimal("0.06")
    pause_sessions: int = 5

    def __post_init__(self) -> None:
        _count("lookback_sessions", self.lookback_sessions, LOOKBACK_SESSIONS_MAX)
        _count("trades_min", self.trades_min, COUNT_MAX)
        _fraction("drawdown_fraction_max", self.drawdown_fraction_max, DRAWDOWN_FRACTION_LEAST)
        _count("pause_sessions", self.pause_sessions, PAUSE_SESSIONS_MAX)


@dataclass(frozen=True, slots=True)
class LowProfit:
    """A symbol whose trades returned less than a fraction of what they used is not entered for `pause_sessions`.

    Counted over at least `trades_min` trades of the symbol closed within `lookback_sessions`. -3 % over two trades in a
    month by default: one stop and one target average above it, two losing trades in a row fall below.
    """

    lookback_sessions: int = 20
    trades_min: int = 2
    return_fraction_min: Decimal = Decimal("-0.03")
    pause_sessions: int = 10

    def __post_init__(self) -> None:
        _count("lookback_sessions", self.lookback_sessions, LOOKBACK_SESSIONS_MAX)
        _count("trades_min", self.trades_min, COUNT_MAX)
        _fraction("return_fraction_min", self.return_fraction_min, RETURN_FRACTION_LEAST)
        _count("pause_sessions", self.pause_sessions, PAUSE_SESSIONS_MAX)


@dataclass(frozen=True, slots=True)
class Protections:
    """One user's rules; None switches one off."""

    cooldown: Cooldown | None = Cooldown()
    stoploss_guard: StoplossGuard | None = StoplossGuard()
    max_drawdown: MaxDrawdown | None = MaxDrawdown()
    low_profit: LowProfit | None = LowProfit()

    @property
    def reach_sessions(self) -> int:
        """How many sessions before today's the oldest trade may have closed that still counts."""
        guards = (self.stoploss_guard, self.max_drawdown, self.low_profit)
        reaches = [rule.lookback_sessions + rule.pause_sessions - 1 for rule in guards if rule is not None]
        return max([self.cooldown.pause_sessions if self.cooldown else 0, *reaches])


DEFAULTS = Protections()
REACH_SESSIONS_MAX = LOOKBACK_SESSIONS_MAX + PAUSE_SESSIONS_MAX - 1
_RULES: dict[str, Any] = {
    "cooldown": Cooldown,
    "stoploss_guard": StoplossGuard,
    "max_drawdown": MaxDrawdown,
    "low_profit": LowProfit,
}


@dataclass(frozen=True, slots=True)
class ClosedTrade:
    """A trade that is over: rupees earned net of all charges, and rupees its entry used. `closed_at` is aware."""

    symbol: str
    closed_at: datetime
    exit_reason: ExitReason | None
    realized_pnl: Decimal
    entry_value: Decimal


@dataclass(frozen=True, slots=True)
class Block:
    """Entries are barred, in `symbol` or (None) in all. `until` is the first day they may be made again."""

    rule: Reason
    symbol: str | None
    until: date
    detail: str


@dataclass(frozen=True, slots=True)
class _Closing:
    """A closed trade and the number of its session in the list of session days."""

    session: int
    trade: ClosedTrade


@dataclass(frozen=True, slots=True)
class _Finding:
    """A rule was set off in `session`; `what` happened, for the user."""

    rule: Reason
    symbol: str | None
    session: int
    pause_sessions: int
    what: str


def active_blocks(
    protections: Protections,
    trades: Iterable[ClosedTrade],
    funds: Decimal,
    today: date,
    session_days: Sequence[date],
) -> tuple[Block, ...]:
    """What a user's protections bar on `today`: blocks of all symbols first, then by symbol; one per rule and symbol.

    Args:
        trades: in any order; those that closed after `today` are left out.
        funds: the user's rupees now, at cost: what the closed trades earned is taken off to find what there was before.
        today: an IST day.
        session_days: ascending, from `reach_sessions` before today's to beyond the longest pause. Trades that closed
            before them are left out; a pause that goes beyond them ends the day after the last.
    """
    numbered = ((_number(session_days, trade.closed_at.astimezone(IST).date()), trade) for trade in trades)
    now = _number(session_days, today)
    past = sorted((_Closing(n, trade) for n, trade in numbered if 0 <= n <= now), key=_closing_order)
    # Only what was set off within its pause matters, and of that the latest.
    blocks: dict[tuple[Reason, str | None], Block] = {}
    for found in sorted(_findings(protections, past, funds, now), key=lambda f: f.session):
        until = _day(session_days, found.session + found.pause_sessions + 1)
        what = f"{found.what}: no entry {f'in {found.symbol} ' if found.symbol else ''}before {until}."
        blocks[found.rule, found.symbol] = Block(found.rule, found.symbol, until, what)
    return tuple(sorted(blocks.values(), key=lambda b: (b.symbol or "", _GRAVEST_FIRST.index(b.rule))))


_GRAVEST_FIRST = (Reason.MAX_DRAWDOWN, Reason.STOPLOSS_GUARD, Reason.LOW_PROFIT_SYMBOL, Reason.COOLDOWN)


def _findings(protections: Protections, past: Sequence[_Closing], funds: Decimal, now: int) -> Iterator[_Finding]:
    by_symbol: dict[str, list[_Closing]] = defaultdict(list)
    for closing in past:
        by_symbol[closing.trade.symbol].append(closing)
    if (cooldown := protections.cooldown) is not None:
        yield from _cooldowns(cooldown, past, now)
    if (guard := protections.stoploss_guard) is not None:
        yield from _stoploss_guard(guard, past, None, guard.stops_min, now)
        for symbol, closings in by_symbol.items() if guard.symbol_stops_min is not None else ():
            yield from _stoploss_guard(guard, closings, symbol, guard.symbol_stops_min or 1, now)
    if (drawdown := protections.max_drawdown) is not None:
        yield from _max_drawdown(drawdown, past, funds, now)
    if (low_profit := protections.low_profit) is not None:
        for symbol, closings in by_symbol.items():
            if len(closings) >= low_profit.trades_min:
                yield from _low_profit(low_profit, closings, symbol, now)


def _cooldowns(rule: Cooldown, past: Sequence[_Closing], now: int) -> Iterator[_Finding]:
    for closing in past:
        trade = closing.trade
        stopped = trade.exit_reason is ExitReason.STOP
        if (stopped or not rule.stops_only) and closing.session + rule.pause_sessions >= now:
            how = "was left by its stop" if stopped else "was left"
            what = f"{trade.symbol} {how} on {trade.closed_at.astimezone(IST).date()}"
            yield _Finding(Reason.COOLDOWN, trade.symbol, closing.session, rule.pause_sessions, what)


def _stoploss_guard(
    rule: StoplossGuard, past: Sequence[_Closing], symbol: str | None, stops_min: int, now: int
) -> Iterator[_Finding]:
    """Stops that gained are none of its business, as in freqtrade's rule."""
    stops = [c for c in past if c.trade.exit_reason is ExitReason.STOP and c.trade.realized_pnl < 0]
    if len(stops) < stops_min:
        return
    for session in _sessions_of(stops, now - rule.pause_sessions):
        count = len(_window(stops, session, rule.lookback_sessions))
        if count >= stops_min:
            what = f"{_trades(count, symbol)} ended at the stop within {rule.lookback_sessions} sessions"
            what += f" (limit {stops_min})"
            yield _Finding(Reason.STOPLOSS_GUARD, symbol, session, rule.pause_sessions, what)


def _max_drawdown(rule: MaxDrawdown, past: Sequence[_Closing], funds: Decimal, now: int) -> Iterator[_Finding]:
    """The fall from the peak, where the start counts as one, at each losing trade in order of closing."""
    pnls = [c.trade.realized_pnl for c in past]
    gains = sum((pnl for pnl in pnls if pnl > 0), Decimal(0))
    losses = sum((-pnl for pnl in pnls if pnl < 0), Decimal(0))
    if losses <= max(funds - gains, Decimal(0)) * rule.drawdown_fraction_max:
        return  # no fall is deeper than all losses, and no window began with less: almost every user, every cycle
    for session in _sessions_of(past, now - rule.pause_sessions):
        window = _window(past, session, rule.lookback_sessions)
        earned_since = sum((c.trade.realized_pnl for c in past if c.session >= window[0].session), Decimal(0))
        before = max(funds - earned_since, Decimal(0))
        fall = _deepest_fall(window, session, rule.trades_min)
        if fall > before * rule.drawdown_fraction_max:
            what = (
                f"Closed trades lost {_rupees(fall)} from their peak within {rule.lookback_sessions} sessions, more "
                f"than {_percent(rule.drawdown_fraction_max)} of the {_rupees(before)} before them"
            )
            yield _Finding(Reason.MAX_DRAWDOWN, None, session, rule.pause_sessions, what)


def _deepest_fall(window: Sequence[_Closing], session: int, trades_min: int) -> Decimal:
    """Rupees below the peak, at the worst of the losing trades of `session` that have enough trades before them."""
    earned = peak = deepest = Decimal(0)
    for count, closing in enumerate(window, start=1):
        earned += closing.trade.realized_pnl
        peak = max(peak, earned)
        if closing.session == session and closing.trade.realized_pnl < 0 and count >= trades_min:
            deepest = max(deepest, peak - earned)
    return deepest


def _low_profit(rule: LowProfit, past: Sequence[_Closing], symbol: str, now: int) -> Iterator[_Finding]:
    for session in _sessions_of(past, now - rule.pause_sessions):
        window = _window(past, session, rule.lookback_sessions)
        earned = sum((c.trade.realized_pnl for c in window), Decimal(0))
        used = sum((c.trade.entry_value for c in window), Decimal(0))
        if len(window) >= rule.trades_min and earned < used * rule.return_fraction_min:
            what = (
                f"{_trades(len(window), symbol)} within {rule.lookback_sessions} sessions made {_rupees(earned)}, "
                f"less than {_percent(rule.return_fraction_min)} of the {_rupees(used)} used"
            )
            yield _Finding(Reason.LOW_PROFIT_SYMBOL, symbol, session, rule.pause_sessions, what)


def _window(past: Sequence[_Closing], session: int, lookback_sessions: int) -> list[_Closing]:
    return [c for c in past if session - lookback_sessions < c.session <= session]


def _sessions_of(closings: Iterable[_Closing], oldest: int) -> set[int]:
    return {c.session for c in closings if c.session >= oldest}


def _closing_order(closing: _Closing) -> tuple[datetime, str, Decimal, Decimal, str]:
    """Total, so that trades closed in one instant count in one order however they were read."""
    trade = closing.trade
    return trade.closed_at, trade.symbol, trade.realized_pnl, trade.entry_value, trade.exit_reason or ""


def _number(session_days: Sequence[date], day: date) -> int:
    """The index of the last session on or before `day`; -1 before them all."""
    return bisect_right(session_days, day) - 1


def _day(session_days: Sequence[date], number: int) -> date:
    return session_days[number] if number < len(session_days) else session_days[-1] + timedelta(days=1)


def _trades(count: int, symbol: str | None) -> str:
    return f"{count} trade{'' if count == 1 else 's'}{f' of {symbol}' if symbol else ''}"


def _rupees(amount: Decimal) -> str:
    return f"{'-' if amount < 0 else ''}₹{abs(round_paise(amount)):,}"


def _percent(fraction: Decimal) -> str:
    return f"{(fraction * 100).normalize():f} %"


def to_stored(protections: Protections) -> dict[str, Any]:
    """The rules that differ from the defaults, whole, as JSON: fractions are text, null is a rule switched off."""
    chosen = {f.name: getattr(protections, f.name) for f in fields(Protections)}
    differing = {name: rule for name, rule in chosen.items() if rule != getattr(DEFAULTS, name)}
    return {name: None if rule is None else _json(asdict(rule)) for name, rule in differing.items()}


def _json(rule: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Decimal) else value for name, value in rule.items()}


def from_stored(stored: Mapping[str, Any]) -> Protections:
    """The protections that `to_stored` wrote.

    Raises:
        ValueError: it holds a rule, a name or a number that there is not.
    """
    try:
        return Protections(**{name: _rule(name, value) for name, value in stored.items()})
    except (KeyError, TypeError, ArithmeticError, AttributeError) as error:
        raise ValueError(f"not stored protections: {error!r}") from error


def _rule(name: str, value: Mapping[str, Any] | None) -> Any:
    if value is None:
        return None
    return _RULES[name](**{key: Decimal(v) if isinstance(v, str) else v for key, v in value.items()})
