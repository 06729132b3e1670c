"""Each row of a quote history is what a quote showed as its bar ended: of recorded shares that split, changed names and
have bars of several lengths, of the simulated market, and of stores made at random."""

import io
from datetime import date, timedelta
from decimal import Decimal

import httpx
import numpy as np
import polars as pl
import pytest
from data_market import at, at_s, daily, filled_store, five_minutes, frame, session, short_calendar
from test_as_of_property import FIRST, LAST, NAMES, World
from test_data_api import problem

from contracts.market import QUOTE_HISTORY_ARROW, Interval, Quote, QuoteHistoryHead
from data_service import quote_history_routes
from data_service.actions import parse_symbol_changes
from data_service.bars import Bars, day_number
from data_service.config import Settings
from data_service.instruments import load_reference
from data_service.main import create_app
from data_service.providers.recorded import RecordedMarket, RecordedView
from data_service.providers.simulated import SimulatedMarket
from data_service.quote_history import COLUMNS, closes_before, quote_columns, quote_history_arrow
from data_service.quotes import HALF_SPREAD_BP
from data_service.sessions import EPOCH, Sessions, ist_instant
from data_service.store.schemas import INSTRUMENT_SCHEMA
from data_service.store.stores import Stores
from data_service.ticks import tick_paise, ticks_paise
from data_service.views import MarketView

CALENDAR = short_calendar()
MONDAY, TUESDAY, WEDNESDAY, THURSDAY = (date(2024, 3, 18) + timedelta(days=place) for place in range(4))
NOW = at("2024-03-22 08:00")
RENAME = parse_symbol_changes("Company,OLD,NEW,20-Mar-2024\n", "nse")
KNOWN = {"lot_size": 25, "freeze_quantity": 1800, "has_derivatives": False, "band_pct": 5, "source": "nse"}


def rows_of(view: MarketView, symbol: str, interval: Interval, as_of_s: int) -> pl.DataFrame:
    bars = view.bars(symbol, interval, date(2018, 1, 1), date(2030, 1, 1), as_of_s)
    if not isinstance(bars, Bars):
        return pl.DataFrame(schema=dict.fromkeys(COLUMNS, pl.Int64))
    return pl.DataFrame(quote_columns(bars, view.session_facts(symbol, np.unique(bars.day), as_of_s)))


def paise(rupees: Decimal) -> int:
    return int(rupees * 100)


def shown(row: dict, half_spread_bp: Decimal) -> dict:
    """What the quote says at the end of the row's bar, by the row alone."""
    last, tick = row["close"], row["tick"]
    half = max(tick, round(last * half_spread_bp / 10_000 / tick) * tick)
    return {
        "previous_close": row["previous_close"],
        "lower_band": row["lower_band"],
        "upper_band": row["upper_band"],
        "last": last,
        "bid": max(min(last, row["lower_band"]), last - half, tick),
        "ask": min(max(last, row["upper_band"]), last + half),
    }


def assert_told_as_quoted(row: dict, quote: Quote) -> bool:
    """Whether the quote's bar was the row's own, and all of it could be compared."""
    said = {name: paise(getattr(quote, name)) for name in shown(row, HALF_SPREAD_BP)}
    told = shown(row, HALF_SPREAD_BP)
    of_session = ("previous_close", "lower_band", "upper_band")
    assert {name: told[name] for name in of_session} == {name: said[name] for name in of_session}
    own = (quote.bar_start.timestamp(), quote.bar_end.timestamp()) == (row["start"], row["end"])
    if own:
        assert told == said
        prices = {name: paise(getattr(quote, f"bar_{name}")) for name in ("open", "high", "low", "close")}
        assert prices == {name: row[name] for name in prices}
        assert quote.bar_volume == row["volume"]
    return own


@pytest.fixture
def stores(tmp_path) -> Stores:
    """OLD is NEW from Wednesday on and splits 1:5 on Thursday; it has official days and five-minute bars."""
    rows = {
        Interval.DAY_1: [
            daily("OLD", MONDAY, 400_000),
            daily("OLD", TUESDAY, 402_000),
            daily("NEW", WEDNESDAY, 404_500),
            daily("SMALL", TUESDAY, 20_000),
            daily("SMALL", WEDNESDAY, 20_100),
        ],
        Interval.MIN_5: five_minutes("OLD", TUESDAY, [401_000, 401_500])
        + five_minutes("NEW", WEDNESDAY, [403_000, 404_000, 404_600])
        + five_minutes("NEW", THURSDAY, [81_000, 81_500]),
    }
    stores = filled_store(Settings(data_dir=tmp_path, environment="paper").recorded_dir, rows, [("NEW", THURSDAY, 0.2)])
    stores.facts.upsert_actions(RENAME)
    known = [
        {"symbol": "NEW", "known_on": WEDNESDAY, **KNOWN},
        {"symbol": "NEW", "known_on": THURSDAY, **KNOWN, "lot_size": 50},
    ]
    stores.facts.upsert_instruments(pl.DataFrame(known, schema=INSTRUMENT_SCHEMA))
    return stores


@pytest.fixture
def view(stores: Stores) -> RecordedView:
    return RecordedMarket(stores, CALENDAR, load_reference()).view()


def test_what_is_known_before_each_session_stands_in_its_rows(view):
    rows = rows_of(view, "NEW", Interval.MIN_5, at_s("2024-03-22 08:00"))
    assert rows["previous_close"].to_list() == [400_000] * 2 + [402_000] * 3 + [80_900] * 2
    assert rows["lower_band"].to_list()[2:] == [381_900] * 3 + [76_855] * 2
    assert rows["upper_band"].to_list()[2:] == [422_100] * 3 + [84_945] * 2
    assert rows["lot"].to_list() == [1, 1, 25, 25, 25, 50, 50]
    assert rows["freeze_quantity"].to_list() == [100_000] * 2 + [1800] * 5
    assert rows["close"].to_list() == [401_000, 401_500, 403_000, 404_000, 404_600, 81_000, 81_500]
    assert set(rows["tick"]) == {5}


def test_every_row_is_the_quote_of_its_instant_under_its_name_of_then(view):
    compared = 0
    for interval in (Interval.MIN_5, Interval.MIN_15, Interval.DAY_1):
        for row in rows_of(view, "NEW", interval, at_s("2024-03-22 08:00")).iter_rows(named=True):
            then = "OLD" if ist_instant(row["end"]).date() < WEDNESDAY else "NEW"
            compared += assert_told_as_quoted(row, view.quote(then, row["end"]))
    assert compared == 7


def test_a_share_without_intraday_bars_is_quoted_by_its_days(view):
    (row,) = rows_of(view, "SMALL", Interval.DAY_1, at_s("2024-03-22 08:00")).to_dicts()
    assert assert_told_as_quoted(row, view.quote("SMALL", row["end"]))
    assert (row["previous_close"], row["lower_band"], row["upper_band"]) == (20_000, 16_000, 24_000)


def test_a_later_import_changes_no_earlier_row(stores, view):
    before = rows_of(view, "NEW", Interval.MIN_5, at_s("2024-03-22 08:00"))
    stores.bars.upsert(Interval.MIN_5, frame(five_minutes("NEW", THURSDAY + timedelta(days=1), [90_000])))
    stores.bars.upsert(Interval.DAY_1, frame([daily("NEW", THURSDAY + timedelta(days=1), 90_000)]))
    later = RecordedMarket(stores, CALENDAR, load_reference()).view()
    for as_of in ("2024-03-22 08:00", "2024-03-23 08:00"):
        assert rows_of(later, "NEW", Interval.MIN_5, at_s(as_of)).head(len(before)).equals(before)


@pytest.mark.parametrize("seed", range(25))
def test_rows_of_random_stores_are_quotes(seed):
    """Splits and names known late, sessions and lengths missing: what was not known then is in no row."""
    world = World(seed)
    as_of_s = at_s("2027-02-01 00:00")
    today = ist_instant(as_of_s).date()
    compared = 0
    for symbol in NAMES:
        for interval in (Interval.MIN_1, Interval.MIN_15, Interval.DAY_1):
            bars = world.view.bars(symbol, interval, FIRST, LAST, as_of_s)
            if not isinstance(bars, Bars):
                continue
            facts = world.view.session_facts(symbol, np.unique(bars.day), as_of_s)
            rows = pl.DataFrame(quote_columns(bars, facts))
            unknown = set(facts.day[facts.previous_close == 0].tolist())
            spans = world.view._names(symbol, today)
            for day in unknown:
                then = next(s.name for s in spans if day_number(s.first) <= day <= day_number(s.last))
                end = int(bars.end[bars.day == day][-1])
                assert not isinstance(world.view.quote(then, end), Quote)
            for row in rows[:: max(len(rows) // 40, 1)].iter_rows(named=True):
                day = ist_instant(row["start"]).date()
                then = next(span.name for span in spans if span.first <= day <= span.last)
                quote = world.view.quote(then, row["end"])
                assert isinstance(quote, Quote)
                assert_told_as_quoted(row, quote)
                terms = world.view._master.at(then, row["previous_close"], day)
                assert (row["lot"], row["has_derivatives"]) == (terms.lot_size, terms.has_derivatives)
                compared += 1
    assert compared > 20


@pytest.mark.parametrize("seed", range(10))
def test_rows_as_of_an_instant_know_nothing_later(seed):
    world = World(seed)
    for symbol in ("CAS", "OLD", "PLAIN", "NEW"):
        for interval in (Interval.MIN_5, Interval.DAY_1):
            one, other = (rows_of(view, symbol, interval, world.cut_s) for view in (world.view, world.twin))
            assert one.equals(other)


def test_rows_of_the_simulated_market_are_quotes(simulated: SimulatedMarket, calendar: Sessions):
    as_of_s = calendar.all[-1].close_other_s + 3600
    rng = np.random.default_rng(1)
    compared = 0
    for symbol in ("RELIANCE", "TCS", *list(simulated._universe.symbols)[-2:]):
        for interval in (Interval.MIN_1, Interval.MIN_15, Interval.DAY_1):
            rows = rows_of(simulated, symbol, interval, as_of_s)
            assert rows.height
            for place in rng.integers(0, rows.height, 6).tolist():
                row = rows.row(place, named=True)
                quote = simulated.quote(symbol, row["end"])
                assert isinstance(quote, Quote)
                compared += assert_told_as_quoted(row, quote)
                assert paise(quote.last) == row["close"]
    assert compared == 4 * 6


def test_ticks_follow_each_days_table():
    days = np.array([day_number(day) for day in (date(2024, 6, 9), date(2024, 6, 10), date(2025, 4, 15))] * 2)
    price = np.array([20_000] * 3 + [30_000] * 3)
    singly = [int(tick_paise(price[n : n + 1], EPOCH + timedelta(days=int(days[n])))[0]) for n in range(6)]
    assert ticks_paise(price, days).tolist() == singly == [5, 1, 1, 5, 5, 5]


def test_the_close_before_is_the_newest_and_of_one_day_the_official_one(view):
    days = np.array([day_number(MONDAY), day_number(WEDNESDAY), day_number(THURSDAY) + 30])
    tables = [
        view.bars("OLD", interval, MONDAY, TUESDAY, at_s("2024-03-19 23:00"))
        for interval in (Interval.DAY_1, Interval.MIN_5)
    ]
    closed_on, close = closes_before([bars for bars in tables if isinstance(bars, Bars)], days)
    assert closed_on.tolist() == [-1, day_number(TUESDAY), day_number(TUESDAY)]
    assert close.tolist() == [0, 402_000, 402_000]
    assert closes_before([], days)[0].tolist() == [-1, -1, -1]


@pytest.fixture
async def client(stores: Stores, tmp_path):
    app = create_app(Settings(data_dir=tmp_path, environment="paper"), lambda: NOW, sessions=CALENDAR)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://data") as http:
        yield http


ASKED = {"symbols": ["NEW", "NONE"], "interval": "5m", "from": "2024-03-19", "through": "2024-03-21"}


async def test_the_route_tells_the_rows_and_what_is_missing(client, view):
    response = await client.post("/v1/quotes/history", json=ASKED | {"as_of": "2024-03-21T09:20:00+05:30"})
    assert response.headers["content-type"] == QUOTE_HISTORY_ARROW
    size = int.from_bytes(response.content[:4], "big")
    head = QuoteHistoryHead.model_validate_json(response.content[4 : 4 + size])
    table = pl.read_ipc_stream(io.BytesIO(response.content[4 + size :]))
    assert (head.half_spread_bp, head.provider, set(head.missing)) == (HALF_SPREAD_BP, "recorded", {"NONE"})
    assert table["symbol"].unique().to_list() == ["NEW"]
    expected = rows_of(view, "NEW", Interval.MIN_5, at_s("2024-03-21 09:20"))
    assert table.drop("symbol").equals(expected)
    assert table["start"].max() == session(THURSDAY).open_s


async def test_the_future_is_refused_and_so_is_too_much(client, monkeypatch):
    problem(
        await client.post("/v1/quotes/history", json=ASKED | {"as_of": "2024-04-21T09:20:00+05:30"}),
        422,
        "as_of_in_future",
    )
    monkeypatch.setattr(quote_history_routes, "ROWS_PER_REQUEST_MAX", 2 * 3 * 75 - 1)
    asked = ASKED | {"as_of": "2024-03-21T16:00:00+05:30"}
    problem(await client.post("/v1/quotes/history", json=asked), 422, "too_many_bars")
    monkeypatch.setattr(quote_history_routes, "ROWS_PER_REQUEST_MAX", 2 * 3 * 75)
    assert (await client.post("/v1/quotes/history", json=asked)).is_success


def test_an_answer_without_a_share_is_an_empty_table_of_the_same_columns(view):
    bars = view.bars("NEW", Interval.MIN_5, MONDAY, THURSDAY, at_s("2024-03-22 08:00"))
    columns = quote_columns(bars, view.session_facts("NEW", np.unique(bars.day), at_s("2024-03-22 08:00")))
    head = QuoteHistoryHead(environment="paper", as_of=NOW, provider="recorded", interval="5m", half_spread_bp="1.25")
    schemas = []
    for shares in ({}, {"NEW": columns}):
        content = quote_history_arrow(head, shares)
        schemas.append(pl.read_ipc_stream(io.BytesIO(content[4 + int.from_bytes(content[:4], "big") :])).schema)
    assert schemas[0] == schemas[1]


def test_a_name_that_became_known_late_is_not_known_before(stores):
    stores.facts.upsert_actions(RENAME.with_columns(known_on=pl.lit(THURSDAY)))
    told = stores.facts.actions().filter(pl.col("kind") == "rename")
    assert told["known_on"].to_list() == [THURSDAY]
    view = RecordedMarket(stores, CALENDAR, load_reference()).view()
    assert not isinstance(view.quote("NEW", at_s("2024-03-20 09:25")), Quote)
    rows = rows_of(view, "NEW", Interval.MIN_5, at_s("2024-03-22 08:00"))
    days = [ist_instant(start).date() for start in rows["start"]]
    assert days == [TUESDAY] * 2 + [THURSDAY] * 2
    assert rows["previous_close"].to_list() == [400_000] * 2 + [80_900] * 2


def test_the_close_before_a_years_first_session_is_of_the_year_before(tmp_path):
    rows = [daily("TCS", date(2022, 12, 28), 9_000), daily("TCS", date(2024, 1, 1), 10_000)]
    view = RecordedMarket(filled_store(tmp_path, {Interval.DAY_1: rows}), CALENDAR, load_reference()).view()
    day = np.array([day_number(date(2024, 1, 1))])
    assert view.session_facts("TCS", day, at_s("2024-02-01 00:00")).previous_close.tolist() == [9_000]
