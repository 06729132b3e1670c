"""The audit log on the wire."""

from typing import Annotated, Any

from pydantic import Field

from backend.api.schemas.common import ID_MAX, Instant, Line, Moment, PageQuery, Reply
from backend.models import AuditEntry
from backend.services.audit_query_service import AuditFilter

Word = Annotated[Line, Field(min_length=1, max_length=120)]
RowNumber = Annotated[int, Field(ge=1, le=ID_MAX)]


class OwnAuditQuery(PageQuery):
    """`action` may be the beginning of one: `session` or `session.end`."""

    action: Word | None = None


class AuditQuery(OwnAuditQuery):
    """`actor` is user:ID, key:ID, cli:NAME or system; `since` is included, `until` is not."""

    actor: Word | None = None
    actor_id: RowNumber | None = None
    subject_id: RowNumber | None = None
    target: Word | None = None
    since: Instant | None = None
    until: Instant | None = None

    def filter(self) -> AuditFilter:
        return AuditFilter(**{name: getattr(self, name) for name in AuditFilter.__dataclass_fields__})


class OwnAuditView(Reply):
    """`ip` is shown of one's own deeds alone; `before` and `after` hold what changed, never a secret."""

    id: int
    at: Moment
    actor: str
    ip: str
    action: str
    target: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    reason: str

    @classmethod
    def of(cls, row: AuditEntry) -> "OwnAuditView":
        own = row.actor_id is not None and row.actor_id == row.subject_id
        values = {name: getattr(row, name) for name in cls.model_fields}
        return cls.model_validate(values | {"ip": row.ip if own else ""})


class AuditView(Reply):
    """One entry; `hash` chains it to the one before."""

    id: int
    at: Moment
    actor: str
    actor_id: int | None
    ip: str
    action: str
    subject_id: int | None
    target: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    reason: str
    hash: str

    @classmethod
    def of(cls, row: AuditEntry) -> "AuditView":
        values = {name: getattr(row, name) for name in cls.model_fields}
        return cls.model_validate(values | {"hash": row.hash.hex()})


class OwnAuditReply(Reply):
    entries: list[OwnAuditView]
    next_cursor: str | None


class AuditReply(Reply):
    entries: list[AuditView]
    next_cursor: str | None
