"""Login sessions: a short access token, and a refresh token that is good once and is replaced at each use.

A refresh token that is used again was copied, unless two tabs just raced with it: the session ends.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import ColumnElement, Update, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from backend.db import IDENTITY_ROLE, Sessions, acting_as
from backend.errors import ConflictError, NotAuthenticatedError, NotFoundError
from backend.models import LoginSession, RefreshToken, User
from backend.security import Security, digest, new_secret
from backend.services import audit_service, mail_service
from backend.services.audit_service import SYSTEM, Actor
from backend.services.mail_texts import MailKind

LEEWAY_S = 10
"""A token used again this soon after its replacement lost a race between a client's requests, and is only refused."""
SESSIONS_PER_USER_MAX = 50
DEVICE_LENGTH_MAX = 200

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LoginRules:
    """Days until a session ends: by itself, and without use. `public_url` is where users reach the frontend."""

    session_days: int = 30
    session_idle_days: int = 7
    public_url: str = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class Device:
    """From where somebody logs in: address, and what the program says it is."""

    ip: str
    agent: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a login or a refresh gives: for the session, until `expires_at` at the latest."""

    access: str
    refresh: str
    session_id: int
    expires_at: datetime


async def begin_session(
    session: AsyncSession,
    security: Security,
    rules: LoginRules,
    user_id: int,
    device: Device,
    *,
    second_factor: bool = False,
) -> Tokens:
    """Start a session for a user who has just proved who they are; beyond the maximum the longest unused one ends.

    Joins the transaction.
    """
    now = security.now()
    login = LoginSession(
        user_id=user_id,
        device=device_name(device.agent),
        ip=device.ip,
        created_at=now,
        proved_at=now,
        second_factor_at=now if second_factor else None,
        last_used_at=now,
        expires_at=now + timedelta(days=rules.session_days),
    )
    session.add(login)
    await session.flush()
    surplus = select(LoginSession.id).where(*_open(user_id, now)).order_by(LoginSession.last_used_at.desc())
    await session.execute(_ended("too_many", now).where(LoginSession.id.in_(surplus.offset(SESSIONS_PER_USER_MAX))))
    return await _issue(session, security, login, now)


async def refresh(sessions: Sessions, security: Security, rules: LoginRules, token: str, device: Device) -> Tokens:
    """New tokens for a refresh token. Of any number who bring the same one, one gets them.

    Raises:
        NotAuthenticatedError: unknown, its session has ended, or it was used before: then the session ends now.
        ConflictError: another request has used it seconds ago.
    """
    now = security.now()
    with acting_as(IDENTITY_ROLE):
        async with sessions.begin() as session:
            session_id = await session.scalar(
                update(RefreshToken)
                .where(RefreshToken.token_hash == digest(token), RefreshToken.used_at.is_(None))
                .values(used_at=now)
                .returning(RefreshToken.session_id)
                .execution_options(synchronize_session=False)
            )
            if session_id is not None:
                login = await _usable(session, session_id, rules, now)
                login.last_used_at, login.ip, login.device = now, device.ip, device_name(device.agent)
                return await _issue(session, security, login, now)
        async with sessions.begin() as session:
            await _refuse_used(session, token, device, now)
    raise NotAuthenticatedError(
        "This refresh token was used before, so it may have been copied: its login has ended. Log in again.",
        code="refresh_token_reused",
    )


async def _usable(session: AsyncSession, session_id: int, rules: LoginRules, now: datetime) -> LoginSession:
    login = await session.scalar(
        select(LoginSession)
        .join(User, User.id == LoginSession.user_id)
        .where(LoginSession.id == session_id, User.active)
        .with_for_update(of=LoginSession)
    )
    if (
        login is None
        or login.revoked_at is not None
        or min(login.expires_at, login.last_used_at + timedelta(days=rules.session_idle_days)) <= now
    ):
        raise NotAuthenticatedError("This login has ended: log in again.", code="session_ended")
    return login


async def _refuse_used(session: AsyncSession, token: str, device: Device, now: datetime) -> None:
    """End the session of a token that is used again, and tell its user.

    Raises:
        NotAuthenticatedError: there is no such token.
        ConflictError: it was used moments ago.
    """
    row = await session.scalar(select(RefreshToken).where(RefreshToken.token_hash == digest(token)))
    if row is None or row.used_at is None:
        raise NotAuthenticatedError("This refresh token is not valid: log in again.", code="refresh_token_invalid")
    if now - row.used_at <= timedelta(seconds=LEEWAY_S):
        raise ConflictError(
            "Another request has just used this refresh token: go on with the tokens it got.",
            code="refresh_token_raced",
        )
    ended = await session.scalar(
        _ended("refresh_token_reused", now)
        .where(LoginSession.id == row.session_id)
        .returning(LoginSession.device)
        .execution_options(synchronize_session=False)
    )
    if ended is None:  # ended before
        return
    log.warning("refresh_token_reused", user_id=row.user_id, session_id=row.session_id)
    email = await session.scalar(select(User.email).where(User.id == row.user_id))
    await mail_service.post(
        session, MailKind.SESSION_STOLEN, email or "", user_id=row.user_id, device=ended or "an unnamed program"
    )
    await audit_service.record(
        session,
        Actor(SYSTEM.name, ip=device.ip),
        "session.revoke",
        subject_id=row.user_id,
        target=f"session:{row.session_id}",
        reason="a refresh token was used a second time",
    )


async def _issue(session: AsyncSession, security: Security, login: LoginSession, now: datetime) -> Tokens:
    token = new_secret()
    session.add(RefreshToken(token_hash=digest(token), session_id=login.id, user_id=login.user_id, issued_at=now))
    await session.flush()
    return Tokens(security.issue(login.user_id, login.id), token, login.id, login.expires_at)


async def sessions_of(session: AsyncSession, user_id: int, rules: LoginRules, now: datetime) -> list[LoginSession]:
    """The user's sessions that can still be used, the one used last first."""
    rows = await session.scalars(
        select(LoginSession)
        .where(*_open(user_id, now), LoginSession.last_used_at > now - timedelta(days=rules.session_idle_days))
        .order_by(LoginSession.last_used_at.desc(), LoginSession.id.desc())
    )
    return list(rows.all())


async def end_session(
    session: AsyncSession, actor: Actor, user_id: int, session_id: int, now: datetime, *, reason: str = "ended"
) -> None:
    """End one session of the user's: its tokens are refused from the commit on. Joins the transaction.

    Raises:
        NotFoundError: the user has no such session that is still open.
    """
    ended = await session.scalar(
        _ended(reason, now)
        .where(LoginSession.id == session_id, *_open(user_id, now))
        .returning(LoginSession.id)
        .execution_options(synchronize_session=False)
    )
    if ended is None:
        raise NotFoundError(f"You have no login {session_id} that is still open.")
    await audit_service.record(
        session, actor, "session.end", subject_id=user_id, target=f"session:{session_id}", reason=reason
    )


async def end_sessions(
    session: AsyncSession, user_id: int, now: datetime, *, reason: str, but: int | None = None
) -> int:
    """End all the user's sessions, but perhaps one; how many. Joins the transaction and records nothing."""
    statement = _ended(reason, now).where(*_open(user_id, now), LoginSession.id != (but or 0))
    ended = await session.scalars(statement.returning(LoginSession.id).execution_options(synchronize_session=False))
    return len(ended.all())


async def log_out(sessions: Sessions, security: Security, token: str, ip: str) -> None:
    """End the session of a refresh token, used or not; an unknown one changes nothing."""
    now = security.now()
    with acting_as(IDENTITY_ROLE):
        async with sessions.begin() as session:
            row = await session.scalar(select(RefreshToken).where(RefreshToken.token_hash == digest(token)))
            if row is None:
                return
            actor = Actor(f"user:{row.user_id}", row.user_id, ip)
            try:
                await end_session(session, actor, row.user_id, row.session_id, now, reason="logged_out")
            except NotFoundError:
                return


def device_name(agent: str) -> str:
    """A User-Agent as it can be shown: printable, and not too long."""
    return "".join(character for character in agent if character.isprintable())[:DEVICE_LENGTH_MAX]


def _open(user_id: int, now: datetime) -> tuple[ColumnElement[bool], ...]:
    return (LoginSession.user_id == user_id, LoginSession.revoked_at.is_(None), LoginSession.expires_at > now)


def _ended(reason: str, now: datetime) -> Update:
    return update(LoginSession).where(LoginSession.revoked_at.is_(None)).values(revoked_at=now, revoked_reason=reason)
