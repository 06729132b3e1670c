"""A small simulated market for tests: common factor + random walk + a deviation that `edge` makes revert."""

from datetime import date

import numpy as np
import polars as pl

from ml_service.features import BAR_SCHEMA

STEPS = 24


def business_days(first: date, sessions: int) -> list[date]:
    days = pl.date_range(first, pl.lit(first) + pl.duration(days=sessions * 2 + 10), eager=True)
    return days.filter(days.dt.weekday() <= 5)[:sessions].to_list()


def simulate(edge: float, *, symbols: int = 40, sessions: int = 1240, seed: int = 1) -> pl.DataFrame:
    """Daily bars of a market with `edge` × 15 % reversion per session of a deviation of 1.4 % shocks."""
    rng = np.random.default_rng([seed, 99])
    steps = sessions * STEPS
    scale = STEPS**-0.5
    market = np.cumsum(0.005 * scale * rng.standard_normal(steps))
    walk = np.cumsum(0.0065 * scale * rng.standard_normal((steps, symbols)), axis=0)
    shocks, keep = 0.014 * scale * rng.standard_normal((steps, symbols)), np.exp(-0.15 * edge / STEPS)
    deviation, level = np.empty((steps, symbols)), np.zeros(symbols)
    for step in range(steps):
        level = keep * level + shocks[step]
        deviation[step] = level
    price = 500 * np.exp(market[:, None] + walk + deviation)
    days = business_days(date(2019, 1, 1), sessions)
    frames = []
    for column in range(symbols):
        path = price[:, column].reshape(sessions, STEPS)
        opening = np.concatenate([[500.0], path[:-1, -1]])
        frames.append(
            pl.DataFrame(
                {
                    "symbol": [f"SIM{column:02d}"] * sessions,
                    "session": days,
                    "open": opening.round(2),
                    "high": np.maximum(path.max(axis=1), opening).round(2),
                    "low": np.minimum(path.min(axis=1), opening).round(2),
                    "close": path[:, -1].round(2),
                    "volume": np.rint(1e6 * np.exp(rng.normal(0, 0.3, sessions))),
                },
                schema=BAR_SCHEMA,
            )
        )
    return pl.concat(frames)
