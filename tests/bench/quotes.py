"""Public quotes per second of the gateway, against a bare ASGI app with the same answer on the same server."""

import contextlib
import statistics
from dataclasses import dataclass
from decimal import Decimal

from backend.api.fast_path import QUOTES_PATH
from backend.services.quote_board import SYMBOLS_DEFAULT
from tests.bench.load import fetch, request_bytes, send
from tests.bench.quote_servers import NOW, Server, bare, gateway, serving_apart
from tests.bench.result import Result
from tests.support.market_server import Market, Stock, create_app, serving

ROUNDS = 9
REQUESTS = 20_000
WARM_UP_REQUESTS = 1_000
SERVER_HEADERS = {"date", "server"}
"""Uvicorn adds these to every answer itself."""


@dataclass(frozen=True, slots=True)
class Case:
    """One server under one kind of request."""

    server: Server
    request: bytes
    status: int


@dataclass(frozen=True, slots=True)
class Rates:
    """Requests per second of the server's processor time, and of the wall clock."""

    per_cpu_s: float
    per_s: float


def run(rounds: int = ROUNDS, requests: int = REQUESTS) -> list[Result]:
    """Medians of `rounds` interleaved rounds of `requests` requests each on every server."""
    stocks = {s: Stock(Decimal(1000 + 500 * i)) for i, s in enumerate(SYMBOLS_DEFAULT)}
    with contextlib.ExitStack() as stack:
        market_url = stack.enter_context(serving(create_app(Market(now=NOW, stocks=stocks))))
        tested = stack.enter_context(serving_apart(gateway, market_url))
        plain = request_bytes(QUOTES_PATH)
        tag = fetch(tested.port, plain).headers["etag"]
        conditional = request_bytes(QUOTES_PATH, {"If-None-Match": tag})
        cases: list[Case] = []
        for request, status in ((plain, 200), (conditional, 304)):
            answer = fetch(tested.port, request)
            assert answer.status == status, f"{answer.status} instead of {status}"
            headers = [(k.encode(), v.encode()) for k, v in answer.headers.items() if k not in SERVER_HEADERS]
            reference = stack.enter_context(serving_apart(bare, status, headers, answer.body))
            assert fetch(reference.port, request).body == answer.body
            cases += [Case(tested, request, status), Case(reference, request, status)]
        found, found_bare, unchanged, unchanged_bare = _measure(cases, rounds, requests)
    reference = "bare ASGI app with the same answer on the same uvicorn"
    quotes, not_modified = f"public quotes of {len(SYMBOLS_DEFAULT)} symbols", "public quotes, 304 Not Modified"
    return [
        Result(f"{quotes}, by processor time", found.per_cpu_s, "req/CPU-s", found_bare.per_cpu_s, reference, "≥ 0.8"),
        Result(f"{quotes}, by the wall clock", found.per_s, "req/s", found_bare.per_s, reference, "–"),
        Result(not_modified, unchanged.per_cpu_s, "req/CPU-s", unchanged_bare.per_cpu_s, reference, "≥ 0.8"),
    ]


def _measure(cases: list[Case], rounds: int, requests: int) -> list[Rates]:
    """Each case's median rates. The rounds are interleaved, so that a busy moment of the machine meets all alike."""
    for case in cases:
        send(case.server.port, case.request, case.status, WARM_UP_REQUESTS)
    measured: list[list[Rates]] = [[] for _ in cases]
    for _ in range(rounds):
        for case, rates in zip(cases, measured, strict=True):
            before = case.server.cpu_s()
            wall_s = send(case.server.port, case.request, case.status, requests)
            rates.append(Rates(requests / (case.server.cpu_s() - before), requests / wall_s))
    return [
        Rates(statistics.median(r.per_cpu_s for r in rates), statistics.median(r.per_s for r in rates))
        for rates in measured
    ]
