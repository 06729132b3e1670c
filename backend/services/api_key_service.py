"""API keys for programs: `sauda_<prefix>_<secret>`, shown once and kept as SHA-256."""

import ipaddress
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from backend.db import IDENTITY_ROLE, Sessions, acting_as
from backend.errors import ConflictError, InvalidRequestError, NotAllowedError, NotAuthenticatedError, NotFoundError
from backend.models import ApiKey, Feature, Role, User
from backend.security import digest, new_secret
from backend.services import mail_service
from backend.services.account_service import lock_user
from backend.services.audit_service import Actor, record
from backend.services.mail_texts import MailKind
from backend.services.plan_service import require_feature

PREFIX = "sauda_"
KEYS_MAX = 20
"""Keys of one user that may be used."""
DAYS_MAX = 365
NETWORKS_MAX = 20
USE_NOTED_EVERY_S = 60
ADMIN_SCOPE = "admin"


@dataclass(frozen=True, slots=True)
class KeyWish:
    """What a key is to be for: `scopes` out of read, trade and admin; `networks` as CIDR, any address where empty."""

    name: str
    scopes: frozenset[str]
    paper_only: bool
    networks: tuple[str, ...]
    days: int


def is_key(token: str) -> bool:
    """Whether a bearer token is an API key: access tokens begin otherwise."""
    return token.startswith(PREFIX)


async def create_key(
    session: AsyncSession, actor: Actor, user: User, wish: KeyWish, now: datetime
) -> tuple[ApiKey, str]:
    """A new key and its text, which is kept nowhere; a mail tells of it. Joins the transaction.

    Raises:
        NotAllowedError: the plan has no API keys, or the scope is for administrators.
        ConflictError: the user has KEYS_MAX already.
        InvalidRequestError: a network is none.
    """
    await lock_user(session, user.id)
    await require_feature(session, user.id, Feature.API_KEYS)
    if ADMIN_SCOPE in wish.scopes and user.role is not Role.ADMIN:
        raise NotAllowedError("Only administrators' keys have the scope admin.", code="admin_required")
    networks = networks_of(wish.networks)
    if len(await keys_of(session, user.id, now)) >= KEYS_MAX:
        raise ConflictError(
            f"You have {KEYS_MAX} API keys, the most there may be: revoke one that is not used.", code="too_many_keys"
        )
    prefix = PREFIX + secrets.token_hex(4)
    text = f"{prefix}_{new_secret()}"
    key = ApiKey(
        user_id=user.id,
        name=wish.name,
        prefix=prefix,
        key_hash=digest(text),
        scopes=sorted(wish.scopes),
        paper_only=wish.paper_only,
        networks=networks,
        expires_at=now + timedelta(days=wish.days),
        created_at=now,
    )
    session.add(key)
    await session.flush()
    await mail_service.post(session, MailKind.KEY_MADE, user.email, user_id=user.id, prefix=prefix)
    after = {"prefix": prefix, "scopes": key.scopes, "paper_only": key.paper_only, "networks": networks}
    await record(session, actor, "api_key.create", subject_id=user.id, target=f"key:{key.id}", after=after)
    return key, text


def networks_of(given: Collection[str]) -> list[str]:
    """Networks as they are kept: each once, in canonical form; a single address is one of itself.

    Raises:
        InvalidRequestError: one is none; the detail says which.
    """
    found: dict[str, None] = {}
    for text in given:
        try:
            found[str(ipaddress.ip_network(text))] = None
        except ValueError as error:
            raise InvalidRequestError(
                f"{text!r} is no network in CIDR form, such as 203.0.113.0/24: {error}.", code="network_invalid"
            ) from None
    return list(found)


def is_within(ip: str, networks: Collection[str]) -> bool:
    """Whether an address may use a key with these networks; an IPv4 address in IPv6 form is the IPv4 one."""
    if not networks:
        return True
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in ipaddress.ip_network(network) for network in networks)


async def keys_of(session: AsyncSession, user_id: int, now: datetime) -> list[ApiKey]:
    """The user's keys that can be used, the newest first."""
    query = select(ApiKey).where(ApiKey.user_id == user_id, *usable(now)).order_by(ApiKey.id.desc())
    return list((await session.scalars(query)).all())


async def revoke_key(session: AsyncSession, actor: Actor, user_id: int, key_id: int, now: datetime) -> None:
    """End a key: it is refused from the commit on. Joins the transaction.

    Raises:
        NotFoundError: the user has no such key that can be used.
    """
    revoked = await session.scalar(
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.user_id == user_id, *usable(now))
        .values(revoked_at=now)
        .returning(ApiKey.id)
        .execution_options(synchronize_session=False)
    )
    if revoked is None:
        raise NotFoundError(f"You have no API key {key_id} that can be used.")
    await record(session, actor, "api_key.revoke", subject_id=user_id, target=f"key:{key_id}")


async def authenticate(
    sessions: Sessions, text: str, ip: str, now: datetime, *, whatever_the_plan: bool = False
) -> tuple[User, ApiKey]:
    """Whose key this is, and the key; that it was used is noted once a minute at most.

    `whatever_the_plan` is for what stops trading, which no plan's end may keep from anybody.

    Raises:
        NotAuthenticatedError: there is no such key, it was revoked or has expired, or its user is switched off.
        NotAllowedError: it may not be used from this address, or the user's plan has no API keys any more.
    """
    with acting_as(IDENTITY_ROLE):
        async with sessions() as session:
            query = select(User, ApiKey).join(ApiKey, ApiKey.user_id == User.id).where(ApiKey.key_hash == digest(text))
            row = (await session.execute(query)).one_or_none()
            if row is None:
                raise NotAuthenticatedError("There is no such API key.", code="key_invalid")
            user, key = row
            _require_usable(user, key, ip, now)
            if not whatever_the_plan:
                await require_feature(session, user.id, Feature.API_KEYS)
        if key.last_used_at is None or now - key.last_used_at >= timedelta(seconds=USE_NOTED_EVERY_S):
            async with sessions.begin() as session:
                await _note_use(session, key.id, ip, now)
    return user, key


def _require_usable(user: User, key: ApiKey, ip: str, now: datetime) -> None:
    if not user.active:
        raise NotAuthenticatedError("The user of this API key is not active.", code="user_inactive")
    if key.revoked_at is not None:
        raise NotAuthenticatedError("This API key was revoked: make another one.", code="key_revoked")
    if key.expires_at is not None and key.expires_at <= now:
        raise NotAuthenticatedError("This API key has expired: make another one.", code="key_expired")
    if not is_within(ip, key.networks):
        raise NotAllowedError(
            f"This API key may not be used from {ip}: make one whose networks have it.", code="key_address_refused"
        )


async def _note_use(session: AsyncSession, key_id: int, ip: str, now: datetime) -> None:
    """Of many requests at once, one writes."""
    old = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at <= now - timedelta(seconds=USE_NOTED_EVERY_S))
    await session.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id, old)
        .values(last_used_at=now, last_used_ip=ip)
        .execution_options(synchronize_session=False)
    )


async def revoke_all(session: AsyncSession, user_id: int, now: datetime) -> int:
    """End all keys of a user, who may not have made them; how many those were. Joins the transaction."""
    revoked = await session.scalars(
        update(ApiKey)
        .where(ApiKey.user_id == user_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=now)
        .returning(ApiKey.id)
        .execution_options(synchronize_session=False)
    )
    return len(revoked.all())


def usable(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """What a key must be to work: neither revoked nor expired."""
    return ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now)
