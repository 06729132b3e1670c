"""Changing a password, and getting a new one by mail."""

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from backend.db import IDENTITY_ROLE, Sessions, acting_as
from backend.errors import ConflictError, InvalidRequestError
from backend.models import Credential, EmailPurpose, RecoveryCode, User
from backend.security import Security
from backend.services import audit_service, login_delay, mail_service
from backend.services.api_key_service import revoke_all
from backend.services.audit_service import Actor
from backend.services.email_tokens import end_tokens, use_token
from backend.services.login_service import Secret, delay_name, prove, require_strong
from backend.services.mail_texts import MailKind
from backend.services.session_service import Device, end_sessions
from backend.vault import Vault


async def change_password(
    sessions: Sessions,
    security: Security,
    vault: Vault | None,
    user: User,
    session_id: int,
    device: Device,
    present: str,
    new: str,
) -> int:
    """Change the password of a user who gives the present one; all other sessions end. How many those were.

    Raises:
        NotAuthenticatedError, TooManyRequestsError: the present password is wrong, as `login_service.prove`.
        InvalidRequestError: the new one is weak, or is the present one.
        ConflictError: it was changed at the same time.
    """
    with acting_as(IDENTITY_ROLE):
        async with sessions() as session:
            credential = (await session.scalars(select(Credential).where(Credential.user_id == user.id))).one()
    await prove(sessions, security, vault, user, device, Secret(password=present))
    require_strong(new, user.email, second_factor=credential.totp_confirmed_at is not None)
    if new == present:
        raise InvalidRequestError("The new password is the present one: choose another.", code="password_unchanged")
    password_hash = await security.hash_password(new)
    with acting_as(IDENTITY_ROLE):
        async with sessions.begin() as session:
            changed = await session.scalar(
                update(Credential)
                .where(Credential.user_id == user.id, Credential.password_hash == credential.password_hash)
                .values(password_hash=password_hash, password_changed_at=security.now())
                .returning(Credential.user_id)
            )
            if changed is None:
                raise ConflictError("The password was changed at the same time: log in again.", code="password_raced")
            actor = Actor(f"user:{user.id}", user.id, device.ip)
            return await _changed(session, security, user, actor, but=session_id, ended_too="logins")


async def _changed(
    session: AsyncSession,
    security: Security,
    user: User,
    actor: Actor,
    *,
    but: int | None,
    ended_too: str,
    keys_revoked: int = 0,
) -> int:
    """What follows from a new password: other sessions and links end, a mail tells, the deed is recorded."""
    ended = await end_sessions(session, user.id, security.now(), reason="password_changed", but=but)
    await end_tokens(session, user.id, {EmailPurpose.RESET, EmailPurpose.CHANGE})
    await mail_service.post(session, MailKind.PASSWORD_CHANGED, user.email, user_id=user.id, ended=ended_too)
    reason = "changed by the user" if but is not None else "reset by a link in a mail"
    after = {"sessions_ended": ended, "keys_revoked": keys_revoked}
    await audit_service.record(session, actor, "password.change", subject_id=user.id, after=after, reason=reason)
    return ended


async def _forget_second_factor(session: AsyncSession, credential: Credential) -> None:
    credential.totp_secret = credential.totp_confirmed_at = None
    await session.execute(delete(RecoveryCode).where(RecoveryCode.user_id == credential.user_id))


async def ask_reset(sessions: Sessions, email: str) -> None:
    """Have a link mailed that sets a new password. Whether there is such a user is found out after the answer."""
    with acting_as(IDENTITY_ROLE):
        async with sessions.begin() as session:
            await mail_service.post(session, MailKind.RESET, email)


async def reset(sessions: Sessions, security: Security, token: str, new: str, ip: str) -> None:
    """Set a new password by the token of a mail; all sessions and API keys end, and the address counts as verified.

    A second factor stays, but one set up while the address was unproven: another may have set it up.

    Raises:
        InvalidRequestError: the token is no good (any more), or the password is weak: the token is not used up then.
    """
    now = security.now()
    password_hash = await security.hash_password(new)
    with acting_as(IDENTITY_ROLE):
        async with sessions.begin() as session:
            used = await use_token(session, token, {EmailPurpose.RESET}, now)
            row = (
                await session.execute(
                    select(User, Credential)
                    .join(Credential, Credential.user_id == User.id)
                    .where(User.id == used.user_id, User.active, func.lower(User.email) == used.email.lower())
                    .with_for_update()
                )
            ).one_or_none()
            if row is None:
                raise InvalidRequestError("This link has expired: ask for another mail.", code="link_invalid")
            user, credential = row
            if user.email_verified_at is None:
                await _forget_second_factor(session, credential)
            require_strong(new, user.email, second_factor=credential.totp_confirmed_at is not None)
            credential.password_hash, credential.password_changed_at = password_hash, now
            if user.email_verified_at is None:
                user.email_verified_at = now
            keys_revoked = await revoke_all(session, user.id, now)
            for place in ("", ip):
                await login_delay.forgive(session, delay_name(security, user.email, place))
            await _changed(
                session,
                security,
                user,
                Actor(f"user:{user.id}", user.id, ip),
                but=None,
                ended_too="logins and all API keys",
                keys_revoked=keys_revoked,
            )
