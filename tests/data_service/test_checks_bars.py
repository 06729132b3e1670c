"""The quality gate on bars: each defect is found by its own rule, and clean series pass untouched."""

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.market import Interval
from data_service.checks import BarContext, BarLimits, CheckedBars, check_bars
from data_service.sessions import Session, Sessions, ist_midnight_s
from data_service.store.schemas import ACTION_SCHEMA, BAR_SCHEMA, QUARANTINE_SCHEMA

LATER_S = ist_midnight_s(date(2030, 1, 1))
MINUTE_S = 60


def session(day: date, open_: int = 555, close_cas: int = 930, close_other: int = 930) -> Session:
    """A session by minutes after midnight."""
    times = (ist_midnight_s(day) + minutes * MINUTE_S for minutes in (open_, close_cas, close_other))
    return Session(day, *times)


WEEKDAYS = [day for number in range(42) if (day := date(2026, 7, 6) + timedelta(days=number)).weekday() < 5]
CALENDAR = Sessions(
    [session(day) if day < date(2026, 8, 3) else session(day, close_cas=915) for day in WEEKDAYS]
    + [session(date(2026, 8, 16), 1095, 1155, 1155)]
)
DAYS = [found.day for found in CALENDAR.all]
CONTEXT = BarContext(CALENDAR, LATER_S, derivatives=frozenset({"CAS"}))


def bar(symbol: str, start_s: int, close: int, **fields: Any) -> dict[str, Any]:
    values = {
        "open": close - 3,
        "high": close + 10,
        "low": close - 10,
        "close": close,
        "volume": 1000,
        "source": "file",
    }
    return {"symbol": symbol, "start": start_s, **values, **fields}


def daily(symbol: str, place: int, close: int, **fields: Any) -> dict[str, Any]:
    return bar(symbol, CALENDAR.all[place].open_s, close, **fields)


def series(symbol: str = "AAA", count: int = 10, **changes: dict[str, Any]) -> list[dict[str, Any]]:
    """Daily bars around 1,000 rupees; `changes` replaces fields of the bar with that number: b3={...}."""
    rows = [daily(symbol, place, 100_000 + 37 * place, volume=1000 + place) for place in range(count)]
    for name, fields in changes.items():
        rows[int(name[1:])] |= fields
    return rows


def frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=BAR_SCHEMA)


def check(
    rows: list[dict[str, Any]], interval: Interval = Interval.DAY_1, context: BarContext = CONTEXT
) -> CheckedBars:
    checked = check_bars(frame(rows), interval, context)
    assert checked.good.schema == BAR_SCHEMA
    assert checked.findings.schema == QUARANTINE_SCHEMA
    assert set(checked.findings["found_at"]) <= {context.now_s}
    kept_out = checked.findings.filter(pl.col("quarantined")).select(list(BAR_SCHEMA))
    assert checked.good.join(kept_out, on=list(BAR_SCHEMA), nulls_equal=True).is_empty()
    return checked


def found(checked: CheckedBars) -> list[tuple[str, bool]]:
    return checked.findings.select("reason", "quarantined").rows()


def at_place(checked: CheckedBars, reason: str) -> list[int]:
    opens = {session.open_s: place for place, session in enumerate(CALENDAR.all)}
    return [opens[start] for start in checked.findings.filter(pl.col("reason") == reason)["start"]]


def actions(*rows: dict[str, Any]) -> pl.DataFrame:
    base = {"symbol": "AAA", "source": "nse", "subject": "x"}
    return pl.DataFrame([base | row | {"known_on": row["ex_date"]} for row in rows], schema=ACTION_SCHEMA)


def test_a_clean_series_passes_whole_and_in_order():
    rows = series("BBB") + series("AAA")
    checked = check(rows)
    assert found(checked) == []
    assert checked.good.equals(frame(series("AAA") + series("BBB")))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"close": None}, "missing_value"),
        ({"volume": None}, "missing_value"),
        ({"low": 0}, "non_positive"),
        ({"open": -5}, "non_positive"),
        ({"volume": -1}, "negative_volume"),
        ({"volume": 10**14}, "too_large"),
        ({"open": 2 * 10**10, "high": 2 * 10**10}, "too_large"),
        ({"high": 99_000}, "ohlc_inconsistent"),
        ({"low": 100_200}, "ohlc_inconsistent"),
        ({"open": 100_500}, "ohlc_inconsistent"),
        ({"low": 1_000}, "hundredfold"),
        ({"high": 10_000_000}, "hundredfold"),
        ({"open": 100_111, "high": 100_111, "low": 100_111, "close": 100_111, "volume": 0}, "phantom_flat"),
        ({"start": CALENDAR.all[3].open_s + 60}, "off_grid"),
        ({"start": ist_midnight_s(date(2026, 7, 11)) + 555 * 60}, "closed_day"),
        ({"start": ist_midnight_s(date(2027, 7, 14)) + 555 * 60}, "closed_day"),
    ],
)
def test_a_bar_that_cannot_be_is_kept_out_with_its_values(fields, reason):
    checked = check(series(b3=fields))
    kept_out = checked.findings.filter(pl.col("quarantined"))
    assert kept_out["reason"].to_list() == [reason]
    assert kept_out["interval"].to_list() == ["1d"]
    expected = series(b3=fields)[3]
    assert kept_out.select(list(BAR_SCHEMA)).row(0, named=True) == expected
    assert len(checked.good) == 9


def test_before_the_calendar_weekdays_are_taken_and_weekends_are_not():
    friday, saturday = (ist_midnight_s(date(2016, 9, day)) + 555 * 60 for day in (30, 24))
    checked = check([bar("AAA", saturday, 100_000), bar("AAA", friday, 100_000)])
    assert found(checked) == [("closed_day", True)]
    assert checked.good["start"].to_list() == [friday]


def test_a_bar_that_had_not_ended_is_not_a_bar_yet():
    official_s = CALENDAR.all[9].official_close_s(False)
    assert found(check(series(), context=replace(CONTEXT, now_s=official_s))) == []
    assert found(check(series(), context=replace(CONTEXT, now_s=official_s - 1))) == [("unfinished", True)]
    cas = WEEKDAYS.index(date(2026, 8, 4))
    rows = [daily("CAS", cas, 100_000)]
    ended_s = CALENDAR.all[cas].close_other_s
    assert found(check(rows, context=replace(CONTEXT, now_s=ended_s))) == [("unfinished", True)]
    assert found(check(rows, context=replace(CONTEXT, now_s=ended_s + 300))) == []


def minutes(symbol: str, place: int, offsets: list[int], **fields: Any) -> list[dict[str, Any]]:
    start = CALENDAR.all[place].open_s
    return [bar(symbol, start + offset * 60, 100_000 + offset, volume=10 + offset, **fields) for offset in offsets]


@pytest.mark.parametrize(
    ("symbol", "day", "offset", "reason"),
    [
        ("CAS", date(2026, 7, 31), 370, None),
        ("CAS", date(2026, 8, 3), 355, None),
        ("CAS", date(2026, 8, 3), 360, "outside_session"),
        ("OTHER", date(2026, 8, 3), 370, None),
        ("OTHER", date(2026, 8, 3), 375, "outside_session"),
        ("OTHER", date(2026, 8, 3), -5, "outside_session"),
        ("OTHER", date(2026, 8, 3), 7, "off_grid"),
        ("OTHER", date(2026, 8, 16), 55, None),
        ("OTHER", date(2026, 8, 16), 60, "outside_session"),
        ("OTHER", date(2026, 8, 15), 0, "closed_day"),
    ],
)
def test_intraday_bars_lie_within_their_shares_session_and_on_its_grid(symbol, day, offset, reason):
    open_s = next((known.open_s for known in CALENDAR.all if known.day == day), ist_midnight_s(day) + 555 * 60)
    checked = check([bar(symbol, open_s + offset * 60, 100_000)], Interval.MIN_5)
    assert found(checked) == ([(reason, True)] if reason else [])


def test_hourly_bars_are_counted_from_the_open():
    assert found(check(minutes("AAA", 0, [0, 60, 360]), Interval.HOUR_1)) == []
    assert found(check(minutes("AAA", 0, [45]), Interval.HOUR_1)) == [("off_grid", True)]


def test_an_intraday_bar_ends_with_its_session():
    last = minutes("AAA", 0, [360])
    close_s = CALENDAR.all[0].close_other_s
    assert found(check(last, Interval.HOUR_1, replace(CONTEXT, now_s=close_s))) == []
    assert found(check(last, Interval.HOUR_1, replace(CONTEXT, now_s=close_s - 1))) == [("unfinished", True)]


def test_repeats_collapse_conflicts_are_kept_out_and_disorder_is_told():
    rows = series()
    checked = check([*rows, rows[4]])
    assert found(checked) == []
    assert len(checked.good) == 10
    conflict = rows[4] | {"close": rows[4]["close"] + 1}
    checked = check([*rows, conflict])
    assert sorted(found(checked)) == 2 * [("conflicting_duplicate", True)] + [("out_of_order", False)]
    assert len(checked.good) == 9
    other_source = rows[4] | {"source": "kite"}
    assert found(check([*rows, other_source])) == []
    swapped = [*rows[:4], rows[5], rows[4], *rows[6:]]
    checked = check(swapped)
    assert found(checked) == [("out_of_order", False)]
    assert checked.good.equals(frame(rows))


def times_100(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] * 100 for name in ("open", "high", "low", "close")}


@pytest.mark.parametrize("wrong", [[0], [4], [4, 5], [8, 9], [0, 1, 2], [2, 5, 9]])
@pytest.mark.parametrize("stored", [True, False])
def test_paise_among_rupees_are_kept_out_however_many(wrong, stored):
    rows = series()
    spoilt = series(**{f"b{place}": times_100(rows[place]) for place in wrong})
    context = replace(CONTEXT, last_close={"AAA": (date(2026, 7, 3), 100_100)} if stored else {})
    checked = check(spoilt, context=context)
    assert at_place(checked, "hundredfold") == wrong
    assert set(found(checked)) == {("hundredfold", True)}
    assert len(checked.good) == 10 - len(wrong)


def test_a_whole_file_in_paise_is_caught_by_what_is_stored():
    rows = [row | times_100(row) for row in series()]
    assert found(check(rows)) == []
    stored = replace(CONTEXT, last_close={"AAA": (date(2026, 7, 3), 100_100)})
    assert found(check(rows, context=stored)) == 10 * [("hundredfold", True)]
    later = replace(CONTEXT, last_close={"AAA": (date(2026, 8, 10), 100_100)})
    assert found(check(rows, context=later)) == []


def test_a_hundredfold_beside_another_source_is_kept_out():
    rows = [row | times_100(row) for row in series()]
    context = replace(CONTEXT, others=frame([row | {"source": "nse"} for row in series()]))
    assert found(check(rows, context=context)) == 10 * [("hundredfold", True)]


def scaled(row: dict[str, Any], times: float) -> dict[str, Any]:
    return {name: round(row[name] * times) for name in ("open", "high", "low", "close")}


def moved(first: int, times: float, last: int = 9) -> list[dict[str, Any]]:
    rows = series()
    return [row | scaled(row, times) if first <= place <= last else row for place, row in enumerate(rows)]


@pytest.mark.parametrize("times", [0.5, 0.7, 1.3, 3.0])
def test_a_lasting_move_beyond_any_band_is_served_and_flagged(times):
    checked = check(moved(5, times))
    assert found(checked) == [("outlier", False)]
    assert at_place(checked, "outlier") == [5]


def test_usual_moves_and_moves_of_the_whole_market_are_no_outliers():
    assert found(check(moved(5, 1.2))) == []
    crash = [row | {"symbol": f"S{number}"} for number in range(6) for row in moved(5, 0.7)]
    assert found(check(crash)) == []
    alone = crash + [row | {"symbol": "ALONE"} for row in series()]
    assert found(check(alone)) == [("outlier", False)]


@pytest.mark.parametrize(("times", "kept_out"), [(0.6, True), (1.6, True), (1.4, False)])
def test_a_spike_that_is_gone_the_next_day_is_kept_out(times, kept_out):
    checked = check(moved(5, times, last=5))
    assert checked.findings.filter(pl.col("quarantined"))["reason"].to_list() == (["outlier"] if kept_out else [])
    if kept_out:
        assert found(checked) == [("outlier", True)]


def test_another_source_confirms_contradicts_or_outranks():
    spoilt = moved(5, 1.6, last=5)

    def judged(other: list[dict[str, Any]], source: str) -> list[tuple[str, bool]]:
        others = frame([row | {"source": source} for row in other])
        return found(check(spoilt, context=replace(CONTEXT, others=others)))

    assert judged(spoilt, "yahoo") == []
    assert judged(series(), "yahoo") == [("outlier", True)]
    assert judged(series(), "nse") == [("outlier", True)]

    others = frame([row | {"source": "yahoo"} for row in series()])
    lasting = check(moved(9, 1.3), context=replace(CONTEXT, others=others))
    assert found(lasting) == [("outlier", True)]

    mild = moved(5, 1.1, last=5)
    others = {source: frame([row | {"source": source} for row in series()]) for source in ("yahoo", "kite", "nse")}
    verdicts = {source: found(check(mild, context=replace(CONTEXT, others=rows))) for source, rows in others.items()}
    assert verdicts == {
        "yahoo": [("source_disagreement", False)],
        "kite": [("source_disagreement", False)],
        "nse": [("source_disagreement", True)],
    }
    assert found(check(mild, context=replace(CONTEXT, others=frame(series())))) == []


def test_a_split_on_its_day_is_no_outlier_and_one_without_effect_is_flagged():
    split = {"ex_date": DAYS[5], "kind": "split", "shares_before": 1, "shares_after": 2}
    context = replace(CONTEXT, actions=actions(split))
    assert found(check(moved(5, 0.5), context=context)) == []
    unmoved = check(series(), context=context)
    assert found(unmoved) == [("action_unconfirmed", False)]
    assert at_place(unmoved, "action_unconfirmed") == [5]
    assert len(unmoved.good) == 10
    small = actions(split | {"shares_before": 10, "shares_after": 11})
    assert found(check(series(), context=replace(CONTEXT, actions=small))) == []


def test_a_split_between_two_bars_counts_on_the_first_bar_after_it():
    split = {"ex_date": DAYS[5], "kind": "split", "shares_before": 1, "shares_after": 2}
    rows = [row for place, row in enumerate(moved(5, 0.5)) if place not in (4, 5)]
    assert found(check(rows, context=replace(CONTEXT, actions=actions(split)))) == [("missing_session", False)]
    stored = {"AAA": (DAYS[4], 100_000)}
    after = moved(5, 0.5)[6:]
    context = replace(CONTEXT, actions=actions(split), last_close=stored)
    assert found(check(after, context=context)) == [("missing_session", False)]
    known_before = replace(context, last_close={"AAA": (DAYS[5], 50_000)})
    assert found(check(after, context=known_before)) == []


def test_a_large_dividend_is_no_outlier():
    rows = moved(5, 0.7)
    dividend = {"ex_date": DAYS[5], "kind": "dividend", "amount_paise": 30_000}
    assert found(check(rows, context=replace(CONTEXT, actions=actions(dividend)))) == []


@pytest.mark.parametrize("kind", ["demerger", "merger", "rights", "capital_reduction"])
def test_what_no_factor_can_undo_is_flagged_and_left_as_it_is(kind):
    rows = moved(5, 0.6)
    context = replace(CONTEXT, actions=actions({"ex_date": DAYS[5], "kind": kind}))
    checked = check(rows, context=context)
    assert found(checked) == [("unadjusted_action", False)]
    assert kind in checked.findings["detail"][0]
    assert checked.good.equals(frame(rows))
    assert found(check(series(), context=context)) == []


def test_frozen_feeds_are_found_and_quiet_shares_served():
    stale = series(b3={}, **{f"b{place}": {} for place in (4, 5, 6, 7)})
    for place in range(3, 8):
        stale[place] |= {name: stale[3][name] for name in ("open", "high", "low", "close", "volume")}
    checked = check(stale)
    assert [row for row in found(checked) if row[1]] == 4 * [("frozen", True)]
    assert len(checked.good) == 6
    quiet = [row | {"volume": row["volume"] + place} for place, row in enumerate(stale)]
    checked = check(quiet)
    assert found(checked) == [("frozen", False)]
    assert len(checked.good) == 10
    shorter = [*stale[:7], *series()[7:]]
    assert found(check(shorter)) == []


def test_missing_sessions_are_told_once_per_gap():
    rows = [row for place, row in enumerate(series()) if place not in (2, 5, 6)]
    checked = check(rows + series("BBB"))
    assert found(checked) == 2 * [("missing_session", False)]
    assert at_place(checked, "missing_session") == [2, 5]
    assert checked.findings["symbol"].to_list() == ["AAA", "AAA"]
    assert checked.findings["close"].to_list() == [None, None]
    assert f"2 sessions from {DAYS[5]} through {DAYS[6]}" in checked.findings["detail"][1]
    late = replace(CONTEXT, last_close={"AAA": (DAYS[0], 100_000)})
    assert at_place(check(series()[3:], context=late), "missing_session") == [1]


def test_volumes_that_are_missing_are_flagged():
    assert found(check(series(b3={"volume": 0}))) == [("zero_volume", False)]
    opening = minutes("AAA", 0, [0, 5, 10])
    opening[0]["volume"] = 0
    assert found(check(opening, Interval.MIN_5)) == [("opening_volume_missing", False)]
    silent = [row | {"volume": 0} for row in opening]
    assert found(check(silent, Interval.MIN_5)) == []


def test_limits_are_settings():
    strict = replace(CONTEXT, limits=BarLimits(outlier_move_max=0.1))
    assert found(check(moved(5, 1.2), context=strict)) == [("outlier", False)]


CELLS = st.one_of(st.none(), st.integers(-5, 5), st.integers(1, 10**12))


@given(
    st.lists(
        st.fixed_dictionaries(
            dict.fromkeys(("open", "high", "low", "close", "volume"), CELLS)
            | {"symbol": st.sampled_from(["AAA", "CAS"]), "source": st.sampled_from(["nse", "yahoo", "new"])}
            | {"start": st.sampled_from([session.open_s for session in CALENDAR.all]) | st.integers(0, 2**34)}
        ),
        max_size=12,
    ),
    st.sampled_from([Interval.DAY_1, Interval.MIN_5]),
)
def test_whatever_comes_is_sorted_into_good_and_found_without_loss(rows, interval):
    checked = check(rows, interval)
    given_rows = frame(rows).unique()
    kept_out = checked.findings.filter(pl.col("quarantined")).select(list(BAR_SCHEMA))
    assert len(checked.good) + len(kept_out) == len(given_rows)
    good = checked.good
    ordered = (good["low"] <= good["close"]) & (good["close"] <= good["high"]) & (good["low"] > 0)
    assert ordered.all()
    assert good["volume"].is_between(0, 10**13).all()
    assert not good.select("symbol", "source", "start").is_duplicated().any()
