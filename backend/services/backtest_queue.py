"""The queue of backtests as its workers see it: a claim that is renewed while the work goes on, and what became of it.

Every write of a worker names its claim, so that one that was given up for dead can change nothing any more.
"""

import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson
from sqlalchemy import text

from backend.db import Sessions

ATTEMPTS_MAX = 2
"""A backtest that ended two workers ends no third one."""
DOING_LENGTH_MAX = 200
ERROR_LENGTH_MAX = 500
DIED = (
    f"The worker died {ATTEMPTS_MAX} times at this backtest: ask for fewer days, shares or combinations, "
    "and tell the operator if it happens again."
)


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's right to one backtest; `token` fences every write of it."""

    backtest_id: int
    user_id: int
    token: str
    request: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` steps; `doing` is the present one."""

    done: int = 0
    total: int = 0
    doing: str = ""


class Standing(StrEnum):
    """What a renewal found: go on; the user wants it stopped; or it is no longer this worker's."""

    HELD = "held"
    CANCEL = "cancel"
    LOST = "lost"


# Claims wait for each other: two at once would both count the jobs a user has running before the other's is.
_ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtext('sauda.backtests.claim'))")
# Who has fewest running comes first, then who has waited longest for a turn, then the older one: a long queue of one
# user's lets everybody else's pass.
_CLAIM = text("""
    UPDATE backtests
       SET status = 'running', claim = :token, attempts = attempts + 1, started_at = clock_timestamp(),
           claimed_until = clock_timestamp() + make_interval(secs => :lease_s)
     WHERE id = (
        SELECT b.id
          FROM backtests b
          LEFT JOIN subscriptions s ON s.user_id = b.user_id AND s.status IN ('trialing', 'active', 'past_due')
          JOIN plans p ON p.code = coalesce(s.plan_code, 'free')
          CROSS JOIN LATERAL (
               SELECT count(*) AS running FROM backtests r WHERE r.user_id = b.user_id AND r.status = 'running') r
          CROSS JOIN LATERAL (SELECT max(started_at) AS last FROM backtests l WHERE l.user_id = b.user_id) l
         WHERE b.status = 'queued' AND r.running < greatest(p.backtests_at_once, 1)
         ORDER BY r.running, l.last NULLS FIRST, b.id
         LIMIT 1
           FOR UPDATE OF b SKIP LOCKED)
    RETURNING id, user_id, request
""")
_RECOVER = text("""
    UPDATE backtests
       SET status = CASE WHEN cancel_asked_at IS NOT NULL THEN 'cancelled'
                         WHEN attempts >= :attempts_max THEN 'failed' ELSE 'queued' END,
           error = CASE WHEN cancel_asked_at IS NULL AND attempts >= :attempts_max THEN :died END,
           finished_at = CASE WHEN cancel_asked_at IS NOT NULL OR attempts >= :attempts_max
                              THEN clock_timestamp() END,
           claim = NULL, claimed_until = NULL, done = 0, total = 0, doing = ''
     WHERE status = 'running' AND claimed_until < clock_timestamp()
""")
_RENEW = text("""
    UPDATE backtests
       SET claimed_until = clock_timestamp() + make_interval(secs => :lease_s),
           done = :done, total = :total, doing = :doing
     WHERE id = :id AND claim = :token
    RETURNING cancel_asked_at IS NOT NULL
""")
_END = """
    UPDATE backtests SET {values}, claim = NULL, claimed_until = NULL
     WHERE id = :id AND claim = :token
"""
_FINISH = text(
    _END.format(
        values="status = 'done', summary = CAST(:summary AS jsonb), report = :report, done = total, doing = '', "
        "finished_at = clock_timestamp()"
    )
)
_FAIL = text(_END.format(values="status = 'failed', error = :error, finished_at = clock_timestamp()"))
_CANCEL = text(_END.format(values="status = 'cancelled', finished_at = clock_timestamp()"))
_RELEASE = text(
    _END.format(values="status = 'queued', attempts = attempts - 1, started_at = NULL, done = 0, total = 0, doing = ''")
)


async def claim_next(sessions: Sessions, worker: str, lease_s: float) -> Claim | None:
    """The next backtest, running from now on for `lease_s` seconds; None where none may run. Those of workers that
    have gone silent are queued again first."""
    token = f"{worker[:40]}:{secrets.token_hex(8)}"
    async with sessions.begin() as session:
        await session.execute(_ONE_AT_A_TIME)
        await session.execute(_RECOVER, {"attempts_max": ATTEMPTS_MAX, "died": DIED})
        row = (await session.execute(_CLAIM, {"token": token, "lease_s": lease_s})).first()
    if row is None:
        return None
    request = orjson.loads(row.request) if isinstance(row.request, str | bytes) else row.request
    return Claim(row.id, row.user_id, token, request)


async def renew(sessions: Sessions, claim: Claim, progress: Progress, lease_s: float) -> Standing:
    """Hold on to a backtest for another `lease_s` seconds and tell how far it is."""
    values = {"done": progress.done, "total": progress.total, "doing": progress.doing[:DOING_LENGTH_MAX]}
    async with sessions.begin() as session:
        asked = await session.scalar(_RENEW, _named(claim) | values | {"lease_s": lease_s})
    if asked is None:
        return Standing.LOST
    return Standing.CANCEL if asked else Standing.HELD


async def finish(sessions: Sessions, claim: Claim, summary: Mapping[str, Any], report: bytes) -> bool:
    """Keep the result; `report` is the page, zlib-compressed. False where the claim was lost: then nothing is kept."""
    values = {"summary": orjson.dumps(dict(summary)).decode(), "report": report}
    return await _end(sessions, _FINISH, claim, values)


async def fail(sessions: Sessions, claim: Claim, error: str) -> bool:
    """Note why it came to nothing; as `finish` otherwise."""
    return await _end(sessions, _FAIL, claim, {"error": error[:ERROR_LENGTH_MAX]})


async def cancelled(sessions: Sessions, claim: Claim) -> bool:
    """Note that it was stopped for its user; as `finish` otherwise."""
    return await _end(sessions, _CANCEL, claim, {})


async def release(sessions: Sessions, claim: Claim) -> bool:
    """Give it back to the queue, as if it had not been begun: the worker itself is told to stop."""
    return await _end(sessions, _RELEASE, claim, {})


def packed(html: str) -> bytes:
    """A page as `finish` takes it."""
    return zlib.compress(html.encode(), 6)


def _named(claim: Claim) -> dict[str, Any]:
    return {"id": claim.backtest_id, "token": claim.token}


async def _end(sessions: Sessions, statement: Any, claim: Claim, values: Mapping[str, Any]) -> bool:
    async with sessions.begin() as session:
        found = await (await session.connection()).execute(statement, _named(claim) | dict(values))
        return found.rowcount == 1
