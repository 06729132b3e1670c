"""Train the opening-range strategy on five-minute bars: walk forward by days, calibrate, judge, fit, register.

The machinery is that of the daily strategies, with a trading day for a session and a horizon of one.
"""

import asyncio
import platform
from datetime import date, datetime, time, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ml_service.client import IST, DataServiceError, Source
from ml_service.intraday.bars import BARS_5M, MinuteClient
from ml_service.intraday.features import FEATURES, LOGIC_VERSION, STRATEGY, compute_candidates, features_hash
from ml_service.intraday.labels import BRACKET, COST_FRACTION, make_labels
from ml_service.judge import judge, nothing_proven
from ml_service.lifecycle import TRAINING, promote
from ml_service.model import PENALTY_PER_ROW, LinearModel, fit_linear
from ml_service.pointers import INTRADAY
from ml_service.registry import Artefact, Registry
from ml_service.strategies.base import Strategy
from ml_service.train import TRAIN_CALL_TIMEOUT_S, Trained, data_hash, git_commit, no_progress, rounded_record
from ml_service.walkforward import (
    Dataset,
    Progress,
    TrainingError,
    calibrate_rows,
    fit_rows,
    fold_starts,
    like_today,
    walk_forward,
)

UNIVERSE_SYMBOLS_MAX = 100
UNIVERSE_DAYS = 90
TRAIN_DAYS_DEFAULT = 1_100
DAYS_PER_CALL = 30
"""Days of one question: a month of a hundred shares is some 150,000 bars."""
TRIALS = 1
"""How many sets of rules, features and brackets were looked at before this one was kept, itself included."""


def _fit(x: np.ndarray, scaled_return: np.ndarray, events: dict[str, np.ndarray]) -> LinearModel:
    return fit_linear(x, scaled_return, events, FEATURES, columns=FEATURES)


OPENING_RANGE = Strategy(name=STRATEGY, reason="close_above_opening_range", when=None, fit=_fit)


def make_dataset(bars: pl.DataFrame) -> Dataset:
    """Features and labels of every breakout in `bars` (BARS_5M), as arrays; the session number is the trading day's."""
    rows = compute_candidates(bars)
    session = rows["session"]
    return Dataset(
        x=rows.select(FEATURES).to_numpy(),
        atr_fraction=rows["atr_fraction"].to_numpy(),
        session=rows["number"].to_numpy(),
        month=(session.dt.year().cast(pl.Int64) * 12 + session.dt.month()).to_numpy(),
        symbol=rows["symbol"].to_numpy(),
        labels=make_labels(bars, rows),
        votes={STRATEGY: np.ones(rows.height, dtype=bool)},
    )


def most_traded(daily: pl.DataFrame, symbols_max: int) -> list[str]:
    """The `symbols_max` of the largest turnover among `daily` bars, in alphabetical order."""
    turnover = daily.group_by("symbol").agg((pl.col("close") * pl.col("volume")).sum().alias("turnover"))
    return sorted(turnover.sort("turnover", "symbol", descending=[True, False]).head(symbols_max)["symbol"])


def train(bars: pl.DataFrame, progress: Progress = no_progress) -> Trained:
    """Train on `bars` (BARS_5M, adjusted); their symbols are the model's universe. Deterministic. The manifest lacks
    only where the bars came from.

    Raises TrainingError where they cannot carry the strategy: too few sessions, or too few breakouts.
    """
    if bars.is_empty():
        raise TrainingError("there are no bars to learn from")
    data = make_dataset(bars)
    if not data.labels.known.any():
        raise TrainingError("no opening-range breakout was found")
    try:
        answers = walk_forward(data, OPENING_RANGE, fold_starts(data), progress)
        like = like_today(data, answers.scored, int(data.session.max()))
        calibration = calibrate_rows(data, answers.scored[like], {n: s[like] for n, s in answers.scores.items()})
        model = fit_rows(data, np.flatnonzero(data.labels.known), OPENING_RANGE.fit)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    sessions = bars["session"].unique().sort()
    by_start = bars.with_columns(pl.col("session").cast(pl.Datetime("us")) + pl.duration(minutes="minute"))
    manifest = {
        "strategy": STRATEGY,
        "plan": INTRADAY,
        "logic_version": LOGIC_VERSION,
        "horizon_sessions": 1,
        "features": list(FEATURES),
        "features_hash": features_hash(),
        "data_hash": data_hash(by_start),
        "universe": bars["symbol"].unique().sort().to_list(),
        "train_from": sessions[0].isoformat(),
        "trained_through": sessions[-1].isoformat(),
        "calibrated_through": sessions[int(data.session[answers.scored].max()) - 1].isoformat(),
        "sessions": len(sessions),
        "rows": int(data.labels.known.sum()),
        "cost_fraction": COST_FRACTION,
        "bracket": BRACKET,
        "hyperparameters": {"rule_penalty_per_row": PENALTY_PER_ROW},
        "trials": TRIALS,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("numpy", "polars", "scikit-learn", "scipy")},
        "strategies": {STRATEGY: judge(data, answers, horizon=1)},
    }
    return Trained({STRATEGY: model}, {STRATEGY: calibration}, rounded_record(manifest))


def judged(bars: pl.DataFrame, progress: Progress = no_progress) -> dict[str, Any]:
    """The record of training on `bars`, which says so where they prove nothing; nothing is registered."""
    try:
        return train(bars, progress).manifest
    except TrainingError as error:
        return {"strategy": STRATEGY, "strategies": {STRATEGY: nothing_proven(str(error))}}


async def _universe(client: MinuteClient, from_: date, as_of: datetime) -> list[str]:
    """The shares to learn from: those with the most turnover in the first 90 days from `from_`, which no judged day is
    among; later ones must not choose them."""
    listed = [instrument.symbol for instrument in (await client.instruments(as_of)).instruments]
    if len(listed) <= UNIVERSE_SYMBOLS_MAX:
        return listed
    _, daily = await client.bars(listed, from_, from_ + timedelta(days=UNIVERSE_DAYS), as_of)
    return most_traded(daily, UNIVERSE_SYMBOLS_MAX)


async def _fetch(
    client: MinuteClient, symbols: list[str] | None, from_: date, through: date, progress: Progress
) -> tuple[Source, pl.DataFrame]:
    as_of = datetime.combine(through, time(23, 59, 59), IST)
    symbols = symbols or await _universe(client, from_, as_of)
    if not symbols:
        raise TrainingError("data_service knows no shares that traded in these days")
    source, frames = None, [pl.DataFrame(schema=BARS_5M)]
    starts = [from_ + timedelta(days=n) for n in range(0, (through - from_).days + 1, DAYS_PER_CALL)]
    for number, start in enumerate(starts):
        progress(number, len(starts), "fetching bars")
        until = min(through, start + timedelta(days=DAYS_PER_CALL - 1))
        found = await client.minutes(symbols, start, until, as_of)
        if source is not None and found.source is not None and source.environment is not found.source.environment:
            raise DataServiceError("data_service changed its environment between two answers")
        source = found.source or source
        frames.append(found.bars)
    if source is None:
        raise TrainingError("data_service has no bars for these symbols and dates")
    return source, pl.concat(frames)


def train_and_register(
    *,
    data_service_url: str,
    registry: Registry,
    through: date | None = None,
    from_: date | None = None,
    symbols: list[str] | None = None,
    progress: Progress = no_progress,
) -> tuple[Artefact, str]:
    """Fetch adjusted five-minute bars, train, register, and make the model serve the intraday plan at once.

    There is no trial beside the current model: the scoreboard, of daily bars, cannot say how these plans ended, and
    without a certificate nothing is answered. `through` (inclusive) is by default the day before the market's present,
    `from_` 1,100 days earlier. Returns the artefact and what became of it. Runs its own event loop.

    Raises:
        TrainingError: the bars cannot carry a model.
        DataServiceError: data_service did not give them.
        ArtefactError: the signing key or the registry cannot be used.
    """

    async def fetch() -> tuple[Source, pl.DataFrame, datetime]:
        client = MinuteClient(data_service_url, TRAIN_CALL_TIMEOUT_S)
        async with client:
            now = (await client.clock()).now
            last = through or now.astimezone(IST).date() - timedelta(days=1)
            first = from_ or last - timedelta(days=TRAIN_DAYS_DEFAULT)
            return *await _fetch(client, symbols, first, last, progress), now

    source, bars, now = asyncio.run(fetch())
    trained = train(bars, progress)
    origin = {
        "environment": source.environment.value,
        "provider": source.provider,
        "git_commit": git_commit(Path(__file__).resolve().parents[2]),
    }
    artefact = registry.register(trained.models, trained.calibrations, trained.manifest | origin)
    change = promote(registry, artefact, at=now, by=TRAINING, reason="trained to serve at once")
    progress(1, 1, "done")
    return artefact, change if isinstance(change, str) else f"{change.event.value}: {change.reason}"
