"""What predictions cost on one core: features and answers of a session, scores of many rows, history, a training.

All by processor time, which on an idle core is the time that passes: a busy neighbour is no part of it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import date

import numpy as np
import polars as pl
import xgboost as xgb

from ml_service import shipped
from ml_service.calibrate import apply_calibration
from ml_service.features import BAR_SCHEMA, FEATURES, HISTORY_SESSIONS_MIN, TAIL_SESSIONS, compute_features
from ml_service.labels import EVENTS
from ml_service.model import HEADS, SEEDS, STRATEGY, TREE_PARAMETERS, TREES, EnsembleModel, fit_ensemble
from ml_service.predict import answer_session
from ml_service.registry import Artefact
from tests.bench.numpy_features import numpy_features
from tests.bench.result import Result

SYMBOLS, YEARS_SESSIONS = 50, 2_480
REPEATS, ROWS = 150, 2_000
TRAINING_ROWS = 120_000
HISTORY_ROUNDS = 3
ONE_THREAD = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def run() -> list[Result]:
    """Measured in a process of its own, held on one core: libraries read how many threads they may use as they load."""
    done = subprocess.run(
        [sys.executable, "-m", __name__], env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, check=True
    )
    return [Result(**each) for each in json.loads(done.stdout)]


def _columns(sessions: int, seed: int) -> dict[str, np.ndarray]:
    """Random walks of SYMBOLS shares in one market, every day traded."""
    random = np.random.default_rng(seed)
    steps = 0.006 * random.standard_normal(sessions) + 0.011 * random.standard_normal((SYMBOLS, sessions))
    close = 500 * np.exp(np.cumsum(steps, axis=1))
    opening = np.concatenate([close[:, :1], close[:, :-1]], axis=1) * np.exp(
        0.004 * random.standard_normal(close.shape)
    )
    wick = 1 + np.abs(0.006 * random.standard_normal((2, *close.shape)))
    return {
        "open": opening,
        "high": np.maximum(opening, close) * wick[0],
        "low": np.minimum(opening, close) / wick[1],
        "close": close,
        "volume": np.floor(1e6 * np.exp(0.2 * random.standard_normal(close.shape))),
    }


def _frame(columns: dict[str, np.ndarray]) -> pl.DataFrame:
    sessions = columns["close"].shape[1]
    days = pl.date_range(date(2014, 1, 1), pl.lit(date(2014, 1, 1)) + pl.duration(days=sessions - 1), eager=True)
    symbols = np.repeat([f"S{number:02d}" for number in range(SYMBOLS)], sessions)
    data = {"symbol": symbols, "session": pl.concat([days] * SYMBOLS)} | {n: c.ravel() for n, c in columns.items()}
    return pl.DataFrame(data, schema=BAR_SCHEMA)


def _seconds(work: Callable[[], object], repeats: int) -> np.ndarray:
    """Of each repeat, after one to warm up."""
    work()
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return np.array(taken)


def _answers(artefact: Artefact) -> list[Result]:
    bars = _frame(_columns(TAIL_SESSIONS, 1))
    last: date = bars["session"].max()  # pyright: ignore[reportAssignmentType]
    said = answer_session(artefact, bars, last)
    assert sum(one.confidence is not None for one in said.predictions.values()) > SYMBOLS / 2
    taken = 1000 * _seconds(lambda: answer_session(artefact, bars, last), REPEATS)
    bare = 1000 * _seconds(lambda: compute_features(bars), REPEATS)
    name = f"features and answers of {SYMBOLS} symbols × {TAIL_SESSIONS} sessions, one core"
    return [
        Result(f"{name}, p50", float(np.median(taken)), "ms", float(np.median(bare)), "its features alone", "–"),
        Result(
            f"{name}, p99",
            float(np.quantile(taken, 0.99)),
            "ms",
            float(np.quantile(bare, 0.99)),
            "its features alone",
            "<= 250 ms",
        ),
    ]


def _scores(artefact: Artefact) -> Result:
    x = compute_features(_frame(_columns(TAIL_SESSIONS, 2))).filter("complete").select(FEATURES).tail(ROWS).to_numpy()
    assert len(x) == ROWS
    atr, model, calibration = np.full(ROWS, 0.02), artefact.models[STRATEGY], artefact.calibrations[STRATEGY]
    assert isinstance(model, EnsembleModel)
    taken = 1000 * _seconds(lambda: apply_calibration(calibration, model.scores(x, atr), atr), REPEATS)
    bare = 1000 * _seconds(lambda: model.linear.scores(x, atr), REPEATS)
    return Result(
        f"prediction of {ROWS:,} rows, one core, p99",
        float(np.quantile(taken, 0.99)),
        "ms",
        float(np.quantile(bare, 0.99)),
        "its linear half alone",
        "<= 30 ms",
    )


def _history() -> Result:
    columns = _columns(YEARS_SESSIONS, 3)
    bars = _frame(columns)
    values = compute_features(bars).select(FEATURES).to_numpy().reshape(SYMBOLS, YEARS_SESSIONS, len(FEATURES))
    full = slice(HISTORY_SESSIONS_MIN, None)
    np.testing.assert_allclose(values[:, full], numpy_features(columns)[:, full], rtol=1e-6, atol=1e-8)
    return Result(
        f"{len(FEATURES)} features of {SYMBOLS} symbols × 10 years, polars, one core",
        float(np.median(_seconds(lambda: compute_features(bars), HISTORY_ROUNDS))),
        "s",
        float(np.median(_seconds(lambda: numpy_features(columns), HISTORY_ROUNDS))),
        "the same values, share by share in numpy",
        "<= 1",
    )


def _training() -> Result:
    random = np.random.default_rng(4)
    x = random.standard_normal((TRAINING_ROWS, len(FEATURES)))
    outcome = 0.1 * x[:, 0] + 0.1 * x[:, 1] * x[:, 2] + random.standard_normal(TRAINING_ROWS)
    events = {name: outcome > shift for name, shift in zip(EVENTS, np.linspace(-0.5, 0.5, len(EVENTS)), strict=True)}
    began = time.process_time()
    fit_ensemble(x, outcome, events)
    taken = time.process_time() - began
    rows = xgb.DMatrix(x.astype(np.float32), outcome.astype(np.float32), nthread=1)
    began = time.process_time()
    xgb.train(TREE_PARAMETERS | {"nthread": 1, "verbosity": 0, "min_child_weight": 240}, rows, TREES)
    one, boosters = time.process_time() - began, len(HEADS) * len(SEEDS)
    return Result(
        f"training on {TRAINING_ROWS:,} × {len(FEATURES)}, one core",
        taken,
        "s",
        one * boosters,
        f"{boosters} × one bare booster of {TREES} trees",
        "<= 60 s",
    )


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    trained = shipped.read()
    if trained is None:
        raise RuntimeError("the shipped model is of other code: `make default-model`")
    universe = {"universe": [f"S{number:02d}" for number in range(SYMBOLS)]}
    artefact = Artefact("", trained.models, trained.calibrations, trained.manifest | universe)
    results = [*_answers(artefact), _scores(artefact), _history(), _training()]
    sys.stdout.write(json.dumps([asdict(each) for each in results]))


if __name__ == "__main__":
    main()
