"""The embedded store: one Parquet file per interval and year, replaced whole and in one step."""

import os
import re
from collections.abc import Callable, Hashable, Mapping
from datetime import date
from pathlib import Path

import polars as pl

from contracts.market import Interval
from data_service.files import exclusive
from data_service.sessions import ist_midnight_s
from data_service.store.base import Part, Stored, Upserted, described, in_years, merge
from data_service.store.frame_files import read_frame, staged
from data_service.store.schemas import BAR_KEY, BAR_SCHEMA

BARS_FILE = re.compile(rf"bars-({'|'.join(Interval)})-(\d{{4}})\.parquet")


class ParquetBars:
    """The folder of recorded bars. Reading needs no lock; writers take one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, interval: Interval, year: int) -> Path:
        return self.folder / f"bars-{interval}-{year}.parquet"

    def stamps(self) -> Mapping[Part, Hashable]:
        """See BarStore. A file's stamp is its time, size and inode."""
        found: dict[Part, Hashable] = {}
        try:
            entries = list(os.scandir(self.folder))
        except FileNotFoundError:
            return found
        for entry in entries:
            if match := BARS_FILE.fullmatch(entry.name):
                stat = entry.stat()
                found[Interval(match[1]), int(match[2])] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        return found

    def read(self, interval: Interval, year: int) -> pl.DataFrame:
        """See BarStore."""
        path = self._path(interval, year)
        return read_frame(path, BAR_SCHEMA) if path.exists() else pl.DataFrame(schema=BAR_SCHEMA)

    def upsert(self, interval: Interval, bars: pl.DataFrame) -> Upserted:
        """See BarStore. All files are written beside the old ones before the first is replaced. Raises OSError too."""
        total = Upserted()
        with exclusive(self.folder):
            ready: list[tuple[Path, Path]] = []
            for year, part in in_years(bars).items():
                merged, written, counts = merge(self.read(interval, year), part)
                total += counts
                if len(written):
                    path = self._path(interval, year)
                    ready.append((staged(path, merged), path))
            for temporary, path in ready:
                temporary.replace(path)
        return total

    def remove(self, interval: Interval, bars: pl.DataFrame) -> int:
        """See BarStore."""
        return self._keep(interval, lambda stored: stored.join(bars, on=BAR_KEY, how="anti"))

    def drop_before(self, interval: Interval, day: date) -> int:
        """See BarStore."""
        return self._keep(interval, lambda stored: stored.filter(pl.col("start") >= ist_midnight_s(day)))

    def _keep(self, interval: Interval, kept_of: Callable[[pl.DataFrame], pl.DataFrame]) -> int:
        """Write back of each year what `kept_of` leaves of it; returns how many bars went."""
        dropped = 0
        with exclusive(self.folder):
            for year in [year for of, year in self.stamps() if of is interval]:
                path, bars = self._path(interval, year), self.read(interval, year)
                kept = kept_of(bars)
                dropped += len(bars) - len(kept)
                if kept.is_empty():
                    path.unlink()
                elif len(kept) < len(bars):
                    staged(path, kept).replace(path)
        return dropped

    def status(self) -> list[Stored]:
        """See BarStore."""
        held: list[Stored] = []
        for interval in Interval:
            paths = [self._path(of, year) for of, year in self.stamps() if of is interval]
            frames = [read_frame(path, BAR_SCHEMA).select("symbol", "start") for path in paths]
            if frames:
                size_bytes = sum(path.stat().st_size for path in paths)
                held.append(described(interval, pl.concat(frames), size_bytes))
        return held
