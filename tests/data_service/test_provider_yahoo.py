"""Yahoo's chart API, served by a real server; its split-adjusted floats become unadjusted paise."""

import asyncio
import json
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from provider_world import http_client, needs_shared_data, shared

from contracts.market import Interval
from data_service.checks import QuoteContext, check_quote
from data_service.providers.base import IncompleteError, ProviderError, RateLimitedError, UnsupportedError
from data_service.providers.candles import Candle, Split, bars_of
from data_service.providers.http import parsed_json
from data_service.providers.yahoo import REQUESTS_AT_ONCE_MAX, Yahoo
from data_service.sessions import IST, ist_date, ist_instant, load_sessions
from data_service.store.schemas import BAR_SCHEMA
from tests.support.upstream_server import HTML, Reply, UpstreamServer, as_json

SESSIONS = load_sessions()
DAY = Interval.DAY_1
CHARTS = "/v8/finance/chart/"


def at_s(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=IST).timestamp())


NOW_S = at_s("2026-11-20 20:00")


@pytest_asyncio.fixture
async def server():
    async with UpstreamServer() as upstream:
        yield upstream


@pytest_asyncio.fixture
async def yahoo(server):
    async with http_client() as http:
        yield Yahoo(http, SESSIONS, lambda: NOW_S, base_url=server.url)


def chart(name: str, candles: list[tuple], splits: list[tuple[str, float, float]] = (), **meta) -> Reply:
    """Candles are (IST start, open, high, low, close, volume); splits (IST day, numerator, denominator)."""
    columns = dict(
        zip(("open", "high", "low", "close", "volume"), zip(*(row[1:] for row in candles), strict=True), strict=True)
    )
    result = {
        "meta": {"symbol": name, "currency": "INR", **meta},
        "timestamp": [at_s(row[0]) for row in candles],
        "indicators": {"quote": [columns], "adjclose": [{"adjclose": columns.get("close")}]},
    }
    if splits:
        events = [{"date": at_s(f"{day} 09:15"), "numerator": up, "denominator": down} for day, up, down in splits]
        result["events"] = {"splits": {str(event["date"]): event for event in events}}
    return as_json({"chart": {"result": [result], "error": None}})


def wholes(bars: pl.DataFrame) -> list[tuple]:
    """(day, open, high, low, close, volume) of each bar."""
    return [(str(ist_date(ist_instant(row[1]))), *row[2:7]) for row in bars.rows()]


async def test_prices_are_put_back_on_the_scale_they_traded_at(yahoo, server):
    candles = [
        ("2024-10-25 09:15", 133.28, 134.1, 131.5, 132.755, 1000),
        ("2024-10-28 09:15", 134.0, 135.0, 133.0, 134.5, 2000),
        ("2024-10-29 09:15", 134.0, 135.0, 133.0, 134.5, 2000),
        ("2025-03-03 09:15", 13.4, 13.5, 13.3, 13.45, 20_000),
    ]
    splits = [("2024-10-28", 2, 1), ("2025-02-03", 10.0, 1.0)]
    server.replies = {CHARTS + "ACME.NS": chart("ACME.NS", candles, splits)}
    bars = await yahoo.bars(["ACME"], DAY, date(2024, 10, 25), date(2024, 10, 28))
    assert bars.schema == BAR_SCHEMA
    assert wholes(bars) == [
        ("2024-10-25", 266560, 268200, 263000, 265510, 50),
        ("2024-10-28", 134000, 135000, 133000, 134500, 200),
    ]
    later = await yahoo.bars(["ACME"], DAY, date(2025, 3, 1), date(2025, 3, 31))
    assert wholes(later) == [("2025-03-03", 1340, 1350, 1330, 1345, 20_000)]
    query = server.asked[0].query
    assert (query["interval"], query["events"]) == ("1d", "div,split")
    assert int(query["period1"]) == at_s("2024-10-25 00:00")
    assert int(query["period2"]) == at_s("2026-11-21 00:00"), "a reply that ends earlier would not name later splits"


@settings(max_examples=300, deadline=None)
@given(
    st.integers(5, 5_000_000),
    st.sampled_from([(2, 1), (10, 1), (3, 2), (5, 4), (1, 10), (7, 5)]),
    st.integers(0, 10**8),
)
def test_undoing_a_split_gives_the_paise_that_were_traded(paise, ratio, volume):
    scale = Fraction(*ratio)
    adjusted = float(np.float32(paise / 100 / float(scale)))
    said = parsed_json(json.dumps([adjusted, round(volume * float(scale))]).encode(), "here")
    candle = Candle(at_s("2024-10-25 09:15"), (said[0],) * 4, said[1])
    splits = [Split(date(2024, 10, 28), scale)]
    days = {"from_": date(2024, 10, 1), "through": date(2024, 10, 31)}
    bars = bars_of([candle], "ACME", DAY, "yahoo", SESSIONS, now_s=NOW_S, splits=splits, **days)
    assert bars.row(0)[2:6] == (paise,) * 4
    assert abs(bars.row(0)[6] - volume) <= (1 + 1 / scale) / 2, "no finer than whole shares on either scale"


async def test_unfinished_and_empty_candles_are_no_bars(server):
    candles = [
        ("2026-11-18 09:15", 10.0, 11.0, 9.0, 10.5, 5),
        ("2026-11-19 09:15", None, None, None, None, None),
        ("2026-11-20 09:15", 10.0, 11.0, 9.0, 10.5, 7),
        ("2026-11-20 14:59", 10.0, 12.0, 9.0, 11.5, 9),
    ]
    server.replies = {CHARTS + "ACME.NS": chart("ACME.NS", candles)}
    async with http_client() as http:
        through = date(2026, 11, 20)
        during = Yahoo(http, SESSIONS, lambda: at_s("2026-11-20 15:34"), base_url=server.url)
        assert [row[0] for row in wholes(await during.bars(["ACME"], DAY, date(2026, 11, 18), through))] == [
            "2026-11-18"
        ]
        after = Yahoo(http, SESSIONS, lambda: at_s("2026-11-20 15:36"), base_url=server.url)
        bars = await after.bars(["ACME"], DAY, date(2026, 11, 18), through)
        assert wholes(bars)[-1] == ("2026-11-20", 1000, 1200, 900, 1150, 9)
        assert bars.height == 2


async def test_intraday_bars_end_before_now_and_reach_back_as_far_as_there_are_any(server):
    candles = [(f"2026-11-20 10:0{minute}", 10.0, 10.0, 10.0, 10.0, 1) for minute in range(3)]
    server.replies = {CHARTS + "ACME.NS": chart("ACME.NS", candles)}
    async with http_client() as http:
        yahoo = Yahoo(http, SESSIONS, lambda: at_s("2026-11-20 10:02") + 30, base_url=server.url)
        bars = await yahoo.bars(["ACME"], Interval.MIN_1, date(2026, 1, 1), date(2026, 11, 20))
        assert bars["start"].to_list() == [at_s("2026-11-20 10:00"), at_s("2026-11-20 10:01")]
        assert int(server.asked[0].query["period1"]) == at_s("2026-11-14 00:00")
        assert (await yahoo.bars(["ACME"], Interval.MIN_1, date(2026, 1, 1), date(2026, 11, 13))).is_empty()
        assert (await yahoo.bars(["ACME"], DAY, date(2026, 11, 21), date(2026, 11, 30))).is_empty()
        assert len(server.asked) == 1
        with pytest.raises(UnsupportedError):
            await yahoo.bars(["ACME"], Interval.MIN_3, date(2026, 11, 20), date(2026, 11, 20))


async def test_symbols_are_named_its_way(yahoo, server):
    bar = [("2026-11-18 09:15", 10.0, 11.0, 9.0, 10.5, 5)]
    names = {"M&M": "M&M.NS", "BAJAJ-AUTO": "BAJAJ-AUTO.NS", "500325": "500325.BO"}
    server.replies = {CHARTS + name: chart(name, bar) for name in names.values()}
    bars = await yahoo.bars(list(names), DAY, date(2026, 11, 18), date(2026, 11, 18))
    assert set(bars["symbol"]) == set(names)
    assert sorted(server.paths()) == sorted(server.replies)


@needs_shared_data
async def test_the_original_meta_block_is_a_quote(yahoo, server):
    original = shared("yahoo_samples/BEL.NS_chart_meta_2026-04-10.json")
    server.replies = {CHARTS + "BEL.NS": Reply(original)}
    quote = (await yahoo.quotes(["BEL"]))["BEL"]
    assert (quote.symbol, quote.source, quote.as_of_s) == ("BEL", "yahoo", 1775815200)
    assert (quote.last, quote.high, quote.low) == (Decimal("442.3"), Decimal("447.45"), Decimal("440.45"))
    assert (quote.previous_close, quote.volume) == (Decimal("439.75"), 10833065)
    assert (quote.bid, quote.ask, quote.open, quote.upper_band) == (None, None, None, None)


async def test_a_quotes_open_is_of_its_own_day(yahoo, server):
    meta = {"regularMarketPrice": 10.5, "regularMarketTime": at_s("2026-11-20 15:29"), "chartPreviousClose": 10}
    row = ("2026-11-20 09:15", 10.25, 11.0, 9.0, 10.5, 5)
    server.replies = {CHARTS + "ACME.NS": chart("ACME.NS", [row], **meta)}
    quote = (await yahoo.quotes(["ACME"]))["ACME"]
    assert (quote.open, quote.previous_close) == (Decimal("10.25"), Decimal(10))
    server.replies = {CHARTS + "ACME.NS": chart("ACME.NS", [("2026-11-19 09:15", *row[1:])], **meta)}
    assert (await yahoo.quotes(["ACME"]))["ACME"].open is None


async def test_a_candle_in_32_bit_floats_is_a_quote_in_paise(yahoo, server):
    instant = at_s("2026-11-20 15:29")
    meta = {"regularMarketPrice": 442.3, "regularMarketTime": instant, "previousClose": 439.75}
    meta |= {"regularMarketDayHigh": 447.45, "regularMarketDayLow": 440.45}
    row = ("2026-11-20 09:15", *(float(np.float32(price)) for price in (443.4, 447.45, 440.45, 442.3)), 5)
    server.replies = {CHARTS + "ACME.NS": chart("ACME.NS", [row], **meta)}
    quote = (await yahoo.quotes(["ACME"]))["ACME"]
    assert quote.open == Decimal("443.40")
    context = QuoteContext(now_s=instant + 1, age_s_max=60, session_running=True, previous_close=Decimal("439.75"))
    assert check_quote(quote, context) is None


async def test_unknown_symbols_are_absent(yahoo, server):
    unknown = {"chart": {"result": None, "error": {"code": "Not Found", "description": "No data found"}}}
    server.replies = {CHARTS + "GONE.NS": as_json(unknown, 404), CHARTS + "YOUNG.NS": as_json(unknown, 400)}
    assert await yahoo.quotes(["GONE", "YOUNG"]) == {}
    assert (await yahoo.bars(["GONE"], DAY, date(2026, 11, 18), date(2026, 11, 18))).is_empty()


async def test_one_bad_symbol_keeps_the_others(yahoo, server):
    row = ("2026-11-18 09:15", 10.25, 11.0, 9.0, 10.5, 5)
    meta = {"regularMarketPrice": 10.5, "regularMarketTime": at_s("2026-11-20 15:29")}
    server.replies = {CHARTS + "ACME.NS": chart("ACME.NS", [row], **meta), CHARTS + "BAD.NS": HTML}
    with pytest.raises(IncompleteError, match="not JSON") as caught:
        await yahoo.quotes(["BAD", "ACME"])
    assert list(caught.value.got) == ["ACME"]
    with pytest.raises(IncompleteError) as caught:
        await yahoo.bars(["BAD", "ACME"], DAY, date(2026, 11, 18), date(2026, 11, 18))
    assert caught.value.got["symbol"].to_list() == ["ACME"]


async def test_requests_are_bounded_and_end_at_a_limit(yahoo, server):
    symbols = [f"S{number}" for number in range(40)]
    row = ("2026-11-18 09:15", 10.25, 11.0, 9.0, 10.5, 5)
    server.replies = {f"{CHARTS}{symbol}.NS": chart(f"{symbol}.NS", [row]) for symbol in symbols}
    at_once = await asyncio.gather(yahoo.quotes(symbols), yahoo.quotes(symbols[:20]))
    assert [len(quotes) for quotes in at_once] == [40, 20]
    assert 1 < server.at_once_peak <= REQUESTS_AT_ONCE_MAX
    server.asked.clear()
    server.everywhere = Reply(status=429, headers={"retry-after": "90"})
    with pytest.raises(RateLimitedError) as caught:
        await yahoo.quotes(symbols)
    assert caught.value.retry_after_s == 90
    assert len(server.asked) <= REQUESTS_AT_ONCE_MAX


GOOD_ROW = ("2026-11-18 09:15", 10.25, 11.0, 9.0, 10.5, 5)


def damaged(**changes) -> Reply:
    """A good chart with parts of its result replaced."""
    whole = json.loads(chart("ACME.NS", [GOOD_ROW]).body)
    whole["chart"]["result"][0].update(changes)
    return as_json(whole)


@pytest.mark.parametrize(
    "reply",
    [
        HTML,
        as_json([]),
        as_json({"chart": None}),
        as_json({"chart": {"result": [{}]}}),
        chart("OTHER.NS", [GOOD_ROW]),
        damaged(timestamp=[1, 2]),
        damaged(timestamp=["soon"]),
        damaged(timestamp=[10**30]),
        damaged(indicators={}),
        damaged(indicators={"quote": [{"open": [1]}]}),
        damaged(events={"splits": {"1": {"date": 1, "numerator": 2, "denominator": 0}}}),
        damaged(events={"splits": {"1": {"date": 1, "numerator": 2}}}),
        chart("ACME.NS", [("2026-11-18 09:15", "10", 11.0, 9.0, 10.5, 5)]),
        chart("ACME.NS", [("2026-11-18 09:15", True, 11.0, 9.0, 10.5, 5)]),
        Reply(chart("ACME.NS", [GOOD_ROW]).body.replace(b"10.25", b"1e400")),
        Reply(chart("ACME.NS", [GOOD_ROW]).body.replace(b"10.25", b"NaN")),
        chart("ACME.NS", [("2026-11-18 09:15", 10.0, 11.0, 9.0, 10.5, -5)]),
        chart("ACME.NS", [("2026-11-18 09:15", 10.0, 11.0, 9.0, 10.5, 1e300)]),
    ],
)
async def test_garbage_is_refused(yahoo, server, reply):
    server.everywhere = reply
    with pytest.raises(ProviderError):
        await yahoo.bars(["ACME"], DAY, date(2026, 11, 18), date(2026, 11, 18))


async def test_a_quotes_garbage_is_refused(yahoo, server):
    for meta in ({"regularMarketPrice": "10"}, {"regularMarketTime": "now"}, {"regularMarketVolume": 1.5}):
        server.everywhere = chart("ACME.NS", [GOOD_ROW], **meta)
        with pytest.raises(ProviderError):
            await yahoo.quotes(["ACME"])
