"""Turns a file's table into checked bars or factors: every row is either exact integers or a line and a reason."""

from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import polars as pl

from contracts.market import Interval
from data_service.actions import parse_feed, unreadable_rows
from data_service.bars import INTERVAL_S
from data_service.imports.facts import INSTRUMENTS, RENAMES, is_instrument_list, read_instruments, read_renames
from data_service.imports.formats import (
    ACTIONS,
    PRICES,
    Layout,
    day_in_name,
    epoch_s,
    is_action_feed,
    layout_of,
    of_bse,
)
from data_service.imports.source import LINE, SYMBOL_PATTERN, BadRow, ImportRefusedError, Table, read_table
from data_service.sessions import EPOCH, IST_OFFSET_S, OPEN_USUAL_S, Sessions, ist_midnight_s
from data_service.store.facts import FACTOR_SCHEMA, factor_actions
from data_service.store.schemas import ACTION_SCHEMA, BAR_KEY, BAR_SCHEMA, INSTRUMENT_SCHEMA

PRICE_PAISE_MAX = 10**10
VOLUME_MAX = 10**13
YEAR_MIN, YEAR_MAX = 1990, 2100
DAY_S = 86_400
START_MIN_S = ist_midnight_s(date(YEAR_MIN, 1, 1))


@dataclass(frozen=True, slots=True)
class Checked:
    """A file's good rows (BAR_SCHEMA, or ACTION_SCHEMA where `interval` is None), its bad ones, and what it says of the
    instruments themselves (INSTRUMENT_SCHEMA)."""

    kind: str
    interval: Interval | None
    rows: pl.DataFrame
    bad: list[BadRow]
    notes: list[str]
    instruments: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=INSTRUMENT_SCHEMA))


def read_checked(
    path: Path,
    sessions: Sessions,
    *,
    said_on: date | None = None,
    kind: str | None = None,
    interval: Interval | None = None,
) -> Checked:
    """Read and check one file; `kind` and `interval` override what its content suggests, `said_on` is the day of a list
    of instruments. Raises ImportRefusedError."""
    if kind == RENAMES:
        return Checked(RENAMES, None, read_renames(path), [], [])
    table = read_table(path)
    if is_instrument_list(table.frame.columns[1:], kind):
        if said_on is None:
            raise ImportRefusedError("of which day is this list of instruments?")
        instruments, bad = read_instruments(table, said_on)
        nothing = pl.DataFrame(schema=ACTION_SCHEMA)
        return Checked(INSTRUMENTS, None, nothing, sorted(table.bad + bad, key=lambda row: row.line), [], instruments)
    if is_action_feed(table.frame.columns[1:], kind):
        return _checked_feed(table)
    layout = layout_of(table.frame.columns[1:], kind)
    if layout is None:
        return _checked_factors(table)
    return _checked_bars(path, table, layout, sessions, interval)


def _checked_bars(path: Path, table: Table, layout: Layout, sessions: Sessions, interval: Interval | None) -> Checked:
    if layout.kind == "udiff" and "src" in table.frame.columns and (table.frame["src"] == "BSE").any():
        layout = of_bse(layout)
    frame = _of_series(table.frame, layout)
    rows = frame.select(LINE, *_standard(frame, layout, path))
    found = interval or (Interval.DAY_1 if layout.daily else interval_of(rows))
    if found is Interval.DAY_1:
        rows = rows.with_columns(_session_open(rows["start"], sessions))
    rows = rows.with_columns(reason=_bar_reason(found))
    bad = table.bad + _bad_rows(rows)
    good = rows.filter(pl.col("reason").is_null())
    return Checked(
        layout.kind,
        found,
        _paise(good, layout.source),
        sorted(bad, key=lambda row: row.line),
        _notes(good, sessions),
        _instruments(frame, layout, rows),
    )


def _instruments(frame: pl.DataFrame, layout: Layout, rows: pl.DataFrame) -> pl.DataFrame:
    """What an exchange's file says of its shares; other files are not asked."""
    if layout.source == "file":
        return pl.DataFrame(schema=INSTRUMENT_SCHEMA)
    said = {"isin": layout.isin, "name": layout.title, "series": layout.series_column}
    columns = [pl.col(source).alias(name) for name, source in said.items() if source in frame.columns]
    day = pl.from_epoch(pl.col("start") + IST_OFFSET_S).dt.date()
    known = frame.select(columns).with_columns(rows["symbol"], rows.select(known_on=day)["known_on"])
    known = known.filter(rows["reason"].is_null()).with_columns(
        exchange=pl.lit(layout.source), source=pl.lit(layout.source)
    )
    absent = [pl.lit(None, kind).alias(name) for name, kind in INSTRUMENT_SCHEMA.items() if name not in known.columns]
    return known.with_columns(absent).select(list(INSTRUMENT_SCHEMA)).cast(INSTRUMENT_SCHEMA)


def _of_series(frame: pl.DataFrame, layout: Layout) -> pl.DataFrame:
    if layout.series_column is None:
        return frame
    kept = frame.filter(pl.col(layout.series_column).is_in(layout.series))
    if kept.is_empty():
        raise ImportRefusedError(f"no row of series {' or '.join(layout.series)}")
    return kept


def _standard(frame: pl.DataFrame, layout: Layout, path: Path) -> list[pl.Expr]:
    """symbol, start (s), four prices in paise and volume as floats, and each value's text for messages."""
    if layout.when:
        start = epoch_s(layout.when, frame.schema[layout.when])
        when_text = pl.col(layout.when).cast(pl.String)
    else:
        day = day_in_name(path.name)
        start, when_text = pl.lit(ist_midnight_s(day)), pl.lit(day.isoformat())
    sources = {**dict(zip(PRICES, layout.prices, strict=True)), "volume": layout.volume}
    missing = None if layout.unit == 100 else -1
    numbers: list[pl.Expr] = []
    for name, source in sources.items():
        number = pl.col(source).cast(pl.Float64, strict=False)
        known = number if missing is None else pl.when(number != missing).then(number)
        numbers.append((known * (1 if name == "volume" else layout.unit)).alias(name))
        numbers.append(pl.col(source).cast(pl.String).alias(f"{name}_text"))
    symbol = pl.col(layout.symbol).cast(pl.String).str.strip_chars().str.to_uppercase().alias("symbol")
    return [symbol, start.alias("start"), when_text.alias("when_text"), *numbers]


def interval_of(rows: pl.DataFrame) -> Interval:
    """The interval by the smallest step between one symbol's bars. Raises ImportRefusedError where it is not clear."""
    local_s = (pl.col("start") + IST_OFFSET_S) % DAY_S
    plausible = rows.filter(pl.col("start") >= START_MIN_S)
    if plausible.select((local_s == 0).all()).item():
        return Interval.DAY_1
    steps = plausible.select(pl.col("start").unique().sort().diff().over("symbol", mapping_strategy="explode"))
    smallest = steps.filter(pl.col("start") > 0)["start"].min()
    for interval, length_s in INTERVAL_S.items():
        if smallest == length_s:
            return interval
    raise ImportRefusedError(f"bars are {smallest} s apart, which is no known interval: say --interval 1m, 5m or 1d")


def _session_open(start: pl.Series, sessions: Sessions) -> pl.Series:
    """Daily bars are named by their session's open: days to that instant, null where the day is out of range."""
    number = (start + IST_OFFSET_S) // DAY_S
    usual = number * DAY_S - IST_OFFSET_S + OPEN_USUAL_S
    known = {(day - EPOCH).days: session.open_s for day, session in sessions.by_day.items()}
    unusual = {day: open_s for day, open_s in known.items() if open_s != day * DAY_S - IST_OFFSET_S + OPEN_USUAL_S}
    frame = pl.DataFrame({"number": number, "start": usual})
    mapped = pl.col("number").replace_strict(unusual, default=pl.col("start"), return_dtype=pl.Int64)
    return frame.select(start=mapped)["start"]


def _bar_reason(interval: Interval) -> pl.Expr:
    """The first thing wrong with a row, null where nothing is."""
    low, high, close, volume = pl.col("low"), pl.col("high"), pl.col("close"), pl.col("volume")
    year = pl.from_epoch(pl.col("start") + IST_OFFSET_S).dt.year()
    length_s = INTERVAL_S.get(interval)
    # Sessions open on a multiple of five minutes; longer bars are counted from there, not from the full hour.
    aligned = pl.lit(True) if length_s is None else pl.col("start") % min(length_s, 300) == 0
    open_ = pl.col("open")
    checks: list[tuple[pl.Expr, pl.Expr]] = [
        (~pl.col("symbol").str.contains(SYMBOL_PATTERN).fill_null(False), _said("symbol {} is not valid", "symbol")),
        (pl.col("start").is_null(), _said("date or time {} cannot be read", "when_text")),
        (~year.is_between(YEAR_MIN, YEAR_MAX), _said("date {} is out of range", "when_text")),
        (~aligned, _said(f"start {{}} is not on a {interval} boundary", "when_text")),
        *((~pl.col(name).is_finite().fill_null(False), _said(f"{name} {{}} is not a number", f"{name}_text"))
          for name in (*PRICES, "volume")),
        *((pl.col(name).round() < 1, _said(f"{name} {{}} is not positive", f"{name}_text")) for name in PRICES),
        *((pl.col(name) > PRICE_PAISE_MAX, _said(f"{name} {{}} is too large", f"{name}_text")) for name in PRICES),
        (volume < 0, _said("volume {} is negative", "volume_text")),
        ((volume != volume.floor()) | (volume > VOLUME_MAX), _said("volume {} is no count of shares", "volume_text")),
        (high < low, _said("high {} is below low {}", "high_text", "low_text")),
        (~close.is_between(low, high), _said("close {} is outside {} to {}", "close_text", "low_text", "high_text")),
        (~open_.is_between(low, high), _said("open {} is outside {} to {}", "open_text", "low_text", "high_text")),
        (~pl.struct(BAR_KEY).is_first_distinct(), _said("{} {} is there twice", "symbol", "when_text")),
    ]  # fmt: skip
    return pl.coalesce(*(pl.when(wrong).then(reason) for wrong, reason in checks))


def _said(template: str, *columns: str) -> pl.Expr:
    return pl.format(template, *(pl.col(column).fill_null("(missing)") for column in columns))


def _bad_rows(rows: pl.DataFrame) -> list[BadRow]:
    bad = rows.filter(pl.col("reason").is_not_null()).select(LINE, "reason")
    return [BadRow(line, reason) for line, reason in bad.iter_rows()]


def _paise(good: pl.DataFrame, source: str) -> pl.DataFrame:
    whole = [pl.col(name).round().cast(pl.Int64) for name in (*PRICES, "volume")]
    return good.select("symbol", "start", *whole, source=pl.lit(source)).cast(BAR_SCHEMA)


def _notes(good: pl.DataFrame, sessions: Sessions) -> list[str]:
    """What the file's owner should know although nothing is wrong enough to refuse."""
    off = pl.any_horizontal((pl.col(name) - pl.col(name).round()).abs() > 0.05 for name in PRICES)
    number = (pl.col("start") + IST_OFFSET_S) // DAY_S
    days = [(day - EPOCH).days for day in sessions.by_day]
    closed = number.is_between(min(days), max(days)) & ~number.is_in(days)
    rounded, phantom = good.select(off.sum().alias("rounded"), closed.sum().alias("closed")).row(0)
    notes: list[str] = []
    if rounded:
        notes.append(f"{rounded} rows had prices finer than a paisa, now rounded")
    if phantom:
        notes.append(f"{phantom} rows are of days on which the calendar has no session")
    return notes


def _checked_feed(table: Table) -> Checked:
    frame, lines = table.frame.drop(LINE), table.frame[LINE].to_list()
    bad = [BadRow(lines[row], reason) for row, reason in unreadable_rows(frame)]
    return Checked(ACTIONS, None, parse_feed(frame, "nse"), sorted(table.bad + bad, key=lambda row: row.line), [])


def _checked_factors(table: Table) -> Checked:
    frame = table.frame
    seconds = epoch_s("exdate", frame.schema["exdate"])
    rows = frame.select(
        LINE,
        symbol=pl.col("symbol").cast(pl.String).str.strip_chars().str.to_uppercase(),
        ex_date=pl.from_epoch(seconds + IST_OFFSET_S).dt.date(),
        factor=pl.col("factor").cast(pl.Float64, strict=False),
        when_text=pl.col("exdate").cast(pl.String),
        factor_text=pl.col("factor").cast(pl.String),
    )
    checks = [
        (~pl.col("symbol").str.contains(SYMBOL_PATTERN).fill_null(False), _said("symbol {} is not valid", "symbol")),
        (pl.col("ex_date").is_null(), _said("ex-date {} cannot be read", "when_text")),
        (~pl.col("factor").is_finite().fill_null(False), _said("factor {} is not a number", "factor_text")),
        (~pl.col("factor").is_between(1e-6, 1e6), _said("factor {} is out of range", "factor_text")),
        (~pl.struct("symbol", "ex_date").is_first_distinct(), _said("{} {} is there twice", "symbol", "when_text")),
    ]
    rows = rows.with_columns(reason=pl.coalesce(*(pl.when(wrong).then(reason) for wrong, reason in checks)))
    good = factor_actions(rows.filter(pl.col("reason").is_null()).select(list(FACTOR_SCHEMA)))
    return Checked("factors", None, good, sorted(table.bad + _bad_rows(rows), key=lambda row: row.line), [])
