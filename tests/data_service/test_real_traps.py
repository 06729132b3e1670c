"""Every known trap of the real files is caught by the gate or survived by the adjustment."""

from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from test_actions_names import real_sightings

from contracts.market import ADJUSTING_KINDS, Interval
from data_service.actions import dated_by_bars, detect_renames, parse_feed, under_names_of_then
from data_service.adjust import factors_of
from data_service.bars import day_number
from data_service.checks import BarContext, CheckedBars, check_bars
from data_service.checks.series import action_facts, with_moves
from data_service.sessions import IST, load_sessions
from data_service.store.schemas import BAR_SCHEMA

SHARED_DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared market data folder is absent")

SESSIONS = load_sessions()
PRICES = ("open", "high", "low", "close")
NOW_S = int(datetime(2026, 11, 1, tzinfo=IST).timestamp())
DAILY_FILE = SHARED_DATA / "nse_daily_unadjusted_2019_2024.parquet"


def bars_of(frame: pl.DataFrame, source: str, unit: int) -> pl.DataFrame:
    """A file's rows (symbol, date or ts, four prices, volume) as BAR_SCHEMA; `unit` makes paise of its prices."""
    if "ts" in frame.columns:
        start = pl.col("ts").dt.epoch("s")
    else:
        opens = {session.day: session.open_s for session in SESSIONS.all}
        usual = pl.col("date").cast(pl.Int32).cast(pl.Int64) * 86_400 + 13_500
        start = pl.col("date").replace_strict(opens, default=usual, return_dtype=pl.Int64)
    paise = [(pl.col(name).cast(pl.Float64) * unit).round().cast(pl.Int64) for name in PRICES]
    return frame.select("symbol", *paise, "volume", start=start, source=pl.lit(source)).select(list(BAR_SCHEMA))


def file_bars(name: str, source: str) -> pl.DataFrame:
    return bars_of(pl.read_parquet(SHARED_DATA / name), source, 100)


@pytest.fixture(scope="module")
def nse() -> pl.DataFrame:
    raw = pl.read_parquet(DAILY_FILE)
    return bars_of(raw.rename({f"{name}_p": name for name in PRICES}), "nse", 1)


@pytest.fixture(scope="module")
def actions(nse) -> pl.DataFrame:
    """The feed with the renames that the ISINs tell, under the names of then."""
    feed = parse_feed(pl.read_csv(SHARED_DATA / "corporate_actions_2019_2024.csv", infer_schema_length=0), "nse")
    days = nse.select("symbol", day=pl.from_epoch(pl.col("start") + 19_800).dt.date())
    return under_names_of_then(pl.concat([feed, dated_by_bars(detect_renames(real_sightings(), "nse"), days)]))


@pytest.fixture(scope="module")
def checked(nse, actions) -> CheckedBars:
    return check_bars(nse, Interval.DAY_1, BarContext(SESSIONS, NOW_S, actions=actions))


@pytest.fixture(scope="module")
def moves(nse, actions) -> pl.DataFrame:
    days = nse.sort("symbol", "start").with_columns(day=pl.from_epoch(pl.col("start") + 19_800).dt.date())
    return with_moves(days, action_facts(actions), {})


@pytest.fixture(scope="module")
def events(moves) -> pl.DataFrame:
    """The ex-dates of all splits and bonuses of the daily file's shares, with the bar before and the bar of the day."""
    usual = pl.col("volume").rolling_median(20).shift(1).over("symbol")
    surge = pl.col("volume") * pl.col("factor") / usual
    return moves.with_columns(surge=surge).filter((pl.col("factor") != 1) & pl.col("previous").is_not_null())


def counts(findings: pl.DataFrame) -> dict[tuple[str, bool], int]:
    return {(reason, out): n for reason, out, n in findings.group_by("reason", "quarantined").len().iter_rows()}


def days_of(findings: pl.DataFrame) -> pl.Series:
    return findings.select(pl.from_epoch(pl.col("start") + 19_800).dt.date())["start"]


def test_half_a_million_official_bars_pass_but_for_what_is_named(checked, nse):
    assert counts(checked.findings) == {
        ("outlier", False): 50,
        ("unadjusted_action", False): 34,
        ("missing_session", False): 855,
    }
    assert len(checked.good) == len(nse)


def test_an_unannounced_split_of_a_fund_is_a_step_that_lasts(checked):
    """GOLDBEES, 100 units for one on 2019-12-19, is not in the feed of shares: flagged on its day, served whole."""
    flagged = checked.findings.filter(pl.col("symbol") == "GOLDBEES", pl.col("reason") == "outlier")
    assert days_of(flagged).to_list() == [date(2019, 12, 19)]
    assert not checked.findings["quarantined"].any()


def test_previous_close_is_not_adjusted_on_ex_dates_so_the_gate_never_reads_it(events):
    told = pl.read_parquet(DAILY_FILE, columns=["symbol", "date", "prev_close_p"]).rename({"date": "day"})
    beside = events.join(told, on=["symbol", "day"])
    unadjusted = (beside["prev_close_p"] / beside["previous"] - 1).abs() < 0.001
    assert (len(beside), unadjusted.sum()) == (93, 92)
    assert beside.filter(~unadjusted)["symbol"].to_list() == ["PCJEWELLER"]


def test_the_official_close_is_an_average_and_no_disagreement_with_the_last_trade(nse):
    """NSE's close is the average of the last half hour: it differs from the last 5-minute bar, but never by 3 %."""
    finer = file_bars("nse_5min_10stocks_2024-03-20_2024-04-19.parquet", "yahoo").sort("symbol", "start")
    day_start = (pl.col("start") + 19_800) // 86_400 * 86_400 - 19_800 + 33_300
    last = finer.group_by("symbol", start=day_start, maintain_order=True).last().drop("start_right", strict=False)
    last = last.select(list(BAR_SCHEMA))
    official = nse.join(last, on=["symbol", "start"], how="semi")
    beside = official.join(last, on=["symbol", "start"], suffix="_last")
    off = (beside["close"] / beside["close_last"] - 1).abs()
    assert (len(off), (off > 0).sum()) == (190, 118)
    assert 0.005 < off.max() < 0.01
    found = check_bars(official, Interval.DAY_1, BarContext(SESSIONS, NOW_S, others=last)).findings
    assert counts(found) == {}


def test_the_two_missing_days_are_told_for_every_share_that_spans_them(checked):
    gaps = checked.findings.filter(pl.col("reason") == "missing_session")
    single = gaps.filter(pl.col("detail").is_in(["no bar of 2021-11-04", "no bar of 2022-08-08"]))
    assert dict(single["detail"].value_counts().iter_rows()) == {
        "no bar of 2021-11-04": 368,
        "no bar of 2022-08-08": 383,
    }
    assert {"RELIANCE", "TCS"} <= set(single["symbol"])


def test_weekend_and_evening_sessions_of_the_calendar_are_no_closed_days(checked):
    days = set(days_of(checked.good))
    special = [date(2019, 10, 27), date(2020, 2, 1), date(2023, 11, 12), date(2024, 1, 20), date(2024, 11, 1)]
    assert days.issuperset(special)
    assert days <= set(SESSIONS.by_day)


def test_the_feeds_false_bonus_is_doubted_where_the_price_did_not_move(actions):
    """DVL 2021-08-05 (the daily file has no DVL: bars are made that stay where they were, as its price did)."""
    bonus = actions.filter((pl.col("symbol") == "DVL") & pl.col("kind").is_in(list(ADJUSTING_KINDS)))
    assert bonus.select("ex_date", "shares_before", "shares_after").rows() == [(date(2021, 8, 5), 2, 3)]
    sessions = [found for found in SESSIONS.all if date(2021, 7, 28) <= found.day <= date(2021, 8, 12)]
    prices = [(30_000 + 40 * n, 30_300 + 40 * n, 29_900 + 40 * n, 30_100 + 40 * n) for n in range(len(sessions))]
    rows = [("DVL", found.open_s, *values, 9_000, "nse") for found, values in zip(sessions, prices, strict=True)]
    flat = pl.DataFrame(rows, schema=BAR_SCHEMA, orient="row")
    found = check_bars(flat, Interval.DAY_1, BarContext(SESSIONS, NOW_S, actions=actions)).findings
    assert found.select("symbol", "reason", "quarantined").rows() == [("DVL", "action_unconfirmed", False)]
    assert days_of(found).to_list() == [date(2021, 8, 5)]


def test_no_split_or_bonus_of_the_daily_file_is_doubted(checked, events):
    assert len(events) == 93
    assert "action_unconfirmed" not in set(checked.findings["reason"])


def test_reliances_demerger_is_flagged_and_not_fixed(checked, actions):
    day = date(2023, 7, 20)
    of_day = checked.findings.filter((pl.col("symbol") == "RELIANCE") & (pl.col("reason") == "unadjusted_action"))
    assert days_of(of_day).to_list() == [day]
    assert of_day["detail"][0] == "moved -7.9 % beside the market on: demerger"
    factors = factors_of(actions.filter(pl.col("symbol") == "RELIANCE"), day)
    assert day_number(day) not in factors.ex_day
    good = checked.good.filter((pl.col("symbol") == "RELIANCE") & (pl.col("start") == SESSIONS.by_day[day].open_s))
    assert good["close"].to_list() == [261_985]


def test_demergers_told_under_a_later_name_are_found_on_the_old_ones_bars(checked):
    flagged = checked.findings.filter(pl.col("reason") == "unadjusted_action")
    assert "CENTURYTEX" in set(flagged["symbol"])
    assert "ABREL" not in set(flagged["symbol"])


def test_yahoos_old_file_loses_its_flat_bars_without_volume():
    raw = file_bars("nifty50_daily_yahoo_1996_2018.parquet", "yahoo")
    result = check_bars(raw, Interval.DAY_1, BarContext(SESSIONS, NOW_S))
    found = counts(result.findings)
    assert found[("phantom_flat", True)] == 5_671
    assert found[("ohlc_inconsistent", True)] == 497
    assert found[("zero_volume", False)] == 1_007
    assert found[("closed_day", True)] == 1
    assert found[("outlier", True)] == 3
    assert result.good.filter((pl.col("volume") == 0) & (pl.col("high") == pl.col("low"))).is_empty()


def test_yahoos_newer_file_loses_its_phantoms_and_tells_of_the_missing_weekend_sessions():
    raw = file_bars("nifty50_daily_yahoo_adjusted_2018_2022.parquet", "yahoo")
    result = check_bars(raw, Interval.DAY_1, BarContext(SESSIONS, NOW_S))
    kept_out = result.findings.filter(pl.col("quarantined"))
    assert set(kept_out["reason"]) == {"phantom_flat"}
    phantom_days = [date(2018, 11, 7), date(2021, 11, 4), date(2022, 9, 12), date(2022, 10, 24)]
    assert sorted(days_of(kept_out)) == sorted(phantom_days * 2)
    gaps = dict(result.findings.filter(pl.col("reason") == "missing_session")["detail"].value_counts().iter_rows())
    everywhere = ["2019-02-13", "2019-03-29", "2020-02-01"]
    assert gaps == {f"no bar of {day}": 51 for day in everywhere} | {
        f"no bar of {day}": 2 for day in ("2019-10-27", "2020-11-14")
    }


def test_the_first_bars_missing_volume_is_flagged_and_the_bar_is_served():
    raw = file_bars("nse_5min_10stocks_2024-03-20_2024-04-19.parquet", "yahoo")
    result = check_bars(raw, Interval.MIN_5, BarContext(SESSIONS, NOW_S))
    assert counts(result.findings) == {("opening_volume_missing", False): 163}
    opening = raw.filter((pl.col("start") + 19_800) % 86_400 == 33_300)
    assert (len(opening), (opening["volume"] == 0).sum()) == (190, 163)
    assert len(result.good) == len(raw)


def test_halts_of_the_crash_are_seen_as_frozen_bars_and_the_crash_is_served():
    """On 2020-03-13 and 2020-03-23 trading was halted for the whole market."""
    raw = file_bars("bse_5min_reliance_axisbank_2019-11_2020-11.parquet", "file")
    result = check_bars(raw, Interval.MIN_5, BarContext(SESSIONS, NOW_S))
    assert len(result.good) == len(raw)
    frozen = result.findings.filter(pl.col("reason") == "frozen")
    assert {date(2020, 3, 13), date(2020, 3, 23)} <= set(days_of(frozen))


def test_the_minute_file_is_out_of_order_and_comes_out_sorted():
    raw = file_bars("nse_1min_166stocks_2016-09-30.parquet", "file")
    result = check_bars(raw, Interval.MIN_1, BarContext(SESSIONS, NOW_S))
    assert counts(result.findings) == {("out_of_order", False): 405, ("frozen", False): 26}
    assert result.good.equals(raw.sort("symbol", "start"))


BEYOND_2_PCT = {
    "ran into its daily band of 5, 10 or 20 % around the adjusted close": [
        "HEG 2024-10-18 -3.6",
        "AFFLE 2021-10-07 4.0",
        "AARTIDRUGS 2020-09-30 5.3",
        "ALKYLAMINE 2021-05-11 9.2",
        "INOXWIND 2024-05-24 9.4",
        "NAZARA 2022-06-24 17.6",
        "COCHINSHIP 2024-01-10 20.0",
        "EASEMYTRIP 2022-11-21 20.4",
    ],
    "twice the usual volume or more": [
        "INFIBEAM 2021-03-18 -13.0",
        "IPCALAB 2022-01-10 -4.4",
        "INFIBEAM 2022-03-14 -3.6",
        "POWERGRID 2021-07-29 -2.5",
        "IOC 2022-06-30 2.3",
        "OIL 2024-07-02 2.5",
        "APLAPOLLO 2020-12-15 2.5",
        "PHOENIXLTD 2024-09-20 3.5",
        "UPL 2019-07-02 3.6",
        "ASTRAL 2019-09-16 3.9",
        "BAJAJFINSV 2022-09-13 4.1",
        "IRCON 2021-05-20 5.1",
        "GMMPFAUDLR 2022-07-11 5.2",
        "IEX 2021-12-03 5.3",
        "CESC 2021-09-17 5.7",
        "BERGEPAINT 2023-09-22 6.9",
        "KTKBANK 2020-03-17 7.2",
        "DIXON 2021-03-18 7.3",
        "MOTILALOFS 2024-06-10 7.6",
        "NYKAA 2022-11-10 7.7",
        "BDL 2024-05-24 8.7",
        "CDSL 2024-08-23 8.8",
        "RITES 2024-09-20 9.0",
        "EASEMYTRIP 2024-11-29 9.7",
        "TRIDENT 2019-12-13 11.3",
        "IRB 2023-02-22 16.0",
    ],
    "opened within 2.5 % of the adjusted close and moved in the day": [
        "SRF 2021-10-13 -3.7",
        "BIOCON 2019-06-12 -3.5",
        "NMDC 2024-12-27 -2.9",
        "GAIL 2019-07-09 -2.8",
        "AUBANK 2022-06-09 -2.7",
        "JUBLFOOD 2022-04-19 -2.6",
        "HINDPETRO 2024-06-21 -2.1",
        "PERSISTENT 2024-03-28 -2.1",
        "HDFCBANK 2019-09-19 2.2",
        "GAIL 2022-09-06 2.2",
        "VBL 2023-06-15 2.6",
        "APLAPOLLO 2021-09-16 2.8",
        "LODHA 2023-05-31 3.7",
        "TATASTEEL 2022-07-28 4.0",
        "VBL 2019-07-25 5.0",
        "GUJGASLTD 2019-01-15 6.4",
        "PCBL 2022-04-11 8.1",
        "IRCTC 2021-10-28 12.8",
    ],
    "opened elsewhere on usual volume, for a cause that is not in the data": [
        "ASTRAL 2021-03-18 -5.3",
        "AARTIIND 2019-09-27 2.5",
        "BLS 2022-05-13 2.7",
        "EASEMYTRIP 2022-02-28 3.7",
        "PCJEWELLER 2024-12-31 4.8",
        "CANBK 2024-05-15 4.8",
        "BLS 2022-12-08 5.4",
        "NBCC 2024-10-07 5.7",
        "IRCON 2020-04-03 16.3",
    ],
}
"""Splits and bonuses whose day's return less the market's (here in per cent) is beyond 2 %, by what can be seen."""


def seen(event: dict[str, Any]) -> str:
    """What the day's bar shows of why the return is far from the market's."""
    band, volume, day, gap = BEYOND_2_PCT
    reach = [abs(event[name] / event["expected"] - 1) for name in ("high", "low")]
    if any(abs(found - width) < 0.0011 for found in reach for width in (0.05, 0.10, 0.20)):
        return band
    if event["surge"] is not None and event["surge"] >= 2:
        return volume
    return day if abs(event["open"] / event["expected"] - 1) <= 0.025 else gap


def test_adjusted_returns_on_all_93_ex_dates_are_the_markets_or_named(events):
    """Ex-dates are lively: of all days of these shares 75 % are within 2 % of the market, of ex-dates a third."""
    far = events.filter(pl.col("relative").abs() > 0.02).sort("relative")
    found: dict[str, list[str]] = {why: [] for why in BEYOND_2_PCT}
    for event in far.iter_rows(named=True):
        found[seen(event)].append(f"{event['symbol']} {event['day']} {event['relative'] * 100:.1f}")
    assert found == BEYOND_2_PCT
    size = events["relative"].abs()
    assert [(size <= limit).sum() for limit in (0.02, 0.05, 0.10)] == [32, 64, 85]


def test_on_every_ex_date_the_whole_day_lies_in_the_band_around_the_adjusted_close(events):
    """No share may trade beyond 20 % of its base price, which the exchange adjusts as the factor says."""
    assert (events["high"] <= events["expected"] * 1.2005).all()
    assert (events["low"] >= events["expected"] * 0.7995).all()
    unadjusted = events.filter(pl.col("factor") < 0.8)
    assert len(unadjusted) == 86
    assert (unadjusted["low"] < unadjusted["previous"] * 0.8).all()


def test_adjusted_returns_agree_with_another_source_on_ex_dates(events):
    yahoo = file_bars("nifty50_daily_yahoo_adjusted_2018_2022.parquet", "yahoo").sort("symbol", "start")
    returns = yahoo.with_columns(told=pl.col("close") / pl.col("close").shift(1).over("symbol") - 1)
    beside = events.join(returns.select("symbol", "start", "told"), on=["symbol", "start"])
    assert len(beside) == 9
    assert (beside["move"] - beside["told"]).abs().max() < 0.0005
