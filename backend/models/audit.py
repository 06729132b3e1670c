"""The audit log: who did what to whom, chained by hashes that the database itself computes, so that a gap shows."""

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, CreatedAt


class AuditEntry(Base):
    """One deed. `id`, `previous_hash` and `hash` are set by the database as the row comes in (migration 0006).

    `actor`: user:ID, key:ID, cli:NAME or system; `subject_id` is the user it concerns. `before` and `after` hold what
    changed, never a secret.
    """

    __tablename__ = "audit_log"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[CreatedAt]
    actor: Mapped[str] = mapped_column(String(60))
    actor_id: Mapped[int | None] = mapped_column(BigInteger)
    ip: Mapped[str] = mapped_column(String(45))
    action: Mapped[str] = mapped_column(String(60))
    subject_id: Mapped[int | None] = mapped_column(BigInteger)
    target: Mapped[str] = mapped_column(String(120))
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]
    reason: Mapped[str] = mapped_column(String(300))
    previous_hash: Mapped[bytes] = mapped_column(LargeBinary)
    hash: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = (Index("ix_audit_log_subject_id_id", "subject_id", "id"), Index("ix_audit_log_at", "at"))


class AuditHead(Base):
    """The newest entry's number and hash: one row, which also puts the writers in a line."""

    __tablename__ = "audit_head"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    entry_id: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)
