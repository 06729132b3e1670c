"""Money is exact, and what is not money is refused."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.money import paise_from_rupees, percent_of, round_paise, round_rupee, rupees, rupees_from_paise

amounts = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=6)


@pytest.mark.parametrize(
    ("value", "expected"), [("12.345", "12.345"), (7, "7"), (Decimal("0.01"), "0.01"), ("-3", "-3")]
)
def test_rupees_are_exact(value: str | int | Decimal, expected: str) -> None:
    assert rupees(value) == Decimal(expected)


@pytest.mark.parametrize("value", [0.1, True, None, b"1", 1.0])
def test_floats_and_other_types_are_refused(value: object) -> None:
    with pytest.raises(TypeError):
        rupees(value)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "value", ["", "abc", "₹5", "NaN", "sNaN", "Infinity", "-inf", Decimal("NaN"), Decimal("Infinity")]
)
def test_what_is_no_finite_number_is_refused(value: str | Decimal) -> None:
    with pytest.raises(ValueError, match=r"rupees"):
        rupees(value)


@pytest.mark.parametrize("function", [round_paise, round_rupee, paise_from_rupees])
def test_helpers_refuse_floats_and_non_finite_amounts(function) -> None:
    with pytest.raises(TypeError):
        function(1.5)
    for bad in (Decimal("NaN"), Decimal("-Infinity")):
        with pytest.raises(ValueError, match="finite"):
            function(bad)


@pytest.mark.parametrize(
    ("amount", "to_paise", "to_rupee"),
    [
        ("0.005", "0.01", "0"),
        ("0.0049", "0.00", "0"),
        ("2.5", "2.50", "3"),
        ("-2.5", "-2.50", "-3"),
        ("1.4999", "1.50", "1"),
    ],
)
def test_halves_round_away_from_zero(amount: str, to_paise: str, to_rupee: str) -> None:
    assert round_paise(Decimal(amount)) == Decimal(to_paise)
    assert str(round_paise(Decimal(amount))) == to_paise
    assert round_rupee(Decimal(amount)) == Decimal(to_rupee)


def test_percent_of_is_not_rounded() -> None:
    assert percent_of(Decimal("0.00307"), Decimal("12345.67")) == Decimal("0.379012069")
    with pytest.raises(TypeError):
        percent_of(0.1, Decimal(1))  # pyright: ignore[reportArgumentType]


@given(st.integers(-(10**15), 10**15))
def test_paise_survive_the_round_trip(paise: int) -> None:
    assert paise_from_rupees(rupees_from_paise(paise)) == paise


@given(amounts)
def test_only_whole_paise_convert(amount: Decimal) -> None:
    if amount == round_paise(amount):
        assert rupees_from_paise(paise_from_rupees(amount)) == amount
    else:
        with pytest.raises(ValueError, match="whole number of paise"):
            paise_from_rupees(amount)


@pytest.mark.parametrize("paise", [1.0, True, "100"])
def test_paise_are_int(paise: object) -> None:
    with pytest.raises(TypeError):
        rupees_from_paise(paise)  # pyright: ignore[reportArgumentType]


@given(amounts)
def test_rounding_moves_by_half_a_unit_at_most(amount: Decimal) -> None:
    assert abs(round_paise(amount) - amount) <= Decimal("0.005")
    assert abs(round_rupee(amount) - amount) <= Decimal("0.5")
