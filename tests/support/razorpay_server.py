"""Razorpay on loopback: orders and payments as its documentation shows them, signed webhooks, and its bad days.

Formats: https://razorpay.com/docs/api/orders/create, /docs/api/orders/fetch-all, /docs/api/payments/fetch-with-id,
/docs/webhooks/orders and /docs/webhooks/payments.
"""

import base64
import hashlib
import hmac
import itertools
import json
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

_numbers = itertools.count(1)
KEY_ID, KEY_SECRET, WEBHOOK_SECRET = "rzp_test_1DP5mmOlF5G5ag", "a key's secret", "a webhook's secret"


def signed(message: str | bytes, secret: str) -> str:
    raw = message.encode() if isinstance(message, str) else message
    return hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()


@dataclass
class RazorpayWorld:
    """What stands at Razorpay. `lose_answers`: orders are made, but the answer is a 502; `posts` counts them."""

    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    payments: dict[str, dict[str, Any]] = field(default_factory=dict)
    lose_answers: bool = False
    garbled: bool = False
    posts: int = 0

    def new_order(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.posts += 1
        number = f"order_{next(_numbers):014d}"
        self.orders[number] = {
            "id": number,
            "entity": "order",
            "amount": asked["amount"],
            "amount_paid": 0,
            "amount_due": asked["amount"],
            "currency": asked["currency"],
            "receipt": asked["receipt"],
            "offer_id": None,
            "status": "created",
            "attempts": 0,
            "notes": asked.get("notes", []),
            "created_at": 1772424060,
        }
        return self.orders[number]

    def pay(self, order: str, status: str = "captured", **changes: Any) -> dict[str, Any]:
        """A payment of an order, as its entity."""
        number = f"pay_{next(_numbers):014d}"
        self.payments[number] = {
            "id": number,
            "entity": "payment",
            "amount": self.orders[order]["amount"],
            "currency": "INR",
            "status": status,
            "order_id": order,
            "invoice_id": None,
            "international": False,
            "method": "upi",
            "amount_refunded": 0,
            "refund_status": None,
            "captured": status == "captured",
            "email": "gaurav.kumar@example.com",
            "contact": "+919999999999",
            "vpa": "gaurav.kumar@exampleupi",
            "notes": [],
            "created_at": 1772424090,
        } | changes
        return self.payments[number]


def event(kind: str, **entities: dict[str, Any]) -> bytes:
    """A webhook's body."""
    message = {
        "entity": "event",
        "account_id": "acc_BFQ7uQEaa7j2z7",
        "event": kind,
        "contains": list(entities),
        "payload": {name: {"entity": entity} for name, entity in entities.items()},
        "created_at": 1772424091,
    }
    return json.dumps(message).encode()


def create_app(world: RazorpayWorld) -> FastAPI:
    """The server."""
    app = FastAPI()
    wanted = "Basic " + base64.b64encode(f"{KEY_ID}:{KEY_SECRET}".encode()).decode()

    def refused(status: int, description: str) -> JSONResponse:
        return JSONResponse({"error": {"code": "BAD_REQUEST_ERROR", "description": description}}, status)

    @app.middleware("http")
    async def known(request: Request, call_next):
        if request.headers.get("authorization") != wanted:
            return refused(401, "Authentication failed")
        return await call_next(request)

    @app.post("/v1/orders")
    async def create_order(request: Request) -> Response:
        asked = await request.json()
        if not isinstance(asked.get("amount"), int) or asked["amount"] < 100 or len(asked.get("receipt", "")) > 40:
            return refused(400, "Order amount less than minimum amount allowed")
        order = world.new_order(asked)
        if world.lose_answers:
            return JSONResponse({"error": {"code": "GATEWAY_ERROR"}}, 502)
        return Response("<html>", 200) if world.garbled else JSONResponse(order)

    @app.get("/v1/orders")
    async def orders(receipt: str) -> dict[str, Any]:
        found = [order for order in world.orders.values() if order["receipt"] == receipt]
        return {"entity": "collection", "count": len(found), "items": found}

    @app.get("/v1/payments/{number}")
    async def payment(number: str) -> Response:
        found = world.payments.get(number)
        return JSONResponse(found) if found else refused(400, "The id provided does not exist")

    return app
