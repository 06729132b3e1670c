"""What routes ask for: the state, a transaction, and who is calling. Every route names one of the four accesses."""

from collections.abc import AsyncIterator
from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.ext.asyncio import AsyncSession

from backend.api.state import ApiState
from backend.errors import NotAllowedError, NotAuthenticatedError
from backend.models import Role, User
from backend.services.plan_service import require_auto_trading

_bearer = HTTPBearer(auto_error=False, description="The access token of POST /v1/auth/login.")


def api_state(request: Request) -> ApiState:
    return cast("ApiState", request.app.state.api)


State = Annotated[ApiState, Depends(api_state)]


async def transaction(state: State) -> AsyncIterator[AsyncSession]:
    """One transaction around the route: it commits before the answer leaves, or rolls back with the error."""
    async with state.sessions.begin() as session:
        yield session


Session = Annotated[AsyncSession, Depends(transaction, scope="function")]


def public() -> None:
    """Access: anybody, without login."""


async def current_user(
    state: State, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> User:
    """Access: any user who is logged in and active.

    Raises:
        NotAuthenticatedError: no token, a bad one, or its user is gone or switched off.
    """
    if credentials is None:
        raise NotAuthenticatedError("Log in with POST /v1/auth/login and send the token as Authorization: Bearer.")
    user_id = state.security.user_id_of(credentials.credentials)
    async with state.sessions() as session:
        user = await session.get(User, user_id)
    if user is None or not user.active:
        raise NotAuthenticatedError("This user does not exist or is not active.")
    return user


async def paid_user(state: State, user: Annotated[User, Depends(current_user)]) -> User:
    """Access: a user whose plan has auto-trading.

    Raises:
        NotAllowedError: the plan has none; the detail names one that has.
    """
    async with state.sessions() as session:
        await require_auto_trading(session, user.id)
    return user


async def admin_user(user: Annotated[User, Depends(current_user)]) -> User:
    """Access: administrators.

    Raises:
        NotAllowedError: anybody else.
    """
    if user.role is not Role.ADMIN:
        raise NotAllowedError("This is for administrators.", code="admin_required")
    return user


Public = Depends(public)
CurrentUser = Annotated[User, Depends(current_user)]
PaidUser = Annotated[User, Depends(paid_user)]
AdminUser = Annotated[User, Depends(admin_user)]
ACCESSES = (public, current_user, paid_user, admin_user)
