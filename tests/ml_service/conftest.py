"""What the prediction tests share: two synthetic markets, and the models trained on them."""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from synthetic_market import simulate

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


@pytest.fixture(scope="session")
def trained(planted: pl.DataFrame) -> Trained:
    return train(cut(planted, 30), HORIZON)


@pytest.fixture(scope="session")
def trained_without_edge() -> Trained:
    return train(simulate(0.0, symbols=24, sessions=1000), HORIZON)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


@pytest.fixture
def artefact(registry: Registry, trained: Trained) -> Artefact:
    """The planted market's model, registered and current."""
    found = registry.register(trained.models, trained.calibrations, trained.manifest | ORIGIN)
    promote(registry, found, at=NOW, by=TRAINING, reason="for a test")
    return found
