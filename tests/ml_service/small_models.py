"""Models small enough to make by the hundred: two features, one event, nothing trained."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from contracts.common import Environment
from ml_service.calibrate import Calibration, ExpectedReturn, Platt
from ml_service.features import features_hash
from ml_service.labels import BRACKET, COST_FRACTION
from ml_service.model import LOGIC_VERSION, STRATEGY, LinearModel, Range
from ml_service.predict import Ages
from ml_service.registry import Artefact, Registry

SIMULATED = Environment.SIMULATED
NOW = datetime(2024, 6, 3, 4, 30, tzinfo=UTC)
TODAY = date(2024, 6, 3)
AGES = Ages(model_age_days_max=400, calibration_age_days_max=120)


def small_model(weight: float = 0.1) -> LinearModel:
    x = np.array([weight, 1 / 3])
    heads = {"return": (0.01, x), "net_profit": (0.2, x)}
    return LinearModel(("rsi_2", "atr_log"), Range(-x - 4, x + 4), -x - 3, x + 3, x, x + 1, heads)


def small_calibration(slope: float = 1.0) -> Calibration:
    expected = ExpectedReturn(0.001, 0.5, 1e-6, 0.0, 1e-6, -1.0, 1.0)
    return Calibration({"net_profit": Platt(0.1, slope, 0.0, -3.0, 3.0, 0.0, 0.0)}, expected)


def small_manifest(certified: int = 1, **changed: Any) -> dict[str, Any]:
    """The manifest of a model that certifies that many of three modes on the machine-learned strategy."""
    names = ("conservative", "moderate", "aggressive")
    modes = {name: {"certified": i < certified, "verdict": "-"} for i, name in enumerate(names)}
    return {
        "environment": "simulated",
        "horizon_sessions": 10,
        "trained_through": "2024-05-31",
        "calibrated_through": "2024-05-15",
        "logic_version": LOGIC_VERSION,
        "features_hash": features_hash(),
        "universe": ["SIM00"],
        "bracket": BRACKET,
        "cost_fraction": COST_FRACTION,
        "strategies": {STRATEGY: {"modes": modes}, "momentum": {"modes": {"aggressive": {"certified": False}}}},
    } | changed


def registered(registry: Registry, **manifest: Any) -> Artefact:
    """A small model of two strategies; other keywords, another version."""
    return registry.register(
        {STRATEGY: small_model(), "momentum": small_model(0.2)},
        {STRATEGY: small_calibration(), "momentum": small_calibration(0.5)},
        small_manifest(**manifest),
    )


def folder(registry: Registry, artefact: Artefact) -> Path:
    return registry.root / artefact.sha256


def reread(registry: Registry) -> Registry:
    """A registry over the same folder that remembers nothing."""
    return Registry(registry.root.parent)
