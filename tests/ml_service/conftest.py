"""What the prediction tests share: two synthetic markets, and the models trained on them."""

import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from quick_training import few_trees
from synthetic_market import simulate

from ml_service import shipped
from ml_service.lifecycle import TRAINING, promote
from ml_service.registry import Artefact, Registry
from ml_service.train import Trained, train

HORIZON = 10
NOW = datetime(2024, 6, 3, 4, 30, tzinfo=UTC)
ORIGIN = {"environment": "simulated", "provider": "synthetic", "git_commit": None}


def cut(bars: pl.DataFrame, after_session: int) -> pl.DataFrame:
    """The bars without the last sessions, counted from the end."""
    return bars.filter(pl.col("session") <= bars["session"].unique().sort()[-1 - after_session])


@pytest.fixture(scope="session")
def planted() -> pl.DataFrame:
    """A market with the whole planted edge; the last 30 sessions are kept from training."""
    return simulate(1.0, symbols=24, sessions=1100)


def trained_once(name: str, bars: pl.DataFrame, factory: pytest.TempPathFactory) -> Trained:
    """A real training, made by the first of a run's processes that needs it and read by the others."""
    folder = factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    path = folder / f"{name}.json.gz"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with few_trees():
                made = train(bars, HORIZON)
            shipped.write(Artefact("", made.models, made.calibrations, made.manifest), path)
    found = shipped.read(path)
    assert found is not None
    return found


@pytest.fixture(scope="session")
def trained(planted: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained_once("planted", cut(planted, 30), tmp_path_factory)


@pytest.fixture(scope="session")
def trained_without_edge(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained_once("aimless", simulate(0.0, symbols=24, sessions=1000), tmp_path_factory)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


@pytest.fixture
def artefact(registry: Registry, trained: Trained) -> Artefact:
    """The planted market's model, registered and current."""
    found = registry.register(trained.models, trained.calibrations, trained.manifest | ORIGIN)
    promote(registry, found, at=NOW, by=TRAINING, reason="for a test")
    return found
