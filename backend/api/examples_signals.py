"""The examples of predictions, strategies, models and the scoreboard."""

from typing import Any

Json = dict[str, Any]

_PAPER: Json = {"environment": "paper"}
_AS_OF = "2026-03-02T10:15:00+05:30"
_MODEL = "3fa1c09b2d77"
_PREDICTION: Json = {
    "symbol": "RELIANCE",
    "action": "buy",
    "strategy": "ensemble",
    "horizon_sessions": 10,
    "confidence": 0.62,
    "confidence_kind": "net_profit",
    "target_probability": 0.58,
    "expected_return_gross": 0.0225,
    "expected_return_net": 0.019,
    "expected_return_net_lower": 0.004,
    "touch": [{"net_return": 0.015, "probability": 0.74}],
    "reference_close": "2450.00",
    "target": "2520.00",
    "stop": "2390.00",
    "reasons": [],
    "supporting_strategies": ["momentum"],
    "certified_modes": ["moderate", "aggressive"],
    "cluster": "RELIANCE",
    "intraday": False,
    "valid_until": "2026-03-02T23:59:59+05:30",
}
_PROPOSAL: Json = _PREDICTION | {
    "strategy": "momentum",
    "expected_return_gross": 0.0195,
    "expected_return_net": 0.016,
    "expected_return_net_lower": 0.002,
    "supporting_strategies": [],
    "certified_modes": ["aggressive"],
}
_MODES: Json = {
    "conservative": {
        "state": "insufficient_evidence",
        "reason": "insufficient_evidence",
        "trades": 31,
        "episodes": 9,
        "hit_rate": {"mean": 0.84, "low": 0.69, "high": 0.97},
        "net_return": {"mean": 0.021, "low": 0.004, "high": 0.038},
    },
    "moderate": {
        "state": "certified",
        "reason": None,
        "trades": 412,
        "episodes": 44,
        "hit_rate": {"mean": 0.78, "low": 0.72, "high": 0.84},
        "net_return": {"mean": 0.017, "low": 0.009, "high": 0.025},
    },
    "aggressive": {
        "state": "held",
        "reason": "the last 40 matured predictions stated 0.66 and realised 0.41",
        "trades": 903,
        "episodes": 51,
        "hit_rate": {"mean": 0.69, "low": 0.64, "high": 0.74},
        "net_return": {"mean": 0.012, "low": 0.006, "high": 0.018},
    },
}
STRATEGY: Json = {"strategy": "ensemble", "plan": "10", "model_version": _MODEL, "modes": _MODES}
_EVENTS: Json = {"net_profit": {"base_rate": 0.531, "auc": 0.642, "brier": 0.234, "brier_skill": 0.061, "ece": 0.02}}
_SHARE: Json = {"mean": 0.41, "low": 0.3, "high": 0.52}

ANSWERS: dict[str, Json] = {
    "get_predictions": _PAPER
    | {
        "as_of": _AS_OF,
        "model_version": _MODEL,
        "logic_version": "4",
        "trained_through": "2026-02-13",
        "features_through": "2026-02-27",
        "certified_modes": ["moderate"],
        "held_modes": {"aggressive": "the last 40 matured predictions stated 0.66 and realised 0.41"},
        "predictions": {"RELIANCE": _PREDICTION},
        "candidates": {"RELIANCE": [_PROPOSAL]},
    },
    "explain_prediction": _PAPER
    | {
        "as_of": _AS_OF,
        "model_version": _MODEL,
        "features_through": "2026-02-27",
        "event": "net_profit",
        "intercept": 0.12,
        "contributions": [{"feature": "rsi_14", "value": 38.5, "contribution": 0.21}],
        "rest": 0.04,
        "votes": [{"strategy": "momentum", "fired": True, "reason": "above its 20-session high"}],
        "prediction": _PREDICTION,
    },
    "list_strategies": _PAPER | {"strategies": [STRATEGY]},
    "get_current_models": _PAPER
    | {
        "models": {
            "10": {
                "model_version": _MODEL,
                "logic_version": "4",
                "horizon_sessions": 10,
                "trained_through": "2026-02-13",
                "calibrated_through": "2026-01-30",
                "symbols": 200,
                "strategies": {"ensemble": {"events": _EVENTS, "modes": _MODES}},
            }
        }
    },
    "get_scoreboard": _PAPER
    | {
        "as_of": "2026-03-02T15:30:00+05:30",
        "since": "2025-12-01",
        "frozen": 12400,
        "matured": 9800,
        "events": [
            {
                "strategy": "ensemble",
                "event": "net_profit",
                "matured": 9800,
                "pending": 2600,
                "stated": 0.54,
                "realised": 0.52,
                "brier": 0.241,
                "base_brier": 0.249,
                "brier_skill": 0.0321,
                "calibration_error": 0.021,
                "bins": [{"count": 980, "stated": 0.41, "realised": 0.4}],
            }
        ],
        "modes": [
            {
                "strategy": "ensemble",
                "mode": "aggressive",
                "signals": 96,
                "matured": 40,
                "episodes": 6,
                "hit_rate": _SHARE,
                "net_return": {"mean": -0.004, "low": -0.012, "high": 0.004},
                "state": "held",
                "reason": "the last 40 matured predictions stated 0.66 and realised 0.41",
            }
        ],
        "drift": [{"feature": "rsi_14", "psi": 0.08}],
    },
    "list_frozen_predictions": _PAPER
    | {
        "entries": [
            {
                "served_at": "2026-02-10T09:16:00+05:30",
                "session": "2026-02-09",
                "symbol": "RELIANCE",
                "strategy": "ensemble",
                "model_version": _MODEL,
                "horizon_sessions": 10,
                "action": "buy",
                "probability": {"net_profit": 0.62, "touch_0.015": 0.74},
                "expected_return_net": 0.019,
                "expected_return_net_lower": 0.004,
                "certified_modes": ["moderate"],
                "outcome": "matured",
                "matured_through": "2026-02-24",
                "net_return": 0.0243,
                "hit": {"net_profit": True, "touch_0.015": True},
            }
        ],
        "next_cursor": "MjAyNi0wMi0wOXxSRUxJQU5DRQ",
    },
}
"""Answers by operation id."""
