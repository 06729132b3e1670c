"""The delay after failed logins: it grows by a table, and many at once gain nothing."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from backend.db import IDENTITY_ROLE, create_engine, create_sessions
from backend.errors import TooManyRequestsError
from backend.models import LoginDelay
from backend.services.login_delay import FORGOTTEN_H, FREE_FAILURES, count_attempt, forgive

NOW = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)
WAITS = [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]
Sessions = async_sessionmaker[AsyncSession]


@pytest.fixture
async def identity(database_url: str) -> AsyncIterator[Sessions]:
    engine = create_engine(database_url, role=IDENTITY_ROLE)
    yield create_sessions(engine)
    await engine.dispose()


async def attempt(identity: Sessions, now: datetime, name: bytes = b"asha") -> int:
    """Seconds to wait: 0 where the attempt was counted."""
    try:
        async with identity.begin() as session:
            await count_attempt(session, name, now)
    except TooManyRequestsError as error:
        return error.retry_after_s
    return 0


async def test_the_delay_grows_as_the_table_says(identity: Sessions) -> None:
    now, waited = NOW, []
    for wait in WAITS:
        assert await attempt(identity, now) == 0
        async with identity() as session:
            row = (await session.scalars(select(LoginDelay))).one()
        waited.append((row.blocked_until - now).total_seconds())
        if wait:
            assert await attempt(identity, now) == wait
            assert await attempt(identity, row.blocked_until - timedelta(seconds=0.5)) == 1
        now = row.blocked_until
    assert waited == WAITS
    assert await attempt(identity, NOW, b"ravi") == 0


async def test_many_at_once_get_no_more_than_the_free_ones(identity: Sessions) -> None:
    waits = await asyncio.gather(*(attempt(identity, NOW) for _ in range(30)))
    assert waits.count(0) == FREE_FAILURES + 1


async def test_the_right_password_and_a_day_take_it_back(identity: Sessions) -> None:
    for _ in range(FREE_FAILURES + 1):
        await attempt(identity, NOW)
    assert await attempt(identity, NOW) == 1
    async with identity.begin() as session:
        await forgive(session, b"asha")
    assert [await attempt(identity, NOW) for _ in range(FREE_FAILURES + 1)] == [0] * (FREE_FAILURES + 1)
    tomorrow = NOW + timedelta(hours=FORGOTTEN_H, seconds=1)
    assert [await attempt(identity, tomorrow) for _ in range(FREE_FAILURES + 1)] == [0] * (FREE_FAILURES + 1)
    assert await attempt(identity, tomorrow) == 1
