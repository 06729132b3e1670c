"""Calibrated numbers mean what they say, and claim nothing where the score knows nothing."""

import numpy as np
import pytest
from scipy.special import expit

from ml_service.calibrate import (
    LOWER_BOUND_Z,
    Calibration,
    ExpectedReturn,
    Platt,
    apply_calibration,
    fit_expected,
    fit_platt,
)
from ml_service.labels import EVENTS
from ml_service.model import HEADS


def test_platt_recovers_the_probability_behind_an_overconfident_score() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(0.4, 0.5, 40_000)
    hit = rng.random(40_000) < expit(truth)
    platt = fit_platt(truth * 3 - 1, hit)
    np.testing.assert_allclose(
        platt.probability(np.array([-0.6, 0.5, 2.0]) * 3 - 1, np.zeros(3)), expit([-0.6, 0.5, 2.0]), atol=0.02
    )


def test_a_score_that_ranks_backwards_is_worth_the_base_rate() -> None:
    rng = np.random.default_rng(2)
    score = rng.normal(size=20_000)
    hit = rng.random(20_000) < expit(-score)
    platt = fit_platt(score, hit)
    np.testing.assert_allclose(platt.probability(np.array([-3.0, 0.0, 3.0]), np.zeros(3)), hit.mean(), atol=1e-6)


def test_probabilities_do_not_grow_beyond_the_calibrated_scores() -> None:
    platt = Platt(0.0, 1.0, step_slope=2.0, score_low=-1.0, score_high=1.0, step_low=-0.5, step_high=0.5)
    assert platt.probability(np.array([50.0]), np.zeros(1))[0] == expit(1.0)
    assert platt.probability(np.array([-50.0]), np.zeros(1))[0] == expit(-1.0)
    assert platt.probability(np.zeros(1), np.array([9.0]))[0] == expit(1.0)


def test_the_size_of_a_step_is_a_second_input_where_it_is_given() -> None:
    rng = np.random.default_rng(6)
    score, step = rng.normal(size=40_000), rng.normal(-4, 0.3, 40_000)
    hit = rng.random(40_000) < expit(score + 2 * (step + 4))
    platt = fit_platt(score, hit, step)
    assert (platt.slope, platt.step_slope) == pytest.approx((1, 2), abs=0.1)


def test_an_event_without_both_outcomes_calibrates_nothing() -> None:
    with pytest.raises(ValueError, match="always or never"):
        fit_platt(np.linspace(-1, 1, 100), np.ones(100, dtype=bool))


def month_shocked(rng: np.random.Generator, slope: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    month = np.repeat(np.arange(36), 60)
    score = rng.normal(0, 0.01, len(month)) + rng.normal(0, 0.005, 36)[month]
    net = slope * score + rng.normal(0, 0.03, 36)[month] + rng.normal(0, 0.04, len(month))
    return score, net, month


def test_the_lower_bound_holds_nine_times_in_ten_in_spite_of_common_shocks() -> None:
    rng = np.random.default_rng(3)
    below = []
    for _ in range(300):
        expected = fit_expected(*month_shocked(rng, 0.5))
        mean, error = expected.mean_and_error(np.array([0.01]))
        below.append(mean[0] - LOWER_BOUND_Z * error[0] <= 0.5 * 0.01)
    assert 0.84 <= np.mean(below) <= 0.96


def test_a_negative_slope_is_a_flat_expectation() -> None:
    score, net, month = month_shocked(np.random.default_rng(4), -2.0)
    expected = fit_expected(score, net, month)
    mean, error = expected.mean_and_error(np.array([-0.02, 0.0, 0.02]))
    np.testing.assert_allclose(mean, net.mean())
    np.testing.assert_allclose(error, error[0])
    assert error[0] > 2 * net.std() / len(net) ** 0.5


@pytest.mark.parametrize(("months", "most"), [(6, 0.18), (12, 0.15)])
def test_a_few_months_promise_little(months: int, most: float) -> None:
    rows = 20
    rng = np.random.default_rng(7)
    above = []
    for _ in range(400):
        month = np.repeat(np.arange(months), rows)
        score = rng.normal(0, 0.01, len(month))
        net = rng.normal(0, 0.03, months)[month] + rng.normal(0, 0.04, len(month))
        mean, error = fit_expected(score, net, month).mean_and_error(np.quantile(score, [0.9]))
        above.append(mean[0] - LOWER_BOUND_Z * error[0] > 0)
    assert np.mean(above) < most, "nominally one in ten"


def test_a_few_months_calibrate_nothing() -> None:
    score, net, month = month_shocked(np.random.default_rng(5), 1.0)
    with pytest.raises(ValueError, match="calendar months"):
        fit_expected(score, net, month % 5)


def test_reaching_more_is_never_likelier_than_reaching_less() -> None:
    log_odds = dict(zip(EVENTS, (9.0, 3.0, 2.0, 1.0, 1.5, 0.0, 0.5, -1.0), strict=True))
    platt = {name: Platt(odds, 1.0, 0.0, -5.0, 5.0, -9.0, 9.0) for name, odds in log_odds.items()}
    calibration = Calibration(platt, ExpectedReturn(0.0, 1.0, 0.0, 0.0, 0.0, -1.0, 1.0))
    scores = {name: np.zeros(3) for name in HEADS}
    events = apply_calibration(calibration, scores, np.full(3, 0.02)).events
    for name, odds in zip(EVENTS, (9.0, 3.0, 2.0, 1.0, 1.0, 0.0, 0.0, -1.0), strict=True):
        assert events[name].tolist() == [expit(odds)] * 3
    assert Calibration.from_json(calibration.to_json()) == calibration
