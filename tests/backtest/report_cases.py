"""Series, trades and small markets for tests of the report: all from arithmetic, the same on every machine."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
from market_columns import bars_of, market, random_predictions, sessions, walk

from backend.backtest.engine import run
from backend.backtest.history import MarketHistory
from backend.backtest.result import BacktestResult, Curve, TradeRecord
from backend.backtest.spec import Spec, Trader
from backend.domain.calendar import IST
from backend.domain.corporate_actions import CorporateAction
from backend.domain.decide import ExitReason, TradeStatus
from backend.domain.market import Product
from backend.domain.modes import Mode

D = Decimal
FIRST = date(2023, 1, 2)


def uniforms(seed: int, count: int) -> np.ndarray:
    """A linear congruential generator's numbers in 0..1: no library's stream, so that frozen figures stay true."""
    found, state = [], seed
    for _ in range(count):
        state = (1103515245 * state + 12345) % 2**31
        found.append(state / 2**31)
    return np.array(found)


def wave(seed: int, count: int, drift: float, scale: float) -> np.ndarray:
    """Bell-shaped returns around `drift`."""
    return drift + scale * (uniforms(seed, 4 * count).reshape(count, 4).sum(axis=1) - 2)


def autoregressive(phi: float, seed: int, count: int) -> np.ndarray:
    """Returns of which each keeps `phi` of the one before."""
    shocks, found = wave(seed, count, 0, 0.01), np.zeros(count)
    for place in range(1, count):
        found[place] = phi * found[place - 1] + shocks[place]
    return found


def curve(equity: Sequence[float], first: date = FIRST) -> Curve:
    """An account seen at the start of the first day and at 15:30 of each day from it on."""
    opened = datetime.combine(first, time(9, 15), IST)
    ends = [opened + timedelta(days=place, hours=6, minutes=15) for place in range(len(equity) - 1)]
    values = np.array(equity, dtype=np.float64)
    at = np.array([int(moment.timestamp()) for moment in [opened, *ends]], dtype=np.int64)
    return Curve(at, values, np.zeros(len(values)), values)


def trade(number: int = 1, *, day: int = 0, held: int = 2, pnl: float = 100.0, **more: Any) -> TradeRecord:
    """A closed trade of 100 shares bought at 100 rupees, `held` days after its entry."""
    opened = datetime.combine(FIRST + timedelta(days=day), time(9, 15), IST).astimezone(UTC)
    known: dict[str, Any] = {
        "number": number,
        "symbol": "ABC",
        "strategy": "planted",
        "model_version": None,
        "mode": "moderate",
        "product": Product.CNC,
        "status": TradeStatus.CLOSED,
        "decided_at": opened,
        "opened_at": opened,
        "closed_at": opened + timedelta(days=held),
        "entry_quantity": 100,
        "entry_price": D(100),
        "exit_quantity": 100,
        "exit_price": D(101),
        "target": D(105),
        "stop": D(95),
        "horizon_ends_on": FIRST + timedelta(days=day + 5),
        "confidence": 0.8,
        "expected_return_net": 0.02,
        "charges": D(25),
        "realized_pnl": D(str(pnl)),
        "unrealized_pnl": D(0),
        "dividends": D(0),
        "exit_reason": ExitReason.TARGET,
    }
    return TradeRecord(**(known | more))


def still_open(**more: Any) -> TradeRecord:
    """A trade whose shares are still held."""
    gone = {"status": TradeStatus.OPEN, "closed_at": None, "exit_quantity": 0, "exit_price": None, "exit_reason": None}
    return trade(**(gone | {"pnl": -12.5, "unrealized_pnl": D(300)} | more))


def priced(
    shares: Mapping[str, Sequence[tuple[float, float, float, float]]], actions: Sequence[CorporateAction] = ()
) -> MarketHistory:
    """A market of (open, high, low, close) rupees per session and share."""
    columns = {}
    for symbol, bars in shares.items():
        prices = [np.array(column) * 100 for column in zip(*bars, strict=True)]
        columns[symbol] = bars_of(*prices, np.full(len(bars), 5_000_000))
    return market(columns, sessions(FIRST, len(next(iter(shares.values())))), actions=actions)


def traded(
    count: int = 120, shares: int = 5, *, modes: Sequence[Mode] = (Mode.MODERATE,), seed: int = 1, rate: float = 0.1
) -> tuple[BacktestResult, MarketHistory]:
    """Random entries in random walks, traded by the engine itself, beside an index."""
    rng = np.random.default_rng(seed)
    found = sessions(FIRST, count)
    history = market({f"SH{place}": walk(rng, count, spread=0.012) for place in range(shares)}, found)
    levels = 1000 * np.cumprod(1 + rng.normal(0.0003, 0.01, count))
    index = [(FIRST - timedelta(days=3), 1000.0), *((s.day, float(v)) for s, v in zip(found, levels, strict=True))]
    history = replace(history, predictions=random_predictions(rng, history.shares, found, rate), benchmark=index)
    traders = tuple(Trader(mode.value, mode) for mode in modes)
    return run(Spec(found[0].day, found[-1].day, traders), history), history
