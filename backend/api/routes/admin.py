"""For administrators: subscriptions, the calendar, and what the cycles did."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from backend.api.deps import AdminUser, Session, State
from backend.api.documentation import documented
from backend.api.schemas.accounts import SubscriptionRow, SubscriptionsReply, SubscriptionView
from backend.api.schemas.admin import (
    CyclesReply,
    CycleView,
    OverrideBody,
    OverridesReply,
    OverrideView,
    SubscriptionsQuery,
)
from backend.api.schemas.common import ID_MAX, PageQuery, next_cursor
from backend.services import admin_service, plan_service

router = APIRouter(prefix="/v1/admin", tags=["admin"])

RowId = Annotated[int, Path(ge=1, le=ID_MAX)]


@router.get("/subscriptions", **documented("list_subscriptions", 401, 403))
async def list_subscriptions(
    query: Annotated[SubscriptionsQuery, Query()],
    admin: AdminUser,  # noqa: ARG001
    session: Session,
) -> SubscriptionsReply:
    """Subscriptions of all users, newest first; `status=pending` shows those that wait for activation."""
    found = await plan_service.list_subscriptions(session, query.status, query.before_id, query.limit + 1)
    rows = [
        SubscriptionRow(**SubscriptionView.of(row).model_dump(), user_id=row.user_id, email=email)
        for row, email in found[: query.limit]
    ]
    return SubscriptionsReply(subscriptions=rows, next_cursor=next_cursor([row.id for row, _ in found], query.limit))


@router.post("/subscriptions/{subscription_id}/activate", **documented("activate_subscription", 401, 403, 404, 409))
async def activate_subscription(subscription_id: RowId, admin: AdminUser, session: Session) -> SubscriptionView:
    """Switch a pending subscription on, in the place of the active one."""
    return SubscriptionView.of(await plan_service.activate(session, subscription_id, admin.id))


@router.post("/calendar-overrides", **documented("correct_calendar", 401, 403, status=201))
async def correct_calendar(body: OverrideBody, admin: AdminUser, state: State) -> OverrideView:
    """Add or correct a day of the market's calendar, at once; the newest correction of a day counts."""
    return OverrideView.of(await admin_service.correct_calendar(state.trading, admin.id, body.correction()))


@router.get("/calendar-overrides", **documented("list_calendar_corrections", 401, 403))
async def list_calendar_corrections(
    page: Annotated[PageQuery, Query()],
    admin: AdminUser,  # noqa: ARG001
    session: Session,
) -> OverridesReply:
    """The corrections made so far, newest first."""
    rows = await admin_service.list_corrections(session, page.before_id, page.limit + 1)
    return OverridesReply(
        overrides=[OverrideView.of(row) for row in rows[: page.limit]],
        next_cursor=next_cursor([row.id for row in rows], page.limit),
    )


@router.get("/cycles", **documented("list_cycles", 401, 403))
async def list_cycles(
    page: Annotated[PageQuery, Query()],
    admin: AdminUser,  # noqa: ARG001
    session: Session,
    state: State,
) -> CyclesReply:
    """The last cycles and what each did, newest first."""
    rows = await admin_service.list_cycles(session, page.before_id, page.limit + 1)
    return CyclesReply(
        environment=state.environment,
        cycles=[CycleView.of(row) for row in rows[: page.limit]],
        next_cursor=next_cursor([row.id for row in rows], page.limit),
    )
