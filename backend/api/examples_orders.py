"""The examples of orders, trading states and the kill switch."""

from typing import Any

Json = dict[str, Any]

_ENVIRONMENT: Json = {"environment": "simulated"}
_ORDER: Json = {
    "id": 77,
    "client_order_id": "5F0C1B9A3D7E42680AC4",
    "broker_order_id": "240302000001234",
    "origin": "engine",
    "auto_trade_id": 42,
    "account_id": 5,
    "intent": "entry",
    "symbol": "RELIANCE",
    "exchange": "nse",
    "side": "buy",
    "product": "cnc",
    "order_type": "limit",
    "quantity": 19,
    "limit_price": "2457.35",
    "trigger_price": None,
    "state": "partially_filled",
    "filled_quantity": 12,
    "average_price": "2451.20",
    "status_message": None,
    "denied_reason": None,
    "next_step": None,
    "decided_at": "2026-03-02T10:15:00+05:30",
    "submitted_at": "2026-03-02T10:15:00.120000+05:30",
}
_UNSENT: Json = {"broker_order_id": None, "filled_quantity": 0, "average_price": None}
_UNKNOWN: Json = _UNSENT | {"state": "unknown", "user_id": 7}
_MANUAL_ORDER: Json = _ORDER | {"id": 78, "origin": "manual", "auto_trade_id": None}
_ORDER_EVENT: Json = {
    "kind": "submitted",
    "from_state": "pending",
    "to_state": "submitted",
    "detail": "",
    "market_at": "2026-03-02T10:15:00+05:30",
    "created_at": "2026-03-02T10:15:00.120000+05:30",
}
_FILL: Json = {
    "trade_id": "9931",
    "trade_date": "2026-03-02",
    "quantity": 12,
    "price": "2451.20",
    "charges": "34.87",
    "filled_at": "2026-03-02T10:15:01+05:30",
}
_HALT: Json = {
    "scope": "user",
    "key": "7",
    "state": "halted",
    "flatten": False,
    "cause": "user_kill_switch",
    "detail": "I want to look at this first",
}
_TRADING_STATE: Json = _ENVIRONMENT | {
    "state": "halted",
    "flatten": False,
    "entries_allowed": False,
    "exits_allowed": False,
    "standing": [
        _HALT
        | {
            "since": "2026-03-02T10:20:00+05:30",
            "by_system": False,
            "what_to_do": "You stopped trading yourself: lift it with POST /v1/trading-state/reactivate.",
        }
    ],
}
_KILLED: Json = _ENVIRONMENT | {
    "scope": "user",
    "key": "7",
    "state": "halted",
    "flatten": False,
    "changed": True,
    "cancels": {"open": 2, "cancel_requested": 2, "cancel_asked": 2, "unconfirmed": 0},
    "message": "Nothing is sent any more.",
}
_PERIOD: Json = _HALT | {
    "id": 9,
    "set_at": "2026-03-02T10:20:00+05:30",
    "set_by": 7,
    "ended_at": None,
    "ended_by": None,
    "end_reason": None,
}

REQUESTS: dict[str, Json] = {
    "place_order": {"symbol": "RELIANCE", "side": "buy", "quantity": 19, "product": "cnc", "limit_price": None},
    "pull_kill_switch": {"flatten": False, "reason": "I want to look at this first"},
    "reactivate_trading": {"reason": "looked at it, all is as it should be"},
    "pull_admin_kill_switch": {"scope": "broker", "key": "paper", "flatten": False, "reason": "book looks wrong"},
    "lift_trading_state": {"reason": "compared with the broker's book, nothing is missing"},
    "settle_unknown_order": {"outcome": "abandoned", "reason": "the broker's desk has no such order, ticket 4711"},
}
"""Request bodies by operation id."""

ANSWERS: dict[str, Json] = {
    "place_order": _ENVIRONMENT | {"order": _MANUAL_ORDER},
    "list_orders": _ENVIRONMENT | {"orders": [_ORDER], "next_cursor": None},
    "get_order": _ENVIRONMENT | {"order": _ORDER, "events": [_ORDER_EVENT], "fills": [_FILL]},
    "cancel_order": _ENVIRONMENT | {"order": _ORDER | {"state": "cancelled"}},
    "list_unknown_orders": _ENVIRONMENT | {"orders": [_ORDER | _UNKNOWN], "next_cursor": None},
    "settle_unknown_order": _ENVIRONMENT | {"order": _ORDER | _UNSENT | {"state": "expired"}},
    "get_trading_state": _TRADING_STATE,
    "reactivate_trading": _ENVIRONMENT
    | {"state": "active", "flatten": False, "entries_allowed": True, "exits_allowed": True, "standing": []},
    "pull_kill_switch": _KILLED,
    "pull_admin_kill_switch": _KILLED | {"scope": "broker", "key": "paper"},
    "list_trading_states": {"trading_states": [_PERIOD], "next_cursor": None},
    "lift_trading_state": _PERIOD
    | {
        "ended_at": "2026-03-02T11:00:00+05:30",
        "ended_by": 1,
        "end_reason": "compared with the broker's book, nothing is missing",
    },
}
"""Answers by operation id."""
