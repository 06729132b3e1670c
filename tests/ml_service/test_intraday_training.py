"""A planted intraday edge is found and certified; without one, or without enough days, nothing is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from synthetic_minutes import planted, planted_model, simulate_minutes

from ml_service.intraday.bars import read_minutes
from ml_service.intraday.features import FEATURES, STRATEGY
from ml_service.intraday.train import judged, make_dataset, most_traded, train
from ml_service.model import LOGIC_VERSION, LinearModel
from ml_service.pointers import INTRADAY
from ml_service.registry import Artefact, ArtefactError, Registry
from ml_service.train import Trained
from ml_service.walkforward import TrainingError

ORIGIN = {"environment": "simulated", "provider": "synthetic", "git_commit": None}
SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


@pytest.fixture(scope="module")
def trained() -> Trained:
    return planted_model()


def registered(folder: Path, trained: Trained, **changed: object) -> Artefact:
    return Registry(folder).register(trained.models, trained.calibrations, trained.manifest | ORIGIN | changed)


def test_a_planted_edge_is_found_and_certified(trained: Trained) -> None:
    record = trained.manifest["strategies"][STRATEGY]
    events = record["metrics"]["events"]
    assert events["net_profit"]["auc"] > 0.65
    assert events["touch_0.01"]["brier_skill"] > 0.1
    assert all(event["ece"] < 0.15 for event in events.values())
    for mode in ("moderate", "aggressive"):
        verdict = record["modes"][mode]
        assert verdict["certified"]
        assert verdict["episodes"] >= 20
        assert verdict["net"]["low"] > 0


def test_without_an_edge_nothing_is_certified() -> None:
    record = train(simulate_minutes(0.0)).manifest["strategies"][STRATEGY]
    assert not any(mode["certified"] for mode in record["modes"].values())
    assert record["metrics"]["events"]["net_profit"]["brier_skill"] < 0.02


def test_a_session_is_a_day_and_every_outcome_is_known_with_its_own() -> None:
    bars = planted()
    data = make_dataset(bars)
    assert data.x.shape == (len(data.session), len(FEATURES))
    assert np.isfinite(data.x).all()
    assert (data.labels.end[data.labels.known] == data.session[data.labels.known]).all()
    days = bars["session"].unique().sort()
    assert data.session.max() <= len(days)
    assert set(data.month.tolist()) == {day.year * 12 + day.month for day in days[15:]}


def test_the_same_bars_give_the_same_model_in_any_order(trained: Trained) -> None:
    bars = planted()
    bars = bars.filter(pl.col("session") <= pl.lit(trained.manifest["trained_through"]).str.to_date())
    again = train(bars.sample(fraction=1, shuffle=True, seed=2))
    assert again.manifest == trained.manifest
    assert again.models[STRATEGY].to_json() == trained.models[STRATEGY].to_json()


def test_too_few_days_prove_nothing() -> None:
    bars = simulate_minutes(0.03, sessions=60)
    with pytest.raises(TrainingError, match="usable sessions"):
        train(bars)
    record = judged(bars)["strategies"][STRATEGY]
    assert "usable sessions" in record["why"]
    assert {mode["verdict"] for mode in record["modes"].values()} == {"insufficient_evidence"}
    with pytest.raises(TrainingError, match="breakout"):
        train(bars.filter(pl.col("session") < bars["session"].unique().sort()[10]))
    with pytest.raises(TrainingError, match="no bars"):
        train(bars.clear())


def test_it_is_registered_as_a_plan_of_its_own(tmp_path: Path, trained: Trained) -> None:
    artefact = registered(tmp_path, trained)
    assert artefact.plan == INTRADAY
    assert {"moderate", "aggressive"} <= set(artefact.certified(STRATEGY))
    assert artefact.certified_modes == []  # nothing of the daily strategy's is claimed
    model = Registry(tmp_path).load(artefact.sha256).models[STRATEGY]
    assert isinstance(model, LinearModel)
    x = np.random.default_rng(1).normal(size=(5, len(FEATURES)))
    before, after = (m.scores(x, np.full(5, 0.02)) for m in (trained.models[STRATEGY], model))
    assert all((before[name] == after[name]).all() for name in before)


@pytest.mark.parametrize("changed", [{"logic_version": LOGIC_VERSION}, {"features_hash": "0" * 64}, {"plan": "10"}])
def test_another_logic_other_features_or_another_plan_are_refused(
    tmp_path: Path, trained: Trained, changed: dict[str, str]
) -> None:
    with pytest.raises(ArtefactError):
        registered(tmp_path, trained, **changed)


def test_a_model_under_another_strategys_name_is_refused(tmp_path: Path, trained: Trained) -> None:
    renamed = replace(
        trained,
        models={"ensemble": trained.models[STRATEGY]},
        calibrations={"ensemble": trained.calibrations[STRATEGY]},
    )
    with pytest.raises(ArtefactError):
        registered(tmp_path, renamed)


def test_the_most_traded_shares_by_turnover() -> None:
    daily = pl.DataFrame(
        {"symbol": ["A", "B", "C", "A"], "close": [1.0, 9.0, 3.0, 1.0], "volume": [4.0, 1.0, 1.0, 4.0]}
    )
    assert most_traded(daily, 2) == ["A", "B"]
    assert most_traded(daily, 1) == ["B"]


@pytest.mark.skipif(not SHARED.exists(), reason="the recorded bars are not part of the project")
@pytest.mark.parametrize(
    ("name", "breakouts"),
    [
        ("nse_5min_10stocks_2024-03-20_2024-04-19.parquet", 14),
        ("bse_5min_reliance_axisbank_2019-11_2020-11.parquet", 181),
    ],
)
def test_a_month_or_a_year_of_recorded_bars_is_insufficient_evidence(name: str, breakouts: int) -> None:
    bars = read_minutes(SHARED / name)
    assert len(make_dataset(bars).x) == breakouts
    modes = judged(bars)["strategies"][STRATEGY]["modes"]
    assert {mode["verdict"] for mode in modes.values()} == {"insufficient_evidence"}
