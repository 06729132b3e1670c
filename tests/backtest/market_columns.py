"""Small markets as columns, for tests of the backtest: random walks and hand-made bars."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np

from backend.backtest.history import DaySignals, MarketHistory, ShareHistory
from backend.backtest.market import INTERVAL_S
from backend.domain.calendar import Session, standard_calendar
from backend.domain.corporate_actions import CorporateAction
from backend.domain.market import StockClass
from backend.domain.modes import Mode
from backend.domain.ranking import Signal, SignalAction
from contracts.market import Interval

CALENDAR = standard_calendar().with_years(range(2014, 2019))
"""The recorded years, and some before them in which every weekday is a session."""
BAND = 0.2
VALID_FOREVER = datetime(2100, 1, 1, tzinfo=UTC)
Ohlcv = Mapping[str, np.ndarray]
"""open, high, low, close in paise and volume, of one length."""


def sessions(first: date, count: int) -> list[Session]:
    """The first `count` sessions from a day on."""
    found: list[Session] = []
    day = first
    while len(found) < count:
        session = CALENDAR.session_on("nse", day)  # pyright: ignore[reportArgumentType]
        if session is not None:
            found.append(session)
        day += timedelta(days=1)
    return found


def session_days(found: Sequence[Session]) -> list[date]:
    first, last = found[0].day - timedelta(days=100), found[-1].day + timedelta(days=45)
    return CALENDAR.sessions_between(first, last)


def walk(rng: np.random.Generator, count: int, *, price: int = 100_000, spread: float = 0.01) -> Ohlcv:
    """A random walk of `count` bars on a tick of five paise; a bar's moves are about `spread` of the price."""
    opens, closes = np.empty(count), np.empty(count)
    last = float(price)
    for i in range(count):
        opens[i] = max(last * (1 + rng.normal(0, spread / 3)), 1000)
        closes[i] = max(opens[i] * (1 + rng.normal(0, spread)), 1000)
        last = closes[i]
    high = np.maximum(opens, closes) * (1 + np.abs(rng.normal(0, spread / 2, count)))
    low = np.minimum(opens, closes) * (1 - np.abs(rng.normal(0, spread / 2, count)))
    return bars_of(opens, high, low, closes, rng.integers(200_000, 2_000_000, count))


def bars_of(open_: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray, volume: np.ndarray) -> Ohlcv:
    """Prices brought to whole ticks, highs and lows around them."""
    o, h, lo, c = ((np.asarray(p) // 5 * 5).astype(np.int64) for p in (open_, high, low, close))
    return {
        "open": o,
        "high": np.maximum.reduce([o, h, c]),
        "low": np.minimum.reduce([o, lo, c]),
        "close": c,
        "volume": np.asarray(volume, dtype=np.int64),
    }


def share(symbol: str, bars: Ohlcv, found: Sequence[Session], interval: Interval = Interval.DAY_1) -> ShareHistory:
    """Bars laid on sessions: one a session, or as many as its continuous hours hold."""
    starts, ends, days = [], [], []
    for number, session in enumerate(found):
        opens, closes = session.continuous_open(StockClass.NON_CAS), session.continuous_close(StockClass.NON_CAS)
        step = INTERVAL_S.get(interval)
        if step is None:
            starts.append(int(opens.timestamp()))
            ends.append(int(closes.timestamp()))
            days.append(number)
            continue
        at = int(opens.timestamp())
        while at < closes.timestamp():
            starts.append(at)
            ends.append(min(at + step, int(closes.timestamp())))
            days.append(number)
            at += step
    count = len(starts)
    assert len(bars["close"]) >= count, "too few bars for the sessions"
    columns = {name: np.asarray(column[:count], dtype=np.int64) for name, column in bars.items()}
    day = np.array(days)
    closes_by_day = np.array([columns["close"][day == number][-1] for number in range(len(found))])
    previous = np.concatenate([[columns["open"][0]], closes_by_day[:-1]])[day]
    return ShareHistory(
        symbol=symbol,
        start=np.array(starts, dtype=np.int64),
        end=np.array(ends, dtype=np.int64),
        open=columns["open"],
        high=columns["high"],
        low=columns["low"],
        close=columns["close"],
        volume=columns["volume"],
        previous_close=previous,
        lower_band=np.minimum((previous * (1 - BAND)).astype(np.int64) // 5 * 5, columns["low"]),
        upper_band=np.maximum((previous * (1 + BAND)).astype(np.int64) // 5 * 5, columns["high"]),
        tick=np.full(count, 5, dtype=np.int64),
        lot=np.ones(count, dtype=np.int64),
        freeze_quantity=np.full(count, 100_000, dtype=np.int64),
        has_derivatives=np.zeros(count, dtype=bool),
    )


def market(
    shares: Mapping[str, Ohlcv],
    found: Sequence[Session],
    predictions: Mapping[date, DaySignals] | None = None,
    interval: Interval = Interval.DAY_1,
    actions: Sequence[CorporateAction] = (),
) -> MarketHistory:
    """A whole history of a few shares, all of them members throughout."""
    return MarketHistory(
        interval=interval,
        environment="simulated",
        provider="test",
        sessions=tuple(found),
        shares={symbol: share(symbol, bars, found, interval) for symbol, bars in shares.items()},
        actions=tuple(actions),
        members={found[0].day: frozenset(shares)},
        half_spread_bp=1.25,
        session_days=session_days(found),
        predictions=predictions or {},
    )


def signal(
    symbol: str,
    reference: Decimal,
    *,
    action: SignalAction = SignalAction.BUY,
    target: float = 1.06,
    stop: float = 0.94,
    horizon: int = 10,
    lower: float = 0.02,
    strategy: str = "planted",
    cluster: str | None = None,
) -> Signal:
    """A signal that every mode takes at its reference price, which is rupees per share."""
    tick = Decimal("0.05")
    return Signal(
        symbol=symbol,
        action=action,
        strategy=strategy,
        model_version="test",
        horizon_sessions=horizon,
        touch={0.0: 0.99, 0.01: 0.97, 0.015: 0.96, 0.02: 0.95, 0.035: 0.9},
        expected_return_net=0.04,
        expected_return_net_lower=lower,
        reference_close=reference,
        target=(reference * Decimal(str(target))) // tick * tick,
        stop=(reference * Decimal(str(stop))) // tick * tick,
        certified_modes=frozenset(Mode),
        cluster=cluster,
        valid_until=VALID_FOREVER,
    )


def previous_closes(history: ShareHistory) -> list[Decimal]:
    """The close before each session of a share with daily bars, in rupees."""
    return [Decimal(int(p)) / 100 for p in history.previous_close]


def random_predictions(
    rng: np.random.Generator, shares: Mapping[str, ShareHistory], found: Sequence[Session], rate: float = 0.1
) -> dict[date, DaySignals]:
    """Buys at random of a rate per share and session, and sells of a third of that rate; references are the closes
    before, horizons and distances vary."""
    said: dict[date, DaySignals] = {}
    for number, session in enumerate(found):
        signals: dict[str, Signal] = {}
        for symbol, columns in shares.items():
            day = np.flatnonzero(columns.start >= int(session.windows_non_cas[0].start.timestamp()))
            if not len(day):
                continue
            reference = Decimal(int(columns.previous_close[day[0]])) / 100
            draw = rng.random()
            action = SignalAction.BUY if draw < rate else SignalAction.SELL if draw < rate * 4 / 3 else None
            if action is not None and number:
                distance = rng.uniform(0.01, 0.06)
                signals[symbol] = signal(
                    symbol,
                    reference,
                    action=action,
                    target=1 + distance,
                    stop=1 - distance,
                    horizon=int(rng.integers(1, 8)),
                    lower=float(rng.uniform(0.001, 0.03)),
                    cluster=str(rng.integers(0, 3)) if rng.random() < 0.3 else None,
                )
        said[session.day] = DaySignals(signals)
    return said
