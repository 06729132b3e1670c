"""Deflated Sharpe ratio, track record length and CSCV: against the papers' numbers, ml_service's and a slow twin."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_cases import wave
from scipy.stats import rankdata

from backend.backtest.report.overfitting import (
    Shape,
    backtest_overfitting,
    blocks_for,
    deflated_sharpe,
    expected_best_sharpe,
    probabilistic_sharpe,
    shape_of,
    track_record_sessions_min,
)
from ml_service import evidence


def test_the_papers_worked_example() -> None:
    """Bailey and Lopez de Prado (2014): annual ratio 2.5 over 1,250 of 250 days a year, 100 trials of variance .5, skew
    -3, kurtosis 10."""
    threshold = expected_best_sharpe(100, 0.5 / 250)
    assert threshold == pytest.approx(0.1132, abs=5e-5)
    assert Shape(1250, 2.5 / 250**0.5, -3, 10).probability(threshold) == pytest.approx(0.9004, abs=5e-5)


def test_the_papers_track_record_length() -> None:
    """Bailey and Lopez de Prado (2012): normal returns and an annual ratio of 2 need 2.73 years to be told from 1."""
    needed = Shape(500, 2 / 252**0.5, 0, 3).sessions_min(1 / 252**0.5, 0.95)
    assert needed is not None
    assert needed / 252 == pytest.approx(2.73, abs=0.005)
    assert Shape(500, 0.05, 0, 3).sessions_min(0.05, 0.95) is None


@given(st.integers(1, 10**6), st.integers(5, 200), st.integers(1, 500), st.floats(-0.01, 0.01))
@settings(max_examples=60, deadline=None)
def test_it_agrees_with_the_models_own_deflated_ratio(seed: int, count: int, trials: int, drift: float) -> None:
    returns = wave(seed, count, drift, 0.01)
    assert deflated_sharpe(returns, trials) == pytest.approx(evidence.deflated_sharpe(returns, trials), rel=1e-9)


def test_more_tries_and_more_spread_ask_for_more() -> None:
    returns = wave(1, 500, 0.0008, 0.01)
    one, ten, hundred = (deflated_sharpe(returns, trials) for trials in (1, 10, 100))
    assert one == probabilistic_sharpe(returns)
    assert one is not None
    assert ten is not None
    assert hundred is not None
    assert one > ten > hundred > 0
    calm, wild = (deflated_sharpe(returns, 10, variance) for variance in (1e-5, 1e-2))
    assert calm is not None
    assert wild is not None
    assert calm > wild


def test_a_track_record_of_the_length_it_names_is_told_with_that_confidence() -> None:
    returns = wave(2, 2000, 0.0002, 0.01)
    shape, needed = shape_of(returns), track_record_sessions_min(returns)
    assert shape is not None
    assert needed is not None
    assert Shape(round(needed), shape.ratio, shape.skew, shape.kurtosis).probability(0) == pytest.approx(0.95, abs=1e-3)
    assert track_record_sessions_min(-returns) is None


@pytest.mark.parametrize("returns", [np.zeros(0), np.full(4, 0.01), np.full(50, 0.01), np.zeros(50)])
def test_nothing_is_said_of_too_few_or_flat_returns(returns: np.ndarray) -> None:
    assert deflated_sharpe(returns, 3) is None
    assert probabilistic_sharpe(returns) is None
    assert track_record_sessions_min(returns) is None


def test_the_expected_best_is_what_worthless_tries_show() -> None:
    drawn = np.random.default_rng(1).normal(0, 0.3, (20_000, 40)).max(axis=1)
    assert expected_best_sharpe(40, 0.09) == pytest.approx(drawn.mean(), rel=0.02)
    assert expected_best_sharpe(1, 0.09) == 0


def _slowly(returns: np.ndarray, blocks: int) -> tuple[list[float], list[float], list[float]]:
    """CSCV as the paper words it, split by split."""

    def ratio(rows: np.ndarray) -> np.ndarray:
        spread = rows.std(axis=0, ddof=1)
        return np.where(spread > 1e-10, rows.mean(axis=0) / np.where(spread > 1e-10, spread, 1), 0)

    parts = np.array_split(returns, blocks)
    logits, inside, outside = [], [], []
    for half in combinations(range(blocks), blocks // 2):
        seen = ratio(np.concatenate([parts[block] for block in half]))
        unseen = ratio(np.concatenate([parts[block] for block in range(blocks) if block not in half]))
        best = int(np.argmax(seen))
        relative = rankdata(unseen)[best] / (returns.shape[1] + 1)
        logits.append(float(np.log(relative / (1 - relative))))
        inside.append(float(seen[best]))
        outside.append(float(unseen[best]))
    return logits, inside, outside


@pytest.mark.parametrize(("sessions", "blocks"), [(40, 4), (67, 6), (95, 8)])
def test_it_agrees_with_a_slow_twin(sessions: int, blocks: int) -> None:
    tries = np.stack([wave(seed, sessions, 0.0003 * seed, 0.01) for seed in range(1, 7)], axis=1)
    tries[:, 4] = 0.0
    tries[:, 5] = tries[:, 1]
    logits, inside, outside = _slowly(tries, blocks)
    found = backtest_overfitting(tries)
    assert found is not None
    assert found.blocks == blocks == blocks_for(sessions)
    assert found.logits == pytest.approx(np.array(logits))
    assert found.probability == pytest.approx(np.mean(np.array(logits) <= 0))
    assert found.loss_probability == pytest.approx(np.mean(np.array(outside) < 0))
    assert found.slope == pytest.approx(np.polyfit(inside, outside, 1)[0])


def test_worthless_tries_are_overfit_and_a_planted_one_is_not() -> None:
    # The best of independent worthless tries lands anywhere: its rank is uniform on average over many sweeps.
    found = [
        backtest_overfitting(np.stack([wave(97 * sweep + seed * 7919, 130, 0, 0.01) for seed in range(8)], axis=1))
        for sweep in range(1, 13)
    ]
    assert 0.3 < float(np.mean([one.probability for one in found if one is not None])) < 0.75
    tries = np.stack([wave(seed * 104729, 130, 0.004 * (seed == 3), 0.01) for seed in range(1, 9)], axis=1)
    planted = backtest_overfitting(tries)
    assert planted is not None
    assert planted.probability < 0.02
    assert planted.loss_probability < 0.02


def test_the_full_number_of_blocks_is_used_where_there_are_sessions_for_it() -> None:
    tries = np.stack([wave(seed, 320, 0.0, 0.01) for seed in range(1, 4)], axis=1)
    found = backtest_overfitting(tries)
    assert found is not None
    assert found.blocks == 16
    assert len(found.logits) == 12_870


@pytest.mark.parametrize("shape", [(39, 5), (500, 1), (0, 3)])
def test_too_little_gives_no_probability(shape: tuple[int, int]) -> None:
    assert backtest_overfitting(np.zeros(shape)) is None


def test_tries_that_are_all_alike_are_no_choice() -> None:
    alike = np.repeat(wave(1, 100, 0.001, 0.01)[:, None], 4, axis=1)
    found = backtest_overfitting(alike)
    assert found is not None
    assert found.probability == 1
