"""What stands between a user and real money: the compliance record, and the user's own confirmation."""

from datetime import date, datetime
from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, BigId, CreatedAt, enum_type


class ComplianceKind(StrEnum):
    """The two lawful ways to send orders by program (SEBI/HO/MIRSD/MIRSD-PoD/P/CIR/2025/0000013).

    SELF_HOSTED_FAMILY: one's own key and address, for oneself, spouse, children and parents, below ten orders a
    second. EMPANELLED_PROVIDER: a provider that the exchange has empanelled, through a broker that it works with.
    """

    SELF_HOSTED_FAMILY = "self_hosted_family"
    EMPANELLED_PROVIDER = "empanelled_provider"


class ComplianceRecord(Base):
    """Why a user's orders may go to a real broker, as an administrator recorded it; one stands per user at most.

    `algo_id` is the exchange's or broker's identifier that each order bears, `egress_ip` the address that the broker
    has whitelisted, `approval` the broker's or exchange's reference. Valid on the days from `valid_from` to
    `valid_until`, both included (India).
    """

    __tablename__ = "compliance_records"

    id: Mapped[BigId]
    user_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id"))
    kind: Mapped[ComplianceKind] = mapped_column(enum_type(ComplianceKind))
    broker: Mapped[str] = mapped_column(String(20))
    algo_id: Mapped[str] = mapped_column(String(40))
    egress_ip: Mapped[str] = mapped_column(String(45))
    approval: Mapped[str] = mapped_column(String(200))
    approved_on: Mapped[date]
    valid_from: Mapped[date]
    valid_until: Mapped[date]
    recorded_by: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id"))
    recorded_at: Mapped[CreatedAt]
    revoked_at: Mapped[datetime | None]
    revoked_by: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("users.id"))
    revoke_reason: Mapped[str | None] = mapped_column(String(300))

    __table_args__ = (
        CheckConstraint("valid_until >= valid_from", name="ends_after_it_begins"),
        CheckConstraint("(revoked_at IS NULL) = (revoked_by IS NULL)", name="revoked_by_somebody"),
        Index("uq_compliance_records_standing", "user_id", unique=True, postgresql_where=text("revoked_at IS NULL")),
    )


class LivePermission(Base):
    """The user's own switch for live orders, confirmed with the second factor; null or no row: off."""

    __tablename__ = "live_permissions"

    user_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id"), primary_key=True)
    confirmed_at: Mapped[datetime | None]
