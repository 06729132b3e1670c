"""Keeps finished walk-forwards on disk: a folder per run, whole or absent."""

import io
import os
import shutil
from pathlib import Path

import polars as pl

from ml_service.files import fsync_folder, write_new
from ml_service.history import DAYS, IDLE, SAID, Run

SCHEMAS = {"days": DAYS, "said": SAID, "idle": IDLE}
DRAFT = ".draft-"
NAMED = "named-"
RUNS_KEPT_MAX = 12
"""A run is of tens of megabytes at most; the ones used least lately go first."""


class RunFiles:
    """The runs below a folder, by key."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def save(self, key: str, run: Run) -> None:
        """Keep a run; one that another process kept meanwhile stays. Raises OSError."""
        draft = self._root / f"{DRAFT}{key}-{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        for name in SCHEMAS:
            content = io.BytesIO()
            getattr(run, name).write_parquet(content, compression="zstd")
            write_new(draft / f"{name}.parquet", content.getvalue())
        fsync_folder(draft)
        try:
            draft.rename(self._root / key)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            if self.load(key) is None:
                raise
        fsync_folder(self._root)
        self._forget_oldest()

    def load(self, key: str) -> Run | None:
        """The run; None where there is none, or none that can be read: that is removed, so that it is made again."""
        folder = self._root / key
        if not folder.is_dir():
            return None
        try:
            frames = {name: pl.read_parquet(folder / f"{name}.parquet") for name in SCHEMAS}
            if any(frames[name].schema != schema for name, schema in SCHEMAS.items()):
                raise ValueError("columns of another version")
            os.utime(folder)
        except (OSError, ValueError, pl.exceptions.PolarsError):
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return Run(**frames)

    def name(self, key: str, other: str) -> None:
        """Let the run be found by another name, too. Raises OSError."""
        (self._root / key / f"{NAMED}{other}").touch()

    def named(self, other: str) -> Run | None:
        """The run of that other name; None where there is none that can be read."""
        found = next(self._root.glob(f"*/{NAMED}{other}"), None)
        return None if found is None else self.load(found.parent.name)

    def _forget_oldest(self) -> None:
        folders = [path for path in self._root.iterdir() if path.is_dir() and not path.name.startswith(DRAFT)]
        folders.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for folder in folders[RUNS_KEPT_MAX:]:
            shutil.rmtree(folder, ignore_errors=True)
