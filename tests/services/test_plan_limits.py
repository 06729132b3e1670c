"""What a plan's limits do in a cycle: symbols beyond them rest, entries return at midnight in India."""

from datetime import datetime, timedelta

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from backend.domain.calendar import IST
from backend.domain.reasons import Reason
from backend.models import DailyUsage, Plan
from backend.services.context import Trading
from backend.services.corporate_action_service import settle_actions
from backend.services.gather_service import gather_market, gather_users
from backend.services.plan_service import plan_of, quota_of
from tests.services.conftest import MONDAY_10, MakeUser


async def change(sessions: async_sessionmaker[AsyncSession], **values: object) -> None:
    async with sessions.begin() as session:
        await session.execute(update(Plan).where(Plan.code == "pro").values(**values))


async def test_only_the_first_symbols_of_a_smaller_plan_are_entered(
    trading: Trading, make_user: MakeUser, sessions: async_sessionmaker[AsyncSession]
) -> None:
    await make_user(symbols=("TCS", "INFY"))
    await settle_actions(trading, MONDAY_10)
    market = (await gather_market(trading, MONDAY_10)).view
    (user,) = await gather_users(trading, 0, 1, market)
    assert user.blocked == {}
    await change(sessions, symbols_max=1)
    (user,) = await gather_users(trading, 0, 1, market)
    assert user.blocked == {"INFY": Reason.PLAN_SYMBOLS}
    assert user.symbols == {"TCS", "INFY"}


async def test_without_the_feature_no_entry_is_left(
    trading: Trading, make_user: MakeUser, sessions: async_sessionmaker[AsyncSession]
) -> None:
    user_id = await make_user()
    await change(sessions, features=["portfolio"])
    market = (await gather_market(trading, MONDAY_10)).view
    (user,) = await gather_users(trading, 0, 1, market)
    assert (user.plan_entries_left, user.entries_cap) == (0, 0)
    async with sessions() as session:
        quota = await quota_of(session, user_id, await plan_of(session, user_id), MONDAY_10)
        assert (quota.entries_per_day, quota.left) == (0, 0)


async def test_the_quota_returns_at_midnight_in_india(
    make_user: MakeUser, sessions: async_sessionmaker[AsyncSession]
) -> None:
    user_id = await make_user()
    midnight = datetime(2024, 3, 19, tzinfo=IST)
    async with sessions.begin() as session:
        plan = await plan_of(session, user_id)
        day = midnight.date() - timedelta(days=1)
        used = plan.auto_trades_per_day
        session.add(DailyUsage(user_id=user_id, trade_date=day, entries_used=used, last_claim=1, entries_max=used))
    async with sessions() as session:
        before = await quota_of(session, user_id, plan, midnight - timedelta(seconds=1))
        after = await quota_of(session, user_id, plan, midnight)
    assert (before.left, before.resets_at) == (0, midnight)
    assert (after.left, after.resets_at) == (plan.auto_trades_per_day, midnight + timedelta(days=1))
