"""Registering, logging in, and being known afterwards."""

import pytest
from sqlalchemy import update

from backend.models import User
from tests.api.conftest import Gateway, later
from tests.api.test_problems import problem_of
from tests.api.test_security import HOSTILE

PASSWORD = "correct horse battery"


async def test_register_log_in_and_ask_who_i_am(gateway: Gateway) -> None:
    body = {"email": "Asha@Example.com", "password": PASSWORD, "name": "Asha"}
    created = await gateway.client.post("/v1/auth/register", json=body)
    assert created.status_code == 201
    user = created.json()
    assert (user["email"], user["name"], user["role"]) == ("Asha@Example.com", "Asha", "user")
    assert "password" not in created.text

    login = await gateway.client.post("/v1/auth/login", json={"email": "asha@example.com", "password": PASSWORD})
    assert login.status_code == 200
    token = login.json()
    assert (token["token_type"], token["expires_in_s"]) == ("bearer", 3600)

    me = await gateway.client.get("/v1/auth/me", headers={"Authorization": f"Bearer {token['access_token']}"})
    assert me.json() == {
        "user": user,
        "plan": {
            "code": "free",
            "name": "Free",
            "auto_trades_per_day": 0,
            "backtests_per_day": 0,
            "backtests_at_once": 0,
            "backtest_combinations_max": 0,
            "price_rupees_per_month": "0.00",
            "description": "Market data and predictions.",
        },
        "quota": {
            "entries_per_day": 0,
            "entries_per_day_max": None,
            "entries_used": 0,
            "entries_left": 0,
            "resets_at": "2024-03-19T00:00:00+05:30",
        },
    }


async def test_an_address_counts_once_whatever_its_case(gateway: Gateway) -> None:
    body = {"email": "once@example.com", "password": PASSWORD}
    assert (await gateway.client.post("/v1/auth/register", json=body)).status_code == 201
    again = await gateway.client.post("/v1/auth/register", json=body | {"email": "ONCE@example.COM"})
    problem = problem_of(again)
    assert (problem.status, problem.code) == (409, "email_taken")


@pytest.mark.parametrize(
    "change",
    [
        {"email": "nobody"},
        {"email": "a b@example.com"},
        {"email": "a" * 250 + "@b.in"},
        {"password": "eleven char"},
        {"password": "x" * 129},
        {"role": "admin"},
        {"name": "x" * 101},
    ],
    ids=str,
)
async def test_what_cannot_be_registered(gateway: Gateway, change: dict[str, str]) -> None:
    body = {"email": "refused@example.com", "password": PASSWORD} | change
    problem = problem_of(await gateway.client.post("/v1/auth/register", json=body))
    assert problem.status == 422
    assert [e["pointer"] for e in problem.errors] == [f"#/{next(iter(change))}"]


async def test_a_wrong_password_and_an_unknown_address_get_the_same_answer(gateway: Gateway) -> None:
    body = {"email": "known@example.com", "password": PASSWORD}
    await gateway.client.post("/v1/auth/register", json=body)
    wrong = await gateway.client.post("/v1/auth/login", json=body | {"password": "wrong horse battery"})
    unknown = await gateway.client.post("/v1/auth/login", json=body | {"email": "unknown@example.com"})
    assert problem_of(wrong).code == problem_of(unknown).code == "credentials_invalid"
    assert problem_of(wrong).detail == problem_of(unknown).detail
    assert wrong.status_code == unknown.status_code == 401


async def test_a_user_who_is_switched_off_is_out_at_once(gateway: Gateway) -> None:
    body = {"email": "off@example.com", "password": PASSWORD}
    await gateway.client.post("/v1/auth/register", json=body)
    token = (await gateway.client.post("/v1/auth/login", json=body)).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    assert (await gateway.client.get("/v1/auth/me", headers=headers)).status_code == 200
    async with gateway.sessions.begin() as session:
        await session.execute(update(User).where(User.email == body["email"]).values(active=False))
    assert problem_of(await gateway.client.get("/v1/auth/me", headers=headers)).status == 401
    assert problem_of(await gateway.client.post("/v1/auth/login", json=body)).code == "credentials_invalid"


async def test_an_expired_token_says_so(own_gateway: Gateway) -> None:
    user = await own_gateway.someone()
    own_gateway.clock.now = later(own_gateway.clock.now, 3600)
    problem = problem_of(await own_gateway.client.get("/v1/auth/me", headers=user.headers))
    assert (problem.status, problem.code) == (401, "token_expired")


async def test_a_token_of_a_user_who_is_not_there(gateway: Gateway) -> None:
    token = gateway.state.security.issue(2**62)
    reply = await gateway.client.get("/v1/auth/me", headers={"Authorization": f"Bearer {token}"})
    assert problem_of(reply).status == 401


async def test_no_hostile_token_passes_the_door(gateway: Gateway) -> None:
    for token in HOSTILE.values():
        for scheme in ("Bearer", "bearer", "Basic"):
            header = f"{scheme} {token()}".encode()
            reply = await gateway.client.get("/v1/auth/me", headers={"Authorization": header})
            assert problem_of(reply).status == 401
