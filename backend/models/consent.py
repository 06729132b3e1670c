"""What a user was told and agreed to, or took back: never changed, only added to (DPDP Act 2023, section 6)."""

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, BigId, CreatedAt


class Consent(Base):
    """One answer to one version of a notice; the newest of a notice counts."""

    __tablename__ = "consents"

    id: Mapped[BigId]
    user_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id"))
    notice: Mapped[str] = mapped_column(String(40))
    version: Mapped[str] = mapped_column(String(20))
    given: Mapped[bool]
    ip: Mapped[str] = mapped_column(String(45), default="")
    created_at: Mapped[CreatedAt]

    __table_args__ = (Index("ix_consents_user_id_notice_id", "user_id", "notice", "id"),)
