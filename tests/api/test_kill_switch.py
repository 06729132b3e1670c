"""The kill switch over HTTP: it works when nothing else does, tells what stands, and who may lift it."""

import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from httpx_aiohttp import AiohttpTransport
from sqlalchemy import func, select

from backend.api.app import create_api
from backend.db import create_engine, create_sessions
from backend.domain.orders import OrderState
from backend.domain.trading_states import Cause, Scope, TradingState
from backend.models import TradingStatePeriod
from backend.services import cancel_service
from backend.services.market_data_client import MarketDataClient
from backend.services.ml_service_client import MlServiceClient
from backend.services.trading_state_service import impose
from tests.api.conftest import Gateway, Someone, gateway_over
from tests.api.test_problems import problem_of
from tests.support.resting_orders import rest, state_of

REASON = {"reason": "looked at it, all is well"}
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time enough on a busy machine, where a test is about what becomes of the orders and not about how soon."""
    monkeypatch.setattr(cancel_service, "CANCEL_S_MAX", 20)


async def impose_on(gateway: Gateway, user: Someone, cause: Cause, state: TradingState = TradingState.HALTED) -> None:
    async with gateway.sessions.begin() as session:
        await impose(session, Scope.USER, str(user.id), state, cause, "the system's word")


async def trading_state(gateway: Gateway, user: Someone) -> dict:
    reply = await gateway.client.get("/v1/trading-state", headers=user.headers)
    assert reply.status_code == 200
    return reply.json()


async def test_it_needs_no_body_no_plan_and_no_account(gateway: Gateway) -> None:
    user = await gateway.someone()
    reply = await gateway.client.post("/v1/kill-switch", headers=user.headers)
    assert reply.status_code == 200
    assert reply.json() == {
        "environment": "simulated",
        "scope": "user",
        "key": str(user.id),
        "state": "halted",
        "flatten": False,
        "changed": True,
        "cancels": {"open": 0, "cancel_requested": 0, "cancel_asked": 0, "unconfirmed": 0},
        "message": "Nothing is sent any more.",
    }


async def test_it_cancels_and_says_what_stands_and_how_it_ends(gateway: Gateway) -> None:
    user = await gateway.someone("pro", account=True)
    order = await rest(gateway.trading, user.id, gateway.market.now, 980, symbol="RELIANCE")
    body = {"flatten": True, "reason": "enough for today"}
    reply = (await gateway.client.post("/v1/kill-switch", json=body, headers=user.headers)).json()
    assert reply["cancels"] == {"open": 1, "cancel_requested": 1, "cancel_asked": 1, "unconfirmed": 0}
    assert "sold at the next tick" in reply["message"]
    assert await state_of(gateway.trading, order) is OrderState.CANCELLED
    state = await trading_state(gateway, user)
    assert (state["state"], state["flatten"], state["entries_allowed"], state["exits_allowed"]) == (
        "halted",
        True,
        False,
        True,
    )
    (standing,) = state["standing"]
    assert (standing["cause"], standing["detail"]) == ("user_kill_switch", "enough for today")
    assert "/v1/trading-state/reactivate" in standing["what_to_do"]


async def test_it_works_with_data_service_and_ml_service_down(gateway: Gateway) -> None:
    """Nothing listens where they should; in the simulated market the clock is gone with them."""
    user = await gateway.someone("pro", account=True)
    order = await rest(gateway.trading, user.id, gateway.market.now, 980, symbol="RELIANCE")
    async with httpx.AsyncClient(transport=AiohttpTransport()) as http:
        market_data = MarketDataClient(http, NOWHERE, 5)

        async def clock():
            return (await market_data.clock()).now

        alone = replace(
            gateway.trading, clock=clock, market_data=market_data, ml_service=MlServiceClient(http, NOWHERE, 5)
        )
        app = create_api(replace(gateway.state, trading=alone))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            began = time.monotonic()
            reply = await client.post("/v1/kill-switch", headers=user.headers)
            took = time.monotonic() - began
    assert (reply.status_code, reply.json()["cancels"]["unconfirmed"]) == (200, 0)
    assert took < 2
    assert await state_of(gateway.trading, order) is OrderState.CANCELLED


async def test_it_answers_503_at_once_where_the_database_is_down(gateway: Gateway, tmp_path: Path) -> None:
    user = await gateway.someone()
    engine = create_engine(f"postgresql://postgres@/sauda?host={tmp_path}")
    down = create_api(replace(gateway.state, sessions=create_sessions(engine)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(down), base_url="http://gateway") as client:
        began = time.monotonic()
        problem = problem_of(await client.post("/v1/kill-switch", headers=user.headers))
        assert time.monotonic() - began < 2
    assert (problem.status, problem.code) == (503, "database_unavailable")
    await engine.dispose()


async def test_what_stands_survives_a_new_process(database_url: str) -> None:
    async with gateway_over(database_url) as first:
        user = await first.someone()
        await first.client.post("/v1/kill-switch", headers=user.headers)
    async with gateway_over(database_url) as second:
        reply = await second.client.get("/v1/trading-state", headers=user.headers)
    assert reply.json()["state"] == "halted"


async def test_reactivating_ends_what_i_may_end(gateway: Gateway) -> None:
    user = await gateway.someone()
    await gateway.client.post("/v1/kill-switch", headers=user.headers)
    for _ in range(2):  # once more changes nothing
        reply = await gateway.client.post("/v1/trading-state/reactivate", json=REASON, headers=user.headers)
        assert (reply.status_code, reply.json()["state"], reply.json()["standing"]) == (200, "active", [])
    async with gateway.sessions() as session:
        period = (await session.scalars(select(TradingStatePeriod).where(TradingStatePeriod.key == str(user.id)))).one()
    assert (period.ended_by, period.end_reason) == (user.id, REASON["reason"])


@pytest.mark.parametrize("body", [None, {}, {"reason": ""}, {"reason": "too short"}, REASON | {"more": 1}])
async def test_reactivating_needs_a_reason(gateway: Gateway, body: dict | None) -> None:
    user = await gateway.someone()
    await gateway.client.post("/v1/kill-switch", headers=user.headers)
    reply = await gateway.client.post("/v1/trading-state/reactivate", json=body, headers=user.headers)
    assert problem_of(reply).status == 422
    assert (await trading_state(gateway, user))["state"] == "halted"


async def test_what_only_an_admin_may_lift_a_user_cannot_shed(gateway: Gateway) -> None:
    """Not even by a kill switch of their own over it."""
    user, admin = await gateway.someone(), await gateway.someone(admin=True)
    await impose_on(gateway, user, Cause.UNKNOWN_OWN_ORDER, TradingState.REDUCING)
    await gateway.client.post("/v1/kill-switch", headers=user.headers)
    reply = await gateway.client.post("/v1/trading-state/reactivate", json=REASON, headers=user.headers)
    assert (problem_of(reply).status, problem_of(reply).code) == (403, "admin_required")
    (standing,) = (await trading_state(gateway, user))["standing"]
    assert (standing["state"], standing["cause"], standing["by_system"]) == ("halted", "unknown_own_order", False)
    assert "administrator" in standing["what_to_do"]

    found = await gateway.client.get("/v1/admin/trading-states?standing=true", headers=admin.headers)
    (period,) = [row for row in found.json()["trading_states"] if row["key"] == str(user.id)]
    path = f"/v1/admin/trading-states/{period['id']}/lift"
    assert problem_of(await gateway.client.post(path, json=REASON, headers=user.headers)).status == 403
    lifted = await gateway.client.post(path, json=REASON, headers=admin.headers)
    assert (lifted.status_code, lifted.json()["ended_by"]) == (200, admin.id)
    assert (await trading_state(gateway, user))["state"] == "active"
    assert problem_of(await gateway.client.post(path, json=REASON, headers=admin.headers)).status == 404


async def test_an_admin_halts_the_platform_and_every_user_sees_it(own_gateway: Gateway) -> None:
    user, admin = await own_gateway.someone("pro", account=True), await own_gateway.someone(admin=True)
    order = await rest(own_gateway.trading, user.id, own_gateway.market.now, 980, symbol="RELIANCE")
    body = {"scope": "platform", "flatten": False, "reason": "the exchange reports trouble"}
    path = "/v1/admin/kill-switch"
    assert problem_of(await own_gateway.client.post(path, json=body, headers=user.headers)).code == "admin_required"
    reply = (await own_gateway.client.post(path, json=body, headers=admin.headers)).json()
    assert (reply["scope"], reply["state"], reply["cancels"]["open"]) == ("platform", "halted", 1)
    assert await state_of(own_gateway.trading, order) is OrderState.CANCELLED
    state = await trading_state(own_gateway, user)
    assert (state["state"], [row["scope"] for row in state["standing"]]) == ("halted", ["platform"])
    again = await own_gateway.client.post("/v1/trading-state/reactivate", json=REASON, headers=user.headers)
    assert (again.status_code, again.json()["state"]) == (200, "halted")


@pytest.mark.parametrize(
    ("scope", "key", "state"),
    [("broker", "paper", "halted"), ("strategy", "pooled", "active")],
)
async def test_a_state_of_my_broker_holds_for_me_and_one_of_a_strategy_is_shown(
    own_gateway: Gateway, scope: str, key: str, state: str
) -> None:
    user, admin = await own_gateway.someone("pro", account=True), await own_gateway.someone(admin=True)
    body = {"scope": scope, "key": key, "reason": "looks wrong"}
    reply = await own_gateway.client.post("/v1/admin/kill-switch", json=body, headers=admin.headers)
    assert (reply.status_code, reply.json()["state"]) == (200, "halted")
    found = await trading_state(own_gateway, user)
    assert (found["state"], [row["key"] for row in found["standing"]]) == (state, [key])


async def test_nobody_sees_what_stands_for_others(gateway: Gateway) -> None:
    halted, other = await gateway.someone(), await gateway.someone()
    await gateway.client.post("/v1/kill-switch", json={"reason": "a secret"}, headers=halted.headers)
    state = await trading_state(gateway, other)
    assert (state["state"], state["standing"]) == ("active", [])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"scope": "platform", "key": "x", "reason": "why"}, 422),
        ({"scope": "user", "reason": "why"}, 422),
        ({"scope": "user", "key": "7"}, 422),
        ({"scope": "everybody", "reason": "why"}, 422),
        ({"scope": "broker", "key": "paper", "flatten": "yes", "reason": "why"}, 422),
        ({"scope": "broker", "key": "zerodha", "reason": "why"}, 404),
        ({"scope": "user", "key": "987654321", "reason": "why"}, 404),
    ],
)
async def test_an_admins_typing_error_halts_nobody(gateway: Gateway, body: dict, status: int) -> None:
    admin = await gateway.someone(admin=True)
    reply = await gateway.client.post("/v1/admin/kill-switch", json=body, headers=admin.headers)
    assert problem_of(reply).status == status
    async with gateway.sessions() as session:
        imposed = select(func.count()).where(TradingStatePeriod.set_by == admin.id)
        assert await session.scalar(imposed) == 0


async def test_the_periods_come_in_pages_newest_first(own_gateway: Gateway) -> None:
    admin = await own_gateway.someone(admin=True)
    users = [await own_gateway.someone() for _ in range(3)]
    for user in users:
        await impose_on(own_gateway, user, Cause.REJECTIONS)
    await own_gateway.client.post("/v1/trading-state/reactivate", json=REASON, headers=users[1].headers)
    path = "/v1/admin/trading-states"
    first = (await own_gateway.client.get(f"{path}?limit=2", headers=admin.headers)).json()
    rest_of = (
        await own_gateway.client.get(f"{path}?limit=2&cursor={first['next_cursor']}", headers=admin.headers)
    ).json()
    rows = first["trading_states"] + rest_of["trading_states"]
    assert [row["key"] for row in rows] == [str(user.id) for user in reversed(users)]
    assert [row["ended_by"] for row in rows] == [None, users[1].id, None]
    assert rest_of["next_cursor"] is None
    standing = (await own_gateway.client.get(f"{path}?standing=true", headers=admin.headers)).json()
    assert [row["key"] for row in standing["trading_states"]] == [str(users[2].id), str(users[0].id)]
