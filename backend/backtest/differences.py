"""The first thing in which two markets, or two backtests, differ up to a day: said in words. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date, datetime, time
from itertools import zip_longest
from math import isclose, isnan
from typing import Any, TypeVar

import numpy as np

from backend.backtest.history import DaySignals, MarketHistory, ShareHistory
from backend.backtest.market import instant
from backend.backtest.result import BacktestResult, Curve, OrderRecord, TradeRecord, TraderResult
from backend.domain.calendar import IST
from backend.domain.ranking import Signal
from contracts.market import Interval

RELATIVE_TOLERANCE = 1e-9
"""Of statistics: the last bits of a sum depend on how many rows are summed together. Prices are exact."""
RUPEES_TOLERANCE = 1e-6
IST_OFFSET_S, DAY_S = 19_800, 86_400
EPOCH = date(1970, 1, 1).toordinal()
BARS = ("end", "open", "high", "low", "close", "volume", "previous_close", "lower_band", "upper_band")
COLUMNS = (*BARS, "tick", "lot", "freeze_quantity", "has_derivatives")
NOTHING = "nothing"
UNSAID = DaySignals()
SETTLED_LATER = ("fills", "state", "filled_quantity", "charges", "dp_charge", "message", "denied")
"""What of an order its own instant does not decide."""

T = TypeVar("T", MarketHistory, BacktestResult)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Found:
    """A difference and the day it is of."""

    day: date
    text: str


_Search = Iterator[_Found | None]


def first_difference(one: T, other: T, through: date) -> str | None:
    """The first thing dated up to and including `through` that differs, with the value of `one` and what it became in
    `other`; None where nothing does. The earliest day counts; on one day a market's sessions come before its members,
    corporate actions, bars, the index and signals, and a backtest's orders before fills, trades and the curve.

    Not compared: shares that were no member by then (which there will be is for the future to say), how many shares
    had nothing to act on, and what carries no day.

    Raises:
        ValueError: the backtests are not of the same traders.
    """
    if isinstance(one, MarketHistory) and isinstance(other, MarketHistory):
        return _earliest(_market(one, other, through))
    if isinstance(one, BacktestResult) and isinstance(other, BacktestResult):
        return _earliest(_result(one, other, datetime.combine(through, time.max, IST), ("fills",)))
    raise TypeError("a market is compared with a market, a result with a result")


def first_signal_difference(one: MarketHistory, other: MarketHistory, day: date, members_on: date) -> str | None:
    """The first difference in what was said for the session of `day`, of the members by `members_on`."""
    symbols = _members_by(one, members_on) | _members_by(other, members_on)
    text = _of_day(one.predictions.get(day, UNSAID), other.predictions.get(day, UNSAID), symbols)
    return None if text is None else f"{day} {text}"


def first_difference_until(one: BacktestResult, other: BacktestResult, until: datetime) -> str | None:
    """The first difference in what two backtests had done by an instant, which may lie within a session; what becomes
    of an order afterwards is not looked at."""
    return _earliest(_result(one, other, until, SETTLED_LATER))


def _earliest(search: _Search) -> str | None:
    """The kinds come in their order, so that of one day the first found counts."""
    found = [each for each in search if each is not None]
    first = min(found, key=lambda each: each.day, default=None)
    return None if first is None else f"{first.day} {first.text}"


def _market(one: MarketHistory, other: MarketHistory, through: date) -> _Search:
    symbols = _members_by(one, through) | _members_by(other, through)
    yield _keyed("session", _sessions(one, through), _sessions(other, through))
    yield _keyed("members", _members(one, through), _members(other, through))
    yield _keyed("action", _actions(one, symbols, through), _actions(other, symbols, through))
    for symbol in sorted(symbols):
        yield _bars(symbol, one, other, through)
    yield _keyed("index level", _levels(one, through), _levels(other, through))
    yield _said(one, other, symbols, through)
    yield _timed(one, other, symbols, through)


def _members_by(history: MarketHistory, through: date) -> frozenset[str]:
    """Every share that was a member by a day."""
    return frozenset().union(*(found for day, found in history.members.items() if day <= through))


def _sessions(history: MarketHistory, through: date) -> dict[date, object]:
    return {session.day: session for session in history.sessions if session.day <= through}


def _members(history: MarketHistory, through: date) -> dict[date, object]:
    return {day: ",".join(sorted(found)) for day, found in history.members.items() if day <= through}


def _levels(history: MarketHistory, through: date) -> dict[date, object]:
    return {day: level for day, level in history.benchmark if day <= through}


def _actions(history: MarketHistory, symbols: frozenset[str], through: date) -> dict[date, object]:
    """The actions of each day, in words."""
    found: dict[date, list[str]] = {}
    for action in sorted(history.actions, key=lambda each: (each.ex_date, each.symbol, each.kind)):
        if action.ex_date <= through and action.symbol in symbols:
            ratio = f"{action.shares_before}:{action.shares_after}, {action.amount}, {action.close_before}"
            found.setdefault(action.ex_date, []).append(f"{action.symbol} {action.kind.value} {ratio}")
    return {day: "; ".join(each) for day, each in found.items()}


def _keyed(what: str, one: Mapping[date, object], other: Mapping[date, object]) -> _Found | None:
    for day in sorted(one.keys() | other.keys()):
        value, later = one.get(day, NOTHING), other.get(day, NOTHING)
        if not _same(value, later):
            return _Found(day, f"{what}: {value} became {later}")
    return None


def _bars(symbol: str, one: MarketHistory, other: MarketHistory, through: date) -> _Found | None:
    """The first bar, by its start, of which any column differs."""
    first, second = one.shares.get(symbol), other.shares.get(symbol)
    rows, others = rows_through(first, through), rows_through(second, through)
    common = min(rows, others)
    place, name = common, ""
    if first is not None and second is not None:
        for column in ("start", *COLUMNS):
            unlike = getattr(first, column)[:place] != getattr(second, column)[:place]
            if unlike.any():
                place, name = int(unlike.argmax()), column
    share = first if rows > place else second
    if share is None or place == max(rows, others):
        return None
    at = instant(int(share.start[place]))
    time = "" if one.interval is Interval.DAY_1 else f"{at:%H:%M} "
    what = f"{time}bar of {symbol}:"
    if not name or first is None or second is None:
        value, later = ("one" if count > place else NOTHING for count in (rows, others))
        return _Found(at.date(), f"{what} {value} became {later}")
    unit = " paise" if name not in ("start", "end", "volume", "lot", "freeze_quantity", "has_derivatives") else ""
    value, later = getattr(first, name)[place], getattr(second, name)[place]
    return _Found(at.date(), f"{what} {name} {value} became {later}{unit}")


def rows_through(share: ShareHistory | None, through: date) -> int:
    """How many of a share's bars began up to the end (IST) of a day."""
    if share is None:
        return 0
    after = (through.toordinal() + 1 - EPOCH) * DAY_S - IST_OFFSET_S
    return int(np.searchsorted(share.start, after, side="left"))


def _said(one: MarketHistory, other: MarketHistory, symbols: frozenset[str], through: date) -> _Found | None:
    for day in sorted(day for day in one.predictions.keys() | other.predictions.keys() if day <= through):
        text = _of_day(one.predictions.get(day, UNSAID), other.predictions.get(day, UNSAID), symbols)
        if text is not None:
            return _Found(day, text)
    return None


def _timed(one: MarketHistory, other: MarketHistory, symbols: frozenset[str], through: date) -> _Found | None:
    told, later = ({(second, day): said for second, day, said in each.timed} for each in (one, other))
    for second, day in sorted(key for key in told.keys() | later.keys() if key[1] <= through):
        text = _of_day(told.get((second, day), UNSAID), later.get((second, day), UNSAID), symbols)
        if text is not None:
            return _Found(day, f"{instant(second):%H:%M} {text}")
    return None


def _of_day(one: DaySignals, other: DaySignals, symbols: frozenset[str]) -> str | None:
    told, later = _by_name(one, symbols), _by_name(other, symbols)
    if told == later:
        return None
    for key in sorted(told.keys() | later.keys()):
        first, second = told.get(key), later.get(key)
        text = _fields(first, second, lambda signal: signal.action.value)
        if text is not None:
            return f"prediction of {key[0]} ({key[1]}): {text}"
    return None


def _by_name(said: DaySignals, symbols: frozenset[str]) -> dict[tuple[str, str], Signal]:
    proposed = (signal for each in said.proposals.values() for signal in each)
    every = (*said.signals.values(), *proposed)
    return {(signal.symbol, signal.strategy): signal for signal in every if signal.symbol in symbols}


def _fields(one: R | None, other: R | None, name: Callable[[R], object], without: Sequence[str] = ()) -> str | None:
    """The first field of two records that differs; `name` says a record in a word where there is only one of them."""
    if one is None or other is None:
        if one is other:
            return None
        return f"{NOTHING if one is None else name(one)} became {NOTHING if other is None else name(other)}"
    for each in fields(one):  # pyright: ignore[reportArgumentType] - the records are dataclasses
        value, later = getattr(one, each.name), getattr(other, each.name)
        if each.name in without or _same(value, later):
            continue
        if isinstance(value, Mapping) and isinstance(later, Mapping):
            keys = sorted(value.keys() | later.keys())
            key = next(key for key in keys if not _same(value.get(key), later.get(key)))
            return f"{each.name}[{key:g}] {_words(value.get(key))} became {_words(later.get(key))}"
        return f"{each.name} {_words(value)} became {_words(later)}"
    return None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return isclose(one, other, rel_tol=RELATIVE_TOLERANCE, abs_tol=RELATIVE_TOLERANCE) or (
            isnan(one) and isnan(other)
        )
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return one == other


def _words(value: Any) -> str:
    if isinstance(value, frozenset):
        return ",".join(sorted(str(each) for each in value)) or NOTHING
    return NOTHING if value is None else str(value)


def _result(one: BacktestResult, other: BacktestResult, until: datetime, open_fields: Sequence[str]) -> _Search:
    pairs = list(zip(one.traders, other.traders, strict=True))
    if any(first.trader != second.trader for first, second in pairs):
        raise ValueError("the two backtests are not of the same traders")
    kinds: tuple[Callable[[TraderResult, TraderResult], _Found | None], ...] = (
        lambda first, second: _orders(first, second, until, open_fields),
        lambda first, second: _fills(first, second, until),
        lambda first, second: _trades(first, second, until),
        lambda first, second: _curves(first, second, until),
    )
    for kind in kinds:
        for first, second in pairs:
            found = kind(first, second)
            yield None if found is None else replace(found, text=f"{first.trader.name}: {found.text}")


def _orders(one: TraderResult, other: TraderResult, until: datetime, without: Sequence[str]) -> _Found | None:
    mine, theirs = ([order for order in each.orders if order.at <= until] for each in (one, other))
    for first, second in zip_longest(mine, theirs):
        text = _fields(first, second, _order, without)
        if text is not None:
            known = [order for order in (first, second) if order is not None]
            order = min(known, key=lambda each: each.at)
            return _Found(order.at.date(), f"order {order.number} ({_order(order)}): {text}")
    return None


def _order(order: OrderRecord) -> str:
    return f"{order.side.value} {order.quantity} {order.symbol}"


def _fills(one: TraderResult, other: TraderResult, until: datetime) -> _Found | None:
    mine, theirs = ([(o, fill) for o in each.orders for fill in o.fills if fill.at <= until] for each in (one, other))
    for first, second in zip_longest(mine, theirs):
        text = _fields(first and first[1], second and second[1], lambda fill: f"{fill.quantity} at {fill.price}")
        if text is not None:
            order, fill = min((each for each in (first, second) if each is not None), key=lambda each: each[1].at)
            return _Found(fill.at.date(), f"fill of order {order.number} ({_order(order)}): {text}")
    return None


def _trades(one: TraderResult, other: TraderResult, until: datetime) -> _Found | None:
    """Those that had ended: what is still held is valued later."""
    mine, theirs = (
        {t.number: t for t in each.trades if t.closed_at is not None and t.closed_at <= until} for each in (one, other)
    )
    found: list[_Found] = []
    for number in sorted(mine.keys() | theirs.keys()):
        first, second = mine.get(number), theirs.get(number)
        text = _fields(first, second, _trade)
        if text is not None:
            known = [trade for trade in (first, second) if trade is not None]
            day = min(trade.closed_at.date() for trade in known if trade.closed_at is not None)
            found.append(_Found(day, f"trade {number} ({_trade(known[0])}): {text}"))
    return min(found, key=lambda each: each.day, default=None)


def _trade(trade: TradeRecord) -> str:
    return f"{trade.symbol}, {trade.status.value}"


def _curves(one: TraderResult, other: TraderResult, until: datetime) -> _Found | None:
    first, second = _until(one.curve, until), _until(other.curve, until)
    common = min(len(first.at), len(second.at))
    place, name = common, "at"
    for column in ("at", "cash", "positions", "equity"):
        unlike = np.abs(getattr(first, column)[:place] - getattr(second, column)[:place]) > RUPEES_TOLERANCE
        if unlike.any():
            place, name = int(unlike.argmax()), column
    longer = first if len(first.at) > place else second
    if place == len(longer.at):
        return None
    at = instant(int(longer.at[place]))
    if place == common:
        return _Found(at.date(), f"{at:%H:%M} curve: it ends here in one of the two")
    value, later = float(getattr(first, name)[place]), float(getattr(second, name)[place])
    return _Found(at.date(), f"{at:%H:%M} {name}: {value:.2f} became {later:.2f}")


def _until(curve: Curve, until: datetime) -> Curve:
    rows = int(np.searchsorted(curve.at, until.timestamp(), side="right"))
    return Curve(curve.at[:rows], curve.cash[:rows], curve.positions[:rows], curve.equity[:rows])
