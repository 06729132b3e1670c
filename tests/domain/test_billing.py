"""Periods tile time, credit never exceeds what was paid, and every paisa of a bill is accounted for."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.billing import (
    NUMBERS_MAX,
    STATES,
    GstRate,
    Terms,
    bill,
    financial_year,
    gst_percent,
    gstin_problem,
    invoice_number,
    months_after,
    period_end,
    takes_effect_now,
    unused,
)
from backend.domain.calendar import IST

_FIRST, _LAST = datetime(2020, 1, 1), datetime(2060, 1, 1)  # noqa: DTZ001 (Hypothesis adds the zone)
instants = st.datetimes(_FIRST, _LAST, timezones=st.just(UTC))
prices = st.decimals(Decimal(0), Decimal(200_000), places=2)
PAISA = Decimal("0.01")


@pytest.mark.parametrize(
    ("day", "months", "expected"),
    [
        (date(2026, 1, 31), 1, date(2026, 2, 28)),
        (date(2026, 1, 31), 2, date(2026, 3, 31)),
        (date(2028, 1, 31), 1, date(2028, 2, 29)),
        (date(2028, 2, 29), 12, date(2029, 2, 28)),
        (date(2026, 12, 15), 1, date(2027, 1, 15)),
        (date(2026, 11, 30), 3, date(2027, 2, 28)),
    ],
)
def test_months_keep_their_day_or_take_the_last(day: date, months: int, expected: date) -> None:
    start = datetime(day.year, day.month, day.day, 10, 30, tzinfo=IST)
    assert months_after(start, months) == datetime(expected.year, expected.month, expected.day, 10, 30, tzinfo=IST)


def test_the_day_is_indias() -> None:
    # 20:00 UTC on the 30th is the 31st in India, and February has none.
    assert months_after(datetime(2026, 1, 30, 20, tzinfo=UTC), 1) == datetime(2026, 2, 28, 1, 30, tzinfo=IST)


@given(anchor=instants, months=st.sampled_from([1, 12]), periods=st.integers(2, 40))
def test_periods_tile_without_gap_or_overlap(anchor: datetime, months: int, periods: int) -> None:
    start = anchor
    for count in range(1, periods):
        end = period_end(anchor, months, start)
        assert end > start
        assert end == months_after(anchor, count * months)
        assert period_end(anchor, months, end - timedelta(microseconds=1)) == end
        start = end


@given(price=prices, start=instants, months=st.sampled_from([1, 12]), share=st.floats(-0.5, 1.5))
def test_credit_is_between_nothing_and_the_price(price: Decimal, start: datetime, months: int, share: float) -> None:
    end = period_end(start, months, start)
    now = start + (end - start) * share
    credit = unused(price, start, end, now)
    assert 0 <= credit <= price
    assert credit == credit.quantize(PAISA)
    if now <= start:
        assert credit == price
    if now >= end:
        assert credit == 0


@given(
    paid=st.lists(st.tuples(prices, st.floats(0.01, 0.99)), min_size=1, max_size=6),
    start=instants,
)
def test_changing_plans_neither_makes_nor_loses_money(paid: list[tuple[Decimal, float]], start: datetime) -> None:
    """Used time and the last rest are worth what was paid, but for a paisa a change."""
    money, used, credit = Decimal(0), Decimal(0), Decimal(0)
    for price, share in paid:
        if credit > price:
            continue
        charged = bill(price, credit, Decimal(0), within_state=True)
        money += charged.total
        end = period_end(start, 1, start)
        now = start + (end - start) * share
        credit = unused(price, start, end, now)
        exact = price * ((now - start) // timedelta(microseconds=1)) / ((end - start) // timedelta(microseconds=1))
        used += exact
        start = now
    assert abs(money - used - credit) <= PAISA * len(paid)


@pytest.mark.parametrize(
    ("old", "new", "credit", "now"),
    [
        (Terms(1, 1, Decimal(499)), Terms(2, 1, Decimal(1999)), "400", True),
        (Terms(1, 1, Decimal(499)), Terms(1, 12, Decimal(4990)), "400", True),
        (Terms(2, 1, Decimal(1999)), Terms(1, 1, Decimal(499)), "0", False),
        (Terms(2, 12, Decimal(19990)), Terms(2, 1, Decimal(1999)), "0", False),
        (Terms(2, 12, Decimal(19990)), Terms(3, 1, Decimal(9999)), "18000", False),
        (Terms(2, 12, Decimal(19990)), Terms(3, 1, Decimal(9999)), "9999", True),
        (Terms(2, 1, Decimal(1999)), Terms(1, 12, Decimal(4990)), "100", False),
    ],
)
def test_what_is_an_upgrade(old: Terms, new: Terms, credit: str, now: bool) -> None:
    assert takes_effect_now(old, new, Decimal(credit)) is now


@given(price=prices, share=st.decimals(0, 1, places=4), within=st.booleans())
def test_a_bill_adds_up(price: Decimal, share: Decimal, within: bool) -> None:
    credit = (price * share).quantize(PAISA)
    made = bill(price, min(credit, price), Decimal(18), within_state=within)
    assert made.total == made.price - made.credit + made.cgst + made.sgst + made.igst
    assert made.cgst == made.sgst
    assert (made.igst == 0) if within else (made.cgst == 0)
    assert abs(made.total - made.taxable * Decimal("1.18")) <= PAISA
    assert made.total == made.total.quantize(PAISA)


def test_a_known_bill() -> None:
    made = bill(Decimal("1999.00"), Decimal("250.55"), Decimal(18), within_state=True)
    assert (made.taxable, made.cgst, made.sgst, made.total) == tuple(
        map(Decimal, ("1748.45", "157.36", "157.36", "2063.17"))
    )
    other = bill(Decimal("1999.00"), Decimal(0), Decimal(18), within_state=False)
    assert (other.igst, other.total) == (Decimal("359.82"), Decimal("2358.82"))


@pytest.mark.parametrize("credit", ["-0.01", "100.01"])
def test_a_credit_that_does_not_fit_is_refused(credit: str) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        bill(Decimal(100), Decimal(credit), Decimal(18), within_state=True)


def test_rates_are_dated() -> None:
    rates = (
        GstRate(date(2017, 7, 1), Decimal(18), "a"),
        GstRate(date(2030, 4, 1), Decimal(20), "b"),
    )
    assert gst_percent(date(2030, 3, 31), rates) == 18
    assert gst_percent(date(2030, 4, 1), rates) == 20
    assert gst_percent(date(2026, 11, 23)) == 18
    with pytest.raises(ValueError, match="no GST rate"):
        gst_percent(date(2017, 6, 30))


@pytest.mark.parametrize(
    ("day", "year"),
    [(date(2026, 3, 31), "2025-26"), (date(2026, 4, 1), "2026-27"), (date(2099, 12, 1), "2099-00")],
)
def test_financial_years(day: date, year: str) -> None:
    assert financial_year(day) == year


def test_invoice_numbers_fit_rule_46() -> None:
    assert invoice_number("2026-27", 1) == "SAU/26-27/000001"
    assert len(invoice_number("2026-27", NUMBERS_MAX)) == 16
    for number in (0, NUMBERS_MAX + 1):
        with pytest.raises(ValueError, match="no number"):
            invoice_number("2026-27", number)


GSTIN = "27AAPFU0939F1ZV"


@pytest.mark.parametrize(
    ("gstin", "state", "problem"),
    [
        (GSTIN, "27", ""),
        (GSTIN, "29", "of state 27"),
        (GSTIN[:-1] + "W", "27", "check digit"),
        ("27AAPFU0939F1Z", "27", "15 characters"),
        (GSTIN.lower(), "27", "15 characters"),
        ("२७AAPFU0939F1ZV", "27", "15 characters"),
    ],
)
def test_gstins(gstin: str, state: str, problem: str) -> None:
    found = gstin_problem(gstin, state)
    assert problem in found
    assert bool(found) is bool(problem)


@given(place=st.integers(0, 13), digit=st.sampled_from("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
def test_one_wrong_character_of_a_gstin_shows(place: int, digit: str) -> None:
    wrong = GSTIN[:place] + digit + GSTIN[place + 1 :]
    assert (gstin_problem(wrong, "27") == "") is (wrong == GSTIN)


def test_states() -> None:
    assert {"27", "01", "38", "97"} <= STATES
    assert not {"00", "25", "28", "39", "99"} & STATES
