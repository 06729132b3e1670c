"""The pipeline finds what was planted, finds nothing where nothing was, and never learns from what it predicts."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from conftest import HORIZON
from synthetic_market import simulate

from ml_service.evidence import MODES, accepts, clustered_interval, episodes_of
from ml_service.labels import EVENTS, Labels, touch_name
from ml_service.train import Trained, judge, no_progress, train
from ml_service.walkforward import (
    EMBARGO_SESSIONS,
    FOLD_SESSIONS,
    Dataset,
    TrainingError,
    fold_starts,
    make_dataset,
    walk_forward,
)


@pytest.fixture(scope="module")
def data(planted: pl.DataFrame) -> Dataset:
    return make_dataset(planted, HORIZON)


def test_the_planted_edge_is_found_and_confidence_is_kept(data: Dataset) -> None:
    answers = walk_forward(data, no_progress)
    rows = answers.rows
    taken = {mode.name: accepts(mode, answers.forecast) for mode in MODES}
    assert 0 < taken["conservative"].sum() < taken["moderate"].sum() < taken["aggressive"].sum()
    for mode in MODES[1:]:
        chosen = taken[mode.name]
        stated = answers.forecast.events[touch_name(mode.net_return)][chosen].mean()
        hit = data.labels.events[touch_name(mode.net_return)][rows[chosen]].astype(float)
        realised = clustered_interval(hit, episodes_of(data.session[rows[chosen]], HORIZON))
        assert realised.low - 0.05 <= stated <= realised.high
        assert realised.low >= mode.confidence


def test_the_planted_market_certifies_and_the_aimless_one_does_not(
    trained: Trained, trained_without_edge: Trained
) -> None:
    modes = trained.manifest["modes"]
    assert modes["aggressive"]["certified"]
    assert modes["moderate"]["candidates"] >= 100
    assert trained.manifest["metrics"]["events"]["net_profit"]["auc"] > 0.58
    aimless = trained_without_edge.manifest
    assert not any(mode["certified"] for mode in aimless["modes"].values())
    assert 0.48 < aimless["metrics"]["events"]["net_profit"]["auc"] < 0.52
    assert aimless["metrics"]["events"]["touch_0.02"]["brier_skill"] < 0.003


@pytest.mark.parametrize("seed", [11, 12])
def test_other_aimless_markets_certify_nothing_either(seed: int) -> None:
    data = make_dataset(simulate(0.0, symbols=15, sessions=900, seed=seed), HORIZON)
    modes = judge(data, walk_forward(data, no_progress), HORIZON)["modes"]
    assert [mode["certified"] for mode in modes.values()] == [False, False, False]


def test_shuffled_outcomes_teach_nothing(data: Dataset) -> None:
    rng = np.random.default_rng(5)
    known = np.flatnonzero(data.labels.known)
    order = np.arange(len(data.session))
    order[known] = rng.permutation(known)
    labels = Labels(
        data.labels.gross[order],
        data.labels.net[order],
        {name: hit[order] for name, hit in data.labels.events.items()},
        data.labels.end,
    )
    shuffled = replace(data, labels=labels)
    metrics = judge(shuffled, walk_forward(shuffled, no_progress), HORIZON)["metrics"]
    for name in EVENTS:
        assert metrics["events"][name]["auc"] == pytest.approx(0.5, abs=0.02)
    assert abs(metrics["rank_ic"]) < 0.03


def test_no_fold_learns_from_outcomes_that_reach_into_it() -> None:
    bars = simulate(1.0, symbols=8, sessions=900, seed=4)
    data = make_dataset(bars, HORIZON)
    answers = walk_forward(data, no_progress)
    start = next(s for s in fold_starts(data) if s > data.session[answers.rows].min())
    told = bars["session"].unique().sort()[start + 3]
    later = pl.col("session") >= told
    disturbed = make_dataset(
        bars.with_columns(
            *(
                pl.when(later).then(pl.col(name) * 1.15).otherwise(pl.col(name)).alias(name)
                for name in ("open", "high", "low", "close")
            )
        ),
        HORIZON,
    )
    again = walk_forward(disturbed, no_progress)

    def before(source: Dataset, found: object) -> tuple[np.ndarray, ...]:
        keep = source.session[found.rows] < start + 3
        return found.rows[keep], found.forecast.expected[keep], found.forecast.events["touch_0.02"][keep]

    first, second = before(data, answers), before(disturbed, again)
    assert (data.session[first[0]] >= start).any()
    for one, other in zip(first, second, strict=True):
        assert one.tolist() == other.tolist()


def test_learnable_rows_ended_an_embargo_before_the_fold(data: Dataset) -> None:
    start = fold_starts(data)[3]
    learn = data.learnable(start)
    assert data.labels.end[learn].max() == start - EMBARGO_SESSIONS - 1
    assert data.session[learn].max() == start - EMBARGO_SESSIONS - 1 - HORIZON


def test_every_row_is_predicted_once(data: Dataset) -> None:
    answers = walk_forward(data, no_progress)
    assert len(np.unique(answers.scored)) == len(answers.scored)
    assert set(answers.rows.tolist()) <= set(answers.scored.tolist())
    assert np.diff(fold_starts(data)).tolist() == [FOLD_SESSIONS] * (len(fold_starts(data)) - 1)


def test_the_same_bars_train_the_same_model() -> None:
    bars = simulate(1.0, symbols=6, sessions=800, seed=6)
    first, second = train(bars, HORIZON), train(bars.sample(fraction=1.0, shuffle=True, seed=1), HORIZON)
    assert first.model.to_json() == second.model.to_json()
    assert first.calibration == second.calibration
    assert first.manifest == second.manifest


def test_short_histories_are_refused_with_what_is_missing() -> None:
    with pytest.raises(TrainingError, match="usable sessions"):
        train(simulate(1.0, symbols=6, sessions=500), HORIZON)
