"""Who uses Sauda."""

from enum import StrEnum

from sqlalchemy import Index, String, func
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, BigId, CreatedAt, enum_type


class Role(StrEnum):
    USER = "user"
    ADMIN = "admin"


class User(Base):
    """An account holder. E-mail addresses are unique whatever their case."""

    __tablename__ = "users"

    id: Mapped[BigId]
    email: Mapped[str] = mapped_column(String(254))
    password_hash: Mapped[str] = mapped_column(String(255))
    name: Mapped[str] = mapped_column(String(100), default="")
    role: Mapped[Role] = mapped_column(enum_type(Role), default=Role.USER)
    active: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[CreatedAt]


Index("uq_users_email", func.lower(User.email), unique=True)
