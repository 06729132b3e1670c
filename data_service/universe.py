"""Which shares to look at as of a day, chosen by nothing that was known only later."""

import csv
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

import polars as pl

from contracts.market import ActionKind
from data_service.actions import names_of
from data_service.errors import DataServiceError
from data_service.sessions import IST_OFFSET_S
from data_service.store.schemas import ACTION_SCHEMA

NIFTY50_FILE = Path(__file__).parent / "reference" / "nifty50.csv"
NIFTY50_KNOWN_FROM = date(2019, 1, 1)
NIFTY50_KNOWN_THROUGH = date(2026, 3, 29)
"""The index is reviewed twice a year; what was decided for later days is not in the file."""

DEFAULT = ("RELIANCE", "TCS", "INFY", "HDFCBANK", "ICICIBANK")
SESSIONS_TRAILING = 126
"""Half a year of sessions."""

NO_ACTIONS = pl.DataFrame(schema=ACTION_SCHEMA)


class UniverseError(DataServiceError):
    """The members of a universe on that day are not known."""


@dataclass(frozen=True, slots=True)
class Members:
    """The members in the universe's order; `note` says what is not certain about them."""

    symbols: tuple[str, ...]
    note: str = ""


def default() -> Members:
    """Five large shares, the same on every day: for trying things out, not for judging a strategy by."""
    return Members(DEFAULT, "Five of today's largest shares: chosen knowing how they fared.")


@cache
def _memberships(path: Path) -> tuple[tuple[str, date, date], ...]:
    """(symbol, from, through) of the file; a through that is not told is date.max."""
    with path.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(line for line in lines if not line.startswith("#"))
        return tuple(
            (row["symbol"], date.fromisoformat(row["from"]), date.fromisoformat(row["through"] or date.max.isoformat()))
            for row in rows
        )


def nifty50(day: date, path: Path = NIFTY50_FILE) -> Members:
    """The index's members on `day` under their symbols of then, in alphabetical order.

    Raises UniverseError before the file begins: today's members would be the winners of the time in between.
    """
    if day < NIFTY50_KNOWN_FROM:
        raise UniverseError(f"the NIFTY 50 is known from {NIFTY50_KNOWN_FROM} on, not on {day}")
    symbols = sorted(symbol for symbol, from_, through in _memberships(path) if from_ <= day <= through)
    note = f"Members of {NIFTY50_KNOWN_THROUGH}: later changes are not known." if day > NIFTY50_KNOWN_THROUGH else ""
    return Members(tuple(symbols), note)


def top_by_turnover(
    bars: pl.DataFrame,
    as_of_day: date,
    n: int,
    sessions: int = SESSIONS_TRAILING,
    actions: pl.DataFrame = NO_ACTIONS,
) -> Members:
    """The `n` shares with the largest turnover over the last `sessions` sessions up to `as_of_day`, largest first.

    `bars` are daily (BAR_SCHEMA, unadjusted, one source per bar), `actions` (ACTION_SCHEMA) tell of renames. Only
    shares with a bar on the last of these sessions are members, delisted ones of today among them, under their symbol
    of that day; nothing later than `as_of_day` is read.
    """
    day = pl.from_epoch(pl.col("start") + IST_OFFSET_S).dt.date()
    past = bars.select("symbol", turnover=pl.col("close").cast(pl.Float64) * pl.col("volume"), day=day)
    past = past.filter(pl.col("day") <= as_of_day)
    days = past["day"].unique().sort().tail(sessions)
    if days.is_empty():
        return Members((), f"no daily bar up to {as_of_day} is stored")
    trailing = _under_present_names(past.filter(pl.col("day") >= days[0]), as_of_day, actions)
    totals = trailing.group_by("symbol").agg(pl.col("turnover").sum(), last=pl.col("day").max())
    trading = totals.filter(pl.col("last") == days[-1])
    ranked = trading.sort("turnover", "symbol", descending=[True, False]).head(n)
    short = f"{len(days)} sessions are stored, {sessions} were asked for" if len(days) < sessions else ""
    return Members(tuple(ranked["symbol"]), short)


def _under_present_names(rows: pl.DataFrame, as_of_day: date, actions: pl.DataFrame) -> pl.DataFrame:
    """Rows (symbol, day, ...) under the symbol that their share has on `as_of_day`."""
    renames = actions.filter(pl.col("kind") == ActionKind.RENAME)
    chains = [names_of(symbol, renames, as_of_day) for symbol in renames["new_symbol"].drop_nulls().unique().sort()]
    spans = [
        (span.name, span.first, span.last, chain[-1].name)
        for chain in chains
        if chain[-1].last >= as_of_day
        for span in chain
    ]
    schema = {"symbol": pl.String, "first": pl.Date, "until": pl.Date, "present": pl.String}
    names = pl.DataFrame(spans, schema=schema, orient="row")
    in_span = pl.col("day").is_between(pl.col("first"), pl.col("until"))
    renamed = rows.join(names, on="symbol").filter(in_span)
    kept = rows.join(renamed, on=rows.columns, how="anti")
    return pl.concat([kept, renamed.with_columns(symbol="present").select(rows.columns)])
