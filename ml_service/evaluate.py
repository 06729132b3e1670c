"""Judge the model's logic on recorded exchange data, walked forward, without registering anything."""

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ml_service.calibrate import Forecast
from ml_service.checkpoint import Checkpoint, no_checkpoint
from ml_service.compare import baselines, filters
from ml_service.judge import judge, nothing_proven
from ml_service.model import LOGIC_VERSION, STRATEGY
from ml_service.strategies import STRATEGIES
from ml_service.train import TRIALS, UNIVERSE_SYMBOLS_MAX, members_only, no_progress, rounded_record
from ml_service.walkforward import (
    OutOfSample,
    Progress,
    TrainingError,
    fold_starts,
    make_dataset,
    walk_forward,
)

PRICES = ("open", "high", "low", "close")


def read_daily(data: Path, factors: Path, through: date, history: Path | None = None) -> pl.DataFrame:
    """Split-adjusted bars through `through` from an unadjusted daily file in paise and a file of split factors.

    `data` (Parquet): symbol, date, open_p, high_p, low_p, close_p, volume. `factors` (CSV): symbol, exDate, factor, by
    which prices before the date are multiplied. `history` (Parquet: symbol, date, open … close in rupees after
    splits, volume) holds earlier years to train on; only days before `data` begins are read from it. Every symbol is
    kept: membership is decided session by session. Raises TrainingError where a file is not of its layout.
    """
    try:
        raw = pl.read_parquet(data).filter(pl.col("date") <= through, *(pl.col(f"{name}_p") > 0 for name in PRICES))
        splits = pl.read_csv(factors, schema_overrides={"exDate": pl.Date, "factor": pl.Float64}).filter(
            pl.col("exDate") <= through
        )
        later = (
            raw.select("symbol", "date")
            .join(splits.select("symbol", "exDate", "factor"), on="symbol")
            .filter(pl.col("exDate") > pl.col("date"))
            .group_by("symbol", "date")
            .agg(pl.col("factor").product())
        )
        raw = raw.join(later, on=["symbol", "date"], how="left").with_columns(pl.col("factor").fill_null(1.0))
        adjusted = {name: pl.col(f"{name}_p") * pl.col("factor") / 100 for name in PRICES}
        bars = raw.select("symbol", session="date", **adjusted, volume=pl.col("volume") / pl.col("factor"))
        if bars.is_empty():
            raise TrainingError(f"{data.name} holds no bar through {through}")
        if history is not None:
            bars = pl.concat([_before(history, bars), bars])
    except pl.exceptions.PolarsError as error:
        raise TrainingError(f"a file is not of the layout that is read: {error}") from error
    return bars.sort("symbol", "session")


def _before(history: Path, bars: pl.DataFrame) -> pl.DataFrame:
    """Bars of `history` from before `bars` begin, each symbol brought to the scale of its first bar there.

    Flat bars without volume are no sessions; a symbol that `bars` do not continue at once is kept on its own scale.
    """
    begins: date = bars["session"].min()  # pyright: ignore[reportAssignmentType]
    old = pl.read_parquet(history).filter(
        pl.col("date") < begins, pl.col("volume") > 0, *(pl.col(name) > 0 for name in PRICES)
    )
    last = old.sort("date").group_by("symbol").agg(pl.col("close").last().alias("last"))
    first = bars.filter(pl.col("session") == begins).select("symbol", pl.col("open").alias("first"))
    scaled = old.join(last.join(first, on="symbol", how="left"), on="symbol").with_columns(
        (pl.col("first") / pl.col("last")).fill_null(1.0).alias("scale")
    )
    prices = {name: pl.col(name).cast(pl.Float64) * pl.col("scale") for name in PRICES}
    return scaled.select("symbol", session="date", **prices, volume=pl.col("volume").cast(pl.Float64) / pl.col("scale"))


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


def evaluate(
    bars: pl.DataFrame,
    from_: date,
    horizon: int,
    progress: Progress = no_progress,
    checkpoint: Checkpoint = no_checkpoint,
) -> dict[str, Any]:
    """Out-of-sample record of signals from `from_` on; earlier bars only train. Raises TrainingError without any.

    `metrics` and `modes` are those of the machine-learned strategy, `strategies` holds every one's; `filters` are what
    one might have traded on, `baselines` what they must be held against.
    """
    frame, _ = members_only(bars, UNIVERSE_SYMBOLS_MAX)
    data = make_dataset(frame, horizon)
    starts, first = fold_starts(data), int((frame["session"].unique() < from_).sum())
    records: dict[str, dict[str, Any]] = {}
    comparison: dict[str, Any] = {}
    for strategy in STRATEGIES:
        own = data.proposed_by(strategy)
        try:
            answers = walk_forward(own, strategy, starts, progress, checkpoint)
            kept = _select(answers, own.session[answers.rows] >= first)
            if not len(kept.rows):
                raise TrainingError("no out-of-sample prediction falls into these dates")
        except TrainingError as error:
            if strategy.name == STRATEGY:
                raise
            records[strategy.name] = nothing_proven(str(error))
            continue
        records[strategy.name] = judge(own, kept, horizon)
        if strategy.name == STRATEGY:
            comparison = {
                "filters": filters(own, kept, horizon, TRIALS),
                "baselines": baselines(own, kept, frame.filter(pl.col("session") >= from_), horizon, TRIALS),
            }
    head = {
        "strategy": STRATEGY,
        "logic_version": LOGIC_VERSION,
        "horizon_sessions": horizon,
        "symbols": len(np.unique(data.symbol)),
        "from": from_.isoformat(),
        "trials": TRIALS,
    }
    return rounded_record(head | records[STRATEGY] | {"strategies": records} | comparison)
