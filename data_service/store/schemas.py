"""The shapes of everything kept on disk, and whose word counts when two sources tell of the same bar."""

import polars as pl

BAR_SCHEMA = pl.Schema(
    {"symbol": pl.String, "start": pl.Int64}
    | dict.fromkeys(("open", "high", "low", "close", "volume"), pl.Int64)
    | {"source": pl.String}
)
"""`start` is seconds since 1970-01-01 UTC (a daily bar's is its session's open), prices are paise, volume shares."""

ACTION_SCHEMA = pl.Schema(
    {
        "symbol": pl.String,
        "isin": pl.String,
        "ex_date": pl.Date,
        "known_on": pl.Date,
        "kind": pl.String,
        "shares_before": pl.Int64,
        "shares_after": pl.Int64,
        "amount_paise": pl.Int64,
        "new_symbol": pl.String,
        "subject": pl.String,
        "source": pl.String,
    }
)
"""contracts.market.CorporateAction as a row; `kind` is an ActionKind. Where the feed does not say when an action became
known, `known_on` is its ex-date: exchanges announce before it, so that is late rather than early."""

INSTRUMENT_SCHEMA = pl.Schema(
    {
        "symbol": pl.String,
        "known_on": pl.Date,
        "exchange": pl.String,
        "name": pl.String,
        "isin": pl.String,
        "series": pl.String,
        "tick_paise": pl.Int64,
        "lot_size": pl.Int64,
        "freeze_quantity": pl.Int64,
        "has_derivatives": pl.Boolean,
        "band_pct": pl.Int64,
        "source": pl.String,
    }
)
"""What a source said of an instrument on a day; null where it does not say. The newest word up to a day counts, field
by field."""

QUARANTINE_SCHEMA = pl.Schema(
    {
        **BAR_SCHEMA,
        "interval": pl.String,
        "reason": pl.String,
        "detail": pl.String,
        "found_at": pl.Int64,
        "quarantined": pl.Boolean,
    }
)
"""Findings about bars: a quarantined one with its values as they were, a flag (a missing session) with nulls."""

ABSENCE_SCHEMA = pl.Schema({"symbol": pl.String, "interval": pl.String, "day": pl.Date, "asked_at": pl.Int64})
"""Sessions of a symbol for which no provider had a bar though all answered; `asked_at` is seconds since the epoch."""

ABSENCE_KEY = ["symbol", "interval", "day"]
BAR_KEY = ["symbol", "start"]
ACTION_KEY = ["symbol", "ex_date", "kind", "subject", "source"]
INSTRUMENT_KEY = ["symbol", "known_on", "source"]
QUARANTINE_KEY = ["symbol", "interval", "start", "source", "reason"]

TRUST = {
    "nse": 3,
    "bse": 3,
    "file": 2,
    "kite": 2,
    "upstox": 2,
    "dhan": 2,
    "stream": 1,
    "yahoo": 1,
    "simulated": 1,
}
"""A source's bar replaces a stored one unless it is trusted less: official files before brokers and what an operator
imports by hand, these before free services and bars made of the quotes that happened to be seen."""
