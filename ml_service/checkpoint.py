"""Keep the scores of finished folds, so that a training that was stopped continues where it stood."""

import os
import shutil
import zipfile
from pathlib import Path
from typing import Protocol

import numpy as np

from ml_service.files import fsync_folder


class Checkpoint(Protocol):
    def load(self, strategy: str, start: int) -> dict[str, np.ndarray] | None:
        """The arrays kept for a fold, or None."""
        ...

    def save(self, strategy: str, start: int, arrays: dict[str, np.ndarray]) -> None:
        """Keep a fold's arrays."""
        ...


class NoCheckpoint:
    """Keeps nothing."""

    def load(self, strategy: str, start: int) -> dict[str, np.ndarray] | None:  # noqa: ARG002
        return None

    def save(self, strategy: str, start: int, arrays: dict[str, np.ndarray]) -> None: ...


no_checkpoint = NoCheckpoint()


class FolderCheckpoint:
    """One file per fold below `folder`, whose name must tell the data, the code and the horizon apart.

    A file is whole or absent: it is written beside its place and renamed. One that cannot be read is made again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, strategy: str, start: int) -> Path:
        return self.folder / f"{strategy}-{start}.npz"

    def load(self, strategy: str, start: int) -> dict[str, np.ndarray] | None:
        try:
            with np.load(self._path(strategy, start), allow_pickle=False) as kept:
                return {name: kept[name] for name in kept.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None

    def save(self, strategy: str, start: int, arrays: dict[str, np.ndarray]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(strategy, start)
        draft = path.with_name(f".{path.stem}-{os.getpid()}.npz")
        np.savez(draft, **arrays)  # pyright: ignore[reportArgumentType] - names of heads, none is a parameter of savez
        draft.replace(path)
        fsync_folder(self.folder)

    def clear(self) -> None:
        """Remove what was kept."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def clear_others(self) -> None:
        """Remove what was kept of other runs of the same kind: folders beside this one that are named alike."""
        kind, _, _ = self.folder.name.rpartition("-")
        for other in self.folder.parent.glob(f"{kind}-*"):
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)
