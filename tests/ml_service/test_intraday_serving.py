"""The opening range over real HTTP: right around the minute, asked once per bar, never in the daily answers' way."""

import asyncio
import time as wall
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import httpx
import polars as pl
import pytest
from bar_server import IST, serving
from minute_server import MinuteServer, asked_at
from synthetic_minutes import KEPT_SESSIONS, planted, planted_model

from contracts.common import Environment
from contracts.market import ActionKind, CorporateAction
from contracts.predictions import Action, Prediction, PredictionsReply
from ml_service.config import Settings
from ml_service.intraday import service as intraday_service
from ml_service.intraday.bars import MinuteClient
from ml_service.intraday.features import STRATEGY, compute_candidates
from ml_service.intraday.labels import COST_FRACTION, STOP_ATR, TARGET_ATR
from ml_service.intraday.predict import at_minute, bar_end, may_propose, propose
from ml_service.intraday.service import OpeningRange, lacks_bars
from ml_service.lifecycle import TRAINING, promote
from ml_service.main import create_app
from ml_service.metrics import Metrics
from ml_service.registry import Artefact, Registry

NOW = datetime(2022, 9, 15, tzinfo=UTC)
ORIGIN = {"environment": "simulated", "provider": "synthetic", "git_commit": None}
SYMBOLS = planted()["symbol"].unique().sort().to_list()
DAYS: list[date] = planted()["session"].unique().sort().to_list()
KEPT = DAYS[-KEPT_SESSIONS:]


def registered(folder: Path, **changed: object) -> Artefact:
    trained, registry = planted_model(), Registry(folder)
    found = registry.register(trained.models, trained.calibrations, trained.manifest | ORIGIN | changed)
    promote(registry, found, at=NOW, by=TRAINING, reason="for a test")
    return found


@pytest.fixture
def artefact(tmp_path: Path) -> Artefact:
    return registered(tmp_path)


@pytest.fixture
def server() -> Iterator[MinuteServer]:
    recent = planted().filter(pl.col("session") >= DAYS[-KEPT_SESSIONS - 30])
    with serving(MinuteServer(recent, now=at_minute(DAYS[-1], 600))) as running:
        assert isinstance(running, MinuteServer)
        yield running


Start = Callable[..., httpx.AsyncClient]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times half a second: a busy machine may have no core for one. What tests the wait sets its own."""
    monkeypatch.setattr(intraday_service, "WAIT_S", 5.0)


@pytest.fixture
def start(tmp_path: Path, server: MinuteServer) -> Start:
    def started(**settings: object) -> httpx.AsyncClient:
        values = {"data_dir": tmp_path, "data_service_url": server.url, "data_timeout_s": 5.0} | settings
        app = create_app(Settings(_env_file=None, **values), lambda: NOW)
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ml")

    return started


async def ask(http: httpx.AsyncClient, as_of: datetime, symbols: list[str] | None = None) -> PredictionsReply:
    body = {"symbols": symbols or SYMBOLS, "as_of": as_of.isoformat()}
    response = await http.post("/v1/predictions", json=body)
    assert response.status_code == 200, response.text
    return PredictionsReply.model_validate_json(response.content)


def proposals(artefact: Artefact, day: date) -> dict[str, Prediction]:
    """What the pure part says of a whole day."""
    return propose(artefact, planted().filter(pl.col("session").is_between(day - timedelta(days=40), day)), day)


def ended(prediction: Prediction) -> datetime:
    """The instant the breakout bar ended."""
    assert prediction.valid_until is not None
    return prediction.valid_until - timedelta(minutes=10)


@pytest.fixture
def alone(artefact: Artefact) -> Prediction:
    """A proposal of the kept days, to buy."""
    found = (each for day in KEPT for each in proposals(artefact, day).values())
    return next(each for each in found if each.action is Action.BUY)


def test_a_proposal_says_its_plan(artefact: Artefact) -> None:
    bought = 0
    for day in KEPT:
        bars = planted().filter(pl.col("session") <= day)
        for symbol, said in proposals(artefact, day).items():
            bar = bars.filter(
                pl.col("symbol") == symbol,
                pl.col("session") == day,
                pl.col("minute") == (ended(said) - at_minute(day, 0)).seconds // 60 - 5,
            ).row(0, named=True)
            assert float(said.reference_close or 0) == pytest.approx(bar["close"], abs=0.03)
            up, down = (float(p or 0) - bar["close"] for p in (said.target, said.stop))
            assert up / -down == pytest.approx(TARGET_ATR / STOP_ATR, abs=0.02)
            assert (said.strategy, said.intraday, said.horizon_sessions) == (STRATEGY, True, 1)
            assert (said.model_version, said.logic_version) == (artefact.version, artefact.manifest["logic_version"])
            assert said.certified_modes == artefact.certified(STRATEGY)
            assert said.expected_return_net is not None
            assert said.expected_return_gross == pytest.approx(said.expected_return_net + COST_FRACTION)
            levels = [touch.probability for touch in said.touch]
            assert levels == sorted(levels, reverse=True)
            bought += said.action is Action.BUY
    assert bought >= 10


def test_nothing_is_said_of_a_day_unlike_those_it_learned_from(artefact: Artefact, alone: Prediction) -> None:
    day = ended(alone).date()
    bars = planted().filter(pl.col("session").is_between(day - timedelta(days=40), day))
    volume = pl.when(pl.col("session") == day).then(pl.col("volume") * 1000).otherwise(pl.col("volume"))
    wild = compute_candidates(bars.with_columns(volume)).filter(pl.col("session") == day)
    assert alone.symbol in wild["symbol"].to_list()
    assert propose(artefact, bars.with_columns(volume), day) == {}


def test_without_a_certified_mode_nothing_is_to_be_bought(artefact: Artefact, alone: Prediction) -> None:
    assert alone.action is Action.BUY
    unproven = replace(artefact, manifest=artefact.manifest | {"strategies": {}})
    said = proposals(unproven, ended(alone).date())[alone.symbol]
    assert (said.action, said.reasons, said.certified_modes) == (Action.HOLD, ["insufficient_evidence"], [])
    assert said.expected_return_net == alone.expected_return_net


async def test_a_breakout_is_proposed_from_its_bars_end_for_ten_minutes(
    start: Start, artefact: Artefact, alone: Prediction
) -> None:
    async with start() as http:
        end = ended(alone)
        expected = {end - timedelta(seconds=1): [], end: [alone], end + timedelta(minutes=9, seconds=59): [alone]}
        expected[end + timedelta(minutes=10)] = []
        for as_of, found in expected.items():
            reply = await ask(http, as_of, [alone.symbol])
            assert reply.candidates.get(alone.symbol, []) == found
            assert reply.predictions[alone.symbol].action is Action.HOLD  # there is no daily model


async def test_only_bars_that_had_ended_decide(
    start: Start, server: MinuteServer, artefact: Artefact, alone: Prediction
) -> None:
    end = ended(alone)
    minute = int((end - at_minute(end.date(), 0)).total_seconds()) // 60
    later = (pl.col("session") > end.date()) | ((pl.col("session") == end.date()) & (pl.col("minute") >= minute))
    as_of = end + timedelta(minutes=4, seconds=59)
    async with start() as http:
        before = await ask(http, as_of)
    assert before.candidates[alone.symbol] == [alone]
    disturbed = (pl.when(later).then(pl.col(name) * 2).otherwise(pl.col(name)) for name in ("high", "close", "volume"))
    server.bars = server.bars.with_columns(disturbed)
    async with start() as http:
        assert (await ask(http, as_of)).candidates == before.candidates
        assert (await ask(http, end + timedelta(minutes=9))).candidates[alone.symbol] == [alone]
    assert all(call.as_of <= end + timedelta(minutes=5) for call in server.calls)


async def test_one_question_per_bar_and_one_for_the_days_before(
    start: Start, server: MinuteServer, artefact: Artefact
) -> None:
    noon = at_minute(KEPT[3], 120)
    async with start() as http:
        await asyncio.gather(*(ask(http, noon + timedelta(seconds=s)) for s in range(0, 300, 10)))
        assert asked_at(server) == [noon, noon]
        before, today = server.calls
        assert before.from_ < before.through < KEPT[3] == today.from_ == today.through
        await ask(http, noon + timedelta(minutes=5))
    assert asked_at(server)[2:] == [noon + timedelta(minutes=5)]


@pytest.mark.parametrize("minute", [-60, 19, 265, 400])
async def test_nothing_is_asked_outside_its_hours(
    start: Start, server: MinuteServer, artefact: Artefact, minute: int
) -> None:
    async with start() as http:
        assert (await ask(http, at_minute(KEPT[3], minute))).candidates == {}
    assert not server.calls


def test_the_hours_and_the_bars_of_an_instant() -> None:
    friday = date(2026, 6, 5)
    assert [may_propose(at_minute(friday, m)) for m in (19, 20, 264, 265)] == [False, True, True, False]
    assert not may_propose(at_minute(friday + timedelta(days=1), 100))
    assert bar_end(datetime(2026, 6, 5, 4, 9, 59, tzinfo=UTC)) == datetime.combine(friday, time(9, 35), IST)


@pytest.mark.parametrize("changed", ["uncertified", "trained_later", "too_old", "another_market"])
async def test_without_a_model_that_may_be_used_nothing_is_asked(
    tmp_path: Path, start: Start, server: MinuteServer, alone: Prediction, changed: str
) -> None:
    record = planted_model().manifest["strategies"][STRATEGY]
    modes = {name: mode | {"certified": False} for name, mode in record["modes"].items()}
    registered(
        tmp_path / "data",
        **{
            "uncertified": {"strategies": {STRATEGY: record | {"modes": modes}}},
            "trained_later": {"trained_through": DAYS[-1].isoformat()},
            "too_old": {"calibrated_through": "2021-01-04"},
            "another_market": {"environment": "paper"},
        }[changed],
    )
    async with start(data_dir=tmp_path / "data") as http:
        assert (await ask(http, ended(alone))).candidates == {}
    assert not server.calls


@pytest.mark.parametrize("trouble", ["fails", "environment", "empty", "unadjusted before", "unadjusted today"])
async def test_without_bars_that_can_be_trusted_the_daily_answers_go_out_alone(
    start: Start, server: MinuteServer, artefact: Artefact, alone: Prediction, trouble: str
) -> None:
    if trouble == "fails":
        server.fails = True
    elif trouble == "environment":
        server.environment = Environment.PAPER
    elif trouble == "empty":
        server.bars = server.bars.clear()
    else:
        day = ended(alone).date() - timedelta(days=0 if trouble == "unadjusted today" else 5)
        server.actions = [
            CorporateAction(symbol=alone.symbol, ex_date=day, known_on=day, kind=ActionKind.DEMERGER, source="test")
        ]
    async with start() as http:
        reply = await ask(http, ended(alone))
        assert alone.symbol not in reply.candidates
        assert list(reply.predictions) == SYMBOLS
        asked = len(server.calls)
        await ask(http, ended(alone))
        assert len(server.calls) == asked  # not again so soon
        counted = (await http.get("/metrics")).text
    assert ("sauda_ml_intraday_not_answered_total 0.0" in counted) == (trouble not in {"fails", "environment"})


def alone_with(server: MinuteServer, timeout_s: float = 5.0) -> tuple[MinuteClient, OpeningRange]:
    client = MinuteClient(server.url, timeout_s)
    return client, OpeningRange(client, Environment.SIMULATED, Metrics())


async def test_a_slow_answer_is_not_waited_for_and_is_there_later(
    server: MinuteServer, artefact: Artefact, alone: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intraday_service, "WAIT_S", 0.2)
    server.hang_s = 2.0
    client, opening_range = alone_with(server)
    async with client:
        begun = wall.perf_counter()
        assert await opening_range.candidates(artefact, SYMBOLS, ended(alone)) == {}
        first = wall.perf_counter() - begun
        assert await opening_range.candidates(artefact, SYMBOLS, ended(alone)) == {}
        second = wall.perf_counter() - begun - first
        assert 0.19 < first < 1.9
        assert second < 1.0
        await asyncio.wait({asked.task for asked in opening_range._asked.values()})
        assert (await opening_range.candidates(artefact, SYMBOLS, ended(alone)))[alone.symbol] == alone
        assert "sauda_ml_intraday_not_answered_total 1.0" in opening_range._metrics.render().decode()
        await opening_range.close()


async def test_it_stops_asking_when_it_is_closed(
    server: MinuteServer, artefact: Artefact, alone: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intraday_service, "WAIT_S", 0.2)
    server.hang_s = 30
    client, opening_range = alone_with(server)
    async with client:
        intraday_wait = asyncio.create_task(opening_range.candidates(artefact, SYMBOLS, ended(alone)))
        assert await intraday_wait == {}
        [asked] = opening_range._asked.values()
        await opening_range.close()
        assert asked.task.cancelled()


async def test_a_bar_that_comes_late_is_asked_for_again(
    server: MinuteServer, artefact: Artefact, alone: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live bar reaches the store some time after its end."""
    end, whole = ended(alone), server.bars
    minute = int((end - at_minute(end.date(), 0)).total_seconds()) // 60
    newest = (pl.col("session") == end.date()) & (pl.col("minute") == minute - 5)
    server.bars = whole.filter(~newest)
    client, opening_range = alone_with(server)
    async with client:
        assert alone.symbol not in await opening_range.candidates(artefact, SYMBOLS, end)
        server.bars = whole
        assert alone.symbol not in await opening_range.candidates(artefact, SYMBOLS, end)
        monkeypatch.setattr(intraday_service, "ASK_AGAIN_S", 0.0)
        assert (await opening_range.candidates(artefact, SYMBOLS, end))[alone.symbol] == alone
        asked = len(server.calls)
        assert (await opening_range.candidates(artefact, SYMBOLS, end))[alone.symbol] == alone
        assert len(server.calls) == asked
        await opening_range.close()


def test_what_lacks_a_bar() -> None:
    today = pl.DataFrame({"symbol": ["A", "A", "B", "B"], "minute": [0, 5, 0, 5]})
    assert not lacks_bars(today, 10)
    assert lacks_bars(today, 15)
    assert lacks_bars(today.head(3), 10)
    assert lacks_bars(today.clear(), 10)
