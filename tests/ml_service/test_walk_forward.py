"""The pipeline finds what was planted, finds nothing where nothing was, and never learns from what it predicts."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from conftest import HORIZON
from quick_training import few_trees
from synthetic_market import simulate

from ml_service.evidence import MODES, accepts, clustered_interval, episodes_of
from ml_service.features import FEATURES
from ml_service.judge import judge
from ml_service.labels import EVENTS, Labels, touch_name
from ml_service.model import STRATEGY, fit_linear
from ml_service.strategies.base import Strategy
from ml_service.train import Trained, no_progress, train
from ml_service.walkforward import (
    EMBARGO_SESSIONS,
    LIKE_TODAY_SHARE,
    REFIT_SESSIONS_MAX,
    REFIT_SESSIONS_MIN,
    Dataset,
    OutOfSample,
    TrainingError,
    fold_starts,
    like_today,
    make_dataset,
    walk_forward,
)

QUICK = Strategy(STRATEGY, "straight", None, lambda x, scaled, events: fit_linear(x, scaled, events, FEATURES, 0.1))
"""The walk is what is tested here: a linear model walks it in a tenth of the time."""


def walked(data: Dataset) -> OutOfSample:
    return walk_forward(data, QUICK, fold_starts(data), no_progress)


@pytest.fixture(scope="module")
def data(planted: pl.DataFrame) -> Dataset:
    return make_dataset(planted, HORIZON)


def test_the_planted_edge_is_found_and_confidence_is_kept(data: Dataset) -> None:
    answers = walked(data)
    rows = answers.rows
    taken = {mode.name: accepts(mode, answers.forecast) for mode in MODES}
    assert 0 < taken["conservative"].sum() < taken["moderate"].sum() < taken["aggressive"].sum()
    for mode in MODES[2:]:
        chosen = taken[mode.name]
        stated = answers.forecast.events[touch_name(mode.net_return)][chosen].mean()
        hit = data.labels.events[touch_name(mode.net_return)][rows[chosen]].astype(float)
        realised = clustered_interval(hit, episodes_of(data.session[rows[chosen]], HORIZON))
        assert realised.low - 0.05 <= stated <= realised.high
        assert realised.low >= mode.confidence


def test_the_planted_market_certifies_and_the_aimless_one_does_not(
    trained: Trained, trained_without_edge: Trained
) -> None:
    found = trained.manifest["strategies"][STRATEGY]
    assert found["modes"]["aggressive"]["certified"]
    assert found["modes"]["moderate"]["candidates"] >= 50
    assert found["metrics"]["events"]["net_profit"]["auc"] > 0.58
    assert trained.manifest["trials"] >= 40
    aimless = trained_without_edge.manifest["strategies"]
    assert not any(mode["certified"] for record in aimless.values() for mode in record["modes"].values())
    assert 0.45 < aimless[STRATEGY]["metrics"]["events"]["net_profit"]["auc"] < 0.53
    assert aimless[STRATEGY]["metrics"]["events"]["touch_0.02"]["brier_skill"] < 0.003


@pytest.mark.parametrize("seed", [11, 12])
def test_other_aimless_markets_certify_nothing_either(seed: int) -> None:
    data = make_dataset(simulate(0.0, symbols=15, sessions=900, seed=seed), HORIZON)
    modes = judge(data, walked(data), HORIZON)["modes"]
    assert [mode["certified"] for mode in modes.values()] == [False, False, False]


def test_shuffled_outcomes_teach_nothing(data: Dataset) -> None:
    rng = np.random.default_rng(5)
    known = np.flatnonzero(data.labels.known)
    order = np.arange(len(data.session))
    order[known] = rng.permutation(known)
    labels = Labels(
        data.labels.gross[order],
        data.labels.net[order],
        data.labels.forward[order],
        {name: hit[order] for name, hit in data.labels.events.items()},
        data.labels.end,
    )
    shuffled = replace(data, labels=labels)
    metrics = judge(shuffled, walked(shuffled), HORIZON)["metrics"]
    for name in EVENTS:
        assert metrics["events"][name]["auc"] == pytest.approx(0.5, abs=0.02)
    assert abs(metrics["rank_ic"]) < 0.03


def test_no_fold_learns_from_outcomes_that_reach_into_it() -> None:
    bars = simulate(1.0, symbols=8, sessions=900, seed=4)
    data = make_dataset(bars, HORIZON)
    answers = walked(data)
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
    again = walked(disturbed)

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


def test_rows_that_look_across_an_unadjusted_action_teach_nothing(data: Dataset, planted: pl.DataFrame) -> None:
    sessions = planted["session"].unique().sort()
    ex_date = sessions[700]
    kept = make_dataset(planted, HORIZON, {"SIM03": [ex_date], "ELSE": [ex_date]})
    gone = set(zip(data.symbol, data.session, strict=True)) - set(zip(kept.symbol, kept.session, strict=True))
    assert gone == {("SIM03", number) for number in range(700 - HORIZON, 760)}


def test_every_row_is_predicted_once(data: Dataset) -> None:
    answers = walked(data)
    assert len(np.unique(answers.scored)) == len(answers.scored)
    assert set(answers.rows.tolist()) <= set(answers.scored.tolist())
    steps = np.diff(fold_starts(data))
    assert REFIT_SESSIONS_MIN <= steps.min() <= steps.max() <= REFIT_SESSIONS_MAX
    assert (np.diff(steps) >= 0).all(), "the longer the history, the rarer a refit"


def test_scores_of_models_that_knew_much_less_calibrate_nothing(data: Dataset) -> None:
    first, last = int(data.session.min()), int(data.session.max())
    kept = data.session[like_today(data, np.arange(len(data.session)), last)]
    assert kept.min() == first + round(LIKE_TODAY_SHARE * (last - first) + 0.4999)


def test_the_same_bars_train_the_same_model() -> None:
    bars = simulate(1.0, symbols=6, sessions=800, seed=6)
    with few_trees():
        first, second = train(bars, HORIZON), train(bars.sample(fraction=1.0, shuffle=True, seed=1), HORIZON)
    assert first.models.keys() == second.models.keys()
    assert all(first.models[name].to_json() == second.models[name].to_json() for name in first.models)
    assert first.calibrations == second.calibrations
    assert first.manifest == second.manifest


def test_short_histories_are_refused_with_what_is_missing() -> None:
    with pytest.raises(TrainingError, match="usable sessions"):
        train(simulate(1.0, symbols=6, sessions=500), HORIZON)
