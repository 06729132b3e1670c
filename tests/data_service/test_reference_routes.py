"""Actions, universes, findings and figures over HTTP, and the service as a whole while its providers die."""

import gzip
import json
import time
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import date, timedelta

import httpx
import polars as pl
import pytest
from data_market import at, at_s, daily, filled_store, frame
from live_world import chart, path

from contracts.market import Interval
from data_service.config import Settings
from data_service.ingest import Gate
from data_service.main import create_app
from data_service.sessions import load_sessions
from data_service.store.schemas import ACTION_SCHEMA
from tests.support.upstream_server import Reply, UpstreamServer, as_json

NOW = at("2026-11-18 11:00:30")
TUESDAY = date(2026, 11, 17)
SESSIONS = load_sessions()
WAIT_S = 10


@asynccontextmanager
async def serving(folder, **given):
    """The whole service with its jobs; yields a client of it."""
    settings = Settings(data_dir=folder, environment="paper", **given)
    app = create_app(settings, lambda: NOW)
    transport = httpx.ASGITransport(app=app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://data") as http:
        yield http


def folder_of(data_dir):
    return Settings(data_dir=data_dir).recorded_dir


@pytest.fixture
def stored(tmp_path):
    before = TUESDAY - timedelta(days=1)
    rows = {
        Interval.DAY_1: [daily("ACME", before, 9_900), daily("ACME", TUESDAY, 10_000), daily("BETA", TUESDAY, 90_000)]
    }
    return filled_store(folder_of(tmp_path), rows)


def kite_says(last: float):
    quote = {"last_price": last, "timestamp": "2026-11-18 11:00:29", "ohlc": {"close": 100.0}, "depth": {}}
    return {"/quote": as_json({"status": "success", "data": {"NSE:ACME": quote}})}


async def quote_of(client, symbol: str = "ACME") -> tuple[str, str] | None:
    reply = (await client.post("/v1/quotes", json={"symbols": [symbol]})).json()
    found = reply["quotes"].get(symbol)
    return (found["source"], found["last"]) if found else None


async def until(client, source: str) -> tuple[str, str]:
    """Ask until the answer comes from `source`."""
    give_up = time.monotonic() + WAIT_S
    while (found := await quote_of(client)) is None or found[0] != source:
        assert time.monotonic() < give_up, found
    return found


async def test_quotes_come_from_upstox(tmp_path, stored):
    share = {"segment": "NSE_EQ", "instrument_type": "EQ", "instrument_key": "NSE_EQ|1", "isin": "INE000A01011"}
    file = gzip.compress(json.dumps([share | {"trading_symbol": "ACME"}]).encode())
    quote = {"instrument_token": "NSE_EQ|1", "last_price": 102.0, "timestamp": "2026-11-18T11:00:29+05:30"}
    said = {
        "/NSE.json.gz": Reply(file),
        "/v2/market-quote/quotes": as_json({"status": "success", "data": {"A": quote}}),
    }
    async with UpstreamServer(said) as upstox:
        urls = {"upstox_url": upstox.url, "upstox_files_url": upstox.url}
        async with serving(tmp_path, market_providers="upstox", upstox_access_token="token", **urls) as client:
            assert await quote_of(client) == ("upstox", "102.0")


@pytest.mark.parametrize("provider", ["kite", "upstox"])
def test_a_broker_needs_its_token(provider):
    with pytest.raises(ValueError, match=f"{provider.upper()}_ACCESS_TOKEN"):
        Settings(market_providers=provider, kite_api_key="key", kite_access_token="", upstox_access_token="")


async def test_quotes_come_from_the_first_that_lives_then_the_next_then_what_is_recorded(tmp_path, stored):
    async with AsyncExitStack() as stack:
        kite = await stack.enter_async_context(UpstreamServer(kite_says(102.0)))
        yahoo = await stack.enter_async_context(UpstreamServer({path("ACME"): chart("ACME", 103.0, NOW.timestamp())}))
        client = await stack.enter_async_context(
            serving(
                tmp_path,
                market_providers="kite,yahoo",
                kite_api_key="key",
                kite_access_token="token",
                kite_url=kite.url,
                kite_ticker_url="ws://127.0.0.1:9",
                yahoo_url=yahoo.url,
                quote_refresh_s=0.01,
                quote_age_s_max=1,
            )
        )
        assert await quote_of(client) == ("kite", "102.0")
        await kite.stop()
        assert (await until(client, "yahoo"))[1] == "103.0"
        give_up, opened = time.monotonic() + WAIT_S, 'breaker_state{kind="quotes",provider="kite",state="open"} 1.0'
        while opened not in (await client.get("/metrics")).text:
            await quote_of(client)
            assert time.monotonic() < give_up
        await yahoo.stop()
        assert (await until(client, "recorded"))[1] == "100.00"
        figures = (await client.get("/metrics")).text
        assert 'breaker_state{kind="quotes",provider="yahoo",state="closed"} 1.0' not in figures
        await yahoo.start()
        past = (
            await client.post("/v1/quotes", json={"symbols": ["ACME"], "as_of": "2026-11-17T16:00:00+05:30"})
        ).json()
        assert past["quotes"]["ACME"]["source"] == "recorded"


async def test_with_redis_down_the_answers_are_the_same(tmp_path, stored):
    answers = []
    async with UpstreamServer({path("ACME"): chart("ACME", 103.0, NOW.timestamp())}) as yahoo:
        for redis_url in ("", "redis://127.0.0.1:9"):
            given = {"market_providers": "yahoo", "yahoo_url": yahoo.url, "redis_url": redis_url}
            async with serving(tmp_path, **given) as client:
                reply = await client.post("/v1/quotes", json={"symbols": ["ACME", "BETA", "NONE"]})
                answers.append(reply.json())
    assert answers[0] == answers[1]
    assert answers[0]["quotes"]["ACME"]["source"] == "yahoo"
    assert answers[0]["missing"].keys() == {"BETA", "NONE"}


async def test_a_quote_says_why_it_is_missing_from_every_source(tmp_path, stored):
    async with UpstreamServer() as yahoo, serving(tmp_path, market_providers="yahoo", yahoo_url=yahoo.url) as client:
        reply = (await client.post("/v1/quotes", json={"symbols": ["NONE"]})).json()
    assert reply["missing"]["NONE"].startswith("yahoo: ")
    assert "no bar of it that had ended is stored" in reply["missing"]["NONE"]


def actions(*rows: tuple[str, date, date, str]) -> pl.DataFrame:
    told = [
        {"symbol": symbol, "ex_date": ex_date, "known_on": known_on, "kind": kind, "subject": kind, "source": "nse"}
        for symbol, ex_date, known_on, kind in rows
    ]
    return pl.DataFrame(told, schema=ACTION_SCHEMA)


async def test_actions_are_those_known_in_the_days_asked_for(tmp_path, stored):
    day, week = timedelta(days=1), timedelta(days=7)
    stored.facts.upsert_actions(
        actions(
            ("BETA", TUESDAY, TUESDAY, "dividend"),
            ("ACME", TUESDAY, TUESDAY, "rights"),
            ("ACME", TUESDAY + week, TUESDAY, "demerger"),
            ("ACME", TUESDAY + week, TUESDAY + 2 * day, "other"),
        )
    )
    async with serving(tmp_path) as client:

        async def asked(**query) -> list[tuple[str, str]]:
            span = {"from": "2026-11-01", "through": "2026-12-01"}
            reply = (await client.get("/v1/actions", params=span | query)).json()
            return [(found["symbol"], found["kind"]) for found in reply["actions"]]

        assert await asked() == [("ACME", "rights"), ("BETA", "dividend"), ("ACME", "demerger")]
        assert await asked(through=str(TUESDAY)) == [("ACME", "rights"), ("BETA", "dividend")]
        assert await asked(as_of="2026-11-16T23:59:59+05:30") == []
        bad = await client.get("/v1/actions", params={"from": "2026-11-02", "through": "2026-11-01"})
        assert (bad.status_code, bad.json()["code"]) == (422, "validation_failed")
        ahead = {"from": "2026-11-02", "through": "2026-11-03", "as_of": "2026-11-19T00:00:00+05:30"}
        assert (await client.get("/v1/actions", params=ahead)).json()["code"] == "as_of_in_future"


async def test_universes(tmp_path):
    """By turnover of the trailing sessions at the instant asked about, whatever trades more later."""
    days = [of.day for of in SESSIONS.all if date(2026, 6, 1) <= of.day <= TUESDAY]
    rows = [daily("LARGE", day, 90_000) for day in days] + [daily("SMALL", day, 100) for day in days]
    rows += [daily("RISING", day, 500 if day < days[-20] else 9_000_000) for day in days]
    filled_store(folder_of(tmp_path), {Interval.DAY_1: rows})
    async with serving(tmp_path) as client:

        async def members(**query) -> list[str]:
            return (await client.get("/v1/universe", params=query)).json()["members"]

        assert await members() == ["RELIANCE", "TCS", "INFY", "HDFCBANK", "ICICIBANK"]
        before = f"{days[-25]}T18:00:00+05:30"
        assert await members(name="top", n=2, as_of=before) == ["LARGE", "RISING"]
        assert (await members(name="top", n=1))[0] == "RISING"
        assert len(await members(name="nifty50")) == 50
        unknown = await client.get("/v1/universe", params={"name": "nifty50", "as_of": "1995-01-01T00:00:00+05:30"})
        assert (unknown.status_code, unknown.json()["code"]) == (422, "universe_unknown")
        assert (await client.get("/v1/universe", params={"name": "nope"})).status_code == 422


@pytest.fixture
def found(stored):
    """Seven bad bars of two shares, found one second after the other."""
    gate = Gate(stored, SESSIONS, {})
    for number in range(7):
        symbol = ("ACME", "BETA")[number % 2]
        low = 5 if number < 5 else -1
        bad = frame([(symbol, at_s(f"2026-10-{12 + number // 2} 09:15"), 100, 90, low, 100, number)])
        gate.ingest(Interval.DAY_1, bad, at_s("2026-11-17 20:00") + number)
    return stored


async def test_findings_are_paged_newest_first_and_new_ones_shift_no_page(tmp_path, found):
    async with serving(tmp_path) as client:
        seen, cursor = [], None
        for page in range(4):
            query = {"limit": 3} | ({"cursor": cursor} if cursor else {})
            reply = (await client.get("/v1/quality", params=query)).json()
            seen += [(item["symbol"], item["found_at"]) for item in reply["findings"]]
            cursor = reply["next_cursor"]
            if page == 0:
                late = frame([("GAMA", at_s("2026-10-12 09:15"), 1, 0, 0, 0, 5)])
                Gate(found, SESSIONS, {}).ingest(Interval.DAY_1, late, at_s("2026-11-18 09:00"))
            if cursor is None:
                break
        everything = (await client.get("/v1/quality")).json()
    assert len(seen) == 7 == len(set(seen))
    assert [at for _, at in seen] == sorted((at for _, at in seen), reverse=True)
    assert everything["findings"][0]["symbol"] == "GAMA"
    assert everything["counts"] == {"ohlc_inconsistent": 5, "non_positive": 3}


async def test_findings_by_share_and_reason(tmp_path, found):
    async with serving(tmp_path) as client:

        async def asked(**query) -> tuple[set[str], dict[str, int]]:
            reply = (await client.get("/v1/quality", params=query)).json()
            return {item["symbol"] for item in reply["findings"]}, reply["counts"]

        assert await asked(symbol="BETA") == ({"BETA"}, {"ohlc_inconsistent": 2, "non_positive": 1})
        assert await asked(reason="non_positive", symbol="ACME") == ({"ACME"}, {"non_positive": 1})
        assert await asked(symbol="NONE") == (set(), {})
        for bad in ({"cursor": "-1"}, {"limit": 0}, {"limit": 1001}, {"symbol": "a b"}):
            assert (await client.get("/v1/quality", params=bad)).status_code == 422
        assert (await client.get("/v1/quality", params={"cursor": "999999999", "limit": 1})).json()["findings"]


async def test_refused_quotes_are_among_the_findings(tmp_path, stored):
    old = {path("ACME"): chart("ACME", 103.0, NOW.timestamp() - 3600)}
    async with UpstreamServer(old) as yahoo, serving(tmp_path, market_providers="yahoo", yahoo_url=yahoo.url) as client:
        assert await quote_of(client) == ("recorded", "100.00")
        reply = (await client.get("/v1/quality")).json()
        figures = (await client.get("/metrics")).text
    item = reply["findings"][0]
    assert (item["symbol"], item["interval"], item["source"], item["reason"]) == ("ACME", None, "yahoo", "stale")
    assert (item["start"], item["quarantined"]) == ("2026-11-18T10:00:30+05:30", True)
    assert 'sauda_data_quotes_rejected_total{provider="yahoo",reason="stale"}' in figures
