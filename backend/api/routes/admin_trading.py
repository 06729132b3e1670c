"""For administrators: halting trading at any scope, lifting what holds it back, and settling what nobody knows."""

from typing import Annotated

from fastapi import APIRouter, Query

from backend.api.deps import AdminUser, AnyCaller, Session, State, SupportUser
from backend.api.documentation import documented
from backend.api.routes.admin import RowId
from backend.api.schemas.admin import ReconcileBody, ReconcileReply
from backend.api.schemas.common import PageQuery, next_cursor
from backend.api.schemas.orders import OrderReply, OrderView, SettleBody, UnknownOrdersReply, UnknownOrderView
from backend.api.schemas.trading_state import (
    AdminKillSwitchBody,
    KillSwitchReply,
    LiftBody,
    PauseBody,
    PeriodsQuery,
    PeriodsReply,
    PeriodView,
)
from backend.domain.orders import OrderEventKind
from backend.domain.trading_states import Cause, TradingState
from backend.services import admin_service, order_query_service, trading_state_service
from backend.services.kill_switch_service import Halt, kill_switch

router = APIRouter(prefix="/v1/admin", tags=["admin"])


@router.post("/kill-switch", **documented("pull_admin_kill_switch", 401, 403, 404, 503))
async def pull_admin_kill_switch(
    body: AdminKillSwitchBody, admin: AdminUser, caller: AnyCaller, state: State
) -> KillSwitchReply:
    """Halt the platform, a broker, a strategy or a user, and cancel their open orders.

    `flatten` sells open auto-trades; other holdings are never sold. Without it open trades are held
    without their stops until it is lifted.
    """
    halt = Halt(body.scope, body.key, Cause.ADMIN, body.reason, body.flatten)
    report = await kill_switch(state.desk, halt, admin, actor=caller.actor)
    return KillSwitchReply.of(state.environment, halt.scope, halt.key, report)


@router.post("/pause", **documented("pause_trading", 401, 403, 404, 503))
async def pause_trading(body: PauseBody, admin: AdminUser, caller: AnyCaller, state: State) -> KillSwitchReply:
    """Let the platform, a broker, a strategy or a user enter nothing more; exits go on. Open entries are cancelled.

    A halt that stands already stays.
    """
    halt = Halt(body.scope, body.key, Cause.ADMIN, body.reason, state=TradingState.REDUCING)
    report = await kill_switch(state.desk, halt, admin, actor=caller.actor)
    return KillSwitchReply.of(state.environment, halt.scope, halt.key, report)


@router.post("/reconcile", **documented("force_reconcile", 401, 403, 404, 503))
async def force_reconcile(
    body: ReconcileBody,
    admin: AdminUser,  # noqa: ARG001
    caller: AnyCaller,
    state: State,
) -> ReconcileReply:
    """Bring orders in line with the brokers' books now, of one account or of all; the trader does so by itself too."""
    report = await admin_service.force_reconcile(state.desk, caller.actor, body.account_id)
    return ReconcileReply.of(state.environment, report)


@router.get("/trading-states", **documented("list_trading_states", 401, 403, 503))
async def list_trading_states(
    query: Annotated[PeriodsQuery, Query()],
    support: SupportUser,  # noqa: ARG001
    session: Session,
) -> PeriodsReply:
    """Every state that stands or stood, newest first."""
    rows = await trading_state_service.periods(session, query.before_id, query.limit + 1, standing_only=query.standing)
    return PeriodsReply(
        trading_states=[PeriodView.of(row) for row in rows[: query.limit]],
        next_cursor=next_cursor([row.id for row in rows], query.limit),
    )


@router.post("/trading-states/{period_id}/lift", **documented("lift_trading_state", 401, 403, 404, 503))
async def lift_trading_state(
    period_id: RowId, body: LiftBody, admin: AdminUser, caller: AnyCaller, session: Session
) -> PeriodView:
    """Lift what stands, with a reason: sends that it forbade may go out from the next tick on."""
    period = await trading_state_service.lift_period(session, period_id, admin, body.reason, caller.actor)
    return PeriodView.of(period)


@router.get("/unknown-orders", **documented("list_unknown_orders", 401, 403, 503))
async def list_unknown_orders(
    page: Annotated[PageQuery, Query()],
    support: SupportUser,  # noqa: ARG001
    state: State,
) -> UnknownOrdersReply:
    """Orders whose outcome nobody knows, newest first: each blocks its account and symbol until it is settled."""
    async with state.sessions() as session:
        orders = await order_query_service.unknown_orders(session, page.before_id, page.limit + 1)
    return UnknownOrdersReply(
        environment=state.environment,
        orders=[UnknownOrderView.of(order) for order in orders[: page.limit]],
        next_cursor=next_cursor([order.id for order in orders], page.limit),
    )


@router.post("/unknown-orders/{order_id}/settle", **documented("settle_unknown_order", 401, 403, 404, 409, 503))
async def settle_unknown_order(
    order_id: RowId, body: SettleBody, admin: AdminUser, caller: AnyCaller, state: State
) -> OrderReply:
    """Settle such an order, once the broker has told what became of it. A fill found later still counts."""
    outcome = OrderEventKind(body.outcome)
    async with state.sessions.begin() as session:
        order = await order_query_service.resolve_unknown(
            session, order_id, outcome, admin.id, body.reason, caller.actor
        )
    return OrderReply(environment=state.environment, order=OrderView.of(order))
