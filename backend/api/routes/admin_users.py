"""For administrators and support: users, what became of their trading, and switching them off, on and out."""

from typing import Annotated

from fastapi import APIRouter, Query

from backend.api.deps import AdminUser, AnyCaller, FreshAdmin, Session, State, SupportUser
from backend.api.documentation import documented
from backend.api.routes.admin import RowId
from backend.api.schemas.admin_users import (
    DayQuery,
    LoginsReply,
    LoginView,
    RoleBody,
    UserGlanceReply,
    UserRowView,
    UsersQuery,
    UsersReply,
    UserStateReply,
    WhyBody,
    WhyNoTradeReply,
)
from backend.api.schemas.common import next_cursor
from backend.api.schemas.logins import MessageReply, SessionsEndedReply
from backend.services import session_service, user_admin_service, user_glance_service, why_no_trade_service

router = APIRouter(prefix="/v1/admin/users", tags=["admin"])


@router.get("", **documented("list_users", 401, 403, 503))
async def list_users(
    query: Annotated[UsersQuery, Query()],
    support: SupportUser,  # noqa: ARG001
    session: Session,
) -> UsersReply:
    """Users, newest first, by a part of the address, role, plan, or whether they are switched on."""
    rows = await user_glance_service.list_users(session, query.wanted(), query.before_id, query.limit + 1)
    return UsersReply(
        users=[UserRowView.from_row(row) for row in rows[: query.limit]],
        next_cursor=next_cursor([row.user.id for row in rows], query.limit),
    )


@router.get("/{user_id}", **documented("get_user", 401, 403, 404, 503))
async def get_user(user_id: RowId, support: SupportUser, state: State) -> UserGlanceReply:  # noqa: ARG001
    """One user at a glance: plan, accounts, settings, what holds trading back, logins. No secret is among it."""
    seen = await user_glance_service.glance(state.trading, state.logins, user_id, state.security.now())
    return UserGlanceReply.of(state.environment, seen)


@router.get("/{user_id}/why-no-trade", **documented("why_no_trade", 401, 403, 404, 503))
async def why_no_trade(
    user_id: RowId,
    query: Annotated[DayQuery, Query()],
    support: SupportUser,  # noqa: ARG001
    state: State,
) -> WhyNoTradeReply:
    """Why nothing was entered for a user on a day: all that is on record of it, and the most likely cause in words."""
    now = state.security.now()
    why = await why_no_trade_service.why_no_trade(state.trading, user_id, query.day, now)
    return WhyNoTradeReply.of(state.environment, why)


@router.post("/{user_id}/deactivate", **documented("deactivate_user", 401, 403, 404, 409, 503))
async def deactivate_user(user_id: RowId, body: WhyBody, admin: FreshAdmin, state: State) -> UserStateReply:
    """Switch a user off: logins and API keys end, nothing more is entered, open trades keep their exits."""
    now = state.security.now()
    async with state.sessions.begin() as session:
        user = await user_admin_service.set_active(session, admin.actor, user_id, False, body.reason, now)
    await user_admin_service.cancel_entries(state.desk, user_id)
    return UserStateReply.of(user, "Nothing more is entered for this user. Open trades keep their exits.")


@router.post("/{user_id}/activate", **documented("activate_user", 401, 403, 404, 409, 503))
async def activate_user(
    user_id: RowId, body: WhyBody, admin: FreshAdmin, session: Session, state: State
) -> UserStateReply:
    """Switch a user on again. Auto-trading goes on as it was set; API keys from before stay dead."""
    user = await user_admin_service.set_active(session, admin.actor, user_id, True, body.reason, state.security.now())
    return UserStateReply.of(user, "The user can log in. Auto-trading goes on as it was set.")


@router.put("/{user_id}/role", **documented("set_user_role", 401, 403, 404, 409, 503))
async def set_user_role(
    user_id: RowId, body: RoleBody, admin: FreshAdmin, session: Session, state: State
) -> UserStateReply:
    """Give a user another role; their logins end. The last active administrator stays one."""
    now = state.security.now()
    user = await user_admin_service.set_role(session, admin.actor, user_id, body.role, body.reason, now)
    return UserStateReply.of(user, "The user logs in again to work in this role.")


@router.post("/{user_id}/second-factor/reset", **documented("reset_second_factor", 401, 403, 404, 409, 503))
async def reset_second_factor(
    user_id: RowId, body: WhyBody, admin: FreshAdmin, session: Session, state: State
) -> SessionsEndedReply:
    """Remove a lost second factor; logins end, and a mail tells. Make sure beforehand who asks for it."""
    now = state.security.now()
    ended = await user_admin_service.reset_second_factor(session, admin.actor, user_id, body.reason, now)
    return SessionsEndedReply(sessions_ended=ended)


@router.get("/{user_id}/sessions", **documented("list_user_sessions", 401, 403, 404, 503))
async def list_user_sessions(
    user_id: RowId,
    support: SupportUser,  # noqa: ARG001
    session: Session,
    state: State,
) -> LoginsReply:
    """A user's logins that can still be used."""
    await user_admin_service.require_user(session, user_id)
    rows = await session_service.sessions_of(session, user_id, state.logins, state.security.now())
    return LoginsReply(sessions=[LoginView.of(row) for row in rows])


@router.post("/{user_id}/sessions/end", **documented("end_user_sessions", 401, 403, 404, 503))
async def end_user_sessions(
    user_id: RowId,
    body: WhyBody,
    admin: AdminUser,  # noqa: ARG001
    caller: AnyCaller,
    session: Session,
    state: State,
) -> SessionsEndedReply:
    """End all logins of a user at once, as where one was stolen: it asks for no step-up. API keys stay."""
    now = state.security.now()
    ended = await user_admin_service.end_logins(session, caller.actor, user_id, body.reason, now)
    return SessionsEndedReply(sessions_ended=ended)


@router.delete("/{user_id}/sessions/{session_id}", **documented("end_user_session", 401, 403, 404, 503))
async def end_user_session(
    user_id: RowId,
    session_id: RowId,
    admin: AdminUser,  # noqa: ARG001
    caller: AnyCaller,
    session: Session,
    state: State,
) -> MessageReply:
    """End one login of a user."""
    now = state.security.now()
    await user_admin_service.end_login(session, caller.actor, user_id, session_id, now)
    return MessageReply(message="The login has ended.")
