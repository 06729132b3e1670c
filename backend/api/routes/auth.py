"""Registering, logging in and out, passwords, e-mail addresses, and who I am."""

from datetime import timedelta
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Request, Response

from backend.api import refresh_cookie
from backend.api.deps import (
    FRESH_MINUTES,
    AccountHolder,
    Caller,
    CurrentUser,
    FreshHolder,
    Public,
    State,
    client_ip,
    optional_caller,
)
from backend.api.documentation import documented
from backend.api.schemas.accounts import MeReply, PlanView, QuotaView, UserView
from backend.api.schemas.consents import MissingConsent
from backend.api.schemas.logins import (
    EmailBody,
    LoginBody,
    MessageReply,
    PasswordBody,
    RefreshBody,
    RegisterBody,
    ResetBody,
    SessionsEndedReply,
    StepUpBody,
    StepUpReply,
    TokenBody,
    TokensReply,
    VerifiedReply,
)
from backend.errors import NotAuthenticatedError, NotFoundError
from backend.models import LoginSession
from backend.services import consent_service, email_service, login_service, password_service, session_service
from backend.services.login_service import Secret
from backend.services.plan_service import plan_of, quota_of
from backend.services.session_service import Device

router = APIRouter(prefix="/v1/auth", tags=["auth"])


def _device(request: Request) -> Device:
    return Device(client_ip(request), request.headers.get("user-agent", ""))


FromDevice = Annotated[Device, Depends(_device)]


@router.post("/register", dependencies=[Public], **documented("register", 503, status=202))
async def register(body: RegisterBody, state: State, device: FromDevice) -> MessageReply:
    """Create a user. A password has 15 to 128 characters of your choice, and is none of those that are tried first.

    You can log in at once; a mail brings a link that verifies the address. The answer is the same where the address
    has an account already: its holder gets a mail instead.
    """
    password = body.password.get_secret_value()
    await login_service.register(state.sessions, state.security, body.email, password, body.name, device.ip)
    return MessageReply(message="We have sent a mail to this address. If it is new here, you can log in now.")


@router.post("/login", dependencies=[Public], **documented("login", 401, 403, 429, 503))
async def login(body: LoginBody, state: State, request: Request, response: Response, device: FromDevice) -> TokensReply:
    """Get an access token, to be sent as `Authorization: Bearer …`, and a refresh token for the next one.

    With a second factor, a login without `code` gets 401 `second_factor_required`: repeat it with one. After five
    failures in a row each further attempt must wait, up to 15 minutes (429, `Retry-After`).
    """
    if body.cookie:
        refresh_cookie.require_own_origin(request, state)
    tokens = await login_service.log_in(
        state.sessions,
        state.security,
        state.logins,
        state.vault,
        body.email,
        body.password.get_secret_value(),
        body.code.get_secret_value() if body.code else None,
        device,
    )
    return _reply(state, tokens, response, cookie=body.cookie)


@router.post("/refresh", dependencies=[Public], **documented("refresh", 401, 403, 409, 503))
async def refresh(
    state: State, request: Request, response: Response, device: FromDevice, body: RefreshBody | None = None
) -> TokensReply:
    """Get the next access and refresh token. The refresh token comes in the body, or as the cookie that login set.

    It is good once. One that comes again within seconds lost a race and is refused (409); later it was copied: the
    login ends (401 `refresh_token_reused`).
    """
    in_body = body.refresh_token.get_secret_value() if body else None
    token = in_body or refresh_cookie.token_in(request, state)
    if token is None:
        raise NotAuthenticatedError("Send the refresh_token that login gave.", code="refresh_token_missing")
    tokens = await session_service.refresh(state.sessions, state.security, state.logins, token, device)
    return _reply(state, tokens, response, cookie=in_body is None)


def _reply(state: State, tokens: session_service.Tokens, response: Response, *, cookie: bool) -> TokensReply:
    response.headers["Cache-Control"] = "no-store"
    if cookie:
        refresh_cookie.give(response, tokens.refresh, state.logins.session_days)
    return TokensReply.of(tokens, state.security.access_token_s, cookie=cookie)


@router.post("/logout", dependencies=[Public], **documented("logout", 401, 403, 503))
async def logout(
    state: State,
    request: Request,
    response: Response,
    device: FromDevice,
    caller: Annotated[Caller | None, Depends(optional_caller)],
    body: RefreshBody | None = None,
) -> MessageReply:
    """End a login: the one of the access token, of the refresh token in the body, or of the cookie. At once."""
    if caller is not None and caller.login is not None:
        try:
            async with state.sessions.begin() as session:
                now = state.security.now()
                mine = caller.user.id, caller.login.id
                await session_service.end_session(session, caller.actor, *mine, now, reason="logged_out")
        except NotFoundError:
            pass
    token = body.refresh_token.get_secret_value() if body else None
    if token is None and caller is None:
        token = refresh_cookie.token_in(request, state)
    if token is not None:
        await session_service.log_out(state.sessions, state.security, token, device.ip)
    if refresh_cookie.NAME in request.cookies:
        refresh_cookie.take_back(response)
    return MessageReply(message="This login has ended.")


@router.post("/step-up", **documented("step_up", 401, 403, 429, 503))
async def step_up(body: StepUpBody, caller: AccountHolder, state: State, device: FromDevice) -> StepUpReply:
    """Prove again that it is you, by password or second factor: what answers 403 `step_up_required` then works."""
    secret = Secret(
        body.password.get_secret_value() if body.password else None, body.code.get_secret_value() if body.code else None
    )
    at = await login_service.step_up(
        state.sessions, state.security, state.vault, caller.user, _login(caller).id, device, secret
    )
    return StepUpReply(proved_until=at + timedelta(minutes=FRESH_MINUTES))


@router.put("/password", **documented("change_password", 401, 403, 409, 429, 503))
async def change_password(
    body: PasswordBody, caller: AccountHolder, state: State, device: FromDevice
) -> SessionsEndedReply:
    """Change the password; all other logins end, and a mail tells. With a second factor 8 characters are enough."""
    present, new = body.current_password.get_secret_value(), body.new_password.get_secret_value()
    ended = await password_service.change_password(
        state.sessions, state.security, state.vault, caller.user, _login(caller).id, device, present, new
    )
    return SessionsEndedReply(sessions_ended=ended)


@router.post("/password-reset", dependencies=[Public], **documented("ask_password_reset", 503, status=202))
async def ask_password_reset(body: EmailBody, state: State) -> MessageReply:
    """Have a link mailed that sets a new password; it works for 30 minutes. The answer is the same for any address."""
    await password_service.ask_reset(state.sessions, body.email)
    return MessageReply(message="If this address has an account, a mail with a link is on its way.")


@router.post("/password-reset/confirm", dependencies=[Public], **documented("reset_password", 503))
async def reset_password(body: ResetBody, state: State, device: FromDevice) -> MessageReply:
    """Set a new password by the token of that mail. All logins end; a second factor stays required."""
    token, password = body.token.get_secret_value(), body.password.get_secret_value()
    await password_service.reset(state.sessions, state.security, token, password, device.ip)
    return MessageReply(message="The password is set: log in with it.")


@router.post("/email/verification", **documented("send_verification", 401, 403, 409, 503, status=202))
async def send_verification(caller: AccountHolder, state: State) -> MessageReply:
    """Mail the link that verifies my address again; a newer link ends the older one."""
    await email_service.ask_verification(state.sessions, caller.user)
    return MessageReply(message="A mail with a link is on its way; it works for 24 hours.")


@router.post("/email/verify", dependencies=[Public], **documented("verify_email", 409, 503))
async def verify_email(body: TokenBody, state: State, device: FromDevice) -> VerifiedReply:
    """Verify an address by the token of a mail, new or changed."""
    token = body.token.get_secret_value()
    return VerifiedReply(email=await email_service.verify(state.sessions, state.security, token, device.ip))


@router.put("/email", **documented("change_email", 401, 403, 503, status=202))
async def change_email(body: EmailBody, caller: FreshHolder, state: State) -> MessageReply:
    """Change my address: a link goes to the new one, a notice to the old. It changes when the link is used."""
    await email_service.ask_change(state.sessions, caller.user, body.email, caller.actor)
    return MessageReply(message="A mail with a link is on its way to the new address; it works for 24 hours.")


@router.get("/me", **documented("get_me", 401, 403, 503))
async def get_me(user: CurrentUser, state: State) -> MeReply:
    """The user, their plan, what is left of today's entries, and the notices that are not accepted yet."""
    now = await state.trading.clock()
    async with state.sessions() as session:
        plan = await plan_of(session, user.id)
        quota = await quota_of(session, user.id, plan, now)
        missing = await consent_service.missing_of(session, user.id)
    return MeReply(
        user=UserView.of(user),
        plan=PlanView.of(plan),
        quota=QuotaView.of(quota),
        consents_missing=[MissingConsent.of(notice) for notice in missing],
    )


def _login(caller: Caller) -> LoginSession:
    return cast("LoginSession", caller.login)
