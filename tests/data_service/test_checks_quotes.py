"""The quality gate on quotes: a corpus of 500 bad ones, none accepted, and their good twins, all accepted."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import cycle, islice

import pytest

from data_service.checks import QuoteContext, QuoteLimits, QuoteReason, check_quote
from data_service.providers.base import RawQuote

D = Decimal
NOON_S = 1_785_825_000.0
"""2026-08-04 12:00 IST, within a session."""

AGE_S_MAX = 60.0
TICK = D("0.05")
PRICES = [
    D(text) for text in ("0.50", "3.15", "47.35", "99.95", "250.00", "1228.55", "2999.40", "18450.00", "99999.95")
]


@dataclass(frozen=True)
class Case:
    """A good quote and all that is known beside it."""

    quote: RawQuote
    context: QuoteContext


def good_case(price: Decimal, number: int) -> Case:
    """A coherent quote around `price`, second of two; what is left out varies with `number`."""
    step = TICK * (1 + number % 3)
    high, low = price + 3 * step, max(price - 3 * step, TICK)
    quote = RawQuote(
        symbol="RELIANCE",
        source="kite",
        as_of_s=NOON_S - number % 7,
        last=price,
        bid=max(price - step, TICK),
        ask=price + step,
        open=price,
        high=high,
        low=low,
        previous_close=price + step,
        volume=1_000 + number,
        lower_band=max((price * D("0.8")).quantize(TICK), TICK),
        upper_band=(price * D("1.2")).quantize(TICK) + 4 * TICK,
    )
    before = replace(quote, as_of_s=NOON_S - 10, volume=900 + number, last=price + step)
    context = QuoteContext(
        now_s=NOON_S,
        age_s_max=AGE_S_MAX,
        session_running=True,
        previous_close=price + step,
        tick=TICK,
        last_quote=before,
        unchanged_since_s=NOON_S - 10,
    )
    if number % 5 == 1:
        quote = replace(quote, bid=None, ask=None)
    if number % 5 == 2:
        quote = replace(quote, open=None, high=None, low=None, previous_close=None, volume=None)
        context = replace(context, previous_close=None, last_quote=None, unchanged_since_s=None)
    if number % 5 == 3:
        bands = {"lower_band": quote.lower_band, "upper_band": quote.upper_band}
        context = replace(context, **bands, tick=None)
        quote = replace(quote, lower_band=None, upper_band=None)
    return Case(quote, context)


def good_cases() -> Iterator[Case]:
    for number, price in enumerate(cycle(PRICES)):
        yield good_case(price, number)


Defect = Callable[[Case], Case]


def quoting(**fields: object) -> Defect:
    return lambda case: replace(case, quote=replace(case.quote, **fields))


def scaling(times: Decimal) -> Defect:
    """All the quote's own prices in another unit; the store still knows yesterday's close."""

    def spoil(case: Case) -> Case:
        names = ("last", "bid", "ask", "open", "high", "low")
        known = {name: price for name in names if (price := getattr(case.quote, name)) is not None}
        spoilt = {name: (price * times).quantize(D("0.01")) for name, price in known.items()}
        context = replace(case.context, previous_close=case.quote.last, tick=None)
        quote = replace(case.quote, **spoilt, previous_close=None, lower_band=None, upper_band=None)
        return Case(quote, replace(context, lower_band=None, upper_band=None, last_quote=None))

    return spoil


def with_last(make: Callable[[Decimal], Decimal]) -> Defect:
    def spoil(case: Case) -> Case:
        assert case.quote.last is not None
        return replace(case, quote=replace(case.quote, last=make(case.quote.last)))

    return spoil


def aside(name: str, make: Callable[[Decimal], Decimal]) -> Defect:
    """One field out of line with the last price; what else would catch it is taken away."""

    def spoil(case: Case) -> Case:
        assert case.quote.last is not None
        quote = replace(
            case.quote, bid=None, ask=None, open=None, high=None, low=None, lower_band=None, upper_band=None
        )
        context = replace(case.context, lower_band=None, upper_band=None)
        return Case(replace(quote, **{name: make(case.quote.last)}), context)

    return spoil


def crossed(ticks: int) -> Defect:
    def spoil(case: Case) -> Case:
        assert case.quote.last is not None
        return replace(case, quote=replace(case.quote, bid=case.quote.last + ticks * TICK, ask=case.quote.last))

    return spoil


def after(**before: object) -> Defect:
    """The quote as it is, after another one of the same session that was accepted."""

    def spoil(case: Case) -> Case:
        quote = replace(case.quote, volume=1_000, as_of_s=NOON_S)
        fields = {"as_of_s": NOON_S - 10, "volume": 900, **before}
        return Case(quote, replace(case.context, last_quote=replace(quote, **fields)))

    return spoil


def frozen(seconds: float) -> Defect:
    def spoil(case: Case) -> Case:
        last = replace(case.quote, as_of_s=NOON_S - 10)
        context = replace(case.context, last_quote=last, unchanged_since_s=NOON_S - seconds)
        return Case(replace(case.quote, as_of_s=NOON_S), context)

    return spoil


R = QuoteReason
NUMBERS = ("last", "bid", "ask", "open", "high", "low", "previous_close", "lower_band", "upper_band")
BAD: list[tuple[QuoteReason, Defect]] = [
    (R.NO_PRICE, quoting(last=None)),
    (R.NO_INSTANT, quoting(as_of_s=None)),
    *(
        (R.NOT_A_NUMBER, quoting(**{name: D(text)}))
        for name in NUMBERS
        for text in ("NaN", "sNaN", "Infinity", "-Infinity")
    ),
    *((R.NON_POSITIVE, quoting(**{name: D(text)})) for name in NUMBERS for text in ("0", "-0.00", "-0.05", "-1228.55")),
    *((R.TOO_LARGE, quoting(**{name: D(text)})) for name in NUMBERS for text in ("100000000.01", "1E+30")),
    *((R.FINER_THAN_PAISA, quoting(**{name: D(text)})) for name in NUMBERS for text in ("1228.551", "1E-30")),
    (R.FINER_THAN_PAISA, with_last(lambda last: D(f"{last}{0:032d}1"))),
    (R.FINER_THAN_PAISA, with_last(lambda last: last + D("0.005"))),
    (R.NEGATIVE_VOLUME, quoting(volume=-1)),
    (R.NEGATIVE_VOLUME, quoting(volume=-(10**9))),
    (R.TOO_LARGE, quoting(volume=10**13 + 1)),
    *((R.CROSSED, crossed(ticks)) for ticks in (1, 2, 7, 40)),
    *((R.OUTSIDE_DAY_RANGE, aside("high", lambda last, n=n: last - n * D("0.01"))) for n in (1, 5, 9)),
    *((R.OUTSIDE_DAY_RANGE, aside("low", lambda last, n=n: last + n * D("0.01"))) for n in (1, 5, 900)),
    *((R.OUTSIDE_BAND, aside("upper_band", lambda last, n=n: last - n * D("0.01"))) for n in (1, 5, 9)),
    *((R.OUTSIDE_BAND, aside("lower_band", lambda last, n=n: last + n * D("0.01"))) for n in (1, 5, 900)),
    *((R.HUNDREDFOLD, scaling(D(text))) for text in ("100", "98.7", "103", "60", "190")),
    *((R.FROM_FUTURE, quoting(as_of_s=NOON_S + ahead)) for ahead in (5.5, 60, 19_800, 10**12)),
    *((R.STALE, quoting(as_of_s=NOON_S - age)) for age in (60.5, 600, 19_800, NOON_S)),
    *((R.WENT_BACK, after(as_of_s=NOON_S + ahead)) for ahead in (0.5, 3)),
    *((R.VOLUME_FELL, after(volume=volume)) for volume in (1_001, 10**9)),
    *((R.FROZEN, frozen(seconds)) for seconds in (901, 5_000)),
]
CORPUS_SIZE = 500


def corpus() -> list[tuple[QuoteReason, Case, Case]]:
    """(reason, bad case, the good case it was made of), all kinds of defect over all prices."""
    return [
        (reason, spoil(case), case)
        for (reason, spoil), case in islice(zip(cycle(BAD), good_cases(), strict=False), CORPUS_SIZE)
    ]


def test_of_500_bad_quotes_none_is_accepted_and_their_good_twins_all_are():
    cases = corpus()
    assert len(cases) == CORPUS_SIZE
    accepted = [case for _, case, _ in cases if check_quote(case.quote, case.context) is None]
    refused = [(check_quote(case.quote, case.context), case) for _, _, case in cases]
    assert accepted == []
    assert [entry for entry in refused if entry[0] is not None] == []


def test_every_reason_but_off_tick_is_in_the_corpus_and_most_cases_are_refused_for_their_own():
    cases = corpus()
    assert {reason for reason, _, _ in cases} == set(QuoteReason) - {QuoteReason.OFF_TICK}
    given = {(reason, check_quote(case.quote, case.context)) for reason, case, _ in cases}
    assert {reason for reason, found in given if reason is found} == {reason for reason, _, _ in cases}


BASE = good_case(D("1228.55"), 0)


@pytest.mark.parametrize(
    ("reason", "spoil"), BAD, ids=lambda value: str(value) if isinstance(value, QuoteReason) else ""
)
def test_each_defect_is_refused_for_what_it_is(reason, spoil):
    case = spoil(BASE)
    assert check_quote(case.quote, case.context) is reason


def test_prices_off_the_tick_are_refused_where_the_tick_is_known():
    for name in ("last", "bid", "ask"):
        quote = replace(BASE.quote, bid=D("1228.55"), ask=D("1228.60"))
        quote = replace(quote, **{name: D("1228.56")})
        context = replace(BASE.context, lower_band=None, upper_band=None)
        assert check_quote(quote, context) is QuoteReason.OFF_TICK
        assert check_quote(quote, replace(context, tick=None)) is None


def test_the_limits_of_age_are_inclusive_and_closed_hours_are_long():
    def reason(age_s: float, running: bool) -> QuoteReason | None:
        context = replace(BASE.context, session_running=running, last_quote=None)
        return check_quote(replace(BASE.quote, as_of_s=NOON_S - age_s), context)

    assert [reason(age_s, running=True) for age_s in (-5, 60, 60.1)] == [None, None, QuoteReason.STALE]
    assert reason(-5.1, running=True) is QuoteReason.FROM_FUTURE
    weekend_s = 3 * 86_400
    assert reason(weekend_s, running=False) is None
    assert reason(11 * 86_400, running=False) is QuoteReason.STALE


def test_an_instant_that_is_no_number_is_refused():
    quote = replace(BASE.quote, as_of_s=float("nan"))
    assert check_quote(quote, BASE.context) is QuoteReason.FROM_FUTURE


def test_the_next_session_and_another_source_may_start_their_volume_anew():
    quote = replace(BASE.quote, volume=5, as_of_s=NOON_S)
    yesterday = replace(quote, volume=10**6, as_of_s=NOON_S - 86_400)
    assert check_quote(quote, replace(BASE.context, last_quote=yesterday)) is None
    elsewhere = replace(quote, volume=10**6, as_of_s=NOON_S - 10, source="yahoo")
    assert check_quote(quote, replace(BASE.context, last_quote=elsewhere)) is None


def test_a_still_feed_is_only_frozen_while_its_clock_moves_in_a_session():
    case = frozen(5_000)(BASE)
    assert check_quote(case.quote, case.context) is QuoteReason.FROZEN
    assert check_quote(case.quote, replace(case.context, session_running=False)) is None
    same_instant = replace(case.quote, as_of_s=NOON_S - 10)
    assert check_quote(same_instant, case.context) is None
    traded = replace(case.quote, volume=case.quote.volume + 1)
    assert check_quote(traded, case.context) is None
    patient = replace(case.context, limits=QuoteLimits(frozen_s_max=6_000))
    assert check_quote(case.quote, patient) is None


def test_a_locked_book_and_a_price_at_its_band_are_good():
    last = BASE.quote.last
    locked = replace(BASE.quote, bid=last, ask=last, high=last, low=last, open=last, lower_band=last, upper_band=last)
    assert check_quote(locked, BASE.context) is None


def test_the_exchanges_bands_count_before_the_quotes_own():
    quote = replace(BASE.quote, upper_band=D("9999.95"))
    context = replace(BASE.context, upper_band=D("1228.50"))
    assert check_quote(quote, context) is QuoteReason.OUTSIDE_BAND
