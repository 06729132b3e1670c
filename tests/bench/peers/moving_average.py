"""The same moving-average rule in other libraries, run by their own environment: prints its timings as JSON.

Usage: python moving_average.py BARS.npz
"""

import json
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np

CASH, SIZE, FEES = 500_000.0, 0.075, 0.0012


def best(work: Callable[[], object], rounds: int = 3) -> float:
    """Seconds of the fastest of a few rounds."""
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def mean(prices: np.ndarray, length: int) -> np.ndarray:
    """Trailing means along the last axis; NaN before the first."""
    sums = np.cumsum(np.concatenate([np.zeros((len(prices), 1)), prices], axis=1), axis=1)
    out = np.full(prices.shape, np.nan)
    out[:, length - 1 :] = (sums[:, length:] - sums[:, :-length]) / length
    return out


def floor(close: np.ndarray, fast: int, slow: int) -> np.ndarray:
    """The least that any engine does: signals and held returns, without orders, cash or costs."""
    held = mean(close, fast) > mean(close, slow)
    returns = np.diff(close, axis=1) / close[:, :-1]
    return (held[:, :-1] * returns).sum(axis=1)


def backtesting_py(bars: dict[str, np.ndarray], fast: int, slow: int) -> float:
    import pandas as pd
    from backtesting import Backtest, Strategy
    from backtesting.lib import crossover

    class MovingAverages(Strategy):
        def init(self) -> None:
            self.fast = self.I(lambda x: pd.Series(x).rolling(fast).mean(), self.data.Close)
            self.slow = self.I(lambda x: pd.Series(x).rolling(slow).mean(), self.data.Close)

        def next(self) -> None:
            if crossover(self.fast, self.slow):
                self.buy(size=SIZE)
            elif crossover(self.slow, self.fast):
                self.position.close()

    index = pd.date_range("2019-01-01", periods=bars["close"].shape[1], freq="min")
    names = {"Open": "open", "High": "high", "Low": "low", "Close": "close", "Volume": "volume"}
    frames = [
        pd.DataFrame({name: bars[column][i] for name, column in names.items()}, index=index)
        for i in range(len(bars["close"]))
    ]

    def work() -> None:
        for frame in frames:
            Backtest(frame, MovingAverages, cash=CASH, commission=FEES, finalize_trades=True).run()

    return best(work, 2)


def vectorbt(bars: dict[str, np.ndarray], fast: int, slow: int) -> tuple[float, float]:
    """Seconds once compiled, and of the first run."""
    import pandas as pd
    import vectorbt as vbt

    close = pd.DataFrame(bars["close"].T)

    def work() -> None:
        quick, late = vbt.MA.run(close, fast), vbt.MA.run(close, slow)
        portfolio = vbt.Portfolio.from_signals(
            close, quick.ma_crossed_above(late), quick.ma_crossed_below(late), init_cash=CASH, size=SIZE, fees=FEES
        )
        portfolio.total_return()

    began = time.perf_counter()
    work()
    return best(work), time.perf_counter() - began


def main() -> None:
    warnings.filterwarnings("ignore")
    given = np.load(sys.argv[1])
    fast, slow = int(given["fast"]), int(given["slow"])
    bars = {name: given[name].astype(float) / 100 for name in ("open", "high", "low", "close")}
    bars["volume"] = given["volume"].astype(float)
    found = {
        "numpy": best(lambda: floor(bars["close"], fast, slow)),
        "backtesting.py": backtesting_py(bars, fast, slow),
    }
    found["vectorbt"], _ = vectorbt(bars, fast, slow)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
