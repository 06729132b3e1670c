"""Fifty concurrent orders under one Idempotency-Key, through two gateways: one row, one broker order, one answer."""

import argparse
import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import httpx
from httpx_aiohttp import AiohttpTransport
from sqlalchemy import text

from backend.api.idempotency import HEADER, REPLAYED
from backend.db import OPERATOR_ROLE, Sessions, create_engine, create_sessions
from backend.models import BrokerAccount, BrokerAccountStatus, LoginSession, Subscription, SubscriptionStatus, User
from backend.services.ledger_service import open_books
from tests.crash import gateway
from tests.crash.children import Child, Say, run_child
from tests.crash.figures import Result, Row, largest
from tests.crash.gateway import NEVER, Wires, bearer, first
from tests.crash.halt_queue import copy_database
from tests.crash.world import CONTROL_TIMEOUT_S, EMPTY, FIRST_TICK, Hall, Stage, tear_down
from tests.support.broker_book import FIRST_CASH, Mode
from tests.support.http_broker import HttpBroker

REQUESTS = 50
ROUNDS = 100
ROUNDS_SHORT = 3
GATEWAYS = 2
MODES = (Mode.ACCEPT, Mode.REST, Mode.ACCEPT_THEN_RESET, Mode.ACCEPT_THEN_502, Mode.PARTIAL)
"""What the broker does with the one order it takes, in turn; each leaves one order in its book."""
RETRY_S = 0.05
ANSWER_S_MAX = 60.0
ORDER = {"symbol": "INFY", "side": "buy", "quantity": 10, "product": "cnc"}
OTHER = ORDER | {"quantity": 11}


@dataclass(slots=True)
class Caller:
    """A client of all gateways, with a look into the database and the broker's book."""

    http: httpx.AsyncClient
    sessions: Sessions
    stage: Stage
    gateways: list[str]

    async def person(self, number: int) -> tuple[int, int]:
        """A user of a round's own, so that no account's limits matter; the ids of user and account."""
        async with self.sessions.begin() as session:
            user = User(email=f"user{number}@example.com")
            session.add(user)
            await session.flush()
            ready, active = BrokerAccountStatus.READY, SubscriptionStatus.ACTIVE
            account = BrokerAccount(user_id=user.id, broker=HttpBroker.name, label="p", status=ready, is_primary=True)
            login = LoginSession(id=user.id, user_id=user.id, expires_at=NEVER)
            session.add_all([account, login, Subscription(user_id=user.id, plan_code="pro", status=active)])
            await session.flush()
            await open_books(session, account.id, FIRST_CASH, FIRST_TICK)
        return user.id, account.id

    async def post(self, number: int, user_id: int, key: str, body: Any) -> httpx.Response:
        """One request, to the gateway whose turn it is."""
        url = self.gateways[number % len(self.gateways)]
        headers = bearer(user_id) | {HEADER: key}
        return await self.http.post(f"{url}/v1/orders", json=body, headers=headers, timeout=ANSWER_S_MAX)

    async def until_answered(self, number: int, user_id: int, key: str) -> tuple[httpx.Response, int]:
        """The answer, and how often the request was told that the first one is still being worked on."""
        in_flight = 0
        async with asyncio.timeout(ANSWER_S_MAX):
            while True:
                reply = await self.post(number, user_id, key, ORDER)
                if reply.status_code != 409 or reply.json()["code"] != "idempotency_in_flight":
                    return reply, in_flight
                in_flight += 1
                await asyncio.sleep(RETRY_S)

    async def rows(self, table: str, user_id: int) -> int:
        async with self.sessions() as session:
            query = text(f"SELECT count(*) FROM {table} WHERE user_id = :user_id")
            return (await session.execute(query, {"user_id": user_id})).scalar_one()

    async def control(self, method: str, what: str, body: Any = None) -> Any:
        url = f"{self.stage.broker_url}/control/{what}"
        return (await self.http.request(method, url, json=body, timeout=CONTROL_TIMEOUT_S)).raise_for_status().json()


async def one_round(caller: Caller, number: int) -> Result:
    """All requests at once, each repeated until it is answered; then one more with another body."""
    mode = MODES[number % len(MODES)]
    user_id, account_id = await caller.person(number)
    await caller.control("PUT", "behaviour", {"account": account_id, "modes": [mode]})
    key = f"round {number}"
    began = time.monotonic()
    answers = await asyncio.gather(*(caller.until_answered(i, user_id, key) for i in range(REQUESTS)))
    took_s = time.monotonic() - began
    other = await caller.post(number, user_id, key, OTHER)
    truth = await caller.control("GET", "truth")
    replies = [reply for reply, _ in answers]
    found = {
        "round": number,
        "mode": mode.value,
        "took_s": round(took_s, 2),
        "in_flight": sum(times for _, times in answers),
        "statuses": dict(Counter(str(reply.status_code) for reply in replies)),
        "bodies": len({reply.content for reply in replies}),
        "first_answers": sum(REPLAYED.lower() not in reply.headers for reply in replies),
        "rows": await caller.rows("orders", user_id),
        "keys": await caller.rows("idempotency_keys", user_id),
        "arrivals": sum(arrival["account"] == account_id for arrival in truth["arrivals"]),
        "broker_orders": sum(order["account"] == account_id for order in truth["orders"]),
        "other_body": f"{other.status_code} {other.json().get('code')}",
    }
    return found | {"breaches": list(broken(found))}


def broken(found: Result) -> Iterator[str]:
    """What a round shows that must not be."""
    for name in ("rows", "keys", "arrivals", "broker_orders", "bodies", "first_answers"):
        if found[name] != 1:
            yield f"doubled: {found[name]} {name}, not 1"
    if found["statuses"] != {"201": REQUESTS}:
        yield f"answers: {found['statuses']}"
    if found["other_body"] != "422 idempotency_key_reused":
        yield f"another body: {found['other_body']}"


def call(stage: Stage, gateways: list[str], rounds: int, say: Say) -> None:
    """The client's process: round after round."""

    async def run() -> None:
        engine = create_engine(stage.database_url, role=OPERATOR_ROLE, pool_size=2)
        limits = httpx.Limits(max_connections=REQUESTS)
        async with httpx.AsyncClient(transport=AiohttpTransport(limits=limits)) as http:
            caller = Caller(http, create_sessions(engine), stage, gateways)
            for number in range(rounds):
                say(await one_round(caller, number))
        await engine.dispose()

    asyncio.run(run())


def part(place: Hall, wanted: argparse.Namespace) -> Iterator[Row | Result]:
    """The part of the crash run: a row per figure."""
    rounds = wanted.rounds or (ROUNDS_SHORT if wanted.short else ROUNDS)
    stage = Stage(place, "same_key", EMPTY)
    run_child(lambda _: asyncio.run(copy_database(stage)))
    wires = Wires(stage.database_url, stage.broker_url, place.quiet_url, place.quiet_url)
    doors = [Child(partial(gateway.gateway, wires)) for _ in range(GATEWAYS)]
    try:
        results = run_child(partial(call, stage, [first(door) for door in doors], rounds)).said
    finally:
        for door in doors:
            door.signal(signal.SIGKILL)
            door.end()
        tear_down(stage)
    name = f"{REQUESTS} orders at once under one key, {GATEWAYS} gateways"
    yield Row(name, f"{len(results)} rounds", f"= {rounds}", len(results) == rounds)
    yield largest(results, "rows", "  rows in orders", 1, "")
    yield largest(results, "arrivals", "  order requests at the broker", 1, "")
    yield largest(results, "broker_orders", "  orders at the broker", 1, "")
    yield largest(results, "bodies", "  distinct answers", 1, "")
    yield largest(results, "first_answers", "  answers that were not replayed", 1, "")
    refused = sum(r["other_body"] == "422 idempotency_key_reused" for r in results)
    yield Row("  another body refused", f"{refused} of {rounds}", f"= {rounds}", refused == rounds)
    asked_again = sum(r["in_flight"] for r in results)
    yield Row("  told that the first is under way", f"{asked_again} times", "> 0", asked_again > 0)
    seconds = [r["took_s"] for r in results]
    yield Row("  a round", f"median {median(seconds):.2f} s, largest {max(seconds):.2f} s", "–", True)
    yield from results
