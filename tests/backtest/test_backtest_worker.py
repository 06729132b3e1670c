"""The worker: each backtest in a process of its own, whose crash, greed or slowness harms nobody else."""

import asyncio
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from sqlalchemy import func, select, text

from backend.backtest.job import GO, OOM_FIRST, Bounds
from backend.backtest.request import Rules
from backend.backtest.worker import (
    NOT_KEPT,
    WAITING_MAX,
    Child,
    Job,
    Pace,
    Place,
    Places,
    Stack,
    _Clock,
    serve,
)
from backend.domain.calendar import standard_calendar
from backend.models import Backtest, BacktestStatus, User
from backend.services import backtest_service as service
from backend.services.backtest_queue import ATTEMPTS_MAX, DIED, claim_next
from backend.services.market_calendar import MarketCalendar
from tests.api.rows import backtest_asked
from tests.support import backtest_jobs as jobs

WAIT_S_MAX = 30.0
PACE = Pace(poll_s=0.02, look_s=0.01, renew_s=0.05, lease_s=120.0)


@dataclass
class Desk:
    """A user's backtests and the database they are in."""

    sessions: Any
    user_id: int

    async def ask(self, request: dict[str, Any] | None = None) -> int:
        async with self.sessions.begin() as session:
            row = Backtest(user_id=self.user_id, status=BacktestStatus.QUEUED, request=request or {"name": "one"})
            session.add(row)
            await session.flush()
            return row.id

    async def until(self, backtest_id: int, what: Callable[[Backtest], bool]) -> Backtest:
        async with asyncio.timeout(WAIT_S_MAX):
            while True:
                async with self.sessions() as session:
                    row = await session.get_one(Backtest, backtest_id)
                if what(row):
                    return row
                await asyncio.sleep(0.02)

    async def ended(self, backtest_id: int) -> Backtest:
        return await self.until(backtest_id, lambda row: row.finished_at is not None)

    async def running(self, backtest_id: int) -> Backtest:
        return await self.until(backtest_id, lambda row: row.doing == "waiting")


@pytest.fixture
async def desk(sessions) -> Desk:
    async with sessions.begin() as session:
        user = User(email="asha@example.com")
        session.add(user)
        await session.flush()
        return Desk(sessions, user.id)


@asynccontextmanager
async def working(
    desk: Desk, job: Job, *, workers: int = 1, bounds: Bounds | None = None
) -> AsyncIterator[asyncio.Queue[str]]:
    """A worker under way; what it announces."""
    told: asyncio.Queue[str] = asyncio.Queue()
    stack = Stack(
        name="worker",
        sessions=desk.sessions,
        calendar=MarketCalendar(standard_calendar()),
        data_service_url="http://127.0.0.1:1",
        ml_service_url="http://127.0.0.1:1",
        rules=Rules(),
        bounds=bounds or Bounds(memory_mb_max=1024, seconds_max=60),
        announce=told.put_nowait,
        pace=PACE,
        job=job,
    )
    stopping = asyncio.Event()
    serving = asyncio.create_task(serve(stack, workers, stopping))
    try:
        yield told
    finally:
        stopping.set()
        await serving


def children() -> list[psutil.Process]:
    """The processes of jobs; multiprocessing's own helper is none."""
    return [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]


async def test_a_job_is_done_and_its_result_kept(desk: Desk) -> None:
    made = await desk.ask({"name": "asha's own"})
    async with working(desk, jobs.answers) as told:
        row = await desk.ended(made)
    assert (row.status, row.error, row.attempts) == (BacktestStatus.DONE, None, 1)
    async with desk.sessions() as session:
        assert (await service.backtest_of(session, desk.user_id, made)).summary == {"asked": {"name": "asha's own"}}
        assert await service.report_of(session, desk.user_id, made) == b"<p>asha's own</p>"
    assert f"backtest {made}: done" in told.get_nowait()


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (jobs.aborts, "SIGABRT. It needs more than the 1024 MB"),
        (jobs.vanishes, "exit status 7"),
        (jobs.tells_nonsense, NOT_KEPT),
        (jobs.devours, "It needs more than the 1024 MB it may have: ask for fewer days"),
        (jobs.crashes, "Something went wrong in it"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_what_goes_wrong_in_a_job_is_said_and_stops_nothing(desk: Desk, job: Job, why: str) -> None:
    made = await desk.ask()
    async with working(desk, job):
        row = await desk.ended(made)
        assert row.status is BacktestStatus.FAILED
        assert why in (row.error or "")
        assert "secret" not in (row.error or "")
        assert not children()
        if job is jobs.vanishes:  # the worker goes on
            assert (await desk.ended(await desk.ask())).attempts == 1


async def test_a_cancelled_job_is_gone_within_a_moment(desk: Desk) -> None:
    made = await desk.ask()
    async with working(desk, jobs.hangs):
        row = await desk.running(made)
        assert (row.done, row.total) == (1, 4)
        assert len(children()) == 1
        async with desk.sessions.begin() as session:
            await service.withdraw(session, desk.user_id, made)
        assert (await desk.ended(made)).status is BacktestStatus.CANCELLED
        assert not children()


async def test_a_job_has_its_time_and_no_more(desk: Desk) -> None:
    made = await desk.ask()
    async with working(desk, jobs.hangs, bounds=Bounds(memory_mb_max=4096, seconds_max=0)):
        row = await desk.ended(made)
    assert (row.status, row.error) == (
        BacktestStatus.FAILED,
        "It took longer than 0 s: ask for fewer days, shares or combinations.",
    )


async def test_a_job_that_waits_for_models_needs_no_place_and_no_time(desk: Desk, tmp_path: Path) -> None:
    async with desk.sessions.begin() as session:
        await session.execute(text("UPDATE plans SET backtests_at_once = 2 WHERE code = 'free'"))
    os.mkfifo(tmp_path / "models")
    first, second = await desk.ask({"models": str(tmp_path / "models")}), await desk.ask()
    async with working(desk, jobs.learns) as told:
        assert (await desk.ended(second)).status is BacktestStatus.DONE
        row = await desk.until(first, lambda row: row.doing != "")
        assert (row.status, row.doing) == (BacktestStatus.RUNNING, "walking forward: fold 1 of 4")
        await asyncio.to_thread((tmp_path / "models").write_bytes, b"trained")
        assert (await desk.ended(first)).status is BacktestStatus.DONE
        async with asyncio.timeout(WAIT_S_MAX):
            assert [(await told.get()).split(":")[0].split()[-1] for _ in range(2)] == [str(second), str(first)]
    async with desk.sessions() as session:
        summary = (await service.backtest_of(session, desk.user_id, first)).summary
    assert summary == {"oom_score_adj": OOM_FIRST}


async def test_who_has_waited_for_models_too_long_is_told_to_ask_again(desk: Desk, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "models")
    made = await desk.ask({"models": str(tmp_path / "models")})
    async with working(desk, jobs.learns, bounds=Bounds(memory_mb_max=4096, seconds_max=60, wait_s_max=0)):
        row = await desk.ended(made)
    assert row.status is BacktestStatus.FAILED
    assert row.error == (
        "The models of the past were still being trained after 0 s: the training goes on, ask again later."
    )


def test_only_work_counts_as_work() -> None:
    ours, _ = multiprocessing.get_context("spawn").Pipe()
    child = Child(cast("SpawnProcess", None), ours)
    clock, bounds = _Clock(looked=0.0), Bounds(memory_mb_max=1, seconds_max=10, wait_s_max=100)
    assert clock.late(9.0, child, bounds) is None
    child.waiting = True
    assert clock.late(108.0, child, bounds) is None
    child.waiting, child.waited = False, True
    assert clock.late(500.0, child, bounds) is None
    child.waited = False
    assert clock.late(500.5, child, bounds) is None
    assert "longer than 10 s" in (clock.late(501.5, child, bounds) or "")


def test_who_comes_back_from_waiting_is_before_new_ones_and_has_its_turn() -> None:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    child, places = Child(cast("SpawnProcess", None), ours), Places(1)
    place = Place(places)
    assert not places.for_new
    child.waiting = True
    place.follow(child)
    other = Place(places)
    assert (places.free, places.waiting) == (0, 1)
    child.waiting, child.waited = False, True
    place.follow(child)
    assert not theirs.poll()
    other.leave()
    assert (places.free, places.for_new) == (1, False)
    place.follow(child)
    assert theirs.recv() == GO
    assert (places.free, child.waited) == (0, False)
    place.leave()
    assert places == Places(1)


@pytest.mark.parametrize("step", ["waiting", "waited", "over"])
def test_a_job_that_ends_wherever_it_stands_leaves_no_trace(step: str) -> None:
    ours, _theirs = multiprocessing.get_context("spawn").Pipe()
    child, places = Child(cast("SpawnProcess", None), ours), Places(2)
    place, other = Place(places), Place(places)
    child.waiting = True
    place.follow(child)
    third = Place(places)
    if step != "waiting":
        child.waiting, child.waited = False, True
        place.follow(child)
    if step == "over":
        third.leave()
        place.follow(child)
    place.leave()
    other.leave()
    if step != "over":
        third.leave()
    assert places == Places(2)


def test_only_so_many_wait_beside_those_that_work() -> None:
    ours, _ = multiprocessing.get_context("spawn").Pipe()
    child, places = Child(cast("SpawnProcess", None), ours, waiting=True), Places(1)
    for _ in range(WAITING_MAX + 1):
        Place(places).follow(child)
    assert (places.waiting, places.free) == (WAITING_MAX, 0)


async def test_a_worker_that_stops_gives_back_what_it_has(desk: Desk) -> None:
    made = await desk.ask()
    async with working(desk, jobs.hangs):
        await desk.running(made)
    row = await desk.until(made, lambda row: True)
    assert (row.status, row.attempts) == (BacktestStatus.QUEUED, 0)
    assert not children()


async def test_who_lost_the_claim_stops_and_writes_nothing(desk: Desk) -> None:
    made = await desk.ask()
    async with working(desk, jobs.hangs) as told:
        await desk.running(made)
        async with desk.sessions.begin() as session:
            await session.execute(text("UPDATE backtests SET claim = 'another', doing = 'theirs'"))
        async with asyncio.timeout(WAIT_S_MAX):
            assert "lost to another worker" in await told.get()
    row = await desk.until(made, lambda row: True)
    assert (row.status, row.claim, row.doing) == (BacktestStatus.RUNNING, "another", "theirs")


async def test_jobs_run_together_as_many_as_there_are_workers(desk: Desk) -> None:
    async with desk.sessions.begin() as session:
        await session.execute(text("UPDATE plans SET backtests_at_once = 4 WHERE code = 'free'"))
    made = [await desk.ask() for _ in range(3)]
    async with working(desk, jobs.hangs, workers=2):
        await desk.running(made[0])
        await desk.running(made[1])
        async with desk.sessions() as session:
            running = select(func.count()).where(Backtest.status == BacktestStatus.RUNNING)
            assert await session.scalar(running) == 2
        assert len(children()) == 2


# ---- the real process, started as an operator does, with the real job in its process


@contextmanager
def process(database_url: str, data_service_url: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m backend.backtest`; it is gone afterwards."""
    environment = os.environ | {
        "DATABASE_URL": database_url,
        "DATA_SERVICE_URL": data_service_url,
        "ML_SERVICE_URL": data_service_url,
        "DATA_DIR": str(folder),
    }
    with (folder / "worker.out").open("ab") as output:
        running = subprocess.Popen(
            [sys.executable, "-m", "backend.backtest"], env=environment, stdout=output, stderr=output
        )
        try:
            yield running
        finally:
            running.kill()
            running.wait()


def job_of(worker: subprocess.Popen[bytes]) -> psutil.Process | None:
    """The process of the job that a worker does."""
    try:
        found = [p for p in psutil.Process(worker.pid).children() if "spawn_main" in " ".join(p.cmdline())]
    except psutil.Error:
        return None
    return found[0] if found else None


async def test_a_killed_workers_job_dies_with_it_and_is_done_once_more(
    desk: Desk, database_url: str, tmp_path: Path
) -> None:
    made = await desk.ask(backtest_asked())
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with process(database_url, url, tmp_path) as worker:
            await desk.until(made, lambda row: row.status is BacktestStatus.RUNNING)
            job: psutil.Process | None = None
            async with asyncio.timeout(WAIT_S_MAX):
                while job is None:
                    await asyncio.sleep(0.02)
                    job = job_of(worker)
            worker.kill()
            assert not (await asyncio.to_thread(psutil.wait_procs, [job], WAIT_S_MAX))[1]
    assert await claim_next(desk.sessions, "another", 60) is None  # its lease lasts
    await silence(desk)
    again = await claim_next(desk.sessions, "another", 60)
    assert again is not None
    assert (again.backtest_id, again.request) == (made, backtest_asked())
    await silence(desk)
    assert await claim_next(desk.sessions, "a third", 60) is None
    row = await desk.ended(made)
    assert (row.status, row.error, row.attempts) == (BacktestStatus.FAILED, DIED, ATTEMPTS_MAX)


async def silence(desk: Desk) -> None:
    """The lease is over, as if nothing had been heard of the worker for so long."""
    async with desk.sessions.begin() as session:
        await session.execute(text("UPDATE backtests SET claimed_until = now() - interval '1 second'"))


async def test_a_backtest_without_a_market_says_so_and_the_worker_goes_on_until_it_is_told_to_stop(
    desk: Desk, database_url: str, tmp_path: Path
) -> None:
    made = await desk.ask(backtest_asked())
    with process(database_url, "http://127.0.0.1:1", tmp_path) as worker:
        row = await desk.ended(made)
        assert (row.status, row.attempts) == (BacktestStatus.FAILED, 1)
        assert "did not answer" in (row.error or "")
        assert worker.poll() is None
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait, WAIT_S_MAX) == 0
