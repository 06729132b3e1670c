"""Filling the store: only what is lacking, kept at once, stopped anywhere; end to end through real servers."""

import asyncio
import threading
from contextlib import aclosing
from datetime import UTC, date, datetime

import polars as pl
import pytest
import pytest_asyncio
from data_market import at_s, daily, frame
from provider_world import http_client, zipped
from typer.testing import CliRunner

from contracts.market import Interval
from data_service.backfill import FINAL_AFTER_DAYS, SESSIONS_PER_STEP, fill, plan
from data_service.breaker import BreakerLimits, Breakers
from data_service.chain import Chain, orders
from data_service.ingest import Gate
from data_service.metrics import Metrics
from data_service.providers.nse import Nse, archive_files
from data_service.providers.yahoo import Yahoo
from data_service.sessions import load_sessions
from data_service.store.schemas import ABSENCE_SCHEMA, ACTION_SCHEMA
from data_service.store.stores import embedded
from data_service.wiring import ExDates
from sauda import data as data_command
from sauda import data_fetch
from tests.support.upstream_server import HTML, Reply, UpstreamServer, as_json

SESSIONS = load_sessions()
DAY = Interval.DAY_1
DAYS = [of.day for of in SESSIONS.all if date(2026, 10, 5) <= of.day <= date(2026, 10, 30)]
NOW_S = at_s("2026-11-20 20:00")
UDIFF = (
    "TradDt,Src,FinInstrmTp,FinInstrmId,ISIN,TckrSymb,SctySrs,FinInstrmNm,OpnPric,HghPric,LwPric,ClsPric,TtlTradgVol"
)


def bhavcopy(day: date, *symbols: str) -> Reply:
    close = 100 + day.day % 3
    prices = f"{close},{close + 1},{close - 1},{close},{day.toordinal()}"
    rows = [f"{day},NSE,STK,1,INE000A01010,{name},EQ,N,{prices}" for name in symbols]
    return Reply(zipped({"any.csv": "\n".join([UDIFF, *rows]).encode()}))


def path(day: date) -> str:
    return archive_files(day)[0][0]


class World:
    def __init__(self, folder, http, server: UpstreamServer) -> None:
        self.server, self.stores, self.now_s = server, embedded(folder), NOW_S
        today = date(2026, 11, 20)
        self.nse = Nse(http, SESSIONS, lambda: today, archives_url=server.url, site_url=server.url)
        self.yahoo = Yahoo(http, SESSIONS, lambda: self.now_s, base_url=server.url)
        self.gate = Gate(self.stores, SESSIONS, {})

    def chain(self, *providers) -> Chain:
        metrics = Metrics()
        breakers = Breakers(
            lambda: 0.0, metrics.breaker, BreakerLimits(failures_in_row_max=1000, window_calls_min=1000)
        )
        clocks = {"monotonic_s": lambda: 0.0, "now_s": lambda: self.now_s}
        return Chain(orders(providers or [self.nse]), breakers, metrics, SESSIONS, **clocks)

    def plan(self, *symbols: str, interval: Interval = DAY, first=DAYS[0], last=DAYS[-1]):
        return plan(self.stores, SESSIONS, interval, symbols, first, last, self.now_s)

    async def run(self, *symbols: str, chain: Chain | None = None, interval: Interval = DAY, stop_after: int = 99):
        reports = []
        steps = self.plan(*symbols, interval=interval)
        filling = fill(chain or self.chain(), self.gate, self.stores, interval, steps, now_s=self.now_s)
        async with aclosing(filling) as done:
            async for _, report in done:
                reports.append(report)
                if len(reports) == stop_after:
                    break
        return reports

    def held(self, interval: Interval = DAY) -> list[tuple[str, int]]:
        return self.stores.bars.read(interval, 2026).select("symbol", "start").rows()


@pytest_asyncio.fixture
async def world(tmp_path):
    async with http_client() as http, UpstreamServer({path(day): bhavcopy(day, "ACME", "BETA") for day in DAYS}) as up:
        yield World(tmp_path, http, up)


async def test_everything_lacking_is_asked_for_oldest_first_and_then_nothing(world):
    reports = await world.run("ACME", "BETA")
    assert sum(report.ingested.counts.new for report in reports) == 2 * len(DAYS)
    assert [asked for asked in world.server.paths() if asked.startswith("/content/cm")] == [path(day) for day in DAYS]
    assert world.plan("ACME", "BETA") == []
    world.server.asked.clear()
    assert await world.run("ACME", "BETA") == []
    assert world.server.asked == []


async def test_stopped_between_steps_it_goes_on_where_it_was(world):
    await world.run("ACME", stop_after=2)
    assert len(world.held()) == 2 * SESSIONS_PER_STEP
    world.server.asked.clear()
    await world.run("ACME")
    assert world.server.paths()[0] == path(DAYS[2 * SESSIONS_PER_STEP])
    assert len(world.held()) == len(DAYS)


async def test_a_new_share_is_fetched_without_the_others(world):
    await world.run("ACME")
    reports = await world.run("ACME", "BETA")
    assert sum(report.ingested.counts.new for report in reports) == len(DAYS)
    assert sum(report.ingested.counts.unchanged for report in reports) == 0


async def test_a_session_under_way_or_to_come_is_not_asked_for(world):
    world.now_s = at_s(f"{DAYS[2]} 15:34:59")
    assert [step.days for step in world.plan("ACME")] == [(DAYS[0], DAYS[1])]
    world.now_s += 1
    assert [step.days for step in world.plan("ACME")] == [(DAYS[0], DAYS[2])]


async def test_a_share_that_others_traded_without_is_known_absent_once_that_is_final(world):
    world.server.replies[path(DAYS[3])] = bhavcopy(DAYS[3], "BETA")
    world.now_s = at_s(f"{DAYS[4]} 20:00")
    await world.run("ACME", "BETA")
    assert [step.wanted for step in world.plan("ACME", "BETA")] == [{"ACME": {DAYS[3]}}]
    world.now_s = NOW_S
    world.server.replies[path(DAYS[3])] = bhavcopy(DAYS[3], "BETA")
    (absence,) = world.stores.facts.absences().rows()
    assert absence[:3] == ("ACME", "1d", DAYS[3])
    world.stores.facts.add_absences(pl.DataFrame([(*absence[:3], NOW_S)], schema=ABSENCE_SCHEMA, orient="row"))
    assert [DAYS[3] in step.wanted.get("ACME", ()) for step in world.plan("ACME", "BETA")] == [False] * len(
        world.plan("ACME", "BETA")
    )


async def test_where_a_provider_failed_nothing_is_called_absent(world):
    world.server.replies[path(DAYS[3])] = HTML
    (first, *_) = await world.run("ACME", "NONE")
    assert first.lacking > 0
    assert "nse" in first.failures
    assert not world.stores.facts.absences().filter(day=DAYS[3])["symbol"].to_list()
    assert DAYS[3] in world.plan("ACME")[0].wanted["ACME"]
    world.server.replies[path(DAYS[3])] = bhavcopy(DAYS[3], "ACME")
    await world.run("ACME")
    assert len(world.held()) == len(DAYS)


async def test_a_provider_that_told_of_one_share_and_failed_at_another_makes_none_absent(world):
    starts = [SESSIONS.by_day[day].open_s for day in DAYS]
    quote = {name: [99.0] * len(DAYS) for name in ("open", "high", "low", "close")} | {"volume": [*range(len(DAYS))]}
    result = {"meta": {"symbol": "BETA.NS"}, "timestamp": starts, "indicators": {"quote": [quote]}}
    world.server.replies["/v8/finance/chart/BETA.NS"] = as_json({"chart": {"result": [result], "error": None}})
    world.server.replies["/v8/finance/chart/ACME.NS"] = HTML
    (first, *_) = await world.run("ACME", "BETA", chain=world.chain(world.yahoo))
    assert first.ingested.counts.new > 0
    assert set(first.failures) == {"yahoo"}
    assert world.stores.facts.absences().is_empty()


@pytest.mark.parametrize("interval", [Interval.MIN_5, Interval.MIN_1])
async def test_what_nobody_could_have_is_not_absent(world, interval):
    """No provider of that interval, and one that does not reach so far back."""
    await world.run("ACME", chain=world.chain(world.nse), interval=interval)
    world.now_s = at_s("2026-12-28 20:00")
    await world.run("ACME", chain=world.chain(world.yahoo), interval=interval)
    assert world.stores.facts.absences().is_empty()
    assert world.plan("ACME", interval=interval)


async def test_the_next_provider_fills_what_the_first_lacks(world):
    world.server.replies[path(DAYS[1])] = bhavcopy(DAYS[1], "BETA")
    starts = [SESSIONS.by_day[day].open_s for day in DAYS]
    quote = {name: [99.0] * len(DAYS) for name in ("open", "high", "low", "close")} | {
        "volume": list(range(5, 5 + len(DAYS)))
    }
    result = {"meta": {"symbol": "ACME.NS"}, "timestamp": starts, "indicators": {"quote": [quote]}}
    world.server.replies["/v8/finance/chart/ACME.NS"] = as_json({"chart": {"result": [result], "error": None}})
    await world.run("ACME", chain=world.chain(world.nse, world.yahoo))
    sources = dict(world.stores.bars.read(DAY, 2026).select("start", "source").rows())
    assert len(sources) == len(DAYS)
    assert [start for start, source in sources.items() if source == "yahoo"] == [starts[1]]


def fives(day: date, count: int, source: str = "file") -> pl.DataFrame:
    start = SESSIONS.by_day[day].open_s
    return frame([("ACME", start + 300 * number, 100, 101, 99, 100 + number % 2, 5) for number in range(count)], source)


def test_an_intraday_session_is_there_when_it_reaches_the_close(tmp_path):
    stores = embedded(tmp_path)
    for day, count, source in [(DAYS[0], 72, "file"), (DAYS[1], 71, "file"), (DAYS[2], 72, "stream")]:
        stores.bars.upsert(Interval.MIN_5, fives(day, count, source))
    (step,) = plan(stores, SESSIONS, Interval.MIN_5, ["ACME"], DAYS[0], DAYS[3], NOW_S)
    assert step.wanted == {"ACME": {DAYS[1], DAYS[2], DAYS[3]}}


def test_a_bar_that_was_not_to_be_believed_is_not_fetched_for_ever(tmp_path):
    stores = embedded(tmp_path)
    bad = frame([("ACME", SESSIONS.by_day[DAYS[1]].open_s, 100, 90, 80, 100, 5)], "nse")
    Gate(stores, SESSIONS, {}).ingest(DAY, bad, at_s(f"{DAYS[1]} 20:00"))
    (step,) = plan(stores, SESSIONS, DAY, ["ACME"], DAYS[0], DAYS[2], NOW_S)
    assert step.wanted == {"ACME": {DAYS[0], DAYS[1], DAYS[2]}}
    late = embedded(tmp_path / "late")
    Gate(late, SESSIONS, {}).ingest(DAY, bad, NOW_S)
    (step,) = plan(late, SESSIONS, DAY, ["ACME"], DAYS[0], DAYS[2], NOW_S)
    assert step.wanted == {"ACME": {DAYS[0], DAYS[2]}}


FEED = [
    {"symbol": "ACME", "series": "EQ", "isin": "INE000A01010", "exDate": "12-Nov-2026", "faceVal": "10",
     "subject": "Bonus 1:1"},
]  # fmt: skip
LISTED = (
    "SYMBOL,NAME OF COMPANY,SERIES,DATE OF LISTING,PAID UP VALUE,MARKET LOT,ISIN NUMBER,FACE VALUE\n"
    "ACME,Acme Limited,EQ,01-JAN-2000,10,1,INE000A01010,10\n"
)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """`sauda data ...` against a loopback upstream in a thread of its own."""
    replies = {path(day): bhavcopy(day, "ACME", "BETA") for day in DAYS}
    replies["/api/corporates-corporateActions"] = as_json(FEED)
    replies["/content/equities/EQUITY_L.csv"] = Reply(LISTED.encode())
    server, loop, ready, over = UpstreamServer(replies), asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with server:
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(10)
    for name in ("NSE_ARCHIVES_URL", "NSE_SITE_URL", "YAHOO_URL", "BSE_ARCHIVE_URL"):
        monkeypatch.setenv(name, server.url)
    monkeypatch.setenv("MARKET_PROVIDERS", "nse,yahoo")
    monkeypatch.setenv("ENVIRONMENT", "paper")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(data_fetch, "real_clock", lambda: datetime.fromtimestamp(NOW_S, UTC))
    monkeypatch.setattr(data_command, "real_clock", lambda: datetime.fromtimestamp(NOW_S, UTC))

    def run(*arguments: str):
        return CliRunner().invoke(data_command.app, [*arguments, "--data-dir", str(tmp_path)])

    run.server, run.stores = server, embedded(tmp_path / "market" / "recorded")
    yield run
    loop.call_soon_threadsafe(over.set)
    thread.join(10)
    loop.close()


SPAN = ("--from", str(DAYS[0]), "--to", str(DAYS[-1]))


def test_the_command_fills_the_store_and_a_second_run_asks_for_no_bar(command):
    done = command("backfill", *SPAN, "--symbols", "acme, BETA")
    assert done.exit_code == 0, done.output
    assert (
        f"2 symbols, 1d: {2 * len(DAYS)} new, 0 changed, 0 quarantined; 0 sessions of a symbol nobody had"
        in done.output
    )
    assert command.stores.bars.read(DAY, 2026)["symbol"].value_counts(sort=True)["count"].to_list() == [len(DAYS)] * 2
    (action,) = command.stores.facts.actions().rows(named=True)
    assert (action["kind"], action["ex_date"], action["shares_after"]) == ("bonus", date(2026, 11, 12), 2)
    assert command.stores.facts.instruments()["name"].to_list() == ["Acme Limited"]
    asked = next(asked for asked in command.server.asked if "corporate" in asked.path)
    assert asked.query["to_date"] == "19-01-2027"
    command.server.asked.clear()
    again = command("backfill", *SPAN, "--symbols", "ACME,BETA")
    assert (again.exit_code, "0 new, 0 changed" in again.output) == (0, True)
    assert [name for name in command.server.paths() if name.startswith(("/content/cm", "/v8"))] == []


def test_the_command_says_what_it_could_not_fetch_and_fails(command):
    command.server.replies[path(DAYS[0])] = HTML
    command.server.replies["/v8/finance/chart/ACME.NS"] = HTML
    done = command("backfill", *SPAN, "--symbols", "ACME")
    assert done.exit_code == 1
    assert "1 sessions of a symbol nobody had" in done.output
    assert "Not complete: run the same command again later" in done.output
    command.server.replies[path(DAYS[0])] = bhavcopy(DAYS[0], "ACME")
    assert command("backfill", *SPAN, "--symbols", "ACME").exit_code == 0


def test_without_actions_and_instruments_bars_are_fetched_all_the_same(command):
    for name in ("/api/corporates-corporateActions", "/content/equities/EQUITY_L.csv"):
        command.server.replies[name] = HTML
    done = command("backfill", *SPAN, "--symbols", "ACME")
    assert (done.exit_code, "No corporate actions: " in done.output, "No instruments: " in done.output) == (
        0,
        True,
        True,
    )


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        ((*SPAN, "--symbols", "ACME"), {"MARKET_PROVIDERS": ""}, "no provider is configured"),
        (
            (*SPAN, "--interval", "5m"),
            {"MARKET_PROVIDERS": "nse"},
            "none of the configured providers (nse) has 5m bars",
        ),
        (("--from", "2026-10-30", "--to", "2026-10-05"), {}, "is after --to"),
        ((*SPAN, "--symbols", "nifty50", "--interval", "1d"), {"MARKET_PROVIDERS": "nope"}, "no such provider"),
    ],
)
def test_what_cannot_be_done_is_said(command, monkeypatch, arguments, variables, said):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = command("backfill", *arguments)
    assert done.exit_code != 0
    assert said in " ".join(done.output.replace("│", " ").split())


def test_ex_dates_are_read_once_and_known_under_every_name(tmp_path, monkeypatch):
    stores = embedded(tmp_path)
    base = {"isin": None, "shares_before": 1, "shares_after": 2, "amount_paise": None, "new_symbol": None}
    rows = [
        {**base, "symbol": "OLD", "ex_date": DAYS[1], "kind": "split"},
        {**base, "symbol": "OLD", "ex_date": DAYS[2], "kind": "rename", "new_symbol": "NEW"},
        {**base, "symbol": "NEW", "ex_date": DAYS[9], "kind": "bonus"},
        {**base, "symbol": "ACME", "ex_date": DAYS[5], "kind": "other"},
    ]
    told = [{**row, "known_on": row["ex_date"], "subject": "x", "source": "nse"} for row in rows]
    stores.facts.upsert_actions(pl.DataFrame(told, schema=ACTION_SCHEMA))
    reads = []
    original = type(stores.facts).actions
    monkeypatch.setattr(type(stores.facts), "actions", lambda facts: reads.append(1) or original(facts))
    ex_dates = ExDates(stores.facts)
    assert [ex_dates.last(symbol, DAYS[5]) for symbol in ("NEW", "ACME", "NONE")] == [DAYS[1], None, None]
    assert len(reads) == 1
    assert ex_dates.last("NEW", DAYS[9]) == DAYS[9]
    assert len(reads) == 2


def test_the_exchanges_own_word_is_asked_for_again_while_it_may_still_come(tmp_path):
    stores, last = embedded(tmp_path), DAYS[-1]
    weak = [daily("ACME", day, 10_000 + place) for place, day in enumerate(DAYS)]
    stores.bars.upsert(DAY, frame(weak, "yahoo"))
    evening = at_s(f"{last} 18:00")

    def lacking(now_s: int, official_wanted: bool) -> set[date]:
        steps = plan(stores, SESSIONS, DAY, ["ACME"], DAYS[0], last, now_s, official_wanted=official_wanted)
        return {day for step in steps for days in step.wanted.values() for day in days}

    recent = {day for day in DAYS if (last - day).days < FINAL_AFTER_DAYS}
    assert lacking(evening, official_wanted=True) == recent
    assert lacking(evening, official_wanted=False) == set()
    assert lacking(evening + 9 * 86_400, official_wanted=True) == set()
    stores.bars.upsert(DAY, frame(weak, "nse"))
    assert lacking(evening, official_wanted=True) == set()
