"""For administrators: halting trading at any scope, and lifting what holds it back."""

from typing import Annotated

from fastapi import APIRouter, Query

from backend.api.deps import AdminUser, Session, State
from backend.api.documentation import documented
from backend.api.routes.admin import RowId
from backend.api.schemas.common import next_cursor
from backend.api.schemas.trading_state import (
    AdminKillSwitchBody,
    KillSwitchReply,
    LiftBody,
    PeriodsQuery,
    PeriodsReply,
    PeriodView,
)
from backend.domain.trading_states import Cause
from backend.services import trading_state_service
from backend.services.kill_switch_service import Halt, kill_switch

router = APIRouter(prefix="/v1/admin", tags=["admin"])


@router.post("/kill-switch", **documented("pull_admin_kill_switch", 401, 403, 404, 503))
async def pull_admin_kill_switch(body: AdminKillSwitchBody, admin: AdminUser, state: State) -> KillSwitchReply:
    """Halt the platform, a broker, a strategy or a user, and cancel their open orders; `flatten` sells what is held."""
    halt = Halt(body.scope, body.key, Cause.ADMIN, body.reason, body.flatten)
    return KillSwitchReply.of(state.environment, halt.scope, halt.key, await kill_switch(state.trading, halt, admin))


@router.get("/trading-states", **documented("list_trading_states", 401, 403, 503))
async def list_trading_states(
    query: Annotated[PeriodsQuery, Query()],
    admin: AdminUser,  # noqa: ARG001
    session: Session,
) -> PeriodsReply:
    """Every state that stands or stood, newest first."""
    rows = await trading_state_service.periods(session, query.before_id, query.limit + 1, standing_only=query.standing)
    return PeriodsReply(
        trading_states=[PeriodView.of(row) for row in rows[: query.limit]],
        next_cursor=next_cursor([row.id for row in rows], query.limit),
    )


@router.post("/trading-states/{period_id}/lift", **documented("lift_trading_state", 401, 403, 404, 503))
async def lift_trading_state(period_id: RowId, body: LiftBody, admin: AdminUser, session: Session) -> PeriodView:
    """Lift what stands, with a reason: sends that it forbade may go out from the next tick on."""
    return PeriodView.of(await trading_state_service.lift_period(session, period_id, admin, body.reason))
