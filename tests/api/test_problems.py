"""Every error is a problem with a stable code and the request's id, whatever was wrong."""

import json
import re
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from backend.api.app import create_api
from backend.db import create_engine, create_sessions
from contracts.common import Problem
from tests.api.conftest import Gateway


def problem_of(reply: httpx.Response) -> Problem:
    """The reply as a problem, with what must hold of each of them."""
    assert reply.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(reply.content)
    assert problem.status == reply.status_code
    assert problem.request_id == reply.headers["x-request-id"]
    assert "Traceback" not in reply.text
    return problem


async def test_an_unknown_path(gateway: Gateway) -> None:
    problem = problem_of(await gateway.client.get("/v1/nothing"))
    assert (problem.status, problem.code) == (404, "not_found")


async def test_a_wrong_method(gateway: Gateway) -> None:
    reply = await gateway.client.delete("/v1/plans")
    problem = problem_of(reply)
    assert (problem.status, problem.code) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "GET"


async def test_no_token(gateway: Gateway) -> None:
    reply = await gateway.client.get("/v1/auth/me")
    problem = problem_of(reply)
    assert (problem.status, problem.code) == (401, "not_authenticated")
    assert reply.headers["www-authenticate"] == "Bearer"


async def test_a_users_token_at_an_admins_route(gateway: Gateway) -> None:
    user = await gateway.someone()
    problem = problem_of(await gateway.client.get("/v1/admin/cycles", headers=user.headers))
    assert (problem.status, problem.code) == (403, "admin_required")


async def test_each_bad_field_is_pointed_at(gateway: Gateway) -> None:
    user = await gateway.someone()
    body = {"mode": "reckless", "product": "cnc", "symbols": ["RELIANCE", "reliance"], "surprise": 1}
    problem = problem_of(await gateway.client.put("/v1/auto-trading/settings", json=body, headers=user.headers))
    assert (problem.status, problem.code) == (422, "validation_failed")
    assert {e["pointer"] for e in problem.errors} == {"#/mode", "#/symbols/1", "#/surprise"}
    assert {e["in"] for e in problem.errors} == {"body"}


async def test_a_pointer_escapes_what_json_pointers_escape(gateway: Gateway) -> None:
    reply = await gateway.client.post("/v1/auth/login", json={"email": "a@b.in", "password": "x", "a/b~c": 1})
    assert [e["pointer"] for e in problem_of(reply).errors] == ["#/a~1b~0c"]


async def test_a_secret_is_not_echoed(gateway: Gateway) -> None:
    reply = await gateway.client.post("/v1/auth/register", json={"email": "a@b.in", "password": "hunter2"})
    assert problem_of(reply).status == 422
    assert "hunter2" not in reply.text


async def test_something_nobody_foresaw(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("the secret of the house")

    monkeypatch.setattr("backend.services.plan_service.list_plans", broken)
    reply = await gateway.client.get("/v1/plans")
    problem = problem_of(reply)
    assert (problem.status, problem.code) == (500, "internal_error")
    assert "secret" not in reply.text


async def test_the_database_is_down(own_gateway: Gateway, tmp_path: Path) -> None:
    engine = create_engine(f"postgresql://postgres@/sauda?host={tmp_path}")
    down = create_api(replace(own_gateway.state, sessions=create_sessions(engine)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(down), base_url="http://gateway") as client:
        problem = problem_of(await client.get("/v1/plans"))
        assert (problem.status, problem.code) == (503, "database_unavailable")
        assert (await client.get("/v1/health")).status_code == 200
    await engine.dispose()


REFUSE = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused at commit'; END $$"
REFUSE_AT_COMMIT = """
    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON subscriptions DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION refuse()
"""


async def test_nothing_is_promised_that_was_not_committed(own_gateway: Gateway) -> None:
    user = await own_gateway.someone()
    async with own_gateway.sessions.begin() as session:
        await session.execute(text("SET LOCAL ROLE NONE"))  # the database's owner: the application may not do this
        await session.execute(text(REFUSE))
        await session.execute(text(REFUSE_AT_COMMIT))
    reply = await own_gateway.client.post("/v1/subscription", json={"plan": "pro"}, headers=user.headers)
    problem = problem_of(reply)
    assert (problem.status, problem.code) == (500, "internal_error")
    assert "refused at commit" not in reply.text


async def test_data_service_is_down(own_gateway: Gateway) -> None:
    own_gateway.market.quotes_down = True
    reply = await own_gateway.client.get("/v1/market/quotes")
    problem = problem_of(reply)
    assert (problem.status, problem.code) == (503, "upstream_unavailable")
    assert reply.headers["retry-after"] == "5"


async def test_the_callers_request_id_is_kept_where_it_is_harmless(gateway: Gateway) -> None:
    reply = await gateway.client.get("/v1/nothing", headers={"X-Request-Id": "frontend-7.b"})
    assert problem_of(reply).request_id == "frontend-7.b"
    for bad in ("x" * 65, 'a"b', "a b", ""):
        reply = await gateway.client.get("/v1/plans", headers={"X-Request-Id": bad})
        assert re.fullmatch(r"[0-9a-f]{16}", reply.headers["x-request-id"])


SETTINGS = '{"mode": "moderate", "product": "cnc", "symbols": ["TCS"], "entries_per_day_max": %s}'


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999", "1.0", '"3"', "true", "0", "-1", "9" * 30, "1" + "0" * 5000]
)
async def test_a_number_that_is_no_small_whole_one(gateway: Gateway, number: str) -> None:
    user = await gateway.someone()
    headers = user.headers | {"Content-Type": "application/json"}
    reply = await gateway.client.put("/v1/auto-trading/settings", content=SETTINGS % number, headers=headers)
    problem = problem_of(reply)
    assert problem.status in (400, 422)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"[" * 20_000,
        b'{"email": "a@b.in", "password": "nul\\u0000nul"}',
        b'{"email": "a\\u0000@b.in", "password": "x"}',
        b'{"email": "a@b.in", "password": "\\ud800"}',
        b'{"email": {"a": 1}, "password": "x"}',
        b'{"email": "a@b.in"}',
    ],
)
async def test_a_body_that_is_no_login(gateway: Gateway, body: bytes) -> None:
    reply = await gateway.client.post("/v1/auth/login", content=body, headers={"Content-Type": "application/json"})
    assert problem_of(reply).status in (400, 422)


async def test_a_name_with_nul_or_other_control_characters(gateway: Gateway) -> None:
    for name in ("a\x00b", "a\nb", "\x7f"):
        body = {"email": "control@example.com", "password": "long enough 123", "name": name}
        problem = problem_of(await gateway.client.post("/v1/auth/register", json=body))
        assert [e["pointer"] for e in problem.errors] == ["#/name"]


async def test_a_body_that_is_too_large(gateway: Gateway) -> None:
    body = json.dumps({"email": "a@b.in", "password": "x" * 70_000})
    reply = await gateway.client.post("/v1/auth/login", content=body, headers={"Content-Type": "application/json"})
    problem = problem_of(reply)
    assert (problem.status, problem.code) == (413, "body_too_large")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/auto-trading/trades?limit=0",
        "/v1/auto-trading/trades?limit=201",
        "/v1/auto-trading/trades?limit=" + "9" * 400,
        "/v1/auto-trading/trades?limit=ten",
        "/v1/auto-trading/trades?cursor=%00",
        "/v1/auto-trading/trades?cursor=aWQ6MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMg",
        "/v1/auto-trading/trades?cursor=bogus",
        "/v1/auto-trading/trades?cursor=é",
        "/v1/auto-trading/trades?symbol=a%00b",
        "/v1/auto-trading/trades?status=ended",
        "/v1/auto-trading/trades?sort=price",
        "/v1/auto-trading/trades?from=2024-02-30",
        "/v1/auto-trading/trades?from=2024-03-02&to=2024-03-01",
        "/v1/auto-trading/analytics?to=9999-12-31",
        "/v1/auto-trading/analytics?from=0001-01-01",
        "/v1/auto-trading/decisions?limit=NaN",
        "/v1/market/quotes?symbols=",
        "/v1/market/quotes?symbols=tcs",
        "/v1/market/quotes?symbols=TCS%00",
        "/v1/market/quotes?symbols=" + ",".join(["TCS"] * 51),
        "/v1/market/bars",
        "/v1/market/bars?symbol=TCS&interval=2m",
        "/v1/market/bars?symbol=TCS&interval=1m&from=2024-01-01&to=2024-03-01",
        "/v1/market/bars?symbol=TCS&from=9999-12-31",
    ],
)
async def test_a_query_that_means_nothing(gateway: Gateway, path: str) -> None:
    user = await gateway.someone()
    assert problem_of(await gateway.client.get(path, headers=user.headers)).status == 422


async def test_a_path_number_beyond_the_database(gateway: Gateway) -> None:
    admin = await gateway.someone(admin=True)
    for number in ("0", "-1", "9" * 19, "9" * 400, "1.5", "x", "%00"):
        reply = await gateway.client.post(f"/v1/admin/subscriptions/{number}/activate", headers=admin.headers)
        assert problem_of(reply).status == 422
