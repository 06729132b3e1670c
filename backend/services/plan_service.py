"""Plans: the catalogue, what a user's plan includes, and the entries left of it today."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.calendar import IST
from backend.errors import ConflictError, InvalidRequestError, NotAllowedError, NotFoundError
from backend.models import CURRENT, AutoTradeSettings, DailyUsage, Feature, Plan, Subscription
from backend.services.audit_service import Actor, record

FREE = "free"
FEATURE_NAMES = {
    Feature.PORTFOLIO: "broker accounts",
    Feature.MANUAL_TRADING: "orders by hand",
    Feature.AUTO_TRADING: "auto-trading",
    Feature.BACKTESTS: "backtests",
    Feature.API_KEYS: "API keys",
    Feature.LIVE: "live trading",
}


@dataclass(frozen=True, slots=True)
class Quota:
    """Entries of one IST day: the plan's limit, the user's own, those used, and what both limits leave."""

    entries_per_day: int
    own_max: int | None
    used: int
    left: int
    resets_at: datetime


async def list_plans(session: AsyncSession) -> list[Plan]:
    """The catalogue by rank: what is offered, and what some still have."""
    return list((await session.scalars(select(Plan).order_by(Plan.rank, Plan.code))).all())


async def plan_named(session: AsyncSession, code: str) -> Plan:
    """One plan that is offered.

    Raises:
        InvalidRequestError: there is none of that code; the detail names those there are.
    """
    offered = {plan.code: plan for plan in await list_plans(session) if plan.offered}
    if code not in offered:
        raise InvalidRequestError(
            f"There is no plan {code!r} on offer; there are: {', '.join(offered)}.", code="unknown_plan"
        )
    return offered[code]


async def plan_of(session: AsyncSession, user_id: int) -> Plan:
    """The user's plan: that of the current subscription, Free without one."""
    current = (
        select(Subscription.plan_code)
        .where(Subscription.user_id == user_id, Subscription.status.in_(CURRENT))
        .scalar_subquery()
    )
    return (await session.scalars(select(Plan).where(Plan.code == func.coalesce(current, FREE)))).one()


async def require_feature(session: AsyncSession, user_id: int, feature: Feature) -> Plan:
    """The user's plan, if it includes `feature`.

    Raises:
        NotAllowedError: it does not; the detail names the cheapest plan on offer that does.
    """
    plan = await plan_of(session, user_id)
    if feature in plan.features:
        return plan
    having = select(Plan).where(Plan.offered, Plan.features.contains([feature.value]))
    cheapest = (await session.scalars(having.order_by(Plan.price_rupees_per_month, Plan.rank).limit(1))).first()
    offer = "No plan of this deployment includes it." if cheapest is None else _offer(cheapest, feature)
    raise NotAllowedError(
        f"Your plan {plan.name} does not include {FEATURE_NAMES[feature]}. {offer}", code="plan_required"
    )


def _offer(plan: Plan, feature: Feature) -> str:
    amount = {
        Feature.AUTO_TRADING: f", with {plan.auto_trades_per_day} auto-trades a day",
        Feature.BACKTESTS: f", with {plan.backtests_per_day} backtests a day",
    }.get(feature, "")
    return (
        f"{plan.name} does{amount}, for ₹{plan.price_rupees_per_month:,.2f} a month before GST: "
        f'ask for it with POST /v1/subscription {{"plan": "{plan.code}"}}.'
    )


async def require_broker(session: AsyncSession, user_id: int, broker: str) -> None:
    """Let an account be opened at `broker` only where the user's plan includes it.

    Raises:
        NotAllowedError: it does not; the detail names those it does, and the cheapest plan with this one.
    """
    plan = await require_feature(session, user_id, Feature.PORTFOLIO)
    if broker in plan.brokers:
        return
    having = select(Plan).where(Plan.offered, Plan.brokers.contains([broker]))
    cheapest = (await session.scalars(having.order_by(Plan.price_rupees_per_month, Plan.rank).limit(1))).first()
    offer = f" {cheapest.name} includes it." if cheapest else ""
    raise NotAllowedError(
        f"Your plan {plan.name} has accounts at {', '.join(plan.brokers) or 'no broker'}, not at {broker}.{offer}",
        code="plan_required",
    )


async def require_symbols(session: AsyncSession, user_id: int, count: int) -> None:
    """Let `count` symbols be traded automatically; settings of a user without auto-trading rest, and are not limited.

    Raises:
        NotAllowedError: the plan has fewer.
    """
    plan = await plan_of(session, user_id)
    if Feature.AUTO_TRADING in plan.features and count > plan.symbols_max:
        raise NotAllowedError(
            f"Your plan {plan.name} trades {plan.symbols_max} symbols automatically, you gave {count}: "
            "give fewer, or ask for a larger plan.",
            code="too_many_symbols",
        )


async def quota_of(session: AsyncSession, user_id: int, plan: Plan, market_now: datetime) -> Quota:
    """Entries used and left on the market's present day."""
    today = market_now.astimezone(IST).date()
    used = await session.scalar(
        select(DailyUsage.entries_used).where(DailyUsage.user_id == user_id, DailyUsage.trade_date == today)
    )
    own_max = await session.scalar(
        select(AutoTradeSettings.entries_per_day_max).where(AutoTradeSettings.user_id == user_id)
    )
    per_day = plan.auto_trades_per_day if Feature.AUTO_TRADING in plan.features else 0
    cap = per_day if own_max is None else min(per_day, own_max)
    return Quota(per_day, own_max, used or 0, max(0, cap - (used or 0)), midnight_after(today))


def midnight_after(day: date) -> datetime:
    """The instant at which `day` ends in India."""
    return datetime.combine(day + timedelta(days=1), datetime.min.time(), tzinfo=IST)


async def create_plan(session: AsyncSession, actor: Actor, values: Mapping[str, Any]) -> Plan:
    """Add a plan to the catalogue.

    Raises:
        ConflictError: there is one of that code.
    """
    if await session.get(Plan, values["code"]) is not None:
        raise ConflictError(f"There is a plan {values['code']!r} already: change it with PUT.", code="plan_exists")
    plan = Plan(**values)
    session.add(plan)
    await session.flush()
    await record(session, actor, "plan.create", target=plan.code, after=_stored(plan))
    return plan


async def replace_plan(session: AsyncSession, actor: Actor, code: str, values: Mapping[str, Any]) -> Plan:
    """Change a plan. Its limits count at once, for everybody who has it; its prices from each one's next period.

    Raises:
        NotFoundError: there is no such plan.
        InvalidRequestError: Free would cost something or go: everybody falls back to it.
    """
    plan = (await session.scalars(select(Plan).where(Plan.code == code).with_for_update())).first()
    if plan is None:
        raise NotFoundError(f"There is no plan {code!r}.")
    free = not values["price_rupees_per_month"] and not values["price_rupees_per_year"] and values["offered"]
    if code == FREE and not free:
        raise InvalidRequestError("Free must cost nothing and be on offer: everybody falls back to it.", code="free")
    before = _stored(plan)
    for name, value in values.items():
        setattr(plan, name, value)
    await session.flush()
    await record(session, actor, "plan.change", target=code, before=before, after=_stored(plan))
    return plan


def _stored(plan: Plan) -> dict[str, Any]:
    """A plan as the audit log keeps it."""
    values = {column.key: getattr(plan, column.key) for column in Plan.__table__.columns}
    return {name: value if isinstance(value, int | list) else str(value) for name, value in values.items()}
