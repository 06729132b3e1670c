"""The second factor: setting it up, taking it away, recovery codes."""

from typing import cast

from fastapi import APIRouter, Response

from backend.api.deps import AccountHolder, Caller, FreshHolder, Session, State
from backend.api.documentation import documented
from backend.api.routes.auth import FromDevice
from backend.api.schemas.logins import SessionsEndedReply
from backend.api.schemas.second_factor import (
    CodeBody,
    ConfirmedReply,
    EnrolmentReply,
    RecoveryCodesReply,
    SecondFactorReply,
)
from backend.api.state import ApiState
from backend.models import LoginSession
from backend.services import login_service, second_factor_setup
from backend.services.login_service import Secret
from backend.services.session_service import Device

router = APIRouter(prefix="/v1/auth/second-factor", tags=["auth"])


@router.get("", **documented("get_second_factor", 401, 403, 503))
async def get_second_factor(caller: AccountHolder, session: Session) -> SecondFactorReply:
    """Whether I have a second factor, and how many recovery codes are left."""
    return SecondFactorReply.of(await second_factor_setup.state_of(session, caller.user.id))


@router.post("", **documented("begin_second_factor", 401, 403, 409, 503, status=201))
async def begin_second_factor(
    caller: FreshHolder, session: Session, state: State, response: Response
) -> EnrolmentReply:
    """Get a secret for an authenticator app (TOTP, RFC 6238). It counts once you have confirmed it by a code."""
    _keep_nowhere(response)
    return EnrolmentReply.of(await second_factor_setup.begin(session, state.vault, caller.actor, caller.user))


@router.post("/confirm", **documented("confirm_second_factor", 401, 403, 409, 503))
async def confirm_second_factor(
    body: CodeBody, caller: FreshHolder, session: Session, state: State, response: Response
) -> ConfirmedReply:
    """Switch the second factor on by a code of the authenticator, and get recovery codes: keep them apart from it.

    From then on each login asks for a code. All other logins end, and a mail tells.
    """
    _keep_nowhere(response)
    code = body.code.get_secret_value()
    confirmed = await second_factor_setup.confirm(
        session, state.vault, caller.actor, caller.user, _login(caller), code, state.security.now()
    )
    return ConfirmedReply.of(confirmed)


@router.delete("", **documented("remove_second_factor", 401, 403, 409, 429, 503))
async def remove_second_factor(
    body: CodeBody, caller: AccountHolder, state: State, device: FromDevice
) -> SessionsEndedReply:
    """Take the second factor away, by a code of it or a recovery code. All other logins end, and a mail tells.

    The switch for live trading goes off with it.
    """
    await _prove(state, caller, device, body)
    async with state.sessions.begin() as session:
        ended = await second_factor_setup.remove(
            session, caller.actor, caller.user, _login(caller), state.security.now()
        )
    return SessionsEndedReply(sessions_ended=ended)


@router.post("/recovery-codes", **documented("renew_recovery_codes", 401, 403, 409, 429, 503))
async def renew_recovery_codes(
    body: CodeBody, caller: AccountHolder, state: State, device: FromDevice, response: Response
) -> RecoveryCodesReply:
    """Get new recovery codes, by a code of the second factor; the old ones are void, and a mail tells."""
    _keep_nowhere(response)
    await _prove(state, caller, device, body)
    async with state.sessions.begin() as session:
        return RecoveryCodesReply(
            recovery_codes=await second_factor_setup.renew_codes(session, caller.actor, caller.user)
        )


async def _prove(state: ApiState, caller: Caller, device: Device, body: CodeBody) -> None:
    """Take a code; wrong ones are counted as wrong logins are."""
    async with state.sessions() as session:
        await second_factor_setup.require_on(session, caller.user.id)
    secret = Secret(code=body.code.get_secret_value())
    await login_service.prove(state.sessions, state.security, state.vault, caller.user, device, secret)


def _keep_nowhere(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"


def _login(caller: Caller) -> LoginSession:
    return cast("LoginSession", caller.login)
