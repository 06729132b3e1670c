"""The catalogue of plans, and the user's own subscription."""

from fastapi import APIRouter

from backend.api.deps import CurrentUser, Public, Session
from backend.api.documentation import documented
from backend.api.idempotency import IdempotentRoute
from backend.api.schemas.accounts import PlansReply, PlanView, SubscribeBody, SubscriptionReply, SubscriptionView
from backend.models import SubscriptionStatus
from backend.services import plan_service

router = APIRouter(prefix="/v1", tags=["plans"], route_class=IdempotentRoute)


@router.get("/plans", dependencies=[Public], **documented("list_plans"))
async def list_plans(session: Session) -> PlansReply:
    """All plans, cheapest first."""
    return PlansReply(plans=[PlanView.of(plan) for plan in await plan_service.list_plans(session)])


@router.get("/subscription", **documented("get_subscription", 401))
async def get_subscription(user: CurrentUser, session: Session) -> SubscriptionReply:
    """The plan in force and what was asked for."""
    plan = await plan_service.plan_of(session, user.id)
    standing = await plan_service.subscriptions_of(session, user.id)
    active, pending = standing.get(SubscriptionStatus.ACTIVE), standing.get(SubscriptionStatus.PENDING)
    return SubscriptionReply(
        plan=PlanView.of(plan),
        active=SubscriptionView.of(active) if active else None,
        pending=SubscriptionView.of(pending) if pending else None,
    )


@router.post("/subscription", **documented("subscribe", 401, 409, status=201))
async def subscribe(body: SubscribeBody, user: CurrentUser, session: Session) -> SubscriptionView:
    """Ask for a plan. It is pending until an administrator activates it; Free takes effect at once."""
    return SubscriptionView.of(await plan_service.subscribe(session, user.id, body.plan))


@router.delete("/subscription", **documented("cancel_subscription", 401, 404))
async def cancel_subscription(user: CurrentUser, session: Session) -> SubscriptionView:
    """Withdraw the pending subscription, or else end the active one: entries stop, exits go on."""
    return SubscriptionView.of(await plan_service.cancel(session, user.id))
