"""Schemathesis over the gateway's OpenAPI document: examples, coverage, fuzzing and stateful, by a fixed seed.

The gateway runs in a server of its own thread, on loopback, over a real database.
"""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Queue
from typing import Any

import schemathesis
import uvicorn
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import from_schema
from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished

from tests.api.access import callers_of
from tests.api.conftest import gateway_over

SEED = 20260302
STREAMS = ("stream_quotes", "stream_backtest")
"""Streams have no end: tests/api/test_streams.py and test_backtest_events.py read them."""


ADMINS = r"^/v1/admin/"
"""Tried as an administrator, the rest as a user: that others are refused there is the access matrix's matter."""
PHASES = ("examples", "coverage", "fuzzing", "stateful")


@dataclass(frozen=True, slots=True)
class Budget:
    """What is tried: the phases, how many examples of each operation in the fuzzing one, and how many sequences in the
    stateful one; of which operations, all where none is named."""

    phases: tuple[str, ...] = PHASES
    examples: int = 1
    sequences: int = 1
    operations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """How often each check was made, and what did not hold."""

    checks: Counter[str]
    failures: list[str]


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway that is being served: its document, and the headers of one caller of each kind."""

    url: str
    document: dict[str, Any]
    callers: dict[str, dict[str, str]]


@contextmanager
def served(database_url: str) -> Iterator[Served]:
    """A gateway on a free loopback port, in a loop and a thread of its own, as its connections belong to their loop."""
    ready: Queue[Served | BaseException] = Queue()
    servers: list[uvicorn.Server] = []

    async def serve(listener: socket.socket) -> None:
        try:
            async with gateway_over(database_url) as gateway:
                callers = await callers_of(gateway, "paid", "admin")
                servers.append(uvicorn.Server(uvicorn.Config(gateway.app, log_level="warning", lifespan="off")))
                url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                ready.put(Served(url, gateway.app.openapi(), callers))
                await servers[0].serve(sockets=[listener])
        except BaseException as error:
            ready.put(error)
            raise

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        thread = threading.Thread(target=lambda: asyncio.run(serve(listener)), daemon=True)
        thread.start()
        made = ready.get(timeout=30)
        if isinstance(made, BaseException):
            raise made
        yield made
        servers[0].should_exit = True
        thread.join(10)


def conformance(app: Served, who: str, budget: Budget) -> Found:
    """Try the gateway as one of its callers (paid, admin)."""
    options = {
        "seed": SEED,
        "base-url": app.url,
        "headers": app.callers[who],
        "generation": {"deterministic": True, "max-examples": budget.examples, "database": "none"},
        # What is well-formed may be refused for its meaning (422), and the test's market lacks some services (503).
        "checks": {
            "positive_data_acceptance": {"enabled": False},
            "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "502", "503"]},
        },
        "phases": {phase: {"enabled": phase in budget.phases} for phase in PHASES}
        | {"stateful": {"enabled": "stateful" in budget.phases, "generation": {"max-examples": budget.sequences}}},
    }
    schema = schemathesis.openapi.from_dict(app.document, config=SchemathesisConfig.from_dict(options))
    schema = schema.exclude(operation_id=list(STREAMS))
    schema = (schema.include if who == "admin" else schema.exclude)(path_regex=ADMINS)
    if budget.operations:
        schema = schema.include(operation_id=list(budget.operations))
    found = Found(Counter(), [])
    for event in from_schema(schema).execute():
        if isinstance(event, NonFatalError | FatalError):
            found.failures.append(str(event))
        elif isinstance(event, ScenarioFinished):
            _count(event, found)
    return found


def _count(event: ScenarioFinished, found: Found) -> None:
    for checks in event.recorder.checks.values():
        for check in checks:
            found.checks[check.name] += 1
            if check.failure_info is not None:
                said = f"{check.failure_info.failure}\n{check.failure_info.code_sample}"
                found.failures.append(f"{event.phase.value} {event.label} {check.name}: {said}")
