"""Plans and subscriptions: what a user may do, what they asked for, and what an admin switched on."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.calendar import IST
from backend.errors import ConflictError, InvalidRequestError, NotAllowedError, NotFoundError
from backend.models import AutoTradeSettings, DailyUsage, Plan, Subscription, SubscriptionStatus, User

FREE = "free"


@dataclass(frozen=True, slots=True)
class Quota:
    """Entries of one IST day: the plan's limit, the user's own, those used, and what both limits leave."""

    entries_per_day: int
    own_max: int | None
    used: int
    left: int
    resets_at: datetime


async def list_plans(session: AsyncSession) -> list[Plan]:
    """The catalogue, cheapest first."""
    return list((await session.scalars(select(Plan).order_by(Plan.rank))).all())


async def plan_of(session: AsyncSession, user_id: int) -> Plan:
    """The user's plan: that of the active subscription, Free without one."""
    active = (
        select(Subscription.plan_code)
        .where(Subscription.user_id == user_id, Subscription.status == SubscriptionStatus.ACTIVE)
        .scalar_subquery()
    )
    return (await session.scalars(select(Plan).where(Plan.code == func.coalesce(active, FREE)))).one()


async def require_auto_trading(session: AsyncSession, user_id: int) -> Plan:
    """The user's plan, if it has auto-trading.

    Raises:
        NotAllowedError: it has none; the detail names the first plan that has.
    """
    plan = await plan_of(session, user_id)
    if plan.auto_trades_per_day > 0:
        return plan
    offered = await session.scalar(select(Plan).where(Plan.auto_trades_per_day > 0).order_by(Plan.rank).limit(1))
    offer = (
        f"{offered.name} has it, with {offered.auto_trades_per_day} auto-trades a day: "
        f'ask for it with POST /v1/subscription {{"plan": "{offered.code}"}}.'
        if offered
        else "No plan of this deployment has it."
    )
    raise NotAllowedError(f"Your plan {plan.name} does not include auto-trading. {offer}", code="plan_required")


async def quota_of(session: AsyncSession, user_id: int, plan: Plan, market_now: datetime) -> Quota:
    """Entries used and left on the market's present day."""
    today = market_now.astimezone(IST).date()
    used = await session.scalar(
        select(DailyUsage.entries_used).where(DailyUsage.user_id == user_id, DailyUsage.trade_date == today)
    )
    own_max = await session.scalar(
        select(AutoTradeSettings.entries_per_day_max).where(AutoTradeSettings.user_id == user_id)
    )
    cap = plan.auto_trades_per_day if own_max is None else min(plan.auto_trades_per_day, own_max)
    return Quota(plan.auto_trades_per_day, own_max, used or 0, max(0, cap - (used or 0)), midnight_after(today))


def midnight_after(day: date) -> datetime:
    """The instant at which `day` ends in India."""
    return datetime.combine(day + timedelta(days=1), datetime.min.time(), tzinfo=IST)


async def subscriptions_of(session: AsyncSession, user_id: int) -> dict[SubscriptionStatus, Subscription]:
    """The user's active and pending subscription, by status, where there are any."""
    rows = await session.scalars(
        select(Subscription).where(
            Subscription.user_id == user_id,
            Subscription.status.in_([SubscriptionStatus.ACTIVE, SubscriptionStatus.PENDING]),
        )
    )
    return {row.status: row for row in rows}


async def subscribe(session: AsyncSession, user_id: int, plan_code: str) -> Subscription:
    """Ask for a plan: pending until an admin activates it, at once for one that costs nothing.

    Raises:
        InvalidRequestError: no such plan.
        ConflictError: the user is on it already.
    """
    await _lock_user(session, user_id)
    plan = await session.get(Plan, plan_code)
    if plan is None:
        codes = ", ".join(p.code for p in await list_plans(session))
        raise InvalidRequestError(f"There is no plan {plan_code!r}; there are: {codes}.", code="unknown_plan")
    if (await plan_of(session, user_id)).code == plan_code:
        raise ConflictError(f"You are on {plan.name} already.", code="already_on_plan")
    await _end(session, user_id, SubscriptionStatus.PENDING)
    subscription = Subscription(user_id=user_id, plan_code=plan_code, status=SubscriptionStatus.PENDING)
    session.add(subscription)
    await session.flush()
    if plan.price_rupees_per_month == 0:
        await _activate(session, subscription, activated_by=None)
    await session.refresh(subscription)
    return subscription


async def cancel(session: AsyncSession, user_id: int) -> Subscription:
    """Withdraw the pending subscription, or else end the active one: the user is on Free from then on.

    Raises:
        NotFoundError: there is neither.
    """
    await _lock_user(session, user_id)
    standing = await subscriptions_of(session, user_id)
    for status in (SubscriptionStatus.PENDING, SubscriptionStatus.ACTIVE):
        if status in standing:
            await _end(session, user_id, status)
            await session.refresh(standing[status])
            return standing[status]
    raise NotFoundError("There is no subscription to cancel.", code="no_subscription")


async def activate(session: AsyncSession, subscription_id: int, admin_id: int) -> Subscription:
    """Switch a pending subscription on, in the place of the active one.

    Raises:
        NotFoundError: no such subscription.
        ConflictError: it is not pending.
    """
    subscription = await session.get(Subscription, subscription_id)
    if subscription is None:
        raise NotFoundError(f"There is no subscription {subscription_id}.")
    await _lock_user(session, subscription.user_id)
    await session.refresh(subscription)
    if subscription.status is not SubscriptionStatus.PENDING:
        raise ConflictError(f"The subscription is {subscription.status}, not pending.", code="not_pending")
    await _activate(session, subscription, activated_by=admin_id)
    await session.refresh(subscription)
    return subscription


async def list_subscriptions(
    session: AsyncSession, status: SubscriptionStatus | None, before_id: int | None, limit: int
) -> list[tuple[Subscription, str]]:
    """Subscriptions with their user's e-mail address, newest first."""
    query = select(Subscription, User.email).join(User, User.id == Subscription.user_id)
    if status is not None:
        query = query.where(Subscription.status == status)
    if before_id is not None:
        query = query.where(Subscription.id < before_id)
    rows = await session.execute(query.order_by(Subscription.id.desc()).limit(limit))
    return [(row[0], row[1]) for row in rows]


async def _lock_user(session: AsyncSession, user_id: int) -> None:
    """Serialise changes of one user's subscriptions until the transaction ends."""
    await session.execute(select(User.id).where(User.id == user_id).with_for_update(key_share=True))


async def _activate(session: AsyncSession, subscription: Subscription, *, activated_by: int | None) -> None:
    await _end(session, subscription.user_id, SubscriptionStatus.ACTIVE)
    await session.execute(
        update(Subscription)
        .where(Subscription.id == subscription.id)
        .values(status=SubscriptionStatus.ACTIVE, activated_at=func.clock_timestamp(), activated_by=activated_by)
    )


async def _end(session: AsyncSession, user_id: int, status: SubscriptionStatus) -> None:
    await session.execute(
        update(Subscription)
        .where(Subscription.user_id == user_id, Subscription.status == status)
        .values(status=SubscriptionStatus.CANCELLED, ended_at=func.clock_timestamp())
    )
