"""Live trading: what stands between the user and real money, and the user's own switch."""

from typing import cast

from fastapi import APIRouter
from sqlalchemy.ext.asyncio import AsyncSession

from backend.api.deps import AnyCaller, CurrentUser, FreshHolder, Session, State, TradingUser
from backend.api.documentation import documented
from backend.api.schemas.live import LiveReply
from backend.api.state import ApiState
from backend.domain.calendar import IST
from backend.models import LoginSession
from backend.services import live_service

router = APIRouter(prefix="/v1/live", tags=["live trading"])


@router.get("", **documented("get_live", 401, 503))
async def get_live(user: CurrentUser, session: Session, state: State) -> LiveReply:
    """Every switch that real orders need: whether it is on, why, and what turns it on."""
    return await _live(session, state, user.id)


@router.post("/confirm", **documented("confirm_live", 401, 403, 503))
async def confirm_live(caller: FreshHolder, session: Session, state: State) -> LiveReply:
    """Turn your own switch for real orders on.

    Needs a verified e-mail address, a plan with live trading, and your second factor, given in this login within the
    last ten minutes.
    """
    login = cast("LoginSession", caller.login)
    await live_service.confirm(session, caller.actor, caller.user, login, state.security.now())
    return await _live(session, state, caller.user.id)


@router.post("/withdraw", **documented("withdraw_live", 401, 403, 503))
async def withdraw_live(user: TradingUser, caller: AnyCaller, session: Session, state: State) -> LiveReply:
    """Turn your own switch off: no further real order goes out, exits neither: close what is open first."""
    await live_service.withdraw(session, caller.actor, user.id)
    return await _live(session, state, user.id)


async def _live(session: AsyncSession, state: ApiState, user_id: int) -> LiveReply:
    today = state.security.now().astimezone(IST).date()
    return LiveReply.of(await live_service.facts_of(session, state.desk.rules, user_id, today))
