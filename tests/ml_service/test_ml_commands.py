"""`sauda ml` and the callable behind it, over real HTTP."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from bar_server import BarServer, serving
from quick_training import few_trees
from synthetic_market import simulate
from typer.testing import CliRunner

from contracts.common import Environment
from ml_service.client import DataServiceError
from ml_service.predict import Ages
from ml_service.registry import Registry
from ml_service.train import members_only, train_and_register
from ml_service.walkforward import TrainingError
from sauda.ml import app

runner = CliRunner()


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with few_trees():
        yield


@pytest.fixture(scope="module")
def bar_server() -> Iterator[BarServer]:
    with serving(BarServer(simulate(1.0, symbols=8, sessions=800, seed=8))) as server:
        yield server


def test_training_twice_gives_the_same_version_and_makes_it_current(bar_server: BarServer, tmp_path: Path) -> None:
    steps: list[tuple[int, int, str]] = []
    bar_server.calls.clear()
    versions = {
        train_and_register(
            data_service_url=bar_server.url,
            registry=Registry(tmp_path / name),
            progress=lambda done, total, what: steps.append((done, total, what)),
        )[0].sha256
        for name in ("one", "two")
    }
    assert len(versions) == 1
    assert set(Registry(tmp_path / "one").current(Environment.SIMULATED).values()) == versions
    days = bar_server.bars["session"].unique().sort()
    artefact = Registry(tmp_path / "one").load(versions.pop())
    assert artefact.trained_through < days[-1], "by default, through the day before the market's present"
    assert all(call.through < days[-1] and call.as_of.date() == call.through for call in bar_server.calls)
    assert all(0 <= done <= total for done, total, _ in steps)
    assert steps[-1] == (1, 1, "done")


def test_through_and_symbols_bound_what_is_learned(bar_server: BarServer, tmp_path: Path) -> None:
    through = bar_server.bars["session"].unique().sort()[-20]
    ages = Ages(model_age_days_max=10, calibration_age_days_max=10)
    artefact, became = train_and_register(
        data_service_url=bar_server.url,
        registry=Registry(tmp_path),
        through=through,
        symbols=[f"SIM{i:02d}" for i in range(6)],
        ages=ages,
    )
    assert "registered only" in became
    assert artefact.trained_through == through
    assert artefact.manifest["universe"] == [f"SIM{i:02d}" for i in range(6)]
    assert Registry(tmp_path).current(Environment.SIMULATED) == {}


def test_training_needs_bars_and_a_data_service(bar_server: BarServer, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no bars"):
        train_and_register(data_service_url=bar_server.url, registry=Registry(tmp_path), symbols=["NOSUCH"])
    with pytest.raises(DataServiceError):
        train_and_register(data_service_url="http://127.0.0.1:1", registry=Registry(tmp_path))
    assert Registry(tmp_path).versions() == []


def test_the_universe_is_the_most_traded_with_enough_history() -> None:
    bars = simulate(1.0, symbols=5, sessions=400, seed=9)
    bars = bars.with_columns(
        pl.when(pl.col("symbol") == "SIM02").then(pl.col("volume") * 50).otherwise(pl.col("volume")).alias("volume"),
    )
    sessions = bars["session"].unique().sort()
    young = (pl.col("symbol") == "SIM03") & (pl.col("session") < sessions[200])
    gone = (pl.col("symbol") == "SIM04") & (pl.col("session") > sessions[350])
    kept = bars.filter(~young & ~gone)
    frame, universe = members_only(kept, 10)
    assert universe == ["SIM00", "SIM01", "SIM02"]
    assert set(frame["symbol"]) == set(kept["symbol"]), "what was delisted later is learned from as long as it traded"
    frame, universe = members_only(kept, 1)
    assert (universe, set(frame["symbol"])) == (["SIM02"], {"SIM02"})


def test_commands_train_list_and_show(bar_server: BarServer, tmp_path: Path) -> None:
    options = ["--data-dir", str(tmp_path)]
    done = runner.invoke(app, ["train", "--data-service-url", bar_server.url, *options], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    (version,) = Registry(tmp_path).versions()
    assert version[:12] in done.output
    assert "base rate" in done.output
    listed = runner.invoke(app, ["list", *options], env={"COLUMNS": "200"})
    assert version[:12] in listed.output
    shown = runner.invoke(app, ["card", version[:12], *options], env={"COLUMNS": "200"})
    assert "features_hash" in shown.output
    assert runner.invoke(app, ["card", "0" * 12, *options]).exit_code == 1


def test_a_failed_training_says_why(bar_server: BarServer, tmp_path: Path) -> None:
    through = str(date(2020, 1, 1))
    failed = runner.invoke(
        app, ["train", "--data-service-url", bar_server.url, "--data-dir", str(tmp_path), "--through", through]
    )
    assert failed.exit_code == 1
    assert "usable sessions" in failed.stderr or "history" in failed.stderr
