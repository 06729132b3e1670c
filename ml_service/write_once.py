"""Keep records that must not change: each file is written whole, once, and proves its own content when it is read.

A folder holds `<session>-<version>.<n>.<digest>.parquet`, n = 0 for a session's first rows and up for those that came
later. The digest is of the rest of the name and of the bytes, so a changed, cut or renamed file is noticed before it is
parsed. Nothing is deleted but the drafts that a crash left.
"""

import fcntl
import hashlib
import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl
import structlog

log = structlog.get_logger(__name__)

VERSION_CHARS = 12
DIGEST_CHARS = 32
PARTS_MAX = 50
FILE_BYTES_MAX = 16_000_000
_NAME = re.compile(
    rf"(\d{{4}}-\d\d-\d\d)-([0-9a-f]{{{VERSION_CHARS}}})\.(0|[1-9]\d*)\.([0-9a-f]{{{DIGEST_CHARS}}})\.parquet"
)


class DamagedError(Exception):
    """A file is not what was written; the message says which and why."""


@dataclass(frozen=True, order=True)
class Part:
    """One file: the session and model version that it is about, its number among those, and its digest."""

    session: date
    version: str
    number: int
    digest: str

    @property
    def name(self) -> str:
        return f"{self.session}-{self.version}.{self.number}.{self.digest}.parquet"

    @staticmethod
    def parse(name: str) -> "Part | None":
        """What a file's name says, or None where it is no part's name."""
        found = _NAME.fullmatch(name)
        try:
            return Part(date.fromisoformat(found[1]), found[2], int(found[3]), found[4]) if found else None
        except ValueError:
            return None

    @staticmethod
    def of(session: date, version: str, number: int, content: bytes) -> "Part":
        """The file that holds `content`."""
        sha256 = hashlib.sha256(f"{session}-{version}.{number}\0".encode() + content).hexdigest()
        return Part(session, version, number, sha256[:DIGEST_CHARS])


class WriteOnce:
    """One folder of such files, of one `schema`. `key` names the columns that tell a session's rows apart.

    Safe for several processes. Columns may be missing from a file (older code knew less); they read as null.
    """

    def __init__(
        self, root: Path, schema: pl.Schema, key: tuple[str, ...], on_damaged: Callable[[str], None] | None = None
    ) -> None:
        self.root, self.schema, self.key = root, schema, key
        self._on_damaged = on_damaged or (lambda _name: None)
        self._proven: dict[str, tuple[int, int]] = {}
        self._damaged: dict[str, tuple[int, int]] = {}

    def parts(self, first: date = date.min, last: date = date.max) -> list[Part]:
        """The files about sessions `first`..`last`, oldest first, whole or not."""
        try:
            names = os.listdir(self.root)
        except FileNotFoundError:
            return []
        found = (Part.parse(name) for name in names)
        return sorted(part for part in found if part and first <= part.session <= last)

    def whole(self, parts: list[Part]) -> list[Part]:
        """Those of `parts` that are what was written. Each other one is reported once and left where it is.

        Raises OSError where the disk or the system does not let one be read: that says nothing about the file.
        """
        return [part for part in parts if self._is_whole(part)]

    def read(self, parts: list[Part]) -> pl.DataFrame:
        """The rows of those parts that are whole. Raises OSError."""
        return self.scan(parts).collect()

    def scan(self, parts: list[Part]) -> pl.LazyFrame:
        """As `read`, lazily: only the columns and rows that are used leave the disk."""
        paths = [self.root / part.name for part in self.whole(parts)]
        if not paths:
            return pl.LazyFrame(schema=self.schema)
        return pl.scan_parquet(
            paths, schema=self.schema, missing_columns="insert", extra_columns="ignore", glob=False, low_memory=True
        )

    def add(self, session: date, version: str, rows: pl.DataFrame) -> int:
        """Write the rows whose key no part of this session and version holds yet; returns how many those are.

        What is there is never changed. Nothing is added beside a damaged part: it may hold the same keys. Raises
        OSError where the disk refuses.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with self._locked():
            own = [part for part in self.parts(session, session) if part.version == version]
            if len(self.whole(own)) != len(own) or len(own) >= PARTS_MAX:
                log.warning("record_not_extended", folder=self.root.name, session=str(session), version=version)
                return 0
            known = self.read(own).select(self.key)
            new = rows.unique(list(self.key), keep="first", maintain_order=True)
            new = new.join(known, on=list(self.key), how="anti", maintain_order="left")
            if new.height:
                self._write(session, version, own[-1].number + 1 if own else 0, new)
            return new.height

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time, in whatever process; what a crashed one left unfinished is cleared."""
        with (self.root / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for draft in self.root.glob(".draft-*"):
                draft.unlink(missing_ok=True)
            yield

    def _write(self, session: date, version: str, number: int, rows: pl.DataFrame) -> None:
        content = io.BytesIO()
        rows.write_parquet(content, compression="zstd")
        part = Part.of(session, version, number, content.getvalue())
        draft = self.root / f".draft-{part.name}"
        with draft.open("wb") as file:
            file.write(content.getvalue())
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self.root / part.name)
        folder = os.open(self.root, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _is_whole(self, part: Part) -> bool:
        try:
            status = (self.root / part.name).lstat()
        except FileNotFoundError:
            return False  # moved away since the folder was listed
        stamp = (status.st_size, status.st_mtime_ns)
        if self._proven.get(part.name) == stamp:
            return True
        if self._damaged.get(part.name) == stamp:
            return False
        try:
            self._prove(part)
        except DamagedError as error:
            self._damaged[part.name] = stamp
            log.error("record_damaged", folder=self.root.name, why=str(error))
            self._on_damaged(f"{self.root.name}/{part.name}")
            return False
        self._proven[part.name] = stamp
        return True

    def _prove(self, part: Part) -> None:
        path = self.root / part.name
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > FILE_BYTES_MAX:
            raise DamagedError(f"{part.name} is no plain file of at most {FILE_BYTES_MAX} bytes")
        content = path.read_bytes()
        if Part.of(part.session, part.version, part.number, content) != part:
            raise DamagedError(f"{part.name} was changed after it was written")
        try:
            schema = pl.read_parquet_schema(io.BytesIO(content))
        except pl.exceptions.PolarsError as error:
            raise DamagedError(f"{part.name} is no table") from error
        if any(self.schema.get(name, dtype) != dtype for name, dtype in schema.items()):
            raise DamagedError(f"{part.name} has other columns than this record")
