"""Reads lists of instruments (the exchange's, a broker's dump, one's own) and of changed symbols."""

from datetime import date
from pathlib import Path

import polars as pl

from data_service.actions import FeedError, parse_symbol_changes
from data_service.imports.source import LINE, SYMBOL_PATTERN, BadRow, ImportRefusedError, Table
from data_service.store.schemas import INSTRUMENT_SCHEMA

INSTRUMENTS, RENAMES = "instruments", "renames"

SPELLINGS: dict[str, tuple[str, ...]] = {
    "symbol": ("symbol", "tradingsymbol"),
    "name": ("name", "name of company", "security name"),
    "isin": ("isin", "isin number"),
    "series": ("series",),
    "tick": ("tick_size", "tick_size_rupees"),
    "lot_size": ("lot_size", "market lot"),
    "freeze_quantity": ("freeze_quantity",),
    "has_derivatives": ("has_derivatives", "cas"),
    "band": ("band", "band_pct"),
}
"""Column names (lower case) by property: NSE's EQUITY_L.csv and sec_list.csv, Kite's dump, and Sauda's own names."""

TELLING = {
    "isin number",
    "tick_size",
    "tick_size_rupees",
    "lot_size",
    "market lot",
    "has_derivatives",
    "band",
    "band_pct",
}
"""Columns that only a list of instruments has."""

YES, NO = ("y", "yes", "true", "1"), ("n", "no", "false", "0")
SERIES_SUFFIX = r"-(EQ|BE|BZ)$"


def is_instrument_list(columns: list[str], kind: str | None) -> bool:
    """Whether a table lists instruments and not prices."""
    present = set(columns)
    named = bool(present & set(SPELLINGS["symbol"])) and bool(present & TELLING) and "close" not in present
    return kind == INSTRUMENTS or (kind is None and named)


def read_instruments(table: Table, said_on: date) -> tuple[pl.DataFrame, list[BadRow]]:
    """The instruments of a list of `said_on` (INSTRUMENT_SCHEMA) and its bad rows. Raises ImportRefusedError."""
    columns = table.frame.columns
    found = {name: next((s for s in spellings if s in columns), None) for name, spellings in SPELLINGS.items()}
    if found["symbol"] is None:
        raise ImportRefusedError(f"a list of instruments needs a column symbol; found {', '.join(columns[:20])}")

    def text(name: str) -> pl.Expr:
        column = found[name]
        given = pl.lit(None, pl.String) if column is None else pl.col(column).cast(pl.String).str.strip_chars()
        return pl.when(given != "").then(given)

    source = (
        "kite"
        if "instrument_token" in columns
        else "nse"
        if {"isin number", "security name"} & set(columns)
        else "file"
    )
    frame = table.frame
    if source == "kite":
        frame = frame.filter((pl.col("segment") == "NSE") & (pl.col("tick_size").cast(pl.Float64, strict=False) > 0))
    symbol = text("symbol").str.to_uppercase()
    rows = frame.select(
        LINE,
        symbol=symbol.str.replace(SERIES_SUFFIX, "") if source == "kite" else symbol,
        name=text("name"),
        isin=text("isin"),
        series=text("series"),
        tick_paise=(text("tick").cast(pl.Float64, strict=False) * 100).round(),
        tick_text=text("tick"),
        lot_size=text("lot_size").cast(pl.Int64, strict=False),
        lot_text=text("lot_size"),
        freeze_quantity=text("freeze_quantity").cast(pl.Int64, strict=False),
        freeze_text=text("freeze_quantity"),
        flag_text=text("has_derivatives").str.to_lowercase(),
        band_pct=text("band").cast(pl.Float64, strict=False).round(),
    )
    reason = pl.coalesce(
        _when(~pl.col("symbol").str.contains(SYMBOL_PATTERN).fill_null(False), "symbol {} is not valid", "symbol"),
        _when(_unread("tick_paise", "tick_text") | (pl.col("tick_paise") < 1), "tick {} is no price", "tick_text"),
        _when(_unread("lot_size", "lot_text") | (pl.col("lot_size") < 1), "lot {} is no count", "lot_text"),
        _when(_unread("freeze_quantity", "freeze_text"), "freeze quantity {} is no count", "freeze_text"),
        _when(~pl.col("flag_text").is_in([*YES, *NO]), "{} is neither yes nor no", "flag_text"),
    )
    judged = rows.with_columns(
        reason=reason, has_derivatives=pl.col("flag_text").is_in(YES), known_on=pl.lit(said_on), source=pl.lit(source)
    ).with_columns(
        exchange=pl.when(pl.col("symbol").str.contains(r"^\d+$")).then(pl.lit("bse")).otherwise(pl.lit("nse"))
    )
    bad = [
        BadRow(line, why) for line, why in judged.filter(pl.col("reason").is_not_null()).select(LINE, "reason").rows()
    ]
    good = judged.filter(pl.col("reason").is_null()).select(list(INSTRUMENT_SCHEMA))
    return good.cast(INSTRUMENT_SCHEMA).unique("symbol", keep="first", maintain_order=True), bad


def _unread(value: str, text: str) -> pl.Expr:
    return pl.col(value).is_null() & pl.col(text).is_not_null()


def _when(wrong: pl.Expr, template: str, column: str) -> pl.Expr:
    return pl.when(wrong).then(pl.format(template, pl.col(column).fill_null("(missing)")))


def read_renames(path: Path) -> pl.DataFrame:
    """NSE's symbolchange.csv as ACTION_SCHEMA. Raises ImportRefusedError."""
    try:
        return parse_symbol_changes(path.read_text(encoding="utf-8-sig"), "nse")
    except (FeedError, OSError, UnicodeDecodeError) as error:
        raise ImportRefusedError(str(error)) from error
