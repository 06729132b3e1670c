"""Train the strategies on data_service's bars: walk forward, calibrate, judge, fit the final models, register them."""

import asyncio
import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl

from contracts.predictions import HORIZON_SESSIONS_DEFAULT
from ml_service import drift
from ml_service.calibrate import Calibration
from ml_service.checkpoint import Checkpoint, FolderCheckpoint, no_checkpoint
from ml_service.client import IST, DataServiceClient, History
from ml_service.features import FEATURES, HISTORY_SESSIONS_MIN, features_hash, with_members
from ml_service.judge import judge, nothing_proven
from ml_service.labels import BRACKET, COST_FRACTION
from ml_service.lifecycle import TRAINING, admit, promote
from ml_service.model import HYPERPARAMETERS, LOGIC_VERSION, STRATEGY, Model
from ml_service.predict import Ages
from ml_service.registry import Artefact, Registry
from ml_service.strategies import STRATEGIES
from ml_service.strategies.base import Strategy
from ml_service.walkforward import (
    FOLDS,
    Dataset,
    Progress,
    TrainingError,
    calibrate_rows,
    fit_rows,
    fold_starts,
    like_today,
    make_dataset,
    walk_forward,
)

UNIVERSE_SYMBOLS_MAX = 200
TRAIN_FROM_DEFAULT = date(2000, 1, 1)
TRAIN_CALL_TIMEOUT_S = 120.0
TRIALS = 40
"""How many sets of features, models, horizons and calibrations were looked at on the development data before this one
was kept, itself included. It deflates what a backtest may claim."""


def no_progress(_done: int, _total: int, _what: str) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Trained:
    """What training made, before it is registered: one model and one calibration per strategy that could be judged."""

    models: dict[str, Model]
    calibrations: dict[str, Calibration]
    manifest: dict[str, Any]


def data_hash(bars: pl.DataFrame) -> str:
    """SHA-256 over the bars' values in symbol and session order."""
    digest = hashlib.sha256()
    for column in bars.sort("symbol", "session").iter_columns():
        text = column.dtype == pl.String
        digest.update("\n".join(column).encode() if text else column.to_physical().to_numpy().tobytes())
    return digest.hexdigest()


def members_only(bars: pl.DataFrame, symbols_max: int) -> tuple[pl.DataFrame, list[str]]:
    """Bars, with `member`, of every symbol that was ever among the `symbols_max` of the most turnover, and the symbols
    that are so at the end: the model's universe.

    Membership is known at each session, so that shares delisted later are learned from as long as they traded.
    """
    frame = with_members(bars, symbols_max)
    ever = frame.filter(pl.col("member")).select("symbol").unique()
    last = frame["session"].unique().sort().tail(5)
    if last.is_empty():
        return frame, []
    present = frame.filter(pl.col("session") >= last[0]).group_by("symbol").agg(pl.col("member").last())
    length = frame.group_by("symbol").len().filter(pl.col("len") >= HISTORY_SESSIONS_MIN)
    universe = present.filter(pl.col("member")).join(length, on="symbol", how="semi")["symbol"]
    return frame.join(ever, on="symbol", how="semi"), sorted(universe)


def rounded_record(value: Any) -> Any:
    """Eight significant digits throughout, so that the last bits of a sum are not part of a version."""
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {key: rounded_record(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded_record(inner) for inner in value]
    return value


def _train_strategy(
    data: Dataset,
    strategy: Strategy,
    starts: list[int],
    horizon: int,
    progress: Progress,
    checkpoint: Checkpoint,
) -> tuple[Model, Calibration, dict[str, Any], int]:
    """The final model, its calibration, its record, and the session its last calibrating outcome ended in."""
    own = data.proposed_by(strategy)
    answers = walk_forward(own, strategy, starts, progress, checkpoint)
    like = like_today(own, answers.scored, int(own.session.max()))
    calibration = calibrate_rows(own, answers.scored[like], {name: s[like] for name, s in answers.scores.items()})
    model = fit_rows(own, np.flatnonzero(own.labels.known), strategy.fit)
    return model, calibration, judge(own, answers, horizon), int(own.labels.end[answers.scored].max())


def train(
    bars: pl.DataFrame,
    horizon: int,
    progress: Progress = no_progress,
    checkpoint: Checkpoint = no_checkpoint,
    unadjusted: Mapping[str, Sequence[date]] = MappingProxyType({}),
) -> Trained:
    """Train every strategy on `bars` (BAR_SCHEMA, adjusted, one row per symbol and session). Deterministic.

    `unadjusted`: see `make_dataset`. A rule that proposed too little to be judged is left out, with a record that says
    so. The manifest lacks only where the bars came from. Raises TrainingError where they cannot carry the
    machine-learned strategy.
    """
    frame, universe = members_only(bars, UNIVERSE_SYMBOLS_MAX)
    if not universe:
        raise TrainingError(f"no symbol has {HISTORY_SESSIONS_MIN} sessions of history")
    data = make_dataset(frame, horizon, unadjusted)
    starts = fold_starts(data)
    models: dict[str, Model] = {}
    calibrations: dict[str, Calibration] = {}
    records: dict[str, dict[str, Any]] = {}
    calibrated_through = 0
    for strategy in STRATEGIES:
        try:
            model, calibration, record, through = _train_strategy(data, strategy, starts, horizon, progress, checkpoint)
        except (TrainingError, ValueError) as error:
            if strategy.name == STRATEGY:
                raise TrainingError(str(error)) from error
            records[strategy.name] = nothing_proven(str(error))
            continue
        models[strategy.name], calibrations[strategy.name], records[strategy.name] = model, calibration, record
        if strategy.name == STRATEGY:
            calibrated_through = through
    sessions = frame["session"].unique().sort()
    known = data.labels.known
    manifest = {
        "strategy": STRATEGY,
        "logic_version": LOGIC_VERSION,
        "horizon_sessions": horizon,
        "plan": str(horizon),
        "features": list(FEATURES),
        "features_hash": features_hash(),
        "feature_drift": drift.baseline(data.x[known], data.session[known], FEATURES),
        "data_hash": data_hash(bars),
        "universe": universe,
        "train_from": sessions[0].isoformat(),
        "trained_through": sessions[-1].isoformat(),
        "calibrated_through": sessions[calibrated_through].isoformat(),
        "sessions": len(sessions),
        "rows": int(known.sum()),
        "cost_fraction": COST_FRACTION,
        "bracket": BRACKET,
        "hyperparameters": HYPERPARAMETERS,
        "trials": TRIALS,
        "versions": _versions(),
        "strategies": records,
    }
    return Trained(models, calibrations, rounded_record(manifest))


def _versions() -> dict[str, str]:
    libraries = ("numpy", "polars", "scikit-learn", "scipy", "xgboost-cpu")
    return {"python": platform.python_version()} | {name: version(name) for name in libraries}


def run_key(bars: pl.DataFrame, horizon: int, unadjusted: Mapping[str, Sequence[date]] = MappingProxyType({})) -> str:
    """What tells one walk-forward from every other: the bars and actions, the features, labels and strategies, the
    folds, the libraries and the horizon."""
    parts = [
        data_hash(bars),
        sorted(unadjusted.items()),
        features_hash(),
        LOGIC_VERSION,
        HYPERPARAMETERS,
        BRACKET,
        COST_FRACTION,
        [(one.name, str(one.when)) for one in STRATEGIES],
        FOLDS,
        _versions(),
        horizon,
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def git_commit(root: Path) -> str | None:
    """The checked-out commit of the repository at `root`, read from its files, or None where there is none."""
    try:
        head = (root / ".git" / "HEAD").read_text().strip()
        return (root / ".git" / head[5:]).read_text().strip() if head.startswith("ref: ") else head
    except OSError:
        return None


def _yesterday(now: datetime) -> date:
    return now.astimezone(IST).date() - timedelta(days=1)


async def fetch_bars(
    client: DataServiceClient,
    symbols: list[str] | None,
    from_: date,
    through: date,
    progress: Progress,
    *,
    as_of: datetime | None = None,
    adjusted: bool = True,
) -> History:
    """Daily bars of `symbols`, by default of all instruments, as of an instant, by default the end of the last day; in
    small calls. Raises TrainingError without."""
    as_of = as_of or datetime.combine(through, time(23, 59, 59), IST)
    if not symbols:
        symbols = [instrument.symbol for instrument in (await client.instruments(as_of)).instruments]
    parts: list[History] = []
    for number, symbol_batch in enumerate(batches := [symbols[i : i + 10] for i in range(0, len(symbols), 10)]):
        progress(number, len(batches), "fetching bars")
        parts.append(await client.history(symbol_batch, from_, through, as_of, adjusted=adjusted))
    if not any(part.bars.height for part in parts):
        raise TrainingError("data_service has no bars for these symbols and dates")
    unadjusted = {symbol: actions for part in parts for symbol, actions in part.unadjusted.items()}
    return History(parts[-1].source, pl.concat([part.bars for part in parts]), unadjusted)


def train_and_register(
    *,
    data_service_url: str,
    registry: Registry,
    ages: Ages | None = None,
    through: date | None = None,
    from_: date = TRAIN_FROM_DEFAULT,
    symbols: list[str] | None = None,
    horizon: int = HORIZON_SESSIONS_DEFAULT,
    progress: Callable[[int, int, str], None] = no_progress,
    keep_folds: bool = False,
) -> tuple[Artefact, str]:
    """Fetch adjusted daily bars, train, register, and make the model serve: at once, or, where `ages` are given, when
    the rules of `lifecycle` say so.

    `through` (inclusive) is by default the day before the market's present; nothing later is asked for. `symbols` are
    by default all instruments; of them, those with the most turnover at each session are learned from. Returns the
    artefact and what became of it. Runs its own event loop: call it from a plain thread. Deterministic: the same bars
    and code give the same version. A training that was stopped continues from its last finished fold; with `keep_folds`
    so does the next one on the same bars.

    Raises:
        TrainingError: the bars cannot carry a model.
        DataServiceError: data_service did not give them.
        ArtefactError: the signing key or the registry cannot be used.
    """

    async def fetch() -> tuple[History, datetime]:
        async with DataServiceClient(data_service_url, TRAIN_CALL_TIMEOUT_S) as client:
            now = (await client.clock()).now
            return await fetch_bars(client, symbols, from_, through or _yesterday(now), progress), now

    history, now = asyncio.run(fetch())
    if history.source is None:
        raise TrainingError("data_service did not say whose bars these are")
    bars = history.bars
    unadjusted = {symbol: sorted({action.ex_date for action in each}) for symbol, each in history.unadjusted.items()}
    kept = FolderCheckpoint(registry.root / f".training-{run_key(bars, horizon, unadjusted)}")
    trained = train(bars, horizon, progress, kept, unadjusted)
    origin = {
        "environment": history.source.environment.value,
        "provider": history.source.provider,
        "git_commit": git_commit(Path(__file__).resolve().parents[1]),
    }
    artefact = registry.register(trained.models, trained.calibrations, trained.manifest | origin)
    kept.clear_others() if keep_folds else kept.clear()
    if ages is None:
        change = promote(registry, artefact, at=now, by=TRAINING, reason="trained to serve at once")
    else:
        change = admit(registry, artefact, at=now, ages=ages)
    progress(1, 1, "done")
    return artefact, change if isinstance(change, str) else f"{change.event.value}: {change.reason}"
