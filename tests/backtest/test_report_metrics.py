"""The curve's figures: against an independent library's, against each other, and where there is next to nothing."""

import json
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from report_cases import FIRST, autoregressive, curve, uniforms, wave
from scipy import stats

from backend.backtest.report import bootstrap
from backend.backtest.report.metrics import (
    alpha_beta,
    curve_metrics,
    deepest_drawdown,
    drawdowns,
    finite,
    growth,
    monthly_returns,
    sharpe,
    value_at_risk,
)
from backend.backtest.report.series import aligned, daily, of_closes, returns_of


def _series() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    market, idle = wave(8, 2500, 0.0003, 0.01), wave(9, 300, 0.0004, 0.01)
    idle[::3] = 0.0
    return {
        "year": (wave(1, 252, 0.0005, 0.01), wave(2, 252, 0.0003, 0.012)),
        "decade": (0.5 * market + wave(3, 2500, 0.0002, 0.008), market),
        "month": (wave(4, 21, -0.001, 0.02), wave(5, 21, 0.0, 0.01)),
        "losing": (wave(6, 600, -0.0015, 0.015), wave(7, 600, 0.0004, 0.01)),
        "idle": (idle, wave(10, 300, 0.0002, 0.01)),
    }


# empyrical-reloaded 0.7.1 on pandas 3.1.1 and numpy 2.4.6, daily, risk-free rate 0
EMPYRICAL = {
    "year": {
        "total_return": 0.2331849689624086,
        "cagr": 0.2331849689624086,
        "volatility": 0.09609701152350733,
        "sharpe": 2.2298355996460475,
        "sortino": 3.647453298396317,
        "calmar": 2.8797172459753106,
        "max_drawdown": -0.08097495310982619,
        "var_95": -0.008409568073228001,
        "cvar_95": -0.010614641660824415,
        "alpha": 0.23100349769056638,
        "beta": 0.07789920858172515,
    },
    "decade": {
        "total_return": 0.8785105589661977,
        "cagr": 0.06561522034929412,
        "volatility": 0.08773699501303878,
        "sharpe": 0.768289573130225,
        "sortino": 1.1228099751513025,
        "calmar": 0.3084378241115637,
        "max_drawdown": -0.21273402682791828,
        "var_95": -0.008821238557063044,
        "cvar_95": -0.011138326651625336,
        "alpha": 0.03517224439841948,
        "beta": 0.5340631994910754,
    },
    "month": {
        "total_return": -0.0932684039943491,
        "cagr": -0.691151857836237,
        "volatility": 0.14995409945041968,
        "sharpe": -7.745072251595059,
        "sortino": -7.723855109826018,
        "calmar": -7.410353648574407,
        "max_drawdown": -0.09326840399434914,
        "var_95": -0.020086801987141373,
        "cvar_95": -0.021899047236889603,
        "alpha": -0.6877481713409428,
        "beta": 0.07142337036907166,
    },
    "losing": {
        "total_return": -0.6086725241831865,
        "cagr": -0.325678598496119,
        "volatility": 0.13319173772841397,
        "sharpe": -2.8895937773568563,
        "sortino": -3.549909955550812,
        "calmar": -0.5298588958183381,
        "max_drawdown": -0.6146515630225029,
        "var_95": -0.014853296882472932,
        "cvar_95": -0.018820780445821587,
        "alpha": -0.31544202159575563,
        "beta": -0.04757420812579627,
    },
    "idle": {
        "total_return": 0.21661348205205067,
        "cagr": 0.17903909239678217,
        "volatility": 0.07679559568213584,
        "sharpe": 2.1836089639327807,
        "sortino": 3.4236338145089498,
        "calmar": 2.67404313757322,
        "max_drawdown": -0.06695445181159863,
        "var_95": -0.007914453599974515,
        "cvar_95": -0.010438672731692593,
        "alpha": 0.181217793707942,
        "beta": -0.0956260629101795,
    },
}

# arch 8.0.0, optimal_block_length(...)["stationary"]
BLOCKS = {"year": 1.1297035200822103, "decade": 2.4110827951831113, "month": 1.0688886534070718}
BLOCKS_AUTOREGRESSIVE = {
    (0.3, 11, 1000): 8.151172322797544,
    (0.8, 12, 1000): 41.028850301499844,
    (-0.4, 13, 800): 15.361860432895192,
}


@pytest.mark.parametrize("name", EMPYRICAL)
def test_figures_are_those_of_an_independent_library(name: str) -> None:
    returns, market = _series()[name]
    found = curve_metrics(returns, market)
    for figure, expected in EMPYRICAL[name].items():
        assert float(found[figure]) == pytest.approx(expected, rel=1e-10), figure


def test_sharpe_alpha_and_beta_are_those_of_scipy() -> None:
    returns, market = _series()["losing"]
    line = stats.linregress(market, returns)
    alpha, beta = alpha_beta(returns, market)
    assert float(beta) == pytest.approx(line.slope)
    assert float(alpha) == pytest.approx((1 + line.intercept) ** 252 - 1)
    ratio = stats.ttest_1samp(returns, 0).statistic * (252 / len(returns)) ** 0.5
    assert float(sharpe(returns)) == pytest.approx(ratio)


@given(
    arrays(np.float64, (3, 40), elements=st.floats(-0.2, 0.2)),
    arrays(np.float64, (3, 40), elements=st.floats(-0.2, 0.2)),
)
@settings(max_examples=60, deadline=None)
def test_many_series_at_once_come_out_as_one_by_one(returns: np.ndarray, market: np.ndarray) -> None:
    together = curve_metrics(returns, market)
    for row in range(3):
        for name, value in curve_metrics(returns[row], market[row]).items():
            assert np.allclose(together[name][row], value, equal_nan=True), name


@given(arrays(np.float64, 60, elements=st.floats(-0.3, 0.3)))
@settings(max_examples=60, deadline=None)
def test_a_drawdown_is_what_looking_at_every_pair_of_days_finds(returns: np.ndarray) -> None:
    value = growth(returns)
    deepest = min(value[late] / value[early] - 1 for early in range(61) for late in range(early, 61))
    found = deepest_drawdown(of_closes([FIRST + timedelta(days=n) for n in range(60)], 1.0, value[1:]))
    assert found.depth == pytest.approx(deepest, abs=1e-12)
    if found.peak is not None and found.trough is not None:
        early, late = (found.peak - FIRST).days + 1, (found.trough - FIRST).days + 1
        assert value[late] / value[early] - 1 == pytest.approx(found.depth, abs=1e-9)


@pytest.mark.parametrize(
    ("closes", "depth", "sessions", "recovered"),
    [
        ([110, 99, 105, 111, 100], -0.1, 3, FIRST + timedelta(days=3)),
        ([110, 99, 105, 109, 100], -0.1, 4, None),
        ([90, 95, 100, 101, 101], -0.1, 3, FIRST + timedelta(days=2)),
        ([100, 101, 101, 102, 103], 0.0, 0, None),
    ],
)
def test_a_drawdown_lasts_until_its_peak_is_reached_again(
    closes: list[float], depth: float, sessions: int, recovered: date | None
) -> None:
    found = deepest_drawdown(daily(curve([100, *closes])))
    assert (found.depth, found.sessions, found.recovered) == (pytest.approx(depth), sessions, recovered)
    assert float(curve_metrics(daily(curve([100, *closes])).returns)["max_drawdown_sessions"]) == sessions


def test_value_at_risk_is_the_quantile_and_its_mean_tail_no_better() -> None:
    returns = wave(20, 333, 0.0, 0.02)
    found = curve_metrics(returns)
    assert float(found["var_95"]) == pytest.approx(float(np.percentile(returns, 5)))
    assert float(found["cvar_95"]) < float(found["var_95"]) < 0
    assert float(value_at_risk(np.array([0.01]))) == 0.01


@pytest.mark.parametrize(
    ("equity", "total", "missing"),
    [
        ([100], 0.0, {"cagr", "volatility", "sharpe", "sortino", "calmar", "var_95", "cvar_95"}),
        ([100, 110], 0.1, {"volatility", "sharpe", "sortino", "calmar"}),
        ([100, 100, 100], 0.0, {"sharpe", "sortino", "calmar"}),
        ([100, 0, 0], -1.0, set()),
    ],
)
def test_next_to_nothing_gives_no_figure_rather_than_a_wrong_one(
    equity: list[float], total: float, missing: set[str]
) -> None:
    found = {name: finite(value) for name, value in curve_metrics(daily(curve(equity)).returns).items()}
    assert found["total_return"] == pytest.approx(total)
    assert {name for name, value in found.items() if value is None} == missing
    json.dumps(found, allow_nan=False)


def test_a_total_loss_is_a_loss_of_everything_and_earns_nothing_after() -> None:
    series = daily(curve([100, 50, 0, 0]))
    assert list(series.returns) == [-0.5, -1.0, 0.0]
    assert float(curve_metrics(series.returns)["cagr"]) == -1
    assert deepest_drawdown(series).depth == -1


def test_the_last_value_of_each_session_counts() -> None:
    seen = curve([100, 101, 102])
    at = np.sort(np.concatenate([seen.at, seen.at[1:] - 3600]))
    equity = np.array([100.0, 150.0, 101.0, 160.0, 102.0])
    series = daily(replace(seen, at=at, equity=equity))
    assert list(series.close) == [101, 102]
    assert series.days == (FIRST, FIRST + timedelta(days=1))


def test_months_multiply_to_the_whole() -> None:
    days = [date(2023, 1, 30), date(2023, 1, 31), date(2023, 2, 1), date(2023, 4, 3)]
    found = monthly_returns(of_closes(days, 100.0, np.array([102.0, 104.0, 99.0, 110.0])))
    assert found == pytest.approx({(2023, 1): 0.04, (2023, 2): 99 / 104 - 1, (2023, 4): 110 / 99 - 1})
    assert np.prod([1 + value for value in found.values()]) == pytest.approx(1.1)


def test_an_index_is_read_from_its_last_level_before_the_first_day() -> None:
    days = [date(2023, 1, 3), date(2023, 1, 4), date(2023, 1, 6)]
    levels = [
        (date(2022, 12, 30), 50.0),
        (date(2023, 1, 2), 100.0),
        (date(2023, 1, 3), 110.0),
        (date(2023, 1, 5), 99.0),
    ]
    assert aligned(days, levels) == pytest.approx(np.array([0.1, 0.0, -0.1]))
    assert aligned(days, levels[2:]) is None, "its first return would be a guess"
    assert aligned(days, levels[:2]) is None, "it has no level in these days"
    assert aligned(days, []) is None


@pytest.mark.parametrize("name", BLOCKS)
def test_block_lengths_are_those_of_an_independent_library(name: str) -> None:
    assert bootstrap.optimal_block(_series()[name][0]) == pytest.approx(BLOCKS[name], rel=1e-9)


@pytest.mark.parametrize("case", BLOCKS_AUTOREGRESSIVE)
def test_blocks_grow_with_memory(case: tuple[float, int, int]) -> None:
    assert bootstrap.optimal_block(autoregressive(*case)) == pytest.approx(BLOCKS_AUTOREGRESSIVE[case], rel=1e-9)


def test_blocks_are_as_long_as_volatility_remembers() -> None:
    calm_and_wild = wave(15, 800, 0.0, 0.01) * (1 + 0.8 * np.sin(np.arange(800) / 40))
    assert bootstrap.mean_block_length(calm_and_wild) > 4 * bootstrap.optimal_block(calm_and_wild)


def test_resampled_blocks_go_on_day_by_day_and_wrap() -> None:
    drawn = bootstrap.stationary_indices(400, 50, 5.0, np.random.default_rng(1))
    follows = (np.diff(drawn, axis=1) % 50) == 1
    assert drawn.min() == 0
    assert drawn.max() == 49
    # A block ends with probability 1/5; one in fifty of those ends is followed by the next day by chance.
    assert follows.mean() == pytest.approx(0.8 + 0.2 / 50, abs=0.01)
    assert np.bincount(drawn.ravel()).std() < 0.1 * 400


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(1, 61):
        returns = wave(100 + seed * 7919, 300, 0.001, 0.01)
        found, _ = bootstrap.curve_estimates(returns, None, seed=seed, draws=300)
        truth = 0.001 / (0.01 * (4 / 12) ** 0.5) * 252**0.5
        one = found["sharpe"]
        assert one.low is not None
        assert one.high is not None
        covered += one.low <= truth <= one.high
    assert 53 <= covered <= 60


def test_memory_widens_the_interval() -> None:
    returns = autoregressive(0.5, 31, 800) + 0.0005
    blocks, length = bootstrap.curve_estimates(returns, None, seed=1, draws=400)
    shuffled = returns[np.argsort(uniforms(5, 800))]
    single, _ = bootstrap.curve_estimates(shuffled, None, seed=1, draws=400)

    def width(one: bootstrap.Estimate) -> float:
        return (one.high or 0) - (one.low or 0)

    assert length is not None
    assert length > 5
    assert width(blocks["sharpe"]) > 1.3 * width(single["sharpe"])


def test_the_market_is_drawn_with_the_account() -> None:
    market = wave(41, 250, 0.0, 0.01)
    found, _ = bootstrap.curve_estimates(2 * market + 0.001, market, seed=1, draws=200)
    assert found["beta"].low == pytest.approx(2)
    assert found["beta"].high == pytest.approx(2)


def test_the_same_seed_gives_the_same_interval_and_few_sessions_none() -> None:
    returns = wave(42, 60, 0.0, 0.01)
    assert bootstrap.curve_estimates(returns, None, seed=3, draws=100) == bootstrap.curve_estimates(
        returns, None, seed=3, draws=100
    )
    short, block = bootstrap.curve_estimates(returns[:19], None, seed=3)
    assert block is None
    assert all(one.low is None for one in short.values())


def test_a_value_that_is_not_positive_earns_nothing() -> None:
    assert list(returns_of(np.array([100.0, 0.0, 50.0, 75.0]))) == [-1.0, 0.0, 0.5]
    assert float(drawdowns(growth(np.array([-1.0, 0.0]))).min()) == -1
