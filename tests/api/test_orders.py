"""Orders of every origin: listed in pages, shown with their record, and cancelled whatever the plan."""

from decimal import Decimal

import pytest

from backend.domain.market import Side
from backend.domain.orders import OrderState
from backend.domain.reasons import NEXT_STEP, Reason
from backend.domain.trading_states import Cause, Scope, TradingState
from backend.models import Order, OrderOrigin
from backend.services.reconcile_service import reconcile
from backend.services.trading_state_service import impose
from tests.api.conftest import Gateway, Someone
from tests.api.rows import add_cycle, filled_order, trade
from tests.api.test_problems import problem_of
from tests.support.resting_orders import rest, state_of


async def resting(gateway: Gateway, user: Someone, limit: int = 980, **changes) -> int:
    return await rest(gateway.trading, user.id, gateway.market.now, limit, symbol="RELIANCE", **changes)


async def orders(gateway: Gateway, user: Someone, query: str = "") -> dict:
    reply = await gateway.client.get(f"/v1/orders{query}", headers=user.headers)
    assert reply.status_code == 200
    return reply.json()


async def test_they_come_in_pages_newest_first_whoever_made_them(gateway: Gateway) -> None:
    user = await gateway.someone("pro", account=True)
    ids = [await resting(gateway, user, origin=origin) for origin in (OrderOrigin.MANUAL, OrderOrigin.EXTERNAL)]
    cycle_id = await add_cycle(gateway.sessions)
    async with gateway.sessions.begin() as session:
        owner = trade(user, cycle_id)
        session.add(owner)
        await session.flush()
        order, _ = filled_order(owner, Side.BUY, 10, "100", "1", "ENGINE1")
        session.add(order)
        await session.flush()
        ids.append(order.id)
    first = await orders(gateway, user, "?limit=2")
    second = await orders(gateway, user, f"?limit=2&cursor={first['next_cursor']}")
    found = first["orders"] + second["orders"]
    assert [row["id"] for row in found] == ids[::-1]
    assert [row["origin"] for row in found] == ["engine", "external", "manual"]
    assert (first["environment"], second["next_cursor"]) == ("simulated", None)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("?state=accepted", 1),
        ("?state=cancelled", 1),
        ("?state=filled", 0),
        ("?origin=manual", 2),
        ("?origin=engine", 0),
        ("?symbol=RELIANCE&state=accepted", 1),
        ("?symbol=TCS", 0),
    ],
)
async def test_filters(gateway: Gateway, query: str, count: int) -> None:
    user = await gateway.someone("pro", account=True)
    kept, cancelled = await resting(gateway, user), await resting(gateway, user)
    await gateway.client.delete(f"/v1/orders/{cancelled}", headers=user.headers)
    assert len((await orders(gateway, user, query))["orders"]) == count
    assert kept != cancelled


async def test_an_order_is_shown_with_its_events_and_fills(gateway: Gateway) -> None:
    user = await gateway.someone("pro", account=True)
    order = await resting(gateway, user, 1010)
    await reconcile(gateway.trading)
    reply = (await gateway.client.get(f"/v1/orders/{order}", headers=user.headers)).json()
    assert (reply["order"]["state"], reply["order"]["filled_quantity"]) == ("filled", 10)
    assert [event["kind"] for event in reply["events"]] == ["submitted", "accepted", "filled"]
    (fill,) = reply["fills"]
    assert fill["quantity"] == 10
    assert Decimal(fill["price"]) == Decimal(reply["order"]["average_price"])
    assert Decimal(fill["charges"]) > 0


async def test_a_denied_order_says_what_to_do(gateway: Gateway) -> None:
    user = await gateway.someone("pro", account=True)
    order = await resting(gateway, user)
    async with gateway.sessions.begin() as session:
        row = await session.get_one(Order, order)
        row.state, row.denied_reason = OrderState.DENIED, Reason.TRADING_HALTED
    reply = (await gateway.client.get(f"/v1/orders/{order}", headers=user.headers)).json()["order"]
    assert (reply["denied_reason"], reply["next_step"]) == ("trading_halted", NEXT_STEP[Reason.TRADING_HALTED])


async def test_cancelling_needs_no_plan_and_works_under_a_halt(gateway: Gateway) -> None:
    user = await gateway.someone(account=True)
    order = await resting(gateway, user)
    async with gateway.sessions.begin() as session:
        await impose(session, Scope.USER, str(user.id), TradingState.HALTED, Cause.ADMIN, "why")
    for _ in range(2):  # once more changes nothing
        reply = await gateway.client.delete(f"/v1/orders/{order}", headers=user.headers)
        assert (reply.status_code, reply.json()["order"]["state"]) == (200, "cancelled")
    assert await state_of(gateway.trading, order) is OrderState.CANCELLED


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (OrderState.FILLED, "order_ended"),
        (OrderState.DENIED, "order_ended"),
        (OrderState.PENDING, "order_in_flight"),
        (OrderState.SUBMITTED, "order_in_flight"),
        (OrderState.UNKNOWN, "order_in_flight"),
    ],
)
async def test_what_cannot_be_cancelled_says_why(gateway: Gateway, state: OrderState, code: str) -> None:
    user = await gateway.someone("pro", account=True)
    order = await resting(gateway, user)
    async with gateway.sessions.begin() as session:
        (await session.get_one(Order, order)).state = state
    problem = problem_of(await gateway.client.delete(f"/v1/orders/{order}", headers=user.headers))
    assert (problem.status, problem.code) == (409, code)
    assert await state_of(gateway.trading, order) is state


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_anothers_order_does_not_exist(gateway: Gateway, method: str) -> None:
    owner, other = await gateway.someone("pro", account=True), await gateway.someone("pro")
    order = await resting(gateway, owner)
    for headers, status in ((other.headers, 404), ({}, 401)):
        reply = await gateway.client.request(method, f"/v1/orders/{order}", headers=headers)
        assert problem_of(reply).status == status
    assert await state_of(gateway.trading, order) is OrderState.ACCEPTED


@pytest.mark.parametrize("query", ["?state=open", "?limit=0", "?cursor=x", "?color=red", "?symbol=tcs"])
async def test_a_bad_query_is_refused(gateway: Gateway, query: str) -> None:
    user = await gateway.someone()
    assert problem_of(await gateway.client.get(f"/v1/orders{query}", headers=user.headers)).status == 422
