"""Turn walk-forward answers into the record a model is published and certified by."""

from dataclasses import asdict
from typing import Any

import numpy as np

from ml_service.calibrate import head_of
from ml_service.evidence import MODES, event_metrics, judge_mode, rank_ic
from ml_service.labels import EVENTS
from ml_service.model import RETURN_HEAD
from ml_service.walkforward import Dataset, OutOfSample


def judge(data: Dataset, answers: OutOfSample, horizon: int) -> dict[str, Any]:
    """Metrics per event and per mode over the calibrated out-of-sample rows."""
    rows = answers.rows
    hits, net, session = data.events(rows), data.labels.net[rows], data.session[rows]
    score = answers.raw[RETURN_HEAD] / data.atr_fraction[rows]
    metrics = {
        name: event_metrics(answers.raw[head_of(name)], answers.forecast.events[name], hits[name], answers.base[name])
        for name in EVENTS
    }
    return {
        "metrics": {
            "rows": len(rows),
            "sessions": len(np.unique(session)),
            "net_mean": float(net.mean()),
            "rank_ic": rank_ic(score, data.scaled_return[rows], session),
            "rank_ic_forward": rank_ic(score, data.labels.forward[rows] / data.atr_fraction[rows], session),
            "events": metrics,
        },
        "modes": {m.name: judge_mode(m, answers.forecast, hits, net, session, horizon) for m in MODES},
    }


def nothing_proven(why: str) -> dict[str, Any]:
    """The record of a strategy that could not be judged."""
    mode = {"candidates": 0, "episodes": 0, "certified": False, "verdict": "insufficient_evidence"}
    return {"metrics": None, "why": why, "modes": {m.name: asdict(m) | mode for m in MODES}}
