"""Minute bars of quotes: each minute once, with the volume that was seen traded in it and no other."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from live_world import ist_s, raw

from data_service.minutes import LATE_S, MinuteBars

OPEN_S = ist_s("2026-11-18 09:15")
NEXT_OPEN_S = ist_s("2026-11-19 09:15")


def quote(at_s: float, last: str = "100.00", volume: int | None = 0):
    return raw(last=last, as_of_s=at_s, volume=volume)


def fed(minutes: MinuteBars, *quotes, open_s: int = OPEN_S) -> list:
    return [bar for each in quotes if (bar := minutes.add(each, open_s)) is not None]


def test_a_minute_is_the_first_highest_lowest_and_last_quote_of_it():
    minutes = MinuteBars()
    told = [(0, "100.00", 10), (20, "101.50", 30), (40, "99.05", 40), (59.9, "99.50", 45), (60, "99.55", 50)]
    assert fed(minutes, *(quote(OPEN_S + at, last, volume) for at, last, volume in told)) == [
        ("ACME", OPEN_S, 10_000, 10_150, 9_905, 9_950, 45, "stream")
    ]
    assert minutes.finished("ACME").close == 9_950


def test_at_the_open_volume_counts_from_nothing_and_later_from_the_quote_before():
    minutes = MinuteBars()
    bars = fed(minutes, *(quote(OPEN_S + at, volume=volume) for at, volume in [(5, 900), (65, 1000), (125, 1500)]))
    assert [bar[6] for bar in bars] == [900, 100]


def test_whoever_begins_to_look_within_a_session_counts_from_there():
    minutes = MinuteBars()
    bars = fed(minutes, *(quote(OPEN_S + at, volume=volume) for at, volume in [(3600, 9000), (3630, 9100), (3660, 1)]))
    assert [bar[6] for bar in bars] == [100]


def test_what_was_traded_between_looks_is_in_no_bar():
    minutes = MinuteBars()
    told = [(0, 100), (600, 5000), (630, 5010), (660, 5020)]
    bars = fed(minutes, *(quote(OPEN_S + at, volume=volume) for at, volume in told))
    assert [(bar[1] - OPEN_S, bar[6]) for bar in bars] == [(0, 100), (600, 10)]


def test_a_new_session_begins_with_its_own_volume():
    minutes = MinuteBars()
    fed(minutes, quote(OPEN_S + 22_440, volume=1_000_000))
    assert minutes.over(OPEN_S + 22_500 + LATE_S)[0][1] == OPEN_S + 22_440
    assert fed(minutes, quote(NEXT_OPEN_S + 1, volume=2_000_000), open_s=NEXT_OPEN_S) == []
    (bar,) = fed(minutes, quote(NEXT_OPEN_S + 61, volume=2_000_100), open_s=NEXT_OPEN_S)
    assert (bar[1], bar[6]) == (NEXT_OPEN_S, 2_000_000)


def test_a_volume_that_falls_with_another_source_is_no_negative_volume():
    minutes = MinuteBars()
    told = [(0, 1000), (30, 1100), (40, 1050), (60, 1060), (90, 1070), (120, 1080)]
    bars = fed(minutes, *(quote(OPEN_S + at, volume=volume) for at, volume in told))
    assert [bar[6] for bar in bars] == [1100, 10]


def test_the_last_minute_of_a_session_is_finished_without_a_quote_after_it():
    minutes = MinuteBars()
    fed(minutes, quote(OPEN_S + 22_450, "101.00", 7))
    assert minutes.over(OPEN_S + 22_499 + LATE_S) == []
    assert minutes.over(OPEN_S + 22_500 + LATE_S) == [
        ("ACME", OPEN_S + 22_440, 10_100, 10_100, 10_100, 10_100, 0, "stream")
    ]
    assert minutes.over(OPEN_S + 22_500 + LATE_S) == []


def test_a_minute_that_is_over_is_not_opened_again():
    minutes = MinuteBars()
    fed(minutes, quote(OPEN_S, "100.00"), quote(OPEN_S + 30, "102.00"))
    assert len(minutes.over(OPEN_S + 60 + LATE_S)) == 1
    assert fed(minutes, quote(OPEN_S + 59, "50.00"), quote(OPEN_S + 60), quote(OPEN_S + 59, "50.00")) == []
    (bar,) = minutes.over(OPEN_S + 120 + LATE_S)
    assert (bar[1], bar[4]) == (OPEN_S + 60, 10_000)


def test_quotes_of_before_the_open_or_without_price_or_instant_are_left_out():
    minutes = MinuteBars()
    yesterday = OPEN_S - 86_400 + 22_490
    given_ = [quote(yesterday), quote(OPEN_S - 1), raw(last="1", as_of_s=None)]
    assert fed(minutes, *given_) == []
    assert minutes.over(NEXT_OPEN_S) == []


def test_a_quote_without_volume_makes_a_bar_without_volume():
    minutes = MinuteBars()
    (bar,) = fed(minutes, quote(OPEN_S, volume=None), quote(OPEN_S + 60, volume=None))
    assert bar[6] == 0


looks = st.lists(st.tuples(st.integers(0, 900), st.integers(9000, 11_000), st.integers(0, 50)), max_size=60)


@given(looks=looks, flush_at=st.integers(0, 1000))
def test_bars_come_once_in_order_and_hold_no_more_volume_than_was_traded(looks, flush_at):
    minutes, volume, bars, flushed = MinuteBars(), 0, [], False
    for at, price, traded in sorted(looks):
        if at >= flush_at and not flushed:
            bars, flushed = bars + minutes.over(OPEN_S + at), True
        volume += traded
        bars += fed(minutes, quote(OPEN_S + at, str(Decimal(price) / 100), volume))
    bars += minutes.over(OPEN_S + 2000)
    starts = [bar[1] for bar in bars]
    assert starts == sorted(set(starts)) == sorted({OPEN_S + at // 60 * 60 for at, _, _ in looks})
    assert all(low <= open_ <= high and low <= close <= high for _, _, open_, high, low, close, _, _ in bars)
    assert sum(bar[6] for bar in bars) <= volume
