"""Examples of changing broker accounts and giving their credentials."""

from typing import Any

Json = dict[str, Any]

ACCOUNT_REF: Json = {"id": 5, "broker": "paper", "label": "Play money", "status": "ready"}
ACCOUNT: Json = ACCOUNT_REF | {
    "is_primary": True,
    "created_at": "2026-03-02T09:06:00+05:30",
    "cash": "452310.75",
    "cash_free": "452310.75",
    "holdings": {"RELIANCE": 19},
    "problem": None,
}


def _credentials(set_at: str | None, hint: str) -> Json:
    return {
        "account_id": 6,
        "broker": "zerodha",
        "complete": set_at is not None,
        "fields": [
            {"field": "api_key", "set_at": set_at, "hint": hint},
            {"field": "api_secret", "set_at": set_at, "hint": ""},
        ],
    }


_SET = _credentials("2026-03-02T09:20:00+05:30", "x7q2")

REQUESTS: dict[str, Json] = {
    "open_broker_account": {"broker": "paper", "label": "Play money"},
    "change_broker_account": {"label": "Play money", "primary": True},
    "set_broker_credentials": {"api_key": "hk3m9d2p4r5tx7q2", "api_secret": "…"},
}
"""Request bodies by operation id."""

ANSWERS: dict[str, Json] = {
    "open_broker_account": {"environment": "simulated", "account": ACCOUNT},
    "list_broker_accounts": {"environment": "simulated", "accounts": [ACCOUNT]},
    "change_broker_account": {"environment": "simulated", "account": ACCOUNT},
    "close_broker_account": {
        "account": ACCOUNT_REF | {"status": "closed"},
        "message": "The account is closed and its credentials are erased; its orders and trades stay on record.",
    },
    "get_broker_credentials": _SET,
    "set_broker_credentials": _SET,
    "delete_broker_credentials": _credentials(None, ""),
}
"""Answers by operation id."""
