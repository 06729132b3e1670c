"""The backtest's engine against other libraries: one moving-average rule on a portfolio and on a year of minutes."""

import json
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np

from backend.backtest.engine import run
from backend.backtest.history import DaySignals, MarketHistory
from backend.backtest.report import build
from backend.backtest.spec import Spec, Trader
from backend.domain.modes import Mode
from backend.domain.protections import Protections
from backend.domain.ranking import SignalAction
from contracts.market import Interval
from tests.backtest.market_columns import market, sessions, signal, walk
from tests.bench.result import Result

PEERS = Path(".venv-bench/bin/python")
FAST, SLOW = 20, 50
PORTFOLIO_SHARES, PORTFOLIO_SESSIONS = 50, 1_900
"""Eight years: the recorded charges and holidays begin in 2019."""
MINUTE_SESSIONS, MINUTES = 250, 375
COLUMNS = ("open", "high", "low", "close", "volume")
UNPROTECTED = Protections(None, None, None, None)


def crossings(close: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bars at whose close the fast mean went above the slow one, and below it."""
    means = []
    for length in (FAST, SLOW):
        sums = np.cumsum(np.concatenate([[0.0], close]))
        trailing = np.full(len(close), np.nan)
        trailing[length - 1 :] = (sums[length:] - sums[:-length]) / length
        means.append(trailing)
    above = means[0] > means[1]
    known = ~np.isnan(means[1][:-1])
    up, down = np.zeros(len(close), bool), np.zeros(len(close), bool)
    up[1:] = above[1:] & ~above[:-1] & known
    down[1:] = ~above[1:] & above[:-1] & known
    return up, down


def _said(symbol: str, close: int, buys: bool) -> DaySignals:
    action = SignalAction.BUY if buys else SignalAction.SELL
    return DaySignals({symbol: signal(symbol, Decimal(close) / 100, action=action, target=10, stop=0.01, horizon=60)})


def portfolio(shares: int = PORTFOLIO_SHARES) -> MarketHistory:
    """Daily bars of many shares; a crossing is acted on at the next open."""
    stream = np.random.default_rng(1)
    found = sessions(date(2019, 1, 1), PORTFOLIO_SESSIONS)
    history = market({f"S{i:03d}": walk(stream, len(found)) for i in range(shares)}, found)
    said: dict[date, DaySignals] = {}
    for symbol, bars in history.shares.items():
        up, down = crossings(bars.close)
        for i in np.flatnonzero(up | down)[:-1]:
            day = found[i + 1].day if i + 1 < len(found) else None
            if day is not None:
                new = _said(symbol, int(bars.close[i]), bool(up[i]))
                said[day] = DaySignals({**said.get(day, DaySignals()).signals, **new.signals})
    return replace(history, predictions=said)


def minutes() -> MarketHistory:
    """A year of one share's minutes; a crossing is acted on as its bar ends, a fall below holds until the next rise."""
    found = sessions(date(2023, 1, 2), MINUTE_SESSIONS)
    bars = walk(np.random.default_rng(2), MINUTE_SESSIONS * (MINUTES + 1), spread=0.0008)
    history = market({"ABC": bars}, found, interval=Interval.MIN_1)
    share = history.shares["ABC"]
    up, down = crossings(share.close)
    opens = np.array([int(session.windows_non_cas[2].start.timestamp()) for session in found])
    timed: list[tuple[int, date, DaySignals]] = []
    falling = False
    for i in range(len(share) - 1):
        day = found[int(np.searchsorted(opens, share.start[i], side="right")) - 1].day
        if up[i]:
            falling = False
            timed.append((int(share.end[i]), day, _said("ABC", int(share.close[i]), buys=True)))
            timed.append((int(share.end[i]) + 1, day, DaySignals()))
        elif down[i] or (falling and share.start[i] in opens):
            falling = True
            timed.append((int(share.end[i]), day, _said("ABC", int(share.close[i]), buys=False)))
    return replace(history, timed=timed)


def spec_of(history: MarketHistory) -> Spec:
    trader = Trader("rule", Mode.MODERATE, protections=UNPROTECTED)
    return Spec(history.sessions[0].day, history.sessions[-1].day, (trader,), history.interval)


def ours(history: MarketHistory, rounds: int = 3) -> tuple[float, float, int]:
    """Seconds of the fastest run with its order path, charges and books; with the report besides; trades made."""
    alone, whole, trades = [], [], 0
    for _ in range(rounds):
        began = time.perf_counter()
        result = run(spec_of(history), history)
        alone.append(time.perf_counter() - began)
        build(result, history)
        whole.append(time.perf_counter() - began)
        trades = len(result.traders[0].trades)
    return min(alone), min(whole), trades


def peers(history: MarketHistory, folder: Path) -> dict[str, float]:
    """Seconds of each other library on the same bars, in their own environment; empty where there is none."""
    if not PEERS.exists():
        return {}
    bars = {name: np.array([getattr(share, name) for share in history.shares.values()]) for name in COLUMNS}
    file = folder / "bars.npz"
    np.savez(file, fast=FAST, slow=SLOW, **bars)
    script = Path(__file__).parent / "peers" / "moving_average.py"
    done = subprocess.run([PEERS, script, file], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _compared(name: str, history: MarketHistory, aim: str, folder: Path) -> list[Result]:
    bars = sum(len(share) for share in history.shares.values())
    alone, whole, trades = ours(history)
    found = [
        Result(
            f"backtest, {name}: {other} ({trades} trades of ours)", bars / alone, "bars/s", bars / seconds, other, want
        )
        for other, seconds in peers(history, folder).items()
        for want in [aim if other == "backtesting.py" else ""]
    ]
    report = Result(f"backtest, {name}: with its report", bars / whole, "bars/s", bars / alone, "without", "")
    return [*found, report]


def _one(shares: int) -> float:
    history = portfolio(shares)
    began = time.perf_counter()
    run(spec_of(history), history)
    return time.perf_counter() - began


def _scaling() -> list[Result]:
    """Seconds a share as shares become more, and runs a second as cores do."""
    few, many = _one(25), _one(100)
    found = [Result("backtest: seconds a share, 100 shares against 25", many / 100, "s", few / 25, "25 shares", "≤ 1")]
    began = time.perf_counter()
    for _ in range(4):
        _one(25)
    alone = time.perf_counter() - began
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(_one, [1, 1]))
        began = time.perf_counter()
        list(pool.map(_one, [25] * 4))
        both = time.perf_counter() - began
    return [*found, Result("backtest: four runs, two processes against one", both, "s", alone, "one process", "≤ .6")]


def _memory() -> Result:
    """Peak of a process that does nothing else, against the same process with the columns alone."""
    code = "from tests.bench import backtests as b; import sys; b.peak(sys.argv[1] == 'run')"
    peaks = [
        float(subprocess.run([sys.executable, "-c", code, what], capture_output=True, text=True, check=True).stdout)
        for what in ("run", "columns")
    ]
    return Result("backtest: peak memory of the portfolio's run", peaks[0], "MB", peaks[1], "its columns", "")


def peak(run_it: bool) -> None:
    """Print this process's peak in MB, with the portfolio's columns made and, if told so, traded."""
    history = portfolio()
    if run_it:
        run(spec_of(history), history)
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}\n")


def run_all() -> list[Result]:
    """All of it, one after the other."""
    with tempfile.TemporaryDirectory(prefix="sauda-bench-") as name:
        folder = Path(name)
        many = _compared(f"{PORTFOLIO_SHARES} shares, eight years", portfolio(), "≥ 10", folder)
        single = _compared("a year of minutes", minutes(), "≥ 1", folder)
    return [*many, *single, *_scaling(), _memory()]
