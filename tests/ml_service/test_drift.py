"""Features have drifted when they lie apart from training as they never did within it."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_service.drift import (
    DRIFT_PSI_MAX,
    DRIFT_SESSIONS,
    baseline,
    drift,
    drifted,
    feature_bins,
    stability_index,
)

NAMES = ["normal", "lumpy", "slow", "market"]
SHARES = 50


def table(rng: np.random.Generator, sessions: int, shift: float = 0.0) -> np.ndarray:
    """Rows session by session: one feature of each kind there is; `slow` carries a level that wanders over months."""
    level = np.convolve(rng.normal(size=sessions + 250), np.full(250, 250**-0.5), "valid")[:sessions]
    return np.concatenate(
        [
            np.column_stack(
                [
                    rng.normal(size=SHARES) + shift,
                    rng.binomial(5, 0.5, size=SHARES) / 5,
                    rng.normal(size=SHARES) * 0.5 + level[number],
                    np.full(SHARES, level[number]),
                ]
            )
            for number in range(sessions)
        ]
    )


def binned(values: np.ndarray, known: dict[str, dict[str, list[float]]]) -> pl.DataFrame:
    days = [date(2024, 1, 1) + timedelta(days=n) for n in range(len(values) // SHARES)]
    parts = np.split(values, len(days))
    return pl.concat(
        feature_bins(part, NAMES, known["deciles"]).select(pl.lit(day).alias("session"), pl.all())
        for day, part in zip(days, parts, strict=True)
    )


@pytest.fixture(scope="module")
def trained() -> dict:
    return baseline(table(np.random.default_rng(1), 600), np.repeat(np.arange(600), SHARES), NAMES)


def test_bins_count_every_finite_value_once(trained: dict) -> None:
    values = np.full((5, 4), np.nan)
    values[:, 0] = [-9, 9, np.inf, np.nan, trained["deciles"]["normal"][0]]
    counted = feature_bins(values, NAMES, {"normal": trained["deciles"]["normal"], "absent": [0.0] * 9})
    assert counted["feature"].to_list() == ["normal"]
    assert counted.row(0)[1:] == (1, 1, 0, 0, 0, 0, 0, 0, 0, 1)


@given(st.lists(st.integers(0, 500), min_size=10, max_size=10).filter(lambda counts: sum(counts) > 0))
@settings(max_examples=50)
def test_the_stability_index_is_what_its_formula_says(counts: list[int]) -> None:
    expected, size = [0.05, 0.15] + [0.1] * 8, sum(counts)
    plain = 0.0
    for count, share in zip(counts, expected, strict=True):
        actual, reference = (count + 0.5) / size, share + 0.5 / size
        plain += (actual - reference) * np.log(actual / reference)
    found = float(stability_index(np.array(counts, float), np.array(expected)))
    assert found == pytest.approx(plain)
    assert found >= 0


def test_values_that_come_in_lumps_are_compared_with_their_own_shares(trained: dict) -> None:
    assert len(set(trained["deciles"]["lumpy"])) < 9
    found = {d.feature: d.psi for d in drift(binned(table(np.random.default_rng(2), 20), trained), trained["shares"])}
    assert found["lumpy"] < 0.05
    assert found["normal"] < 0.05


def test_a_shift_is_found_and_the_markets_own_numbers_are_not_judged(trained: dict) -> None:
    found = drift(binned(table(np.random.default_rng(2), 30, shift=1.0), trained), trained["shares"])
    assert {each.feature for each in found} == {"normal", "lumpy", "slow"}
    assert {each.feature: each.psi for each in found}["normal"] > DRIFT_PSI_MAX
    assert [each.psi for each in found] == sorted((each.psi for each in found), reverse=True)


def test_only_the_last_sessions_count_and_enough_of_them(trained: dict) -> None:
    calm, moved = table(np.random.default_rng(2), 40), table(np.random.default_rng(3), 20, shift=1.0)
    late = drift(binned(np.concatenate([calm, moved]), trained), trained["shares"])
    early = drift(binned(np.concatenate([moved, calm]), trained), trained["shares"])
    assert max(d.psi for d in late if d.feature == "normal") > DRIFT_PSI_MAX
    assert max(d.psi for d in early if d.feature == "normal") < DRIFT_PSI_MAX
    assert drift(binned(calm[: (DRIFT_SESSIONS - 1) * SHARES], trained), trained["shares"]) == []


def test_training_says_how_much_seems_to_drift_where_nothing_does(trained: dict) -> None:
    """`slow` drifts by its nature: a plain rule of a fifth of three features would hold on it alone."""
    values = table(np.random.default_rng(1), 600)
    windows = [drift(binned(values[n * SHARES : (n + 20) * SHARES], trained), trained["shares"]) for n in (0, 200, 400)]
    shares = [sum(each.psi > DRIFT_PSI_MAX for each in found) / 3 for found in windows]
    assert trained["drifted_share_max"] == pytest.approx(1 / 3)
    assert max(shares) <= trained["drifted_share_max"]
    assert not any(drifted(found, trained["drifted_share_max"]) for found in windows)
    assert any(drifted(found, 0.0) for found in windows)


def test_the_limit_lies_between_a_fifth_and_nine_tenths(trained: dict) -> None:
    one = drift(binned(table(np.random.default_rng(2), 20), trained), trained["shares"])[0]
    few = [one.model_copy(update={"psi": 1.0 if n < 2 else 0.0}) for n in range(10)]
    some = [one.model_copy(update={"psi": 1.0 if n < 5 else 0.0}) for n in range(10)]
    every = [one.model_copy(update={"psi": 1.0})] * 10
    assert [drifted(few, 0.0), drifted(some, 0.0), drifted(every, 0.0)] == [False, True, True]
    assert [drifted(some, 0.3), drifted(some, 0.4), drifted(every, 1.0)] == [True, False, True]
    assert not drifted([], 0.0)
