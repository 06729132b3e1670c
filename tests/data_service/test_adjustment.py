"""Adjusted prices follow only what was known, change no return, and lose nothing over many splits."""

from datetime import date, timedelta
from fractions import Fraction
from math import prod

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_service.adjust import ADJUSTED_DECIMALS, Factors, adjusted, factors_of, multipliers
from data_service.bars import Bars, day_number
from data_service.store.schemas import ACTION_SCHEMA

FIRST = date(2024, 1, 1)
SPAN = 60
DAYS = np.arange(day_number(FIRST), day_number(FIRST) + SPAN, dtype=np.int64)


def action(
    ex: int, ratio: tuple[int | None, int | None] = (1, 2), *, known: int | None = None, **fields: str
) -> dict[str, object]:
    """An action with ex-date and first known day counted from FIRST."""
    known_on = FIRST + timedelta(days=ex if known is None else known)
    base = {"symbol": "AAA", "kind": "split", "subject": f"{ratio}", "source": "nse"}
    shares = {"shares_before": ratio[0], "shares_after": ratio[1]}
    return base | shares | {"ex_date": FIRST + timedelta(days=ex), "known_on": known_on} | fields


def table(*rows: dict[str, object]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=ACTION_SCHEMA)


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def bars_of(close: list[int], volume: list[int]) -> Bars:
    values = np.array(close, dtype=np.int64)
    days = DAYS[: len(values)]
    start = days * 86_400 + 13_500
    return Bars(
        day=days,
        start=start,
        end=start + 22_500,
        open=values,
        high=values,
        low=values,
        close=values,
        volume=np.array(volume, dtype=np.int64),
        source=np.zeros(len(values), dtype=np.int64),
    )


def factors(rows: pl.DataFrame, as_of: date) -> list[tuple[int, float]]:
    found = factors_of(rows, as_of)
    return [(number - day_number(FIRST), factor) for number, factor in zip(found.ex_day, found.factor, strict=True)]


def test_only_splits_and_bonuses_that_were_in_force_and_known_count():
    rows = table(
        action(20, (1, 10)),
        action(5, (1, 2), kind="bonus"),
        action(6, (1, 2), kind="rights"),
        action(7, (1, 2), kind="demerger"),
        action(8, (None, None), kind="bonus"),
        action(9, (2, 3), known=30),
    )
    assert factors(rows, day(19)) == [(5, 0.5)]
    assert factors(rows, day(20)) == [(5, 0.5), (20, 0.1)]
    assert factors(rows, day(30)) == [(5, 0.5), (9, 2 / 3), (20, 0.1)]
    assert factors(rows, day(4)) == []
    assert factors(table(), day(30)) == []


def test_several_actions_of_one_day_multiply_and_repeats_do_not():
    rows = table(
        action(5, (1, 2), kind="bonus"),
        action(5, (1, 5), kind="split"),
        action(5, (1, 2), kind="bonus", subject="Bonus  1:1", symbol="OLDNAME"),
        action(5, (2, 4), kind="bonus", subject="Bonus 2:2"),
    )
    assert factors(rows, day(5)) == [(5, 0.1)]


@pytest.mark.parametrize(("weaker", "stronger"), [("file", "nse"), ("yahoo", "file"), ("unheard of", "yahoo")])
def test_the_most_trusted_source_alone_is_believed_on_its_day(weaker, stronger):
    rows = table(
        action(5, (1, 5), source=weaker),
        action(5, (1, 2), source=stronger, kind="bonus"),
        action(9, (1, 4), source=weaker),
    )
    assert factors(rows, day(9)) == [(5, 0.5), (9, 0.25)]


def test_two_exchanges_telling_the_same_split_count_once():
    rows = table(action(5, (1, 5), source="bse"), action(5, (1, 5), source="nse", subject="told otherwise"))
    assert factors(rows, day(9)) == [(5, 0.2)]


def test_a_trusted_source_that_spoke_later_does_not_replace_what_was_known():
    rows = table(action(5, (1, 5), source="file"), action(5, (1, 2), source="nse", known=8))
    assert factors(rows, day(7)) == [(5, 0.2)]
    assert factors(rows, day(8)) == [(5, 0.5)]


RATIOS = st.tuples(st.integers(1, 100), st.integers(1, 100))
ACTIONS = st.builds(
    lambda ex, ratio, late, kind, source: action(ex, ratio, known=ex + late, kind=kind, source=source),
    st.integers(0, SPAN - 1),
    RATIOS,
    st.integers(-5, 5),
    st.sampled_from(["split", "bonus", "dividend"]),
    st.sampled_from(["nse", "file"]),
)
PRICES = st.lists(st.integers(100, 10**7), min_size=SPAN, max_size=SPAN)
VOLUMES = st.lists(st.integers(0, 10**9), min_size=SPAN, max_size=SPAN)


@given(st.lists(ACTIONS, max_size=6), st.lists(ACTIONS, max_size=6), st.integers(0, SPAN - 1), PRICES)
def test_what_becomes_known_or_in_force_later_changes_no_earlier_answer(early, late, asked, closes):
    as_of = day(asked)
    known = [row for row in early + late if row["ex_date"] <= as_of and row["known_on"] <= as_of]
    bars = bars_of(closes, closes)
    answers = [adjusted(bars, factors_of(table(*rows), as_of), as_of) for rows in (known, early + late)]
    for name in ("open", "close", "volume"):
        assert np.array_equal(getattr(answers[0], name), getattr(answers[1], name))


@given(st.lists(ACTIONS, min_size=1, max_size=6), st.integers(0, SPAN - 1), st.integers(0, SPAN - 1))
def test_a_return_is_the_same_in_every_answer_that_knows_its_actions(rows, one, other):
    known = [row for row in rows if row["known_on"] <= row["ex_date"]]
    first, second = sorted((one, other))
    scales = [multipliers(DAYS[: first + 1], factors_of(table(*known), day(at)), day(at)) for at in (first, second)]
    returns = [scale[1:] / scale[:-1] for scale in scales]
    assert returns[0] == pytest.approx(returns[1], rel=1e-12)


@given(st.lists(ACTIONS, max_size=4), PRICES, VOLUMES)
def test_the_value_traded_is_the_same_adjusted_or_not(rows, closes, volumes):
    bars, as_of = bars_of(closes, volumes), day(SPAN)
    after = adjusted(bars, factors_of(table(*rows), as_of), as_of)
    unit = 10 ** (after.decimals - bars.decimals)
    for price, volume, new_price, new_volume in zip(closes, volumes, after.close, after.volume, strict=True):
        exact = price * volume * unit
        rounding = new_price.item() * 0.5 + 0.5 * volume * Fraction(price * unit, max(new_price.item(), 1)) + 1
        assert abs(new_price.item() * new_volume.item() - exact) <= rounding


@given(st.lists(RATIOS, min_size=1, max_size=12), st.integers(1, 10**10))
def test_many_splits_round_once(ratios, price):
    rows = table(*(action(number + 1, ratio) for number, ratio in enumerate(ratios)))
    as_of = day(len(ratios) + 1)
    after = adjusted(bars_of([price], [0]), factors_of(rows, as_of), as_of)
    exact = price * prod((Fraction(*ratio) for ratio in ratios), start=Fraction(10 ** (after.decimals - 2)))
    if exact < 2**62:
        assert abs(after.close[0].item() - exact) <= Fraction(1, 2)


def test_thirds_and_their_undoing_come_back_to_the_paisa():
    """Ten bonuses of 1:2 and ten consolidations that undo them: floats drift, ratios do not."""
    pairs = [action(2 * number + 1, (2, 3)) for number in range(10)]
    undone = [action(2 * number + 2, (3, 2)) for number in range(10)]
    bars = bars_of([10**10 - 1] * SPAN, [7] * SPAN)
    found = factors_of(table(*pairs, *undone), day(SPAN))
    after = adjusted(bars, found, day(SPAN))
    assert (multipliers(DAYS[:1], found, day(SPAN)) == 1.0).all()
    assert after.decimals == ADJUSTED_DECIMALS
    assert after.close[0] == (10**10 - 1) * 10**4
    assert after.close[1] == ((10**10 - 1) * 10**4 * 3 + 1) // 2
    assert after.volume[:2].tolist() == [7, 5]


def test_factors_kept_as_floats_name_their_ratio_exactly():
    kept = Factors(np.array([DAYS[1]]), np.array([1 / 3]))
    assert adjusted(bars_of([300_000_003], [1]), kept, day(9)).close[0] == 100_000_001 * 10**4
