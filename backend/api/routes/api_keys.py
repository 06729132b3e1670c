"""API keys: making one for a program, seeing which there are, and revoking one."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from backend.api.deps import AccountHolder, FreshHolder, Session, State
from backend.api.documentation import documented
from backend.api.schemas.api_keys import ApiKeyBody, ApiKeysReply, ApiKeyView, NewApiKeyReply
from backend.api.schemas.common import ID_MAX
from backend.api.schemas.logins import MessageReply
from backend.services import api_key_service

router = APIRouter(prefix="/v1/api-keys", tags=["auth"])

KeyId = Annotated[int, Path(ge=1, le=ID_MAX)]


@router.post("", **documented("create_api_key", 401, 403, 409, 503, status=201))
async def create_api_key(
    body: ApiKeyBody, caller: FreshHolder, session: Session, state: State, response: Response
) -> NewApiKeyReply:
    """Make a key for a program; it is shown this once. It needs a plan with API keys, and a login proved minutes ago.

    `read` looks, `trade` changes what trades, `admin` is for administrators. No key changes who may do what: logins,
    second factor, keys, subscriptions and credentials of brokers need a login.
    """
    response.headers["Cache-Control"] = "no-store"
    key, text = await api_key_service.create_key(session, caller.actor, caller.user, body.wish(), state.security.now())
    return NewApiKeyReply(key=text, api_key=ApiKeyView.of(key))


@router.get("", **documented("list_api_keys", 401, 403, 503))
async def list_api_keys(caller: AccountHolder, session: Session, state: State) -> ApiKeysReply:
    """My keys that can be used, and when and from where each was used last."""
    keys = await api_key_service.keys_of(session, caller.user.id, state.security.now())
    return ApiKeysReply(api_keys=[ApiKeyView.of(key) for key in keys])


@router.delete("/{key_id}", **documented("revoke_api_key", 401, 403, 404, 503))
async def revoke_api_key(key_id: KeyId, caller: AccountHolder, session: Session, state: State) -> MessageReply:
    """Revoke a key: it is refused at once."""
    await api_key_service.revoke_key(session, caller.actor, caller.user.id, key_id, state.security.now())
    return MessageReply(message="The key is revoked.")
