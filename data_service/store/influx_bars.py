"""Bars in InfluxDB 2, in place of the embedded files: one point per bar, and a version per part that readers watch."""

import io
from collections.abc import Callable, Hashable, Mapping
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import polars as pl
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.domain.dialect import Dialect
from influxdb_client.rest import ApiException
from urllib3.exceptions import HTTPError

from contracts.market import Interval
from data_service.errors import StoreError
from data_service.sessions import ist_midnight_s
from data_service.store.base import Part, Stored, Upserted, described, in_years, merge
from data_service.store.schemas import BAR_KEY, BAR_SCHEMA

LINES_PER_WRITE = 5_000
"""The size of batch that the server's documentation recommends."""

STAMPS_KEPT_S = 2.0
"""How long an import by another process may stay unseen: the versions are asked for no more often."""

NUMBERS = ("open", "high", "low", "close", "volume")


class InfluxBars:
    """Measurement `bars`: tags interval and symbol, integer fields in paise and shares, the source; time in seconds.

    Measurement `parts` holds one point per interval and year with the part's version. A writer changes the version
    before and after its points, so that a reader who decoded in between decodes again. Writers of the same part at once
    are not kept apart: the last one wins bar by bar.
    """

    def __init__(
        self, url: str, token: str, org: str, bucket: str, *, timeout_s: float, monotonic_s: Callable[[], float]
    ) -> None:
        self._client = InfluxDBClient(url, token, org=org, timeout=round(timeout_s * 1000), enable_gzip=True)
        self._writes = self._client.write_api(write_options=SYNCHRONOUS)
        self._bucket, self._org, self._monotonic_s = bucket, org, monotonic_s
        self._stamps: tuple[float, Mapping[Part, Hashable]] | None = None

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def stamps(self) -> Mapping[Part, Hashable]:
        """See BarStore; at most STAMPS_KEPT_S old, except for this process's own writes."""
        now_s = self._monotonic_s()
        if self._stamps is None or now_s - self._stamps[0] > STAMPS_KEPT_S:
            rows = self._rows('r._measurement == "parts"', _rfc3339(0), _rfc3339(_year_start_s(2200)))
            parts = zip(rows["interval"], rows["year"], rows["version"], strict=True) if len(rows) else ()
            self._stamps = now_s, {(Interval(of), int(year)): version for of, year, version in parts}
        return self._stamps[1]

    def read(self, interval: Interval, year: int) -> pl.DataFrame:
        """See BarStore."""
        span = _rfc3339(_year_start_s(year)), _rfc3339(_year_start_s(year + 1))
        rows = self._rows(f'r._measurement == "bars" and r.interval == "{interval}"', *span)
        if rows.is_empty():
            return pl.DataFrame(schema=BAR_SCHEMA)
        start = pl.col("_time").str.to_datetime("%+", time_zone="UTC").dt.epoch("s").alias("start")
        return rows.select("symbol", start, *NUMBERS, "source").cast(BAR_SCHEMA).sort("symbol", "start")  # pyright: ignore[reportArgumentType]

    def upsert(self, interval: Interval, bars: pl.DataFrame) -> Upserted:
        """See BarStore."""
        total = Upserted()
        for year, part in in_years(bars).items():
            _, written, counts = merge(self.read(interval, year), part)
            total += counts
            if len(written):
                self._announce(interval, year)
                for batch in written.iter_slices(LINES_PER_WRITE):
                    self._write(_lines(interval, batch))
                self._announce(interval, year)
        return total

    def remove(self, interval: Interval, bars: pl.DataFrame) -> int:
        """See BarStore."""
        removed = 0
        for year, wanted in in_years(bars).items():
            gone = self.read(interval, year).join(wanted, on=BAR_KEY, how="semi")
            removed += len(gone)
            if len(gone):
                self._announce(interval, year)
                for symbol, start_s in gone.select(BAR_KEY).iter_rows():
                    self._delete(interval, start_s, start_s + 1, symbol)
                self._announce(interval, year)
        return removed

    def drop_before(self, interval: Interval, day: date) -> int:
        """See BarStore."""
        dropped, limit_s = 0, ist_midnight_s(day)
        for of, year in sorted(self.stamps()):
            if of is interval and year <= day.year:
                gone = self.read(interval, year).filter(pl.col("start") < limit_s)
                dropped += len(gone)
                if len(gone):
                    self._announce(interval, year)
                    self._delete(interval, _year_start_s(year), min(limit_s, _year_start_s(year + 1)))
                    self._announce(interval, year)
        return dropped

    def status(self) -> list[Stored]:
        """See BarStore; the server does not tell sizes."""
        held: list[Stored] = []
        for interval in Interval:
            years = [year for of, year in self.stamps() if of is interval]
            frames = [rows for year in years if len(rows := self.read(interval, year).select("symbol", "start"))]
            if frames:
                held.append(described(interval, pl.concat(frames), None))
        return held

    def _announce(self, interval: Interval, year: int) -> None:
        """Give the part a version it never had."""
        self._stamps = None
        self._write([f'parts,interval={interval},year={year} version="{uuid4().hex}" 0'])

    def _rows(self, condition: str, start: str, stop: str) -> pl.DataFrame:
        """The points as rows: _time, the tags and the fields as columns; all text but for what looks like integers."""
        flux = f"""from(bucket: "{self._bucket}")
  |> range(start: {start}, stop: {stop})
  |> filter(fn: (r) => {condition})
  |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
  |> group()
  |> drop(columns: ["_start", "_stop", "_measurement"])"""
        try:
            reply = self._client.query_api().query_raw(flux, dialect=Dialect(header=True, annotations=[]))
            content = reply.data if hasattr(reply, "data") else reply.read()
            return _table(content)
        except (ApiException, HTTPError, OSError, pl.exceptions.PolarsError) as error:
            raise _store_error(error) from error

    def _write(self, lines: list[str]) -> None:
        try:
            self._writes.write(self._bucket, record=lines, write_precision="s")  # pyright: ignore[reportArgumentType] - the enum is not one
        except (ApiException, HTTPError, OSError) as error:
            raise _store_error(error) from error

    def _delete(self, interval: Interval, from_s: int, until_s: int, symbol: str | None = None) -> None:
        predicate = f'_measurement="bars" AND interval="{interval}"' + (f' AND symbol="{symbol}"' if symbol else "")
        start, stop = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=at) for at in (from_s, until_s - 1))
        try:
            self._client.delete_api().delete(start, stop, predicate, bucket=self._bucket, org=self._org)
        except (ApiException, HTTPError, OSError) as error:
            raise _store_error(error) from error


def _table(content: bytes) -> pl.DataFrame:
    """The server's CSV, which ends with an empty line."""
    rows = pl.read_csv(io.BytesIO(content), infer_schema_length=None) if content.strip() else pl.DataFrame()
    return rows.filter(pl.col("_time").is_not_null()) if "_time" in rows.columns else rows


def _store_error(error: Exception) -> StoreError:
    """One line without the server's page."""
    if isinstance(error, ApiException):
        return StoreError(f"InfluxDB answered {error.status} {error.reason}: check INFLUXDB_URL, its token and bucket")
    return StoreError(f"InfluxDB did not give a usable answer: {type(error).__name__}")


def _year_start_s(year: int) -> int:
    """00:00 IST of the first of January."""
    return ist_midnight_s(date(year, 1, 1))


def _rfc3339(epoch_s: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=epoch_s)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _lines(interval: Interval, bars: pl.DataFrame) -> list[str]:
    """Bars in line protocol. Symbols hold none of the characters that it wants escaped (contracts.common.Symbol)."""
    fields = [pl.format(f"{name}={{}}i", name) for name in NUMBERS]
    line = pl.format(
        "bars,interval={},symbol={} {},source=\"{}\" {}",
        pl.lit(interval.value), "symbol", pl.concat_str(fields, separator=","), "source", "start",
    )  # fmt: skip
    return bars.select(line=line)["line"].to_list()
