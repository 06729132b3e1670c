"""My logins: on which devices, and ending them."""

from typing import Annotated, cast

from fastapi import APIRouter, Path

from backend.api.deps import AccountHolder, Caller, Session, State
from backend.api.documentation import documented
from backend.api.schemas.common import ID_MAX
from backend.api.schemas.logins import MessageReply, SessionsEndedReply, SessionsReply, SessionView
from backend.models import LoginSession
from backend.services import audit_service, session_service

router = APIRouter(prefix="/v1/sessions", tags=["auth"])

SessionId = Annotated[int, Path(ge=1, le=ID_MAX)]


@router.get("", **documented("list_sessions", 401, 403, 503))
async def list_sessions(caller: AccountHolder, session: Session, state: State) -> SessionsReply:
    """My logins that can still be used."""
    rows = await session_service.sessions_of(session, caller.user.id, state.logins, state.security.now())
    return SessionsReply(sessions=[SessionView.of(row, _current(caller)) for row in rows])


@router.delete("/{session_id}", **documented("end_session", 401, 403, 404, 503))
async def end_session(session_id: SessionId, caller: AccountHolder, session: Session, state: State) -> MessageReply:
    """End one login: its tokens are refused at once. It may be the present one."""
    await session_service.end_session(session, caller.actor, caller.user.id, session_id, state.security.now())
    return MessageReply(message="The login has ended.")


@router.delete("", **documented("end_other_sessions", 401, 403, 503))
async def end_other_sessions(caller: AccountHolder, session: Session, state: State) -> SessionsEndedReply:
    """End all my logins but the present one."""
    ended = await session_service.end_sessions(
        session, caller.user.id, state.security.now(), reason="ended", but=_current(caller)
    )
    await audit_service.record(
        session, caller.actor, "session.end_others", subject_id=caller.user.id, after={"sessions_ended": ended}
    )
    return SessionsEndedReply(sessions_ended=ended)


def _current(caller: Caller) -> int:
    return cast("LoginSession", caller.login).id
