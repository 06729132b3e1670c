"""Who uses Sauda. What proves who they are stands in models/identity.py, where the trader may not read."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import Index, String, func
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, BigId, CreatedAt, enum_type


class Role(StrEnum):
    """SUPPORT may look at what administrators may change."""

    USER = "user"
    SUPPORT = "support"
    ADMIN = "admin"


class User(Base):
    """An account holder. E-mail addresses are unique whatever their case; an erased user keeps the id alone."""

    __tablename__ = "users"

    id: Mapped[BigId]
    email: Mapped[str] = mapped_column(String(254))
    name: Mapped[str] = mapped_column(String(100), default="")
    role: Mapped[Role] = mapped_column(enum_type(Role), default=Role.USER)
    active: Mapped[bool] = mapped_column(default=True)
    email_verified_at: Mapped[datetime | None]
    erased_at: Mapped[datetime | None]
    created_at: Mapped[CreatedAt]


Index("uq_users_email", func.lower(User.email), unique=True)
