"""`sauda up` trains where no usable model is current, and only there."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from bar_server import BarServer, serving
from quick_training import few_trees
from rich.console import Console
from synthetic_market import simulate

from contracts.common import Environment
from ml_service import registry as registry_module
from ml_service.registry import Registry
from sauda.embedded import DataFolderError
from sauda.models import ensure_model

SIMULATED = Environment.SIMULATED


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with few_trees():
        yield


@pytest.fixture(scope="module")
def bar_server() -> Iterator[BarServer]:
    with serving(BarServer(simulate(1.0, symbols=6, sessions=800, seed=8))) as server:
        yield server


def ensured(bar_server: BarServer, data_dir: Path) -> str:
    """What is printed while a model is made sure of."""
    output = io.StringIO()
    ensure_model(data_dir, bar_server.url, Console(file=output, width=500))
    return output.getvalue()


@pytest.fixture(scope="module")
def first(bar_server: BarServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after its first start."""
    folder = tmp_path_factory.mktemp("first")
    with few_trees():
        assert "Trained model" in ensured(bar_server, folder)
    return folder


@pytest.fixture
def data_dir(first: Path, tmp_path: Path) -> Path:
    return shutil.copytree(first, tmp_path / "data")


def test_a_usable_model_is_kept(bar_server: BarServer, data_dir: Path) -> None:
    bar_server.calls.clear()
    assert ensured(bar_server, data_dir) == ""
    assert bar_server.calls == []


def test_a_model_of_earlier_logic_is_replaced_and_says_so(
    bar_server: BarServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Registry(data_dir).current(SIMULATED)["10"]
    newer = "ensemble_v9"
    monkeypatch.setattr(registry_module, "LOGIC_VERSION", newer)
    monkeypatch.setattr("ml_service.train.LOGIC_VERSION", newer)
    printed = ensured(bar_server, data_dir)
    assert before[:12] in printed
    assert "this is ensemble_v9" in printed
    after = Registry(data_dir).load(Registry(data_dir).current(SIMULATED)["10"])
    assert (after.sha256 != before, after.manifest["logic_version"]) == (True, newer)


def test_a_damaged_model_is_made_anew(bar_server: BarServer, data_dir: Path) -> None:
    version = Registry(data_dir).current(SIMULATED)["10"]
    (data_dir / "models" / version / "models.json").write_text("{}")
    assert "changed after registration" in ensured(bar_server, data_dir)
    assert Registry(data_dir).load(Registry(data_dir).current(SIMULATED)["10"]).sha256 == version


def test_an_unreadable_pointer_is_named_with_its_fix(bar_server: BarServer, data_dir: Path) -> None:
    (data_dir / "models" / "current.simulated.json").write_text("{")
    with pytest.raises(DataFolderError, match=r"current.simulated.json is unreadable: remove it from .*models"):
        ensured(bar_server, data_dir)
