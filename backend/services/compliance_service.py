"""Compliance records: why a user's orders may go to a real broker; without one that stands no real order goes out."""

import ipaddress
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import select, text, true
from sqlalchemy.ext.asyncio import AsyncSession

from backend.brokers.credential_fields import CREDENTIAL_FIELDS
from backend.domain.calendar import IST
from backend.errors import ConflictError, InvalidRequestError, NotFoundError
from backend.models import ComplianceKind, ComplianceRecord, User
from backend.services.audit_service import Actor, record

_LOCK = text("SELECT pg_advisory_xact_lock(:name)").bindparams(name=0x5AD1)
"""Two records at once must see each other's address."""


@dataclass(frozen=True, slots=True)
class Approval:
    """What an administrator states of a user: the fields of ComplianceRecord."""

    user_id: int
    kind: ComplianceKind
    broker: str
    algo_id: str
    egress_ip: str
    approval: str
    approved_on: date
    valid_from: date
    valid_until: date


def egress_address(given: str) -> str:
    """The address as it is compared, if a broker could see and whitelist it.

    Raises:
        InvalidRequestError: it is no address, or none of the public internet.
    """
    try:
        address = ipaddress.ip_address(given.strip())
    except ValueError:
        raise InvalidRequestError("egress_ip is no IPv4 or IPv6 address.", code="egress_ip_invalid") from None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if not address.is_global or address.is_multicast:
        raise InvalidRequestError(
            f"{address} is not an address of the public internet: give the static one that the broker has whitelisted.",
            code="egress_ip_invalid",
        )
    return address.compressed


def require_possible(approval: Approval, today: date) -> None:
    """Let only what can be meant be recorded.

    Raises:
        InvalidRequestError: the broker is no real one here, or the days contradict each other.
    """
    real = [broker for broker, fields in CREDENTIAL_FIELDS.items() if fields]
    if approval.broker not in real:
        raise InvalidRequestError(f"The broker is one of: {', '.join(real)}.", code="broker_not_supported")
    if approval.approved_on > today:
        raise InvalidRequestError("approved_on lies in the future.", code="invalid_days")
    if approval.valid_until < max(approval.valid_from, today):
        raise InvalidRequestError("valid_until lies before valid_from, or is past.", code="invalid_days")


async def record_compliance(session: AsyncSession, actor: Actor, approval: Approval, now: datetime) -> ComplianceRecord:
    """Record why a user may trade live; one that has ended makes way. `session` works as the operator; joins it.

    Raises:
        InvalidRequestError: it cannot be meant.
        NotFoundError: there is no such user.
        ConflictError: a record of the user's stands, or the address stands for another user: brokers suspend whoever
            shares one with unrelated clients.
    """
    today = now.astimezone(IST).date()
    require_possible(approval, today)
    address = egress_address(approval.egress_ip)
    user = await session.get(User, approval.user_id)
    if user is None or user.erased_at is not None:
        raise NotFoundError(f"There is no user {approval.user_id}.")
    await session.execute(_LOCK)
    standing = await _unrevoked(session, approval.user_id)
    if standing is not None and standing.valid_until >= today:
        raise ConflictError(
            f"Record {standing.id} stands for this user until {standing.valid_until}: revoke it first.",
            code="compliance_stands",
        )
    await _require_unshared(session, approval, address, today)
    if standing is not None:
        standing.revoked_at, standing.revoked_by, standing.revoke_reason = now, actor.id, "it had ended"
        await session.flush()
    values: dict[str, Any] = asdict(approval) | {"egress_ip": address}
    made = ComplianceRecord(**values, recorded_by=actor.id)
    session.add(made)
    await session.flush()
    await session.refresh(made)
    target = f"compliance_record:{made.id}"
    await record(session, actor, "compliance.record", subject_id=made.user_id, target=target, after=_stored(made))
    return made


async def _unrevoked(session: AsyncSession, user_id: int) -> ComplianceRecord | None:
    return await session.scalar(
        select(ComplianceRecord).where(ComplianceRecord.user_id == user_id, ComplianceRecord.revoked_at.is_(None))
    )


async def _require_unshared(session: AsyncSession, approval: Approval, address: str, today: date) -> None:
    """An address of one's own is one's own; customers of one empanelled provider may come from its address."""
    family = ComplianceKind.SELF_HOSTED_FAMILY
    concerned = true() if approval.kind is family else ComplianceRecord.kind == family
    other = await session.scalar(
        select(ComplianceRecord.id)
        .where(
            ComplianceRecord.user_id != approval.user_id,
            ComplianceRecord.egress_ip == address,
            ComplianceRecord.revoked_at.is_(None),
            ComplianceRecord.valid_until >= today,
            concerned,
        )
        .limit(1)
    )
    if other is not None:
        raise ConflictError(
            f"The address {address} stands for another user (record {other}): each needs one of their own.",
            code="egress_ip_shared",
        )


async def revoke(session: AsyncSession, actor: Actor, record_id: int, reason: str, now: datetime) -> ComplianceRecord:
    """Revoke a record: no further real order goes out under it. Joins the transaction, which works as the operator.

    Raises:
        NotFoundError: there is none of that id.
        ConflictError: it is revoked already.
    """
    found = await session.scalar(select(ComplianceRecord).where(ComplianceRecord.id == record_id).with_for_update())
    if found is None:
        raise NotFoundError(f"There is no compliance record {record_id}.")
    if found.revoked_at is not None:
        raise ConflictError(f"The record {record_id} is revoked already.", code="already_revoked")
    found.revoked_at, found.revoked_by, found.revoke_reason = now, actor.id, reason
    await session.flush()
    target = f"compliance_record:{found.id}"
    await record(session, actor, "compliance.revoke", subject_id=found.user_id, target=target, reason=reason)
    return found


async def list_records(
    session: AsyncSession, user_id: int | None, standing_on: date | None, before_id: int | None, limit: int
) -> list[ComplianceRecord]:
    """Records, newest first; of one user, and those alone that count on a day, where these are given."""
    query = select(ComplianceRecord).order_by(ComplianceRecord.id.desc()).limit(limit)
    if user_id is not None:
        query = query.where(ComplianceRecord.user_id == user_id)
    if standing_on is not None:
        query = query.where(*counting(standing_on))
    if before_id is not None:
        query = query.where(ComplianceRecord.id < before_id)
    return list((await session.scalars(query)).all())


def counting(day: date) -> tuple[Any, ...]:
    """What makes a record count on a day (India)."""
    return (
        ComplianceRecord.revoked_at.is_(None),
        ComplianceRecord.valid_from <= day,
        ComplianceRecord.valid_until >= day,
    )


async def record_of(
    session: AsyncSession, user_id: int, day: date, broker: str | None = None, *, lapsed: bool = False
) -> ComplianceRecord | None:
    """The record that lets the user's orders go to `broker` (any, where None) on a day; None: they may not.

    With `lapsed` also one whose days are over; one that was revoked never counts.
    """
    counts = (ComplianceRecord.revoked_at.is_(None),) if lapsed else counting(day)
    query = select(ComplianceRecord).where(ComplianceRecord.user_id == user_id, *counts)
    if broker is not None:
        query = query.where(ComplianceRecord.broker == broker)
    return await session.scalar(query)


def _stored(made: ComplianceRecord) -> dict[str, Any]:
    return {
        "kind": made.kind.value,
        "broker": made.broker,
        "algo_id": made.algo_id,
        "egress_ip": made.egress_ip,
        "approval": made.approval,
        "approved_on": made.approved_on.isoformat(),
        "valid_from": made.valid_from.isoformat(),
        "valid_until": made.valid_until.isoformat(),
    }
