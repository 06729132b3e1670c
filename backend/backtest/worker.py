"""The worker: takes backtests out of the queue and does each in a process of its own, which it watches over."""

import asyncio
import multiprocessing
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, cast

import structlog
from sqlalchemy.exc import SQLAlchemyError

from backend.backtest.job import GO, Bounds, Message, too_large, work
from backend.backtest.request import Rules, World
from backend.db import Sessions, is_about_data
from backend.services import backtest_queue as queue
from backend.services.backtest_queue import Claim, Progress, Standing
from backend.services.market_calendar import MarketCalendar

log = structlog.get_logger()

AWAY = (SQLAlchemyError, OSError, TimeoutError)
"""What an unreachable database raises."""

WAITING_MAX = 4
"""Jobs of a worker that wait for models without a place; each holds the bars it has read. Others keep their place."""

NOT_KEPT = "Its result could not be kept: tell the operator, whose log says why."

Job = Callable[[Connection, World, Mapping[str, Any], Bounds], None]


@dataclass(frozen=True, slots=True)
class Pace:
    """Real seconds: between looks at the queue and at a running job, between renewals, and how long a claim outlives a
    silent worker."""

    poll_s: float = 1.0
    look_s: float = 0.1
    renew_s: float = 1.0
    lease_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Stack:
    """What a worker works with; `name` tells it from others in claims."""

    name: str
    sessions: Sessions
    calendar: MarketCalendar
    data_service_url: str
    ml_service_url: str
    rules: Rules
    bounds: Bounds
    announce: Callable[[str], None]
    pace: Pace = field(default_factory=Pace)
    job: Job = work


@dataclass(slots=True)
class Child:
    """A job under way: what it has told so far, and its end. `waiting`: for the models of the past; `waited`: it needs
    a word to go on."""

    process: SpawnProcess
    pipe: Connection
    progress: Progress = field(default_factory=Progress)
    waiting: bool = False
    waited: bool = False
    outcome: Message | None = None

    def listen(self) -> None:
        """Take in what the job has sent. One that ended without an outcome gets one."""
        alive = self.process.is_alive()
        try:
            while self.pipe.poll():
                kind, told = self.pipe.recv()
                if kind in ("progress", "waiting"):
                    self.progress, self.waiting = Progress(*told), kind == "waiting"
                elif kind == "waited":
                    self.waiting, self.waited = False, True
                else:
                    self.outcome = (kind, told)
        except (EOFError, OSError):
            alive = False
        if not alive and self.outcome is None:
            self.process.join()
            self.outcome = ("died", self.process.exitcode)

    def go_on(self) -> None:
        """Let one that waited go on; one that has died meanwhile is noticed elsewhere."""
        self.waited = False
        with suppress(OSError):
            self.pipe.send(GO)

    def end(self) -> None:
        """Kill it, if it still runs: it owns nothing that could be left half-done."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


@dataclass(slots=True)
class Places:
    """How many jobs may run now. One that waits for models needs no place, and gets one again before new jobs do."""

    free: int
    waiting: int = 0
    returning: int = 0

    @property
    def for_new(self) -> bool:
        """Whether a new job may begin."""
        return self.free > self.returning


@dataclass(slots=True)
class Place:
    """One job's place among `places`: had from its start to its end, but for the time it waits for models."""

    places: Places
    had: bool = True
    returning: bool = False

    def __post_init__(self) -> None:
        self.places.free -= 1

    def follow(self, child: Child) -> None:
        """Give the place up when the job begins to wait, and let it go on where there is one again."""
        places = self.places
        if child.waiting and self.had and places.waiting < WAITING_MAX:
            self.had, places.free, places.waiting = False, places.free + 1, places.waiting + 1
        if not child.waited:
            return
        if not self.had and not self.returning:
            self.returning, places.waiting, places.returning = True, places.waiting - 1, places.returning + 1
        if self.returning and places.free > 0:
            self.had, self.returning = True, False
            places.free, places.returning = places.free - 1, places.returning - 1
        if self.had:
            child.go_on()

    def leave(self) -> None:
        """The job is over, wherever it stood."""
        places = self.places
        if self.had:
            places.free += 1
        elif self.returning:
            places.returning -= 1
        else:
            places.waiting -= 1


async def serve(stack: Stack, workers: int, stopping: asyncio.Event) -> None:
    """Run up to `workers` backtests at once until `stopping`; what is under way then goes back to the queue."""
    places = Places(workers)
    async with asyncio.TaskGroup() as jobs:
        while not stopping.is_set():
            if not places.for_new:
                await _wait(stopping, stack.pace.look_s)
            elif (claim := await _claimed(stack)) is not None:
                jobs.create_task(_work(stack, claim, Place(places), stopping))
            else:
                await _wait(stopping, stack.pace.poll_s)


async def _claimed(stack: Stack) -> Claim | None:
    """The next backtest of the queue, with a calendar of now."""
    try:
        claim = await queue.claim_next(stack.sessions, stack.name, stack.pace.lease_s)
        if claim is not None:
            await stack.calendar.refresh(stack.sessions)
    except AWAY as error:
        log.warning("queue_unreachable", error=repr(error))
        return None
    return claim


async def _wait(stopping: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return


async def _work(stack: Stack, claim: Claim, place: Place, stopping: asyncio.Event) -> None:
    """Do one backtest; whatever becomes of it, its row says so."""
    started = time.monotonic()
    try:
        child = _start(stack, claim)
        try:
            settle = await _watched(stack, claim, child, place, stopping)
        finally:
            child.end()
    finally:
        place.leave()
    await _settled(stack, claim, settle)
    stack.announce(f"    ~    backtest {claim.backtest_id}: {settle.said} after {time.monotonic() - started:.1f} s")


def _start(stack: Stack, claim: Claim) -> Child:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    world = World(stack.data_service_url, stack.ml_service_url, stack.rules, stack.calendar.calendar)
    arguments = (theirs, world, claim.request, stack.bounds)
    process = context.Process(target=stack.job, args=arguments, name=f"backtest-{claim.backtest_id}")
    process.start()
    theirs.close()
    return Child(process, cast("Connection", ours))


@dataclass(frozen=True, slots=True)
class Settle:
    """What to write about a job, None where nothing may be written any more, and how to say it in a word."""

    said: str
    write: Callable[[], Any] | None


async def _watched(stack: Stack, claim: Claim, child: Child, place: Place, stopping: asyncio.Event) -> Settle:
    """Renew the claim while the job goes on, until there is something to settle."""
    sessions, pace = stack.sessions, stack.pace
    renewed = held = time.monotonic()
    clock = _Clock(looked=renewed)
    while True:
        child.listen()
        place.follow(child)
        if child.outcome is not None:
            return _outcome(stack, claim, child.outcome)
        if stopping.is_set():
            return Settle("given back", lambda: queue.release(sessions, claim))
        now = time.monotonic()
        if (late := clock.late(now, child, stack.bounds)) is not None:
            return Settle("too long", lambda: queue.fail(sessions, claim, late))
        if now - renewed >= pace.renew_s:
            renewed = now
            standing = await _renewed(stack, claim, child.progress)
            if standing is Standing.CANCEL:
                return Settle("cancelled", lambda: queue.cancelled(sessions, claim))
            held = now if standing is Standing.HELD else held
            if standing is Standing.LOST or now - held > pace.lease_s:
                return Settle("lost to another worker", None)
        await _wait(stopping, pace.look_s)


@dataclass(slots=True)
class _Clock:
    """Seconds that a job has worked, and waited for models; until it has a place again, none count."""

    looked: float
    worked_s: float = 0.0
    waited_s: float = 0.0

    def late(self, now: float, child: Child, bounds: Bounds) -> str | None:
        """Why the job must end now, if it must."""
        passed, self.looked = now - self.looked, now
        if child.waiting:
            self.waited_s += passed
        elif not child.waited:
            self.worked_s += passed
        if self.waited_s > bounds.wait_s_max:
            return (
                f"The models of the past were still being trained after {bounds.wait_s_max} s: the training goes on, "
                "ask again later."
            )
        if self.worked_s > bounds.seconds_max:
            return f"It took longer than {bounds.seconds_max} s: ask for fewer days, shares or combinations."
        return None


async def _renewed(stack: Stack, claim: Claim, progress: Progress) -> Standing | None:
    try:
        return await queue.renew(stack.sessions, claim, progress, stack.pace.lease_s)
    except AWAY as error:
        log.warning("claim_not_renewed", backtest=claim.backtest_id, error=repr(error))
        return None


def _outcome(stack: Stack, claim: Claim, outcome: Message) -> Settle:
    sessions = stack.sessions
    kind, told = outcome
    if kind == "done":
        summary, html = told
        report = queue.packed(html)
        return Settle("done", lambda: queue.finish(sessions, claim, summary, report))
    if kind == "failed":
        return Settle(f"failed ({told})", lambda: queue.fail(sessions, claim, told))
    why = _death(told, stack.bounds)
    log.error("backtest_died", backtest=claim.backtest_id, exit_code=told)
    return Settle(f"failed ({why})", lambda: queue.fail(sessions, claim, why))


def _death(exit_code: int | None, bounds: Bounds) -> str:
    """Why a job ended without a word. Libraries abort where Python would raise MemoryError; the system kills."""
    if exit_code in (-signal.SIGABRT, -signal.SIGKILL, -signal.SIGSEGV, -signal.SIGBUS):
        return f"Its process ended by {signal.Signals(-exit_code).name}. " + too_large(bounds.memory_mb_max)
    return f"Its process ended with exit status {exit_code}: ask again, and tell the operator if it happens again."


async def _settled(stack: Stack, claim: Claim, settle: Settle) -> None:
    """Write what is to be written, again and again while the database is away and the claim lasts."""
    until = time.monotonic() + stack.pace.lease_s
    while True:
        try:
            if settle.write is not None and not await settle.write():
                log.warning("claim_lost", backtest=claim.backtest_id, outcome=settle.said)
            return
        except AWAY as error:
            log.warning("outcome_not_written", backtest=claim.backtest_id, error=repr(error))
            if is_about_data(error):
                settle = Settle("not kept", lambda: queue.fail(stack.sessions, claim, NOT_KEPT))
            if time.monotonic() > until:
                return
            await asyncio.sleep(stack.pace.renew_s)
