"""The fallback chain over real providers and real servers that fail in every way there is."""

import asyncio
import time
from contextlib import AsyncExitStack
from datetime import date, datetime
from decimal import Decimal

import polars as pl
import pytest
import pytest_asyncio
from provider_world import http_client, zipped

from contracts.market import Interval
from data_service.breaker import BreakerLimits, Breakers, State
from data_service.chain import Chain, NoAnswerError, orders, runs, without
from data_service.metrics import Metrics
from data_service.providers.base import Kind, RawQuote
from data_service.providers.nse import Nse, archive_files
from data_service.providers.yahoo import Yahoo
from data_service.sessions import IST, load_sessions
from tests.support.upstream_server import CUT, HALF_OPEN, HANG, HTML, Reply, UpstreamServer, as_json, bomb

SESSIONS = load_sessions()
MONDAY, TUESDAY, WEDNESDAY = date(2026, 11, 16), date(2026, 11, 17), date(2026, 11, 18)
LIMITS = BreakerLimits(failures_in_row_max=2, open_s=10)


def at_s(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=IST).timestamp())


NOW_S = at_s("2026-11-20 20:00")


def chart(symbol: str, days: list[date], last: float = 10.5) -> Reply:
    """Yahoo's chart with a candle of 1000 shares per day."""
    result = {
        "meta": {"symbol": f"{symbol}.NS", "regularMarketPrice": last, "regularMarketTime": NOW_S - 5},
        "timestamp": [at_s(f"{day} 09:15") for day in days],
        "indicators": {"quote": [{name: [last] * len(days) for name in ("open", "high", "low", "close")}]},
    }
    result["indicators"]["quote"][0]["volume"] = [1000] * len(days)
    return as_json({"chart": {"result": [result], "error": None}})


def charts(days: list[date], *symbols: str, last: float = 10.5) -> dict[str, Reply]:
    return {f"/v8/finance/chart/{symbol}.NS": chart(symbol, days, last) for symbol in symbols}


def bhavcopy(day: date, *symbols: str) -> dict[str, Reply]:
    instrument = "TradDt,Src,FinInstrmTp,FinInstrmId,ISIN,TckrSymb,SctySrs,FinInstrmNm"
    header = f"{instrument},OpnPric,HghPric,LwPric,ClsPric,TtlTradgVol"
    lines = [f"{day},NSE,STK,1,INE000A01010,{symbol},EQ,NAME,10,10,10,10,10" for symbol in symbols]
    return {archive_files(day)[0][0]: Reply(zipped({"any.csv": "\n".join([header, *lines]).encode()}))}


class World:
    """Yahoo twice (the second under the name of the third source), NSE before them for bars; clocks under control."""

    def __init__(self, http, first: UpstreamServer, second: UpstreamServer) -> None:
        self.first, self.second = first, second
        self.monotonic_s = 0.0
        self.metrics = Metrics()
        self.breakers = Breakers(lambda: self.monotonic_s, self.metrics.breaker, LIMITS)
        primary = Yahoo(http, SESSIONS, lambda: NOW_S, base_url=first.url)
        primary.name = "upstox"
        secondary = Yahoo(http, SESSIONS, lambda: NOW_S, base_url=second.url)
        nse = Nse(http, SESSIONS, lambda: date(2026, 11, 20), archives_url=first.url, site_url=first.url)
        self.secondary = secondary
        order = orders([primary, secondary]) | {
            Kind.DAILY_BARS: [nse, secondary],
            Kind.INSTRUMENTS: [nse],
            Kind.ACTIONS: [nse],
        }
        self.chain = self.chain_of(order)

    def chain_of(self, order) -> Chain:
        clocks = {"monotonic_s": lambda: self.monotonic_s, "now_s": lambda: NOW_S}
        return Chain(order, self.breakers, self.metrics, SESSIONS, **clocks)

    async def quotes(self, *symbols: str, deadline_s: float = 5.0, accept=lambda quote: None):
        return await self.chain.quotes(symbols, deadline_s, accept)

    def text(self) -> str:
        return self.metrics.render().decode()


@pytest_asyncio.fixture
async def world():
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(http_client())
        first = await stack.enter_async_context(UpstreamServer())
        second = await stack.enter_async_context(UpstreamServer(charts([WEDNESDAY], "ACME", "BETA", "GAMA")))
        yield World(http, first, second)


def cut_zip() -> Reply:
    return Reply(zipped({"a.csv": b"x" * 9999})[:-25])


GARBAGE = {
    "html": HTML,
    "invalid json": Reply(b'{"chart": {"result": ['),
    "a cut connection": CUT,
    "a gzip bomb": bomb(17 << 20),
    "a zip": cut_zip(),
    "a 500": Reply(status=500),
    "an empty answer": Reply(b""),
}


@pytest.mark.parametrize("reply", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_from_the_first_is_made_good_by_the_second(world, reply):
    world.first.everywhere = reply
    for _ in range(2):
        answer = await world.quotes("ACME", "BETA")
        assert {quote.source for quote in answer.quotes.values()} == {"yahoo"}
        assert (answer.missing, answer.rejected) == ({}, [])
    assert world.breakers.of("upstox", Kind.QUOTES).state is State.OPEN
    assert 'sauda_data_breaker_state{kind="quotes",provider="upstox",state="open"} 1.0' in world.text()
    assert 'provider_requests_total{kind="quotes",outcome="error",provider="upstox"} 2.0' in world.text()


@pytest.mark.parametrize("reply", [HANG, HALF_OPEN], ids=["never answers", "silent in the body"])
async def test_a_silent_first_leaves_time_for_the_second(world, reply):
    world.first.everywhere = reply
    began = time.monotonic()
    for _ in range(2):
        answer = await world.quotes("ACME", deadline_s=0.6)
        assert answer.quotes["ACME"].source == "yahoo"
    assert time.monotonic() - began < 1.2, "both within their deadlines"
    assert world.breakers.of("upstox", Kind.QUOTES).state is State.OPEN
    assert 'outcome="timeout",provider="upstox"} 2.0' in world.text()
    world.first.asked.clear()
    assert (await world.quotes("ACME", deadline_s=0.6)).quotes["ACME"].source == "yahoo"
    assert world.first.asked == [], "an open breaker lets nothing through"
    assert 'outcome="refused",provider="upstox"} 1.0' in world.text()


async def test_a_dead_first_is_probed_and_used_again_once_it_is_back(world):
    await world.first.stop()
    for _ in range(2):
        assert (await world.quotes("ACME")).quotes["ACME"].source == "yahoo"
    breaker = world.breakers.of("upstox", Kind.QUOTES)
    assert breaker.state is State.OPEN

    world.monotonic_s += 10
    assert (await world.quotes("ACME")).quotes["ACME"].source == "yahoo"
    assert (breaker.state, breaker.retry_in_s) == (State.OPEN, 20), "the probe failed: twice the wait"

    await world.first.start()
    world.first.replies = charts([WEDNESDAY], "ACME")
    world.monotonic_s += 19.9
    assert (await world.quotes("ACME")).quotes["ACME"].source == "yahoo"
    world.monotonic_s += 0.1
    assert (await world.quotes("ACME")).quotes["ACME"].source == "upstox"
    assert breaker.state is State.CLOSED
    assert 'sauda_data_breaker_state{kind="quotes",provider="upstox",state="closed"} 1.0' in world.text()


async def test_a_wish_to_be_left_alone_is_heeded(world):
    world.first.everywhere = Reply(status=429, headers={"retry-after": "120"})
    assert (await world.quotes("ACME")).quotes["ACME"].source == "yahoo"
    breaker = world.breakers.of("upstox", Kind.QUOTES)
    assert (breaker.state, breaker.retry_in_s) == (State.OPEN, 120)


async def test_the_gates_refusal_asks_the_next_and_only_for_that_symbol(world):
    world.first.replies = charts([WEDNESDAY], "ACME", "BETA", last=99.0)

    def accept(quote: RawQuote) -> str | None:
        return "outside_bands" if quote.source == "upstox" and quote.symbol == "BETA" else None

    answer = await world.quotes("ACME", "BETA", "GAMA", "GONE", accept=accept)
    assert {symbol: (quote.source, quote.last) for symbol, quote in answer.quotes.items()} == {
        "ACME": ("upstox", Decimal("99.0")),
        "BETA": ("yahoo", Decimal("10.5")),
        "GAMA": ("yahoo", Decimal("10.5")),
    }
    assert [(quote.symbol, quote.last, reason) for quote, reason in answer.rejected] == [
        ("BETA", Decimal("99.0"), "outside_bands")
    ]
    assert sorted(world.second.paths()) == [f"/v8/finance/chart/{name}.NS" for name in ("BETA", "GAMA", "GONE")]
    assert set(answer.missing) == {"GONE"}
    assert "upstox: " in answer.missing["GONE"]
    assert "yahoo: " in answer.missing["GONE"]
    assert 'sauda_data_quotes_rejected_total{provider="upstox",reason="outside_bands"} 1.0' in world.text()
    assert 'sauda_data_quote_age_seconds_bucket{le="5.0",provider="yahoo"} 2.0' in world.text()


async def test_a_quote_refused_everywhere_is_missing_and_both_words_are_kept(world):
    world.first.replies = charts([WEDNESDAY], "ACME", last=99.0)
    answer = await world.quotes("ACME", accept=lambda quote: "stale")
    assert answer.quotes == {}
    assert [(quote.source, reason) for quote, reason in answer.rejected] == [("upstox", "stale"), ("yahoo", "stale")]
    assert answer.missing == {"ACME": "upstox: stale; yahoo: stale"}


async def test_a_part_of_an_answer_is_used_and_the_rest_asked_elsewhere(world):
    world.first.replies = charts([WEDNESDAY], "ACME") | {"/v8/finance/chart/BETA.NS": HTML}
    for _ in range(3):
        answer = await world.quotes("ACME", "BETA")
        assert {name: quote.source for name, quote in answer.quotes.items()} == {"ACME": "upstox", "BETA": "yahoo"}
    assert world.breakers.of("upstox", Kind.QUOTES).state is State.CLOSED, "it does answer"
    assert 'outcome="incomplete",provider="upstox"} 3.0' in world.text()


async def test_a_caller_that_leaves_is_no_failure_of_the_provider(world):
    world.first.everywhere = HANG
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.03):
                await world.quotes("ACME", deadline_s=60)
    assert world.breakers.of("upstox", Kind.QUOTES).state is State.CLOSED
    assert 'outcome="abandoned",provider="upstox"} 3.0' in world.text()


async def test_one_that_will_not_be_asked_takes_no_share_of_the_time(world):
    world.first.everywhere = HANG
    world.breakers.of("yahoo", Kind.QUOTES).limited(100)
    began = time.monotonic()
    answer = await world.quotes("ACME", deadline_s=0.2)
    assert time.monotonic() - began > 0.18
    assert answer.missing == {"ACME": "upstox: no answer in its time; yahoo: left alone for 100 s after failures"}


async def test_without_time_nobody_is_asked_or_blamed(world):
    for _ in range(3):
        answer = await world.quotes("ACME", deadline_s=0.0)
    assert answer.missing == {"ACME": "upstox: no time left to ask it; yahoo: no time left to ask it"}
    assert world.first.asked == world.second.asked == []
    assert world.breakers.of("upstox", Kind.QUOTES).state is State.CLOSED


async def daily(world, wanted):
    return await world.chain.bars(Interval.DAY_1, wanted, deadline_s=5)


def keys(frame: pl.DataFrame) -> list[tuple[str, date]]:
    day = pl.from_epoch(pl.col("start") + 19_800).dt.date()
    return frame.select("symbol", day).sort("symbol", "start").rows()


async def test_bars_fall_back_per_symbol_to_the_last_day_wanted(world):
    world.first.replies = (
        bhavcopy(MONDAY, "ACME", "BETA") | bhavcopy(TUESDAY, "ACME", "BETA") | bhavcopy(WEDNESDAY, "ACME")
    )
    world.second.replies = charts([MONDAY, TUESDAY, WEDNESDAY], "ACME", "BETA")
    days = {MONDAY, TUESDAY, WEDNESDAY}
    answer = await daily(world, {"ACME": days, "BETA": days, "GAMA": days})
    assert [name for name, _ in answer.frames] == ["nse", "yahoo"]
    assert keys(answer.frames[0][1]) == [
        ("ACME", MONDAY), ("ACME", TUESDAY), ("ACME", WEDNESDAY), ("BETA", MONDAY), ("BETA", TUESDAY)
    ]  # fmt: skip
    assert ("BETA", WEDNESDAY) in keys(answer.frames[1][1])
    assert sorted(world.second.paths()) == ["/v8/finance/chart/BETA.NS", "/v8/finance/chart/GAMA.NS"]
    assert answer.lacking == {"GAMA": days}


async def test_a_day_not_yet_published_is_asked_of_the_next(world):
    world.first.replies = bhavcopy(TUESDAY, "ACME")
    answer = await daily(world, {"ACME": {TUESDAY, WEDNESDAY}})
    assert [keys(frame) for _, frame in answer.frames] == [[("ACME", TUESDAY)], [("ACME", WEDNESDAY)]]
    assert (answer.lacking, answer.failures) == ({}, {})
    assert world.breakers.of("nse", Kind.DAILY_BARS).state is State.CLOSED


@pytest.mark.parametrize("reply", [cut_zip(), HTML, bomb(17 << 20)], ids=["cut zip", "html", "bomb"])
async def test_a_damaged_archive_is_made_good_by_the_second(world, reply):
    world.first.everywhere = reply
    for _ in range(2):
        answer = await daily(world, {"ACME": {WEDNESDAY}})
        assert [name for name, _ in answer.frames] == ["yahoo"]
        assert answer.lacking == {}
        assert "nse" in answer.failures
    assert world.breakers.of("nse", Kind.DAILY_BARS).state is State.OPEN


async def test_the_good_days_of_a_failing_archive_are_kept(world):
    world.first.replies = bhavcopy(TUESDAY, "ACME") | {archive_files(WEDNESDAY)[0][0]: HTML}
    answer = await daily(world, {"ACME": {TUESDAY, WEDNESDAY}})
    assert [(name, keys(frame)) for name, frame in answer.frames] == [
        ("nse", [("ACME", TUESDAY)]),
        ("yahoo", [("ACME", WEDNESDAY)]),
    ]
    assert "damaged zip" in answer.failures["nse"]


async def test_an_old_gap_does_not_fetch_the_years_after_it(world):
    gap = date(2024, 7, 9)
    world.first.replies = bhavcopy(gap, "BETA") | bhavcopy(WEDNESDAY, "ACME", "BETA")
    answer = await daily(world, {"ACME": {WEDNESDAY}, "BETA": {gap, WEDNESDAY}})
    assert answer.lacking == {}
    assert sorted(world.first.paths()) == sorted(archive_files(day)[0][0] for day in (gap, WEDNESDAY))


async def test_intraday_days_must_reach_the_end_of_trading_or_of_what_has_passed(world):
    def minutes(symbol: str, last: str) -> Reply:
        reply = chart(symbol, [])
        starts = list(range(at_s("2026-11-20 09:15"), at_s(f"2026-11-20 {last}") + 1, 300))
        body = reply.body.decode().replace('"timestamp": []', f'"timestamp": {starts}')
        for name, value in (("open", 10), ("high", 10), ("low", 10), ("close", 10), ("volume", 5)):
            body = body.replace(f'"{name}": []', f'"{name}": {[value] * len(starts)}')
        return Reply(body.encode())

    path, day = "/v8/finance/chart/ACME.NS", date(2026, 11, 20)
    wanted = {"ACME": {day}}
    for first_ends, through, sources in (
        ("15:10", None, ["upstox"]),
        ("15:05", None, ["upstox", "yahoo"]),
        ("11:00", at_s("2026-11-20 11:07"), ["upstox"]),
        ("10:50", at_s("2026-11-20 11:07"), ["upstox", "yahoo"]),
    ):
        world.first.replies, world.second.replies = (
            {path: minutes("ACME", first_ends)},
            {path: minutes("ACME", "15:10")},
        )
        answer = await world.chain.bars(Interval.MIN_5, wanted, 5, through)
        assert [name for name, _ in answer.frames] == sources, first_ends
        assert answer.lacking == {}


async def test_instruments_and_actions_come_from_the_first_that_answers(world):
    with pytest.raises(NoAnswerError, match=r"nse: .*404"):
        await world.chain.instruments(5)
    header = "SYMBOL,NAME OF COMPANY, SERIES, DATE OF LISTING, PAID UP VALUE, MARKET LOT, ISIN NUMBER, FACE VALUE\n"
    world.first.replies = {"/content/equities/EQUITY_L.csv": Reply(header.encode())}
    with pytest.raises(NoAnswerError, match="empty list"):
        await world.chain.instruments(5)
    row = b"ACME,Acme Limited,EQ,03-JAN-1996,5,1,INE101A01026,5\n"
    world.first.replies = {"/content/equities/EQUITY_L.csv": Reply(header.encode() + row)}
    assert (await world.chain.instruments(5))[1]["symbol"].to_list() == ["ACME"]
    world.first.replies = {"/api/corporates-corporateActions": as_json([])}
    name, actions = await world.chain.actions(MONDAY, WEDNESDAY, 5)
    assert (name, actions.height) == ("nse", 0)


async def test_a_defect_in_a_provider_does_not_stop_the_chain(world):
    class Broken(Yahoo):
        async def quotes(self, symbols):
            raise RuntimeError("a secret of its own")

    broken = Broken(None, SESSIONS, lambda: NOW_S)
    broken.name = "dhan"
    chain = world.chain_of({Kind.QUOTES: [broken, world.secondary]})
    answer = await chain.quotes(["ACME", "GONE"], 5, lambda quote: None)
    assert answer.quotes["ACME"].source == "yahoo"
    assert "dhan: an unreadable answer" in answer.missing["GONE"]
    assert "secret" not in answer.missing["GONE"]


async def test_nobody_at_all(world):
    chain = world.chain_of({})
    assert (await chain.quotes(["ACME"], 1, lambda quote: None)).missing == {"ACME": "no provider of quotes"}
    answer = await chain.bars(Interval.DAY_1, {"ACME": {MONDAY}, "BETA": set()}, 1)
    assert (answer.frames, answer.lacking) == ([], {"ACME": {MONDAY}})
    with pytest.raises(NoAnswerError, match="no provider"):
        await chain.actions(MONDAY, TUESDAY, 1)


def test_runs_cover_exactly_what_is_lacking():
    far = date(2026, 1, 5)
    assert runs({"A": {MONDAY, WEDNESDAY}, "B": {far}, "C": {far, TUESDAY}}) == [
        (("B", "C"), far, far),
        (("A", "C"), MONDAY, WEDNESDAY),
    ]
    assert runs({}) == []
    assert without({"A": {MONDAY, TUESDAY}, "B": {MONDAY}}, {("A", MONDAY), ("B", MONDAY)}) == {"A": {TUESDAY}}


async def test_what_came_by_the_deadline_is_used(world):
    symbols = [f"S{number}" for number in range(Yahoo.batch_max[Kind.QUOTES] + 2)]
    early, late = symbols[:-2], symbols[-2:]
    world.second.replies = charts([WEDNESDAY], *late)
    world.first.replies = charts([WEDNESDAY], *early) | {f"/v8/finance/chart/{late[0]}.NS": HANG}
    answer = await world.quotes(*symbols, deadline_s=1.2)
    assert {symbol for symbol, quote in answer.quotes.items() if quote.source == "upstox"} == set(early)
    assert {symbol for symbol, quote in answer.quotes.items() if quote.source == "yahoo"} == set(late)
    assert len(world.second.asked) == 2
