"""Shares that moved together are one cluster, whatever their names; what cannot be told stands alone."""

from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_market import business_days

from ml_service.clusters import CORRELATION_MIN, SESSIONS, SESSIONS_MIN, clusters_of

SIZE = 160


def frame_of(relative: dict[str, np.ndarray]) -> pl.DataFrame:
    """Returns against the market, given for each symbol's last sessions; NaN is a null."""
    days = business_days(date(2022, 1, 3), SIZE)
    frames = [
        pl.DataFrame(
            {"symbol": [symbol] * len(values), "session": days[SIZE - len(values) :], "relative": values},
            schema={"symbol": pl.String, "session": pl.Date, "relative": pl.Float64},
        )
        for symbol, values in relative.items()
    ]
    return pl.concat(frames).with_columns(pl.col("relative").fill_nan(None))


def together(random: np.random.Generator, count: int, correlation: float) -> list[np.ndarray]:
    """Returns that correlate pairwise with `correlation`."""
    common = random.standard_normal(SIZE)
    share, own = correlation**0.5, (1 - correlation) ** 0.5
    return [0.01 * (share * common + own * random.standard_normal(SIZE)) for _ in range(count)]


def two_groups(correlation: float = 0.8, seed: int = 1) -> dict[str, np.ndarray]:
    """BANK1-3 and TECH1-2 move together among themselves, LONE1-2 with nobody."""
    random = np.random.default_rng(seed)
    banks, techs = together(random, 3, correlation), together(random, 2, correlation)
    named = {f"BANK{i}": values for i, values in enumerate(banks, 1)}
    named |= {f"TECH{i}": values for i, values in enumerate(techs, 1)}
    return named | {f"LONE{i}": 0.01 * random.standard_normal(SIZE) for i in (1, 2)}


def groups(clusters: dict[str, str]) -> set[frozenset[str]]:
    return {frozenset(s for s, name in clusters.items() if name == cluster) for cluster in clusters.values()}


TWO_GROUPS = {
    frozenset({"BANK1", "BANK2", "BANK3"}),
    frozenset({"TECH1", "TECH2"}),
    frozenset({"LONE1"}),
    frozenset({"LONE2"}),
}


def test_two_groups_and_two_singles_are_told_apart() -> None:
    clusters = clusters_of(frame_of(two_groups()))
    assert groups(clusters) == TWO_GROUPS
    assert {clusters[symbol] for symbol in ("BANK1", "BANK2", "BANK3")} == {"BANK1"}, "named by its first member"


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(sorted(two_groups())), shuffle=st.integers(0, 99))
def test_neither_names_nor_the_order_of_rows_decide(order: list[str], shuffle: int) -> None:
    returns = two_groups()
    renamed = dict(zip((f"S{i}" for i in range(len(order))), (returns[symbol] for symbol in order), strict=True))
    found = clusters_of(frame_of(renamed).sample(fraction=1.0, shuffle=True, seed=shuffle))
    back = {f"S{i}": symbol for i, symbol in enumerate(order)}
    assert groups({back[symbol]: cluster for symbol, cluster in found.items()}) == TWO_GROUPS
    assert all(name == min(s for s, other in found.items() if other == name) for name in found.values())


@pytest.mark.parametrize(("correlation", "one"), [(CORRELATION_MIN + 0.25, True), (CORRELATION_MIN - 0.25, False)])
def test_the_bound_is_the_mean_correlation(correlation: float, one: bool) -> None:
    found = clusters_of(frame_of(two_groups(correlation, seed=3)))
    assert (found["BANK1"] == found["BANK2"] == found["BANK3"]) is one
    assert (found["TECH1"] == found["TECH2"]) is one


def test_opposite_movements_are_not_one() -> None:
    values = np.random.default_rng(4).standard_normal(SIZE)
    assert groups(clusters_of(frame_of({"UP": values, "DOWN": -values}))) == {frozenset({"UP"}), frozenset({"DOWN"})}


def test_only_the_last_sessions_count() -> None:
    random = np.random.default_rng(5)
    one, other = random.standard_normal((2, SIZE))
    parted = np.concatenate([one[: SIZE - SESSIONS], other[SIZE - SESSIONS :]])
    assert len(groups(clusters_of(frame_of({"A": one, "B": parted})))) == 2, "they were one before"
    met = np.concatenate([other[: SIZE - SESSIONS], one[SIZE - SESSIONS :]])
    assert len(groups(clusters_of(frame_of({"A": one, "B": met})))) == 1


def test_a_few_missing_sessions_take_no_share_out_of_its_cluster() -> None:
    returns = two_groups()
    returns["BANK2"] = returns["BANK2"][-(SESSIONS_MIN + 5) :]
    returns["TECH1"] = np.where(np.arange(SIZE) == SIZE - 5, np.nan, returns["TECH1"])
    assert groups(clusters_of(frame_of(returns))) == TWO_GROUPS


def test_a_share_with_many_gaps_or_a_short_history_stands_alone() -> None:
    returns = two_groups()
    gaps = np.arange(SIZE) >= SIZE - (SESSIONS - SESSIONS_MIN) - 1
    returns["BANK2"] = returns["BANK2"][-(SESSIONS_MIN - 1) :]
    returns["TECH1"] = np.where(gaps, np.nan, returns["TECH1"])
    returns["LONE1"] = np.where(gaps, np.inf, returns["BANK1"])
    found = clusters_of(frame_of(returns))
    assert groups(found) == {
        frozenset({"BANK1", "BANK3"}),
        *(frozenset({symbol}) for symbol in ("BANK2", "TECH1", "TECH2", "LONE1", "LONE2")),
    }


def test_a_price_that_never_moved_stands_alone() -> None:
    returns = two_groups() | {"FLAT1": np.zeros(SIZE), "FLAT2": np.zeros(SIZE)}
    assert groups(clusters_of(frame_of(returns))) == TWO_GROUPS | {frozenset({"FLAT1"}), frozenset({"FLAT2"})}


def test_too_few_sessions_or_shares_are_no_clusters() -> None:
    short = frame_of({symbol: values[-(SESSIONS - 1) :] for symbol, values in two_groups().items()})
    assert clusters_of(short) == {symbol: symbol for symbol in two_groups()}
    assert clusters_of(frame_of({"ONLY": np.ones(SIZE)})) == {"ONLY": "ONLY"}
    assert clusters_of(frame_of({"ONLY": np.ones(SIZE)}).clear()) == {}
