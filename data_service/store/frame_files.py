"""Reads and writes one table as one Parquet file, whole and exactly as declared."""

import os
from pathlib import Path

import polars as pl

from data_service.errors import StoreError
from data_service.files import TEMPORARY_PREFIX


def read_frame(path: Path, schema: pl.Schema) -> pl.DataFrame:
    """One stored file. Raises StoreError where it is damaged or of another shape.

    Files of before there was a `source` column were imported by hand.
    """
    try:
        frame = pl.read_parquet(path.read_bytes(), memory_map=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(f"{path} cannot be read: delete it and import its bars again") from error
    if "source" in schema and "source" not in frame.columns:
        frame = frame.with_columns(source=pl.lit("file"))
    if frame.schema != schema:
        raise StoreError(f"{path} has other columns than expected: delete it and import its bars again")
    return frame


def staged(path: Path, frame: pl.DataFrame) -> Path:
    """The frame written and flushed to disk beside `path`, to be renamed over it. Raises OSError."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    with temporary.open("wb") as file:
        frame.write_parquet(file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    return temporary
