"""What tests of backtests ask of the gateway."""

from collections.abc import Mapping
from typing import Any

import httpx

from backend.api.examples import REQUESTS
from backend.services import backtest_queue as queue
from backend.services.backtest_queue import claim_next
from contracts.common import Problem
from tests.api import test_problems
from tests.api.conftest import Gateway, Someone

ASKED: dict[str, Any] = REQUESTS["create_backtest"]


def problem_of(reply: httpx.Response, status: int) -> Problem:
    """The problem of an answer that has that status."""
    assert reply.status_code == status, reply.text
    return test_problems.problem_of(reply)


async def create(gateway: Gateway, user: Someone, changes: Mapping[str, Any] = {}, **headers: str) -> httpx.Response:
    return await gateway.client.post("/v1/backtests", json=ASKED | dict(changes), headers=user.headers | headers)


async def made_by(gateway: Gateway, user: Someone) -> int:
    reply = await create(gateway, user)
    assert reply.status_code == 202, reply.text
    return reply.json()["backtest"]["id"]


async def get(gateway: Gateway, user: Someone, path: str) -> httpx.Response:
    return await gateway.client.get(f"/v1/backtests{path}", headers=user.headers)


async def claimed(gateway: Gateway, backtest_id: int) -> queue.Claim:
    """The claim of a worker that got this one; other tests' jobs are cancelled on the way."""
    while True:
        claim = await claim_next(gateway.sessions, "w", 60)
        assert claim is not None
        if claim.backtest_id == backtest_id:
            return claim
        await queue.cancelled(gateway.sessions, claim)
