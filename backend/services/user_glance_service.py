"""What administrators and support see of users: the list, and one user at a glance."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.decide import TradeStatus
from backend.domain.trading_states import Effective
from backend.errors import SaudaError
from backend.models import (
    CURRENT,
    ApiKey,
    AutoTrade,
    AutoTradeSettings,
    BrokerAccount,
    Credential,
    LoginSession,
    Plan,
    Role,
    Subscription,
    User,
)
from backend.services.api_key_service import usable
from backend.services.context import Trading
from backend.services.plan_service import FREE, Quota, plan_of, quota_of
from backend.services.session_service import LoginRules, sessions_of
from backend.services.settings_service import settings_of
from backend.services.subscription_service import current_of, pending_of
from backend.services.trading_state_service import standings
from backend.services.user_admin_service import require_user

_OPEN = (TradeStatus.ENTERING, TradeStatus.OPEN, TradeStatus.EXITING)


@dataclass(frozen=True, slots=True)
class UserFilter:
    """None means any. `email` is a part of the address, whatever its case."""

    email: str | None = None
    role: Role | None = None
    plan: str | None = None
    active: bool | None = None


@dataclass(frozen=True, slots=True)
class UserRow:
    """One user of the list, with the code of the plan and when they last logged in or used a login."""

    user: User
    plan: str
    last_login_at: datetime | None


@dataclass(frozen=True, slots=True)
class UserGlance:
    """One user at a glance. `quota` is None where the market's clock does not answer; closed accounts are included."""

    user: User
    plan: Plan
    current: Subscription | None
    pending: Subscription | None
    accounts: tuple[BrokerAccount, ...]
    settings: AutoTradeSettings
    trading_state: Effective
    quota: Quota | None
    second_factor: bool
    password_changed_at: datetime | None
    last_login_at: datetime | None
    sessions: int
    api_keys: int
    open_trades: int


async def list_users(session: AsyncSession, wanted: UserFilter, before_id: int | None, limit: int) -> list[UserRow]:
    """Users below `before_id`, the newest first."""
    plan = func.coalesce(Subscription.plan_code, FREE)
    last = select(func.max(LoginSession.created_at)).where(LoginSession.user_id == User.id).scalar_subquery()
    query = select(User, plan, last).outerjoin(
        Subscription, (Subscription.user_id == User.id) & Subscription.status.in_(CURRENT)
    )
    if wanted.email is not None:
        query = query.where(func.lower(User.email).contains(wanted.email.lower(), autoescape=True))
    for column, value in ((User.role, wanted.role), (plan, wanted.plan), (User.active, wanted.active)):
        if value is not None:
            query = query.where(column == value)
    if before_id is not None:
        query = query.where(User.id < before_id)
    rows = await session.execute(query.order_by(User.id.desc()).limit(limit))
    return [UserRow(row[0], row[1], row[2]) for row in rows]


async def glance(trading: Trading, rules: LoginRules, user_id: int, real_now: datetime) -> UserGlance:
    """Everything that support needs to answer a user.

    Raises:
        NotFoundError: no such user.
    """
    market_now = await market_now_or_none(trading)
    async with trading.sessions() as session:
        user = await require_user(session, user_id)
        plan = await plan_of(session, user_id)
        accounts = await session.scalars(
            select(BrokerAccount).where(BrokerAccount.user_id == user_id).order_by(BrokerAccount.id)
        )
        kept = tuple(accounts.all())
        broker = next((account.broker for account in kept if account.is_primary), None)
        credential = await session.get(Credential, user_id)
        return UserGlance(
            user=user,
            plan=plan,
            current=await current_of(session, user_id),
            pending=await pending_of(session, user_id),
            accounts=kept,
            settings=await settings_of(session, user_id),
            trading_state=(await standings(session)).effective(user_id, None, broker),
            quota=None if market_now is None else await quota_of(session, user_id, plan, market_now),
            second_factor=credential is not None and credential.totp_confirmed_at is not None,
            password_changed_at=credential.password_changed_at if credential else None,
            last_login_at=await session.scalar(
                select(func.max(LoginSession.created_at)).where(LoginSession.user_id == user_id)
            ),
            sessions=len(await sessions_of(session, user_id, rules, real_now)),
            api_keys=await _count(session, select(ApiKey.id).where(ApiKey.user_id == user_id, *usable(real_now))),
            open_trades=await _count(
                session, select(AutoTrade.id).where(AutoTrade.user_id == user_id, AutoTrade.status.in_(_OPEN))
            ),
        )


async def _count(session: AsyncSession, query: Select[Any]) -> int:
    return await session.scalar(select(func.count()).select_from(query.subquery())) or 0


async def market_now_or_none(trading: Trading) -> datetime | None:
    """The market's present; None where data_service, whose clock it is, does not answer."""
    try:
        return await trading.clock()
    except SaudaError:
        return None
