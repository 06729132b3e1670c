"""Importing files: every layout by its content, every bad row by its line, all or nothing."""

import gzip
import io
import zipfile
from datetime import date

import polars as pl
import pytest
from data_market import SHARED_DATA, at_s, session, short_calendar
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from contracts.market import Interval
from data_service.imports.checked import read_checked
from data_service.imports.load import import_file
from data_service.imports.source import ImportRefusedError
from data_service.store.stores import embedded
from sauda.data import app

HEADER = "symbol,date,open,high,low,close,volume\n"
CALENDAR = short_calendar()
NOW_S = at_s("2026-01-01 00:00")

UDIFF = (
    "TradDt,BizDt,Sgmt,Src,TckrSymb,SctySrs,OpnPric,HghPric,LwPric,ClsPric,LastPric,PrvsClsgPric,TtlTradgVol\n"
    "2025-06-18,2025-06-18,CM,NSE,M&M,EQ,3000.10,3050.00,2990.00,3040.55,3041.00,2999.00,1200000\n"
    "2025-06-18,2025-06-18,CM,NSE,SGBJUN28,GB,9900.75,9900.75,9815.00,9870.00,9870.00,9900.75,58\n"
    "2025-06-18,2025-06-18,CM,NSE,WEAK,BE,10,10.5,9.5,9.99,10,10,77\n"
)
NSE_OLD = (
    "SYMBOL,SERIES,OPEN,HIGH,LOW,CLOSE,LAST,PREVCLOSE,TOTTRDQTY,TOTTRDVAL,TIMESTAMP,TOTALTRADES,ISIN,\n"
    "ABB,EQ,1210,1225.3,1205,1222.35,1223,1209.6,19137,23311122.6,01-JAN-2021,2125,INE117A01022,\n"
    "ABB,BL,1210,1225.3,1205,1222.35,1223,1209.6,19137,23311122.6,01-JAN-2021,2125,INE117A01022,\n"
)
NSE_FULL = (
    "SYMBOL, SERIES, DATE1, PREV_CLOSE, OPEN_PRICE, HIGH_PRICE, LOW_PRICE, LAST_PRICE, CLOSE_PRICE, AVG_PRICE,"
    " TTL_TRD_QNTY, TURNOVER_LACS, NO_OF_TRADES, DELIV_QTY\n"
    "20MICRONS, EQ, 01-Jul-2025, 231.28, 233.60, 235.85, 228.74, 233.26, 231.94, 231.68, 81262, 188.27, 1906, 34403\n"
    "1018GS2026, GS, 01-Jul-2025, 108.15, 108.35, 108.35, 107.20, 108.30, 108.30, 107.81, 1410, 1.52, 6, 815\n"
)
BSE_OLD = (
    "SC_CODE,SC_NAME,SC_GROUP,SC_TYPE,OPEN,HIGH,LOW,CLOSE,LAST,PREVCLOSE,NO_TRADES,NO_OF_SHRS,NET_TURNOV,TDCLOINDI\r\n"
    "500002,ABB LTD.    ,A ,Q,1420.95,1425.00,1393.00,1397.25,1397.25,1417.40,920,5140,7217095.00,\r\n"
    "800001,SOME BOND   ,F ,B,100,100,100,100,100,100,1,5,500.00,\r\n"
)
ABB_2021 = ("ABB", "2021-01-01", 121_000, 122_530, 120_500, 122_235, 19_137)
ABB_BSE_2021 = ("500002", "2021-04-01", 142_095, 142_500, 139_300, 139_725, 5_140)


def zipped(text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("BhavCopy.csv", text)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "kind", "first", "count"),
    [
        ("a", zipped(UDIFF), "udiff", ("M&M", "2025-06-18", 300_010, 305_000, 299_000, 304_055, 1_200_000), 2),
        ("b", UDIFF.encode(), "udiff", ("M&M", "2025-06-18", 300_010, 305_000, 299_000, 304_055, 1_200_000), 2),
        (
            "c",
            gzip.compress(NSE_OLD.encode()),
            "nse_old",
            ABB_2021,
            1,
        ),
        ("d", NSE_FULL.encode(), "nse_full", ("20MICRONS", "2025-07-01", 23_360, 23_585, 22_874, 23_194, 81_262), 1),
        (
            "EQ010421.CSV",
            BSE_OLD.encode(),
            "bse_old",
            ABB_BSE_2021,
            1,
        ),
    ],
)
def test_each_bhavcopy_is_known_by_its_content(tmp_path, name, content, kind, first, count):
    path = tmp_path / name
    path.write_bytes(content)
    checked = read_checked(path, CALENDAR)
    assert (checked.kind, checked.interval, checked.bad, len(checked.rows)) == (kind, Interval.DAY_1, [], count)
    symbol, day, *values = first
    source = "bse" if kind == "bse_old" else "nse"
    assert checked.rows.row(0) == (symbol, session(date.fromisoformat(day)).open_s, *values, source)


def test_an_old_bse_file_needs_its_day_in_the_name(tmp_path):
    (tmp_path / "x.csv").write_text(BSE_OLD)
    with pytest.raises(ImportRefusedError, match="EQddmmyy"):
        read_checked(tmp_path / "x.csv", CALENDAR)


def csv_file(folder, text: str):
    path = folder / "bars.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("AAA,2024-01-xx,10,11,9,10,5", "date or time 2024-01-xx cannot be read"),
        ("AAA,1824-01-01,10,11,9,10,5", "date 1824-01-01 is out of range"),
        ("A A,2024-01-01,10,11,9,10,5", "symbol A A is not valid"),
        ("AAA,2024-01-01,ten,11,9,10,5", "open ten is not a number"),
        ("AAA,2024-01-01,10,,9,10,5", "high  is not a number"),
        ("AAA,2024-01-01,10,11,9,nan,5", "close nan is not a number"),
        ("AAA,2024-01-01,10,inf,9,10,5", "high inf is not a number"),
        ("AAA,2024-01-01,10,11,0,10,5", "low 0 is not positive"),
        ("AAA,2024-01-01,10,11,0.004,10,5", "low 0.004 is not positive"),
        ("AAA,2024-01-01,10,1e12,9,10,5", "high 1e12 is too large"),
        ("AAA,2024-01-01,10,11,9,10,-5", "volume -5 is negative"),
        ("AAA,2024-01-01,10,11,9,10,5.5", "volume 5.5 is no count of shares"),
        ("AAA,2024-01-01,10,9,11,10,5", "high 9 is below low 11"),
        ("AAA,2024-01-01,10,11,9,11.01,5", "close 11.01 is outside 9 to 11"),
        ("AAA,2024-01-01,8.99,11,9,10,5", "open 8.99 is outside 9 to 11"),
        ("AAA,2024-01-01,10,11", "4 fields instead of 7"),
        ("GOOD,2024-01-02,10,11,9,10,6", "GOOD 2024-01-02 is there twice"),
    ],
)
def test_a_bad_row_is_named_by_line_and_reason(tmp_path, row, reason):
    path = csv_file(tmp_path, f"{HEADER}GOOD,2024-01-02,10,11,9,10,5\n\n{row}\nLAST,2024-01-02,10,11,9,10,5\n")
    checked = read_checked(path, CALENDAR)
    assert [(bad.line, bad.reason) for bad in checked.bad] == [(4, reason)]
    assert checked.rows["symbol"].to_list() == ["GOOD", "LAST"]


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("2024-03-20 09:15:00", "1m"),
        ("2024-03-20T09:15:00+05:30", "1m"),
        ("2024-03-20T03:45:00+0000", "1m"),
        ("2024-03-20T03:45:00Z", "1m"),
        ("2024-03-20 09:15:00.000", "1m"),
        ("2024-03-20 09:15", "1m"),
        ("20-Mar-2024", "1d"),
        ("2024-03-20", "1d"),
        ("20/03/2024", "1d"),
    ],
)
def test_instants_are_indian_unless_they_say_otherwise(tmp_path, text, interval):
    path = csv_file(tmp_path, f"symbol,ts,open,high,low,close,volume\nAAA,{text},10,11,9,10,5\n")
    checked = read_checked(path, CALENDAR, interval=Interval(interval))
    assert checked.bad == []
    assert checked.rows["start"].to_list() == [at_s("2024-03-20 09:15")]


@pytest.mark.parametrize(("step", "interval"), [("09:16", Interval.MIN_1), ("09:20", Interval.MIN_5)])
def test_the_interval_is_the_smallest_step(tmp_path, step, interval):
    lines = [f"AAA,2024-03-20 {time},10,11,9,10,5" for time in ("09:15", step, "10:15")]
    path = csv_file(tmp_path, "\n".join(["symbol,ts,open,high,low,close,volume", *lines]))
    assert read_checked(path, CALENDAR).interval is interval


def test_an_unknown_step_is_refused_and_a_crooked_start_is_bad(tmp_path):
    lines = [f"AAA,2024-03-20 {time},10,11,9,10,5" for time in ("09:15", "09:22")]
    path = csv_file(tmp_path, "\n".join(["symbol,ts,open,high,low,close,volume", *lines]))
    with pytest.raises(ImportRefusedError, match="420 s apart"):
        read_checked(path, CALENDAR)
    checked = read_checked(path, CALENDAR, interval=Interval.MIN_5)
    assert [(bad.line, bad.reason) for bad in checked.bad] == [(3, "start 2024-03-20 09:22 is not on a 5m boundary")]


def test_a_muhurat_days_bar_starts_when_its_session_does(tmp_path):
    day = CALENDAR.all[9].day
    checked = read_checked(csv_file(tmp_path, f"{HEADER}AAA,{day},10,11,9,10,5\n"), CALENDAR)
    assert checked.rows["start"].to_list() == [CALENDAR.all[9].open_s]


def test_notes_tell_of_closed_days_and_rounding(tmp_path):
    text = f"{HEADER}AAA,2019-01-05,10,11,9,10,0\nAAA,2019-01-04,10.1234,11,9,10,5\n"
    notes = read_checked(csv_file(tmp_path, text), CALENDAR).notes
    assert any("1 rows are of days on which the calendar has no session" in note for note in notes)
    assert any("1 rows had prices finer than a paisa" in note for note in notes)


@given(st.lists(st.integers(min_value=1, max_value=10**9), min_size=4, max_size=4), st.integers(0, 10**12))
def test_paise_survive_exactly(tmp_path_factory, prices, volume):
    low, open_, close, high = sorted(prices)
    texts = [f"{price // 100}.{price % 100:02d}" for price in (open_, high, low, close)]
    path = csv_file(tmp_path_factory.mktemp("exact"), f"{HEADER}AAA,2024-01-01,{','.join(texts)},{volume}\n")
    assert read_checked(path, CALENDAR).rows.row(0)[2:] == (open_, high, low, close, volume, "file")


def test_parquet_in_paise_with_missing_prices(tmp_path):
    path = tmp_path / "x.parquet"
    columns = {"symbol": ["A", "B"], "date": [date(2019, 1, 1)] * 2, "volume": [5, 6]}
    prices = {f"{name}_p": [1005, -1] for name in ("open", "high", "low", "close")}
    pl.DataFrame(columns | prices).write_parquet(path)
    checked = read_checked(path, CALENDAR)
    assert checked.rows.row(0)[2:] == (1005, 1005, 1005, 1005, 5, "file")
    assert [(bad.line, bad.reason) for bad in checked.bad] == [(2, "open -1 is not a number")]


NO_TABLES = [b"", b"a,b\n1,2\n", b"PAR1nonsense", b"PK\x03\x04nonsense", b"\x1f\x8bnonsense", b"\x00\xff", b"a,a\n"]


@pytest.mark.parametrize("content", NO_TABLES)
def test_what_is_no_table_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(ImportRefusedError) as refused:
        read_checked(path, CALENDAR)
    assert "\n" not in str(refused.value)


def test_all_or_nothing_unless_bad_rows_may_be_skipped(tmp_path):
    store, path = embedded(tmp_path / "store"), csv_file(tmp_path, f"{HEADER}A,2019-01-01,1,1,1,1,1\nB,x,1,1,1,1,1\n")
    assert not import_file(store, CALENDAR, path, now_s=NOW_S).imported
    assert store.bars.stamps() == {}
    result = import_file(store, CALENDAR, path, now_s=NOW_S, skip_bad_rows=True)
    assert (result.imported, result.result.counts.new, len(result.bad)) == (True, 1, 1)


def test_factors_and_their_bad_rows(tmp_path):
    text = "symbol,exDate,factor,kind\nAAA,2024-01-02,0.5,split\nAAA,2024-01-02,0.5,split\n"
    text += "BBB,2024-01-02,0,x\nCCC,soon,1,x\n"
    checked = read_checked(csv_file(tmp_path, text), CALENDAR)
    known = checked.rows.select("symbol", "ex_date", "kind", "shares_before", "shares_after", "source")
    assert known.rows() == [("AAA", date(2024, 1, 2), "split", 1, 2, "file")]
    assert [bad.line for bad in checked.bad] == [3, 4, 5]


def test_the_command_reports_and_exits_by_what_happened(tmp_path):
    run = CliRunner().invoke
    where = ["--data-dir", str(tmp_path)]
    bad = "".join(f"A,2024-01-01,1,1,1,1,{-number}\n" for number in range(1, 31))
    path = csv_file(tmp_path, f"{HEADER}GOOD,2024-01-01,1,1,1,1,1\n{bad}")
    refused = run(app, ["import", str(path), *where])
    assert refused.exit_code == 1
    assert "nothing imported, 30 bad rows" in refused.output
    assert "line 3: volume -1 is negative" in refused.output
    assert "... and 10 more" in refused.output
    assert "Nothing is stored" in run(app, ["status", *where]).output
    skipped = run(app, ["import", str(path), "--skip-bad-rows", *where])
    assert skipped.exit_code == 0
    assert "1 new, 0 changed, 0 unchanged, 30 bad rows left out" in skipped.output
    assert "2024-01-01" in run(app, ["status", *where]).output
    assert run(app, ["import", str(tmp_path / "none.csv"), *where]).exit_code == 1
    assert run(app, ["import", str(path), "--kind", "nonsense", *where]).exit_code == 2
    (tmp_path / "market" / "recorded" / "bars-1d-2024.parquet").write_bytes(b"PAR1")
    damaged = run(app, ["status", *where])
    assert damaged.exit_code == 1
    assert "delete it and import its bars again" in damaged.output


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared market data folder is absent")
@pytest.mark.parametrize(
    ("name", "kind", "interval", "rows", "bad"),
    [
        ("nse_daily_unadjusted_2019_2024.parquet", "paise", Interval.DAY_1, 549_730, 0),
        ("nse_5min_10stocks_2024-03-20_2024-04-19.parquet", "bars", Interval.MIN_5, 14_250, 0),
        ("bse_5min_reliance_axisbank_2019-11_2020-11.parquet", "bars", Interval.MIN_5, 40_050, 0),
        ("nse_1min_166stocks_2016-09-30.parquet", "bars", Interval.MIN_1, 62_250, 0),
        ("nifty50_daily_yahoo_1996_2018.parquet", "bars", Interval.DAY_1, 222_745, 532),
        ("nifty50_daily_yahoo_adjusted_2018_2022.parquet", "bars", Interval.DAY_1, 60_515, 2_464),
        ("bhavcopy/20250618.zip", "udiff", Interval.DAY_1, 2_325, 0),
        ("bhavcopy/cm13MAR2020bhav.csv.gz", "nse_old", Interval.DAY_1, 1_640, 0),
        ("bhavcopy/sec_bhavdata_full_01072025.csv.gz", "nse_full", Interval.DAY_1, 2_335, 0),
        ("bhavcopy/EQ010421.CSV", "bse_old", Interval.DAY_1, 3_069, 0),
        ("split_bonus_factors_2019_2024.csv", "factors", None, 421, 0),
    ],
)
def test_the_real_files_import(name, kind, interval, rows, bad):
    checked = read_checked(SHARED_DATA / name, CALENDAR)
    assert (checked.kind, checked.interval, len(checked.rows), len(checked.bad)) == (kind, interval, rows, bad)
