"""A walk-forward is made once, in the background, one at a time; it outlives its process, and tells of every day."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from threading import Event

import httpx
import polars as pl
import pytest
from bar_server import IST, BarServer, serving
from synthetic_market import simulate
from test_history import QUICK

from contracts.common import Environment
from contracts.predictions import (
    PredictionHistoryReply,
    WalkForwardReply,
    WalkForwardStatus,
)
from ml_service import evidence, history, history_service, predict, strategies, walkforward
from ml_service.client import DataServiceClient
from ml_service.config import Settings
from ml_service.history import Run, sessions_of, walk_history
from ml_service.history_files import RUNS_KEPT_MAX, RunFiles
from ml_service.history_service import HistoryService
from ml_service.main import create_app

SYMBOLS = [f"SIM{number:02d}" for number in range(10)]


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """One linear strategy, and certificates for a few episodes: what is tested is how a run is kept and told."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (strategies, walkforward, predict, history):
            patch.setattr(module, "STRATEGIES", (QUICK,))
        patch.setattr(evidence, "EPISODES_MIN", 2)
        patch.setattr(history_service, "walk_apart", walk_history)  # a process of its own would not be patched
        yield


@pytest.fixture(scope="module")
def bars() -> pl.DataFrame:
    return simulate(1.0, symbols=len(SYMBOLS), sessions=790, seed=5)


@pytest.fixture(scope="module")
def server(bars: pl.DataFrame) -> Iterator[BarServer]:
    with serving(BarServer(bars)) as running:
        yield running


@pytest.fixture(scope="module")
def as_of(bars: pl.DataFrame) -> datetime:
    return datetime.combine(bars["session"].max(), time(20), IST)  # pyright: ignore[reportArgumentType]


@asynccontextmanager
async def client_of(folder: Path, url: str) -> AsyncIterator[tuple[httpx.AsyncClient, HistoryService]]:
    settings = Settings(environment=Environment.SIMULATED, data_dir=folder, data_service_url=url, _env_file=None)
    app = create_app(settings, lambda: datetime.now(UTC))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://ml") as client:
        yield client, app.state.history
    await app.state.history.close()


async def walk(client: httpx.AsyncClient, as_of: datetime) -> WalkForwardReply:
    asked = {"through": as_of.date().isoformat(), "as_of": as_of.isoformat()}
    return WalkForwardReply.model_validate_json((await client.post("/v1/walk-forward", json=asked)).content)


async def finished(client: httpx.AsyncClient, service: HistoryService, as_of: datetime) -> WalkForwardReply:
    """Wait for what was started, without looking at a clock."""
    await walk(client, as_of)
    await asyncio.gather(*(one.task for one in service._walks.values() if one.task))
    return await walk(client, as_of)


async def past(client: httpx.AsyncClient, from_: date, as_of: datetime, **given: object) -> httpx.Response:
    asked = {
        "symbols": SYMBOLS,
        "from": from_.isoformat(),
        "through": as_of.date().isoformat(),
        "as_of": as_of.isoformat(),
    }
    return await client.post("/v1/predictions/history", json=asked | given)


async def test_it_is_made_once_and_told_day_by_day(tmp_path: Path, server: BarServer, as_of: datetime) -> None:
    async with client_of(tmp_path, server.url) as (client, service):
        started = await walk(client, as_of)
        assert (started.status, started.first) == (WalkForwardStatus.RUNNING, None)
        assert (await past(client, as_of.date(), as_of)).json()["code"] == "walk_forward_not_ready"
        ready = await finished(client, service, as_of)
        assert (ready.status, ready.last, ready.done) == (WalkForwardStatus.READY, as_of.date(), ready.total)
        asked = len(server.calls)
        assert {call.adjusted for call in server.calls} == {True, False}
        assert {call.as_of for call in server.calls} == {datetime.combine(as_of.date(), time(), IST)}
        assert (await walk(client, as_of)).status is WalkForwardStatus.READY
        assert len(server.calls) == asked
        assert ready.first is not None
        reply = PredictionHistoryReply.model_validate_json(
            (await past(client, ready.first - timedelta(days=1), as_of)).content
        )
        early = await past(client, as_of.date() - timedelta(days=400), as_of)
        assert early.json()["code"] == "too_many_days"
    async with DataServiceClient(server.url, 10) as data:
        _, before = await data.bars(SYMBOLS, date(2000, 1, 1), as_of.date() - timedelta(days=1), as_of)
    expected = walk_history(before, before.select("symbol", "session", raw="close"), 10, as_of.date())
    assert reply.sessions == list(sessions_of(expected, SYMBOLS, ready.first, as_of.date()))
    assert sum(len(session.predictions) for session in reply.sessions) > 20
    assert list(reply.unanswered) == [ready.first - timedelta(days=1)]


async def test_the_next_process_finds_it_again_unless_the_bars_are_others(
    tmp_path: Path, server: BarServer, bars: pl.DataFrame, as_of: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_of(tmp_path, server.url) as (client, service):
        first = await finished(client, service, as_of)
    walked: list[int] = []

    def again(known: pl.DataFrame, *args: object, **given: object) -> Run:
        walked.append(known.height)
        return walk_history(known, *args, **given)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(history_service, "walk_apart", again)
    async with client_of(tmp_path, server.url) as (client, service):
        found = await finished(client, service, as_of)
        assert (found.status, found.first, found.last) == (WalkForwardStatus.READY, first.first, first.last)
        assert walked == []
        monkeypatch.setattr(history_service, "FRESH_S", -1.0)
        monkeypatch.setattr(server, "bars", bars.filter(pl.col("symbol") != "SIM09"))
        assert (await walk(client, as_of)).status is WalkForwardStatus.RUNNING
        assert (await past(client, as_of.date(), as_of)).is_success  # the old one, until the new one is there
        await asyncio.gather(*(one.task for one in service._walks.values() if one.task))
        assert len(walked) == 1


async def test_a_store_that_has_not_changed_is_not_read_again(
    tmp_path: Path, server: BarServer, bars: pl.DataFrame, as_of: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "data_version", "first")
    async with client_of(tmp_path, server.url) as (client, service):
        first = await finished(client, service, as_of)
    asked = len(server.calls)
    async with client_of(tmp_path, server.url) as (client, service):
        again = await finished(client, service, as_of)
        assert (again.status, again.first, again.last) == (WalkForwardStatus.READY, first.first, first.last)
        assert len(server.calls) == asked
    monkeypatch.setattr(server, "data_version", "second")
    monkeypatch.setattr(server, "bars", bars.filter(pl.col("symbol") != "SIM09"))
    async with client_of(tmp_path, server.url) as (client, service):
        await finished(client, service, as_of)
        assert len(server.calls) > asked


async def test_one_walks_at_a_time_and_a_stopped_one_goes_on(
    tmp_path: Path, server: BarServer, as_of: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), Event()
    loop = asyncio.get_running_loop()
    real = history_service.walk_apart

    def held(*args: object, **given: object) -> Run:
        given["checkpoint"].save("ensemble", 1, {})  # pyright: ignore[reportAttributeAccessIssue]
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(20)
        return real(*args, **given)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(history_service, "walk_apart", held)
    async with client_of(tmp_path, server.url) as (client, service):
        await walk(client, as_of)
        other = await walk(client, as_of - timedelta(days=1))
        async with asyncio.timeout(20):
            await begun.wait()
        other = await walk(client, as_of - timedelta(days=1))
        assert (other.status, other.what.split()[0]) == (WalkForwardStatus.RUNNING, "waiting")
        monkeypatch.setattr(history_service, "WAITING_MAX", 2)
        asked = {"through": "2020-01-01", "as_of": "2020-01-02T09:00:00+05:30"}
        refused = await client.post("/v1/walk-forward", json=asked)
        assert (refused.status_code, refused.json()["code"]) == (409, "too_many_walk_forwards")
        service._stopping.set()
        go_on.set()
        await asyncio.gather(*(one.task for one in service._walks.values() if one.task))
        stopped = await walk(client, as_of)
        assert (stopped.status, "stopped" in stopped.what) == (WalkForwardStatus.FAILED, True)
    assert len(list((tmp_path / "models").glob(".walking-*"))) == 2
    async with client_of(tmp_path, server.url) as (client, service):
        assert (await finished(client, service, as_of)).status is WalkForwardStatus.READY
    assert len(list((tmp_path / "models").glob(".walking-*"))) == 1


async def test_a_failure_is_told_and_the_next_question_starts_anew(tmp_path: Path, as_of: datetime) -> None:
    async with client_of(tmp_path, "http://127.0.0.1:9") as (client, service):
        failed = await finished(client, service, as_of)
        assert (failed.status, failed.what) == (WalkForwardStatus.FAILED, "/v1/clock: ConnectError")
        assert (await walk(client, as_of)).status is WalkForwardStatus.RUNNING
        late = {"through": (as_of.date() + timedelta(days=1)).isoformat(), "as_of": as_of.isoformat()}
        refused = await client.post("/v1/walk-forward", json=late)
        assert refused.json()["code"] == "through_after_as_of"


def test_kept_runs_are_whole_or_made_again(tmp_path: Path) -> None:
    files, run = (
        RunFiles(tmp_path / "runs"),
        Run(*(schema.to_frame() for schema in (history.DAYS, history.SAID, history.IDLE))),
    )
    files.save("one", run)
    files.save("one", run)
    assert files.load("one") is not None
    (tmp_path / "runs" / "one" / "said.parquet").write_bytes(b"PAR1")
    assert files.load("one") is None
    assert not (tmp_path / "runs" / "one").exists()
    for number in range(RUNS_KEPT_MAX + 3):
        files.save(f"run{number}", run)
    assert len(list((tmp_path / "runs").iterdir())) == RUNS_KEPT_MAX
