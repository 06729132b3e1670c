"""Paying through Razorpay: orders made once, signatures checked, and messages harmless however they come."""

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from httpx_aiohttp import AiohttpTransport
from sqlalchemy import func, select

from backend.models import Payment, PaymentEvent, PaymentStatus
from backend.payments.razorpay import Razorpay
from tests.api.billing_calls import SELLER, ask, billing_by, call
from tests.api.conftest import Gateway, Someone
from tests.api.test_problems import problem_of
from tests.support.market_server import serving
from tests.support.razorpay_server import KEY_ID, KEY_SECRET, WEBHOOK_SECRET, RazorpayWorld, create_app, event, signed

_events = itertools.count(1)


@dataclass
class Shop:
    gateway: Gateway
    world: RazorpayWorld

    async def asked(self, plan: str = "pro") -> tuple[Someone, dict[str, Any]]:
        """A user with an open checkout, and its answer."""
        user = await self.gateway.someone()
        payment = (await ask(self.gateway, user, plan))["payment"]
        opened = await call(self.gateway, user, "POST", f"/payments/{payment['id']}/checkout")
        assert opened.status_code == 200, opened.text
        return user, opened.json()

    async def hear(self, body: bytes, signature: str | None = None, name: str | None = None) -> httpx.Response:
        headers = {
            b"X-Razorpay-Signature": (signed(body, WEBHOOK_SECRET) if signature is None else signature).encode(),
            b"X-Razorpay-Event-Id": (name or f"evt_{next(_events)}").encode(),
            b"Content-Type": b"application/json",
        }
        return await self.gateway.client.post("/v1/webhooks/razorpay", content=body, headers=headers)

    async def plan(self, user: Someone) -> str:
        return (await call(self.gateway, user, "GET", "/subscription")).json()["plan"]["code"]

    async def payment(self, user: Someone) -> dict[str, Any]:
        return (await call(self.gateway, user, "GET", "/payments")).json()["payments"][0]


@pytest.fixture
async def shop(gateway: Gateway) -> AsyncIterator[Shop]:
    world = RazorpayWorld()
    with serving(create_app(world)) as url:
        async with httpx.AsyncClient(transport=AiohttpTransport()) as http:
            provider = Razorpay(http, url=url, key_id=KEY_ID, key_secret=KEY_SECRET, webhook_secret=WEBHOOK_SECRET)
            async with billing_by(gateway, provider=provider, seller=SELLER):
                yield Shop(gateway, world)


async def test_a_checkout_asks_paise_with_tax_and_opens_one_order(shop: Shop) -> None:
    user, opened = await shop.asked()
    assert (opened["key"], opened["amount_paise"], opened["currency"]) == (KEY_ID, 235882, "INR")
    assert shop.world.orders[opened["order_id"]]["amount"] == 235882
    again = await call(shop.gateway, user, "POST", f"/payments/{opened['payment']['id']}/checkout")
    assert again.json()["order_id"] == opened["order_id"]
    assert shop.world.posts == 1
    other = await shop.gateway.someone()
    stolen = await call(shop.gateway, other, "POST", f"/payments/{opened['payment']['id']}/checkout")
    assert problem_of(stolen).status == 404


@pytest.mark.parametrize("trouble", ["lose_answers", "garbled"])
async def test_an_order_whose_answer_was_lost_is_looked_up_not_made_again(shop: Shop, trouble: str) -> None:
    user = await shop.gateway.someone()
    payment = (await ask(shop.gateway, user, "basic"))["payment"]
    setattr(shop.world, trouble, True)
    path = f"/payments/{payment['id']}/checkout"
    lost = problem_of(await call(shop.gateway, user, "POST", path))
    assert (lost.status, lost.code) == (503, "payment_provider_unavailable")
    setattr(shop.world, trouble, False)
    opened = await call(shop.gateway, user, "POST", path)
    assert opened.json()["order_id"] in shop.world.orders
    assert shop.world.posts == 1


async def test_a_captured_payment_begins_the_plan_once_in_any_order_of_messages(shop: Shop) -> None:
    user, opened = await shop.asked()
    order = shop.world.orders[opened["order_id"]]
    failed = shop.world.pay(order["id"], "failed")
    paid = shop.world.pay(order["id"])
    bodies = [
        event("payment.captured", payment=paid),
        event("order.paid", payment=paid, order=order | {"status": "paid"}),
        event("payment.authorized", payment=paid | {"status": "authorized"}),
        event("payment.failed", payment=failed),
    ]
    outcomes = [(await shop.hear(body)).json()["outcome"] for body in bodies]
    assert outcomes == ["begun", "repeated", "noted: waiting", "noted: failed"]
    assert await shop.plan(user) == "pro"
    done = await shop.payment(user)
    assert (done["status"], done["reference"]) == ("paid", paid["id"])
    invoices = (await call(shop.gateway, user, "GET", "/invoices")).json()["invoices"]
    assert [i["bill"]["total"] for i in invoices] == ["2358.82"]


async def test_a_message_counts_once_and_keeps_nobodys_data(shop: Shop) -> None:
    user, opened = await shop.asked()
    body = event("payment.captured", payment=shop.world.pay(opened["order_id"]))
    outcomes = [(await shop.hear(body, name="evt_twice")).json()["outcome"] for _ in range(3)]
    assert outcomes == ["begun", "repeated", "repeated"]
    async with shop.gateway.sessions() as session:
        kept = (await session.scalars(select(PaymentEvent).where(PaymentEvent.event_id == "evt_twice"))).one()
        assert kept.outcome == "begun"
        assert kept.payload["payment.amount"] == 235882
        assert "example" not in str(kept.payload)
    assert await shop.plan(user) == "pro"


@pytest.mark.parametrize("signature", ["", "0" * 64, "é", "ours, of another body", "the API key's"])
async def test_a_message_that_is_not_razorpays_changes_nothing(shop: Shop, signature: str) -> None:
    user, opened = await shop.asked()
    body = event("payment.captured", payment=shop.world.pay(opened["order_id"]))
    if signature.startswith("ours"):
        signature = signed(body + b" ", WEBHOOK_SECRET)
    elif signature.startswith("the"):
        signature = signed(body, KEY_SECRET)
    refused = problem_of(await shop.hear(body, signature))
    assert (refused.status, refused.code) == (401, "signature_invalid")
    assert await shop.plan(user) == "free"


@pytest.mark.parametrize("changes", [{"amount": 235881}, {"amount": 2358}, {"currency": "USD"}])
async def test_another_amount_than_was_asked_begins_nothing(shop: Shop, changes: dict[str, Any]) -> None:
    user, opened = await shop.asked()
    paid = shop.world.pay(opened["order_id"], **changes)
    reply = await shop.hear(event("payment.captured", payment=paid))
    assert reply.json()["outcome"].startswith("refused")
    assert await shop.plan(user) == "free"
    assert (await shop.payment(user))["status"] == "created"


@pytest.mark.parametrize(
    ("body", "status", "outcome"),
    [
        (event("invoice.expired", invoice={"id": "inv_1", "status": "expired"}), 200, "ignored"),
        (event("payment.captured", payment={"id": "pay_1", "amount": 1, "currency": "INR", "status": "captured",
                                            "order_id": "order_nobodys"}), 200, "no payment of ours"),
        (b"not json", 422, ""),
        (b"[]", 422, ""),
        (b'{"event": "payment.captured", "payload": {}}', 422, ""),
        (b'{"event": "payment.captured", "payload": {"payment": {"entity": {"status": "odd"}}}}', 422, ""),
    ],
)  # fmt: skip
async def test_messages_of_no_use(shop: Shop, body: bytes, status: int, outcome: str) -> None:
    reply = await shop.hear(body)
    assert reply.status_code == status
    if outcome:
        assert reply.json()["outcome"] == outcome


def handed_in(order: str, payment: str, secret: str = KEY_SECRET) -> dict[str, str]:
    return {
        "razorpay_order_id": order,
        "razorpay_payment_id": payment,
        "razorpay_signature": signed(f"{order}|{payment}", secret),
    }


async def test_what_the_browser_brings_is_asked_back(shop: Shop) -> None:
    user, opened = await shop.asked()
    order = opened["order_id"]
    waiting = shop.world.pay(order, "authorized")
    reply = await call(shop.gateway, user, "POST", "/payments/verify", handed_in(order, waiting["id"]))
    assert reply.json()["status"] == "created"
    waiting |= {"status": "captured"}
    stranger = await shop.gateway.someone()
    foreign = await call(shop.gateway, stranger, "POST", "/payments/verify", handed_in(order, waiting["id"]))
    assert problem_of(foreign).status == 404
    forged = await call(shop.gateway, user, "POST", "/payments/verify", handed_in(order, waiting["id"], "x"))
    assert problem_of(forged).code == "signature_invalid"
    assert await shop.plan(user) == "free"
    done = await call(shop.gateway, user, "POST", "/payments/verify", handed_in(order, waiting["id"]))
    assert done.json()["status"] == "paid"
    assert await shop.plan(user) == "pro"
    late = await shop.hear(event("payment.captured", payment=waiting))
    assert late.json()["outcome"] == "repeated"


async def test_money_for_what_was_withdrawn_is_kept_and_told(shop: Shop) -> None:
    user, opened = await shop.asked()
    await call(shop.gateway, user, "DELETE", "/subscription")
    reply = await shop.hear(event("payment.captured", payment=shop.world.pay(opened["order_id"])))
    assert reply.json()["outcome"] == "stranded"
    assert await shop.plan(user) == "free"
    assert (await shop.payment(user))["status"] == "paid"
    assert (await call(shop.gateway, user, "GET", "/invoices")).json()["invoices"] == []


async def test_a_refund_is_written_down_once(shop: Shop) -> None:
    user, opened = await shop.asked()
    paid = shop.world.pay(opened["order_id"])
    await shop.hear(event("payment.captured", payment=paid))
    refund = {"id": "rfnd_1", "payment_id": paid["id"], "amount": paid["amount"], "currency": "INR"}
    body = event("refund.processed", refund=refund, payment=paid)
    assert (await shop.hear(body)).json()["outcome"] == "refunded"
    assert (await shop.hear(body)).json()["outcome"] == "repeated"
    assert (await shop.payment(user))["status"] == "refunded"
    # The captured message, come late, does not make it paid again.
    assert (await shop.hear(event("payment.captured", payment=paid))).json()["outcome"] == "repeated"
    async with shop.gateway.sessions() as session:
        found = select(func.count()).where(Payment.user_id == user.id, Payment.status == PaymentStatus.REFUNDED)
        assert await session.scalar(found) == 1


async def test_by_hand_there_is_nothing_to_verify_and_nobody_knocks(gateway: Gateway) -> None:
    user = await gateway.someone()
    payment = (await ask(gateway, user, "basic"))["payment"]
    opened = (await call(gateway, user, "POST", f"/payments/{payment['id']}/checkout")).json()
    assert (opened["order_id"], opened["key"]) == (None, None)
    assert "administrator" in opened["note"]
    knock = await gateway.client.post("/v1/webhooks/razorpay", content=b"{}")
    assert (problem_of(knock).status, problem_of(knock).code) == (409, "provider_is_manual")


async def test_razorpay_without_its_keys_does_not_start() -> None:
    async with httpx.AsyncClient() as http:
        with pytest.raises(ValueError, match="RAZORPAY_WEBHOOK_SECRET"):
            Razorpay(http, url="http://x", key_id="a", key_secret="b", webhook_secret="")
