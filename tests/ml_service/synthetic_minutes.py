"""A small market of five-minute bars for tests: random walks, and busy days that `drift` makes run on."""

from datetime import date
from functools import cache

import numpy as np
import polars as pl
from synthetic_market import business_days

from ml_service.intraday.bars import BAR_MINUTES, BARS_5M
from ml_service.intraday.train import train
from ml_service.train import Trained

SLOTS = 75
STEP = 0.0022


def simulate_minutes(drift: float, *, symbols: int = 16, sessions: int = 460, seed: int = 5) -> pl.DataFrame:
    """BARS_5M of a market in which four days in ten trade three times the usual volume and, from 09:30 on, drift up by
    the fraction `drift` in all until the close; other days drift down by what takes the price back in the mean."""
    rng = np.random.default_rng([seed, 17])
    busy = rng.random((symbols, sessions)) < 0.4
    steps = STEP * rng.standard_normal((symbols, sessions, SLOTS))
    trend = np.zeros(SLOTS)
    trend[3:] = drift / (SLOTS - 3)
    # What four busy days gain, six quiet ones give back.
    path = steps + trend * np.where(busy, 1.0, -2 / 3)[..., None]
    close = 500 * np.exp(np.cumsum(path.reshape(symbols, -1), axis=1))
    open_ = np.concatenate([np.full((symbols, 1), 500.0), close[:, :-1]], axis=1)
    wick = 1 + np.abs(0.0003 * rng.standard_normal((2, *close.shape)))
    volume = 1e4 * np.where(busy, 3.0, 1.0)[..., None] * np.exp(0.3 * rng.standard_normal((symbols, sessions, SLOTS)))
    days = business_days(date(2021, 1, 4), sessions)
    rows = sessions * SLOTS
    return pl.DataFrame(
        {
            "symbol": np.repeat([f"MIN{i:02d}" for i in range(symbols)], rows),
            "session": np.tile(np.repeat(np.array(days, dtype="datetime64[D]"), SLOTS), symbols),
            "minute": np.tile(np.arange(SLOTS) * BAR_MINUTES, symbols * sessions),
            "open": open_.ravel().round(2),
            "high": (np.maximum(open_, close) * wick[0]).ravel().round(2),
            "low": (np.minimum(open_, close) / wick[1]).ravel().round(2),
            "close": close.ravel().round(2),
            "volume": np.rint(volume).ravel(),
        },
        schema=BARS_5M,
    )


KEPT_SESSIONS = 20


@cache
def planted() -> pl.DataFrame:
    """A market with the planted edge."""
    return simulate_minutes(0.035)


@cache
def planted_model() -> Trained:
    """Trained on the planted market less its last KEPT_SESSIONS sessions."""
    bars = planted()
    return train(bars.filter(pl.col("session") < bars["session"].unique().sort()[-KEPT_SESSIONS]))
