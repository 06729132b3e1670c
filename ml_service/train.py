"""Train a model from data_service's bars: walk forward, calibrate, judge, fit the final model, register it."""

import asyncio
import hashlib
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from contracts.predictions import HORIZON_SESSIONS_DEFAULT
from ml_service.calibrate import Calibration
from ml_service.client import IST, DataServiceClient, Source
from ml_service.evidence import MODES, event_metrics, judge_mode, judge_rule, rank_ic
from ml_service.features import FEATURES, HISTORY_SESSIONS_MIN, features_hash
from ml_service.labels import BRACKET, COST_FRACTION, EVENTS
from ml_service.model import HYPERPARAMETERS, LOGIC_VERSION, RETURN_HEAD, STRATEGY, LinearModel
from ml_service.registry import Artefact, Registry
from ml_service.walkforward import (
    Dataset,
    OutOfSample,
    Progress,
    TrainingError,
    calibrate_rows,
    fit_rows,
    make_dataset,
    walk_forward,
)

UNIVERSE_SYMBOLS_MAX = 200
TURNOVER_SESSIONS = 250
TRAIN_FROM_DEFAULT = date(2010, 1, 1)
TRAIN_CALL_TIMEOUT_S = 120.0
TRIALS = 2
"""How many sets of features and hyper-parameters were looked at before this one was kept, itself included."""


def no_progress(_done: int, _total: int, _what: str) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Trained:
    """What training made, before it is registered."""

    model: LinearModel
    calibration: Calibration
    manifest: dict[str, Any]


def data_hash(bars: pl.DataFrame) -> str:
    """SHA-256 over the bars' values in symbol and session order."""
    digest = hashlib.sha256()
    for column in bars.sort("symbol", "session").iter_columns():
        text = column.dtype == pl.String
        digest.update("\n".join(column).encode() if text else column.to_physical().to_numpy().tobytes())
    return digest.hexdigest()


def select_universe(bars: pl.DataFrame, symbols_max: int) -> list[str]:
    """Symbols with enough history, by median turnover of the last sessions of `bars`, the largest `symbols_max`.

    Known as of the training's end; what was delisted before is not in it, so absolute returns are optimistic.
    """
    last = bars["session"].unique().sort().tail(TURNOVER_SESSIONS)
    recent = bars.filter(pl.col("session") >= last[0])
    turnover = recent.group_by("symbol").agg((pl.col("close") * pl.col("volume")).median().alias("turnover"))
    history = bars.group_by("symbol").agg(pl.len().alias("sessions"), pl.col("session").max().alias("last"))
    enough = history.filter(pl.col("sessions") >= HISTORY_SESSIONS_MIN, pl.col("last") >= last[-min(5, len(last))])
    ranked = enough.join(turnover, on="symbol").sort("turnover", "symbol", descending=[True, False])
    return sorted(ranked["symbol"].head(symbols_max))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return value


def judge(data: Dataset, answers: OutOfSample, horizon: int) -> dict[str, Any]:
    """Metrics per event, per mode and per rule over the calibrated out-of-sample rows."""
    rows = answers.rows
    hits, net, session = data.events(rows), data.labels.net[rows], data.session[rows]
    atr = data.atr_fraction[rows]
    metrics = {
        name: event_metrics(answers.raw[name], answers.forecast.events[name], hits[name], answers.base[name])
        for name in EVENTS
    }
    return _rounded(
        {
            "metrics": {
                "rows": len(rows),
                "sessions": len(np.unique(session)),
                "net_mean": float(net.mean()),
                "rank_ic": rank_ic(answers.raw[RETURN_HEAD] / atr, data.scaled_return[rows], session),
                "events": metrics,
            },
            "modes": {m.name: judge_mode(m, answers.forecast, hits, net, session, horizon) for m in MODES},
            "rules": {name: judge_rule(vote[rows], net, session, horizon) for name, vote in data.votes.items()},
        }
    )


def train(bars: pl.DataFrame, horizon: int, progress: Progress = no_progress) -> Trained:
    """Train on `bars` (BAR_SCHEMA, adjusted, one row per symbol and session). Pure and deterministic.

    The manifest lacks only where the bars came from. Raises TrainingError where they cannot carry a model.
    """
    data = make_dataset(bars, horizon)
    answers = walk_forward(data, progress)
    calibration = calibrate_rows(data, answers.scored, answers.scores)
    model = fit_rows(data, np.flatnonzero(data.labels.known))
    sessions = bars["session"].unique().sort()
    manifest = {
        "strategy": STRATEGY,
        "logic_version": LOGIC_VERSION,
        "horizon_sessions": horizon,
        "features": list(FEATURES),
        "features_hash": features_hash(),
        "data_hash": data_hash(bars),
        "universe": bars["symbol"].unique().sort().to_list(),
        "train_from": sessions[0].isoformat(),
        "trained_through": sessions[-1].isoformat(),
        "calibrated_through": sessions[int(data.labels.end[answers.scored].max())].isoformat(),
        "sessions": len(sessions),
        "rows": int(data.labels.known.sum()),
        "cost_fraction": COST_FRACTION,
        "bracket": BRACKET,
        "hyperparameters": HYPERPARAMETERS,
        "trials": TRIALS,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("numpy", "polars", "scikit-learn", "scipy")},
        **judge(data, answers, horizon),
    }
    return Trained(model, calibration, manifest)


def git_commit(root: Path) -> str | None:
    """The checked-out commit of the repository at `root`, read from its files, or None where there is none."""
    try:
        head = (root / ".git" / "HEAD").read_text().strip()
        return (root / ".git" / head[5:]).read_text().strip() if head.startswith("ref: ") else head
    except OSError:
        return None


async def _fetch(
    client: DataServiceClient, symbols: list[str] | None, from_: date, through: date | None, progress: Progress
) -> tuple[Source, pl.DataFrame]:
    if through is None:
        through = (await client.clock()).now.astimezone(IST).date() - timedelta(days=1)
    as_of = datetime.combine(through, time(23, 59, 59), IST)
    if not symbols:
        symbols = [instrument.symbol for instrument in (await client.instruments(as_of)).instruments]
    source, frames = None, []
    for number, symbol_batch in enumerate(batches := [symbols[i : i + 10] for i in range(0, len(symbols), 10)]):
        progress(number, len(batches), "fetching bars")
        source, frame = await client.bars(symbol_batch, from_, through, as_of)
        frames.append(frame)
    if source is None or not any(frame.height for frame in frames):
        raise TrainingError("data_service has no bars for these symbols and dates")
    return source, pl.concat(frames)


def train_and_register(
    *,
    data_service_url: str,
    data_dir: Path,
    through: date | None = None,
    from_: date = TRAIN_FROM_DEFAULT,
    symbols: list[str] | None = None,
    horizon: int = HORIZON_SESSIONS_DEFAULT,
    promote: bool = True,
    progress: Callable[[int, int, str], None] = no_progress,
) -> Artefact:
    """Fetch adjusted daily bars, train, register under `data_dir`/models, and make the model current.

    `through` (inclusive) is by default the day before the market's present; nothing later is asked for. `symbols` are
    by default all instruments, of which the 200 with the most turnover are kept. Runs its own event loop: call it from
    a plain thread. Deterministic: the same bars and code give the same version. Raises TrainingError, DataServiceError.
    """

    async def fetch() -> tuple[Source, pl.DataFrame]:
        async with DataServiceClient(data_service_url, TRAIN_CALL_TIMEOUT_S) as client:
            return await _fetch(client, symbols, from_, through, progress)

    source, bars = asyncio.run(fetch())
    universe = select_universe(bars, UNIVERSE_SYMBOLS_MAX)
    if not universe:
        raise TrainingError(f"no symbol has {HISTORY_SESSIONS_MIN} sessions of history")
    trained = train(bars.filter(pl.col("symbol").is_in(universe)), horizon, progress)
    origin = {
        "environment": source.environment.value,
        "provider": source.provider,
        "git_commit": git_commit(Path(__file__).resolve().parents[1]),
    }
    registry = Registry(data_dir)
    artefact = registry.register(trained.model, trained.calibration, trained.manifest | origin)
    if promote:
        registry.promote(artefact)
    progress(1, 1, "done")
    return artefact
