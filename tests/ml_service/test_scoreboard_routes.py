"""What is served in the market's present is frozen, matures, is scored in public and holds what fails."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from bar_server import IST, BarServer, serving
from fastapi import FastAPI
from frozen_record import frozen, outcomes

from contracts.predictions import ExplanationReply, PredictionsReply
from contracts.scoreboard import FrozenPrediction, FrozenPredictionsReply, ScoreboardReply
from ml_service import lifecycle
from ml_service.background import Background
from ml_service.client import DataServiceClient
from ml_service.config import Settings
from ml_service.labels import EVENTS
from ml_service.main import create_app
from ml_service.maturing import mature
from ml_service.model import STRATEGY
from ml_service.predict import Ages
from ml_service.registry import Artefact, Registry
from ml_service.scoreboard import Scoreboard
from ml_service.service import PredictionService

SYMBOLS = [f"SIM{i:02d}" for i in range(24)]
AGES = Ages(400, 120)
ALL_MODES = "conservative moderate aggressive"
SERVED = -30
"""The session that is served, counted from the last: the first one that no model was trained on."""


def at(day: date, hour: int, minute: int = 0) -> datetime:
    return datetime.combine(day, time(hour, minute), IST)


@pytest.fixture
def days(planted: pl.DataFrame) -> list[date]:
    return planted["session"].unique().sort().to_list()


@pytest.fixture
def bar_server(planted: pl.DataFrame, days: list[date]) -> Iterator[BarServer]:
    with serving(BarServer(planted, now=at(days[SERVED + 1], 11))) as server:
        yield server


class Process:
    """One run of the service over a data folder."""

    def __init__(self, data_dir: Path, server: BarServer, **settings: object) -> None:
        values = {"data_dir": data_dir, "data_service_url": server.url, "data_timeout_s": 5.0} | settings
        self.app: FastAPI = create_app(Settings(_env_file=None, **values), lambda: datetime(2026, 1, 1, tzinfo=UTC))
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://ml")
        self.service: PredictionService = self.app.state.service
        self.background: Background = self.app.state.background

    @property
    def board(self) -> Scoreboard:
        return self.service.board

    async def ask(self, as_of: datetime) -> PredictionsReply:
        body = {"symbols": SYMBOLS, "as_of": as_of.isoformat()}
        response = await self.http.post("/v1/predictions", json=body)
        assert response.status_code == 200, response.text
        return PredictionsReply.model_validate_json(response.content)

    async def get(self, path: str, status: int = 200, **query: Any) -> httpx.Response:
        response = await self.http.get(path, params=query)
        assert response.status_code == status, response.text
        return response

    async def scoreboard(self, **query: Any) -> ScoreboardReply:
        return ScoreboardReply.model_validate_json((await self.get("/v1/scoreboard", **query)).content)

    async def entries(self, **query: Any) -> list[FrozenPrediction]:
        """All pages of the listing."""
        found: list[FrozenPrediction] = []
        cursor: dict[str, str] = {}
        while True:
            content = (await self.get("/v1/scoreboard/predictions", **query, **cursor)).content
            page = FrozenPredictionsReply.model_validate_json(content)
            found += page.entries
            if page.next_cursor is None:
                return found
            cursor = {"cursor": page.next_cursor}

    async def metric(self, name: str) -> float:
        """The sum over all labels."""
        lines = (await self.get("/metrics")).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


@pytest.fixture
def process(tmp_path: Path, bar_server: BarServer, artefact: Artefact) -> Process:
    return Process(tmp_path, bar_server)


def numbered(reply: PredictionsReply) -> dict[tuple[str, str], Any]:
    """(strategy, symbol) → prediction, of all that state numbers."""
    proposed = [each for found in reply.candidates.values() for each in found]
    return {(p.strategy, p.symbol): p for p in [*reply.predictions.values(), *proposed] if p.confidence is not None}


# ---- freezing


async def test_what_is_served_is_what_is_frozen(process: Process, bar_server: BarServer, days: list[date]) -> None:
    now = at(days[SERVED + 1], 11)
    reply = await process.ask(now - timedelta(minutes=1))
    served, entries = numbered(reply), await process.entries()
    assert {(entry.strategy, entry.symbol) for entry in entries} == set(served)
    assert len(entries) > len(SYMBOLS) / 2
    for entry in entries:
        prediction = served[entry.strategy, entry.symbol]
        touch = {f"touch_{each.net_return:g}": each.probability for each in prediction.touch}
        assert (entry.session, entry.served_at, entry.outcome) == (days[SERVED], now, "pending")
        assert (entry.model_version, entry.horizon_sessions) == (reply.model_version, 10)
        assert entry.probability["net_profit"] == prediction.confidence
        assert touch.items() <= entry.probability.items()
        assert set(entry.probability) == set(EVENTS)
        assert entry.expected_return_net == prediction.expected_return_net
        assert entry.expected_return_net_lower == prediction.expected_return_net_lower
        assert (entry.action, entry.certified_modes) == (prediction.action, prediction.certified_modes)
        assert (entry.hit, entry.net_return, entry.matured_through) == ({}, None, None)


async def test_only_the_markets_present_is_frozen(process: Process, bar_server: BarServer, days: list[date]) -> None:
    bar_server.now = at(days[-5], 11)
    for as_of in (at(days[-20], 11), at(days[-6], 15), at(days[-5], 11, 2), at(days[-5], 15, 31), at(days[-4], 9)):
        assert (await process.ask(as_of)).features_through is not None
    assert await process.entries() == []
    await process.ask(at(days[-6], 15, 30))
    assert {entry.session for entry in await process.entries()} == {days[-6]}


async def test_a_question_about_the_past_asks_the_clock_once(
    process: Process, bar_server: BarServer, days: list[date]
) -> None:
    bar_server.now = at(days[-1], 11)
    for number in range(-20, -10):
        await process.ask(at(days[number], 11))
        await process.ask(at(days[number], 12))
    assert bar_server.clock_calls == 1


async def test_the_first_answer_stays_whatever_is_served_later(
    process: Process, bar_server: BarServer, days: list[date], tmp_path: Path
) -> None:
    now = at(days[SERVED + 1], 11)
    await process.ask(now)
    before, files = await process.entries(), process.board.frozen.parts()
    bar_server.now = now + timedelta(hours=1)
    bar_server.bars = bar_server.bars.with_columns(pl.col("close") * 0.99)
    again = Process(tmp_path, bar_server)
    changed = numbered(await again.ask(now + timedelta(hours=1)))
    same = [entry for entry in before if (entry.strategy, entry.symbol) in changed]
    assert any(entry.expected_return_net != changed[entry.strategy, entry.symbol].expected_return_net for entry in same)
    after = {(entry.strategy, entry.symbol): entry for entry in await again.entries()}
    assert all(after[entry.strategy, entry.symbol] == entry for entry in before)
    assert set(after) == {(entry.strategy, entry.symbol) for entry in before} | set(changed)
    assert again.board.frozen.parts()[: len(files)] == files


async def test_an_answer_that_cannot_be_frozen_is_for_nobody_to_trade_on(
    process: Process, artefact: Artefact, days: list[date], tmp_path: Path
) -> None:
    in_the_way = tmp_path / "scoreboard" / "simulated" / "frozen" / ".lock"
    in_the_way.mkdir(parents=True)
    now = at(days[SERVED + 1], 11)
    reply = await process.ask(now)
    assert numbered(reply)
    assert (reply.certified_modes, {tuple(p.certified_modes) for p in numbered(reply).values()}) == ([], {()})
    assert reply.held_modes == dict.fromkeys(artefact.certified_modes, "record_not_written")
    assert await process.metric("sauda_ml_not_frozen_total") == 1
    in_the_way.rmdir()
    again = await process.ask(now)
    assert (again.certified_modes, again.held_modes) == (artefact.certified_modes, {})
    assert {tuple(e.certified_modes) for e in await process.entries(strategy=STRATEGY)} == {
        tuple(artefact.certified_modes)
    }
    assert len(await process.entries()) == len(numbered(reply))
    assert await process.metric("sauda_ml_not_frozen_total") == 1


async def test_a_record_that_cannot_be_read_holds_everything(
    process: Process, days: list[date], tmp_path: Path, artefact: Artefact
) -> None:
    (tmp_path / "scoreboard").write_text("not a folder")
    reply = await process.ask(at(days[SERVED + 1], 11))
    assert numbered(reply)
    assert reply.certified_modes == []
    assert reply.held_modes == dict.fromkeys(artefact.certified_modes, "record_unreadable")


# ---- maturing and scores


async def test_figures_are_those_of_the_listed_predictions(
    process: Process, bar_server: BarServer, days: list[date]
) -> None:
    for number in (SERVED + 1, SERVED + 2, SERVED + 12):
        bar_server.now = at(days[number], 11)
        await process.ask(bar_server.now)
    bar_server.now = at(days[SERVED + 12], 16)
    await process.background.round()
    entries, board = await process.entries(), await process.scoreboard()
    matured = [entry for entry in entries if entry.outcome == "matured"]
    assert {entry.session for entry in matured} == {days[SERVED], days[SERVED + 1]}
    assert (board.frozen, board.matured, board.as_of) == (len(entries), len(matured), bar_server.now)
    assert {entry.matured_through for entry in matured} == {days[SERVED + 10], days[SERVED + 11]}
    manifest = next(iter(process.service.registry.usable())).manifest
    for score in board.events:
        own = [e for e in matured if e.strategy == score.strategy]
        base = manifest["strategies"][score.strategy]["metrics"]["events"][score.event]["base_rate"]
        brier = sum((e.probability[score.event] - e.hit[score.event]) ** 2 for e in own) / len(own)
        base_brier = sum((base - e.hit[score.event]) ** 2 for e in own) / len(own)
        assert (score.matured, score.matured + score.pending) == (
            len(own),
            sum(e.strategy == score.strategy for e in entries),
        )
        assert score.brier == pytest.approx(brier)
        assert score.brier_skill == pytest.approx(1 - brier / base_brier)
    assert {score.event for score in board.events} == set(EVENTS)
    assert await process.metric("sauda_ml_scoreboard_predictions") == len(entries)
    only = await process.scoreboard(strategy=STRATEGY, since=days[SERVED + 1].isoformat())
    own = [e for e in matured if e.strategy == STRATEGY and e.session >= days[SERVED + 1]]
    assert only.matured == len(own) > 0
    assert {score.strategy for score in only.events} | {mode.strategy for mode in only.modes} == {STRATEGY}
    assert (await process.scoreboard(horizon_sessions=20)).frozen == 0


async def test_outcomes_come_with_the_horizons_end_and_survive_a_restart(
    process: Process, bar_server: BarServer, days: list[date], tmp_path: Path
) -> None:
    await process.ask(at(days[SERVED + 1], 11))
    bar_server.now = at(days[SERVED + 10], 15, 29)
    await process.background.round()
    assert {entry.outcome for entry in await process.entries()} == {"pending"}
    assert (await process.scoreboard()).events == []
    bar_server.now = at(days[SERVED + 10], 15, 30)
    await process.background.round()
    entries = await process.entries()
    assert {entry.outcome for entry in entries} == {"matured"}
    asked = len(bar_server.calls)
    await process.background.round()
    assert len(bar_server.calls) == asked
    again = Process(tmp_path, bar_server)
    await again.background.round()
    assert await again.entries() == entries
    assert (await again.scoreboard()).events == (await process.scoreboard()).events


async def test_a_round_does_nothing_until_a_session_ends_or_something_is_frozen(
    process: Process, bar_server: BarServer, days: list[date], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[date] = []

    async def noting(board: Scoreboard, client: DataServiceClient, through: date, as_of: datetime) -> int:
        looked.append(through)
        return await mature(board, client, through, as_of)

    monkeypatch.setattr("ml_service.background.mature", noting)
    for _ in range(3):
        await process.background.round()
    await process.ask(bar_server.now)  # pyright: ignore[reportArgumentType]
    for _ in range(3):
        await process.background.round()
    bar_server.now = at(days[SERVED + 1], 15, 30)
    for _ in range(3):
        await process.background.round()
    assert looked == [days[SERVED], days[SERVED], days[SERVED + 1]]


async def test_an_outcome_falls_due_without_a_model_too(
    process: Process, bar_server: BarServer, registry: Registry, days: list[date]
) -> None:
    await process.ask(at(days[SERVED + 1], 11))
    lifecycle.demote(registry, process.service.environment, "10", at=bar_server.now, by="operator", reason="test")  # pyright: ignore[reportArgumentType]
    bar_server.now = at(days[SERVED + 10], 16)
    await process.background.round()
    assert {entry.outcome for entry in await process.entries()} == {"matured"}
    assert {(mode.state, mode.reason) for mode in (await process.scoreboard()).modes} == {
        ("insufficient_evidence", "no_model")
    }


async def test_the_background_task_runs_with_the_service_and_outlives_failures(
    tmp_path: Path, bar_server: BarServer, artefact: Artefact, days: list[date], monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: asyncio.Queue[Exception | None] = asyncio.Queue()
    real = Background.round

    async def observed(self: Background) -> None:
        try:
            await real(self)
        except Exception as error:
            rounds.put_nowait(error)
            raise
        rounds.put_nowait(None)

    monkeypatch.setattr(Background, "round", observed)
    bar_server.environment, right = type(bar_server.environment).PAPER, bar_server.environment
    process = Process(tmp_path, bar_server, scoreboard_interval_s=3600)
    async with process.app.router.lifespan_context(process.app):
        assert "simulated" in str(await asyncio.wait_for(rounds.get(), 20))
        bar_server.environment = right
        await process.ask(at(days[SERVED + 1], 11))
        # Woken by what was frozen, long before the interval is over.
        assert await asyncio.wait_for(rounds.get(), 20) is None
        assert await process.metric("sauda_ml_background_failures_total") == 1
        assert await process.metric("sauda_ml_scoreboard_predictions") == len(await process.entries())
        assert await process.metric("sauda_ml_model_age_days") == (days[SERVED + 1] - days[-31]).days


# ---- holding, demoting, shadows


def failing_record(board: Scoreboard, version: str, days: list[date], sessions: int, last_known: int = SERVED) -> None:
    """Sessions on which nothing came of what was stated, the last outcome known with session `last_known`."""
    first = len(days) + last_known - 10 - sessions + 1
    for number in range(first, first + sessions):
        rows = frozen(days[number], SYMBOLS[:2], version, strategy=STRATEGY, certified_modes=ALL_MODES)
        board.frozen.add(days[number], version, rows)
        hits: dict[str, Any] = {f"hit_{event}": number % 9 == 0 for event in EVENTS}
        known = outcomes(days[number], SYMBOLS[:2], days[number + 10], version, net_return=-0.05, **hits)
        board.outcomes.add(days[number], version, known)


async def test_a_mode_that_fails_in_public_is_held_and_said_so(
    process: Process, artefact: Artefact, days: list[date], tmp_path: Path, bar_server: BarServer
) -> None:
    now = at(days[SERVED + 1], 11)
    before = await process.ask(now)
    assert "aggressive" in before.certified_modes
    assert before.held_modes == {}
    failing_record(process.board, artefact.version, days, 110)
    assert (await process.ask(now)).held_modes == {}
    process.service.forget_states()
    for each in (process, Process(tmp_path, bar_server)):
        reply = await each.ask(now)
        assert reply.certified_modes == []
        assert set(reply.held_modes) == set(before.certified_modes)
        assert set(reply.held_modes.values()) == {"hit_rate_below_confidence"}
        assert all(not p.certified_modes for p in reply.predictions.values())
        modes = {mode.mode: mode for mode in (await each.scoreboard()).modes if mode.strategy == STRATEGY}
        for mode in before.certified_modes:
            assert (modes[mode].state, modes[mode].reason) == ("held", "hit_rate_below_confidence")
            assert modes[mode].episodes >= 10
            assert modes[mode].hit_rate is not None
    await process.background.round()
    assert await process.metric("sauda_ml_mode_held") == 3


async def test_a_hold_does_not_reach_back(
    process: Process, artefact: Artefact, bar_server: BarServer, days: list[date]
) -> None:
    """The tenth failing episode became known with session SERVED + 5: what was answered before knew nothing of it."""
    failing_record(process.board, artefact.version, days, 91, last_known=SERVED + 5)
    bar_server.now = at(days[-1], 16)
    for number, held in ((SERVED + 5, False), (SERVED + 6, True), (SERVED + 5, False)):
        assert bool((await process.ask(at(days[number], 11))).held_modes) is held


async def test_a_model_worse_than_its_base_rate_is_taken_out_of_service(
    process: Process, artefact: Artefact, registry: Registry, days: list[date]
) -> None:
    now = at(days[SERVED + 1], 11)
    failing_record(process.board, artefact.version, days, 205)
    assert (await process.ask(now)).model_version == artefact.version
    await process.background.round()
    assert registry.current(process.service.environment) == {}
    last = registry.pointers.history(process.service.environment)[-1].change
    assert (last.event, last.by) == ("demoted", "rule:monitor")
    assert {tuple(p.reasons) for p in (await process.ask(now)).predictions.values()} == {("no_model",)}


async def test_a_shadow_is_frozen_silently_and_judged_beside_the_current_model(
    process: Process, artefact: Artefact, registry: Registry, bar_server: BarServer, days: list[date]
) -> None:
    other = registry.register(artefact.models, artefact.calibrations, artefact.manifest | {"provider": "other"})
    environment = process.service.environment
    lifecycle.admit(registry, other, at=at(days[SERVED - 31], 10), ages=AGES)
    assert registry.slots(environment)["10"].shadow == other.sha256
    reply = await process.ask(at(days[SERVED + 1], 11))
    assert reply.model_version == artefact.version
    await process.background.round()
    shadows = process.board.read(shadow=True)
    assert (shadows["version"].unique().to_list(), shadows.height) == ([other.version], len(numbered(reply)))
    assert {entry.model_version for entry in await process.entries()} == {artefact.version}
    board = await process.scoreboard()
    assert board.frozen == len(numbered(reply))
    assert (await process.ask(at(days[SERVED + 1], 12))).model_version == artefact.version
    assert registry.current(environment) == {"10": artefact.sha256}
    # Twenty sessions beside each other, as they would have been frozen: the shadow states the same, so it is no worse.
    for day in days[SERVED - 31 : SERVED - 10]:
        for version, shadow in ((artefact.version, False), (other.version, True)):
            rows = frozen(day, SYMBOLS[:5], version, strategy=STRATEGY, shadow=shadow)
            process.board.frozen.add(day, version, rows)
            process.board.outcomes.add(day, version, outcomes(day, SYMBOLS[:5], day + timedelta(days=14), version))
    bar_server.now = at(days[SERVED + 1], 15, 30)
    await process.background.round()
    assert registry.current(environment) == {"10": other.sha256}
    assert registry.pointers.history(environment)[-1].change.by == "rule:brier"
    assert (await process.ask(bar_server.now)).model_version == other.version


# ---- routes


async def test_pages_hold_every_prediction_once_newest_first(
    process: Process, bar_server: BarServer, days: list[date]
) -> None:
    for number in range(SERVED + 1, SERVED + 4):
        bar_server.now = at(days[number], 11)
        await process.ask(bar_server.now)
    everything = await process.entries(limit=500)
    keys = [(-e.session.toordinal(), e.model_version, e.strategy, e.symbol) for e in everything]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
    assert len({e.session for e in everything}) == 3
    for limit in (1, 7, 40, len(keys) - 1, len(keys)):
        if limit > 1:
            assert await process.entries(limit=min(limit, 500)) == everything
    assert await process.entries(symbol="SIM03", limit=1) == [e for e in everything if e.symbol == "SIM03"]
    assert await process.entries(strategy=STRATEGY, limit=9) == [e for e in everything if e.strategy == STRATEGY]
    span = {"from": days[SERVED + 1].isoformat(), "to": days[SERVED + 1].isoformat()}
    assert await process.entries(**span, limit=11) == [e for e in everything if e.session == days[SERVED + 1]]
    assert await process.entries(symbol="NOSUCH") == []


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/v1/scoreboard/predictions", {"cursor": "x"}),
        ("/v1/scoreboard/predictions", {"cursor": f"2024-02-31~{'a' * 12}~momentum~TCS"}),
        ("/v1/scoreboard/predictions", {"limit": 0}),
        ("/v1/scoreboard/predictions", {"limit": 501}),
        ("/v1/scoreboard/predictions", {"symbol": "lower"}),
        ("/v1/scoreboard/predictions", {"from": "yesterday"}),
        ("/v1/scoreboard", {"strategy": "No Such"}),
        ("/v1/scoreboard", {"horizon_sessions": 0}),
        ("/v1/predictions/lower", {}),
        ("/v1/predictions/TCS", {"as_of": "2024-01-01T10:00:00"}),
        ("/v1/predictions/TCS/explanation", {"horizon_sessions": 61}),
    ],
)
async def test_bad_questions_are_refused_with_the_field(process: Process, path: str, query: dict[str, Any]) -> None:
    problem = (await process.get(path, 422, **query)).json()
    assert problem["code"] == "validation_failed"
    assert problem["errors"][0]["pointer"] == "/" + next(iter(query), "symbol")


async def test_one_symbol_is_answered_as_in_a_batch(process: Process, days: list[date]) -> None:
    now = at(days[SERVED + 1], 11)
    batch = await process.ask(now)
    symbol = next(iter(batch.candidates), SYMBOLS[0])
    for query in ({}, {"as_of": now.isoformat()}):
        reply = PredictionsReply.model_validate_json((await process.get(f"/v1/predictions/{symbol}", **query)).content)
        assert reply.as_of == now
        assert reply.predictions == {symbol: batch.predictions[symbol]}
        assert reply.candidates == {name: said for name, said in batch.candidates.items() if name == symbol}
    until = at(days[SERVED + 1] + timedelta(days=1), 0)
    assert {p.valid_until for p in numbered(batch).values()} == {until}


async def test_an_explanation_is_of_the_prediction_that_is_served(
    process: Process, bar_server: BarServer, days: list[date]
) -> None:
    batch = await process.ask(at(days[SERVED + 1], 11))
    symbol = next(symbol for symbol, p in batch.predictions.items() if p.confidence is not None)
    asked = len(bar_server.calls)
    why = ExplanationReply.model_validate_json((await process.get(f"/v1/predictions/{symbol}/explanation")).content)
    assert why.prediction == batch.predictions[symbol]
    assert (why.model_version, why.features_through) == (batch.model_version, days[SERVED])
    assert why.contributions
    assert why.votes
    assert len(bar_server.calls) == asked
    unknown = ExplanationReply.model_validate_json((await process.get("/v1/predictions/NOSUCH/explanation")).content)
    assert unknown.prediction.reasons == ["unknown_symbol"]
    assert (unknown.contributions, unknown.rest) == ([], None)


async def test_an_empty_record_is_a_scoreboard_too(process: Process) -> None:
    board = await process.scoreboard()
    assert (board.frozen, board.matured, board.events, board.as_of) == (0, 0, [], None)
    modes = [mode for mode in board.modes if mode.strategy == STRATEGY]
    assert {mode.mode for mode in modes} == {"conservative", "moderate", "aggressive"}
    assert all(mode.signals == 0 and mode.hit_rate is None for mode in modes)
    assert (await process.get("/v1/scoreboard/predictions")).json()["next_cursor"] is None


async def test_figures_for_prometheus(process: Process, days: list[date], bar_server: BarServer) -> None:
    reply = await process.ask(at(days[SERVED + 1], 11))
    proposed = sum(map(len, reply.candidates.values()))
    abstained = sum(p.confidence is None for p in reply.predictions.values())
    assert await process.metric("sauda_ml_predictions_served_total") == len(SYMBOLS) + proposed - abstained
    assert await process.metric("sauda_ml_computing_seconds_count") == 1
    await process.get("/v1/predictions/NOSUCH", as_of=at(days[SERVED + 1], 11).isoformat())
    assert 'sauda_ml_abstentions_total{reason="unknown_symbol"} 1.0' in (await process.get("/metrics")).text
    path = process.board.frozen.root / process.board.frozen.parts()[0].name
    path.write_bytes(path.read_bytes()[:-9])
    assert await process.entries() == []
    assert await process.metric("sauda_ml_scoreboard_damaged_files_total") == 1
