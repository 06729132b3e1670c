"""A universe as of a day holds those that were there then, and nothing later can change it."""

from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_service.actions import parse_symbol_changes
from data_service.instruments import load_reference
from data_service.sessions import ist_midnight_s
from data_service.store.schemas import BAR_SCHEMA
from data_service.universe import (
    DEFAULT,
    NIFTY50_KNOWN_FROM,
    NIFTY50_KNOWN_THROUGH,
    Members,
    UniverseError,
    default,
    nifty50,
    top_by_turnover,
)

SHARED_DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared market data folder is absent")
FIRST = date(2024, 1, 1)
DAY = timedelta(days=1)


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def bars(rows: list[tuple[str, int, int, int]]) -> pl.DataFrame:
    """(symbol, day counted from FIRST, close in paise, volume) as daily bars."""
    data = [
        (symbol, ist_midnight_s(day(number)) + 33_300, close, close, close, close, volume, "nse")
        for symbol, number, close, volume in rows
    ]
    return pl.DataFrame(data, schema=BAR_SCHEMA, orient="row")


def test_the_default_is_five_shares_and_says_how_they_were_chosen():
    assert default().symbols == DEFAULT
    assert len(set(DEFAULT)) == 5
    assert default().note


def test_the_index_has_fifty_members_on_every_day_it_is_known():
    on = NIFTY50_KNOWN_FROM
    while on <= NIFTY50_KNOWN_THROUGH:
        members = nifty50(on)
        assert len(set(members.symbols)) == 50, on
        assert members.note == ""
        on += DAY


def test_before_its_file_the_index_is_refused_and_after_it_is_doubted():
    with pytest.raises(UniverseError, match="known from 2019-01-01"):
        nifty50(NIFTY50_KNOWN_FROM - DAY)
    after = nifty50(NIFTY50_KNOWN_THROUGH + DAY)
    assert "later changes are not known" in after.note
    assert after.symbols == nifty50(NIFTY50_KNOWN_THROUGH).symbols


@pytest.mark.parametrize(
    ("on", "joined", "left"),
    [
        (date(2020, 3, 19), {"SHREECEM"}, {"YESBANK"}),
        (date(2020, 9, 25), {"DIVISLAB", "SBILIFE"}, {"INFRATEL", "ZEEL"}),
        (date(2023, 7, 13), {"LTIM"}, {"HDFC"}),
        (date(2024, 3, 28), {"SHRIRAMFIN"}, {"UPL"}),
        (date(2025, 4, 9), {"ETERNAL"}, {"ZOMATO"}),
    ],
)
def test_a_change_of_the_index_holds_from_its_day(on, joined, left):
    before, after = set(nifty50(on - DAY).symbols), set(nifty50(on).symbols)
    assert (after - before, before - after) == (joined, left)


def test_the_index_of_march_2024_is_the_packaged_list_of_that_day():
    """That list names the shares in and out at the change of 2024-03-28."""
    both = set(nifty50(date(2024, 3, 27)).symbols) | set(nifty50(date(2024, 3, 28)).symbols)
    assert both == set(load_reference())


@needs_data
def test_every_member_of_the_index_traded_in_its_time():
    daily = pl.read_parquet(SHARED_DATA / "nse_daily_unadjusted_2019_2024.parquet", columns=["symbol", "date"])
    for (on,), of_day in daily.partition_by("date", as_dict=True).items():
        assert set(nifty50(on).symbols) <= set(of_day["symbol"]), on


def test_the_largest_turnover_comes_first_and_ties_go_by_name():
    rows = [("AAA", 0, 100, 10), ("BBB", 0, 10, 101), ("DDD", 0, 100, 10), ("CCC", 0, 1, 1)]
    assert top_by_turnover(bars(rows), FIRST, 3, sessions=1) == Members(("BBB", "AAA", "DDD"))


def test_only_the_trailing_sessions_count():
    rows = [("OLD", 0, 100, 1_000), *(("OLD", number, 100, 1) for number in range(1, 4))]
    rows += [("NEW", number, 100, 2) for number in range(4)]
    assert top_by_turnover(bars(rows), day(3), 1, sessions=3).symbols == ("NEW",)
    assert top_by_turnover(bars(rows), day(3), 1, sessions=4).symbols == ("OLD",)


def test_shares_of_today_that_did_not_trade_then_are_not_members_and_the_delisted_are():
    rows = [("GONE", number, 100, 9) for number in range(3)] + [("STAYS", number, 100, 5) for number in range(6)]
    rows += [("LATER", number, 100, 50) for number in range(4, 6)]
    assert top_by_turnover(bars(rows), day(2), 9, sessions=3).symbols == ("GONE", "STAYS")
    assert top_by_turnover(bars(rows), day(5), 9, sessions=5).symbols == ("LATER", "STAYS")


def test_large_prices_and_volumes_do_not_overflow():
    rows = [("HUGE", 0, 10**10, 10**13), ("SMALL", 0, 10**10, 10**12)]
    assert top_by_turnover(bars(rows), FIRST, 2, sessions=1).symbols == ("HUGE", "SMALL")


def test_too_little_history_is_said():
    assert "1 sessions are stored" in top_by_turnover(bars([("AAA", 0, 100, 10)]), FIRST, 1).note
    nothing = top_by_turnover(bars([("AAA", 1, 100, 10)]), FIRST, 1)
    assert nothing.symbols == ()
    assert "no daily bar" in nothing.note


RENAME = parse_symbol_changes(f"Renamed,OLD,NEW,{day(3):%d-%b-%Y}\n", "nse")


def test_a_renamed_share_keeps_its_turnover_under_the_name_of_then():
    rows = [("OLD", number, 100, 9) for number in range(3)] + [("NEW", number, 100, 9) for number in range(3, 6)]
    rows += [("OTHER", number, 100, 8) for number in range(6)]

    def ranked(on: int) -> tuple[str, ...]:
        return top_by_turnover(bars(rows), day(on), 2, sessions=6, actions=RENAME).symbols

    assert [ranked(on) for on in (2, 3, 5)] == [("OLD", "OTHER"), ("NEW", "OTHER"), ("NEW", "OTHER")]
    assert top_by_turnover(bars(rows), day(3), 2, sessions=6).symbols == ("OTHER", "NEW")
    unknown = RENAME.with_columns(known_on=day(4))
    assert top_by_turnover(bars(rows), day(3), 2, sessions=6, actions=unknown).symbols == ("OTHER", "NEW")


def test_a_share_renamed_on_a_day_without_a_session_is_there_once():
    again = pl.concat([RENAME, parse_symbol_changes(f"Again,NEW,NEWER,{day(6):%d-%b-%Y}\n", "nse")])
    rows = [("OLD", number, 100, 9) for number in range(3)] + [("NEW", number, 100, 9) for number in range(3, 6)]
    assert top_by_turnover(bars(rows), day(6), 9, sessions=6, actions=again).symbols == ("NEWER",)


BARS = st.lists(
    st.tuples(
        st.sampled_from(["AAA", "BBB", "OLD", "NEW", "DDD"]), st.integers(0, 9), st.integers(1, 999), st.integers(0, 99)
    ),
    max_size=40,
    unique_by=lambda row: row[:2],
)


@given(BARS, BARS, st.integers(0, 9), st.integers(1, 6))
def test_other_bars_later_change_nothing(rows, others, as_of, sessions):
    past = [row for row in rows if row[1] <= as_of]
    future = [row for row in others if row[1] > as_of]
    later_rename = parse_symbol_changes(f"x,AAA,BBB,{day(as_of + 1):%d-%b-%Y}\n", "nse")
    alone = top_by_turnover(bars(past), day(as_of), 3, sessions, RENAME)
    disturbed = top_by_turnover(bars(past + future), day(as_of), 3, sessions, pl.concat([RENAME, later_rename]))
    assert alone == disturbed


@needs_data
def test_the_real_top_of_2019_holds_shares_that_are_gone_since():
    raw = pl.read_parquet(
        SHARED_DATA / "nse_daily_unadjusted_2019_2024.parquet", columns=["symbol", "date", "close_p", "volume"]
    )
    paise = [pl.col("close_p").cast(pl.Int64).alias(name) for name in ("open", "high", "low", "close")]
    start = pl.col("date").cast(pl.Int32).cast(pl.Int64) * 86_400 + 13_500
    frame = raw.select("symbol", *paise, "volume", start=start, source=pl.lit("nse")).select(list(BAR_SCHEMA))
    top = top_by_turnover(frame, date(2019, 9, 30), 100).symbols
    gone = {"HDFC", "YESBANK", "DHFL", "SRTRANSFIN", "CADILAHC", "RELCAPITAL"} & set(top)
    assert gone == {"HDFC", "YESBANK", "DHFL", "SRTRANSFIN", "RELCAPITAL"}
    assert {"RELIANCE", "HDFCBANK", "SBIN"} <= set(top[:15])
    last = frame.filter(pl.col("start") > frame["start"].max() - 40 * 86_400)["symbol"].unique()
    assert {"HDFC", "DHFL", "SRTRANSFIN"}.isdisjoint(last)
