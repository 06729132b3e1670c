"""Reading the audit log: a user what concerns them, support and administrators everything."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from backend.models import AuditEntry


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries; None is any. `action` may be the beginning of one (`plan` or `plan.change`)."""

    actor: str | None = None
    actor_id: int | None = None
    subject_id: int | None = None
    action: str | None = None
    target: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def entries(session: AsyncSession, wanted: AuditFilter, before_id: int | None, limit: int) -> list[AuditEntry]:
    """Entries, newest first; `since` is included, `until` is not."""
    query = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
    for column, value in (
        (AuditEntry.actor, wanted.actor),
        (AuditEntry.actor_id, wanted.actor_id),
        (AuditEntry.subject_id, wanted.subject_id),
        (AuditEntry.target, wanted.target),
    ):
        if value is not None:
            query = query.where(column == value)
    if wanted.action is not None:
        query = query.where(AuditEntry.action.startswith(wanted.action, autoescape=True))
    if wanted.since is not None:
        query = query.where(AuditEntry.at >= wanted.since)
    if wanted.until is not None:
        query = query.where(AuditEntry.at < wanted.until)
    if before_id is not None:
        query = query.where(AuditEntry.id < before_id)
    return list((await session.scalars(query)).all())
