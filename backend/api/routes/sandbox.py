"""Keys with which any Kite Connect client trades a paper account here."""

from typing import Annotated

from fastapi import APIRouter, Path

from backend.api.deps import AccountHolder, FreshHolder, State
from backend.api.documentation import documented
from backend.api.schemas.common import ID_MAX
from backend.api.schemas.sandbox import SandboxKeyBody, SandboxKeyEndedReply, SandboxKeyReply
from backend.db import OPERATOR_ROLE, acting_as
from backend.services import sandbox_key_service

router = APIRouter(prefix="/v1/broker-accounts", tags=["broker accounts"])

AccountId = Annotated[int, Path(ge=1, le=ID_MAX)]


@router.put("/{account_id}/sandbox-key", **documented("make_sandbox_key", 401, 403, 404, 409, 503))
async def make_sandbox_key(
    account_id: AccountId, body: SandboxKeyBody, caller: FreshHolder, state: State
) -> SandboxKeyReply:
    """Make the key of a paper account for Kite Connect clients, in the place of the one before.

    Needs password or second factor given in the last minutes.
    """
    with acting_as(OPERATOR_ROLE):
        async with state.sessions.begin() as session:
            made = await sandbox_key_service.make_key(
                session, state.vault, caller.actor, caller.user.id, account_id, body.redirect_url
            )
    root = state.logins.public_url.rstrip("/")
    return SandboxKeyReply(
        account_id=account_id,
        api_key=made.api_key,
        api_secret=made.api_secret,
        root=root,
        login_url=f"{root}/connect/login?v=3&api_key={made.api_key}",
        ticker=f"{root.replace('http', 'ws', 1)}/ws",
    )


@router.delete("/{account_id}/sandbox-key", **documented("end_sandbox_key", 401, 403, 404, 409, 503))
async def end_sandbox_key(account_id: AccountId, caller: AccountHolder, state: State) -> SandboxKeyEndedReply:
    """End the key and every login made with it."""
    with acting_as(OPERATOR_ROLE):
        async with state.sessions.begin() as session:
            await sandbox_key_service.end_key(session, caller.actor, caller.user.id, account_id)
    return SandboxKeyEndedReply(account_id=account_id, message="The key and its logins have ended.")
