"""Evidence is counted in episodes, and a mode is certified only by bounds that hold."""

import numpy as np
import pytest

from ml_service.calibrate import Forecast
from ml_service.evidence import (
    MODES,
    Mode,
    accepts,
    calibration_error_by_size,
    clustered_interval,
    episode_interval,
    episodes_of,
    expected_calibration_error,
    judge_mode,
    reliability,
)

CONSERVATIVE = MODES[0]


def test_an_episode_takes_in_what_overlaps_its_first_signal() -> None:
    assert episodes_of(np.array([5, 0, 9, 10, 40, 19, 20]), 10).tolist() == [0, 0, 0, 1, 3, 1, 2]


def test_rows_of_one_cluster_count_once() -> None:
    values, cluster = np.tile([0.0, 1.0], 10), np.tile([0, 1], 10)
    repeated = clustered_interval(np.repeat(values, 50), np.repeat(cluster, 50))
    once = clustered_interval(values, cluster)
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high))
    assert clustered_interval(np.ones(9), np.zeros(9)).low == -np.inf


def test_the_interval_covers_the_truth_under_common_shocks() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        cluster = np.repeat(np.arange(40), 8)
        interval = clustered_interval(0.3 + rng.normal(size=40)[cluster] + rng.normal(size=320), cluster)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.91 <= covered / 400 <= 0.98


def test_calibration_error_is_the_gap_between_stated_and_realised() -> None:
    rng = np.random.default_rng(2)
    probability = rng.uniform(0.2, 0.8, 50_000)
    assert expected_calibration_error(probability, rng.random(50_000) < probability) < 0.01
    assert expected_calibration_error(probability, rng.random(50_000) < probability - 0.15) == pytest.approx(
        0.15, abs=0.01
    )


def test_bins_of_equal_width_and_of_equal_size_agree_where_probabilities_spread() -> None:
    rng = np.random.default_rng(4)
    probability = rng.uniform(0, 1, 50_000)
    hit = rng.random(50_000) < probability**1.3
    wide, equal = expected_calibration_error(probability, hit), calibration_error_by_size(probability, hit)
    assert wide == pytest.approx(equal, abs=0.003)
    bins = reliability(probability, hit)
    assert sum(one["count"] for one in bins) == 50_000
    assert [round(one["stated"], 1) for one in bins[:2]] == [0.0, 0.1] or bins[0]["stated"] < 0.1


def record(episodes: int, hit_rate: float, net: float) -> dict[str, object]:
    """A mode's judgement of ten signals per episode, each stated at 85 % and 2.5 %."""
    rows = episodes * 10
    session = np.repeat(np.arange(episodes) * 10, 10)
    forecast = Forecast(
        {name: np.full(rows, 0.85) for name in ("net_profit", "touch_0.01", "touch_0.015", "touch_0.02")},
        np.full(rows, 0.025),
        np.full(rows, 0.001),
    )
    rng = np.random.default_rng(3)
    hit = rng.permutation(np.arange(rows) < rows * hit_rate)
    outcome = rng.normal(net, 0.03, rows)
    return judge_mode(CONSERVATIVE, forecast, {"touch_0.02": hit, "net_profit": outcome > 0}, outcome, session, 10)


def test_bounds_that_hold_over_twenty_episodes_certify() -> None:
    judged = record(20, 0.9, 0.02)
    assert judged["certified"]
    assert judged["episodes"] == 20


@pytest.mark.parametrize(
    ("episodes", "hit_rate", "net", "verdict"),
    [
        (19, 0.95, 0.03, "insufficient_evidence"),
        (40, 0.81, 0.02, "hit_rate_not_proven"),
        (40, 0.95, -0.001, "net_return_not_proven"),
    ],
)
def test_anything_less_does_not(episodes: int, hit_rate: float, net: float, verdict: str) -> None:
    judged = record(episodes, hit_rate, net)
    assert not judged["certified"]
    assert judged["verdict"] == verdict


def test_one_large_episode_proves_no_mode() -> None:
    """1,500 signals of one rebound beside nineteen that failed: the mean is high, the evidence is one."""
    session = np.concatenate([np.zeros(1500), np.arange(1, 20) * 10]).astype(int)
    hit = np.concatenate([np.arange(1500) % 20 > 0, np.zeros(19, dtype=bool)])
    net = np.where(hit, 0.04, -0.06)
    names = ("net_profit", "touch_0.01", "touch_0.015", "touch_0.02")
    rows = len(session)
    forecast = Forecast({name: np.full(rows, 0.9) for name in names}, np.full(rows, 0.025), np.full(rows, 0.001))
    judged = judge_mode(CONSERVATIVE, forecast, {"touch_0.02": hit, "net_profit": net > 0}, net, session, 10)
    assert judged["hit_rate"]["mean"] > 0.9
    assert judged["verdict"] == "hit_rate_not_proven"


def test_intervals_stay_honest_where_episodes_differ_in_size_or_touch() -> None:
    rng = np.random.default_rng(8)
    missed = {"sizes": 0, "touching": 0}
    for _ in range(300):
        sizes = np.maximum(np.exp(rng.normal(2, 1.5, 20)).astype(int), 1)
        cluster = np.repeat(np.arange(20), sizes)
        lucky = rng.normal(0, 1, 20)[cluster]
        bounds = clustered_interval(lucky, cluster).low, episode_interval(lucky, cluster).low
        missed["sizes"] += min(bounds) > 0
        walk = np.convolve(rng.normal(size=230), np.ones(10), "valid")[:200]
        missed["touching"] += clustered_interval(walk, np.repeat(np.arange(20), 10)).low > 0
    assert missed["sizes"] / 300 < 0.045
    assert missed["touching"] / 300 < 0.055


@pytest.mark.parametrize(
    ("expected", "error", "touch", "taken"),
    [
        (0.02, 0.01, 0.8, True),
        (0.019, 0.001, 0.99, False),
        (0.05, 0.001, 0.79, False),
        (0.02, 0.02, 0.9, False),
    ],
)
def test_a_mode_asks_for_return_confidence_and_a_positive_bound(
    expected: float, error: float, touch: float, taken: bool
) -> None:
    forecast = Forecast({"touch_0.02": np.array([touch])}, np.array([expected]), np.array([error]))
    assert accepts(Mode("m", 0.02, 0.8), forecast).tolist() == [taken]
