"""Trading under an administrator's hand: pausing, reconciling, the last cycle, and why nothing was traded."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from backend.domain.modes import Mode
from backend.domain.orders import OrderState
from backend.models import (
    AuditEntry,
    BrokerAccount,
    BrokerAccountStatus,
    Cycle,
    CycleStatus,
    Decision,
    LoginSession,
    Order,
    User,
)
from backend.services import cancel_service
from backend.services.audit_service import SYSTEM, record
from backend.services.auto_trading_service import run_cycle
from tests.api.conftest import MONDAY_10, Gateway, Someone
from tests.api.silent_market import without_market
from tests.api.test_problems import problem_of
from tests.support.resting_orders import rest, state_of

DAY = "2024-03-18"
LONG_AGO = {"reason": "looked at it, all is well"}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time enough on a busy machine: these tests are about what becomes of the orders and not about how soon."""
    monkeypatch.setattr(cancel_service, "CANCEL_S_MAX", 20)


async def deeds(gateway: Gateway, admin: Someone) -> list[tuple[str, str, int | None, str]]:
    async with gateway.sessions() as session:
        rows = await session.scalars(
            select(AuditEntry).where(AuditEntry.actor == f"user:{admin.id}").order_by(AuditEntry.id)
        )
        return [(row.action, row.target, row.subject_id, row.reason) for row in rows]


async def post(gateway: Gateway, admin: Someone, path: str, body: dict | None) -> Any:
    return await gateway.client.post(f"/v1/admin/{path}", json=body, headers=admin.headers)


async def why(gateway: Gateway, admin: Someone, user: Someone, query: str = "") -> dict:
    reply = await gateway.client.get(f"/v1/admin/users/{user.id}/why-no-trade{query}", headers=admin.headers)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_a_pause_stops_entries_and_leaves_exits_alone(own_gateway: Gateway) -> None:
    admin, user = await own_gateway.someone(admin=True), await own_gateway.someone("pro", enabled=True)
    entry = await rest(own_gateway.trading, user.id, own_gateway.market.now, 980, symbol="RELIANCE")
    body = {"scope": "user", "key": str(user.id), "reason": "asks odd things"}
    reply = await post(own_gateway, admin, "pause", body)
    assert reply.status_code == 200
    told = reply.json()
    assert (told["state"], told["changed"], told["cancels"]["open"]) == ("reducing", True, 1)
    assert "exits" in told["message"]
    assert await state_of(own_gateway.trading, entry) is OrderState.CANCELLED
    state = (await own_gateway.client.get("/v1/trading-state", headers=user.headers)).json()
    assert (state["state"], state["entries_allowed"], state["exits_allowed"]) == ("reducing", False, True)
    assert (await run_cycle(own_gateway.trading, own_gateway.market.now)) is not None
    async with own_gateway.sessions() as session:
        sent = select(Order).where(Order.user_id == user.id, Order.submitted_at.is_not(None), Order.id != entry)
        assert (await session.scalars(sent)).all() == []
    found = await why(own_gateway, admin, user)
    assert found["verdict"]["code"] == "trading_reducing"
    assert "administrator" in found["verdict"]["next_step"]
    # The user cannot shed it, and a halt is graver than a pause.
    shed = await own_gateway.client.post("/v1/trading-state/reactivate", json=LONG_AGO, headers=user.headers)
    assert problem_of(shed).code == "admin_required"
    halted = await post(own_gateway, admin, "kill-switch", body)
    assert halted.json()["state"] == "halted"
    paused = (await post(own_gateway, admin, "pause", body)).json()
    assert (paused["state"], paused["changed"], paused["message"]) == ("halted", False, "Nothing is sent any more.")
    target = f"user:{user.id}"
    assert await deeds(own_gateway, admin) == [
        ("trading.pause", target, user.id, "asks odd things"),
        ("trading.halt", target, user.id, "asks odd things"),
        ("trading.pause", target, user.id, "asks odd things"),
    ]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"scope": "platform", "key": "x", "reason": "why"}, 422),
        ({"scope": "user", "reason": "why"}, 422),
        ({"scope": "user", "key": "7"}, 422),
        ({"scope": "user", "key": "7", "reason": "why", "flatten": True}, 422),
        ({"scope": "holding", "key": "1TCS", "reason": "why"}, 422),
        ({"scope": "broker", "key": "nobody", "reason": "why"}, 404),
        ({"scope": "user", "key": "987654321", "reason": "why"}, 404),
    ],
)
async def test_a_typing_error_pauses_nobody(gateway: Gateway, body: dict, status: int) -> None:
    admin = await gateway.someone(admin=True)
    assert problem_of(await post(gateway, admin, "pause", body)).status == status
    assert await deeds(gateway, admin) == []


async def test_safety_never_waits_for_a_step_up_and_every_deed_is_recorded(own_gateway: Gateway) -> None:
    admin = await own_gateway.someone(admin=True)
    async with own_gateway.sessions.begin() as session:
        login = (await session.scalars(select(LoginSession).where(LoginSession.user_id == admin.id))).one()
        login.proved_at = own_gateway.clock() - timedelta(days=1)
    halt = {"scope": "platform", "reason": "the exchange reports trouble"}
    assert (await post(own_gateway, admin, "kill-switch", halt)).status_code == 200
    listed = await own_gateway.client.get("/v1/admin/trading-states", headers=admin.headers)
    period = listed.json()["trading_states"][0]["id"]
    assert (await post(own_gateway, admin, f"trading-states/{period}/lift", LONG_AGO)).status_code == 200
    closed = {"day": "2024-03-19", "kind": "closed", "reason": "a holiday by circular"}
    assert (await post(own_gateway, admin, "calendar-overrides", closed)).status_code == 201
    assert (await post(own_gateway, admin, "reconcile", {})).status_code == 200
    assert await deeds(own_gateway, admin) == [
        ("trading.halt", "platform:", None, halt["reason"]),
        ("trading.lift", "platform:", None, LONG_AGO["reason"]),
        ("calendar.correct", "2024-03-19", None, closed["reason"]),
        ("trading.reconcile", "", None, ""),
    ]


async def test_a_halt_does_not_wait_for_the_audit_log(own_gateway: Gateway) -> None:
    admin, user = await own_gateway.someone(admin=True), await own_gateway.someone("pro", account=True)
    order = await rest(own_gateway.trading, user.id, own_gateway.market.now, 980, symbol="RELIANCE")
    body = {"scope": "user", "key": str(user.id), "reason": "asks odd things"}
    async with asyncio.timeout(20):
        async with own_gateway.sessions.begin() as session:
            await record(session, SYSTEM, "audit.wait")  # whoever writes next stands in line until this commits
            halting = asyncio.create_task(post(own_gateway, admin, "kill-switch", body))
            while await state_of(own_gateway.trading, order) is not OrderState.CANCELLED:
                assert not halting.done()
        reply = await halting
    assert (reply.status_code, reply.json()["cancels"]["cancel_asked"]) == (200, 1)
    assert await deeds(own_gateway, admin) == [("trading.halt", f"user:{user.id}", user.id, "asks odd things")]


async def test_an_order_settled_by_an_administrator_is_on_record(own_gateway: Gateway) -> None:
    admin, user = await own_gateway.someone(admin=True), await own_gateway.someone("pro", account=True)
    order_id = await rest(own_gateway.trading, user.id, own_gateway.market.now, 980, symbol="RELIANCE")
    async with own_gateway.sessions.begin() as session:
        (await session.get_one(Order, order_id)).state = OrderState.UNKNOWN
    body = {"outcome": "cancelled", "reason": "the broker's desk says so, ticket 4711"}
    assert (await post(own_gateway, admin, f"unknown-orders/{order_id}/settle", body)).status_code == 200
    assert await deeds(own_gateway, admin) == [("order.settle", f"order:{order_id}", user.id, body["reason"])]


async def test_reconciling_on_demand_settles_what_the_book_knows(own_gateway: Gateway) -> None:
    admin, user = await own_gateway.someone(admin=True), await own_gateway.someone("pro", account=True)
    other = await own_gateway.someone("pro", account=True)
    order_id = await rest(own_gateway.trading, user.id, own_gateway.market.now, 980, symbol="RELIANCE")
    own_gateway.market.now += timedelta(days=1)  # a day order that nobody asked about has expired
    elsewhere = (await post(own_gateway, admin, "reconcile", {"account_id": other.account_id})).json()
    assert (elsewhere["orders"], elsewhere["changed"]) == (0, 0)
    assert await state_of(own_gateway.trading, order_id) is OrderState.ACCEPTED
    report = await post(own_gateway, admin, "reconcile", {"account_id": user.account_id})
    assert report.json() == {
        "environment": "simulated",
        "orders": 1,
        "changed": 1,
        "abandoned": 0,
        "failed_accounts": [],
        "unsettled": [],
    }
    assert await state_of(own_gateway.trading, order_id) is OrderState.EXPIRED
    assert problem_of(await post(own_gateway, admin, "reconcile", {"account_id": 987654321})).status == 404
    assert problem_of(await post(own_gateway, admin, "reconcile", {"account_id": True})).status == 422


async def test_the_last_cycle_with_its_shards_and_the_age_of_its_inputs(own_gateway: Gateway) -> None:
    admin = await own_gateway.someone(admin=True)
    path = "/v1/admin/cycles/last"
    nothing = problem_of(await own_gateway.client.get(path, headers=admin.headers))
    assert (nothing.status, nothing.code) == (404, "no_cycle")
    await own_gateway.someone("pro", enabled=True)
    own_gateway.market.stocks["TCS"].as_of = MONDAY_10 - timedelta(seconds=7)
    await run_cycle(own_gateway.trading, own_gateway.market.now)
    last = (await own_gateway.client.get(path, headers=admin.headers)).json()
    assert (last["cycle"]["status"], last["problems"], last["missing"]) == ("done", {}, {})
    assert [(shard["recorded"], shard["done"]) for shard in last["shards"]] == [(True, True)]
    assert (last["quotes"], last["predictions"], last["quote_age_s_median"], last["quote_age_s_max"]) == (
        5,
        5,
        0.0,
        7.0,
    )
    assert last["features_through"] == "2024-03-15"
    assert last["duration_s"] > 0
    own_gateway.market.predictions_down = True
    own_gateway.market.now += timedelta(minutes=1)
    await run_cycle(own_gateway.trading, own_gateway.market.now)
    failed = (await own_gateway.client.get(path, headers=admin.headers)).json()
    assert (failed["predictions"], failed["features_through"], list(failed["problems"])) == (0, None, ["predictions"])


async def test_why_nothing_was_traded_as_the_reasons_fall_away_one_by_one(own_gateway: Gateway) -> None:
    admin, user = await own_gateway.someone(admin=True), await own_gateway.someone("pro", enabled=True)

    async def change(account: BrokerAccountStatus, active: bool) -> None:
        async with own_gateway.sessions.begin() as session:
            (await session.get_one(User, user.id)).active = active
            (await session.get_one(BrokerAccount, user.account_id)).status = account

    assert (await why(own_gateway, admin, user, "?day=2024-03-17"))["verdict"]["code"] == "market_closed"
    assert (await why(own_gateway, admin, user, "?day=2024-03-19"))["verdict"]["code"] == "day_to_come"
    assert (await why(own_gateway, admin, admin))["verdict"]["code"] == "plan_required"
    await change(BrokerAccountStatus.DISABLED, False)
    assert (await why(own_gateway, admin, user))["verdict"]["code"] == "user_inactive"
    await change(BrokerAccountStatus.DISABLED, True)
    found = await why(own_gateway, admin, user)
    assert found["verdict"]["code"] == "no_account"
    assert "no_account" in [block["reason"] for block in found["blocking"]]
    await change(BrokerAccountStatus.READY, True)
    found = await why(own_gateway, admin, user)
    assert (found["verdict"]["code"], found["blocking"]) == ("no_cycles", [])
    assert [window["phase"] for window in found["classes"][0]["windows"]].count("continuous") == 1

    own_gateway.market.predictions_down = True
    await run_cycle(own_gateway.trading, own_gateway.market.now)
    found = await why(own_gateway, admin, user)
    assert (found["cycles"], found["problems"], found["candidates"]) == ({"done": 1}, {"predictions": 1}, 0)
    assert found["verdict"]["code"] == "no_predictions"

    own_gateway.market.predictions_down = False
    for stock in own_gateway.market.stocks.values():
        stock.touch = 0.2
    for minute in (1, 2):
        own_gateway.market.now = MONDAY_10 + timedelta(minutes=minute)
        await run_cycle(own_gateway.trading, own_gateway.market.now)
    found = await why(own_gateway, admin, user)
    assert found["verdict"]["code"] == "confidence_below_mode"
    assert found["last_cycle"] == {"confidence_below_mode": 5}

    for stock in own_gateway.market.stocks.values():
        stock.touch = 0.85
    own_gateway.market.now = MONDAY_10 + timedelta(minutes=3)
    await run_cycle(own_gateway.trading, own_gateway.market.now)
    found = await why(own_gateway, admin, user)
    assert (found["verdict"]["code"], found["entries_filled"] > 0) == ("traded", True)
    # On a busy machine a send may miss its deadline, and its entry is given back.
    assert found["entries_filled"] <= found["entries_used"] <= found["entries_sent"]
    assert found["entries_per_day"] == 50
    assert found["candidates"] == 5


async def test_why_counts_what_is_on_record_and_needs_the_database_alone(own_gateway: Gateway) -> None:
    admin, user, other = [
        await own_gateway.someone(admin=True),
        await own_gateway.someone("pro", enabled=True),
        await own_gateway.someone("pro", enabled=True),
    ]
    day = (MONDAY_10 - timedelta(days=3)).date()
    refused = [{"intent": "entry", "reason": "plan_limit"}, {"intent": "exit", "reason": "no_quote"}]
    async with own_gateway.sessions.begin() as session:
        for minute, skipped in enumerate((None, None, "broker_unavailable")):
            cycle = Cycle(
                scheduled_at=MONDAY_10 - timedelta(days=3, minutes=minute),
                trade_date=day,
                environment="simulated",
                status=CycleStatus.DONE,
                summary={"candidates": {"moderate": 2, "aggressive": 9}, "problems": {}},
            )
            session.add(cycle)
            await session.flush()
            outcomes: list[dict[str, Any]] = [] if skipped else refused
            for someone, said in ((user, outcomes), (other, [{"intent": "entry", "reason": "cluster_full"}] * 9)):
                session.add(
                    Decision(
                        cycle_id=cycle.id,
                        user_id=someone.id,
                        mode=Mode.MODERATE,
                        skipped_reason=skipped,
                        outcomes=said,
                    )
                )
    async with without_market(own_gateway) as client:
        path = f"/v1/admin/users/{user.id}/why-no-trade?day={day}"
        found = (await client.get(path, headers=admin.headers)).json()
    assert (found["denied"], found["skipped"]) == ({"plan_limit": 2}, {"broker_unavailable": 1})
    assert (found["cycles"], found["candidates"], found["verdict"]["code"]) == ({"done": 3}, 6, "plan_limit")
    assert found["blocking"] == []
    assert "did not answer" in found["unknown"]
    for bad in ("?day=yesterday", "?day=2024-02-30", "?on=2024-03-18"):
        reply = await own_gateway.client.get(f"/v1/admin/users/{user.id}/why-no-trade{bad}", headers=admin.headers)
        assert problem_of(reply).status == 422
