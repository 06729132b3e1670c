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

_READINESS: Json = {
    "account_id": 6,
    "broker": "zerodha",
    "label": "My shares",
    "status": "ready",
    "is_primary": True,
    "state": "login_needed",
    "session_ends_at": None,
    "open_trades": 2,
    "next_step": "POST /v1/broker-accounts/6/login tells where to log in for today.",
}
_WORD = "5f0c1d9e7ab34c2890d1e2f3a4b5c6d7"

REQUESTS: dict[str, Json] = {
    "make_sandbox_key": {"redirect_url": "http://127.0.0.1/"},
    "finish_broker_login": {"returned": {"request_token": "Tz8k2PqX5vRwY1nA"}},
    "open_broker_account": {"broker": "paper", "label": "Play money"},
    "change_broker_account": {"label": "Play money", "primary": True},
    "set_broker_credentials": {"api_key": "hk3m9d2p4r5tx7q2", "api_secret": "…"},
}
"""Request bodies by operation id."""

ANSWERS: dict[str, Any] = {
    "get_readiness": {"ready": False, "accounts": [_READINESS]},
    "list_readiness": {"accounts": [_READINESS | {"user_id": 7}], "next_cursor": None},
    "begin_broker_login": {
        "account_id": 6,
        "login_url": "https://kite.zerodha.com/connect/login?api_key=hk3m9d2p4r5tx7q2&v=3",
        "redirect_url": "https://sauda.example.com/v1/broker-login/zerodha",
        "postback_url": f"https://sauda.example.com/v1/webhooks/orders/zerodha/6/{_WORD}",
    },
    "finish_broker_login": {
        "account_id": 6,
        "broker": "zerodha",
        "ends_at": "2026-03-03T06:00:00+05:30",
        "reconciled": True,
    },
    "end_broker_login": {
        "account_id": 6,
        "message": "You are logged out; open trades have no exits until you log in.",
    },
    "return_from_broker": "You are logged in at zerodha until 03 Mar 06:00 IST. You may close this page.\n",
    "make_sandbox_key": {
        "account_id": 5,
        "api_key": "5f0c1d9e7ab34c28",
        "api_secret": "…",
        "root": "https://sauda.example.com",
        "login_url": "https://sauda.example.com/connect/login?v=3&api_key=5f0c1d9e7ab34c28",
        "ticker": "wss://sauda.example.com/ws",
    },
    "end_sandbox_key": {"account_id": 5, "message": "The key and its logins have ended."},
    "hear_broker": {"account_id": 6},
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
