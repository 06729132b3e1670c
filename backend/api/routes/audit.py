"""The audit log: who did what to whom. It is only ever added to, and kept for five years."""

from typing import Annotated

from fastapi import APIRouter, Query

from backend.api.deps import CurrentUser, Session, SupportUser
from backend.api.documentation import documented
from backend.api.schemas.audit import AuditQuery, AuditReply, AuditView, OwnAuditQuery, OwnAuditReply, OwnAuditView
from backend.api.schemas.common import next_cursor
from backend.services import audit_query_service
from backend.services.audit_query_service import AuditFilter

router = APIRouter(prefix="/v1/audit", tags=["auth"])
admin_router = APIRouter(prefix="/v1/admin/audit", tags=["admin"])


@router.get("", **documented("list_own_audit", 401, 403, 503))
async def list_own_audit(
    query: Annotated[OwnAuditQuery, Query()], user: CurrentUser, session: Session
) -> OwnAuditReply:
    """What was done to my account and by whom, newest first: by me, by my keys, by administrators, by Sauda itself."""
    wanted = AuditFilter(subject_id=user.id, action=query.action)
    rows = await audit_query_service.entries(session, wanted, query.before_id, query.limit + 1)
    return OwnAuditReply(
        entries=[OwnAuditView.of(row) for row in rows[: query.limit]],
        next_cursor=next_cursor([row.id for row in rows], query.limit),
    )


@admin_router.get("", **documented("list_audit", 401, 403, 503))
async def list_audit(
    query: Annotated[AuditQuery, Query()],
    support: SupportUser,  # noqa: ARG001
    session: Session,
) -> AuditReply:
    """Everything, newest first. `sauda admin audit verify` follows its chain of hashes."""
    rows = await audit_query_service.entries(session, query.filter(), query.before_id, query.limit + 1)
    return AuditReply(
        entries=[AuditView.of(row) for row in rows[: query.limit]],
        next_cursor=next_cursor([row.id for row in rows], query.limit),
    )
