"""What the tests of billing ask of the gateway, as users and administrators do."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx

from backend.services.billing_rules import BillingRules, Seller
from tests.api.conftest import Gateway, Someone

SELLER = Seller("Sauda", "1 MG Road, Bengaluru 560001", "29", "29AAPFU0939F1ZR")
MUMBAI = {"name": "Asha Traders", "address": "12 Marine Drive", "state_code": "27", "gstin": "27AAPFU0939F1ZV"}
BANGALORE = {"name": "Ravi", "address": "5 Brigade Road", "state_code": "29", "gstin": None}


@asynccontextmanager
async def billing_by(gateway: Gateway, **rules: Any) -> AsyncIterator[None]:
    """The gateway under other rules of billing."""
    before = gateway.app.state.api
    gateway.app.state.api = replace(before, billing=replace(BillingRules(), **rules))
    try:
        yield
    finally:
        gateway.app.state.api = before


async def call(
    gateway: Gateway, who: Someone, method: str, path: str, body: Any = None, **headers: str
) -> httpx.Response:
    return await gateway.client.request(method, f"/v1{path}", json=body, headers=who.headers | headers)


async def ask(gateway: Gateway, who: Someone, plan: str, **more: Any) -> dict[str, Any]:
    """Ask for a plan; the answer's subscription and payment."""
    reply = await call(gateway, who, "POST", "/subscription", {"plan": plan, **more})
    assert reply.status_code == 201, reply.text
    return reply.json()


async def activate(gateway: Gateway, admin: Someone, subscription_id: int) -> httpx.Response:
    return await call(gateway, admin, "POST", f"/admin/subscriptions/{subscription_id}/activate")


async def subscribed(gateway: Gateway, admin: Someone, plan: str, **more: Any) -> Someone:
    """A user who has paid for a plan just now."""
    user = await gateway.someone()
    asked = await ask(gateway, user, plan, **more)
    reply = await activate(gateway, admin, asked["subscription"]["id"])
    assert reply.status_code == 200, reply.text
    return user
