"""The kill switch pulled while hundreds of orders are queued, with each dependency down in turn, then SIGKILL."""

import argparse
import asyncio
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text

from backend.db import create_engine, create_sessions
from backend.domain.trading_states import Scope
from tests.crash import gateway
from tests.crash.children import Child, Say, Work, run_all, run_child
from tests.crash.figures import Result, Row, largest
from tests.crash.gateway import Wires, bearer, first, words
from tests.crash.halt_queue import (
    GIVE_UP_S,
    QUEUE,
    SYMBOLS,
    TEMPLATE,
    USERS,
    copy_database,
    lay_out,
    network,
    next_trader,
    trader,
)
from tests.crash.world import FIRST_TICK, TICK, Hall, Stage, tear_down
from tests.support.broker_book import Mode

QUEUED_MIN = 100
SENT_FIRST = 8
LATE_S = 1.0
CALL_S_MAX = 3.0
"""Below a second where nothing else runs; the rest is for a busy machine."""
OBSERVED_S = 1.6
LOOK_S = 0.02
CONTROL_TIMEOUT_S = 10.0


class Down(StrEnum):
    """What is not there when the switch is pulled, or (the last two) once it has been, and from the start."""

    NOTHING = "nothing"
    ML_SERVICE = "ml_service"
    DATA_SERVICE = "data_service"
    BROKER_HANGS = "broker_hangs"
    DATABASE_CUT = "database_cut_after_the_commit"
    DATABASE = "database"


@dataclass(frozen=True, slots=True)
class Pull:
    """One round: who is halted, and what is down."""

    down: Down
    scope: Scope = Scope.PLATFORM

    @property
    def stage_name(self) -> str:
        return f"halt_{self.down}_{self.scope}"


PULLS = (*map(Pull, Down), Pull(Down.NOTHING, Scope.USER))
SHORT_PULLS = (Pull(Down.NOTHING), Pull(Down.DATABASE))


@dataclass(slots=True)
class Round:
    """The processes of one round, and how to talk to them."""

    stage: Stage
    pull: Pull
    admin_id: int
    user_id: int
    account_id: int
    data: Child
    ml: Child
    network: Child
    gateway: Child
    trader: Child

    def control(self, method: str, what: str, body: Any = None) -> Any:
        """The broker's own control, past every proxy."""
        url = f"{self.stage.broker_url}/control/{what}"
        return httpx.request(method, url, json=body, timeout=CONTROL_TIMEOUT_S).raise_for_status().json()

    def behave(self, *modes: Mode) -> None:
        self.control("PUT", "behaviour", {"modes": modes})

    def arrivals(self) -> list[dict[str, Any]]:
        return self.control("GET", "truth")["arrivals"]

    def of_scope(self) -> list[dict[str, Any]]:
        """The arrivals of whom the halt concerns."""
        everybody = self.pull.scope is Scope.PLATFORM
        return [arrival for arrival in self.arrivals() if everybody or arrival["account"] == self.account_id]

    def take_down(self) -> None:
        """What goes while orders are being sent."""
        match self.pull.down:
            case Down.ML_SERVICE:
                self.ml.signal(signal.SIGKILL)
            case Down.DATA_SERVICE:
                self.data.signal(signal.SIGKILL)
            case Down.BROKER_HANGS:
                self.behave(Mode.ACCEPT_THEN_HANG, Mode.BOOK_HANGS)
            case Down.NOTHING | Down.DATABASE_CUT | Down.DATABASE:
                pass

    def throw(self) -> tuple[int, float]:
        """Pull the switch over HTTP: the status, and the seconds it took."""
        by_user = self.pull.scope is Scope.USER
        path = "/v1/kill-switch" if by_user else "/v1/admin/kill-switch"
        body = {"reason": "enough"} | ({} if by_user else {"scope": "platform"})
        headers = bearer(self.user_id if by_user else self.admin_id)
        began = time.monotonic()
        reply = httpx.post(f"{first(self.gateway)}{path}", json=body, headers=headers, timeout=GIVE_UP_S)
        return reply.status_code, time.monotonic() - began

    def end(self) -> None:
        for child in (self.trader, self.gateway, self.network, self.data, self.ml):
            child.signal(signal.SIGKILL)
            child.end()


def start(stage: Stage, pull: Pull, ids: tuple[int, int, int], folder: Path, mute: str) -> Round:
    """Start every process of a round; the trader's orders are recorded, none is sent."""
    data, ml = (Child(partial(gateway.market, FIRST_TICK, SYMBOLS)) for _ in range(2))
    net = Child(partial(network, stage, folder, pull.down is Down.DATABASE_CUT))
    database_url = f"{stage.database_url.partition('?host=')[0]}?host={folder}"
    wires = Wires(database_url, first(net), first(data), first(ml))
    broker_url = mute if pull.down is Down.BROKER_HANGS else first(net)
    door = Child(partial(gateway.gateway, Wires(database_url, broker_url, first(data), first(ml))))
    worker = Child(partial(trader, wires))
    made = Round(stage, pull, *ids, data, ml, net, door, worker)
    made.behave(Mode.REST)
    first(door)
    return made


def one_pull(place: Hall, pull: Pull, ids: tuple[int, int, int]) -> Work:
    """One round in a process of its own; it says the figures, and what they break."""

    def work(say: Say) -> None:
        stage = Stage(place, pull.stage_name, TEMPLATE)
        run_child(lambda _: asyncio.run(copy_database(stage)))
        folder = place.folder / stage.name
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as silent:  # it listens, and nobody ever answers
            mute = f"http://127.0.0.1:{silent.getsockname()[1]}/mute"
            made = start(stage, pull, ids, folder, mute)
            try:
                found = unreachable(made) if pull.down is Down.DATABASE else pulled(made)
            finally:
                made.end()
        say(asdict(pull) | found | {"breaches": list(broken(pull, found))})
        tear_down(stage)

    return work


def unreachable(made: Round) -> Result:
    """Without a database nothing is sent, and whoever pulls the switch hears so at once."""
    recorded = first(made.trader)
    made.network.signal(signal.SIGUSR2)
    words(made.network, 2)
    made.trader.signal(signal.SIGUSR1)
    status, call_s = made.throw()
    words(made.trader, 2)
    sent = len(made.arrivals())
    return {"recorded": recorded, "status": status, "call_s": round(call_s, 2), "sent": sent}


def pulled(made: Round) -> Result:
    """Pull the switch in the middle of the queue, watch the broker, kill the trader, and let a fresh one try."""
    recorded = first(made.trader)
    made.network.signal(signal.SIGUSR1)
    made.trader.signal(signal.SIGUSR1)
    until = time.monotonic() + GIVE_UP_S
    while len(made.arrivals()) < SENT_FIRST and time.monotonic() < until:
        time.sleep(LOOK_S)
    made.take_down()
    status, call_s = made.throw()
    observe(made, until)
    made.trader.signal(signal.SIGKILL)
    facts = run_child(partial(_judge, made)).said[-1]
    made.behave(Mode.REST)
    before = len(made.of_scope())
    markets = [Child(partial(gateway.market, FIRST_TICK + TICK, SYMBOLS)) for _ in range(2)]
    stage = made.stage
    wires = Wires(stage.database_url, stage.broker_url, first(markets[0]), first(markets[1]))
    after = run_child(partial(next_trader, wires)).said[-1]
    for child in markets:
        child.signal(signal.SIGKILL)
        child.end()
    after |= {"sent_after_kill": len(made.of_scope()) - before}
    return {"recorded": recorded, "status": status, "call_s": round(call_s, 2)} | facts | after


def observe(made: Round, until: float) -> None:
    """Watch for as long as a late order may take; for one user's halt until the queue has come past that user."""
    time.sleep(OBSERVED_S)
    while made.pull.scope is Scope.USER and time.monotonic() < until:
        if max(a["account"] for a in made.arrivals()) > made.account_id:
            return
        time.sleep(LOOK_S)


def _judge(made: Round, say: Say) -> None:
    """What reached the broker after the halt was written, which is a little before it was committed."""

    async def set_at() -> float:
        engine = create_engine(made.stage.database_url, pool_size=1)
        async with create_sessions(engine)() as session:
            halts = await session.scalars(text("SELECT extract(epoch FROM set_at)::float FROM trading_states"))
            (at,) = halts.all()
        await engine.dispose()
        return at

    halted_s = asyncio.run(set_at()) - (time.time() - time.monotonic())
    scope_s = [arrival["at_s"] - halted_s for arrival in made.of_scope()]
    all_s = [arrival["at_s"] - halted_s for arrival in made.arrivals()]
    late = sum(s > LATE_S for s in scope_s)
    say(
        {
            "queued": QUEUE - sum(s <= 0 for s in all_s),
            "late": late,
            "last_s": round(max([0.0, *scope_s]), 2),
            "others_late": sum(s > LATE_S for s in all_s) - late,
        }
    )


def broken(pull: Pull, found: Result) -> Iterator[str]:
    """What a round shows that must not be."""
    if found["recorded"] < QUEUE:
        yield f"queue: {found['recorded']} orders were recorded, not {QUEUE}"
    if found["call_s"] > CALL_S_MAX:
        yield f"slow: the call took {found['call_s']} s"
    if pull.down is Down.DATABASE:
        if found["status"] != 503:
            yield f"answer: {found['status']} where the database is not there"
        if found["sent"]:
            yield f"sent: {found['sent']} orders without a database"
        return
    if found["status"] not in ({200, 503} if pull.down is Down.DATABASE_CUT else {200}):
        yield f"answer: {found['status']}"
    if found["queued"] < QUEUED_MIN:
        yield f"queue: only {found['queued']} orders were left to stop"
    if found["late"]:
        yield f"late: {found['late']} orders arrived more than {LATE_S} s after the halt, the last {found['last_s']} s"
    if found["standing"] != [f"{pull.scope} halted"]:
        yield f"forgotten: {found['standing']} stands in the next process"
    if found["users"] < USERS or found["sent_after_kill"]:
        yield f"sent: {found['sent_after_kill']} orders by the next process, which decided for {found['users']} users"
    if pull.scope is Scope.USER and not found["others_late"]:
        yield "others: a halt of one user has stopped everybody"


def part(place: Hall, wanted: argparse.Namespace) -> Iterator[Row | Result]:
    """The part of the crash run: a row per round, and the largest of each figure."""
    ids = run_child(partial(lay_out, place)).said[-1]
    pulls = SHORT_PULLS if wanted.short else PULLS
    said = run_all([one_pull(place, pull, ids) for pull in pulls], 1)
    results = [words[-1] for words in said]
    through = [r for r in results if r["down"] != Down.DATABASE]
    without = [r for r in results if r["down"] == Down.DATABASE]
    yield Row(
        f"kill switch, {QUEUE} orders queued", f"{len(results)} rounds", f"= {len(pulls)}", len(results) == len(pulls)
    )
    fewest = min(r["queued"] for r in through)
    yield Row("  orders left to stop, the fewest", str(fewest), f"≥ {QUEUED_MIN}", fewest >= QUEUED_MIN)
    yield largest(through, "late", f"  arrivals later than {LATE_S} s after the halt", 0, "")
    yield largest(through, "last_s", "  last arrival after the halt", LATE_S, " s")
    yield largest(through, "sent_after_kill", "  sends by the next process after SIGKILL", 0, "")
    yield largest(without, "sent", "  sends without a database", 0, "")
    for result in results:
        name = f"  call, {result['scope']}, down: {result['down']}"
        figure = f"{result['status']} in {result['call_s']} s"
        wrong = any(b.startswith(("answer", "slow")) for b in result["breaches"])
        yield Row(name, figure, f"≤ {CALL_S_MAX:g} s", not wrong)
    yield from results
