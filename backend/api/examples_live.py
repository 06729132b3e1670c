"""Examples of the live gate and of compliance records."""

from typing import Any

Json = dict[str, Any]

_STATED: Json = {
    "user_id": 7,
    "kind": "self_hosted_family",
    "broker": "zerodha",
    "algo_id": "NSE-GENERIC-01",
    "egress_ip": "203.0.113.7",
    "approval": "Zerodha ticket 20260302-1188",
    "approved_on": "2026-03-02",
    "valid_from": "2026-03-02",
    "valid_until": "2027-03-01",
}
_RECORD: Json = _STATED | {
    "id": 4,
    "recorded_by": 1,
    "recorded_at": "2026-03-02T09:40:00+05:30",
    "revoked_at": None,
    "revoked_by": None,
    "revoke_reason": None,
}
_DEPLOYMENT: Json = {
    "name": "deployment",
    "on": False,
    "detail": "The deployment is simulated, real orders are off.",
    "next_step": "Only its operator can change that: ENVIRONMENT=live and LIVE_TRADING=true.",
}


def _live(confirmed_at: str | None) -> Json:
    user = {
        "name": "user",
        "on": confirmed_at is not None,
        "detail": "You have confirmed live trading." if confirmed_at else "You have not confirmed live trading.",
        "next_step": None
        if confirmed_at
        else "Accept the risk disclosure (GET /v1/notices), POST /v1/auth/step-up a code, then POST /v1/live/confirm.",
    }
    return {
        "environment": "simulated",
        "live": False,
        "confirmed_at": confirmed_at,
        "switches": [_DEPLOYMENT, user],
    }


REQUESTS: dict[str, Json] = {
    "record_compliance": _STATED,
    "revoke_compliance": {"reason": "The broker has withdrawn its approval."},
}
"""Request bodies by operation id."""

ANSWERS: dict[str, Json] = {
    "get_live": _live(None),
    "confirm_live": _live("2026-03-02T10:00:00+05:30"),
    "withdraw_live": _live(None),
    "record_compliance": _RECORD,
    "list_compliance": {"records": [_RECORD], "next_cursor": None},
    "revoke_compliance": _RECORD
    | {
        "revoked_at": "2026-03-05T11:00:00+05:30",
        "revoked_by": 1,
        "revoke_reason": "The broker has withdrawn its approval.",
    },
}
"""Answers by operation id."""
