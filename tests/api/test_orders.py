"""Orders of every origin: listed in pages, shown with their record, and cancelled whatever the plan."""

import asyncio
from decimal import Decimal

import httpx
import pytest
from sqlalchemy import func, select, text, update

from backend.domain.market import Side
from backend.domain.orders import OrderState
from backend.domain.reasons import NEXT_STEP, Reason
from backend.domain.trading_states import Cause, Scope, TradingState
from backend.models import IdempotencyKey, Order, OrderOrigin, PaperOrder, Subscription, SubscriptionStatus
from backend.services import cancel_service
from backend.services.reconcile_service import reconcile
from backend.services.trading_state_service import impose
from tests.api.conftest import Gateway, Someone
from tests.api.rows import add_cycle, filled_order, trade
from tests.api.test_problems import problem_of
from tests.support.resting_orders import rest, state_of


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time enough on a busy machine, where a test is about what becomes of the orders and not about how soon."""
    monkeypatch.setattr(cancel_service, "CANCEL_S_MAX", 20)


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


# ---- orders made by hand

BUY = {"symbol": "RELIANCE", "side": "buy", "quantity": 10, "product": "cnc"}


async def place(gateway: Gateway, user: Someone, key: str | None = "k", **changes) -> httpx.Response:
    headers = user.headers | ({"Idempotency-Key": key} if key is not None else {})
    return await gateway.client.post("/v1/orders", json=BUY | changes, headers=headers)


async def test_an_order_by_hand_is_placed_and_filled_like_any_other(gateway: Gateway) -> None:
    user = await gateway.someone("pro", account=True)
    reply = await place(gateway, user)
    assert reply.status_code == 201
    order = reply.json()["order"]
    assert (order["origin"], order["auto_trade_id"], order["intent"]) == ("manual", None, "entry")
    assert (order["state"], order["filled_quantity"], order["account_id"]) == ("filled", 10, user.account_id)
    # Without a limit of its own it got one, close above the last price of 1000.
    assert Decimal(1000) < Decimal(order["limit_price"]) <= Decimal("1003.05")
    sold = (await place(gateway, user, "sell", side="sell", quantity=4)).json()["order"]
    assert (sold["intent"], sold["state"]) == ("exit", "filled")
    assert Decimal("989.95") <= Decimal(sold["limit_price"]) < Decimal(1000)


async def test_what_was_bought_by_hand_is_sold_whatever_the_plan(gateway: Gateway) -> None:
    user = await gateway.someone("pro", account=True)
    assert (await place(gateway, user, "buy")).json()["order"]["state"] == "filled"
    async with gateway.sessions.begin() as session:
        mine = Subscription.user_id == user.id
        await session.execute(update(Subscription).where(mine).values(status=SubscriptionStatus.CANCELLED))
    assert problem_of(await place(gateway, user, "more")).code == "plan_required"
    reply = await place(gateway, user, "sell", side="sell")
    assert (reply.status_code, reply.json()["order"]["state"]) == (201, "filled")


async def test_a_limit_of_ones_own_rests_and_can_be_cancelled(gateway: Gateway) -> None:
    user = await gateway.someone("pro", account=True)
    order = (await place(gateway, user, limit_price="985.00")).json()["order"]
    assert (order["state"], order["limit_price"]) == ("accepted", "985.00")
    reply = await gateway.client.delete(f"/v1/orders/{order['id']}", headers=user.headers)
    assert reply.json()["order"]["state"] == "cancelled"


async def test_fifty_requests_with_one_key_are_one_order(own_gateway: Gateway) -> None:
    user = await own_gateway.someone("pro", account=True)

    async def until_answered() -> httpx.Response:
        async with asyncio.timeout(30):
            while (reply := await place(own_gateway, user)).status_code == 409:
                assert problem_of(reply).code == "idempotency_in_flight"
        return reply

    replies = await asyncio.gather(*(until_answered() for _ in range(50)))
    assert {reply.status_code for reply in replies} == {201}
    assert len({reply.content for reply in replies}) == 1
    async with own_gateway.sessions() as session:
        for table in (Order, PaperOrder):
            assert await session.scalar(select(func.count()).select_from(table)) == 1


async def test_a_key_taken_over_from_a_request_that_died_finds_its_order(gateway: Gateway) -> None:
    """The request died after its order was sent, before its answer was kept: the order's own name keeps it one."""
    user = await gateway.someone("pro", account=True)
    first = (await place(gateway, user)).json()["order"]
    async with gateway.sessions.begin() as session:
        await session.execute(
            update(IdempotencyKey)
            .where(IdempotencyKey.user_id == user.id)
            .values(finished_at=None, status=None, claimed_at=func.clock_timestamp() - text("interval '31 seconds'"))
        )
    second = await place(gateway, user)
    assert (second.status_code, second.json()["order"]["id"]) == (201, first["id"])
    assert len((await orders(gateway, user))["orders"]) == 1


async def test_an_order_by_hand_needs_a_key(gateway: Gateway) -> None:
    user = await gateway.someone("pro", account=True)
    problem = problem_of(await place(gateway, user, None))
    assert (problem.status, [error["pointer"] for error in problem.errors]) == (422, ["#/Idempotency-Key"])
    assert (await orders(gateway, user))["orders"] == []


async def test_an_order_by_hand_needs_a_plan_that_has_it(gateway: Gateway) -> None:
    user = await gateway.someone(account=True)
    assert problem_of(await place(gateway, user)).code == "plan_required"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"quantity": 0}, "validation_failed"),
        ({"quantity": 1.0}, "validation_failed"),
        ({"quantity": "10"}, "validation_failed"),
        ({"limit_price": 985.5}, "validation_failed"),
        ({"limit_price": "0"}, "validation_failed"),
        ({"limit_price": "-985"}, "validation_failed"),
        ({"limit_price": "985.00001"}, "validation_failed"),
        ({"symbol": "NOSUCH"}, "unknown_symbol"),
        ({"limit_price": "985.01"}, "not_on_tick"),
        ({"limit_price": "900"}, "outside_collar"),
        ({"side": "sell"}, "sell_exceeds_holding"),
        ({"quantity": 600}, "insufficient_funds"),
    ],
)
async def test_what_is_refused_leaves_no_order(gateway: Gateway, changes: dict, code: str) -> None:
    user = await gateway.someone("pro", account=True)
    problem = problem_of(await place(gateway, user, **changes))
    assert (problem.status, problem.code) == (422, code)
    assert (await orders(gateway, user))["orders"] == []


async def test_an_order_goes_through_ones_own_account_only(gateway: Gateway) -> None:
    user, other = await gateway.someone("pro", account=True), await gateway.someone("pro", account=True)
    assert problem_of(await place(gateway, user, account_id=other.account_id)).status == 404
    assert (await orders(gateway, other))["orders"] == []


async def test_a_halt_denies_an_order_by_hand_before_the_socket(gateway: Gateway) -> None:
    user = await gateway.someone("pro", account=True)
    await gateway.client.post("/v1/kill-switch", headers=user.headers)
    reply = await place(gateway, user)
    assert (reply.status_code, reply.json()["order"]["state"]) == (201, "denied")
    assert reply.json()["order"]["denied_reason"] == "trading_halted"
    async with gateway.sessions() as session:
        query = select(func.count()).where(PaperOrder.account_id == user.account_id)
        assert await session.scalar(query) == 0


async def test_an_unknown_order_is_settled_by_an_administrator_who_asked_the_broker(own_gateway: Gateway) -> None:
    user, admin = await own_gateway.someone("pro", account=True), await own_gateway.someone(admin=True)
    order_id = await resting(own_gateway, user)
    body = {"outcome": "abandoned", "reason": "the broker's desk has no such order"}
    path = f"/v1/admin/unknown-orders/{order_id}/settle"
    known = await own_gateway.client.post(path, json=body, headers=admin.headers)
    assert problem_of(known).code == "order_not_unknown"
    async with own_gateway.sessions.begin() as session:
        await session.execute(update(Order).where(Order.id == order_id).values(state=OrderState.UNKNOWN))
    assert problem_of(await own_gateway.client.post(path, json=body, headers=user.headers)).code == "admin_required"
    listed = (await own_gateway.client.get("/v1/admin/unknown-orders", headers=admin.headers)).json()
    assert [(row["id"], row["user_id"]) for row in listed["orders"]] == [(order_id, user.id)]
    settled = await own_gateway.client.post(path, json=body, headers=admin.headers)
    assert (settled.status_code, settled.json()["order"]["state"]) == (200, "expired")
    events = (await own_gateway.client.get(f"/v1/orders/{order_id}", headers=user.headers)).json()["events"]
    assert events[-1]["detail"] == f"settled by user {admin.id}: the broker's desk has no such order"
    assert (await own_gateway.client.get("/v1/admin/unknown-orders", headers=admin.headers)).json()["orders"] == []
