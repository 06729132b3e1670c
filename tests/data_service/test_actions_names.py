"""A share keeps its series when it changes its name, and no rename is known before its day."""

import io
import zipfile
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_service.actions import (
    FeedError,
    NameSpan,
    company_names,
    dated_by_bars,
    detect_renames,
    names_of,
    parse_symbol_changes,
)
from data_service.store.schemas import ACTION_SCHEMA

SHARED_DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared market data folder is absent")

CHANGES = (
    "Motherson,MOTHERSUMI,MOTHERSON,09-JUN-2022\n"
    "Larsen Infotech, LTI ,LTIM,05-Dec-2022\n"
    "LTIMindtree,LTIM,LTM,01-Sep-2025\n"
    "\n"
    "Larsen Infotech,LTI,LTIM,05-Dec-2022\n"
)
RENAMES = parse_symbol_changes(CHANGES, "nse")
DAY = timedelta(days=1)


def test_the_exchanges_list_is_read_once_per_change_with_or_without_a_header():
    assert RENAMES.schema == ACTION_SCHEMA
    assert RENAMES.select("symbol", "new_symbol", "ex_date", "known_on", "kind").rows() == [
        ("MOTHERSUMI", "MOTHERSON", date(2022, 6, 9), date(2022, 6, 9), "rename"),
        ("LTI", "LTIM", date(2022, 12, 5), date(2022, 12, 5), "rename"),
        ("LTIM", "LTM", date(2025, 9, 1), date(2025, 9, 1), "rename"),
    ]
    headed = "SM_NAME,SM_KEY_SYMBOL,SM_NEW_SYMBOL,SM_APPLICABLE_FROM\n" + CHANGES
    assert parse_symbol_changes(headed, "nse").equals(RENAMES)


@pytest.mark.parametrize("line", ["only,three,fields", "Name,OLD,NEW,2022-12-05", "Name,OLD,NEW,31-Feb-2022"])
def test_an_unreadable_change_is_named_by_its_line(line):
    with pytest.raises(FeedError, match="line 6:"):
        parse_symbol_changes(CHANGES + line, "nse")


LTIM_ON, LTM_ON = date(2022, 12, 5), date(2025, 9, 1)
LTI = NameSpan("LTI", date.min, LTIM_ON - DAY)
LTIM = NameSpan("LTIM", LTIM_ON, LTM_ON - DAY)


@pytest.mark.parametrize(
    ("symbol", "as_of", "spans"),
    [
        ("LTM", LTM_ON, [LTI, LTIM, NameSpan("LTM", LTM_ON, date.max)]),
        ("LTIM", LTM_ON - DAY, [LTI, NameSpan("LTIM", LTIM_ON, date.max)]),
        ("LTIM", LTM_ON, [LTI, LTIM]),
        ("LTI", LTIM_ON - DAY, [NameSpan("LTI", date.min, date.max)]),
        ("LTI", LTM_ON, [LTI]),
        ("LTM", LTM_ON - DAY, [NameSpan("LTM", date.min, date.max)]),
        ("TCS", LTM_ON, [NameSpan("TCS", date.min, date.max)]),
    ],
)
def test_the_names_of_a_series_are_those_known_then(symbol, as_of, spans):
    assert names_of(symbol, RENAMES, as_of) == spans


def test_a_name_taken_over_by_another_company_does_not_bring_the_first_ones_days():
    text = "One,OLD,ONE,03-Jan-2022\nTwo,TWO,OLD,01-Feb-2023\n"
    renames = parse_symbol_changes(text, "nse")
    taken, given_up = date(2023, 2, 1), date(2022, 1, 3)
    assert names_of("OLD", renames, taken) == [
        NameSpan("TWO", date.min, taken - DAY),
        NameSpan("OLD", taken, date.max),
    ]
    assert names_of("ONE", renames, taken)[0] == NameSpan("OLD", date.min, given_up - DAY)


def test_a_name_given_up_and_listed_anew_begins_with_its_second_company():
    renames = parse_symbol_changes("One,OLD,ONE,03-Jan-2022\nFresh,OLD,TWO,01-Feb-2023\n", "nse")
    taken, given_up = date(2023, 2, 1), date(2022, 1, 3)
    assert names_of("TWO", renames, taken) == [NameSpan("OLD", given_up, taken - DAY), NameSpan("TWO", taken, date.max)]


def test_a_rename_counts_from_the_day_it_is_known():
    late = RENAMES.with_columns(known_on=LTIM_ON + 5 * DAY)
    assert [span.name for span in names_of("LTIM", late, LTIM_ON + 4 * DAY)] == ["LTIM"]
    assert [span.name for span in names_of("LTIM", late, LTIM_ON + 5 * DAY)] == ["LTI", "LTIM"]


def test_names_passed_round_in_a_circle_end():
    renames = parse_symbol_changes("A,A,B,03-Jan-2022\nB,B,A,03-Jan-2023\nSame,C,C,03-Jan-2023\n", "nse")
    assert [span.name for span in names_of("A", renames, date(2024, 1, 1))] == ["A", "B", "A"]
    assert names_of("C", renames, date(2024, 1, 1)) == [NameSpan("C", date.min, date.max)]


def test_actions_are_looked_up_under_the_names_a_company_got_later_too():
    assert [span.name for span in company_names("LTI", RENAMES, date(2020, 1, 1))] == ["LTI", "LTIM", "LTM"]
    assert [span.name for span in company_names("LTIM", RENAMES, date(2023, 1, 1))] == ["LTI", "LTIM", "LTM"]
    assert [span.name for span in company_names("TCS", RENAMES, date(2023, 1, 1))] == ["TCS"]


LETTERS = st.sampled_from("ABCDE")
DAYS = st.dates(date(2020, 1, 1), date(2020, 2, 28))


@given(st.lists(st.tuples(DAYS, LETTERS, LETTERS), max_size=8), LETTERS, DAYS)
def test_names_are_contiguous_and_later_renames_change_nothing(rows, symbol, as_of):
    text = "".join(f"x,{old},{new},{day:%d-%b-%Y}\n" for day, old, new in rows)
    renames = parse_symbol_changes(text, "nse")
    spans = names_of(symbol, renames, as_of)
    assert spans[-1].name == symbol
    for before, after in pairwise(spans):
        assert after.first - before.last == DAY
    later = pl.concat([renames, renames.with_columns(pl.lit(as_of + DAY).alias("known_on"))])
    early_only = renames.filter(pl.col("ex_date") <= as_of)
    assert names_of(symbol, early_only, as_of) == spans == names_of(symbol, later, as_of)


def sightings(*rows: tuple[str, str | None, str]) -> pl.DataFrame:
    data = [(symbol, isin, date.fromisoformat(day)) for symbol, isin, day in rows]
    return pl.DataFrame(data, schema={"symbol": pl.String, "isin": pl.String, "known_on": pl.Date}, orient="row")


def test_the_same_isin_under_another_symbol_later_is_a_rename():
    seen = sightings(
        ("OLD", "INE1", "2024-01-01"),
        ("OLD", "INE1", "2024-01-02"),
        ("NEW", "INE1", "2024-01-05"),
        ("NEWER", "INE1", "2024-02-01"),
        ("500325", "INE2", "2024-01-01"),
        ("RELIANCE", "INE2", "2024-01-01"),
        ("RELIANCE", "INE2", "2024-01-05"),
        ("X", None, "2024-01-01"),
        ("Y", None, "2024-01-05"),
    )
    found = detect_renames(seen, "nse")
    assert found.schema == ACTION_SCHEMA
    assert found.select("symbol", "new_symbol", "ex_date").rows() == [
        ("OLD", "NEW", date(2024, 1, 5)),
        ("NEW", "NEWER", date(2024, 2, 1)),
    ]


def test_bars_tell_the_day_where_sightings_were_rare():
    seen = sightings(("A", "I1", "2024-01-01"), ("B", "I1", "2024-06-01"), ("C", "I2", "2024-01-01"))
    renames = detect_renames(pl.concat([seen, sightings(("D", "I2", "2024-06-01"))]), "nse")
    bars = [("A", "2024-03-01"), ("B", "2024-03-04"), ("C", "2024-04-02"), ("D", "2024-04-02")]
    frame = pl.DataFrame(bars, schema=["symbol", "day"], orient="row").with_columns(pl.col("day").str.to_date())
    dated = dated_by_bars(renames, frame)
    assert dated.schema == ACTION_SCHEMA
    assert dated.select("new_symbol", "ex_date", "known_on").rows() == [
        ("B", date(2024, 3, 4), date(2024, 3, 4)),
        ("D", date(2024, 6, 1), date(2024, 6, 1)),
    ]


def real_sightings() -> pl.DataFrame:
    """Symbol and ISIN of the old and new bhavcopies, and of the feed, which tells of 2019 under the names of 2026."""
    frames = []
    for name, day in (("cm13MAR2020", date(2020, 3, 13)), ("cm01JAN2021", date(2021, 1, 1))):
        raw = pl.read_csv(SHARED_DATA / "bhavcopy" / f"{name}bhav.csv.gz", infer_schema_length=0)
        frames.append(raw.select("SERIES", symbol="SYMBOL", isin="ISIN", known_on=pl.lit(day)))
    with zipfile.ZipFile(SHARED_DATA / "bhavcopy" / "20250618.zip") as archive:
        raw = pl.read_csv(io.BytesIO(archive.read(archive.namelist()[0])), infer_schema_length=0)
    frames.append(raw.select("TckrSymb", "ISIN", "SctySrs").select(
        SERIES="SctySrs", symbol="TckrSymb", isin="ISIN", known_on=pl.lit(date(2025, 6, 18))
    ))  # fmt: skip
    feed = pl.read_csv(SHARED_DATA / "corporate_actions_2019_2024.csv", infer_schema_length=0)
    frames.append(feed.select(SERIES="series", symbol="symbol", isin="isin", known_on=pl.lit(date(2026, 1, 1))))
    return pl.concat(frames).filter(pl.col("SERIES").is_in(["EQ", "BE"])).select("symbol", "isin", "known_on").unique()


RENAMED_IN_DATA = {
    "NIITTECH": "COFORGE",
    "INFRATEL": "INDUSTOWER",
    "ADANIGAS": "ATGL",
    "ANGELBRKG": "ANGELONE",
    "PHILIPCARB": "PCBL",
    "CADILAHC": "ZYDUSLIFE",
    "MOTHERSUMI": "MOTHERSON",
    "LTI": "LTIM",
    "SRTRANSFIN": "SHRIRAMFIN",
    "PVR": "PVRINOX",
    "ADANITRANS": "ADANIENSOL",
    "AMARAJABAT": "ARE&M",
}
"""Stocks of the daily file whose later name is in it too, from one session to the next."""

PAUSED = {"RUCHI": "PATANJALI"}
"""Traded in series BE, which the daily file leaves out, from its rename in 2022 to November 2023."""


@needs_data
def test_the_renames_of_2019_to_2024_join_without_a_gap_or_a_jump():
    daily = pl.read_parquet(
        SHARED_DATA / "nse_daily_unadjusted_2019_2024.parquet", columns=["symbol", "date", "close_p"]
    )
    daily = daily.rename({"date": "day"})
    renames = dated_by_bars(detect_renames(real_sightings(), "nse"), daily)
    symbols = daily["symbol"].unique().to_list()
    here = renames.filter(pl.col("symbol").is_in(symbols) & pl.col("new_symbol").is_in(symbols))
    assert dict(here.select("symbol", "new_symbol").iter_rows()) == RENAMED_IN_DATA | PAUSED
    sessions = daily["day"].unique().sort().to_list()
    for old, new in RENAMED_IN_DATA.items():
        spans = names_of(new, renames, date(2024, 12, 31))
        assert [span.name for span in spans] == [old, new]
        before = daily.filter((pl.col("symbol") == old) & (pl.col("day") <= spans[0].last)).sort("day")
        after = daily.filter((pl.col("symbol") == new) & (pl.col("day") >= spans[1].first)).sort("day")
        assert len(before) == len(daily.filter(pl.col("symbol") == old))
        assert len(after) == len(daily.filter(pl.col("symbol") == new))
        assert sessions.index(after["day"][0]) - sessions.index(before["day"][-1]) == 1
        assert abs(after["close_p"][0] / before["close_p"][-1] - 1) < 0.06
