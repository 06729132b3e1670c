"""My data: all of it as a download, and erasing my account."""

from collections.abc import AsyncIterator
from typing import IO, Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse

from backend.api.deps import FreshHolder, State
from backend.api.documentation import documented
from backend.api.routes.auth import FromDevice
from backend.api.schemas.data_rights import ErasureBody, ErasureReply, ExportReply, HoldView
from backend.services import audit_service, erasure_service, export_service, login_service
from backend.services.erasure_service import HOLDS
from backend.services.login_service import Secret

router = APIRouter(prefix="/v1/me", tags=["my data"])


async def _place(caller: FreshHolder, state: State) -> AsyncIterator[IO[bytes]]:
    """The file of the caller's export: it lasts until the answer has been sent."""
    with state.exports.held(caller.user.id) as file:
        yield file


@router.get("/export", response_model=ExportReply, **documented("export_my_data", 401, 403, 429, 503))
async def export_my_data(
    caller: FreshHolder, state: State, file: Annotated[IO[bytes], Depends(_place)]
) -> StreamingResponse:
    """Everything that is kept about me, as one JSON file. No hashes and no sealed secrets are in it. One at a time."""
    async with state.sessions.begin() as session:
        await audit_service.record(session, caller.actor, "data.export", subject_id=caller.user.id)
    now = state.security.now()
    await state.exports.gather(file, state.sessions, caller.user.id, now)
    return StreamingResponse(
        export_service.sent(file),
        media_type="application/json",
        headers={
            "Content-Disposition": f'attachment; filename="sauda-{caller.user.id}-{now:%Y%m%d}.json"',
            "Cache-Control": "no-store",
        },
    )


@router.post("/erasure", **documented("erase_me", 401, 403, 409, 429, 503))
async def erase_me(body: ErasureBody, caller: FreshHolder, state: State, device: FromDevice) -> ErasureReply:
    """Erase my account for good: name, address, logins, keys, credentials, settings, backtests; at once.

    No trade or order may be open. What the law makes us keep stays under a bare number; the answer says what and why.
    """
    secret = Secret(password=body.password.get_secret_value())
    await login_service.prove(state.sessions, state.security, state.vault, caller.user, device, secret)
    now = state.security.now()
    await erasure_service.erase(
        state.sessions, caller.actor, caller.user.id, now, end_subscription=body.end_subscription
    )
    return ErasureReply(
        erased_at=now,
        kept=[HoldView.of(hold) for hold in HOLDS],
        message="Your account is erased, and your login has ended. The address can be used for a new account.",
    )
