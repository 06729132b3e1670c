"""For administrators: the catalogue, subscriptions, and money that was seen."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from backend.api.deps import FreshAdmin, Session, State, SupportUser
from backend.api.documentation import documented
from backend.api.idempotency import IdempotentRoute
from backend.api.routes.admin import RowId
from backend.api.schemas.admin import SubscriptionsQuery
from backend.api.schemas.billing import (
    GiveBody,
    NewPlanBody,
    PaymentRow,
    PaymentRowsReply,
    PaymentsQuery,
    PaymentView,
    PlanBody,
    PlanCode,
    PlanView,
    RecordBody,
    SubscriptionRow,
    SubscriptionsReply,
    SubscriptionView,
)
from backend.api.schemas.common import next_cursor
from backend.services import payment_service, plan_service, subscription_service

router = APIRouter(prefix="/v1/admin", tags=["admin"], route_class=IdempotentRoute)


@router.post("/plans", **documented("create_plan", 401, 403, 409, status=201))
async def create_plan(body: NewPlanBody, admin: FreshAdmin, session: Session) -> PlanView:
    """Add a plan to the catalogue."""
    return PlanView.of(await plan_service.create_plan(session, admin.actor, body.values()))


@router.put("/plans/{code}", **documented("replace_plan", 401, 403, 404))
async def replace_plan(
    code: Annotated[PlanCode, Path()], body: PlanBody, admin: FreshAdmin, session: Session
) -> PlanView:
    """Change a plan: its limits at once for everybody who has it, its prices from each one's next period."""
    return PlanView.of(await plan_service.replace_plan(session, admin.actor, code, body.values()))


@router.get("/subscriptions", **documented("list_subscriptions", 401, 403))
async def list_subscriptions(
    query: Annotated[SubscriptionsQuery, Query()],
    support: SupportUser,  # noqa: ARG001
    session: Session,
) -> SubscriptionsReply:
    """Subscriptions of all users, newest first; `status=pending` shows those that wait for payment."""
    found = await subscription_service.list_subscriptions(session, query.status, query.before_id, query.limit + 1)
    rows = [
        SubscriptionRow(**SubscriptionView.of(row).model_dump(), user_id=row.user_id, email=email)
        for row, email in found[: query.limit]
    ]
    return SubscriptionsReply(subscriptions=rows, next_cursor=next_cursor([row.id for row, _ in found], query.limit))


@router.post("/subscriptions/{subscription_id}/activate", **documented("activate_subscription", 401, 403, 404, 409))
async def activate_subscription(
    subscription_id: RowId, admin: FreshAdmin, session: Session, state: State
) -> SubscriptionView:
    """Take what is asked as paid: begin a pending subscription, or renew an unpaid one."""
    row = await payment_service.activate(session, state.billing, admin.actor, subscription_id, state.security.now())
    return SubscriptionView.of(row)


@router.post("/users/{user_id}/subscription", **documented("give_plan", 401, 403, 404, status=201))
async def give_plan(
    user_id: RowId, body: GiveBody, admin: FreshAdmin, session: Session, state: State
) -> SubscriptionView:
    """Give a user a plan free of charge, at once, in the place of the present one."""
    now = state.security.now()
    row = await subscription_service.give(session, admin.actor, user_id, body.plan, body.until, body.reason, now)
    return SubscriptionView.of(row)


@router.get("/payments", **documented("list_all_payments", 401, 403))
async def list_all_payments(
    query: Annotated[PaymentsQuery, Query()],
    support: SupportUser,  # noqa: ARG001
    session: Session,
) -> PaymentRowsReply:
    """Payments of all users, newest first; `status=created` shows what is asked and not paid."""
    rows = await payment_service.payments_of(session, None, query.status, query.before_id, query.limit + 1)
    return PaymentRowsReply(
        payments=[PaymentRow(**PaymentView.of(row).model_dump(), user_id=row.user_id) for row in rows[: query.limit]],
        next_cursor=next_cursor([row.id for row in rows], query.limit),
    )


@router.post("/payments/{payment_id}/record", **documented("record_payment", 401, 403, 404, 409))
async def record_payment(
    payment_id: RowId, body: RecordBody, admin: FreshAdmin, session: Session, state: State
) -> PaymentView:
    """Record money that you saw come in, by the bank's reference; what it pays for begins or goes on."""
    row = await payment_service.record_payment(
        session,
        state.billing,
        admin.actor,
        payment_id,
        body.reference,
        body.amount,
        body.reason,
        state.security.now(),
    )
    return PaymentView.of(row)
