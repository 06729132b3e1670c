"""Razorpay's orders, checkout signatures and webhooks, as https://razorpay.com/docs/api/orders and /docs/webhooks say.

A money-moving call is made once: a timeout, a 5xx or an unreadable answer is an unknown outcome, and the next attempt
looks for the receipt first.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, cast

import httpx

from backend.payments.base import (
    Ask,
    Checkout,
    Outcome,
    PaymentError,
    PaymentUnknownError,
    ProviderEvent,
    Told,
)

TIMEOUT_S = 10.0
CURRENCY = "INR"
ID_LENGTH_MAX = 80
_OUTCOMES = {
    "captured": Outcome.PAID,
    "authorized": Outcome.WAITING,
    "created": Outcome.WAITING,
    "failed": Outcome.FAILED,
    "refunded": Outcome.REFUNDED,
}
"""The states of a payment entity (https://razorpay.com/docs/payments/payments)."""
_KINDS = frozenset({"payment.captured", "payment.failed", "order.paid", "payment.authorized"})
_KEPT = ("id", "entity", "amount", "currency", "status", "order_id", "invoice_id", "amount_refunded", "payment_id")
"""What is kept of an entity: no card, no telephone number, no address."""


def signature_of(message: bytes, secret: str) -> str:
    """HMAC-SHA256 of a message, in hexadecimal: of a webhook's raw body, or of `order_id|payment_id`."""
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


def _fits(message: bytes, secret: str, signature: str) -> bool:
    return bool(secret) and hmac.compare_digest(signature_of(message, secret).encode(), signature.encode())


class Razorpay:
    """Orders over its REST API with basic authentication; amounts are paise."""

    name = "razorpay"

    def __init__(self, http: httpx.AsyncClient, *, url: str, key_id: str, key_secret: str, webhook_secret: str) -> None:
        if not (key_id and key_secret and webhook_secret):
            raise ValueError(
                "PAYMENT_PROVIDER=razorpay needs RAZORPAY_KEY_ID, RAZORPAY_KEY_SECRET and RAZORPAY_WEBHOOK_SECRET"
            )
        self._http = http
        self._url = url.rstrip("/")
        self._key_id = key_id
        self._key_secret = key_secret
        self._webhook_secret = webhook_secret

    async def checkout(self, ask: Ask) -> Checkout:
        reference = ask.reference or await self._order_of(ask) or await self._new_order(ask)
        return Checkout(reference, self._key_id, "Open Razorpay Checkout with this order and key.")

    async def look_up(self, reference: str, payment: str, signature: str) -> Told:
        if not _fits(f"{reference}|{payment}".encode(), self._key_secret, signature):
            raise signature_invalid()
        return _told(await self._call("GET", f"/v1/payments/{_name(payment)}"))

    def event(self, body: bytes, signature: str, event_id: str) -> ProviderEvent:
        if not _fits(body, self._webhook_secret, signature):
            raise signature_invalid()
        try:
            message = json.loads(body)
            kind = str(message["event"])[:60]
            entities: dict[str, Any] = {name: part["entity"] for name, part in message["payload"].items()}
            facts = {
                f"{name}.{field}": value
                for name, entity in entities.items()
                for field in _KEPT
                if isinstance(value := entity.get(field), str | int) and len(str(value)) <= ID_LENGTH_MAX
            }
            told = _event_told(kind, entities)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _refused("The message is not one of Razorpay's.", "webhook_unreadable", 422) from None
        return ProviderEvent((event_id or hashlib.sha256(body).hexdigest())[:ID_LENGTH_MAX], kind, facts, told)

    async def _order_of(self, ask: Ask) -> str | None:
        """The order of an earlier attempt whose answer was lost."""
        found = await self._call("GET", "/v1/orders", params={"receipt": ask.receipt})
        orders = cast("list[dict[str, Any]]", found.get("items", []))
        fitting = (order for order in orders if order.get("receipt") == ask.receipt)
        return next((_order_id(order, ask) for order in fitting), None)

    async def _new_order(self, ask: Ask) -> str:
        body = {
            "amount": ask.paise,
            "currency": CURRENCY,
            "receipt": ask.receipt,
            "notes": {"description": ask.description[:256]},
        }
        return _order_id(await self._call("POST", "/v1/orders", json=body), ask)

    async def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            reply = await self._http.request(
                method, self._url + path, auth=(self._key_id, self._key_secret), timeout=TIMEOUT_S, **options
            )
        except httpx.HTTPError as error:
            raise PaymentUnknownError(f"Razorpay did not answer ({type(error).__name__}): try again.") from None
        if reply.status_code >= 500 or reply.status_code == 429:
            raise PaymentUnknownError(f"Razorpay answered {reply.status_code}: try again.")
        try:
            found = reply.json()
        except ValueError:
            raise PaymentUnknownError("Razorpay's answer was unreadable: try again.") from None
        if not isinstance(found, dict):
            raise PaymentUnknownError("Razorpay's answer was unreadable: try again.")
        if reply.status_code >= 400:
            raise PaymentError(f"Razorpay refused: {_description(cast('dict[str, Any]', found))}")
        return cast("dict[str, Any]", found)


def signature_invalid() -> PaymentError:
    """The answer to whoever is not Razorpay."""
    return _refused("The signature does not fit.", "signature_invalid", 401)


def _refused(detail: str, code: str, status: int) -> PaymentError:
    error = PaymentError(detail, code=code)
    error.status, error.title = status, "Payment message refused"
    return error


def _description(answer: Mapping[str, Any]) -> str:
    error = answer.get("error")
    described = cast("Mapping[str, Any]", error).get("description") if isinstance(error, Mapping) else None
    return str(described or "no reason given")[:200]


def _order_id(order: Mapping[str, Any], ask: Ask) -> str:
    """The id of an order that asks for exactly what we ask."""
    if order.get("amount") != ask.paise or order.get("currency") != CURRENCY or not isinstance(order.get("id"), str):
        raise PaymentUnknownError("Razorpay's order is not the one that was asked for: tell an administrator.")
    return _name(cast("str", order["id"]))


def _name(identifier: str) -> str:
    """An identifier that is safe in a path."""
    if not (0 < len(identifier) <= ID_LENGTH_MAX and identifier.isascii() and identifier.replace("_", "").isalnum()):
        raise _refused("This is no identifier of Razorpay's.", "payment_unknown", 422)
    return identifier


def _told(payment: Mapping[str, Any]) -> Told:
    """A payment entity in our words.

    Raises:
        PaymentUnknownError: a part of it is missing.
    """
    try:
        return _payment_told(payment)
    except (KeyError, TypeError, ValueError):
        raise PaymentUnknownError("Razorpay's answer was unreadable: try again.") from None


def _payment_told(payment: Mapping[str, Any]) -> Told:
    return Told(
        outcome=_OUTCOMES[payment["status"]],
        reference=str(payment["order_id"]),
        payment=str(payment["id"]),
        paise=int(payment["amount"]),
        currency=str(payment["currency"]),
    )


def _event_told(kind: str, entities: Mapping[str, Any]) -> Told | None:
    if kind in _KINDS:
        return _payment_told(entities["payment"])
    if kind == "refund.processed":
        refund = entities["refund"]
        return Told(Outcome.REFUNDED, "", str(refund["payment_id"]), int(refund["amount"]), str(refund["currency"]))
    return None
