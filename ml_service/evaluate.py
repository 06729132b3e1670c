"""Judge the model's logic on recorded exchange data, walked forward, without registering anything."""

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ml_service.calibrate import Forecast
from ml_service.train import TRIALS, judge, no_progress
from ml_service.walkforward import OutOfSample, Progress, TrainingError, make_dataset, walk_forward

EARLY_SESSIONS = 260


def read_daily(data: Path, factors: Path, through: date, symbols_max: int) -> pl.DataFrame:
    """Split-adjusted bars through `through` from an unadjusted daily file in paise and a file of split factors.

    `data` (Parquet): symbol, date, open_p, high_p, low_p, close_p, volume. `factors` (CSV): symbol, exDate, factor, by
    which prices before the date are multiplied. Symbols are those with the most turnover in the first 260 sessions,
    so that the choice does not know who did well later.
    """
    prices = ("open", "high", "low", "close")
    raw = pl.read_parquet(data).filter(pl.col("date") <= through, *(pl.col(f"{name}_p") > 0 for name in prices))
    sessions = raw["date"].unique().sort()
    early = raw.filter(pl.col("date") <= sessions[min(EARLY_SESSIONS, len(sessions)) - 1])
    turnover = early.group_by("symbol").agg((pl.col("close_p") * pl.col("volume")).sum().alias("turnover"))
    raw = raw.join(turnover.sort("turnover", "symbol", descending=[True, False]).head(symbols_max), on="symbol")
    splits = pl.read_csv(factors, try_parse_dates=True).filter(pl.col("exDate") <= through)
    later = (
        raw.select("symbol", "date")
        .join(splits.select("symbol", "exDate", "factor"), on="symbol")
        .filter(pl.col("exDate") > pl.col("date"))
        .group_by("symbol", "date")
        .agg(pl.col("factor").product())
    )
    raw = raw.join(later, on=["symbol", "date"], how="left").with_columns(pl.col("factor").fill_null(1.0))
    adjusted = [(pl.col(f"{name}_p") * pl.col("factor") / 100).alias(name) for name in prices]
    volume = (pl.col("volume") / pl.col("factor")).alias("volume")
    return raw.select("symbol", pl.col("date").alias("session"), *adjusted, volume).sort("symbol", "session")


def _select(answers: OutOfSample, keep: np.ndarray) -> OutOfSample:
    forecast = answers.forecast
    return replace(
        answers,
        rows=answers.rows[keep],
        raw={name: values[keep] for name, values in answers.raw.items()},
        base={name: values[keep] for name, values in answers.base.items()},
        forecast=Forecast(
            {name: values[keep] for name, values in forecast.events.items()},
            forecast.expected[keep],
            forecast.error[keep],
        ),
    )


def evaluate(bars: pl.DataFrame, from_: date, horizon: int, progress: Progress = no_progress) -> dict[str, Any]:
    """Out-of-sample record of signals from `from_` on; earlier bars only train. Raises TrainingError without any."""
    data = make_dataset(bars, horizon)
    answers = walk_forward(data, progress)
    sessions = bars["session"].unique().sort()
    first = int((sessions < from_).sum())
    kept = _select(answers, data.session[answers.rows] >= first)
    if not len(kept.rows):
        raise TrainingError("no out-of-sample prediction falls into these dates")
    return {"horizon_sessions": horizon, "symbols": bars["symbol"].n_unique(), "trials": TRIALS} | judge(
        data, kept, horizon
    )
