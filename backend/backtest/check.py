"""Whether a backtest looks ahead: the same days with the future cut off, made another, and predictions acted on later.

What is told of a day may depend only on what had ended before it. So what the services said as of an earlier day, and
what the engine did with it, must be what they say and do now of the days up to then.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from typing import TypeVar

import numpy as np

from backend.backtest.differences import first_difference, first_difference_until, first_signal_difference, rows_through
from backend.backtest.engine import Progress, no_progress, run
from backend.backtest.history import DaySignals, Ints, MarketHistory, ShareHistory
from backend.backtest.result import BacktestResult, TraderResult
from backend.backtest.spec import Spec
from backend.domain.calendar import IST, Session
from backend.domain.corporate_actions import RESCALING
from backend.domain.market import StockClass
from backend.domain.ranking import Signal
from contracts.market import Interval

CUTS = 2
DAY_S, IST_OFFSET_S = 86_400, 19_800
PRICES = ("open", "high", "low", "close")
KNOWN_BEFORE = ("previous_close", "lower_band", "upper_band")
FACTOR_MIN, FACTOR_MAX = 0.5, 1.5
VOLUME_FACTOR_MIN, VOLUME_FACTOR_MAX = 0.2, 5.0
INPUTS, THEN = "inputs as known then", "result as known then"
CUT_OFF, OTHERWISE = "result, later bars cut off", "result, later bars changed"
AT_ORDERS = "result, bars after an order changed"
ORDERS_TRIED = 6
ACTIONS_NAMED_MAX = 3

V = TypeVar("V")

Make = Callable[[date | None], Awaitable[MarketHistory]]
"""The market as it was known once the session of a day had ended (its bars, and what was said for the session after
it); as it is known at the end where None."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: `changed` is the first thing that the future changed, in words; None where nothing did."""

    check: str
    cut: date
    changed: str | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Delay:
    """What a trader makes of predictions that are acted on a session late. Returns are net of charges, as fractions of
    the capital."""

    trader: str
    trades: int
    net_return: float
    trades_late: int
    net_return_late: float

    @property
    def verdict(self) -> str:
        """What the two numbers say."""
        if self.net_return <= 0:
            return "There was no profit to lose."
        if self.net_return_late <= 0:
            return (
                "The profit is gone with one session of delay: it lives on something that a real order would not get."
            )
        if self.net_return_late < self.net_return / 2:
            return "More than half of the profit is gone with one session of delay: it depends on being at once."
        return "Most of the profit is there with one session of delay too."


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All that was checked; `delays` are information and pass or fail nothing. `predictions` and `orders`: how many
    there were up to the last cut."""

    findings: tuple[Finding, ...]
    delays: tuple[Delay, ...]
    predictions: int
    orders: int

    @property
    def passed(self) -> bool:
        return all(finding.changed is None for finding in self.findings)

    @property
    def compared(self) -> str:
        """What the checks had to look at: where that is nothing, they prove nothing of it."""
        counted = f"Compared up to the last cut: {self.predictions} predictions to act on, {self.orders} orders."
        if not self.predictions:
            return f"{counted} Nothing was to be acted on, so nothing is known of predictions and of the engine."
        if not self.orders:
            return f"{counted} Nothing was ordered, so nothing is known of the engine."
        return counted


async def check(
    make: Make, spec: Spec, cuts: Sequence[date] = (), *, seed: int = 1, progress: Progress = no_progress
) -> CheckReport:
    """Backtest `spec` with and without the future.

    Args:
        cuts: the last days that count; by default one and two thirds of the sessions for which something was said.
            Besides, what follows on a few orders is changed: a look ahead by one bar shows only where it matters.
        progress: of the backtests; `make` tells its own.

    Raises:
        ValueError: nothing was said for four sessions, so that there is nothing to cut.
    """
    whole = await make(None)
    days = list(cuts) or cuts_of(whole)
    result = run(spec, whole, progress)
    findings: list[Finding] = []
    for cut in days:
        findings += _as_known_then(await make(cut), whole, result, cut, progress)
        findings.append(_engine(CUT_OFF, truncated(whole, cut), result, cut, progress))
        findings.append(_engine(OTHERWISE, perturbed(whole, cut, seed), result, cut, progress))
    findings += _at_orders(whole, result, seed, progress)
    late = run(spec, delayed(whole), progress)
    pairs = zip(result.traders, late.traders, strict=True)
    delays = tuple(_delay(one, other) for one, other in pairs)
    return CheckReport(tuple(findings), delays, _said_through(whole, max(days)), _ordered_through(result, max(days)))


def cuts_of(history: MarketHistory, count: int = CUTS) -> list[date]:
    """Days that cut the sessions for which something was said into `count` + 1 parts.

    Raises:
        ValueError: these are not twice as many sessions.
    """
    said = set(history.predictions) | {day for _, day, _ in history.timed}
    days = [session.day for session in history.sessions if session.day in said]
    if len(days) < 2 * count:
        raise ValueError(f"there are predictions for {len(days)} sessions: a check needs {2 * count} at least")
    return [days[len(days) * (number + 1) // (count + 1) - 1] for number in range(count)]


def _as_known_then(
    then: MarketHistory, whole: MarketHistory, result: BacktestResult, cut: date, progress: Progress
) -> list[Finding]:
    """What the services said as of the cut, and what came of it."""
    following = next((session.day for session in whole.sessions if session.day > cut), None)
    changed = first_difference(then, whole, cut)
    if changed is None and following is not None:
        changed = first_signal_difference(then, whole, following, cut)
    # How far the calendar was asked for is no knowledge of the market.
    known = replace(then, session_days=whole.session_days)
    return [
        Finding(INPUTS, cut, changed, _rescaled_since(whole, cut) if changed else ""),
        _engine(THEN, known, result, cut, progress),
    ]


def _engine(name: str, history: MarketHistory, whole: BacktestResult, cut: date, progress: Progress) -> Finding:
    def tell(done: int, total: int, _what: str) -> None:
        progress(done, total, f"{cut}: {name}")

    return Finding(name, cut, first_difference(run(whole.spec, history, tell), whole, cut))


def _at_orders(whole: MarketHistory, result: BacktestResult, seed: int, progress: Progress) -> list[Finding]:
    """The first change in what was done up to an order, once what comes after it is another; of orders evenly over the
    backtest. On daily bars the whole day of the order counts as known: its range decides what can be traded."""
    instants = sorted({order.at for trader in result.traders for order in trader.orders})
    daily = whole.interval is Interval.DAY_1
    if daily:
        instants = [
            datetime.combine(day, time.max, IST) for day in sorted({at.astimezone(IST).date() for at in instants})
        ]
    tried = [instants[len(instants) * number // ORDERS_TRIED] for number in range(min(ORDERS_TRIED, len(instants)))]
    for number, at in enumerate(dict.fromkeys(tried)):
        progress(number, len(tried), AT_ORDERS)
        other = run(result.spec, perturbed(whole, at, seed))
        changed = first_difference(other, result, at.date()) if daily else first_difference_until(other, result, at)
        if changed is not None:
            return [Finding(AT_ORDERS, at.date(), changed)]
    return [Finding(AT_ORDERS, tried[-1].date(), None)] if tried else []


def _rescaled_since(history: MarketHistory, cut: date) -> str:
    """The later actions that put the bars that models learn from on another scale, in a sentence."""
    later = sorted({(a.ex_date, a.symbol) for a in history.actions if a.kind in RESCALING and a.ex_date > cut})
    if not later:
        return ""
    named = ", ".join(f"{symbol} on {day}" for day, symbol in later[:ACTIONS_NAMED_MAX])
    more = " and others" if len(later) > ACTIONS_NAMED_MAX else ""
    return f"Later splits or bonuses ({named}{more}) put older bars on another scale: that alone may move last digits."


def _delay(one: TraderResult, late: TraderResult) -> Delay:
    return Delay(one.trader.name, _trades(one), _net_return(one), _trades(late), _net_return(late))


def _said_through(history: MarketHistory, through: date) -> int:
    """How many predictions there were to act on."""
    told = _said_by(history, through)
    days = [*told.predictions.values(), *(said for _, _, said in told.timed)]
    return sum(len(said.signals) + sum(len(found) for found in said.proposals.values()) for said in days)


def _ordered_through(result: BacktestResult, through: date) -> int:
    return sum(order.at.date() <= through for trader in result.traders for order in trader.orders)


def _trades(result: TraderResult) -> int:
    return sum(trade.opened_at is not None for trade in result.trades)


def _net_return(result: TraderResult) -> float:
    return float(result.equity / result.trader.capital) - 1


def truncated(history: MarketHistory, through: date) -> MarketHistory:
    """The market of the sessions up to and including `through`: nothing has happened since. The calendar of sessions to
    come (`session_days`) stays: that is announced."""
    shares = {symbol: _rows(share, rows_through(share, through)) for symbol, share in history.shares.items()}
    return replace(
        _said_by(history, through),
        sessions=[session for session in history.sessions if session.day <= through],
        shares={symbol: share for symbol, share in shares.items() if len(share)},
    )


def perturbed(history: MarketHistory, after: date | datetime, seed: int = 1) -> MarketHistory:
    """The same market up to and including `after`, and another one from then on: the prices of each later session are
    multiplied by a random factor, the volume of each bar too; bands and previous closes go with the session before;
    what was said, done by companies and determined later is dropped. After an instant within a session, so are the
    bars that had not ended by then."""
    until = after if isinstance(after, datetime) else datetime.combine(after, time.max, IST)
    shares = {
        symbol: _repriced(share, _ended(share, until), np.random.default_rng([seed, number]))
        for number, (symbol, share) in enumerate(sorted(history.shares.items()))
    }
    known = _said_by(history, until.astimezone(IST).date())
    timed = [each for each in known.timed if each[0] <= until.timestamp()]
    return replace(known, shares=shares, timed=timed)


def _ended(share: ShareHistory, until: datetime) -> int:
    """How many of a share's bars had ended by an instant."""
    return int(np.searchsorted(share.end, until.timestamp(), side="right"))


def delayed(history: MarketHistory, sessions: int = 1) -> MarketHistory:
    """The same market, with everything that was said acted on so many sessions later, and valid for as much longer.
    Prices in it stay what they were: one that moved too far since is not acted on."""
    following = dict(zip([s.day for s in history.sessions], history.sessions[sessions:], strict=False))
    own = {session.day: session for session in history.sessions}
    timed = [
        (
            second + _open_s(following[day]) - _open_s(own[day]),
            following[day].day,
            _later(said, day, following[day].day),
        )
        for second, day, said in history.timed
        if day in following
    ]
    predictions = {
        following[day].day: _later(said, day, following[day].day)
        for day, said in history.predictions.items()
        if day in following
    }
    return replace(history, predictions=predictions, timed=timed)


def renamed(history: MarketHistory, names: Mapping[str, str]) -> MarketHistory:
    """The same market with shares under other names: old name → new one; others stay."""

    def of(symbol: str) -> str:
        return names.get(symbol, symbol)

    def signal(told: Signal) -> Signal:
        return replace(told, symbol=of(told.symbol), cluster=None if told.cluster is None else of(told.cluster))

    def said(day: DaySignals) -> DaySignals:
        signals = {of(symbol): signal(told) for symbol, told in day.signals.items()}
        proposals = {of(symbol): [signal(told) for told in found] for symbol, found in day.proposals.items()}
        return DaySignals(signals, proposals, day.idle)

    return replace(
        history,
        shares={of(symbol): replace(share, symbol=of(symbol)) for symbol, share in history.shares.items()},
        actions=[replace(action, symbol=of(action.symbol)) for action in history.actions],
        members={day: frozenset(of(symbol) for symbol in found) for day, found in history.members.items()},
        predictions={day: said(told) for day, told in history.predictions.items()},
        timed=[(second, day, said(told)) for second, day, told in history.timed],
    )


def _open_s(session: Session) -> int:
    return int(session.continuous_open(StockClass.NON_CAS).timestamp())


def _later(said: DaySignals, day: date, new: date) -> DaySignals:
    def moved(signal: Signal) -> Signal:
        until = signal.valid_until
        return signal if until is None else replace(signal, valid_until=until + timedelta(days=(new - day).days))

    return DaySignals(
        {symbol: moved(signal) for symbol, signal in said.signals.items()},
        {symbol: [moved(signal) for signal in found] for symbol, found in said.proposals.items()},
        said.idle,
    )


def _said_by(history: MarketHistory, through: date) -> MarketHistory:
    """Only what was told of the days up to `through`, apart from bars and sessions."""
    return replace(
        history,
        actions=[action for action in history.actions if action.ex_date <= through],
        members=_until(history.members, through),
        predictions=_until(history.predictions, through),
        timed=[each for each in history.timed if each[1] <= through],
        benchmark=[level for level in history.benchmark if level[0] <= through],
    )


def _until(by_day: Mapping[date, V], through: date) -> dict[date, V]:
    return {day: value for day, value in by_day.items() if day <= through}


def _rows(share: ShareHistory, count: int) -> ShareHistory:
    return _with(share, {name: getattr(share, name)[:count] for name in _columns(share)})


def _columns(share: ShareHistory) -> list[str]:
    return [name for name in share.__slots__ if name != "symbol"]


def _with(share: ShareHistory, columns: Mapping[str, Ints]) -> ShareHistory:
    return replace(share, **columns)  # pyright: ignore[reportArgumentType] - by name


def _repriced(share: ShareHistory, first: int, random: np.random.Generator) -> ShareHistory:
    """The bars from number `first` on at other prices, to the tick, and of other volumes."""
    if first == len(share):
        return share
    day = (share.start[first:] + IST_OFFSET_S) // DAY_S
    session = np.unique(day, return_inverse=True)[1]
    factors = random.uniform(FACTOR_MIN, FACTOR_MAX, int(session.max()) + 1)
    own, before = factors[session], np.concatenate([[1.0], factors])[session]
    volumes = random.uniform(VOLUME_FACTOR_MIN, VOLUME_FACTOR_MAX, len(session))
    tick = share.tick[first:]
    later = {name: _to_tick(getattr(share, name)[first:] * own, tick) for name in PRICES}
    later |= {name: _to_tick(getattr(share, name)[first:] * before, tick) for name in KNOWN_BEFORE}
    later["volume"] = (share.volume[first:] * volumes).astype(np.int64)
    return _with(share, {name: np.concatenate([getattr(share, name)[:first], new]) for name, new in later.items()})


def _to_tick(paise: np.ndarray, tick: Ints) -> Ints:
    return np.maximum(np.rint(paise / tick).astype(np.int64), 1) * tick
