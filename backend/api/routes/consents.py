"""Notices, and my answers to them."""

from fastapi import APIRouter

from backend.api.deps import AccountHolder, Public, Session, State
from backend.api.documentation import documented
from backend.api.schemas.consents import ConsentBody, ConsentsReply, ConsentView, NoticesReply, NoticeView
from backend.services import consent_service, live_service
from backend.services.consent_service import NoticeName

router = APIRouter(prefix="/v1", tags=["my data"])


@router.get("/notices", dependencies=[Public], **documented("list_notices"))
async def list_notices() -> NoticesReply:
    """What you are told and may be asked to accept, each notice in its present version."""
    return NoticesReply(notices=[NoticeView.of(notice) for notice in consent_service.NOTICES.values()])


@router.get("/consents", **documented("list_consents", 401, 403, 503))
async def list_consents(caller: AccountHolder, session: Session) -> ConsentsReply:
    """My newest answer to each notice."""
    answers = await consent_service.answers_of(session, caller.user.id)
    return ConsentsReply(consents=[ConsentView.of(answer) for answer in answers])


@router.post("/consents", **documented("answer_notice", 401, 403, 409, 503))
async def answer_notice(body: ConsentBody, caller: AccountHolder, session: Session, state: State) -> ConsentsReply:
    """Accept a notice's present version, or take a consent back: one is as easy as the other, at any time.

    Without the risk disclosure no real order goes out: taking it back turns my switch for live trading off. To have
    everything about me erased, see POST /v1/me/erasure.
    """
    answers = await consent_service.answer(
        session, caller.actor, caller.user.id, body.notice, body.version, body.given, state.security.now()
    )
    if body.notice is NoticeName.RISK_DISCLOSURE and not body.given:
        await live_service.withdraw(session, caller.actor, caller.user.id, "the risk disclosure was taken back")
    return ConsentsReply(consents=[ConsentView.of(answer) for answer in answers])
