"""Broker accounts: what is in them, who may open one, and which one executes."""

import asyncio

from tests.api.conftest import Gateway
from tests.api.test_problems import problem_of

PAPER = {"broker": "paper", "label": "Play money"}


async def test_a_paper_account_opens_with_its_deposit(gateway: Gateway) -> None:
    user = await gateway.someone("basic")
    opened = await gateway.client.post("/v1/broker-accounts", json=PAPER, headers=user.headers)
    assert opened.status_code == 201
    assert opened.json()["environment"] == "simulated"
    account = opened.json()["account"]
    assert (account["cash"], account["cash_free"], account["holdings"]) == ("500000.00", "500000.00", {})
    assert (account["is_primary"], account["status"], account["problem"]) == (True, "ready", None)
    second = await gateway.client.post("/v1/broker-accounts", json=PAPER, headers=user.headers)
    assert second.json()["account"]["is_primary"] is False
    listed = await gateway.client.get("/v1/broker-accounts", headers=user.headers)
    assert listed.json()["accounts"] == [account, second.json()["account"]]


async def test_the_free_plan_has_no_accounts_and_the_answer_names_one_that_has(gateway: Gateway) -> None:
    user = await gateway.someone()
    for path, body in (("/v1/broker-accounts", PAPER), ("/v1/auto-trading/enable", {})):
        problem = problem_of(await gateway.client.post(path, json=body, headers=user.headers))
        assert (problem.status, problem.code) == (403, "plan_required")
        assert "Basic" in problem.detail


async def test_another_broker_is_not_supported_and_the_answer_names_what_is(gateway: Gateway) -> None:
    user = await gateway.someone("basic")
    reply = await gateway.client.post("/v1/broker-accounts", json=PAPER | {"broker": "robinhood"}, headers=user.headers)
    problem = problem_of(reply)
    assert (problem.status, problem.code) == (422, "broker_not_supported")
    assert "paper" in problem.detail


async def test_accounts_opened_at_once_are_bounded_and_have_one_primary(gateway: Gateway) -> None:
    user = await gateway.someone("basic")
    replies = await asyncio.gather(
        *(gateway.client.post("/v1/broker-accounts", json=PAPER, headers=user.headers) for _ in range(8))
    )
    assert sorted(reply.status_code for reply in replies) == [201] * 5 + [409] * 3
    listed = (await gateway.client.get("/v1/broker-accounts", headers=user.headers)).json()["accounts"]
    assert [account["is_primary"] for account in listed].count(True) == 1
