"""The gateway does what its OpenAPI document says: no undocumented status, type or shape, no 500, whatever is sent."""

import asyncio
import json

import pytest

from tests.api.access import callers_of
from tests.api.conftest import Gateway
from tests.support.conformance import Budget, conformance, served

QUICK = {
    "paid": Budget(("examples", "fuzzing", "stateful"), examples=1, sequences=2),
    "admin": Budget(("examples",)),
}
AT_THE_BORDERS = Budget(("coverage",), operations=("login", "get_scoreboard", "end_session"))
"""`make eval ARGS=schemathesis` tries the borders of every operation, for minutes."""


async def test_the_gateway_does_what_its_document_says(database_url: str) -> None:
    def work() -> None:
        with served(database_url) as app:
            for who, budget in (*QUICK.items(), ("paid", AT_THE_BORDERS)):
                found = conformance(app, who, budget)
                assert found.failures == []
                assert min(found.checks[c] for c in ("status_code_conformance", "response_schema_conformance")) > 20
                assert set(app.document["paths"]) > {"/v1/orders"}

    await asyncio.to_thread(work)


@pytest.mark.parametrize(
    "body",
    [
        b'{"symbol": "TCS", "side": "buy", "quantity": NaN, "product": "cnc"}',
        b'{"symbol": "TCS", "side": "buy", "quantity": 1e400, "product": "cnc"}',
        b'{"symbol": "TCS", "side": "buy", "quantity": ' + b"9" * 4000 + b', "product": "cnc"}',
        b'{"symbol": "TCS", "side": "buy", "quantity": 99999999999999999999, "product": "cnc"}',
        b'{"symbol": "T\\u0000S", "side": "buy", "quantity": 1, "product": "cnc"}',
        b'{"symbol": "TCS\x00", "side": "buy", "quantity": 1, "product": "cnc"}',
        b'{"symbol": "\\ud800", "side": "buy", "quantity": 1, "product": "cnc"}',
        b"[" * 30_000 + b"]" * 30_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        json.dumps({"symbol": "TCS", "side": "buy", "quantity": 1, "product": "cnc", "user_id": 1}).encode(),
    ],
    ids=["nan", "infinite", "4000 digits", "20 digits", "nul", "raw nul", "surrogate", "lists", "objects", "another's"],
)
async def test_what_no_schema_describes_is_refused_as_the_clients_fault(gateway: Gateway, body: bytes) -> None:
    headers = (await callers_of(gateway, "paid"))["paid"] | {"Content-Type": "application/json"}
    reply = await gateway.client.post("/v1/orders", content=body, headers=headers)
    assert reply.status_code in {400, 413, 422}, reply.text
    assert reply.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("given", ["2024-03-04", "0", "1709510400", "2024-03-04T00:00:00", "0000-00-00"])
async def test_a_day_is_a_day_and_no_number(gateway: Gateway, given: str) -> None:
    reply = await gateway.client.get("/v1/market/bars", params={"symbol": "TCS", "from": given, "to": "2024-03-15"})
    assert (reply.status_code != 422) == (given == "2024-03-04"), reply.text


async def test_a_truth_value_is_no_word(gateway: Gateway) -> None:
    body = {"email": "asha@example.com", "password": "correct horse battery", "cookie": "yes"}
    reply = await gateway.client.post("/v1/auth/login", json=body)
    assert [error["pointer"] for error in reply.json()["errors"]] == ["#/cookie"]


async def test_all_methods_of_a_path_are_named(gateway: Gateway) -> None:
    reply = await gateway.client.patch("/v1/api-keys")
    assert (reply.status_code, reply.headers["allow"]) == (405, "GET, POST")
