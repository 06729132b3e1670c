"""One example per operation, checked against its model by a test."""

from typing import Any

from backend.api import (
    examples_account,
    examples_admin,
    examples_audit,
    examples_backtests,
    examples_billing,
    examples_broker_accounts,
    examples_live,
    examples_logins,
    examples_market,
    examples_orders,
    examples_signals,
)

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
_PLAN: Json = examples_billing.PLAN
_QUOTA: Json = {
    "entries_per_day": 10,
    "entries_per_day_max": None,
    "entries_used": 1,
    "entries_left": 9,
    "resets_at": "2026-03-03T00:00:00+05:30",
}
_ACCOUNT_REF: Json = examples_broker_accounts.ACCOUNT_REF
_MODE_RULES: Json = {"return_net_min": 0.015, "confidence_min": 0.7, "funds_fraction_per_trade": 0.075}
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
    "mode_rules": _MODE_RULES,
    "product": "cnc",
    "symbols": ["RELIANCE", "TCS", "INFY"],
    "entries_per_day_max": None,
    "strategies": ["ensemble", "momentum"],
    "protections": _PROTECTIONS,
}
_SETTINGS_REPLY: Json = _ENVIRONMENT | {
    "settings": _SETTINGS,
    "account": _ACCOUNT_REF,
    "message": "Entries may be made from the next cycle on.",
}
_TRADE: Json = {
    "id": 42,
    "cycle_id": 1201,
    "account_id": 5,
    "symbol": "RELIANCE",
    "exchange": "nse",
    "side": "buy",
    "product": "cnc",
    "mode": "moderate",
    "status": "open",
    "strategy": "ensemble",
    "model_version": "2026-02-27",
    "logic_version": "4",
    "cluster": "RELIANCE",
    "confidence": 0.74,
    "confidence_kind": "touch_net_0.015",
    "expected_return_net": 0.019,
    "horizon_ends_on": "2026-03-16",
    "reference_price": "2450.00",
    "target_price": "2520.00",
    "stop_price": "2390.00",
    "quantity": 19,
    "entry_quantity": 19,
    "entry_price": "2451.20",
    "exit_quantity": 0,
    "exit_price": None,
    "exit_reason": None,
    "charges": "55.21",
    "realized_pnl": "0.00",
    "dividends": "0.00",
    "last_price": "2466.00",
    "unrealized_pnl": "225.99",
    "decided_at": "2026-03-02T10:15:00+05:30",
    "opened_at": "2026-03-02T10:15:01+05:30",
    "closed_at": None,
}
_FIGURES: Json = {
    "trades": 24,
    "wins": 15,
    "win_rate": 0.625,
    "profit_factor": 1.62,
    "average_win": "612.40",
    "average_loss": "-630.10",
    "realized_pnl": "3515.10",
    "charges": "1320.75",
    "dividends": "84.00",
    "mean_confidence": 0.73,
    "hit_rate": 0.58,
}
_ANALYTICS: Json = _ENVIRONMENT | {
    "from_day": "2026-01-01",
    "to_day": "2026-03-02",
    "total": _FIGURES,
    "insufficient_evidence": False,
    "trades_for_evidence_min": 20,
    "truncated": False,
    "open_trades": 1,
    "unrealized_pnl": "225.99",
    "unpriced": [],
    "max_drawdown_rupees": "1890.20",
    "by_symbol": {"RELIANCE": _FIGURES},
    "by_mode": {"moderate": _FIGURES},
    "by_strategy": {"ensemble": _FIGURES},
    "by_exit_reason": {"target": _FIGURES},
    "daily": [{"day": "2026-03-02", "trades": 1, "realized_pnl": "612.40", "cumulative_pnl": "3515.10"}],
}
_DECISIONS: Json = _ENVIRONMENT | {
    "cycles": [
        {
            "cycle_id": 1201,
            "scheduled_at": "2026-03-02T10:15:00+05:30",
            "status": "done",
            "mode": "moderate",
            "threshold": _MODE_RULES,
            "skipped_reason": None,
            "next_step": None,
            "model_version": "2026-02-27",
            "problems": {},
            "symbols": [
                {
                    "symbol": "TCS",
                    "intent": "entry",
                    "outcome": "denied",
                    "reason": "confidence_below_mode",
                    "next_step": "The probability is below what your mode asks; a bolder mode asks less.",
                    "recorded": False,
                    "quantity": 0,
                    "limit_price": None,
                    "exit_reason": None,
                    "strategy": "ensemble",
                    "confidence": 0.61,
                    "expected_return_net": 0.012,
                    "price": "3510.00",
                }
            ],
        }
    ],
    "next_cursor": None,
}
_STATUS: Json = _ENVIRONMENT | {
    "settings": _SETTINGS,
    "plan": _PLAN,
    "quota": _QUOTA,
    "account": _ACCOUNT_REF,
    "open_trades": 1,
    "pnl": {"unrealized": "225.99", "realized_today": "0.00", "realized_total": "3515.10", "unpriced": []},
    "market_now": "2026-03-02T15:40:00+05:30",
    "market_phase": "closed",
    "next_open": "2026-03-04T09:15:00+05:30",
    "last_cycle": {
        "scheduled_at": "2026-03-02T15:29:00+05:30",
        "status": "done",
        "entries": 0,
        "exits": 0,
        "denied": {"already_held": 1},
        "skipped_reason": None,
        "next_step": None,
    },
    "blocking": [
        {
            "reason": "market_not_continuous",
            "next_step": "Orders go out in the continuous session only; market status shows the next one.",
        }
    ],
    "protections": [
        {
            "rule": "cooldown",
            "symbol": "TCS",
            "until": "2026-03-05",
            "detail": "TCS was left by its stop on 2026-03-02: no entry in TCS before 2026-03-05.",
        }
    ],
    "strategies": [examples_signals.STRATEGY],
    "strategies_note": None,
}
_MARKET_STATUS: Json = _ENVIRONMENT | {
    "exchange": "nse",
    "now": "2026-03-02T10:15:00+05:30",
    "clock_speed": 60.0,
    "day": "2026-03-02",
    "day_recorded": True,
    "session_kind": "normal",
    "note": "",
    "next_open": "2026-03-04T09:15:00+05:30",
    "classes": [
        {
            "stock_class": "cas",
            "phase": "continuous",
            "windows": [
                {
                    "phase": "continuous",
                    "start": "2026-03-02T09:15:00+05:30",
                    "end": "2026-03-02T15:30:00+05:30",
                }
            ],
            "square_off_at": "2026-03-02T15:15:00+05:30",
        }
    ],
}
_QUOTE: Json = {
    "symbol": "RELIANCE",
    "as_of": "2026-03-02T10:15:00+05:30",
    "source": "simulator",
    "last": "2450.00",
    "bid": "2449.90",
    "ask": "2450.10",
    "open": "2440.00",
    "high": "2455.00",
    "low": "2438.50",
    "previous_close": "2435.00",
    "change": "15.00",
    "change_fraction": 0.00616,
    "volume": 812345,
    "lower_band": "2191.50",
    "upper_band": "2678.50",
}
_OVERRIDE: Json = {
    "day": "2026-11-08",
    "exchange": None,
    "kind": "open",
    "open_at": "18:00:00",
    "close_at": "19:00:00",
    "reason": "Muhurat trading, as the exchange's circular says.",
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
_HEALTH: Json = _ENVIRONMENT | {"status": "ok", "service": "gateway", "version": "0.1.0", "detail": ""}

REQUESTS: dict[str, Json] = {
    "enable_auto_trading": {"mode": "moderate", "account_id": 5},
    "replace_auto_trading_settings": {
        "mode": "moderate",
        "product": "cnc",
        "symbols": ["RELIANCE", "TCS", "INFY"],
        "entries_per_day_max": 2,
        "strategies": ["ensemble", "momentum"],
        "protections": _PROTECTIONS | {"cooldown": {"pause_sessions": 3, "stops_only": False}},
    },
    "correct_calendar": _OVERRIDE,
    **examples_account.REQUESTS,
    **examples_admin.REQUESTS,
    **examples_backtests.REQUESTS,
    **examples_billing.REQUESTS,
    **examples_broker_accounts.REQUESTS,
    **examples_live.REQUESTS,
    **examples_logins.REQUESTS,
    **examples_orders.REQUESTS,
}
"""Request bodies by operation id."""

_QUOTES: Json = _ENVIRONMENT | {
    "as_of": "2026-03-02T10:15:00+05:30",
    "quotes": {"RELIANCE": _QUOTE},
    "missing": {},
}

ANSWERS: dict[str, Json] = {
    "get_me": {"user": _USER, "plan": _PLAN, "quota": _QUOTA, "consents_missing": [examples_account.MISSING]},
    "get_auto_trading_status": _STATUS,
    "enable_auto_trading": _SETTINGS_REPLY,
    "disable_auto_trading": _SETTINGS_REPLY
    | {
        "settings": _SETTINGS | {"enabled": False},
        "account": None,
        "message": "No more entries are made. Open trades keep their targets, stops and exits.",
    },
    "replace_auto_trading_settings": _SETTINGS_REPLY | {"account": None},
    "list_auto_trades": _ENVIRONMENT | {"trades": [_TRADE], "next_cursor": "aWQ6NDI"},
    "get_auto_trading_analytics": _ANALYTICS,
    "list_auto_trading_decisions": _DECISIONS,
    "get_auto_trading_market_status": _MARKET_STATUS,
    "get_market_status": _MARKET_STATUS,
    "get_quotes": _QUOTES,
    "stream_quotes": _QUOTES,
    "get_health": _HEALTH,
    "get_health_unversioned": _HEALTH,
    "correct_calendar": _OVERRIDE | {"id": 3, "created_by": 1, "created_at": "2026-03-02T09:00:00+05:30"},
    "list_calendar_corrections": {
        "overrides": [_OVERRIDE | {"id": 3, "created_by": 1, "created_at": "2026-03-02T09:00:00+05:30"}],
        "next_cursor": None,
    },
    "list_cycles": _ENVIRONMENT | {"cycles": [_CYCLE], "next_cursor": None},
    **examples_account.ANSWERS,
    **examples_admin.ANSWERS,
    **examples_audit.ANSWERS,
    **examples_backtests.ANSWERS,
    **examples_billing.ANSWERS,
    **examples_broker_accounts.ANSWERS,
    **examples_live.ANSWERS,
    **examples_logins.ANSWERS,
    **examples_market.ANSWERS,
    **examples_orders.ANSWERS,
    **examples_signals.ANSWERS,
}
"""Answers by operation id."""
