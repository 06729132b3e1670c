"""Instruments as dated facts, and shares that change their names, as of every day."""

from datetime import date, timedelta
from decimal import Decimal

import polars as pl
import pytest
from data_market import at_s, daily, filled_store, five_minutes

from contracts.market import Interval, Quote
from data_service.adjust import adjusted
from data_service.bars import Bars
from data_service.instruments import InstrumentMaster
from data_service.providers.recorded import RecordedMarket, RecordedView
from data_service.sessions import load_sessions
from data_service.store.facts import Facts
from data_service.store.schemas import ACTION_SCHEMA, INSTRUMENT_SCHEMA
from data_service.views import Missing

SESSIONS = load_sessions()
MONDAY, TUESDAY, WEDNESDAY, THURSDAY = (date(2024, 3, 18) + timedelta(days=number) for number in range(4))


def said(symbol: str, known_on: date, source: str = "kite", **fields) -> dict:
    return {"symbol": symbol, "known_on": known_on, "source": source, **fields}


def facts_of(*rows: dict) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=INSTRUMENT_SCHEMA)


def action(symbol: str, ex_date: date, kind: str, known_on: date | None = None, **fields) -> dict:
    base = {"symbol": symbol, "ex_date": ex_date, "known_on": known_on or ex_date, "kind": kind, "source": "nse"}
    return {**base, "subject": f"{kind} of {symbol}", **fields}


def test_each_property_is_the_newest_word_of_its_day():
    master = InstrumentMaster(
        facts_of(
            said("ACME", MONDAY, name="Acme", tick_paise=5, has_derivatives=False, band_pct=5),
            said("ACME", WEDNESDAY, name="Acme Ltd", tick_paise=10, lot_size=2),
        ),
        {},
    )
    monday, wednesday = (master.at("ACME", 10_000, day) for day in (MONDAY, WEDNESDAY))
    assert (monday.name, monday.tick_size_rupees, monday.band_pct, monday.lot_size) == ("Acme", Decimal("0.05"), 5, 1)
    assert (wednesday.name, wednesday.tick_size_rupees, wednesday.band_pct) == ("Acme Ltd", Decimal("0.10"), 5)
    before = master.at("ACME", 10_000, MONDAY - timedelta(days=1))
    assert (before.name, before.band_pct) == ("ACME", 20)


def test_a_tick_that_nobody_repeated_for_a_month_is_the_tables_again():
    master = InstrumentMaster(facts_of(said("ACME", MONDAY, tick_paise=50)), {})
    ticks = [master.at("ACME", 10_000, MONDAY + timedelta(days=days)).tick_size_rupees for days in (0, 31, 32)]
    assert ticks == [Decimal("0.50"), Decimal("0.50"), Decimal("0.05")]


def test_a_reference_tells_whether_its_tick_was_told_and_what_the_days_split_does(tmp_path):
    bars = {Interval.DAY_1: [daily("ACME", MONDAY, 50_000)]}
    stores = filled_store(tmp_path, bars, [("ACME", TUESDAY, 0.2)])
    stores.facts.upsert_instruments(facts_of(said("ACME", WEDNESDAY, tick_paise=1)))
    market = RecordedMarket(stores, SESSIONS, {})
    found = [market.view().reference("ACME", day, at_s(f"{day} 09:00")) for day in (TUESDAY, WEDNESDAY)]
    assert [(of.previous_close, of.factor, of.tick_said, of.tick) for of in found] == [
        (10_000, 0.2, False, 5),
        (10_000, 1.0, True, 1),
    ]


def test_a_source_that_says_the_same_every_day_is_relied_on_and_takes_little_room(tmp_path):
    facts = Facts(tmp_path)
    days = [MONDAY + timedelta(days=number) for number in range(120)]
    for day in days:
        facts.upsert_instruments(facts_of(said("ACME", day, tick_paise=50), said("BETA", day, lot_size=3)))
    master = InstrumentMaster(facts.instruments(), {})
    assert {master.at("ACME", 10_000, day).tick_size_rupees for day in days} == {Decimal("0.50")}
    assert len(facts.instruments()) < 2 * len(days) / 10


def test_only_news_is_kept_and_a_change_back_is_news(tmp_path):
    facts = Facts(tmp_path)
    words = [("A", MONDAY), ("A", TUESDAY), ("B", WEDNESDAY), ("A", THURSDAY)]
    counts = [facts.upsert_instruments(facts_of(said("ACME", day, name=name))) for name, day in words]
    assert [(count.new, count.unchanged) for count in counts] == [(1, 0), (0, 1), (1, 0), (1, 0)]
    assert facts.upsert_instruments(facts_of(said("ACME", THURSDAY, name="A"))).unchanged == 1
    master = InstrumentMaster(facts.instruments(), {})
    assert [master.at("ACME", 1, day).name for _, day in words] == ["A", "A", "B", "A"]


def test_several_days_at_once_are_each_judged_by_what_was_said_before_them(tmp_path):
    facts = Facts(tmp_path)
    facts.upsert_instruments(facts_of(said("ACME", MONDAY, name="A"), said("ACME", WEDNESDAY, name="B")))
    facts.upsert_instruments(facts_of(said("ACME", TUESDAY, name="B"), said("ACME", THURSDAY, name="B")))
    master = InstrumentMaster(facts.instruments(), {})
    assert [master.at("ACME", 1, day).name for day in (MONDAY, TUESDAY, WEDNESDAY, THURSDAY)] == ["A", "B", "B", "B"]


@pytest.fixture
def renamed(tmp_path) -> RecordedView:
    """OLD, which splits two for one on Tuesday, is NEW from Wednesday on; the feed tells of the split as NEW's."""
    rows = {
        Interval.DAY_1: [daily("OLD", MONDAY, 40_000), daily("OLD", TUESDAY, 20_000), daily("OTHER", MONDAY, 100)],
        Interval.MIN_5: five_minutes("NEW", WEDNESDAY, [20_500, 20_600]),
    }
    stores = filled_store(tmp_path, rows)
    told = [
        action("OLD", WEDNESDAY, "rename", new_symbol="NEW"),
        action("NEW", TUESDAY, "split", shares_before=1, shares_after=2),
        action("OLD", MONDAY, "rights", subject="Rights 1:5"),
    ]
    stores.facts.upsert_actions(pl.DataFrame(told, schema=ACTION_SCHEMA))
    return RecordedMarket(stores, SESSIONS, {}).view()


def names(view: RecordedView, text: str) -> list[str]:
    return [instrument.symbol for instrument in view.instruments(at_s(text))]


def test_a_share_is_listed_under_the_name_of_the_day(renamed):
    assert names(renamed, "2024-03-19 16:00") == ["OLD", "OTHER"]
    assert names(renamed, "2024-03-20 09:00") == ["NEW", "OTHER"]
    assert names(renamed, "2024-03-20 16:00") == ["NEW", "OTHER"]


def test_on_its_first_day_a_new_name_has_the_old_ones_previous_close(renamed):
    before = renamed.quote("NEW", at_s("2024-03-20 09:10"))
    assert isinstance(before, Quote)
    assert (before.last, before.previous_close) == (Decimal(200), Decimal(200))
    quote = renamed.quote("NEW", at_s("2024-03-20 09:20"))
    assert isinstance(quote, Quote)
    assert (quote.last, quote.previous_close) == (Decimal(205), Decimal(200))
    assert renamed.reference("NEW", WEDNESDAY, at_s("2024-03-20 09:20")).previous_close == 20_000
    assert isinstance(renamed.quote("NEW", at_s("2024-03-19 16:00")), Missing)


def test_a_previous_close_under_the_old_name_is_on_the_days_scale(renamed):
    quote = renamed.quote("OLD", at_s("2024-03-19 16:00"))
    assert isinstance(quote, Quote)
    assert (quote.last, quote.previous_close) == (Decimal(200), Decimal(200))


@pytest.mark.parametrize(("symbol", "text"), [("OLD", "2024-03-19 16:00"), ("NEW", "2024-03-20 09:20")])
def test_actions_told_under_any_name_count_under_the_name_of_the_day(renamed, symbol, text):
    day = date.fromisoformat(text[:10])
    bars = renamed.bars(symbol, Interval.DAY_1, MONDAY, THURSDAY, at_s(text))
    assert isinstance(bars, Bars)
    assert (adjusted(bars, renamed.factors(symbol, day), day).close // 10**4).tolist() == [20_000, 20_000]
    told = {(found.symbol, found.kind) for found in renamed.actions(MONDAY, TUESDAY, day)}
    assert told == {(symbol, "split"), (symbol, "rights")}


def test_a_name_that_is_used_again_brings_nothing_of_the_share_that_had_it_before(tmp_path):
    rows = {
        Interval.DAY_1: [daily("SAME", MONDAY, 40_000), daily("SAME", WEDNESDAY, 900), daily("SAME", THURSDAY, 905)]
    }
    stores = filled_store(tmp_path, rows)
    told = [
        action("SAME", TUESDAY, "rename", new_symbol="GONE"),
        action("BETA", WEDNESDAY, "rename", new_symbol="SAME"),
    ]
    stores.facts.upsert_actions(pl.DataFrame(told, schema=ACTION_SCHEMA))
    view = RecordedMarket(stores, SESSIONS, {}).view()
    assert isinstance(view.quote("SAME", at_s("2024-03-20 16:00")), Missing)
    quote = view.quote("SAME", at_s("2024-03-21 16:00"))
    assert isinstance(quote, Quote)
    assert (quote.last, quote.previous_close) == (Decimal("9.05"), Decimal("9.00"))


def test_a_name_that_is_given_to_another_share_later_brings_nothing_of_that_share_before(tmp_path):
    stores = filled_store(tmp_path, {Interval.DAY_1: [daily("SAME", MONDAY, 40_000), daily("SAME", TUESDAY, 40_000)]})
    told = [
        action("SAME", WEDNESDAY, "rename", new_symbol="GONE"),
        action("BETA", THURSDAY, "rename", new_symbol="SAME"),
        action("BETA", TUESDAY, "split", shares_before=1, shares_after=2),
    ]
    stores.facts.upsert_actions(pl.DataFrame(told, schema=ACTION_SCHEMA))
    view = RecordedMarket(stores, SESSIONS, {}).view()
    assert view.factors("SAME", TUESDAY).factor.tolist() == []
    assert view.factors("SAME", THURSDAY).factor.tolist() == [0.5]


def test_a_name_that_is_not_given_yet_has_no_part_in_what_was_before(tmp_path):
    stores = filled_store(tmp_path, {Interval.DAY_1: [daily("FRESH", MONDAY, 40_000)]})
    told = [
        action("BETA", THURSDAY, "rename", new_symbol="FRESH"),
        action("BETA", TUESDAY, "split", shares_before=1, shares_after=2),
    ]
    stores.facts.upsert_actions(pl.DataFrame(told, schema=ACTION_SCHEMA))
    view = RecordedMarket(stores, SESSIONS, {}).view()
    assert view.factors("FRESH", WEDNESDAY).factor.tolist() == []
    assert view.factors("FRESH", THURSDAY).factor.tolist() == [0.5]


def test_a_quote_is_made_of_the_bars_that_reach_furthest(tmp_path):
    minute = ("TCS", at_s("2024-03-20 09:20"), 500, 510, 490, 505, 7)
    fives = five_minutes("TCS", WEDNESDAY, [400, 401, 402])
    rows = {Interval.DAY_1: [daily("TCS", TUESDAY, 400)], Interval.MIN_1: [minute], Interval.MIN_5: fives}
    view = RecordedMarket(filled_store(tmp_path, rows), SESSIONS, {}).view()

    def last(text: str) -> Decimal:
        quote = view.quote("TCS", at_s(text))
        assert isinstance(quote, Quote)
        return quote.last

    assert [last(f"2024-03-20 09:{minute}") for minute in (20, 21, 25, 30)] == [
        Decimal("4.00"), Decimal("5.05"), Decimal("4.01"), Decimal("4.02")
    ]  # fmt: skip


def test_a_share_of_which_only_coarse_bars_are_stored_has_a_quote(tmp_path):
    hour = ("TCS", at_s("2024-03-20 09:15"), 500, 510, 490, 505, 7)
    rows = {Interval.DAY_1: [daily("TCS", TUESDAY, 400)], Interval.HOUR_1: [hour]}
    quote = RecordedMarket(filled_store(tmp_path, rows), SESSIONS, {}).view().quote("TCS", at_s("2024-03-20 10:15"))
    assert isinstance(quote, Quote)
    assert (quote.last, quote.previous_close) == (Decimal("5.05"), Decimal("4.00"))
