"""The small tables beside the bars: corporate actions, the instrument master, and what the quality gate found."""

import os
from collections.abc import Hashable
from datetime import date
from fractions import Fraction
from pathlib import Path

import polars as pl

from contracts.market import ActionKind, Interval
from data_service.files import exclusive, write_atomically
from data_service.store.base import Upserted, year_of_start
from data_service.store.frame_files import read_frame, staged
from data_service.store.schemas import (
    ABSENCE_KEY,
    ABSENCE_SCHEMA,
    ACTION_KEY,
    ACTION_SCHEMA,
    INSTRUMENT_KEY,
    INSTRUMENT_SCHEMA,
    QUARANTINE_KEY,
    QUARANTINE_SCHEMA,
)

ACTION_TOLD_KEY = ["symbol", "ex_date", "kind", "source"]

FINDINGS_MAX = 200_000
"""The oldest findings beyond these are dropped: the file is rewritten whole."""

REPEATED_AFTER_DAYS = 15
"""Half of data_service.instruments.TICK_VALID_DAYS: what a source says every day is never thought old."""

TOLD_FILE = "actions-told"
LEGACY_FACTORS = "factors"
TABLES_READ = ("actions.parquet", "instruments.parquet", f"{LEGACY_FACTORS}.parquet")

FACTOR_SCHEMA = pl.Schema({"symbol": pl.String, "ex_date": pl.Date, "factor": pl.Float64})

RATIO_DENOMINATOR_MAX = 1000
"""A factor is a ratio of small whole numbers of shares: 0.2 is one for five, 0.6667 two for three."""


def factor_actions(factors: pl.DataFrame) -> pl.DataFrame:
    """Bare factors (FACTOR_SCHEMA: a price before the ex-date times `factor` is on the new scale) as ACTION_SCHEMA."""
    ratios = [Fraction(value).limit_denominator(RATIO_DENOMINATOR_MAX) for value in factors["factor"].to_list()]
    return factors.select(
        "symbol",
        pl.lit(None, pl.String).alias("isin"),
        "ex_date",
        pl.col("ex_date").alias("known_on"),
        pl.lit(ActionKind.SPLIT.value).alias("kind"),
        pl.Series("shares_before", [ratio.numerator for ratio in ratios], dtype=pl.Int64),
        pl.Series("shares_after", [ratio.denominator for ratio in ratios], dtype=pl.Int64),
        pl.lit(None, pl.Int64).alias("amount_paise"),
        pl.lit(None, pl.String).alias("new_symbol"),
        pl.format("factor {}", "factor").alias("subject"),
        pl.lit("file").alias("source"),
    ).cast(ACTION_SCHEMA)


class Facts:
    """Parquet files in the folder of the market, one per table. All methods raise StoreError where one is damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def signature(self) -> Hashable:
        """Changes whenever a table does; cheap enough for every request."""
        stats = []
        for name in TABLES_READ:
            try:
                stat = os.stat(self.folder / name)
            except FileNotFoundError:
                stats.append(None)
            else:
                stats.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(stats)

    def actions(self) -> pl.DataFrame:
        """All corporate actions (ACTION_SCHEMA), ordered by symbol and ex-date.

        Bare factors that an earlier version kept in a file of their own are among them.
        """
        actions, legacy = self._read("actions", ACTION_SCHEMA), self._path(LEGACY_FACTORS)
        if not legacy.exists():
            return actions
        factors = factor_actions(read_frame(legacy, FACTOR_SCHEMA)).join(actions, on=ACTION_KEY, how="anti")
        return pl.concat([actions, factors]).sort("symbol", "ex_date", maintain_order=True)

    def note_actions_told(self, day: date) -> None:
        """Remember that a source has told the actions of `day`. Raises OSError."""
        # Who holds the lock takes any file half written beside it for a dead writer's.
        with exclusive(self.folder):
            write_atomically(self.folder / TOLD_FILE, day.isoformat().encode())

    def actions_told(self) -> date | None:
        """The last day whose actions a source has told."""
        try:
            return date.fromisoformat((self.folder / TOLD_FILE).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def instruments(self) -> pl.DataFrame:
        """All that was said of instruments (INSTRUMENT_SCHEMA), ordered by symbol and day."""
        return self._read("instruments", INSTRUMENT_SCHEMA)

    def findings(self) -> pl.DataFrame:
        """What the quality gate found (QUARANTINE_SCHEMA), oldest first."""
        return self._read("findings", QUARANTINE_SCHEMA)

    def upsert_actions(self, rows: pl.DataFrame) -> Upserted:
        """Add or replace actions (ACTION_SCHEMA). Raises OSError too.

        What a source says of one kind of action of a share's ex-date replaces all it said of it before: a corrected
        ratio has another subject, and beside the old one it would count twice.
        """
        with exclusive(self.folder):
            return self._merged("actions", rows, ACTION_SCHEMA, ACTION_KEY, replaces=ACTION_TOLD_KEY)

    def replace_actions(self, rows: pl.DataFrame, source: str, after: date, through: date) -> Upserted:
        """As upsert_actions, and forget what `source` told of ex-dates after `after` up to `through` and tells no more:
        it was called off or put to another day. Changes of symbols stay: feeds of actions do not tell of them."""
        ahead = pl.col("ex_date").is_between(after, through, closed="right") & (pl.col("source") == source)
        withdrawn = ahead & (pl.col("kind") != ActionKind.RENAME)
        with exclusive(self.folder):
            return self._merged("actions", rows, ACTION_SCHEMA, ACTION_KEY, ACTION_TOLD_KEY, withdrawn)

    def upsert_instruments(self, rows: pl.DataFrame) -> Upserted:
        """Add what a source said of instruments on a day (INSTRUMENT_SCHEMA), where it is news. Raises OSError too.

        The same word as the one before it is news again after REPEATED_AFTER_DAYS: some of them are relied on only
        while they are repeated. A source's lists of one day complete each other: what one leaves out stays as told.
        """
        given = rows.select(list(INSTRUMENT_SCHEMA)).unique(INSTRUMENT_KEY, keep="last", maintain_order=True)
        with exclusive(self.folder):
            news = _news(given, self.instruments())
            counts = self._merged("instruments", news, INSTRUMENT_SCHEMA, INSTRUMENT_KEY)
        return counts + Upserted(unchanged=len(rows) - len(news))

    def add_findings(self, rows: pl.DataFrame) -> Upserted:
        """Add findings (QUARANTINE_SCHEMA); one found again keeps its first time, with its newest values. Raises
        OSError too."""
        with exclusive(self.folder):
            return self._merged("findings", _first_found(rows, self.findings()), QUARANTINE_SCHEMA, QUARANTINE_KEY)

    def replace_findings(self, interval: Interval, year: int, rows: pl.DataFrame) -> None:
        """Put `rows` (QUARANTINE_SCHEMA) in the place of all findings of the interval's bars of a year.

        What was found before keeps its first time. Raises OSError too.
        """
        with exclusive(self.folder):
            known = self.findings()
            of_part = (pl.col("interval") == interval) & (year_of_start() == year).fill_null(False)
            found = _first_found(rows.unique(QUARANTINE_KEY, maintain_order=True), known.filter(of_part))
            merged = pl.concat([known.filter(~of_part), found]).sort("found_at", maintain_order=True)
            staged(self._path("findings"), merged.tail(FINDINGS_MAX)).replace(self._path("findings"))

    def absences(self) -> pl.DataFrame:
        """Sessions of a symbol for which no provider had a bar (ABSENCE_SCHEMA)."""
        return self._read("absences", ABSENCE_SCHEMA)

    def add_absences(self, rows: pl.DataFrame) -> Upserted:
        """Note sessions without a bar (ABSENCE_SCHEMA); asked again, the later time counts. Raises OSError too."""
        return self._upsert("absences", rows, ABSENCE_SCHEMA, ABSENCE_KEY)

    def clear_findings(self, keys: pl.DataFrame) -> None:
        """Remove the quarantine of bars that were meanwhile stored (columns symbol, interval, start, source).

        Flags stay. Raises OSError too.
        """
        on = ["symbol", "interval", "start", "source"]
        if self._cleared(keys.select(on)) is None:
            return
        with exclusive(self.folder):
            kept = self._cleared(keys.select(on))
            if kept is not None:
                staged(self._path("findings"), kept).replace(self._path("findings"))

    def _cleared(self, keys: pl.DataFrame) -> pl.DataFrame | None:
        """The findings that stay, None where all do."""
        known, stored = self.findings(), keys.unique().with_columns(stored=True)
        beside = known.join(stored, on=keys.columns, how="left", nulls_equal=True, maintain_order="left")
        kept = beside.filter(~(pl.col("quarantined") & pl.col("stored").fill_null(False))).drop("stored")
        return kept if len(kept) < len(known) else None

    def _path(self, table: str) -> Path:
        return self.folder / f"{table}.parquet"

    def _read(self, table: str, schema: pl.Schema) -> pl.DataFrame:
        path = self._path(table)
        return read_frame(path, schema) if path.exists() else pl.DataFrame(schema=schema)

    def _upsert(self, table: str, rows: pl.DataFrame, schema: pl.Schema, key: list[str]) -> Upserted:
        with exclusive(self.folder):
            return self._merged(table, rows, schema, key)

    def _merged(
        self,
        table: str,
        rows: pl.DataFrame,
        schema: pl.Schema,
        key: list[str],
        replaces: list[str] | None = None,
        withdrawn: pl.Expr | None = None,
    ) -> Upserted:
        """Write rows over those with the same `replaces` (`key` where left out), without the `withdrawn` ones.

        Who calls holds the folder's lock.
        """
        given = rows.select(list(schema)).unique(key, keep="last", maintain_order=True)
        old = self._read(table, schema)
        same = len(given.join(old, on=list(schema), how="semi", nulls_equal=True))
        known = len(given.join(old, on=key, how="semi", nulls_equal=True))
        counts = Upserted(new=len(given) - known, changed=known - same, unchanged=same)
        staying = old if withdrawn is None else old.filter(~withdrawn)
        kept = staying.join(given, on=replaces or key, how="anti", nulls_equal=True)
        if counts.new or counts.changed or len(kept) + len(given) < len(old):
            merged = pl.concat([kept, given])
            merged = merged.tail(FINDINGS_MAX) if table == "findings" else merged.sort(key[:2], maintain_order=True)
            staged(self._path(table), merged).replace(self._path(table))
        return counts


def _news(given: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """Of what is said of instruments, completed by what the same source said that day, what is news beside `before`."""
    said = [name for name in INSTRUMENT_SCHEMA if name not in ("known_on", "symbol", "source")]
    of = ["symbol", "source"]
    beside = given.join(before, on=INSTRUMENT_KEY, how="left", suffix="_told", maintain_order="left")
    given = beside.with_columns(pl.coalesce(name, f"{name}_told") for name in said).select(list(INSTRUMENT_SCHEMA))
    known = before.join(given, on=INSTRUMENT_KEY, how="anti").with_columns(given=False)
    told = pl.concat([known, given.with_columns(given=True)]).sort(*of, "known_on", maintain_order=True)
    same = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(1).over(of)) for name in said)
    since = (pl.col("known_on") - pl.col("known_on").shift(1).over(of)).dt.total_days()
    repeats = (same & (since < REPEATED_AFTER_DAYS)).fill_null(False)
    return told.filter(pl.col("given") & ~repeats).drop("given")


def _first_found(rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """The findings with the time at which each was found first."""
    before = known.select(*QUARANTINE_KEY, first_at="found_at").unique(QUARANTINE_KEY)
    timed = rows.join(before, on=QUARANTINE_KEY, how="left", nulls_equal=True, maintain_order="left")
    return timed.with_columns(found_at=pl.coalesce("first_at", "found_at")).select(list(QUARANTINE_SCHEMA))
