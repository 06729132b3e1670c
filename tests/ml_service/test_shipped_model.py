"""The shipped model is of this code and of the default market, and serves on no other."""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from bar_server import BarServer
from bar_server import serving as serving_bars

from contracts.common import Environment
from contracts.predictions import HORIZON_SESSIONS_DEFAULT
from data_service.config import Settings
from data_service.main import create_app
from ml_service import shipped
from ml_service.client import DataServiceClient
from ml_service.features import FEATURES, features_hash
from ml_service.model import LOGIC_VERSION, STRATEGY
from ml_service.predict import Ages
from ml_service.registry import Artefact, ArtefactError, Registry
from ml_service.train import data_hash, fetch_bars, no_progress
from tests.support.market_server import serving

AGES = Ages(model_age_days_max=400, calibration_age_days_max=120)
REAL_NOW = datetime(2026, 1, 5, tzinfo=UTC)
"""The simulated market keeps its own time; the real one is told to it but once."""


@contextmanager
def market(folder: Path, **settings: Any) -> Iterator[str]:
    """The URL of a simulated market, the default one but for `settings`."""
    app = create_app(Settings(environment=Environment.SIMULATED, data_dir=folder, **settings), lambda: REAL_NOW)
    with serving(app) as url:
        yield url


@pytest.fixture(scope="module")
def default_market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with market(tmp_path_factory.mktemp("market")) as url:
        yield url


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return json.loads(gzip.decompress(shipped.FILE.read_bytes()))["manifest"]


@pytest.fixture(scope="module")
async def bars(default_market: str, manifest: dict[str, Any]) -> pl.DataFrame:
    """What the default market's history is, through the last session that was trained on."""
    first, last = (date.fromisoformat(manifest[name]) for name in ("train_from", "trained_through"))
    async with DataServiceClient(default_market, 60) as client:
        return (await fetch_bars(client, None, first, last, no_progress)).bars


def test_it_is_of_this_codes_features_logic_and_plan(manifest: dict[str, Any]) -> None:
    assert manifest["features_hash"] == features_hash()
    assert manifest["logic_version"] == LOGIC_VERSION
    assert manifest["features"] == list(FEATURES)
    assert manifest["horizon_sessions"] == HORIZON_SESSIONS_DEFAULT
    assert (manifest["environment"], manifest["git_commit"]) == ("simulated", None)


def test_it_was_trained_on_the_default_markets_bars(manifest: dict[str, Any], bars: pl.DataFrame) -> None:
    assert data_hash(bars) == manifest["data_hash"]
    assert manifest["universe"] == sorted(bars["symbol"].unique())
    assert manifest["sessions"] == bars["session"].n_unique()


async def test_nothing_that_will_be_replayed_was_learned_from(default_market: str, manifest: dict[str, Any]) -> None:
    async with DataServiceClient(default_market, 60) as client:
        begins = (await client.clock()).now.date()
    assert date.fromisoformat(manifest["trained_through"]) < begins
    assert date.fromisoformat(manifest["calibrated_through"]) < begins


def test_it_serves_on_its_own_market(default_market: str, manifest: dict[str, Any], tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    adopted = shipped.adopt(default_market, registry, AGES)
    assert adopted is not None
    assert registry.current(Environment.SIMULATED) == {str(HORIZON_SESSIONS_DEFAULT): adopted.sha256}
    loaded = Registry(tmp_path).load(adopted.sha256)
    assert loaded.manifest == manifest
    assert loaded.models.keys() == loaded.calibrations.keys() >= {STRATEGY}
    assert loaded.certified_modes, "a newcomer's market has a planted edge to trade on"
    assert shipped.adopt(default_market, registry, AGES) is not None, "adopting it again is no error"
    assert registry.versions() == [adopted.sha256]


@pytest.mark.parametrize("other", [{"sim_edge": 0.0}, {"sim_seed": 8}])
def test_another_market_is_not_its_own(other: dict[str, Any], tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models-of")
    with market(tmp_path / "market", **other) as url:
        assert shipped.adopt(url, registry, AGES) is None
    assert registry.versions() == []


def same(frame: pl.DataFrame) -> pl.DataFrame:
    return frame


def one_paisa_more(frame: pl.DataFrame) -> pl.DataFrame:
    row = (pl.col("symbol") == frame["symbol"][0]) & (pl.col("session") == frame["session"].sort()[600])
    return frame.with_columns(pl.when(row).then(pl.col("high") + 0.01).otherwise(pl.col("high")).alias("high"))


def one_share_more(frame: pl.DataFrame) -> pl.DataFrame:
    row = (pl.col("symbol") == frame["symbol"][0]) & (pl.col("session") == frame["session"].sort()[600])
    return frame.with_columns(pl.when(row).then(pl.col("volume") + 1).otherwise(pl.col("volume")).alias("volume"))


@pytest.mark.parametrize(
    ("change", "environment", "fits"),
    [
        (same, Environment.SIMULATED, True),
        (same, Environment.PAPER, False),
        (one_paisa_more, Environment.SIMULATED, False),
        (one_share_more, Environment.SIMULATED, False),
    ],
)
def test_one_paisa_makes_another_market(
    bars: pl.DataFrame,
    change: Callable[[pl.DataFrame], pl.DataFrame],
    environment: Environment,
    fits: bool,
    tmp_path: Path,
) -> None:
    later = datetime(2024, 1, 15, 4, tzinfo=UTC)
    with serving_bars(BarServer(change(bars), environment=environment, now=later)) as server:
        adopted = shipped.adopt(server.url, Registry(tmp_path), AGES)
    assert (adopted is not None) is fits


@pytest.mark.parametrize(
    ("today", "fits"),
    [
        (date(2023, 12, 29), False),
        (date(2024, 4, 15), True),
        (date(2024, 4, 30), False),
    ],
)
def test_it_serves_after_its_training_and_not_when_it_is_old(
    bars: pl.DataFrame, today: date, fits: bool, tmp_path: Path
) -> None:
    now = datetime.combine(today, datetime.min.time(), UTC).replace(hour=4)
    with serving_bars(BarServer(bars, now=now)) as server:
        assert (shipped.adopt(server.url, Registry(tmp_path), AGES) is not None) is fits


def rewritten(path: Path, **changed: Any) -> Path:
    content = json.loads(gzip.decompress(shipped.FILE.read_bytes()))
    content["manifest"] |= changed
    path.write_bytes(gzip.compress(json.dumps(content).encode(), 1))
    return path


def test_a_model_of_other_code_is_none(tmp_path: Path) -> None:
    assert shipped.read(rewritten(tmp_path / "same.gz")) is not None
    assert shipped.read(rewritten(tmp_path / "features.gz", features_hash="0" * 64)) is None
    assert shipped.read(rewritten(tmp_path / "logic.gz", logic_version="ensemble_v0")) is None
    assert shipped.read(tmp_path / "absent.gz") is None


def test_the_same_model_is_written_as_the_same_bytes(tmp_path: Path) -> None:
    trained = shipped.read()
    assert trained is not None
    shipped.write(Artefact("0" * 64, trained.models, trained.calibrations, trained.manifest), tmp_path / "model.gz")
    assert (tmp_path / "model.gz").read_bytes() == shipped.FILE.read_bytes()


def zipped(text: bytes) -> bytes:
    return gzip.compress(text, mtime=0)  # a clock's second in it would name the test differently in each process


@pytest.mark.parametrize("damage", [b"", b"no gzip", zipped(b"{"), zipped(b"{}"), zipped(b"[]")])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "model.json.gz"
    path.write_bytes(damage)
    with pytest.raises(ArtefactError, match="damaged: restore it"):
        shipped.read(path)
