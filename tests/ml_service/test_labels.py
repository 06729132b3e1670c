"""The plan's outcome is what a trader walking the bars one by one would have got."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_market import simulate

from ml_service.features import compute_features
from ml_service.labels import (
    COST_FRACTION,
    STOP_ATR,
    TARGET_ATR,
    TOUCH_LEVELS,
    bracket_outcomes,
    make_labels,
    touch_name,
)

HORIZON = 4


def walk(bars: list[tuple[float, float, float, float]], atr: float) -> tuple[float, dict[str, bool]]:
    """The plan, bar by bar: (gross return, events)."""
    entry = bars[0][0]
    target, stop = entry + TARGET_ATR * atr, entry - STOP_ATR * atr
    touched = {"bracket": False} | {touch_name(level): False for level in TOUCH_LEVELS}
    left = None
    for number, (open_, high, low, _) in enumerate(bars):
        if low <= stop:
            left = left if left is not None else (stop if number == 0 else min(open_, stop))
            break
        for level in TOUCH_LEVELS:
            touched[touch_name(level)] |= high >= entry * (1 + COST_FRACTION + level)
        if high >= target and left is None:
            left, touched["bracket"] = target, True
    return (bars[-1][3] if left is None else left) / entry - 1, touched


def columns(bars: list[tuple[float, float, float, float]]) -> list[np.ndarray]:
    return [np.array(column, float) for column in zip(*bars, strict=True)]


prices = st.integers(80, 120).map(float)


@st.composite
def bar(draw: st.DrawFn) -> tuple[float, float, float, float]:
    low, first, second, high = sorted(draw(st.tuples(prices, prices, prices, prices)))
    open_, close = draw(st.permutations([first, second]))
    return open_, high, low, close


@given(st.lists(bar(), min_size=HORIZON + 1, max_size=12), st.sampled_from([0.5, 2.0, 5.0]))
def test_outcomes_equal_a_walk_over_the_bars(bars: list[tuple[float, float, float, float]], atr: float) -> None:
    gross, touches = bracket_outcomes(*columns(bars), np.full(len(bars), atr), HORIZON)
    assert len(gross) == len(bars) - HORIZON
    for row in range(len(gross)):
        expected, touched = walk(bars[row + 1 : row + 1 + HORIZON], atr)
        assert gross[row] == pytest.approx(expected)
        assert {name: bool(hit[row]) for name, hit in touches.items()} == touched


def outcome(*bars: tuple[float, float, float, float]) -> float:
    signal = (100.0, 100.0, 100.0, 100.0)
    rest = [(100.0, 100.0, 100.0, 100.0)] * (HORIZON - len(bars))
    gross, _ = bracket_outcomes(*columns([signal, *bars, *rest]), np.full(HORIZON + 1, 2.0), HORIZON)
    return float(gross[0])


def test_a_bar_that_holds_both_is_a_stop() -> None:
    assert outcome((100, 104, 93, 100)) == pytest.approx(-0.06)


def test_a_gap_through_the_stop_fills_at_the_open() -> None:
    assert outcome((100, 101, 99, 100), (90, 95, 89, 94)) == pytest.approx(-0.10)


def test_a_gap_through_the_target_earns_the_target() -> None:
    assert outcome((100, 101, 99, 100), (110, 112, 109, 111)) == pytest.approx(0.03)


def test_time_exits_at_the_close_of_the_last_session() -> None:
    assert outcome((100, 101, 99, 100), (100, 101, 99, 100), (100, 101, 99, 100), (100, 102, 98, 101.5)) == (
        pytest.approx(0.015)
    )


def test_no_label_before_the_horizon_is_over() -> None:
    frame = compute_features(simulate(1.0, symbols=3, sessions=60))
    labels = make_labels(frame, HORIZON)
    known = frame.with_columns(pl.Series("known", labels.known), pl.Series("end", labels.end))
    last = known["session"].unique().sort()[-HORIZON:]
    assert not known.filter(pl.col("session").is_in(last.implode()))["known"].any()
    for (_,), rows in known.group_by("symbol"):
        assert rows["end"].to_list() == [*range(HORIZON, 60), *[-1] * HORIZON]


def test_net_is_gross_less_the_costs() -> None:
    labels = make_labels(compute_features(simulate(1.0, symbols=2, sessions=60)), HORIZON)
    known = labels.known
    np.testing.assert_allclose(labels.net[known], labels.gross[known] - COST_FRACTION)
    assert (labels.events["net_profit"][known] == (labels.net[known] > 0)).all()
    assert tuple(sorted(TOUCH_LEVELS)) == TOUCH_LEVELS
    for lower, higher in pairwise(TOUCH_LEVELS):
        assert (labels.events[touch_name(higher)] <= labels.events[touch_name(lower)]).all()
