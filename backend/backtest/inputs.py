"""Gathers all that a backtest reads, from data_service and ml_service, as it was known at one instant."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

import numpy as np

from backend.backtest.history import DaySignals, MarketHistory, ShareHistory
from backend.backtest.request import WALKING
from backend.backtest.spec import Spec
from backend.domain.calendar import IST, Calendar, Session, YearNotRecorded
from backend.domain.corporate_actions import ActionKind, CorporateAction, merged
from backend.domain.market import Exchange
from backend.errors import SaudaError
from backend.services.corporate_action_service import action_told
from backend.services.market_data_client import MarketDataClient, in_parts
from backend.services.ml_service_client import MlServiceClient, modes_of, signal_of
from backend.services.protection_service import DAYS_AHEAD, DAYS_BEHIND
from backend.services.quote_history import COLUMNS, Column
from contracts.common import Environment
from contracts.market import ActionKind as ToldKind
from contracts.market import CorporateAction as ToldAction
from contracts.market import Interval, QuoteHistoryHead, QuoteHistoryRequest
from contracts.predictions import (
    HORIZON_SESSIONS_DEFAULT,
    WALK_FORWARD,
    PredictionHistoryRequest,
    SessionPredictions,
    WalkForwardRequest,
    WalkForwardStatus,
)

TOP = "top:"
NAMED = ("default", "nifty50")
MEMBERS_MAX = 500
SYMBOLS_PER_CALL = 10
ROWS_PER_CALL = 400_000
"""Bars in one answer of data_service at most; it gives no more than half a million."""
PREDICTION_DAYS_PER_CALL = 31
POLL_S = 0.5
BEFORE_THE_OPEN = time(9)
"""When members are determined: after every session before that day, and before any of its own."""
BARS_PER_SESSION = {
    Interval.MIN_1: 375,
    Interval.MIN_3: 125,
    Interval.MIN_5: 75,
    Interval.MIN_10: 38,
    Interval.MIN_15: 25,
    Interval.MIN_30: 13,
    Interval.HOUR_1: 7,
    Interval.DAY_1: 1,
}

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is being done)."""


class InputsError(SaudaError):
    """There is no market to trade in as asked; the message says what is missing and what to ask for instead."""

    status, code, title = 422, "backtest_impossible", "Invalid request"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to fetch: `universe` is `default`, `nifty50`, `top:N` or symbols separated by commas; `as_of`: what is known
    later is not looked at (the market's present where None); `model`: a registered version, or `walk_forward`."""

    universe: str
    as_of: datetime | None = None
    model: str = WALK_FORWARD
    horizon_sessions: int = HORIZON_SESSIONS_DEFAULT


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The days that are traded, of which there is data, and as of when."""

    first: date
    last: date
    as_of: datetime
    environment: Environment


async def fetch(
    spec: Spec,
    wanted: Wanted,
    market_data: MarketDataClient,
    ml_service: MlServiceClient,
    calendar: Calendar,
    progress: Progress,
) -> MarketHistory:
    """Everything that `spec` needs. Each share bears one name throughout, that of `as_of`: members, actions and signals
    of before are told under it too, and renames are none of the actions.

    Raises:
        InputsError: an unknown universe, days without a calendar, data or predictions, no bars.
        SaudaError: a service did not answer, or refused.
    """
    progress(0, 1, "asking which days there are")
    bounds, notes = await _bounds(spec, wanted, market_data)
    sessions = _sessions(calendar, bounds)
    yesterday = bounds.as_of.astimezone(IST).date() - timedelta(days=1)
    told = (await market_data.actions(bounds.first, max(bounds.last, yesterday), bounds.as_of)).actions
    members = await _members(wanted.universe, sessions, told, market_data, bounds, notes, progress)
    symbols = sorted(set[str]().union(*members.values()))
    head, shares = await _shares(symbols, spec.interval, market_data, bounds, notes, progress)
    if not shares:
        raise InputsError(
            f"There are no {spec.interval} bars of {wanted.universe} from {bounds.first} to {bounds.last}."
        )
    predictions = await _predictions(list(shares), wanted, ml_service, bounds, notes, progress)
    behind, ahead = bounds.first - timedelta(days=DAYS_BEHIND), bounds.last + timedelta(days=DAYS_AHEAD)
    return MarketHistory(
        interval=spec.interval,
        environment=head.environment.value,
        provider=head.provider,
        sessions=sessions,
        shares=shares,
        actions=_actions(told, shares, bounds.last),
        members=members,
        half_spread_bp=float(head.half_spread_bp),
        session_days=calendar.sessions_between(behind, ahead),
        predictions=predictions,
        notes=tuple(dict.fromkeys(notes)),
    )


async def _bounds(spec: Spec, wanted: Wanted, market_data: MarketDataClient) -> tuple[_Bounds, list[str]]:
    clock = await market_data.clock()
    as_of = wanted.as_of or clock.now
    if as_of > clock.now:
        raise InputsError(f"as_of {as_of.isoformat()} is after the market's present, {clock.now.isoformat()}.")
    if clock.data_from is None or clock.data_through is None:
        raise InputsError("No market data is stored: import some with `sauda data import FILE`.")
    known = min(clock.data_through, as_of.astimezone(IST).date())
    first, last, notes = max(spec.first, clock.data_from), min(spec.last, known), list[str]()
    if first > last:
        raise InputsError(
            f"There is market data from {clock.data_from} to {known}, none from {spec.first} to {spec.last}: "
            "ask for days in it."
        )
    if first > spec.first:
        notes.append(f"There is market data from {first} only: the backtest begins there, not on {spec.first}.")
    if last < spec.last:
        notes.append(f"There is market data up to {known} only: the backtest ends there, not on {spec.last}.")
    return _Bounds(first, last, as_of, clock.environment), notes


def _sessions(calendar: Calendar, bounds: _Bounds) -> list[Session]:
    """The sessions of all days. Raises InputsError for a year without a calendar, or no session at all."""
    days = [bounds.first + timedelta(days=n) for n in range((bounds.last - bounds.first).days + 1)]
    try:
        found = [calendar.session_on(Exchange.NSE, day) for day in days]
    except YearNotRecorded as error:
        raise InputsError(f"{error}.") from error
    sessions = [session for session in found if session is not None]
    if not sessions:
        raise InputsError(f"The market was closed from {bounds.first} to {bounds.last}.")
    return sessions


async def _members(
    universe: str,
    sessions: Sequence[Session],
    told: Sequence[ToldAction],
    market_data: MarketDataClient,
    bounds: _Bounds,
    notes: list[str],
    progress: Progress,
) -> dict[date, frozenset[str]]:
    """The members by the day they were determined: before the first session, and before the first of each month after.
    Those that were delisted since are among them."""
    name, n, listed = _read_universe(universe)
    if listed:
        return {sessions[0].day: listed}
    days = [session.day for session in sessions]
    months = [day for place, day in enumerate(days) if place == 0 or day.month != days[place - 1].month]
    members: dict[date, frozenset[str]] = {}
    for number, day in enumerate(months):
        progress(number, len(months), f"asking for the members of {universe} on {day}")
        instant = min(datetime.combine(day, BEFORE_THE_OPEN, IST), bounds.as_of)
        reply = await market_data.universe(name, n, instant)
        members[day] = frozenset(_name_at_last(symbol, day, told) for symbol in reply.members)
        notes.extend([f"{universe}: {reply.note}"] if reply.note else [])
    if not any(members.values()):
        raise InputsError(f"The universe {universe} had no members from {bounds.first} to {bounds.last}.")
    return members


def _read_universe(universe: str) -> tuple[str, int, frozenset[str]]:
    """A universe's name for data_service and its size, or the symbols that were listed. Raises InputsError."""
    name = universe.strip()
    if name.lower() in NAMED:
        return name.lower(), 1, frozenset()
    if name.lower().startswith(TOP):
        size = name[len(TOP) :]
        if not (size.isdecimal() and 1 <= int(size) <= MEMBERS_MAX):
            raise InputsError(f"{universe} is no universe: top:N takes 1 to {MEMBERS_MAX} shares.")
        return "top", int(size), frozenset()
    symbols = frozenset(symbol.strip().upper() for symbol in name.split(",") if symbol.strip())
    if not symbols or len(symbols) > MEMBERS_MAX:
        raise InputsError(f"{universe!r} is no universe: default, nifty50, top:N, or symbols separated by commas.")
    return "", 0, symbols


def _name_at_last(symbol: str, day: date, told: Iterable[ToldAction]) -> str:
    """The name that the share called `symbol` on `day` has in the end."""
    renames = [action for action in told if action.kind is ToldKind.RENAME and action.ex_date > day]
    for action in sorted(renames, key=lambda each: each.ex_date):
        if action.symbol == symbol and action.new_symbol:
            symbol = action.new_symbol
    return symbol


async def _shares(
    symbols: Sequence[str],
    interval: Interval,
    market_data: MarketDataClient,
    bounds: _Bounds,
    notes: list[str],
    progress: Progress,
) -> tuple[QuoteHistoryHead, dict[str, ShareHistory]]:
    """Every bar of the days, a few shares and months at a time."""
    batches = [list(symbols[i : i + SYMBOLS_PER_CALL]) for i in range(0, len(symbols), SYMBOLS_PER_CALL)]
    days = max(1, ROWS_PER_CALL // (SYMBOLS_PER_CALL * BARS_PER_SESSION[interval]))
    spans = _spans(bounds.first, bounds.last, days)
    shares: dict[str, ShareHistory] = {}
    missing: dict[str, str] = {}
    head: QuoteHistoryHead | None = None
    for number, batch in enumerate(batches):
        parts: dict[str, list[Mapping[str, Column]]] = {}
        for place, (from_, through) in enumerate(spans):
            progress(number * len(spans) + place, len(batches) * len(spans), f"fetching {interval} bars")
            request = QuoteHistoryRequest(
                symbols=batch, interval=interval, from_=from_, through=through, as_of=bounds.as_of
            )
            reply = await market_data.quote_history(request)
            if reply.head.environment is not bounds.environment or (head and head.provider != reply.head.provider):
                raise InputsError("data_service changed its market between two answers: ask again.")
            head = reply.head
            missing |= head.missing
            for symbol, columns in reply.shares.items():
                parts.setdefault(symbol, []).append(columns)
        shares |= {symbol: _share(symbol, found) for symbol, found in parts.items()}
    without = [symbol for symbol in symbols if symbol not in shares]
    notes.extend(f"{symbol}: {missing.get(symbol, 'no bars')}." for symbol in without)
    if head is None:
        raise InputsError("There is no share to trade in.")
    return head, shares


def _spans(first: date, last: date, days: int) -> list[tuple[date, date]]:
    """The days in parts of at most `days`, both ends inclusive."""
    starts = range(0, (last - first).days + 1, days)
    return [(first + timedelta(days=n), min(first + timedelta(days=n + days - 1), last)) for n in starts]


def _share(symbol: str, parts: Sequence[Mapping[str, Column]]) -> ShareHistory:
    columns = {name: np.concatenate([part[name] for part in parts]) for name in (*COLUMNS, "has_derivatives")}
    return ShareHistory(symbol=symbol, **columns)  # pyright: ignore[reportArgumentType] - by name


def _actions(told: Iterable[ToldAction], shares: Mapping[str, object], last: date) -> list[CorporateAction]:
    """The actions of the shares up to `last`, as the live service merges what several sources tell."""
    mine = [
        (wire.source, action_told(wire))
        for wire in told
        if wire.symbol in shares and wire.ex_date <= last and wire.kind is not ToldKind.RENAME
    ]
    return [action for action in merged(mine) if action.kind is not ActionKind.OTHER]


async def _predictions(
    symbols: Sequence[str],
    wanted: Wanted,
    ml_service: MlServiceClient,
    bounds: _Bounds,
    notes: list[str],
    progress: Progress,
) -> dict[date, DaySignals]:
    """What might be acted on, by trading day."""
    if wanted.model == WALK_FORWARD:
        await _walked(wanted, ml_service, bounds, progress)
    found: dict[date, DaySignals] = {}
    unanswered: dict[date, str] = {}
    spans = _spans(bounds.first, bounds.last, PREDICTION_DAYS_PER_CALL)
    for number, (from_, through) in enumerate(spans):
        progress(number, len(spans), f"reading predictions of {from_:%Y-%m}")
        for part in in_parts(symbols):
            request = PredictionHistoryRequest(
                symbols=part,
                from_=from_,
                through=through,
                as_of=bounds.as_of,
                horizon_sessions=wanted.horizon_sessions,
                model=wanted.model,
            )
            reply = await ml_service.prediction_history(request)
            if reply.environment is not bounds.environment:
                raise InputsError(
                    f"ml_service answers for the {reply.environment.value} market: start it for this one."
                )
            unanswered |= reply.unanswered
            for session in reply.sessions:
                found[session.day] = _joined(found.get(session.day), day_signals(session))
    if not found:
        why = next(iter(unanswered.values()), "the model has no answer")
        raise InputsError(f"There are no predictions from {bounds.first} to {bounds.last}: {why}.")
    early = sorted(day for day in unanswered if day < min(found))
    if early:
        notes.append(f"Nothing is predicted before {min(found)}: {unanswered[early[0]]}.")
    return found


async def _walked(wanted: Wanted, ml_service: MlServiceClient, bounds: _Bounds, progress: Progress) -> None:
    """Have the walk-forward ready. Raises InputsError where it fails, or answers for later days only."""
    request = WalkForwardRequest(through=bounds.last, as_of=bounds.as_of, horizon_sessions=wanted.horizon_sessions)
    while True:
        reply = await ml_service.walk_forward(request)
        if reply.status is WalkForwardStatus.READY:
            break
        if reply.status is WalkForwardStatus.FAILED:
            raise InputsError(f"The walk-forward failed: {reply.what}.")
        progress(reply.done, max(reply.total, 1), f"{WALKING}{reply.what}")
        await asyncio.sleep(POLL_S)
    if reply.first is None or reply.first > bounds.last:
        raise InputsError(f"Nothing could be learned before {reply.first}: ask for later days, or import earlier bars.")


def day_signals(session: SessionPredictions) -> DaySignals:
    """A session's predictions as the signals that the live cycle would have made of them."""
    return DaySignals(
        signals={
            symbol: signal_of(each, session, modes_of(each.certified_modes))
            for symbol, each in session.predictions.items()
        },
        proposals={
            symbol: [signal_of(each, session, modes_of(each.certified_modes)) for each in found]
            for symbol, found in session.candidates.items()
        },
        idle=session.idle,
    )


def _joined(one: DaySignals | None, other: DaySignals) -> DaySignals:
    """Two parts of one day's signals, of different symbols."""
    if one is None:
        return other
    idle = {reason: one.idle.get(reason, 0) + other.idle.get(reason, 0) for reason in {**one.idle, **other.idle}}
    return DaySignals({**one.signals, **other.signals}, {**one.proposals, **other.proposals}, idle)
