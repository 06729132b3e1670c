"""The plan's limit holds under any race."""

import asyncio
from datetime import date

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from backend.models import DailyUsage, User
from backend.services.record_service import claim_quota, refund_quota

TODAY = date(2024, 3, 20)
BASIC = 10


@pytest.fixture
async def user_id(sessions: async_sessionmaker[AsyncSession]) -> int:
    async with sessions.begin() as session:
        user = User(email="race@example.com")
        session.add(user)
        await session.flush()
        return user.id


async def test_200_concurrent_claims_on_basic_grant_exactly_ten(sessions, user_id):
    async def claim() -> int:
        async with sessions.begin() as session:
            return (await claim_quota(session, TODAY, [(user_id, 1, BASIC)]))[user_id]

    granted = await asyncio.gather(*(claim() for _ in range(200)))
    assert sum(granted) == BASIC
    async with sessions() as session:
        assert (await session.scalars(select(DailyUsage.entries_used))).one() == BASIC


async def test_a_claim_is_granted_up_to_the_cap_and_refunded_on_proof(sessions, user_id):
    async with sessions.begin() as session:
        assert await claim_quota(session, TODAY, [(user_id, 7, BASIC)]) == {user_id: 7}
        assert await claim_quota(session, TODAY, [(user_id, 7, BASIC)]) == {user_id: 3}
        assert await claim_quota(session, TODAY, [(user_id, 1, BASIC)]) == {user_id: 0}
        await refund_quota(session, user_id, TODAY)
        assert await claim_quota(session, TODAY, [(user_id, 5, BASIC)]) == {user_id: 1}


async def test_a_lower_cap_grants_nothing_and_takes_nothing_back(sessions, user_id):
    async with sessions.begin() as session:
        await claim_quota(session, TODAY, [(user_id, 8, BASIC)])
        assert await claim_quota(session, TODAY, [(user_id, 3, 5)]) == {user_id: 0}
        assert (await session.scalars(select(DailyUsage.entries_used))).one() == 8


async def test_the_statement_keeps_its_plan_over_many_runs(sessions, user_id):
    for day in range(1, 9):
        async with sessions.begin() as session:
            assert await claim_quota(session, date(2024, 4, day), [(user_id, 2, BASIC)]) == {user_id: 2}
