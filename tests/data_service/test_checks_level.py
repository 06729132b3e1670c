"""The gate on a share whose level changes a hundredfold: an error comes back, a re-denomination stays."""

from dataclasses import replace
from datetime import date

import pytest
from test_checks_bars import CONTEXT, at_place, check, found, series, times_100


@pytest.mark.parametrize(("first", "last"), [(0, 4), (6, 11), (0, 6), (5, 11)])
def test_a_step_that_lasts_is_flagged_and_only_beside_a_stored_close_kept_out(first, last):
    """A fund's units become a hundred each: nothing says which side is wrong, because none is."""
    rows = [row | times_100(row) if first <= place <= last else row for place, row in enumerate(series(count=12))]
    checked = check(rows)
    assert found(checked) == [("outlier", False)]
    assert at_place(checked, "outlier") == [first or last + 1]
    assert len(checked.good) == 12
    anchor = replace(CONTEXT, last_close={"AAA": (date(2026, 7, 3), 100_100)})
    stored = check(rows, context=anchor)
    assert found(stored) == (last - first + 1) * [("hundredfold", True)]


@pytest.mark.parametrize(
    ("wrong", "count"),
    [([2, 3, 4, 5, 6, 7], 20), ([8, 9, 10, 11], 12), ([0, 1, 2, 3], 12), ([*range(6, 12), 16], 18)],
)
def test_a_step_that_comes_back_or_is_short_is_kept_out(wrong, count):
    rows = [row | times_100(row) if place in wrong else row for place, row in enumerate(series(count=count))]
    checked = check(rows)
    assert at_place(checked, "hundredfold") == wrong
    assert set(found(checked)) == {("hundredfold", True)}
