"""What stands between a user and real money: the compliance record and the user's own confirmation."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base


class LivePermission(Base):
    """One user's two switches for live orders: an admin's compliance record, and the user's second-factor consent."""

    __tablename__ = "live_permissions"

    user_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id"), primary_key=True)
    compliance_reference: Mapped[str | None] = mapped_column(String(100))
    approved_by: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("users.id"))
    approved_at: Mapped[datetime | None]
    confirmed_at: Mapped[datetime | None]
