"""What proves who somebody is. Every secret is kept as a hash, or sealed: reading these tables lets nobody in."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, LargeBinary, String, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, BigId, CreatedAt, enum_type


class Credential(Base):
    """A user's password (argon2id) and second factor (TOTP, its secret sealed).

    The second factor counts once `totp_confirmed_at` is set; `totp_last_step` is the newest time step (of 30 s) that
    was accepted, so that no code serves twice.
    """

    __tablename__ = "credentials"

    user_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id"), primary_key=True)
    password_hash: Mapped[str] = mapped_column(String(255))
    password_changed_at: Mapped[CreatedAt]
    totp_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    totp_confirmed_at: Mapped[datetime | None]
    totp_last_step: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))

    __table_args__ = (
        CheckConstraint("totp_confirmed_at IS NULL OR totp_secret IS NOT NULL", name="no_second_factor_without_secret"),
    )


class RecoveryCode(Base):
    """One code that stands in for the second factor once."""

    __tablename__ = "recovery_codes"

    user_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id"), primary_key=True)
    code_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    used_at: Mapped[datetime | None]


class LoginSession(Base):
    """One login on one device: the family of its refresh tokens.

    `proved_at` is when the user last gave password or second factor in it (a step-up counts), `second_factor_at` the
    same for the second factor alone. It ends at `expires_at`, or when it is revoked.
    """

    __tablename__ = "login_sessions"

    id: Mapped[BigId]
    user_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id"), index=True)
    device: Mapped[str] = mapped_column(String(200), default="")
    ip: Mapped[str] = mapped_column(String(45), default="")
    proved_at: Mapped[CreatedAt]
    second_factor_at: Mapped[datetime | None]
    last_used_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    revoked_reason: Mapped[str | None] = mapped_column(String(40))
    created_at: Mapped[CreatedAt]


class RefreshToken(Base):
    """One refresh token (its SHA-256) of a session; one that is used again tells that it was stolen."""

    __tablename__ = "refresh_tokens"

    token_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    session_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("login_sessions.id", ondelete="CASCADE"), index=True)
    user_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id"), index=True)
    issued_at: Mapped[CreatedAt]
    used_at: Mapped[datetime | None]


class EmailPurpose(StrEnum):
    VERIFY = "verify"
    RESET = "reset"
    CHANGE = "change"


class EmailToken(Base):
    """A link that was sent by e-mail (its SHA-256): it works once, for `email`, until `expires_at`."""

    __tablename__ = "email_tokens"

    token_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    user_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id"), index=True)
    purpose: Mapped[EmailPurpose] = mapped_column(enum_type(EmailPurpose))
    email: Mapped[str] = mapped_column(String(254))
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    created_at: Mapped[CreatedAt]


class LoginDelay(Base):
    """How long a name must wait after failed logins: it grows, and locks nobody out for good.

    `name` is a keyed hash of an e-mail address, known or not.
    """

    __tablename__ = "login_delays"

    name: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    failures: Mapped[int] = mapped_column(Integer)
    failed_at: Mapped[datetime]
    blocked_until: Mapped[datetime]

    __table_args__ = (Index("ix_login_delays_failed_at", "failed_at"),)


class ApiKey(Base):
    """A key for a program: shown once, kept as SHA-256. `prefix` is its visible beginning.

    `scopes` are read, trade, admin; with `paper_only` it moves no real money; `networks` (CIDR) are the addresses it
    works from, any where empty.
    """

    __tablename__ = "api_keys"

    id: Mapped[BigId]
    user_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(String(60))
    prefix: Mapped[str] = mapped_column(String(16))
    key_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(String(20)))
    paper_only: Mapped[bool] = mapped_column(default=False)
    networks: Mapped[list[str]] = mapped_column(ARRAY(String(43)), default=list, server_default=text("'{}'"))
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    last_used_ip: Mapped[str | None] = mapped_column(String(45))
    revoked_at: Mapped[datetime | None]
    created_at: Mapped[CreatedAt]
