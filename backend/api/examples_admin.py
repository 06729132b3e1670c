"""Examples of what administrators and support see and do: users, pauses, reconciling, the last cycle."""

from typing import Any

from backend.api import examples_billing, examples_broker_accounts

Json = dict[str, Any]

_ENVIRONMENT: Json = {"environment": "simulated"}
_USER: Json = {
    "id": 7,
    "email": "asha@example.com",
    "name": "Asha",
    "role": "user",
    "email_verified": True,
    "created_at": "2026-03-02T09:00:00+05:30",
}
_PROTECTIONS: Json = {
    "cooldown": {"pause_sessions": 1, "stops_only": True},
    "stoploss_guard": {"lookback_sessions": 5, "stops_min": 4, "symbol_stops_min": None, "pause_sessions": 2},
    "max_drawdown": {
        "lookback_sessions": 20,
        "trades_min": 5,
        "drawdown_fraction_max": 0.06,
        "pause_sessions": 5,
    },
    "low_profit": {"lookback_sessions": 20, "trades_min": 2, "return_fraction_min": -0.03, "pause_sessions": 10},
}
_SETTINGS: Json = {
    "enabled": True,
    "enabled_at": "2026-03-02T09:10:00+05:30",
    "mode": "moderate",
    "mode_rules": {"return_net_min": 0.015, "confidence_min": 0.7, "funds_fraction_per_trade": 0.075},
    "product": "cnc",
    "symbols": ["RELIANCE", "TCS", "INFY"],
    "entries_per_day_max": None,
    "strategies": ["ensemble", "momentum"],
    "protections": _PROTECTIONS,
}
_LOGIN: Json = {
    "id": 31,
    "device": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "ip": "203.0.113.7",
    "created_at": "2026-03-02T09:00:00+05:30",
    "last_used_at": "2026-03-02T10:10:00+05:30",
    "expires_at": "2026-04-01T09:00:00+05:30",
    "second_factor": True,
}
_WHY: Json = {"reason": "asked for by the user, ticket 4711"}
_STATE: Json = {"user": _USER, "active": True}
_GLANCE: Json = _ENVIRONMENT | {
    "user": _USER,
    "active": True,
    "erased_at": None,
    "plan": examples_billing.PLAN,
    "subscription": None,
    "pending": None,
    "accounts": [
        examples_broker_accounts.ACCOUNT_REF | {"is_primary": True, "created_at": "2026-03-02T09:05:00+05:30"}
    ],
    "settings": _SETTINGS,
    "trading_state": "active",
    "standing": [],
    "quota": {
        "entries_per_day": 10,
        "entries_per_day_max": None,
        "entries_used": 1,
        "entries_left": 9,
        "resets_at": "2026-03-03T00:00:00+05:30",
    },
    "second_factor": True,
    "password_changed_at": "2026-03-02T09:00:00+05:30",
    "last_login_at": "2026-03-02T09:00:00+05:30",
    "sessions": 1,
    "api_keys": 0,
    "open_trades": 1,
}
_WHY_NO_TRADE: Json = _ENVIRONMENT | {
    "user_id": 7,
    "day": "2026-03-02",
    "today": "2026-03-02",
    "verdict": {
        "code": "confidence_below_mode",
        "cause": "No symbol was a candidate; in the last cycle 3 had: confidence below mode.",
        "next_step": "The probability is below what your mode asks; a bolder mode asks less.",
    },
    "blocking": [],
    "unknown": "",
    "active": True,
    "plan": "pro",
    "entries_per_day": 10,
    "entries_used": 0,
    "account": examples_broker_accounts.ACCOUNT_REF,
    "settings": _SETTINGS,
    "classes": [
        {
            "stock_class": "cas",
            "windows": [
                {
                    "phase": "continuous",
                    "start": "2026-03-02T09:15:00+05:30",
                    "end": "2026-03-02T15:30:00+05:30",
                }
            ],
        }
    ],
    "cycles": {"done": 374, "missed": 1},
    "problems": {"predictions": 2},
    "candidates": 0,
    "denied": {},
    "skipped": {},
    "last_cycle": {"confidence_below_mode": 3},
    "entries_sent": 0,
    "entries_filled": 0,
}
_CYCLE: Json = _ENVIRONMENT | {
    "id": 1201,
    "scheduled_at": "2026-03-02T10:15:00+05:30",
    "trade_date": "2026-03-02",
    "status": "done",
    "summary": {"users": 2, "entries": 1, "exits": 0, "denied": {"plan_limit": 1}},
    "opened_at": "2026-03-02T10:15:00+05:30",
    "finished_at": "2026-03-02T10:15:01+05:30",
}
_LAST_CYCLE: Json = _ENVIRONMENT | {
    "cycle": _CYCLE,
    "duration_s": 1.0,
    "shards": [
        {
            "shard": 0,
            "claimed_until": "2026-03-02T10:15:06+05:30",
            "recorded": True,
            "done": True,
        }
    ],
    "market_now": "2026-03-02T10:15:00+05:30",
    "quotes": 49,
    "quote_age_s_median": 1.5,
    "quote_age_s_max": 4.0,
    "missing": {"TATASTEEL": "no trade yet in this session"},
    "predictions": 50,
    "candidates": 3,
    "model_version": "2026-02-27",
    "features_through": "2026-02-27",
    "problems": {},
}
_PAUSED: Json = _ENVIRONMENT | {
    "scope": "strategy",
    "key": "momentum",
    "state": "reducing",
    "flatten": False,
    "changed": True,
    "cancels": {"open": 1, "cancel_requested": 1, "cancel_asked": 1, "unconfirmed": 0},
    "message": "No entry is sent any more; open trades keep their targets, stops and exits.",
}

REQUESTS: dict[str, Json] = {
    "deactivate_user": _WHY,
    "activate_user": _WHY,
    "set_user_role": _WHY | {"role": "support"},
    "reset_second_factor": _WHY,
    "end_user_sessions": _WHY,
    "pause_trading": {"scope": "strategy", "key": "momentum", "reason": "its fills look wrong"},
    "force_reconcile": {"account_id": 5},
}

ANSWERS: dict[str, Json] = {
    "list_users": {
        "users": [_USER | {"active": True, "plan": "pro", "last_login_at": "2026-03-02T09:00:00+05:30"}],
        "next_cursor": None,
    },
    "get_user": _GLANCE,
    "why_no_trade": _WHY_NO_TRADE,
    "deactivate_user": _STATE
    | {"active": False, "message": "Nothing more is entered for this user. Open trades keep their exits."},
    "activate_user": _STATE | {"message": "The user can log in. Auto-trading goes on as it was set."},
    "set_user_role": _STATE
    | {"user": _USER | {"role": "support"}, "message": "The user logs in again to work in this role."},
    "reset_second_factor": {"sessions_ended": 2},
    "list_user_sessions": {"sessions": [_LOGIN]},
    "end_user_sessions": {"sessions_ended": 2},
    "end_user_session": {"message": "The login has ended."},
    "pause_trading": _PAUSED,
    "force_reconcile": _ENVIRONMENT
    | {"orders": 4, "changed": 1, "abandoned": 0, "failed_accounts": [], "unsettled": []},
    "get_last_cycle": _LAST_CYCLE,
}
