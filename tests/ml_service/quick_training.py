"""Real trainings, small enough for a unit test: few shares, few sessions, few trees; each is made once."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import polars as pl
import pytest
from synthetic_market import simulate

from contracts.predictions import HORIZON_SESSIONS_DEFAULT
from ml_service import model
from ml_service.registry import Artefact
from ml_service.train import Trained, train

SYMBOLS, SESSIONS = 12, 740


@contextmanager
def few_trees() -> Iterator[None]:
    """Two seeds of eight trees instead of five of sixty: the same code in a fraction of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "TREES", 8)
        patch.setattr(model, "SEEDS", (1, 2))
        yield


@cache
def quick_bars() -> pl.DataFrame:
    """A market with the whole planted edge."""
    return simulate(1.0, symbols=SYMBOLS, sessions=SESSIONS, seed=21)


@cache
def quick_trained() -> Trained:
    with few_trees():
        return train(quick_bars(), HORIZON_SESSIONS_DEFAULT)


def unsigned(trained: Trained) -> Artefact:
    """As the registry would load it."""
    origin = {"environment": "simulated", "provider": "synthetic", "git_commit": None}
    return Artefact("0" * 64, trained.models, trained.calibrations, trained.manifest | origin)
