"""What routes ask for: the state, a transaction, and who is calling. Every route names one access of ACCESSES.

An access is a floor under the caller's role and the scope that an API key needs:

    public          anybody                            (no scope)
    current_user    any user, to look                  read
    trading_user    any user, to change what trades    trade
    paid_portfolio  a plan with that feature           trade
    paid_auto_trading                                  trade
    account_holder  a login, never an API key          (logins only)
    fresh_holder    a login proved minutes ago         (logins only)
    support_user    support and administrators         admin
    admin_user      administrators                     admin
    fresh_admin     administrators, proved minutes ago (logins only)
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from backend.api.limits import RouteClass, class_of
from backend.api.perimeter import refused
from backend.api.state import ApiState
from backend.db import act_as_operator, act_for
from backend.errors import NotAllowedError, NotAuthenticatedError, TooManyRequestsError
from backend.models import Feature, LoginSession, Role, User
from backend.services import api_key_service
from backend.services.audit_service import Actor
from backend.services.plan_service import require_feature

FRESH_MINUTES = 10
"""How long a password or second factor counts as just given."""

_bearer = HTTPBearer(auto_error=False, description="The access token of POST /v1/auth/login, or an API key.")


class KeyScope(StrEnum):
    """What an API key may be for; a login may do all that its user's role allows."""

    READ = "read"
    TRADE = "trade"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, by a login (`login`) or by an API key (`key_id` and its `scopes`)."""

    user: User
    ip: str
    login: LoginSession | None = None
    key_id: int | None = None
    scopes: frozenset[KeyScope] = frozenset(KeyScope)
    paper_only: bool = False

    @property
    def actor(self) -> Actor:
        """How the audit log names the caller."""
        return Actor(f"user:{self.user.id}" if self.key_id is None else f"key:{self.key_id}", self.user.id, self.ip)


def api_state(request: Request) -> ApiState:
    return cast("ApiState", request.app.state.api)


State = Annotated[ApiState, Depends(api_state)]


async def transaction(state: State) -> AsyncIterator[AsyncSession]:
    """One transaction around the route: it commits before the answer leaves, or rolls back with the error."""
    async with state.sessions.begin() as session:
        yield session


Session = Annotated[AsyncSession, Depends(transaction, scope="function")]


def client_ip(request: Request) -> str:
    """The caller's address."""
    return request.client.host if request.client else ""


def public() -> None:
    """Access: anybody, without login."""


async def authenticated(
    request: Request, state: State, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    """Who calls; from here on the request's transactions see this user's rows alone.

    Raises:
        NotAuthenticatedError: no token, a bad one, its login has ended, or its user is gone or switched off.
        NotAllowedError: an API key that may not be used from this address, or not with this plan.
    """
    if credentials is None:
        raise NotAuthenticatedError("Log in with POST /v1/auth/login and send the token as Authorization: Bearer.")
    if api_key_service.is_key(credentials.credentials):
        return await _by_key(request, state, credentials.credentials)
    user_id, session_id = state.security.claims_of(credentials.credentials)
    act_for(user_id)
    async with state.sessions() as session:
        found = await session.execute(
            select(User, LoginSession)
            .join(LoginSession, LoginSession.user_id == User.id)
            .where(User.id == user_id, LoginSession.id == session_id)
        )
        row = found.one_or_none()
    if row is None or not row[0].active:
        raise NotAuthenticatedError("This user does not exist or is not active.")
    if row[1].revoked_at is not None or row[1].expires_at <= state.security.now():
        raise NotAuthenticatedError("This login has ended: log in again.", code="session_ended")
    await _count(request, state, ("user", user_id))
    return Caller(row[0], client_ip(request), login=row[1])


async def _by_key(request: Request, state: ApiState, text: str) -> Caller:
    """Who calls by an API key.

    Raises:
        NotAuthenticatedError, NotAllowedError: as api_key_service.authenticate.
    """
    ip = client_ip(request)
    user, key = await api_key_service.authenticate(
        state.sessions, text, ip, state.security.now(), whatever_the_plan=_is_safety(request)
    )
    act_for(user.id)
    await _count(request, state, ("user", user.id), ("key", key.id))
    scopes = frozenset(KeyScope(scope) for scope in key.scopes)
    return Caller(user, ip, key_id=key.id, scopes=scopes, paper_only=key.paper_only)


def _is_safety(request: Request) -> bool:
    """Whether the request stops trading or takes an order back."""
    return class_of(request.method, request.url.path) is RouteClass.SAFETY


async def _count(request: Request, state: ApiState, *callers: tuple[str, int]) -> None:
    """Count the request for its user, and its API key, beside its address.

    Raises:
        TooManyRequestsError: it is one too many.
    """
    if state.perimeter.limits is None or request.scope.get("rate_counted"):
        return
    request.scope["rate_counted"] = True  # a route with an Idempotency-Key asks who calls before and in its work
    kind = class_of(request.method, request.url.path)
    for caller, name in callers:
        window = await state.perimeter.limits.count(kind, caller, str(name))
        request.scope["rate_windows"].append(window)
        if not window.passed:
            _, code, _, detail = refused(window)
            raise TooManyRequestsError(detail, code=code, retry_after_s=window.reset_s)


AnyCaller = Annotated[Caller, Depends(authenticated)]


async def optional_caller(request: Request, state: State) -> Caller | None:
    """Who calls, where an Authorization header says so; a bad one is refused as anywhere."""
    credentials = await _bearer(request)
    return None if credentials is None else await authenticated(request, state, credentials)


def _with_scope(caller: Caller, scope: KeyScope) -> User:
    if scope not in caller.scopes:
        raise NotAllowedError(f"This API key lacks the scope {scope}: make one that has it.", code="scope_missing")
    return caller.user


async def current_user(caller: AnyCaller) -> User:
    """Access: any user who is logged in and active, to look."""
    return _with_scope(caller, KeyScope.READ)


async def trading_user(request: Request, caller: AnyCaller, state: State) -> User:
    """Access: any user, to change what trades; a key for paper trading may stop it in live too."""
    user = _with_scope(caller, KeyScope.TRADE)
    if caller.paper_only and state.environment == "live" and not _is_safety(request):
        raise NotAllowedError("This API key is for paper trading only.", code="paper_only")
    return user


def paid(feature: Feature) -> Callable[..., Awaitable[User]]:
    """Access: a user whose plan has `feature`, to change what trades; the dependency is named after it."""

    async def access(state: State, user: Annotated[User, Depends(trading_user)]) -> User:
        async with state.sessions() as session:
            await require_feature(session, user.id, feature)
        return user

    access.__name__ = f"paid_{feature.value}"
    return access


paid_portfolio = paid(Feature.PORTFOLIO)
paid_auto_trading = paid(Feature.AUTO_TRADING)


async def account_holder(caller: AnyCaller) -> Caller:
    """Access: a user with a login; no API key may change who may do what."""
    if caller.login is None:
        raise NotAllowedError("An API key cannot do this: log in.", code="login_required")
    return caller


async def fresh_holder(state: State, caller: Annotated[Caller, Depends(account_holder)]) -> Caller:
    """Access: a user who gave password or second factor in the last FRESH_MINUTES.

    Raises:
        NotAllowedError: too long ago; POST /v1/auth/step-up gives it anew.
    """
    login = cast("LoginSession", caller.login)
    if state.security.now() - login.proved_at > timedelta(minutes=FRESH_MINUTES):
        raise NotAllowedError(
            "This needs your password or second factor again: POST /v1/auth/step-up, then repeat it.",
            code="step_up_required",
        )
    return caller


async def support_user(caller: AnyCaller) -> User:
    """Access: support and administrators, to look at everybody's."""
    if caller.user.role not in {Role.SUPPORT, Role.ADMIN}:
        raise NotAllowedError("This is for administrators and support.", code="admin_required")
    user = _with_scope(caller, KeyScope.ADMIN)
    act_as_operator()
    return user


async def admin_user(caller: AnyCaller) -> User:
    """Access: administrators.

    Raises:
        NotAllowedError: anybody else.
    """
    if caller.user.role is not Role.ADMIN:
        raise NotAllowedError("This is for administrators.", code="admin_required")
    user = _with_scope(caller, KeyScope.ADMIN)
    act_as_operator()
    return user


async def fresh_admin(
    caller: Annotated[Caller, Depends(fresh_holder)], admin: Annotated[User, Depends(admin_user)]
) -> Caller:
    """Access: administrators who gave password or second factor in the last FRESH_MINUTES."""
    del admin
    return caller


Public = Depends(public)
CurrentUser = Annotated[User, Depends(current_user)]
TradingUser = Annotated[User, Depends(trading_user)]
PortfolioUser = Annotated[User, Depends(paid_portfolio)]
AutoTrader = Annotated[User, Depends(paid_auto_trading)]
AccountHolder = Annotated[Caller, Depends(account_holder)]
FreshHolder = Annotated[Caller, Depends(fresh_holder)]
SupportUser = Annotated[User, Depends(support_user)]
AdminUser = Annotated[User, Depends(admin_user)]
FreshAdmin = Annotated[Caller, Depends(fresh_admin)]
ACCESSES = (
    public,
    current_user,
    trading_user,
    paid_portfolio,
    paid_auto_trading,
    account_holder,
    fresh_holder,
    support_user,
    admin_user,
    fresh_admin,
)
"""From the loosest to the strictest."""
