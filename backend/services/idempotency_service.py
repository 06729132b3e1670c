"""The first answer to an Idempotency-Key, kept for a day, so that a repeated request is answered and not done again."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Delete, delete, func, select, text, tuple_

from backend.db import Sessions
from backend.errors import ConflictError, InvalidRequestError
from backend.models import IdempotencyKey

KEPT_H = 24
TAKEOVER_S = 30
"""A claim older than this belongs to a request that died: the next one with its key and body does the work again.

That is safe because what the work creates bears a name derived from user and key.
"""


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """Which request a key stands for: the same key means something else on another route, or from another user."""

    user_id: int
    method: str
    route: str
    key: str

    def row(self) -> dict[str, Any]:
        return {"user_id": self.user_id, "method": self.method, "route": self.route, "key": self.key}


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to answer a request; `claimed_at` tells it from a later claim that took it over."""

    request: KeyedRequest
    claimed_at: datetime


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it went out."""

    status: int
    content_type: str
    body: bytes


class InFlightError(ConflictError):
    """The first request with this key is still being worked on."""

    code = "idempotency_in_flight"


# One statement decides between any number of racers. What is expired is free again; what died may be taken over.
_CLAIM = text("""
    INSERT INTO idempotency_keys AS k (user_id, method, route, key, body_hash, claimed_at)
    VALUES (:user_id, :method, :route, :key, :body_hash, clock_timestamp())
        ON CONFLICT (user_id, method, route, key) DO UPDATE
       SET body_hash = excluded.body_hash, claimed_at = excluded.claimed_at, finished_at = NULL,
           status = NULL, content_type = NULL, body = NULL
     WHERE k.claimed_at < clock_timestamp() - make_interval(hours => :kept_h)
        OR (k.finished_at IS NULL AND k.body_hash = excluded.body_hash
            AND k.claimed_at < clock_timestamp() - make_interval(secs => :takeover_s))
    RETURNING claimed_at
""")


async def claim(sessions: Sessions, request: KeyedRequest, asked: bytes) -> Claim | Answer:
    """The right to do the work of a request, or the answer it got the first time; `asked` is its path and body.

    Raises:
        InFlightError: the first one is still being worked on.
        InvalidRequestError: the key stands for another path or body.
    """
    body_hash = hashlib.blake2b(asked, digest_size=32).digest()
    limits = {"body_hash": body_hash, "kept_h": KEPT_H, "takeover_s": TAKEOVER_S}
    while True:
        async with sessions.begin() as session:
            claimed_at = await session.scalar(_CLAIM, request.row() | limits)
            if claimed_at is not None:
                return Claim(request, claimed_at)
            row = await session.get(IdempotencyKey, tuple(request.row().values()))
        if row is not None:
            return _standing(row, body_hash)
        # Released between the two statements: it is free.


def _standing(row: IdempotencyKey, body_hash: bytes) -> Answer:
    if row.body_hash != body_hash:
        raise InvalidRequestError(
            "This Idempotency-Key stands for a request with another path or body: take a new key for a new request.",
            code="idempotency_key_reused",
        )
    if row.finished_at is None or row.status is None:
        raise InFlightError("The first request with this Idempotency-Key is being worked on: ask again in a second.")
    return Answer(row.status, row.content_type or "", row.body or b"")


_FINISH = text("""
    UPDATE idempotency_keys
       SET status = :status, content_type = :content_type, body = :body, finished_at = clock_timestamp()
     WHERE user_id = :user_id AND method = :method AND route = :route AND key = :key AND claimed_at = :claimed_at
""")
_RELEASE = text("""
    DELETE FROM idempotency_keys
     WHERE user_id = :user_id AND method = :method AND route = :route AND key = :key AND claimed_at = :claimed_at
""")


async def finish(sessions: Sessions, claim: Claim, answer: Answer) -> None:
    """Keep the answer, unless the claim was taken over meanwhile."""
    values = {"status": answer.status, "content_type": answer.content_type, "body": answer.body}
    async with sessions.begin() as session:
        await session.execute(_FINISH, claim.request.row() | values | {"claimed_at": claim.claimed_at})


async def release(sessions: Sessions, claim: Claim) -> None:
    """Give the key back: the request failed, and the next one with it does the work."""
    async with sessions.begin() as session:
        await session.execute(_RELEASE, claim.request.row() | {"claimed_at": claim.claimed_at})


def expired_keys(rows_max: int) -> Delete:
    """The statement that drops at most `rows_max` keys whose day is over; to be run until it finds fewer."""
    key = IdempotencyKey
    columns = (key.user_id, key.method, key.route, key.key)
    old = select(*columns).where(key.claimed_at < func.clock_timestamp() - text(f"interval '{KEPT_H} hours'"))
    return delete(key).where(tuple_(*columns).in_(old.limit(rows_max)))
