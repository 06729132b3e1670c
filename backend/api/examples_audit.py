"""Examples of the audit log."""

from typing import Any

Json = dict[str, Any]

_ENTRY: Json = {
    "id": 1188,
    "at": "2026-03-02T09:20:00+05:30",
    "actor": "user:7",
    "ip": "203.0.113.7",
    "action": "broker_credential.set",
    "target": "broker_account:6",
    "before": {"fields": []},
    "after": {"fields": ["api_key", "api_secret"]},
    "reason": "",
}

ANSWERS: dict[str, Json] = {
    "list_own_audit": {"entries": [_ENTRY], "next_cursor": None},
    "list_audit": {
        "entries": [_ENTRY | {"actor_id": 7, "subject_id": 7, "hash": "9f" * 32}],
        "next_cursor": None,
    },
}
"""Answers by operation id."""
