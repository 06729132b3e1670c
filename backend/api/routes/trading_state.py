"""What holds trading back for the user, and the user's own kill switch."""

from typing import Annotated

from fastapi import APIRouter, Body
from sqlalchemy.ext.asyncio import AsyncSession

from backend.api.deps import CurrentUser, Session, State, TradingUser
from backend.api.documentation import documented
from backend.api.schemas.trading_state import KillSwitchBody, KillSwitchReply, LiftBody, TradingStateReply
from backend.api.state import ApiState
from backend.domain.trading_states import Cause, Scope
from backend.services import trading_state_service
from backend.services.account_service import accounts_of
from backend.services.kill_switch_service import Halt, kill_switch

router = APIRouter(prefix="/v1", tags=["trading state"])

STOPPED = "stopped by the user"


@router.post("/kill-switch", **documented("pull_kill_switch", 401, 503))
async def pull_kill_switch(
    user: TradingUser, state: State, body: Annotated[KillSwitchBody, Body()] = KillSwitchBody()
) -> KillSwitchReply:
    """Stop all trading of mine: nothing more is sent, and open orders are cancelled. `flatten` sells open auto-trades.

    Other holdings are never sold. Without `flatten` open trades are held without their stops until it is lifted.
    It needs no body, no plan and no other service, and may be repeated.
    """
    halt = Halt(Scope.USER, str(user.id), Cause.USER_KILL_SWITCH, body.reason or STOPPED, body.flatten)
    return KillSwitchReply.of(state.environment, halt.scope, halt.key, await kill_switch(state.desk, halt, user))


@router.get("/trading-state", **documented("get_trading_state", 401, 503))
async def get_trading_state(user: CurrentUser, state: State, session: Session) -> TradingStateReply:
    """What holds trading back for me, platform-wide states included, since when, why, and how it ends."""
    return await _trading_state(session, state, user.id)


@router.post("/trading-state/reactivate", **documented("reactivate_trading", 401, 403, 503))
async def reactivate_trading(body: LiftBody, user: TradingUser, state: State) -> TradingStateReply:
    """Lift what holds back my own trading, with a reason. What only an administrator may lift is a 403."""
    async with state.desk.sessions.begin() as session:
        await trading_state_service.lift_own(session, user, body.reason)
        return await _trading_state(session, state, user.id)


async def _trading_state(session: AsyncSession, state: ApiState, user_id: int) -> TradingStateReply:
    standings = await trading_state_service.standings(session)
    primary = next((account for account in await accounts_of(session, user_id) if account.is_primary), None)
    effective = standings.effective(user_id, None, primary.broker if primary else None)
    own = await trading_state_service.own_scopes(session, user_id)
    partly = [
        s for s in standings.rows if s.scope is Scope.STRATEGY or (s.scope is Scope.HOLDING and (s.scope, s.key) in own)
    ]
    return TradingStateReply.of(state.environment, effective, partly)
