"""What filters and baselines say is what a plain loop over the same rows says, and luck is priced as luck."""

import math
from datetime import date
from itertools import pairwise
from statistics import NormalDist, fmean, stdev

import numpy as np
import polars as pl
import pytest
from scipy.stats import t
from synthetic_market import business_days

from ml_service.calibrate import Forecast
from ml_service.compare import CALM_SHARE, SESSIONS_PER_YEAR, baselines, filters
from ml_service.evidence import MODES, deflated_sharpe
from ml_service.labels import COST_FRACTION, EVENTS, Labels, touch_name
from ml_service.walkforward import Dataset, OutOfSample

HORIZON, TRIALS = 5, 12
ROWS, SESSIONS = 1200, 90


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Random outcomes of rows in random order, one in four of them never calibrated."""
    random = np.random.default_rng(8)
    net = random.normal(0.004, 0.03, ROWS)
    events = {name: random.random(ROWS) < 0.6 for name in EVENTS} | {"net_profit": net > 0}
    session = random.integers(0, SESSIONS, ROWS)
    return Dataset(
        x=random.standard_normal((ROWS, 3)),
        atr_fraction=random.uniform(0.01, 0.05, ROWS),
        session=session,
        month=session // 21,
        symbol=np.array([f"S{i % 20:02d}" for i in range(ROWS)]),
        labels=Labels(net + COST_FRACTION, net, net, events, session + HORIZON),
        votes={},
    )


@pytest.fixture(scope="module")
def answers(data: Dataset) -> OutOfSample:
    random = np.random.default_rng(9)
    rows = random.permutation(ROWS)[: 3 * ROWS // 4]
    stated = {name: random.uniform(0.5, 0.95, len(rows)) for name in EVENTS}
    forecast = Forecast(stated, random.normal(0.012, 0.012, len(rows)), np.full(len(rows), 0.004))
    return OutOfSample(rows, {}, rows, {}, forecast, {})


def told(data: Dataset, answers: OutOfSample, take: object) -> list[tuple[int, float]]:
    """(session, net) of the rows that `take` says yes to, asked one by one."""
    forecast, found = answers.forecast, []
    for i, row in enumerate(answers.rows):
        stated = {name: values[i] for name, values in forecast.events.items()}
        lower = forecast.expected[i] - 1.2816 * forecast.error[i]
        if take(stated, forecast.expected[i], lower, i):  # pyright: ignore[reportCallIssue]
            found.append((int(data.session[row]), float(data.labels.net[row])))
    return found


def by_episode(taken: list[tuple[int, float]]) -> list[list[float]]:
    """Net returns of each episode: it opens with a trade and takes in those of the horizon's sessions from there."""
    episodes: list[list[float]] = []
    until = -1
    for session in sorted({day for day, _ in taken}):
        if session > until:
            episodes.append([])
            until = session + HORIZON - 1
        episodes[-1] += [net for day, net in taken if day == session]
    return episodes


def interval(episodes: list[list[float]]) -> tuple[float, float, float]:
    """Mean over trades; errors by episode and its neighbours in time, Student's t of the effective episodes."""
    values = [value for episode in episodes for value in episode]
    mean, count = fmean(values), len(episodes)
    sums = [sum(value - mean for value in episode) for episode in episodes]
    spread = sum(one**2 for one in sums)
    spread = max(spread, spread + sum(one * other for one, other in pairwise(sums)))
    error = math.sqrt(spread * count / (count - 1)) / len(values)
    effective = len(values) ** 2 / sum(len(episode) ** 2 for episode in episodes)
    reach = float(t.ppf(0.975, effective - 1)) * error
    return mean, mean - reach, mean + reach


def check(found: dict, taken: list[tuple[int, float]]) -> None:
    episodes = by_episode(taken)
    assert (found["trades"], found["days"]) == (len(taken), len({day for day, _ in taken}))
    assert found["episodes"] == len(episodes) >= 5
    assert tuple(found["net"].values()) == pytest.approx(interval(episodes))
    wins = [[float(net > 0) for net in episode] for episode in episodes]
    assert tuple(found["profitable"].values()) == pytest.approx(interval(wins))
    assert found["deflated_sharpe"] == pytest.approx(deflated([fmean(one) for one in episodes], TRIALS))


def deflated(returns: list[float], trials: int) -> float:
    """Bailey and López de Prado (2014), equation 2 and the appendix's expected maximum, written out."""
    n, normal = len(returns), NormalDist()
    mean, deviation = fmean(returns), stdev(returns)
    third, fourth = (fmean([(r - mean) ** power for r in returns]) for power in (3, 4))
    variance = fmean([(r - mean) ** 2 for r in returns])
    skew, kurtosis = third / variance**1.5, fourth / variance**2
    gamma = 0.5772156649015329
    maximum = (1 - gamma) * normal.inv_cdf(1 - 1 / trials) + gamma * normal.inv_cdf(1 - 1 / (trials * math.e))
    ratio, threshold = mean / deviation, maximum / math.sqrt(n - 1)
    scale = math.sqrt(1 - skew * ratio + (kurtosis - 1) / 4 * ratio**2)
    return normal.cdf((ratio - threshold) * math.sqrt(n - 1) / scale)


def test_filters_are_what_a_loop_takes(data: Dataset, answers: OutOfSample) -> None:
    found = filters(data, answers, HORIZON, TRIALS)
    for mode in MODES:
        event = touch_name(mode.net_return)
        check(
            found[mode.name],
            told(
                data,
                answers,
                lambda stated, expected, lower, _, mode=mode, event=event: (
                    expected >= mode.net_return and stated[event] >= mode.confidence and lower > 0
                ),
            ),
        )
        check(
            found[f"{mode.name}, P(net profit)"],
            told(
                data,
                answers,
                lambda stated, expected, _lower, _, mode=mode: (
                    expected >= mode.net_return and stated["net_profit"] >= mode.confidence
                ),
            ),
        )
    check(found["P(touch +2 %) >= 0.8"], told(data, answers, lambda stated, *_: stated["touch_0.02"] >= 0.8))
    check(found["E[net] >= 1 %"], told(data, answers, lambda _, expected, *__: expected >= 0.01))
    assert len(found) == 2 * len(MODES) + 2


def test_a_filter_that_takes_nothing_says_so(data: Dataset, answers: OutOfSample) -> None:
    modest = Forecast(answers.forecast.events, np.full(len(answers.rows), -0.01), answers.forecast.error)
    none = OutOfSample(answers.scored, {}, answers.rows, {}, modest, {})
    found = filters(data, none, HORIZON, TRIALS)
    assert found["aggressive"] == found["E[net] >= 1 %"] == {"trades": 0, "days": 0, "episodes": 0}


def held_frame(closes: dict[str, list[float]], member: dict[str, list[bool]] | None = None) -> pl.DataFrame:
    days = business_days(date(2023, 1, 2), max(len(values) for values in closes.values()))
    return pl.concat(
        pl.DataFrame(
            {
                "symbol": [symbol] * len(values),
                "session": days[: len(values)],
                "close": values,
                "member": (member or {}).get(symbol, [True] * len(values)),
            },
            schema_overrides={"close": pl.Float64},
        )
        for symbol, values in closes.items()
    )


def test_baselines_of_entries_are_what_a_loop_takes(data: Dataset, answers: OutOfSample) -> None:
    flat = held_frame({"A": [100.0] * 5})
    found = baselines(data, answers, flat, HORIZON, TRIALS)
    check(found["every row"], told(data, answers, lambda *_: True))
    sizes = {}
    for i, row in enumerate(answers.rows):
        sizes.setdefault(int(data.session[row]), []).append(float(data.atr_fraction[row]))
        assert i >= 0

    def calm(_stated: object, _expected: object, _lower: object, i: int) -> bool:
        row = answers.rows[i]
        return data.atr_fraction[row] <= np.quantile(sizes[int(data.session[row])], CALM_SHARE)

    check(found["calmest fifth, same exits"], told(data, answers, calm))
    widest = max(filters(data, answers, HORIZON, TRIALS)[mode.name]["trades"] for mode in MODES)
    assert found["random entries"]["trades"] == widest > 0
    every, random = found["every row"]["net"], found["random entries"]["net"]
    assert abs(random["mean"] - every["mean"]) < 0.01
    assert baselines(data, answers, flat, HORIZON, TRIALS)["random entries"] == found["random entries"]


def test_buy_and_hold_on_a_hand_made_series(data: Dataset, answers: OutOfSample) -> None:
    closes = {"A": [100, 110, 99, 99], "B": [50, 50, 55, 66]}
    days = [fmean([0.1, 0.0]), fmean([-0.1, 0.1]), fmean([0.0, 0.2])]
    held = baselines(data, answers, held_frame(closes), HORIZON, TRIALS)["buy and hold"]
    growth = (1 + days[0]) * (1 + days[1]) * (1 + days[2])
    assert held["cagr"] == pytest.approx(growth ** (SESSIONS_PER_YEAR / 3) - 1)
    assert held["volatility"] == pytest.approx(stdev(days) * math.sqrt(SESSIONS_PER_YEAR))
    assert held["sharpe"] == pytest.approx(fmean(days) / stdev(days) * math.sqrt(SESSIONS_PER_YEAR))


def test_only_members_are_held_from_the_session_after_they_became_one(data: Dataset, answers: OutOfSample) -> None:
    closes = {"A": [100, 101, 102, 103], "B": [100, 90, 99, 108.9]}
    member = {"B": [False, True, False, True]}
    days = [0.01, fmean([102 / 101 - 1, 0.1]), 103 / 102 - 1]
    held = baselines(data, answers, held_frame(closes, member), HORIZON, TRIALS)["buy and hold"]
    growth = math.prod(1 + day for day in days)
    assert held["cagr"] == pytest.approx(growth ** (SESSIONS_PER_YEAR / 3) - 1)


def test_an_unadjusted_split_is_no_loss_that_anybody_made(data: Dataset, answers: OutOfSample) -> None:
    closes = {"A": [100, 101, 102, 103], "B": [100, 101, 50, 51]}
    days = [0.01, 102 / 101 - 1, fmean([103 / 102 - 1, 0.02])]
    held = baselines(data, answers, held_frame(closes), HORIZON, TRIALS)["buy and hold"]
    assert held["cagr"] == pytest.approx(math.prod(1 + day for day in days) ** (SESSIONS_PER_YEAR / 3) - 1)


def test_the_calmest_fifth_is_chosen_by_what_was_known(data: Dataset, answers: OutOfSample) -> None:
    calm, shares, last = 3, 11, 79
    size = np.array([0.002] * calm + [0.02] * (shares - calm))
    steps = np.random.default_rng(3).normal(0, 1, (shares, last + 1)) * size[:, None]
    steps[0, last] = 0.3
    closes = {f"S{i:02d}": (100 * np.exp(np.cumsum(row))).tolist() for i, row in enumerate(steps)}
    found = baselines(data, answers, held_frame(closes), HORIZON, TRIALS)["hold the calmest fifth"]
    quiet = [closes[f"S{i:02d}"] for i in range(calm)]
    days = [fmean([close[day] / close[day - 1] - 1 for close in quiet]) for day in range(61, last + 1)]
    assert days[-1] > 0.1, "the jump of a share that was calm is its holder's"
    assert found["volatility"] == pytest.approx(stdev(days) * math.sqrt(SESSIONS_PER_YEAR))


def test_without_two_days_nothing_is_said_of_holding(data: Dataset, answers: OutOfSample) -> None:
    found = baselines(data, answers, held_frame({"A": [100, 101]}), HORIZON, TRIALS)
    assert found["buy and hold"] == {"cagr": None, "volatility": None, "sharpe": None}


# The deflated Sharpe ratio.


def test_the_published_example() -> None:
    """Bailey and López de Prado (2014), section "A numerical example": 100 trials whose ratios have a variance of
    1 / 500 per day, a ratio of 2.5 / √250, skewness −3, kurtosis 10; over 1,250 days the DSR is .9004.

    Two outcomes have a kurtosis of skewness² + 1, so 459 gains among 501 days are that distribution, and 501 days have
    that variance of a worthless ratio; the statistic grows with the root of the days.
    """
    outcomes = np.array([1.0] * 459 + [0.0] * 42)
    spread = float(np.std(outcomes, ddof=1))
    returns = outcomes - outcomes.mean() + 2.5 / math.sqrt(250) * spread
    found = deflated_sharpe(returns, 100)
    assert found is not None
    statistic = NormalDist().inv_cdf(found) * math.sqrt(1249 / 500)
    assert NormalDist().cdf(statistic) == pytest.approx(0.9004, abs=0.002)


def test_the_best_of_worthless_trials_rarely_looks_like_skill() -> None:
    random, runs, trials, n = np.random.default_rng(12), 400, 20, 60
    returns = random.standard_normal((runs, trials, n))
    ratios = returns.mean(axis=2) / returns.std(axis=2, ddof=1)
    best = returns[np.arange(runs), ratios.argmax(axis=1)]
    said, unaware, single = (
        np.mean([(deflated_sharpe(one, count) or 0.0) > 0.95 for one in chosen])
        for chosen, count in ((best, trials), (best, 1), (returns[:, 0], 1))
    )
    assert said <= 0.05
    assert 0.02 <= single <= 0.09, "one trial alone is a plain test at 5 %"
    assert unaware > 0.4, "not counting the trials is what it protects from"


def test_skill_is_still_seen_through_many_trials() -> None:
    returns = np.random.default_rng(2).normal(0.5, 1.0, 200)
    assert (deflated_sharpe(returns, 1) or 0) > (deflated_sharpe(returns, 40) or 0) > 0.95


@pytest.mark.parametrize("returns", [[], [0.01] * 4, [0.01, 0.02, 0.03, 0.02], [0.01] * 50])
def test_too_little_is_no_ratio(returns: list[float]) -> None:
    assert deflated_sharpe(np.array(returns), 10) is None
