"""Rows of the scoreboard for tests, made by hand: what was stated, and what then happened."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from typing import Any

import polars as pl

from ml_service.labels import EVENTS
from ml_service.scoreboard import FROZEN, OUTCOMES

VERSION = "a" * 12
OTHER = "b" * 12


def frozen(session: date, symbols: Iterable[str], version: str = VERSION, **changes: Any) -> pl.DataFrame:
    """Rows of FROZEN, one per symbol, all alike."""
    row = {
        "session": session,
        "version": version,
        "strategy": "momentum",
        "served_at": datetime.combine(session, time(12), UTC),
        "shadow": False,
        "horizon": 10,
        "action": "buy",
        "certified_modes": "moderate",
        "expected": 0.03,
        "lower": 0.01,
    }
    row |= {f"p_{event}": 0.9 for event in EVENTS} | {f"base_{event}": 0.6 for event in EVENTS}
    return pl.DataFrame([row | {"symbol": symbol} | changes for symbol in symbols], schema=FROZEN)


def outcomes(
    session: date, symbols: Iterable[str], through: date, version: str = VERSION, **changes: Any
) -> pl.DataFrame:
    """Rows of OUTCOMES, one per symbol: all matured and hit unless changed."""
    row = {
        "session": session,
        "version": version,
        "outcome": "matured",
        "matured_through": through,
        "net_return": 0.02,
    }
    row |= {f"hit_{event}": True for event in EVENTS}
    return pl.DataFrame([row | {"symbol": symbol} | changes for symbol in symbols], schema=OUTCOMES)
