"""From Free to a paid plan and back, through an administrator; and the calendar under an administrator's hand."""

import asyncio
from datetime import timedelta

from sqlalchemy import select

from backend.domain.calendar import Phase
from backend.models import Cycle, CycleStatus, Subscription, SubscriptionStatus
from tests.api.conftest import MONDAY_10, Gateway
from tests.api.test_problems import problem_of


async def test_the_catalogue_is_public_and_cheapest_first(gateway: Gateway) -> None:
    plans = (await gateway.client.get("/v1/plans")).json()["plans"]
    assert [p["code"] for p in plans] == ["free", "basic", "pro", "enterprise"]
    assert plans[1]["price_rupees_per_month"] == "499.00"


async def test_a_plan_is_pending_until_an_administrator_activates_it(gateway: Gateway) -> None:
    user, admin = await gateway.someone(), await gateway.someone(admin=True)
    asked = await gateway.client.post("/v1/subscription", json={"plan": "basic"}, headers=user.headers)
    assert asked.status_code == 201
    assert asked.json()["status"] == "pending"
    standing = (await gateway.client.get("/v1/subscription", headers=user.headers)).json()
    assert (standing["plan"]["code"], standing["active"]) == ("free", None)
    assert standing["pending"] == asked.json()

    waiting = await gateway.client.get("/v1/admin/subscriptions?status=pending", headers=admin.headers)
    assert user.email in {row["email"] for row in waiting.json()["subscriptions"]}
    path = f"/v1/admin/subscriptions/{asked.json()['id']}/activate"
    assert problem_of(await gateway.client.post(path, headers=user.headers)).status == 403
    activated = await gateway.client.post(path, headers=admin.headers)
    assert activated.json()["status"] == "active"
    assert activated.json()["activated_at"] is not None
    assert problem_of(await gateway.client.post(path, headers=admin.headers)).code == "not_pending"
    me = (await gateway.client.get("/v1/auth/me", headers=user.headers)).json()
    assert (me["plan"]["code"], me["quota"]["entries_left"]) == ("basic", 10)


async def test_a_newer_wish_replaces_the_pending_one_and_activation_the_active_one(gateway: Gateway) -> None:
    user, admin = await gateway.someone("basic"), await gateway.someone(admin=True)
    await gateway.client.post("/v1/subscription", json={"plan": "enterprise"}, headers=user.headers)
    wish = (await gateway.client.post("/v1/subscription", json={"plan": "pro"}, headers=user.headers)).json()
    path = f"/v1/admin/subscriptions/{wish['id']}/activate"
    assert (await gateway.client.post(path, headers=admin.headers)).status_code == 200
    async with gateway.sessions() as session:
        rows = await session.scalars(select(Subscription).where(Subscription.user_id == user.id))
        found = {row.plan_code: row.status for row in rows}
    cancelled = SubscriptionStatus.CANCELLED
    assert found == {"basic": cancelled, "enterprise": cancelled, "pro": SubscriptionStatus.ACTIVE}


async def test_free_takes_effect_at_once_and_cancelling_leads_to_free(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    ended = await gateway.client.delete("/v1/subscription", headers=user.headers)
    assert (ended.json()["plan"], ended.json()["status"]) == ("pro", "cancelled")
    again = problem_of(await gateway.client.delete("/v1/subscription", headers=user.headers))
    assert (again.status, again.code) == (404, "no_subscription")

    other = await gateway.someone("pro")
    free = await gateway.client.post("/v1/subscription", json={"plan": "free"}, headers=other.headers)
    assert free.json()["status"] == "active"
    me = (await gateway.client.get("/v1/auth/me", headers=other.headers)).json()
    assert me["plan"]["code"] == "free"


async def test_plans_that_cannot_be_asked_for(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    unknown = await gateway.client.post("/v1/subscription", json={"plan": "gold"}, headers=user.headers)
    assert problem_of(unknown).code == "unknown_plan"
    same = await gateway.client.post("/v1/subscription", json={"plan": "pro"}, headers=user.headers)
    assert (problem_of(same).status, problem_of(same).code) == (409, "already_on_plan")


async def test_wishes_at_the_same_time_leave_one_pending(gateway: Gateway) -> None:
    user = await gateway.someone()
    plans = ["basic", "pro", "enterprise"] * 3
    replies = await asyncio.gather(
        *(gateway.client.post("/v1/subscription", json={"plan": p}, headers=user.headers) for p in plans)
    )
    assert {reply.status_code for reply in replies} == {201}
    async with gateway.sessions() as session:
        rows = await session.scalars(select(Subscription.status).where(Subscription.user_id == user.id))
        assert list(rows).count(SubscriptionStatus.PENDING) == 1


async def test_lists_come_in_pages_without_gaps(own_gateway: Gateway) -> None:
    admin = await own_gateway.someone(admin=True)
    async with own_gateway.sessions.begin() as session:
        for minute in range(5):
            session.add(
                Cycle(
                    scheduled_at=MONDAY_10 + timedelta(minutes=minute),
                    trade_date=MONDAY_10.date(),
                    environment="simulated",
                    status=CycleStatus.DONE,
                    inputs={"now": "x"},
                    summary={"users": minute},
                )
            )
    seen: list[int] = []
    query = "?limit=2"
    for _ in range(5):
        if not query:
            break
        page = (await own_gateway.client.get(f"/v1/admin/cycles{query}", headers=admin.headers)).json()
        seen += [cycle["summary"]["users"] for cycle in page["cycles"]]
        assert page["environment"] == "simulated"
        query = f"?limit=2&cursor={page['next_cursor']}" if page["next_cursor"] else ""
    assert seen == [4, 3, 2, 1, 0]


async def test_a_correction_of_the_calendar_counts_at_once(own_gateway: Gateway) -> None:
    admin = await own_gateway.someone(admin=True)
    calendar = own_gateway.trading.calendar
    assert calendar.phase("TCS", MONDAY_10) is Phase.CONTINUOUS
    closed = {"day": "2024-03-18", "kind": "closed", "reason": "A holiday by circular."}
    made = await own_gateway.client.post("/v1/admin/calendar-overrides", json=closed, headers=admin.headers)
    assert made.status_code == 201
    assert calendar.phase("TCS", MONDAY_10) is Phase.CLOSED
    status = (await own_gateway.client.get("/v1/market/status")).json()
    assert {c["phase"] for c in status["classes"]} == {"closed"}

    short = closed | {"kind": "open", "open_at": "10:00", "close_at": "11:00", "exchange": "nse"}
    await own_gateway.client.post("/v1/admin/calendar-overrides", json=short, headers=admin.headers)
    assert calendar.phase("TCS", MONDAY_10) is Phase.CONTINUOUS
    assert calendar.phase("TCS", MONDAY_10 + timedelta(hours=1)) is not Phase.CONTINUOUS
    listed = await own_gateway.client.get("/v1/admin/calendar-overrides", headers=admin.headers)
    assert [row["kind"] for row in listed.json()["overrides"]] == ["open", "closed"]
    assert listed.json()["overrides"][0]["created_by"] == admin.id


async def test_a_correction_that_cannot_be_a_session_is_not_let_in(gateway: Gateway) -> None:
    admin = await gateway.someone(admin=True)
    base = {"day": "2024-03-18", "kind": "open", "reason": "A test of bad times."}
    for bad in (
        {"open_at": "10:00"},
        {"open_at": "11:00", "close_at": "10:00"},
        {"open_at": "00:00", "close_at": "23:59"},
        {"open_at": "10:00+05:30", "close_at": "11:00+05:30"},
        {"kind": "closed", "open_at": "10:00", "close_at": "11:00"},
        {"day": "9999-12-31", "open_at": "23:00", "close_at": "23:59"},
        {"kind": "holiday"},
        {"exchange": "mcx"},
        {"reason": ""},
    ):
        reply = await gateway.client.post("/v1/admin/calendar-overrides", json=base | bad, headers=admin.headers)
        assert problem_of(reply).status == 422
    await gateway.trading.calendar.refresh(gateway.sessions)
