"""From Free to a paid plan and back: asking, paying, changing, cancelling, and what an administrator may do."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import httpx
import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import ProgrammingError

from backend.config import Settings
from backend.db import OPERATOR_ROLE, act_for, acting_as
from backend.main import create_billing
from backend.models import AuditEntry, LoginSession, OutboxMessage, Subscription, SubscriptionStatus, User
from backend.services.billing_rules import BillingRules
from backend.services.rollover_service import roll_over
from tests.api.billing_calls import BANGALORE, MUMBAI, SELLER, activate, ask, billing_by, call, subscribed
from tests.api.conftest import Gateway
from tests.api.test_problems import problem_of


async def plan_of(gateway: Gateway, user) -> str:
    return (await call(gateway, user, "GET", "/auth/me")).json()["plan"]["code"]


async def test_the_catalogue_is_public_and_whole(gateway: Gateway) -> None:
    plans = (await gateway.client.get("/v1/plans")).json()["plans"]
    assert [p["code"] for p in plans][:4] == ["free", "basic", "pro", "enterprise"]
    basic = plans[1]
    assert (basic["price_rupees_per_month"], basic["price_rupees_per_year"]) == ("499.00", "4990.00")
    assert (basic["symbols_max"], basic["trial_days"], basic["auto_trades_per_day"]) == (10, 14, 10)
    assert "auto_trading" in basic["features"]
    assert plans[0]["features"] == []


async def test_a_plan_is_pending_until_it_is_paid(gateway: Gateway) -> None:
    user, admin = await gateway.someone(), await gateway.someone(admin=True)
    asked = await ask(gateway, user, "basic")
    assert asked["subscription"]["status"] == "pending"
    assert (asked["payment"]["amount"], asked["payment"]["status"]) == ("499.00", "created")
    standing = (await call(gateway, user, "GET", "/subscription")).json()
    assert (standing["plan"]["code"], standing["active"]) == ("free", None)
    assert (standing["pending"], standing["payment"]) == (asked["subscription"], asked["payment"])

    waiting = await call(gateway, admin, "GET", "/admin/subscriptions?status=pending")
    assert user.email in {row["email"] for row in waiting.json()["subscriptions"]}
    number = asked["subscription"]["id"]
    assert problem_of(await activate(gateway, user, number)).status == 403
    active = (await activate(gateway, admin, number)).json()
    assert active["status"] == "active"
    assert (active["period_from"], active["period_until"]) == (
        "2026-03-02T09:30:00+05:30",
        "2026-04-02T09:30:00+05:30",
    )
    assert problem_of(await activate(gateway, admin, number)).code == "not_pending"
    me = (await call(gateway, user, "GET", "/auth/me")).json()
    assert (me["plan"]["code"], me["quota"]["entries_left"]) == ("basic", 10)
    paid = (await call(gateway, user, "GET", "/payments")).json()["payments"]
    assert [p["status"] for p in paid] == ["paid"]


async def test_an_administrator_must_have_proved_who_they_are_lately(own_gateway: Gateway) -> None:
    user, admin = await own_gateway.someone(), await own_gateway.someone(admin=True)
    asked = await ask(own_gateway, user, "basic")
    own_gateway.clock.now += timedelta(minutes=11)
    headers = {
        "Authorization": f"Bearer {own_gateway.state.security.issue(admin.id, await login_of(own_gateway, admin))}"
    }
    admin.headers = headers
    late = problem_of(await activate(own_gateway, admin, asked["subscription"]["id"]))
    assert (late.status, late.code) == (403, "step_up_required")


async def login_of(gateway: Gateway, who) -> int:
    async with gateway.sessions() as session:
        return (await session.scalars(select(LoginSession.id).where(LoginSession.user_id == who.id))).one()


async def test_recorded_money_must_be_what_was_asked_and_counts_once(gateway: Gateway) -> None:
    user, admin = await gateway.someone(), await gateway.someone(admin=True)
    asked = await ask(gateway, user, "basic")
    path = f"/admin/payments/{asked['payment']['id']}/record"
    body = {"amount": "499.00", "reference": f"UTR{user.id}", "reason": "Seen in the statement."}
    wrong = problem_of(await call(gateway, admin, "POST", path, body | {"amount": "498.99"}))
    assert (wrong.status, wrong.code) == (422, "amount_differs")
    done = await call(gateway, admin, "POST", path, body)
    assert (done.json()["status"], done.json()["reference"]) == ("paid", f"UTR{user.id}")
    assert await plan_of(gateway, user) == "basic"
    assert problem_of(await call(gateway, admin, "POST", path, body)).code == "payment_not_open"
    other = await gateway.someone()
    twice = await ask(gateway, other, "basic")
    reused = await call(gateway, admin, "POST", f"/admin/payments/{twice['payment']['id']}/record", body)
    assert problem_of(reused).code == "reference_used"
    async with gateway.sessions() as session:
        mails = await session.scalars(select(OutboxMessage.payload).where(OutboxMessage.user_id == user.id))
        deeds = await session.scalars(select(AuditEntry.action).where(AuditEntry.subject_id == user.id))
        assert [m["subject"] for m in mails] == ["Payment received"]
        assert {"subscription.request", "payment.settle"} <= set(deeds)


async def test_a_repeated_key_asks_once(gateway: Gateway) -> None:
    user = await gateway.someone()
    path, body = "/subscription", {"plan": "basic"}
    first, again = [await call(gateway, user, "POST", path, body, **{"Idempotency-Key": "once"}) for _ in "ab"]
    assert first.content == again.content
    assert again.headers["Idempotent-Replayed"] == "true"
    payments = (await call(gateway, user, "GET", "/payments")).json()["payments"]
    assert len(payments) == 1


async def test_an_upgrade_credits_the_unused_rest(own_gateway: Gateway) -> None:
    admin = await own_gateway.someone(admin=True)
    user = await subscribed(own_gateway, admin, "basic")
    own_gateway.clock.now += timedelta(days=15, hours=12)  # half of the 31 days of March
    renew(own_gateway, user, admin, await login_of(own_gateway, user), await login_of(own_gateway, admin))
    await prove(own_gateway, admin)
    shown = (await call(own_gateway, user, "GET", "/subscription/preview?plan=pro")).json()
    assert (shown["begins_at"], shown["bill"]["price"], shown["bill"]["credit"]) == (None, "1999.00", "249.50")
    asked = await ask(own_gateway, user, "pro")
    assert asked["payment"]["amount"] == "1749.50"
    assert await plan_of(own_gateway, user) == "basic"
    await activate(own_gateway, admin, asked["subscription"]["id"])
    assert await plan_of(own_gateway, user) == "pro"
    # And the other way: nothing is paid back, it waits for the period's end.
    down = (await call(own_gateway, user, "GET", "/subscription/preview?plan=basic")).json()
    assert down["begins_at"] is not None
    planned = (await call(own_gateway, user, "PATCH", "/subscription", {"plan": "basic"})).json()
    assert (planned["subscription"]["next_plan"], planned["payment"]) == ("basic", None)
    assert await plan_of(own_gateway, user) == "pro"
    back = (await call(own_gateway, user, "PATCH", "/subscription", {"cancel_at_end": False})).json()
    assert back["subscription"]["next_plan"] is None
    nothing = await call(own_gateway, user, "PATCH", "/subscription", {"cancel_at_end": False})
    assert problem_of(nothing).code == "nothing_planned"


def renew(gateway: Gateway, user, admin, user_login: int, admin_login: int) -> None:
    for who, login in ((user, user_login), (admin, admin_login)):
        who.headers = {"Authorization": f"Bearer {gateway.state.security.issue(who.id, login)}"}


async def prove(gateway: Gateway, who) -> None:
    async with gateway.sessions.begin() as session:
        login = (await session.scalars(select(LoginSession).where(LoginSession.user_id == who.id))).one()
        login.proved_at = gateway.clock()


async def test_cancelling_keeps_what_is_paid_for_and_can_be_taken_back(gateway: Gateway) -> None:
    admin = await gateway.someone(admin=True)
    user = await subscribed(gateway, admin, "pro")
    ended = (await call(gateway, user, "DELETE", "/subscription")).json()
    assert (ended["status"], ended["cancel_at_end"]) == ("active", True)
    assert await plan_of(gateway, user) == "pro"
    again = await call(gateway, user, "POST", "/subscription", {"plan": "pro"})
    assert "take the planned change back" in problem_of(again).detail
    back = await call(gateway, user, "PATCH", "/subscription", {"cancel_at_end": False})
    assert back.json()["subscription"]["cancel_at_end"] is False
    # To ask for Free is to cancel.
    free = await ask(gateway, user, "free")
    assert free["subscription"]["cancel_at_end"] is True


async def test_what_is_pending_is_withdrawn_first(gateway: Gateway) -> None:
    user = await gateway.someone()
    await ask(gateway, user, "pro")
    gone = (await call(gateway, user, "DELETE", "/subscription")).json()
    assert (gone["plan"], gone["status"]) == ("pro", "cancelled")
    assert problem_of(await call(gateway, user, "DELETE", "/subscription")).code == "no_subscription"
    payments = (await call(gateway, user, "GET", "/payments")).json()["payments"]
    assert [p["status"] for p in payments] == ["failed"]


async def test_a_plan_without_an_end_ends_at_once(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    assert (await call(gateway, user, "DELETE", "/subscription")).json()["status"] == "cancelled"
    assert await plan_of(gateway, user) == "free"


async def test_one_trial_per_user(gateway: Gateway) -> None:
    user = await gateway.someone()
    unverified = await call(gateway, user, "POST", "/subscription", {"plan": "basic", "trial": True})
    assert (problem_of(unverified).status, problem_of(unverified).code) == (403, "email_unverified")
    none = await gateway.someone()
    async with gateway.sessions.begin() as session:
        those = User.id.in_([user.id, none.id])
        await session.execute(update(User).where(those).values(email_verified_at=gateway.clock()))
    tried = await ask(gateway, user, "basic", trial=True)
    assert (tried["subscription"]["status"], tried["payment"]) == ("trialing", None)
    assert tried["subscription"]["trial_until"] == "2026-03-16T09:30:00+05:30"
    assert await plan_of(gateway, user) == "basic"
    # The bigger plan begins when it is paid; trying that, too, is not possible.
    assert problem_of(await call(gateway, user, "POST", "/subscription", {"plan": "pro", "trial": True})).status == 409
    refused = await call(gateway, none, "POST", "/subscription", {"plan": "enterprise", "trial": True})
    assert problem_of(refused).code == "no_trial"
    async with gateway.sessions.begin() as session:
        row = (await session.scalars(select(Subscription).where(Subscription.user_id == user.id))).one()
        row.status = SubscriptionStatus.CANCELLED
    again = await call(gateway, user, "POST", "/subscription", {"plan": "pro", "trial": True})
    assert problem_of(again).code == "trial_used"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"plan": "gold"}, "unknown_plan"),
        ({"plan": "pro"}, "already_on_plan"),
        ({"plan": "basic", "billing": "weekly"}, "validation_failed"),
        ({"plan": "basic", "price": 1}, "validation_failed"),
    ],
)
async def test_plans_that_cannot_be_asked_for(gateway: Gateway, body: dict, code: str) -> None:
    user = await gateway.someone("pro")
    assert problem_of(await call(gateway, user, "POST", "/subscription", body)).code == code


@pytest.mark.parametrize("body", [{}, {"plan": "pro", "cancel_at_end": False}, {"cancel_at_end": True}])
async def test_a_change_says_one_thing(gateway: Gateway, body: dict) -> None:
    user = await gateway.someone("pro")
    assert problem_of(await call(gateway, user, "PATCH", "/subscription", body)).status == 422


async def test_wishes_at_the_same_time_leave_one_pending_and_one_payment(gateway: Gateway) -> None:
    user = await gateway.someone()
    plans = ["basic", "pro", "enterprise"] * 3
    replies = await asyncio.gather(*(call(gateway, user, "POST", "/subscription", {"plan": p}) for p in plans))
    assert {reply.status_code for reply in replies} == {201}
    payments = (await call(gateway, user, "GET", "/payments")).json()["payments"]
    assert [p["status"] for p in payments].count("created") == 1


async def test_an_administrator_gives_a_plan(gateway: Gateway) -> None:
    user, admin = await gateway.someone(), await gateway.someone(admin=True)
    path = f"/admin/users/{user.id}/subscription"
    body = {"plan": "pro", "until": "2026-06-01T00:00:00+05:30", "reason": "A friend of the house."}
    assert problem_of(await call(gateway, user, "POST", path, body)).status == 403
    given = await call(gateway, admin, "POST", path, body)
    assert (given.status_code, given.json()["provider"]) == (201, "comp")
    assert (given.json()["period_until"], given.json()["cancel_at_end"]) == ("2026-06-01T00:00:00+05:30", True)
    assert await plan_of(gateway, user) == "pro"
    nobody = await call(gateway, admin, "POST", "/admin/users/999999/subscription", body)
    assert problem_of(nobody).status == 404
    past = await call(gateway, admin, "POST", path, body | {"until": "2020-01-01T00:00:00+05:30"})
    assert problem_of(past).code == "not_givable"


async def test_a_changed_plan_counts_at_once_for_limits(own_gateway: Gateway) -> None:
    admin = await own_gateway.someone(admin=True)
    user = await own_gateway.someone("basic", account=True)
    plans = (await own_gateway.client.get("/v1/plans")).json()["plans"]
    basic = {name: value for name, value in plans[1].items() if name != "code"}
    path = "/admin/plans/basic"
    assert problem_of(await call(own_gateway, user, "PUT", path, basic)).status == 403
    small = basic | {"symbols_max": 2, "features": ["portfolio", "auto_trading"]}
    assert (await call(own_gateway, admin, "PUT", path, small)).json()["symbols_max"] == 2
    settings = {"mode": "moderate", "product": "cnc", "symbols": ["TCS", "INFY", "RELIANCE"]}
    many = problem_of(await call(own_gateway, user, "PUT", "/auto-trading/settings", settings))
    assert (many.status, many.code) == (403, "too_many_symbols")
    fewer = settings | {"symbols": ["TCS", "INFY"]}
    assert (await call(own_gateway, user, "PUT", "/auto-trading/settings", fewer)).status_code == 200
    order = {"symbol": "TCS", "side": "buy", "quantity": 1, "product": "cnc"}
    placed = problem_of(await call(own_gateway, user, "POST", "/orders", order, **{"Idempotency-Key": "k"}))
    assert (placed.status, placed.code) == (403, "plan_required")
    assert "Basic does not include orders by hand. Pro does" in placed.detail

    new = small | {"code": "family", "rank": 9, "offered": True, "brokers": [], "price_rupees_per_month": "100.00"}
    assert (await call(own_gateway, admin, "POST", "/admin/plans", new)).status_code == 201
    assert problem_of(await call(own_gateway, admin, "POST", "/admin/plans", new)).code == "plan_exists"
    free = {name: value for name, value in plans[0].items() if name != "code"}
    paid = await call(own_gateway, admin, "PUT", "/admin/plans/free", free | {"price_rupees_per_month": "1.00"})
    assert problem_of(paid).status == 422
    kin = await own_gateway.someone("family")
    account = await call(own_gateway, kin, "POST", "/broker-accounts", {"broker": "paper", "label": "x"})
    assert (problem_of(account).status, problem_of(account).code) == (403, "plan_required")
    assert "at no broker, not at paper. Basic includes it." in problem_of(account).detail
    for bad in ({"price_rupees_per_month": "1.005"}, {"price_rupees_per_year": "0"}, {"features": ["flying"]}):
        refused = await call(own_gateway, admin, "POST", "/admin/plans", new | {"code": "x"} | bad)
        assert problem_of(refused).status == 422


async def test_billing_details_are_checked(gateway: Gateway) -> None:
    user = await gateway.someone()
    assert problem_of(await call(gateway, user, "GET", "/billing/details")).code == "no_billing_details"
    for bad, code in (
        ({"state_code": "25"}, "unknown_state"),
        ({"gstin": "27AAPFU0939F1ZW"}, "gstin_invalid"),
        ({"state_code": "29"}, "gstin_invalid"),
    ):
        refused = await call(gateway, user, "PUT", "/billing/details", MUMBAI | bad)
        assert problem_of(refused).code == code
    assert (await call(gateway, user, "PUT", "/billing/details", MUMBAI)).json() == MUMBAI
    assert (await call(gateway, user, "GET", "/billing/details")).json() == MUMBAI


async def test_invoices_have_gst_by_state_and_consecutive_numbers(own_gateway: Gateway) -> None:
    admin = await own_gateway.someone(admin=True)
    async with billing_by(own_gateway, seller=SELLER):
        bills = []
        for details in (MUMBAI, BANGALORE, None):
            user = await own_gateway.someone()
            if details:
                await call(own_gateway, user, "PUT", "/billing/details", details)
            asked = await ask(own_gateway, user, "pro")
            # What is asked stands: moving house afterwards changes no bill.
            await call(own_gateway, user, "PUT", "/billing/details", BANGALORE)
            await activate(own_gateway, admin, asked["subscription"]["id"])
            (invoice,) = (await call(own_gateway, user, "GET", "/invoices")).json()["invoices"]
            assert invoice["bill"]["total"] == asked["payment"]["amount"] == "2358.82"
            bills.append((user, invoice))
        numbers = [invoice["number"] for _, invoice in bills]
        assert numbers == ["SAU/25-26/000001", "SAU/25-26/000002", "SAU/25-26/000003"]
        taxes = [(i["bill"]["cgst"], i["bill"]["sgst"], i["bill"]["igst"]) for _, i in bills]
        assert taxes == [("0.00", "0.00", "359.82"), ("179.91", "179.91", "0.00"), ("179.91", "179.91", "0.00")]
        assert bills[0][1]["buyer"]["gstin"] == MUMBAI["gstin"]
        assert bills[0][1]["sac"] == "998315"

        (first, invoice), (second, _) = bills[0], bills[1]
        page = await call(own_gateway, first, "GET", f"/invoices/{invoice['id']}/page")
        assert page.headers["content-type"].startswith("text/html")
        assert "sandbox" in page.headers["content-security-policy"]
        for part in (invoice["number"], "Asha Traders", "IGST 18 %", "₹2,358.82", MUMBAI["gstin"]):
            assert part in page.text
        assert "http" not in page.text
        for path in (f"/invoices/{invoice['id']}", f"/invoices/{invoice['id']}/page"):
            assert problem_of(await call(own_gateway, second, "GET", path)).status == 404


async def test_names_on_an_invoice_are_text(own_gateway: Gateway) -> None:
    admin = await own_gateway.someone(admin=True)
    async with billing_by(own_gateway, seller=SELLER):
        user = await own_gateway.someone()
        await call(own_gateway, user, "PUT", "/billing/details", BANGALORE | {"name": "<script>alert(1)</script>"})
        asked = await ask(own_gateway, user, "basic")
        await activate(own_gateway, admin, asked["subscription"]["id"])
        (invoice,) = (await call(own_gateway, user, "GET", "/invoices")).json()["invoices"]
        page = await call(own_gateway, user, "GET", f"/invoices/{invoice['id']}/page")
        assert "<script>" not in page.text


async def test_no_gstin_no_tax_and_no_seller_no_invoice(own_gateway: Gateway) -> None:
    admin = await own_gateway.someone(admin=True)
    user = await subscribed(own_gateway, admin, "basic")
    assert (await call(own_gateway, user, "GET", "/invoices")).json()["invoices"] == []
    async with billing_by(own_gateway, seller=replace(SELLER, gstin="")):
        user = await subscribed(own_gateway, admin, "basic")
        (invoice,) = (await call(own_gateway, user, "GET", "/invoices")).json()["invoices"]
        assert Decimal(invoice["bill"]["total"]) == Decimal("499.00")
        page = await call(own_gateway, user, "GET", f"/invoices/{invoice['id']}/page")
        assert "no tax is charged" in page.text


async def test_the_gateways_own_runner_ends_what_is_over(own_gateway: Gateway) -> None:
    admin = await own_gateway.someone(admin=True)
    user = await subscribed(own_gateway, admin, "basic")
    await call(own_gateway, user, "DELETE", "/subscription")
    over = own_gateway.clock() + timedelta(days=31)
    sessions = own_gateway.state.sessions
    # As nobody it sees nothing, as the user it may write nothing, as the operator it does its work.
    act_for(None)
    assert await roll_over(sessions, BillingRules(), over) == 0
    act_for(user.id)
    with pytest.raises(ProgrammingError, match="permission denied for table subscriptions"):
        await roll_over(sessions, BillingRules(), over)
    with acting_as(OPERATOR_ROLE):
        assert await roll_over(sessions, BillingRules(), over) == 1
    assert await plan_of(own_gateway, user) == "free"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"payment_provider": "stripe"}, "manual or razorpay"),
        ({"payment_provider": "razorpay", "razorpay_key_id": "rzp"}, "RAZORPAY_KEY_SECRET"),
        ({"seller_name": "Sauda", "seller_state_code": "Karnataka"}, "SELLER_STATE_CODE"),
        ({"seller_name": "Sauda", "seller_state_code": "29", "seller_gstin": "29AAPFU0939F1ZZ"}, "SELLER_GSTIN"),
        ({"seller_name": "Sauda", "seller_state_code": "29", "seller_gstin": SELLER.gstin}, ""),
        ({}, ""),
    ],
)
async def test_settings_that_cannot_be_meant_stop_the_start(settings: dict, problem: str) -> None:
    async with httpx.AsyncClient() as http:
        if problem:
            with pytest.raises(ValueError, match=problem):
                create_billing(Settings(_env_file=None, **settings), http)
        else:
            rules = create_billing(Settings(_env_file=None, **settings), http)
            assert (rules.provider.name, rules.seller is not None) == ("manual", bool(settings))
