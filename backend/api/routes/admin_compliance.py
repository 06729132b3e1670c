"""For administrators: the records without which no user's orders go to a real broker."""

from typing import Annotated

from fastapi import APIRouter, Query

from backend.api.deps import FreshAdmin, Session, State, SupportUser
from backend.api.documentation import documented
from backend.api.routes.admin import RowId
from backend.api.schemas.common import next_cursor
from backend.api.schemas.live import (
    ComplianceBody,
    ComplianceQuery,
    ComplianceReply,
    ComplianceView,
    RevokeComplianceBody,
)
from backend.domain.calendar import IST
from backend.services import compliance_service

router = APIRouter(prefix="/v1/admin/compliance", tags=["admin"])


@router.post("", **documented("record_compliance", 401, 403, 404, 409, 503, status=201))
async def record_compliance(body: ComplianceBody, admin: FreshAdmin, session: Session, state: State) -> ComplianceView:
    """Record that a user may trade live, by which approval, from which address. One stands per user at most."""
    row = await compliance_service.record_compliance(session, admin.actor, body.stated(), state.security.now())
    return ComplianceView.of(row)


@router.get("", **documented("list_compliance", 401, 403, 503))
async def list_compliance(
    query: Annotated[ComplianceQuery, Query()],
    support: SupportUser,  # noqa: ARG001
    session: Session,
    state: State,
) -> ComplianceReply:
    """Records of all users, newest first, those revoked included."""
    today = state.security.now().astimezone(IST).date() if query.standing else None
    rows = await compliance_service.list_records(session, query.user_id, today, query.before_id, query.limit + 1)
    return ComplianceReply(
        records=[ComplianceView.of(row) for row in rows[: query.limit]],
        next_cursor=next_cursor([row.id for row in rows], query.limit),
    )


@router.post("/{record_id}/revoke", **documented("revoke_compliance", 401, 403, 404, 409, 503))
async def revoke_compliance(
    record_id: RowId, body: RevokeComplianceBody, admin: FreshAdmin, session: Session, state: State
) -> ComplianceView:
    """Revoke a record, with a reason: no further real order of the user's goes out."""
    row = await compliance_service.revoke(session, admin.actor, record_id, body.reason, state.security.now())
    return ComplianceView.of(row)
