"""The examples of backtests."""

from typing import Any

Json = dict[str, Any]

_TRADER: Json = {
    "name": "moderate",
    "mode": "moderate",
    "capital": "500000",
    "product": "cnc",
    "strategies": [],
    "protections": {
        "cooldown": {"pause_sessions": 1, "stops_only": True},
        "stoploss_guard": {"lookback_sessions": 5, "stops_min": 4, "symbol_stops_min": None, "pause_sessions": 2},
        "max_drawdown": {
            "lookback_sessions": 20,
            "trades_min": 5,
            "drawdown_fraction_max": 0.06,
            "pause_sessions": 5,
        },
        "low_profit": {"lookback_sessions": 20, "trades_min": 2, "return_fraction_min": -0.03, "pause_sessions": 10},
    },
    "entries_per_day_max": 10,
}
_REQUEST: Json = {
    "mode": None,
    "traders": [_TRADER],
    "from": "2023-01-01",
    "to": "2023-12-31",
    "universe": "nifty50",
    "interval": "1d",
    "slippage_fraction": "0.0002",
    "participation_fraction": "0.1",
    "latency_bars": 0,
    "proceeds": "at_once",
    "model": "walk_forward",
    "sweep": None,
}
_QUEUED: Json = {
    "id": 12,
    "status": "queued",
    "cancelling": False,
    "request": _REQUEST,
    "progress": {"done": 0, "total": 0, "doing": ""},
    "error": None,
    "created_at": "2026-03-02T10:15:00+05:30",
    "started_at": None,
    "finished_at": None,
}
_RUNNING: Json = _QUEUED | {
    "status": "running",
    "progress": {"done": 61, "total": 246, "doing": "trading 2023-03-31"},
    "started_at": "2026-03-02T10:15:01+05:30",
}
_DONE: Json = _RUNNING | {
    "status": "done",
    "progress": {"done": 246, "total": 246, "doing": ""},
    "finished_at": "2026-03-02T10:15:09+05:30",
}


def _reply(backtest: Json, summary: Json | None = None, message: str = "") -> Json:
    return {"environment": "simulated", "backtest": backtest, "summary": summary, "message": message}


REQUESTS: dict[str, Json] = {
    "create_backtest": {"mode": "moderate", "from": "2023-01-01", "to": "2023-12-31", "universe": "nifty50"},
}
ANSWERS: dict[str, Any] = {
    "create_backtest": _reply(_QUEUED, message="It waits for a worker."),
    "list_backtests": {"environment": "simulated", "backtests": [_RUNNING, _DONE | {"id": 11}], "next_cursor": None},
    "get_backtest": _reply(_DONE, {"traders": [{"name": "moderate", "trades": 52, "equity_rupees": "523481.20"}]}),
    "get_backtest_report": "<!doctype html><title>What moderate would have done</title>",
    "withdraw_backtest": _reply(_RUNNING | {"cancelling": True}, message="Its worker stops it within seconds."),
    "stream_backtest": {"status": "running", "progress": _RUNNING["progress"], "error": None},
}
