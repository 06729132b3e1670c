"""Kite Connect's postbacks: calls to the app's own address whenever an order changes. A hint, never the book itself.

Source: kite.trade/docs/connect/v3/postbacks.
"""

import hmac
from dataclasses import dataclass

from backend.brokers.kite_wire import checksum
from backend.brokers.wire_fields import Fields, MalformedError, fields, identifier, message, parsed_json, text

BODY_BYTES_MAX = 16_384


@dataclass(frozen=True, slots=True)
class Postback:
    """Which order of which client changed, and to what: COMPLETE, CANCEL, REJECTED or UPDATE."""

    client_id: str
    order_id: str
    tag: str
    status: str


def postback_is_genuine(body: bytes, api_secret: str) -> bool:
    """Whether the body was made by who knows the app's secret: its checksum is SHA-256 of order_id, order_timestamp
    and api_secret. It signs nothing else: not the status, not the client. False for what cannot be read."""
    try:
        said = _said(body)
        expected = checksum(text(said, "order_id"), text(said, "order_timestamp"), api_secret)
        return hmac.compare_digest(expected, text(said, "checksum", length_max=128).encode().decode("ascii"))
    except (MalformedError, UnicodeDecodeError):
        return False


def parsed_postback(body: bytes) -> Postback:
    """What a postback tells. Raises MalformedError."""
    said = _said(body)
    return Postback(text(said, "user_id"), identifier(said, "order_id"), message(said, "tag"), text(said, "status"))


def _said(body: bytes) -> Fields:
    if len(body) > BODY_BYTES_MAX:
        raise MalformedError(f"more than {BODY_BYTES_MAX} bytes")
    return fields(parsed_json(body), "a postback")
