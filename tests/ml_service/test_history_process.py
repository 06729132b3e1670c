"""A walk-forward in a process of its own says what it would say here, in nobody's way, and leaves nothing behind."""

import os
from datetime import date
from pathlib import Path

import polars as pl
import psutil
import pytest
import walks_apart
from synthetic_market import simulate

from ml_service.checkpoint import FolderCheckpoint, no_checkpoint
from ml_service.history import RAW_SCHEMA, Run
from ml_service.history_process import NICE, OOM_FIRST, walk_apart
from ml_service.walkforward import TrainingError

BARS, RAW, DAY = pl.DataFrame(), pl.DataFrame(schema=RAW_SCHEMA), date(2024, 1, 2)


def start(walk, progress) -> Run:
    return walk_apart(BARS, RAW, 10, DAY, progress=progress, checkpoint=no_checkpoint, walk=walk)


def test_it_says_bit_for_bit_what_it_would_say_here(tmp_path: Path) -> None:
    bars = simulate(1.0, symbols=10, sessions=790, seed=5)
    raw, last = bars.select("symbol", "session", raw="close"), bars["session"].max()
    known, steps = bars.filter(pl.col("session") < last), []
    folds = FolderCheckpoint(tmp_path / "folds")
    given = (known, raw, 10, last)
    apart = walk_apart(
        *given, progress=lambda *step: steps.append(step), checkpoint=folds, unadjusted={}, walk=walks_apart.quick
    )
    assert list(folds.folder.iterdir())
    here = walks_apart.quick(*given)
    for name in ("days", "said", "idle"):
        assert getattr(apart, name).equals(getattr(here, name))
    assert here.days.height > 20
    assert steps[-1][2] == "writing down what was said"


def test_it_steps_back_and_its_refusal_comes_through() -> None:
    told = []
    with pytest.raises(TrainingError, match="12 usable sessions"):
        start(walks_apart.tells_of_itself, lambda *step: told.append(step))
    assert told[-1] == (NICE, NICE, str(OOM_FIRST))


def test_a_death_is_said_in_a_line() -> None:
    with pytest.raises(ChildProcessError, match="exit status 9"):
        start(walks_apart.dies, lambda *_: None)


def test_it_ends_when_the_service_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "never")
    monkeypatch.setenv("NEVER", str(tmp_path / "never"))
    pids: list[int] = []

    def progress(_done: int, _total: int, what: str) -> None:
        if what.isdigit():
            pids.append(int(what))
        if len(pids) > 1:  # told once more, though nothing is said
            raise InterruptedError("the service was stopped")

    with pytest.raises(InterruptedError):
        start(walks_apart.hangs, progress)
    assert not psutil.pid_exists(pids[0])
