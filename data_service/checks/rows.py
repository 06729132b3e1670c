"""Rules that need nothing but the bar itself and the calendar."""

from datetime import date

import polars as pl

from contracts.market import Interval
from data_service.bars import INTERVAL_S, PRICE_FIELDS
from data_service.checks.reasons import BarReason
from data_service.sessions import IST_OFFSET_S, Session, Sessions

VALUES = (*PRICE_FIELDS, "volume")
PRICE_PAISE_MAX = 10**10
VOLUME_SHARES_MAX = 10**13
HUNDREDFOLD_FROM, HUNDREDFOLD_TO = 50, 200
"""A price this many times another of the same share on the next bar: rupees and paise were mixed up."""


def with_sessions(bars: pl.DataFrame, sessions: Sessions, derivatives: frozenset[str]) -> pl.DataFrame:
    """Adds each bar's `day` and its session's `open_s`, `close_s`, `official_s` (epoch seconds), `session` number.

    `session` counts the calendar's sessions and is null where it has none; `assumed` is whether the day lies before the
    calendar begins, so that the customary hours had to do.
    """
    day = pl.from_epoch(pl.col("start") + IST_OFFSET_S).dt.date()
    numbered = bars.with_columns(day=day, cas=pl.col("symbol").is_in(sorted(derivatives)))
    days = [found for found in numbered["day"].unique().to_list() if found is not None]
    return numbered.join(_calendar(days, sessions), on=["day", "cas"], how="left", maintain_order="left")


def _calendar(days: list[date], sessions: Sessions) -> pl.DataFrame:
    first = sessions.all[0].day
    place = {session.day: number for number, session in enumerate(sessions.all)}
    rows = []
    for day in days:
        assumed = day < first and day.weekday() < 5
        session = sessions.usual(day) if assumed or day in place else Session(day, 0, 0, 0)
        for cas in (False, True):
            times = (session.open_s, session.close_s(cas), session.official_close_s(cas))
            rows.append((day, cas, *times, place.get(day), assumed))
    names = {"open_s": pl.Int64, "close_s": pl.Int64, "official_s": pl.Int64, "session": pl.Int64}
    schema = {"day": pl.Date, "cas": pl.Boolean, **names, "assumed": pl.Boolean}
    return pl.DataFrame(rows, schema=schema, orient="row")


def row_faults(interval: Interval, sessions: Sessions, now_s: int) -> pl.Expr:
    """The first thing wrong with a bar on its own as a struct (reason, detail), null where nothing is."""
    length_s = INTERVAL_S.get(interval)
    start, open_, close = pl.col("start"), pl.col("open_s"), pl.col("close_s")
    ends = pl.col("official_s") if length_s is None else pl.min_horizontal(start + length_s, close)
    on_grid = start == open_ if length_s is None else (start - open_) % length_s == 0
    hours = pl.lit(False) if length_s is None else ~pl.col("assumed") & ~((open_ <= start) & (start < close))
    prices = [pl.col(name) for name in PRICE_FIELDS]
    high, low, volume = pl.col("high"), pl.col("low"), pl.col("volume")
    last_day = sessions.all[-1].day
    closed = pl.col("session").is_null() & ~pl.col("assumed")
    flat = (volume == 0) & (low == high)
    rules: list[tuple[BarReason, pl.Expr, pl.Expr]] = [
        (BarReason.MISSING_VALUE, pl.any_horizontal(pl.col(name).is_null() for name in (*VALUES, "start")), _all()),
        (BarReason.NON_POSITIVE, pl.any_horizontal(price <= 0 for price in prices), _all()),
        (BarReason.NEGATIVE_VOLUME, volume < 0, pl.format("volume {}", "volume")),
        (BarReason.TOO_LARGE, pl.max_horizontal(*prices) > PRICE_PAISE_MAX, _all()),
        (BarReason.TOO_LARGE, volume > VOLUME_SHARES_MAX, pl.format("volume {}", "volume")),
        (BarReason.OHLC_INCONSISTENT, (pl.max_horizontal(*prices) > high) | (pl.min_horizontal(*prices) < low), _all()),
        (
            BarReason.CLOSED_DAY,
            closed,
            pl.when(pl.col("day") > last_day)
            .then(pl.format("the calendar ends before {}: nothing after it is trusted", "day"))
            .otherwise(pl.format("the calendar has no session on {}; volume {}", "day", "volume")),
        ),
        (BarReason.OUTSIDE_SESSION, hours, pl.format("starts {} min after the session's open", (start - open_) // 60)),
        (BarReason.OFF_GRID, ~on_grid, pl.format("starts {} s after the session's open", start - open_)),
        (BarReason.UNFINISHED, ends > now_s, pl.format("had {} s to go", ends - now_s)),
        (BarReason.HUNDREDFOLD, low * HUNDREDFOLD_FROM < high, _all()),
    ]
    if length_s is None:
        rules.append((BarReason.PHANTOM_FLAT, flat, pl.format("one price {} and no volume", _rupees("close"))))
    return first_fault(rules)


def first_fault(rules: list[tuple[BarReason, pl.Expr, pl.Expr]]) -> pl.Expr:
    """The first rule that holds as a struct (reason, detail), null where none does."""
    found = [
        pl.when(wrong.fill_null(False)).then(pl.struct(reason=pl.lit(reason.value), detail=detail))
        for reason, wrong, detail in rules
    ]
    return pl.coalesce(*found)


def _rupees(name: str) -> pl.Expr:
    return (pl.col(name) / 100).round(2)


def _all() -> pl.Expr:
    return pl.format(
        "open {} high {} low {} close {} volume {}",
        *(_rupees(name).cast(pl.String).fill_null("missing") for name in PRICE_FIELDS),
        pl.col("volume").cast(pl.String).fill_null("missing"),
    )


def missing_sessions(bars: pl.DataFrame, sessions: Sessions, last_stored: dict[str, date]) -> pl.DataFrame:
    """Sessions without a bar between a symbol's first (or last stored) one and its last: symbol, source, start, detail.

    One row per gap; `start` is the open of the first session missing.
    """
    place = {session.day: number for number, session in enumerate(sessions.all)}
    had = bars.filter(pl.col("session").is_not_null()).select("symbol", "source", "session").unique()
    stored = {symbol: place[day] for symbol, day in last_stored.items() if day in place}
    before = pl.DataFrame(
        {"symbol": list(stored), "stored": list(stored.values())}, {"symbol": pl.String, "stored": pl.Int64}
    )
    first = had.group_by("symbol", "source").agg(pl.col("session").min())
    known = first.join(before, on="symbol").filter(pl.col("stored") < pl.col("session"))
    known = known.select("symbol", "source", session="stored")
    seen = pl.concat([had, known]).unique().sort("symbol", "source", "session")
    previous = pl.col("session").shift(1).over("symbol", "source")
    gaps = seen.with_columns(previous=previous).filter(pl.col("session") - pl.col("previous") > 1)
    rows = [
        (symbol, source, sessions.all[before + 1].open_s, _gap_detail(sessions, before + 1, session - 1))
        for symbol, source, session, before in gaps.iter_rows()
    ]
    schema = {"symbol": pl.String, "source": pl.String, "start": pl.Int64, "detail": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _gap_detail(sessions: Sessions, first: int, last: int) -> str:
    days = sessions.all[first].day, sessions.all[last].day
    if first == last:
        return f"no bar of {days[0]}"
    return f"no bars of {last - first + 1} sessions from {days[0]} through {days[1]}"
