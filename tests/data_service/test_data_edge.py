"""The planted predictability: worth finding at edge 1, absent at edge 0."""

import numpy as np
import pytest

from data_service.sessions import load_sessions
from data_service.simulator.history import generate
from data_service.simulator.model import session_noise
from data_service.simulator.universe import load_universe

HORIZON = 10
WINDOW = 40
SESSIONS = 700


def log_closes(edge: float) -> np.ndarray:
    sessions = type(load_sessions())(load_sessions().all[:SESSIONS])
    return np.log(generate(load_universe(), sessions, 11, edge, session_noise).close.astype(float))


def fit(closes: np.ndarray) -> tuple[float, float]:
    """Slope and R² of the next 10 sessions' return on the distance to the 40-day mean, against the other shares."""
    sums = np.cumsum(closes, axis=0)
    mean = (sums[WINDOW:] - sums[:-WINDOW]) / WINDOW
    distance = closes[WINDOW:-HORIZON] - mean[:-HORIZON]
    forward = closes[WINDOW + HORIZON :] - closes[WINDOW:-HORIZON]
    x = (distance - distance.mean(axis=1, keepdims=True)).ravel()
    y = (forward - forward.mean(axis=1, keepdims=True)).ravel()
    slope = (x @ y) / (x @ x)
    return float(slope), float(slope * (x @ y) / (y @ y))


@pytest.mark.parametrize(
    ("edge", "slope_range", "r2_range"), [(1.0, (-0.7, -0.3), (0.08, 0.3)), (0.0, (-0.1, 0.1), (0, 0.01))]
)
def test_distance_to_the_mean_predicts_only_where_it_was_planted(edge, slope_range, r2_range):
    slope, r2 = fit(log_closes(edge))
    assert slope_range[0] < slope < slope_range[1]
    assert r2_range[0] <= r2 < r2_range[1]


def test_without_edge_the_price_is_a_martingale_and_shocks_are_as_large():
    planted, plain = (np.diff(log_closes(edge), axis=0) for edge in (1.0, 0.0))
    assert planted.std() == pytest.approx(plain.std(), rel=0.06)
    mean_return = np.expm1(plain).mean()
    standard_error = plain.mean(axis=1).std() / np.sqrt(len(plain))
    assert abs(mean_return) < 3 * standard_error
    ratio = (log_closes(0.0)[20:] - log_closes(0.0)[:-20]).var() / (20 * plain.var())
    assert 0.8 < ratio < 1.2
