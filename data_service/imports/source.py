"""Opens a file of any accepted packing and gives its table with line numbers, whatever its name says."""

import csv
import gzip
import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from data_service.errors import DataServiceError

LINE = "line"
SYMBOL_PATTERN = r"^[A-Z0-9][A-Z0-9&\-]{0,19}$"
CONTENT_BYTES_MAX = 1 << 30


class ImportRefusedError(DataServiceError):
    """The file was not imported; the message says why in one line."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """One row that cannot be imported; `line` counts a CSV's lines (header 1) or a Parquet file's rows from 1."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Table:
    """A file's rows. Column names are lower case and stripped; a CSV's values are strings; LINE is added."""

    frame: pl.DataFrame
    bad: list[BadRow]


def _limited(stream: io.BufferedIOBase) -> bytes:
    content = stream.read(CONTENT_BYTES_MAX + 1)
    if len(content) > CONTENT_BYTES_MAX:
        raise ImportRefusedError(f"more than {CONTENT_BYTES_MAX} bytes when unpacked")
    return content


def _unpacked(path: Path) -> bytes:
    """The content behind gzip or zip (first member), recognised by its first bytes."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic[:2] == b"\x1f\x8b":
        with gzip.open(path) as stream:
            return _limited(stream)
    if magic == b"PK\x03\x04":
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.lower().endswith((".csv", ".parquet"))]
            if len(members) != 1:
                raise ImportRefusedError(f"a zip must hold one CSV or Parquet file, this one holds {len(members)}")
            with archive.open(members[0]) as stream:
                return _limited(stream)  # pyright: ignore[reportArgumentType] - a binary reader all the same
    with path.open("rb") as file:
        return _limited(file)


def read_table(path: Path) -> Table:
    """Read CSV or Parquet, plain or packed. Raises ImportRefusedError where it is neither."""
    try:
        content = _unpacked(path)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise ImportRefusedError(f"cannot be read: {error}") from error
    return _parquet_table(content) if content[:4] == b"PAR1" else _csv_table(content)


def _parquet_table(content: bytes) -> Table:
    try:
        frame = pl.read_parquet(io.BytesIO(content))
    except pl.exceptions.PolarsError as error:
        raise ImportRefusedError("the Parquet file is damaged or cut off") from error
    names = _names(frame.columns)
    return Table(frame.rename(dict(zip(frame.columns, names, strict=True))).with_row_index(LINE, 1), [])


def _names(header: list[str]) -> list[str]:
    names = [name.strip().lower() for name in header]
    if len(set(names)) < len(names) or LINE in names:
        raise ImportRefusedError("the header names a column twice")
    return names


def _csv_table(content: bytes) -> Table:
    reader = csv.reader(io.StringIO(content.decode("utf-8-sig", errors="replace"), newline=""))
    try:
        header = next(reader, [])
        width = len(header)
        lines: list[int] = []
        rows: list[list[str]] = []
        bad: list[BadRow] = []
        for row in reader:
            if len(row) == width:
                lines.append(reader.line_num)
                rows.append(row)
            elif row:
                bad.append(BadRow(reader.line_num, f"{len(row)} fields instead of {width}"))
    except csv.Error as error:
        raise ImportRefusedError(f"line {reader.line_num}: not a CSV file ({error})") from error
    names = _names(header)
    columns = zip(*rows, strict=True) if rows else [()] * width
    series = [pl.Series(name, list(values), dtype=pl.String) for name, values in zip(names, columns, strict=True)]
    frame = pl.DataFrame([pl.Series(LINE, lines, dtype=pl.UInt32), *series])
    return Table(frame.with_columns(pl.col(pl.String).str.strip_chars()), bad)
