"""Imported bars and factors on disk: one Parquet file per interval and year, replaced whole and in one step."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl

from contracts.market import Interval
from data_service.errors import StoreError
from data_service.files import TEMPORARY_PREFIX
from data_service.sessions import IST_OFFSET_S, ist_instant

BAR_SCHEMA = pl.Schema(
    {"symbol": pl.String, "start": pl.Int64} | dict.fromkeys(("open", "high", "low", "close", "volume"), pl.Int64)
)
"""`start` is seconds since 1970-01-01 UTC (a daily bar's is its session's open), prices are paise, volume shares."""

FACTOR_SCHEMA = pl.Schema({"symbol": pl.String, "ex_date": pl.Date, "factor": pl.Float64})
BAR_KEY = ["symbol", "start"]
FACTOR_KEY = ["symbol", "ex_date"]
FACTORS_FILE = "factors.parquet"
BARS_FILE = re.compile(r"bars-(1m|5m|1d)-(\d{4})\.parquet")

Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Upserted:
    """How many rows an import added, replaced by other values, and found as they were."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0

    def __add__(self, other: "Upserted") -> "Upserted":
        return Upserted(self.new + other.new, self.changed + other.changed, self.unchanged + other.unchanged)


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store holds of one interval."""

    interval: Interval
    symbols: int
    from_: date
    through: date
    rows: int
    size_bytes: int


def read_frame(path: Path, schema: pl.Schema) -> pl.DataFrame:
    """One stored file. Raises StoreError where it is damaged or of another shape."""
    try:
        frame = pl.read_parquet(path.read_bytes(), memory_map=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(f"{path} cannot be read: delete it and import its bars again") from error
    if frame.schema != schema:
        raise StoreError(f"{path} has other columns than expected: delete it and import its bars again")
    return frame


class BarStore:
    """The folder of recorded data. Reading needs no lock; writers take one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def signature(self) -> Signature:
        """Changes whenever any stored file does; cheap enough for every request."""
        try:
            entries = [entry for entry in os.scandir(self.folder) if entry.name.endswith(".parquet")]
        except FileNotFoundError:
            return ()
        found = ((entry.name, entry.stat()) for entry in entries if not entry.name.startswith("."))
        return tuple(sorted((name, stat.st_mtime_ns, stat.st_size, stat.st_ino) for name, stat in found))

    def upsert_bars(self, interval: Interval, bars: pl.DataFrame) -> Upserted:
        """Merge bars (BAR_SCHEMA, unique keys) into the years they belong to; the given rows win.

        All files are written beside the old ones before the first is replaced. Raises StoreError, OSError.
        """
        year = pl.from_epoch(pl.col("start") + IST_OFFSET_S).dt.year().alias("year")
        years = bars.with_columns(year).partition_by("year", as_dict=True, include_key=False)
        parts = {f"bars-{interval}-{key[0]}.parquet": part for key, part in years.items()}
        return self._upsert(parts, BAR_KEY, BAR_SCHEMA)

    def upsert_factors(self, factors: pl.DataFrame) -> Upserted:
        """Merge factors (FACTOR_SCHEMA, unique keys); the given rows win. Raises StoreError, OSError."""
        return self._upsert({FACTORS_FILE: factors}, FACTOR_KEY, FACTOR_SCHEMA)

    def _upsert(self, parts: dict[str, pl.DataFrame], key: list[str], schema: pl.Schema) -> Upserted:
        total = Upserted()
        with self._locked():
            staged: list[tuple[Path, Path]] = []
            for name, part in parts.items():
                path = self.folder / name
                old = read_frame(path, schema) if path.exists() else pl.DataFrame(schema=schema)
                merged, count = merge(old, part.select(list(schema)), key)
                total += count
                if count.new or count.changed:
                    staged.append((_staged(path, merged), path))
            for temporary, path in staged:
                temporary.replace(path)
        return total

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
                leftover.unlink()
            yield

    def bar_files(self) -> dict[tuple[Interval, int], Path]:
        """The stored files by interval and year."""
        found = ((BARS_FILE.fullmatch(path.name), path) for path in sorted(self.folder.glob("bars-*.parquet")))
        return {(Interval(match[1]), int(match[2])): path for match, path in found if match}

    def factors(self) -> pl.DataFrame:
        """All factors (FACTOR_SCHEMA), ordered by symbol and ex-date. Raises StoreError."""
        path = self.folder / FACTORS_FILE
        return read_frame(path, FACTOR_SCHEMA) if path.exists() else pl.DataFrame(schema=FACTOR_SCHEMA)

    def status(self) -> list[Stored]:
        """What is stored per interval. Raises StoreError."""
        files = self.bar_files()
        held: list[Stored] = []
        for interval in Interval:
            paths = [path for (of, _), path in files.items() if of is interval]
            frames = [read_frame(path, BAR_SCHEMA).select("symbol", "start") for path in paths]
            if frames:
                bars = pl.concat(frames)
                first, last = bars["start"].min(), bars["start"].max()
                assert isinstance(first, int)  # noqa: S101 - files are never empty
                assert isinstance(last, int)  # noqa: S101
                days = ist_instant(first).date(), ist_instant(last).date()
                size_bytes = sum(path.stat().st_size for path in paths)
                held.append(Stored(interval, bars["symbol"].n_unique(), *days, len(bars), size_bytes))
        return held


def merge(old: pl.DataFrame, given: pl.DataFrame, key: list[str]) -> tuple[pl.DataFrame, Upserted]:
    """`old` with `given` rows replacing those of the same key, ordered by key, and what that changed."""
    unchanged = len(given.join(old, on=given.columns, how="semi"))
    known = len(given.join(old, on=key, how="semi"))
    kept = old.join(given, on=key, how="anti")
    merged = pl.concat([kept, given]).sort(key)
    return merged, Upserted(new=len(given) - known, changed=known - unchanged, unchanged=unchanged)


def _staged(path: Path, frame: pl.DataFrame) -> Path:
    """The frame written and flushed to disk beside `path`."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    with temporary.open("wb") as file:
        frame.write_parquet(file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    return temporary
