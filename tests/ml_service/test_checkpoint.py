"""A training that was stopped continues where it stood, and ends with the very bytes of one that was not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from quick_training import few_trees, quick_bars, quick_trained

from contracts.predictions import HORIZON_SESSIONS_DEFAULT
from ml_service import train as train_module
from ml_service import walkforward
from ml_service.checkpoint import FolderCheckpoint, no_checkpoint
from ml_service.registry import canonical_json
from ml_service.train import Trained, run_key, train
from ml_service.walkforward import Dataset, fit_rows

FOLDS = 2
"""Of the machine-learned strategy in the quick market, where no rule proposes enough to be fitted."""


class StoppedError(Exception):
    """The process was asked to stop."""


def stopping_after(folds: int) -> Callable[[int, int, str], None]:
    """Progress that lets so many folds finish."""
    begun = 0

    def progress(_done: int, _total: int, _what: str) -> None:
        nonlocal begun
        begun += 1
        if begun > folds:
            raise StoppedError

    return progress


def content(trained: Trained) -> bytes:
    return canonical_json(
        {
            "models": {name: model.to_json() for name, model in trained.models.items()},
            "calibrations": {name: one.to_json() for name, one in trained.calibrations.items()},
            "manifest": trained.manifest,
        }
    )


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each fit of a fold was made on, as it happens."""
    quick_trained()  # what is compared with is not counted
    counted: list[int] = []

    def counting(data: Dataset, rows: np.ndarray, fit: object) -> object:
        model = fit_rows(data, rows, fit)  # pyright: ignore[reportArgumentType]
        counted.append(len(rows))
        return model

    monkeypatch.setattr(walkforward, "fit_rows", counting)
    return counted


@pytest.fixture
def kept(tmp_path: Path) -> FolderCheckpoint:
    return FolderCheckpoint(tmp_path / "models" / ".training-key")


def run(kept: FolderCheckpoint, stop_after: int | None = None, bars: pl.DataFrame | None = None) -> Trained:
    progress = train_module.no_progress if stop_after is None else stopping_after(stop_after)
    with few_trees():
        return train(quick_bars() if bars is None else bars, HORIZON_SESSIONS_DEFAULT, progress, kept)


def files(kept: FolderCheckpoint) -> list[Path]:
    return sorted(kept.folder.iterdir())


def test_only_missing_folds_are_fitted_again_and_nothing_differs(kept: FolderCheckpoint, fits: list[int]) -> None:
    with pytest.raises(StoppedError):
        run(kept, stop_after=1)
    assert len(files(kept)) == len(fits) == 1
    finished = fits.copy()
    resumed = run(kept)
    assert len(fits) == len(set(fits)), "no fold was fitted twice"
    assert fits[: len(finished)] == finished
    assert content(resumed) == content(quick_trained())
    fitted = len(fits)
    assert fitted == len(files(kept)) == FOLDS
    again = run(kept)
    assert len(fits) == fitted, "nothing was left to fit but the final models"
    assert content(again) == content(quick_trained())


@pytest.mark.parametrize("damage", ["cut", "emptied", "garbage", "removed"])
def test_a_damaged_file_is_made_again(kept: FolderCheckpoint, fits: list[int], damage: str) -> None:
    arrays = {"position": np.arange(5), "return": np.linspace(0, 1, 5)}
    kept.save("ensemble", 300, arrays)
    (path,) = files(kept)
    whole = path.read_bytes()
    {
        "cut": lambda: path.write_bytes(whole[: len(whole) // 2]),
        "emptied": lambda: path.write_bytes(b""),
        "garbage": lambda: path.write_bytes(b"\0" * len(whole)),
        "removed": path.unlink,
    }[damage]()
    assert kept.load("ensemble", 300) is None
    kept.save("ensemble", 300, arrays)
    assert files(kept) == [path]
    found = kept.load("ensemble", 300)
    assert found is not None
    assert {name: values.tolist() for name, values in found.items()} == {
        name: values.tolist() for name, values in arrays.items()
    }


def test_a_training_over_a_damaged_file_ends_as_ever(kept: FolderCheckpoint, fits: list[int]) -> None:
    with pytest.raises(StoppedError):
        run(kept, stop_after=1)
    (path,) = files(kept)
    path.write_bytes(path.read_bytes()[:-200])
    resumed = run(kept)
    assert len(fits) == len(files(kept)) + 1, "the damaged fold was fitted anew"
    assert content(resumed) == content(quick_trained())


def test_values_come_back_to_the_last_bit_and_under_their_own_names(kept: FolderCheckpoint) -> None:
    values = np.random.default_rng(1).standard_normal(1000) * 1e-9
    kept.save("momentum", 1, {"return": values})
    kept.save("momentum", 11, {"return": values + 1})
    found = kept.load("momentum", 1)
    assert found is not None
    assert found["return"].tobytes() == values.tobytes()
    assert kept.load("momentum", 111) is None
    assert kept.load("breakout", 1) is None


def test_what_never_became_whole_is_not_read(kept: FolderCheckpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="no space"):
            kept.save("ensemble", 1, {"return": np.ones(3)})
    assert kept.load("ensemble", 1) is None


def test_pickled_content_is_refused(kept: FolderCheckpoint) -> None:
    kept.folder.mkdir(parents=True)
    np.savez(kept.folder / "ensemble-1.npz", position=np.array([{"an": "object"}], dtype=object))
    assert kept.load("ensemble", 1) is None


def test_another_market_horizon_or_logic_is_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = quick_bars()
    keys = [
        run_key(bars, HORIZON_SESSIONS_DEFAULT),
        run_key(bars, HORIZON_SESSIONS_DEFAULT + 1),
        run_key(bars.head(bars.height - 1), HORIZON_SESSIONS_DEFAULT),
        run_key(bars.with_columns(pl.col("close") + 0.01), HORIZON_SESSIONS_DEFAULT),
        run_key(bars, HORIZON_SESSIONS_DEFAULT, {"SIM00": [bars["session"][100]]}),
    ]
    for name, value in (("LOGIC_VERSION", "another"), ("HYPERPARAMETERS", {}), ("features_hash", lambda: "another")):
        with monkeypatch.context() as patch:
            patch.setattr(train_module, name, value)
            keys.append(run_key(bars, HORIZON_SESSIONS_DEFAULT))
    assert len(set(keys)) == len(keys)
    assert run_key(bars.sample(fraction=1.0, shuffle=True, seed=1), HORIZON_SESSIONS_DEFAULT) == keys[0]


def test_clearing_leaves_nothing(kept: FolderCheckpoint) -> None:
    kept.save("ensemble", 1, {"return": np.ones(3)})
    kept.clear()
    assert not kept.folder.exists()
    kept.clear()
    assert kept.load("ensemble", 1) is None
    assert no_checkpoint.load("ensemble", 1) is None


def test_of_one_kind_only_the_newest_is_kept(tmp_path: Path) -> None:
    older, newer, other = (FolderCheckpoint(tmp_path / name) for name in (".training-a", ".training-b", ".other-a"))
    for checkpoint in (older, newer, other):
        checkpoint.save("ensemble", 1, {"return": np.ones(3)})
    newer.clear_others()
    assert [checkpoint.load("ensemble", 1) is None for checkpoint in (older, newer, other)] == [True, False, False]
