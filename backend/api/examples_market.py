"""Examples of the operations that show the market beyond its quotes."""

from typing import Any

Json = dict[str, Any]

_NOW: Json = {"environment": "paper", "as_of": "2026-03-02T10:15:00+05:30"}
_BONUS: Json = {
    "symbol": "RELIANCE",
    "ex_date": "2024-10-28",
    "known_on": "2024-10-16",
    "kind": "bonus",
    "shares_before": 1,
    "shares_after": 2,
    "amount": None,
    "new_symbol": None,
    "subject": "Bonus 1:1",
    "source": "nse",
}
_DIVIDEND: Json = _BONUS | {
    "ex_date": "2025-08-14",
    "known_on": "2025-08-05",
    "kind": "dividend",
    "shares_before": None,
    "shares_after": None,
    "amount": "5.50",
    "subject": "Dividend - Rs 5.50 Per Share",
}
_DEMERGER: Json = _BONUS | {
    "ex_date": "2023-07-20",
    "known_on": "2023-07-08",
    "kind": "demerger",
    "shares_before": None,
    "shares_after": None,
    "subject": "Demerger",
}

ANSWERS: dict[str, Json] = {
    "get_bars": _NOW
    | {
        "symbol": "RELIANCE",
        "interval": "1d",
        "adjusted": True,
        "as_of": "2026-02-27T15:35:00+05:30",
        "source": "recorded",
        "sources": ["nse"],
        "unadjusted": [_DEMERGER],
        "bars": [
            {
                "start": "2026-02-27T09:15:00+05:30",
                "open": "2421.00",
                "high": "2440.00",
                "low": "2415.05",
                "close": "2435.00",
                "volume": 5123400,
            }
        ],
        "note": None,
    },
    "list_actions": _NOW | {"actions": [_BONUS, _DIVIDEND]},
    "get_universe": _NOW
    | {"name": "default", "members": ["RELIANCE", "TCS", "INFY", "HDFCBANK", "ICICIBANK"], "note": ""},
    "list_quality_findings": _NOW
    | {
        "counts": {"ohlc_inconsistent": 1},
        "findings": [
            {
                "symbol": "TCS",
                "interval": "5m",
                "start": "2026-02-27T11:00:00+05:30",
                "source": "yahoo",
                "reason": "ohlc_inconsistent",
                "detail": "high 3499.95 is below close 3501.00",
                "quarantined": True,
                "found_at": "2026-02-27T11:05:02+05:30",
            }
        ],
        "next_cursor": None,
    },
}
"""Answers by operation id."""
