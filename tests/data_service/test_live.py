"""Quotes of the present as they travel, the gauge by the calendar, and minutes on their way into the store."""

import asyncio
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal

import pytest
import pytest_asyncio
from data_market import daily, filled_store
from live_world import NOW_S, SESSIONS, ist_s, live_world, raw

from contracts.market import Interval
from data_service.errors import StoreError
from data_service.ingest import Gate
from data_service.live import Gauge, LiveMarket, References, live_quote
from data_service.minutes import LATE_S, Minute
from data_service.providers.base import ProviderError
from data_service.providers.recorded import RecordedMarket, Reference
from data_service.quote_book import QuoteBook
from data_service.sessions import IST, ist_instant
from data_service.store.buffer import BarBuffer
from tests.support.upstream_server import HTML

REFERENCE = Reference(previous_close=10_000, tick=5, band_pct=10, has_derivatives=True)
TUESDAY = date(2026, 11, 17)
NOW = ist_instant(NOW_S)


def built(quote, reference: Reference = REFERENCE, minute: Minute | None = None, now: datetime = NOW):
    return live_quote(quote, reference, minute, now)


def test_what_the_provider_says_stands():
    said = {
        name: Decimal(value)
        for name, value in {
            "bid": "101.90", "ask": "102.10", "open": "100.50", "high": "103.00", "low": "99.95",
            "previous_close": "100.00", "lower_band": "95.00", "upper_band": "105.00",
        }.items()
    }  # fmt: skip
    quote = built(raw(last="102.00", as_of_s=NOW_S - 3.5, volume=77, **said))
    assert {name: getattr(quote, name) for name in said} == said
    assert (quote.last, quote.volume, quote.source, quote.age_s) == (Decimal("102.00"), 77, "kite", 3.5)
    assert quote.as_of == NOW - timedelta(seconds=4)


def test_what_it_does_not_say_comes_from_the_recorded_market():
    quote = built(raw(last="102.00"))
    assert (quote.previous_close, quote.lower_band, quote.upper_band) == (Decimal(100), Decimal(90), Decimal(110))
    assert (quote.bid, quote.ask) == (Decimal("101.95"), Decimal("102.05"))
    assert (quote.open, quote.high, quote.low, quote.volume) == (Decimal(102), Decimal(102), Decimal(102), 0)


@pytest.mark.parametrize(
    ("said", "bid", "ask"),
    [
        ({"last": "110.00"}, "109.95", "110.00"),
        ({"last": "90.00"}, "90.00", "90.05"),
        ({"last": "110.00", "bid": "110.00"}, "110.00", "110.00"),
        ({"last": "100.00", "bid": "100.40"}, "100.40", "100.40"),
        ({"last": "100.00", "ask": "99.70"}, "99.70", "99.70"),
        ({"last": "112.00"}, "111.95", "112.00"),
    ],
)
def test_an_invented_side_of_the_book_crosses_neither_the_other_nor_a_band(said, bid, ask):
    prices = {name: Decimal(price) for name, price in said.items() if name != "last"}
    quote = built(raw(last=said["last"], **prices))
    assert (quote.bid, quote.ask) == (Decimal(bid), Decimal(ask))


def test_a_share_of_a_few_paise_has_a_bid():
    penny = Reference(previous_close=1, tick=1, band_pct=20, has_derivatives=False)
    assert built(raw(last="0.01"), penny).bid == Decimal("0.01")


def test_a_providers_clock_ahead_of_ours_makes_no_quote_of_the_future():
    quote = built(raw(as_of_s=NOW_S + 4))
    assert (quote.as_of, quote.age_s) == (NOW, 0)


def test_without_a_previous_close_there_is_no_quote():
    unknown = Reference(previous_close=None, tick=5, band_pct=10, has_derivatives=True)
    assert built(raw(), unknown) is None
    assert built(raw(previous_close=Decimal(99)), unknown).previous_close == Decimal(99)


@pytest.mark.parametrize(
    ("said", "served"), [("500", "100"), ("505.05", "101.01"), ("101", "101"), ("96.50", "96.50"), (None, "100")]
)
def test_on_the_day_of_a_split_the_previous_close_is_on_the_new_scale(said, served):
    split = replace(REFERENCE, factor=0.2)
    quote = built(raw(last="101", previous_close=None if said is None else Decimal(said)), split)
    assert quote.previous_close == Decimal(served)
    assert quote.lower_band <= quote.last <= quote.upper_band


def test_without_a_split_the_providers_previous_close_stands():
    assert built(raw(previous_close=Decimal(20))).previous_close == 20


def test_a_tick_that_nobody_told_refuses_no_quote():
    def tick_of(reference: Reference) -> Decimal | None:
        gauge = Gauge(SESSIONS, References(lambda *_: reference, lambda: NOW), lambda: NOW, 60.0)
        return gauge.context("ACME", None, None).tick

    assert tick_of(REFERENCE) == Decimal("0.05")
    assert tick_of(replace(REFERENCE, tick_said=False)) is None


def test_the_last_finished_minute_stands_beside_it_unless_it_is_of_another_day():
    minute = Minute(NOW_S - 120, 9_990, 10_050, 9_980, 10_010, 500, 700)
    quote = built(raw(), minute=minute)
    assert (quote.bar_end, quote.bar_volume) == (NOW - timedelta(seconds=60), 200)
    prices = quote.bar_open, quote.bar_high, quote.bar_low, quote.bar_close
    assert prices == tuple(Decimal(price) / 100 for price in (9_990, 10_050, 9_980, 10_010))
    old = Minute(NOW_S - 86_400, 1, 1, 1, 1, 0, 5)
    for quote in (built(raw(), minute=old), built(raw())):
        assert (quote.bar_start, quote.bar_end) == (NOW - timedelta(seconds=60), NOW)
        assert (quote.bar_high, quote.bar_low, quote.bar_volume) == (Decimal(100), Decimal(100), 0)


@pytest.mark.parametrize(
    ("instant", "with_derivatives", "others"),
    [
        ("2026-11-18 09:14:59", False, False),
        ("2026-11-18 09:15", True, True),
        ("2026-11-18 15:14:59", True, True),
        ("2026-11-18 15:15", False, True),
        ("2026-11-18 15:30", False, False),
        ("2026-11-15 11:00", False, False),
        ("2023-11-12 18:20", True, True),
        ("2023-11-12 11:00", False, False),
        ("2031-01-07 11:00", False, False),
    ],
)
def test_the_session_runs_by_the_calendar(instant, with_derivatives, others):
    now = datetime.fromisoformat(instant).replace(tzinfo=IST)
    gauge = Gauge(SESSIONS, References(lambda _, now: REFERENCE, lambda: now), lambda: now, 60.0)
    assert (gauge.running(now, True), gauge.running(now, False)) == (with_derivatives, others)
    context = gauge.context("ACME", None, None)
    assert (context.session_running, context.now_s) == (with_derivatives, now.timestamp())
    assert (context.previous_close, context.tick) == (Decimal(100), Decimal("0.05"))


class Live:
    """A live market over a real store, chain and upstream."""

    def __init__(self, folder, world) -> None:
        self.world, self.error = world, None
        self.stores = filled_store(folder, {Interval.DAY_1: [daily("ACME", TUESDAY, 10_000)]})
        self.recorded = RecordedMarket(self.stores, SESSIONS, {})
        self.reads: list[str] = []
        clock = self.now
        self.references = References(self.read, clock)
        self.gauge = Gauge(SESSIONS, self.references, clock, 60.0)
        self.buffer = BarBuffer(Interval.MIN_1, Gate(self.stores, SESSIONS, {}).ingest, on_dropped=lambda _: None)
        self.market = LiveMarket(self.book, self.gauge, self.buffer)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.world.now_s, IST)

    def read(self, symbol: str, now: datetime) -> Reference:
        if self.error:
            raise self.error
        self.reads.append(symbol)
        return self.recorded.view().reference(symbol, now.date(), int(now.timestamp()))

    def book(self, on_accepted) -> QuoteBook:
        return QuoteBook(
            self.world.chain,
            self.gauge.context,
            monotonic_s=lambda: self.world.monotonic_s,
            refresh_s=2.0,
            deadline_s=2.0,
            on_accepted=on_accepted,
        )

    async def quotes(self, *symbols: str):
        return await self.market.quotes(symbols, self.now())

    def minutes(self) -> list[tuple]:
        return self.stores.bars.read(Interval.MIN_1, 2026).rows()


@pytest_asyncio.fixture
async def live(tmp_path):
    async with live_world() as world:
        yield Live(tmp_path, world)


async def test_a_quote_is_judged_and_completed_by_what_is_recorded(live):
    live.world.says("ACME", 102.0)
    live.world.says("BETA", 50.0)
    quotes, missing = await live.quotes("ACME", "BETA", "NONE")
    assert (quotes["ACME"].previous_close, quotes["ACME"].source) == (Decimal(100), "yahoo")
    assert missing["BETA"] == "yahoo: no previous close is known"
    assert missing["NONE"].startswith("yahoo: ")
    live.world.passes(3)
    live.world.says("ACME", 10_200.0)
    assert (await live.quotes("ACME"))[0]["ACME"].last == Decimal("102.0")
    assert live.market.book.refusals[-1].reason == "hundredfold"


async def test_references_are_read_once_for_a_while_and_then_anew(live):
    live.world.says("ACME", 102.0)
    await live.quotes("ACME")
    await live.quotes("ACME")
    assert live.reads == ["ACME"]
    live.world.passes(600)
    live.world.says("ACME", 102.0)
    await live.quotes("ACME")
    assert live.reads == ["ACME", "ACME"]


async def test_a_store_that_is_away_stops_no_quote_of_a_share_that_is_known(live):
    live.world.says("ACME", 102.0)
    await live.quotes("ACME")
    live.error = StoreError("InfluxDB did not answer")
    live.world.passes(600)
    live.world.says("ACME", 103.0)
    assert (await live.quotes("ACME"))[0]["ACME"].last == Decimal("103.0")
    with pytest.raises(StoreError):
        await live.quotes("BETA")


async def test_minutes_go_into_the_store_the_last_one_of_the_session_too(live):
    live.world.now_s = close_s = ist_s("2026-11-18 15:28:30")
    for number in range(3):
        live.world.says("ACME", 102.0 + number, regularMarketVolume=1000 + number)
        await live.quotes("ACME")
        live.world.passes(30)
    assert live.minutes() == []
    await live.market._flush()
    assert [row[1] for row in live.minutes()] == [close_s - 30]
    live.world.passes(LATE_S)
    await live.market._flush()
    assert [(row[1], row[2], row[5], row[7]) for row in live.minutes()] == [
        (close_s - 30, 10_200, 10_200, "stream"),
        (close_s + 30, 10_300, 10_400, "stream"),
    ]


async def test_outside_the_session_quotes_make_no_bars(live):
    live.world.now_s = ist_s("2026-11-18 15:31")
    for _ in range(3):
        live.world.says("ACME", 102.0)
        assert (await live.quotes("ACME"))[0]["ACME"].last == Decimal("102.0")
        live.world.passes(61)
    await live.market._flush()
    assert live.minutes() == []


class Ticks:
    """A stream that tells what it is given and ends as it is told."""

    def __init__(self, quotes, end: Exception | None) -> None:
        self.told, self.end, self.watched, self.done = quotes, end, asyncio.Event(), asyncio.Event()
        self.tokens = None

    async def watch(self, tokens) -> None:
        self.tokens = tokens
        self.watched.set()

    async def quotes(self):
        for quote in self.told:
            yield quote
        self.done.set()
        if self.end:
            raise self.end
        await asyncio.Event().wait()


@pytest.mark.parametrize("end", [None, ProviderError("the session is over"), ValueError("a defect")])
async def test_while_it_runs_ticks_come_in_and_at_its_end_nothing_that_waits_is_lost(live, end):
    """However the stream ends, asking the providers goes on, and finished minutes reach the store."""
    ticks = Ticks([raw(as_of_s=NOW_S - 70), raw(last="100.50", as_of_s=NOW_S - 5)], end)
    live.world.now_s = NOW_S - 60.0
    live.world.says("ACME", 101.0)
    await live.quotes("ACME")
    live.world.now_s = float(NOW_S)

    async def tokens(symbols):
        return dict(enumerate(symbols))

    async with live.market.running(2.0, ticks, tokens):
        await ticks.done.wait()
        await ticks.watched.wait()
        assert ticks.tokens == {0: "ACME"}
        assert live.market.book._kept["ACME"].quote.last == Decimal("100.50")
        live.world.server.everywhere = HTML
        live.world.now_s += 120
        live.world.monotonic_s += 1
        assert (await live.quotes("ACME"))[0] == {}
    assert [(row[1], row[5]) for row in live.minutes()] == [(NOW_S - 60, 10_050)]
