"""The rules of paying for a plan: periods that tile time, credit for what is left of one, and the tax on the rest."""

import calendar
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import ROUND_DOWN, Decimal

from backend.domain.calendar import IST
from backend.domain.money import percent_of, round_paise

ZERO = Decimal(0)
_PAISA = Decimal("0.01")


def months_after(anchor: datetime, months: int) -> datetime:
    """The same time of day in India `months` later; the month's last day where it has no such day."""
    local = anchor.astimezone(IST)
    year, month = divmod(local.year * 12 + local.month - 1 + months, 12)
    day = min(local.day, calendar.monthrange(year, month + 1)[1])
    return local.replace(year=year, month=month + 1, day=day)


def period_end(anchor: datetime, months: int, start: datetime) -> datetime:
    """The first end after `start` of the periods of `months` that are counted from `anchor`.

    Counting from the anchor keeps its day of the month: 31 January, 28 February, 31 March.
    """
    local, first = start.astimezone(IST), anchor.astimezone(IST)
    gone = (local.year - first.year) * 12 + local.month - first.month
    count = max(0, gone // months - 1)
    while months_after(anchor, count * months) <= start:
        count += 1
    return months_after(anchor, count * months)


def unused(price: Decimal, start: datetime, end: datetime, now: datetime) -> Decimal:
    """What is left at `now` of a period that cost `price` rupees, by time, rounded down to the paisa."""
    if now >= end:
        return ZERO
    left = min(end - now, end - start) // timedelta(microseconds=1)
    whole = (end - start) // timedelta(microseconds=1)
    return (price * left / whole).quantize(_PAISA, ROUND_DOWN)


@dataclass(frozen=True, slots=True)
class GstRate:
    """Per cent of GST on a supply made on `since` or later, and where that stands."""

    since: date
    percent: Decimal
    source: str


GST_RATES = (
    GstRate(
        date(2017, 7, 1),
        Decimal(18),
        "Notification 11/2017-Central Tax (Rate), heading 9983: 9 % CGST and 9 % SGST, or 18 % IGST",
    ),
)
SAC = "998315"
"""Hosting and IT infrastructure provisioning services, among them the provision of leased applications from a hosted
environment (application service provisioning): CBIC's explanatory notes to the scheme of classification of services.
"""


def gst_percent(day: date, rates: Sequence[GstRate] = GST_RATES) -> Decimal:
    """GST in per cent on a supply of `day`.

    Raises:
        ValueError: no rate is recorded for that day.
    """
    standing = [rate for rate in rates if rate.since <= day]
    if not standing:
        raise ValueError(f"no GST rate is recorded for {day}")
    return max(standing, key=lambda rate: rate.since).percent


@dataclass(frozen=True, slots=True)
class Bill:
    """What a period costs, in rupees to the paisa: `credit` lowers the value that is taxed."""

    price: Decimal
    credit: Decimal
    gst_percent: Decimal
    cgst: Decimal
    sgst: Decimal
    igst: Decimal

    @property
    def taxable(self) -> Decimal:
        return self.price - self.credit

    @property
    def total(self) -> Decimal:
        return self.taxable + self.cgst + self.sgst + self.igst


def bill(price: Decimal, credit: Decimal, percent: Decimal, *, within_state: bool) -> Bill:
    """Price less credit and the tax on it, each line rounded to the paisa.

    Within a state the tax is halves of CGST and SGST (sections 8 and 9 of the IGST and CGST Acts), else IGST.

    Raises:
        ValueError: the credit is negative or above the price.
    """
    if not ZERO <= credit <= price:
        raise ValueError(f"a credit of {credit} does not fit a price of {price}")
    half = round_paise(percent_of(percent / 2, price - credit)) if within_state else ZERO
    igst = ZERO if within_state else round_paise(percent_of(percent, price - credit))
    return Bill(price, credit, percent, half, half, igst)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a user pays for: the plan's rank in the catalogue, and the price in rupees of one period of `months`."""

    rank: int
    months: int
    price: Decimal


def takes_effect_now(old: Terms, new: Terms, credit: Decimal) -> bool:
    """Whether a change is an upgrade, at once: a higher plan, or a longer period of the same one.

    Not where `credit`, the unused rest, is more than the new price: credit is never paid out, so nothing may be lost.
    """
    up = new.rank > old.rank or (new.rank == old.rank and new.months > old.months)
    return up and credit <= new.price


def financial_year(day: date) -> str:
    """India's financial year of a day, from April to March: 2026-27."""
    first = day.year if day.month >= 4 else day.year - 1
    return f"{first}-{(first + 1) % 100:02}"


NUMBERS_MAX = 999_999


def invoice_number(year: str, number: int) -> str:
    """The number of an invoice: 16 characters at most, unique in its financial year (rule 46(b) of the CGST Rules).

    Raises:
        ValueError: the year's numbers are used up.
    """
    if not 1 <= number <= NUMBERS_MAX:
        raise ValueError(f"{number} is no number of an invoice: a year has {NUMBERS_MAX}")
    return f"SAU/{year[2:]}/{number:06}"


STATES = frozenset({f"{code:02}" for code in range(1, 39)} - {"25", "28"} | {"97"})
"""GST state codes that are given out today (25 merged into 26, 28 became 37); 97 is other territory."""

_GSTIN = re.compile(r"\d{2}[A-Z]{5}\d{4}[A-Z][1-9A-Z]Z[0-9A-Z]", re.ASCII)
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def gstin_problem(gstin: str, state_code: str) -> str:
    """What is wrong with a GSTIN of that state; empty where nothing is.

    State code, PAN, number of the registration, Z, and a check digit by Luhn's algorithm modulo 36.
    """
    if not _GSTIN.fullmatch(gstin):
        return "a GSTIN is 15 characters: state code, PAN, a digit or letter, Z and a check digit"
    if gstin[:2] != state_code:
        return f"the GSTIN is of state {gstin[:2]}, not {state_code}"
    if gstin[-1] != _check_digit(gstin[:-1]):
        return "the GSTIN's check digit does not fit: one of its characters is wrong"
    return ""


def _check_digit(digits: str) -> str:
    products = (_DIGITS.index(digit) * (1 + place % 2) for place, digit in enumerate(digits))
    return _DIGITS[-sum(sum(divmod(product, 36)) for product in products) % 36]
