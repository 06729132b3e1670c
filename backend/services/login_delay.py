"""The growing delay after failed logins: it slows guessing down, and locks nobody out for good.

An attempt is counted before the password is looked at, in one statement, so that many at once gain nothing. The right
password takes the count back. Who comes from where the user has logged in before is counted apart from the rest of
the world, so that a stranger's guesses do not keep the user waiting.
"""

import math
from datetime import datetime, timedelta

from sqlalchemy import case, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.types import Interval

from backend.errors import TooManyRequestsError
from backend.models import LoginDelay

FREE_FAILURES = 5
"""Failures without a delay; the next ones wait 1, 2, 4, … seconds."""
DELAY_S_MAX = 900
FORGOTTEN_H = 24
"""Hours after which a count begins anew."""


async def count_attempt(session: AsyncSession, name: bytes, now: datetime) -> None:
    """Count an attempt as failed until `forgive` says otherwise. Joins the transaction.

    Raises:
        TooManyRequestsError: the name must still wait; the attempt is not counted.
    """
    row = insert(LoginDelay).values(name=name, failures=1, failed_at=now, blocked_until=now)
    stale = LoginDelay.failed_at < now - timedelta(hours=FORGOTTEN_H)
    failures = case((stale, 1), else_=LoginDelay.failures + 1)
    exponent = func.least(func.greatest(failures - FREE_FAILURES - 1, 0), 10)
    seconds = func.least(func.power(2, exponent), DELAY_S_MAX)
    waits = case((failures > FREE_FAILURES, seconds), else_=0)
    counted = await session.scalar(
        row.on_conflict_do_update(
            index_elements=[LoginDelay.name],
            set_={
                "failures": failures,
                "failed_at": now,
                "blocked_until": literal(now) + waits * literal(timedelta(seconds=1), Interval),
            },
            where=LoginDelay.blocked_until <= now,
        ).returning(LoginDelay.failures)
    )
    if counted is None:
        until = await session.scalar(select(LoginDelay.blocked_until).where(LoginDelay.name == name))
        raise must_wait(until or now, now)


def must_wait(until: datetime, now: datetime) -> TooManyRequestsError:
    """The refusal: the same whoever asks, and whether there is such a user or not."""
    wait_s = max(1, math.ceil((until - now).total_seconds()))
    return TooManyRequestsError(
        f"Too many attempts to log in: try again in {wait_s} s.", code="login_delayed", retry_after_s=wait_s
    )


async def forgive(session: AsyncSession, name: bytes) -> None:
    """Forget a name's failures: the password was right. Joins the transaction."""
    await session.execute(delete(LoginDelay).where(LoginDelay.name == name))
