"""Registering, logging in, and who I am."""

from fastapi import APIRouter

from backend.api.deps import CurrentUser, Public, State
from backend.api.documentation import documented
from backend.api.schemas.accounts import LoginBody, MeReply, PlanView, QuotaView, RegisterBody, TokenReply, UserView
from backend.services import account_service
from backend.services.plan_service import plan_of, quota_of

router = APIRouter(prefix="/v1/auth", tags=["auth"])


@router.post("/register", dependencies=[Public], **documented("register", 409, 503, status=201))
async def register(body: RegisterBody, state: State) -> UserView:
    """Create a user. A password has 12 to 128 characters; an address counts once, whatever its case."""
    password = body.password.get_secret_value()
    return UserView.of(await account_service.register(state.sessions, state.security, body.email, password, body.name))


@router.post("/login", dependencies=[Public], **documented("login", 401, 503))
async def login(body: LoginBody, state: State) -> TokenReply:
    """Get an access token, to be sent as `Authorization: Bearer …`."""
    password = body.password.get_secret_value()
    token = await account_service.login(state.sessions, state.security, body.email, password)
    return TokenReply(access_token=token, expires_in_s=state.security.access_token_s)


@router.get("/me", **documented("get_me", 401, 503))
async def get_me(user: CurrentUser, state: State) -> MeReply:
    """The user, their plan, and what is left of today's entries."""
    now = await state.trading.clock()
    async with state.sessions() as session:
        plan = await plan_of(session, user.id)
        quota = await quota_of(session, user.id, plan, now)
    return MeReply(user=UserView.of(user), plan=PlanView.of(plan), quota=QuotaView.of(quota))
