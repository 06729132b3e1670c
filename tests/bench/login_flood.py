"""How long other routes take while somebody floods the login, against the same routes without the flood.

The gateway runs in a process of its own, with production's password hashing and no limit per address, as a flood from
many addresses would meet it.
"""

import asyncio
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.security import Security
from sauda.embedded import EmbeddedPostgres, create_database, migrate
from tests.api.access import callers_of
from tests.api.conftest import KEY, gateway_over
from tests.bench.quote_servers import serving_apart
from tests.bench.result import Result

LOGINS_PER_S = 50
SECONDS = 6
PAUSE_S = 0.02
"""Between two requests of the other route: about 40 a second."""
START_S_MAX = 30
POOL_SIZE = 10
"""Production's own."""
ROUTES = ("/v1/auth/me", "/v1/market/quotes")


def flooded(database_url: str, token_file: str) -> ASGIApp:
    """The gateway, made when the server starts; the headers of a caller go to the file."""

    made: list[ASGIApp] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await made[0](scope, receive, send)
            return
        await receive()
        async with gateway_over(database_url, POOL_SIZE) as gateway:
            gateway.app.state.api = replace(gateway.state, security=Security(KEY, 10, gateway.clock))
            made.append(gateway.app)
            callers = await callers_of(gateway, "paid")
            _write(token_file, callers["paid"]["Authorization"])
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    return app


def _write(file: str, text: str) -> None:
    Path(file).write_text(text)


def run(postgres: EmbeddedPostgres) -> list[Result]:
    """The 95th percentile of each route under the flood; bounded by SECONDS for each of four rounds."""
    url = create_database(postgres, "bench_login_flood")
    migrate(url)
    with tempfile.TemporaryDirectory() as folder, serving_apart(flooded, url, f"{folder}/token") as server:
        return asyncio.run(_measure(f"http://127.0.0.1:{server.port}", Path(folder) / "token"))


async def _measure(url: str, token_file: Path) -> list[Result]:
    results = []
    limits = httpx.Limits(max_connections=400, keepalive_expiry=2)  # the server closes idle connections after 5 s
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client:
        await _up(client)
        headers = {"Authorization": _read(token_file)}
        for route in ROUTES:
            quiet = await _asked(client, route, headers)
            flood = asyncio.create_task(_flood(client))
            busy = await _asked(client, route, headers)
            answers = await flood
            name = f"p95 of {route} under {LOGINS_PER_S} logins/s ({_told(answers)})"
            results.append(Result(name, _p95(busy), "ms", _p95(quiet), "the same route without the flood", "< 200 ms"))
    return results


def _read(file: Path) -> str:
    return file.read_text()


async def _up(client: httpx.AsyncClient) -> None:
    """Wait for the server; its socket listens before it answers."""
    async with asyncio.timeout(START_S_MAX):
        assert (await client.get("/health")).status_code == 200


async def _asked(client: httpx.AsyncClient, route: str, headers: dict[str, str]) -> list[float]:
    """How long each request of SECONDS took, in milliseconds."""
    taken, until = [], time.perf_counter() + SECONDS
    while (began := time.perf_counter()) < until:
        reply = await client.get(route, headers=headers)
        assert reply.status_code == 200, reply.text
        taken.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(PAUSE_S)
    return taken


async def _flood(client: httpx.AsyncClient) -> Counter[int]:
    """LOGINS_PER_S for SECONDS whatever the answers do, each of another unknown user; counts the answers' statuses."""

    async def one(number: int) -> int:
        await asyncio.sleep(number / LOGINS_PER_S)
        body = {"email": f"nobody{number}@flood.example", "password": "correct horse battery"}
        return (await client.post("/v1/auth/login", json=body)).status_code

    return Counter(await asyncio.gather(*(one(number) for number in range(LOGINS_PER_S * SECONDS))))


def _told(answers: Counter[int]) -> str:
    return ", ".join(f"{count} × {status}" for status, count in sorted(answers.items()))


def _p95(taken: list[float]) -> float:
    return statistics.quantiles(taken, n=20)[-1]
