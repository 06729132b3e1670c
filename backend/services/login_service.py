"""Registering and logging in, and proving again who one is. Nobody learns here which addresses have an account.

Every attempt costs one password hash and the same transactions, whether there is such a user or not.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import exists, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from backend.db import IDENTITY_ROLE, Sessions, acting_as
from backend.errors import InvalidRequestError, NotAuthenticatedError
from backend.models import Credential, LoginDelay, LoginSession, User
from backend.security import Security
from backend.services import audit_service, login_delay, mail_service, second_factor_service
from backend.services.audit_service import Actor
from backend.services.mail_texts import MailKind
from backend.services.password_rules import weakness
from backend.services.session_service import Device, LoginRules, Tokens, begin_session
from backend.vault import Vault

KNOWN_PLACE_DAYS = 90


@dataclass(frozen=True, slots=True)
class _Somebody:
    """Who a login may be: without `user_id` nobody.

    `name` is what attempts are counted under, `code_name` what those at the second factor are: a right password takes
    nothing back of them.
    """

    name: bytes
    code_name: bytes
    user_id: int | None = None
    password_hash: str | None = None
    second_factor: bool = False


def require_strong(password: str, email: str, *, second_factor: bool = False) -> None:
    """Refuse a password that is too short or tried first.

    Raises:
        InvalidRequestError: it says which, and what to do.
    """
    reason = weakness(password, email, second_factor=second_factor)
    if reason is not None:
        raise InvalidRequestError(reason, code="password_weak")


async def register(sessions: Sessions, security: Security, email: str, password: str, name: str, ip: str) -> None:
    """Create a user, and mail a link that verifies the address. The holder of an address that is taken gets a mail.

    Raises:
        InvalidRequestError: the password is weak.
    """
    require_strong(password, email)
    password_hash = await security.hash_password(password)
    with acting_as(IDENTITY_ROLE):
        async with sessions.begin() as session:
            user_id = await session.scalar(
                insert(User).values(email=email, name=name).on_conflict_do_nothing().returning(User.id)
            )
            if user_id is None:
                holder_id = await session.scalar(select(User.id).where(func.lower(User.email) == email.lower()))
                await mail_service.post(session, MailKind.ADDRESS_TAKEN, email, user_id=holder_id)
                return
            session.add(Credential(user_id=user_id, password_hash=password_hash, password_changed_at=security.now()))
            await mail_service.post(session, MailKind.VERIFY, email, user_id=user_id)
            await session.flush()
            actor = Actor(f"user:{user_id}", user_id, ip)
            await audit_service.record(session, actor, "user.register", subject_id=user_id)


async def log_in(
    sessions: Sessions,
    security: Security,
    rules: LoginRules,
    vault: Vault | None,
    email: str,
    password: str,
    code: str | None,
    device: Device,
) -> Tokens:
    """Tokens of a new session.

    Raises:
        NotAuthenticatedError: unknown address, wrong password or a user who is switched off, it does not say which;
            or the second factor is missing or wrong.
        TooManyRequestsError: too many attempts for this address.
    """
    now = security.now()
    with acting_as(IDENTITY_ROLE):
        async with sessions.begin() as session:
            somebody = await _find(session, security, email, device, now)
            await login_delay.count_attempt(session, somebody.name, now)
        fits = await security.verify_password(somebody.password_hash, password)
        if somebody.user_id is None or not fits:
            await _failed(sessions, somebody, device, "the password was wrong")
            raise NotAuthenticatedError("The e-mail address or the password is wrong.", code="credentials_invalid")
        if somebody.second_factor:
            await _second_factor(sessions, vault, somebody, code, device, now)
        async with sessions.begin() as session:
            await _require_unchanged(session, somebody)
            await _forgive(session, somebody, code=somebody.second_factor)
            tokens = await begin_session(
                session, security, rules, somebody.user_id, device, second_factor=somebody.second_factor
            )
            await audit_service.record(
                session,
                Actor(f"user:{somebody.user_id}", somebody.user_id, device.ip),
                "session.begin",
                subject_id=somebody.user_id,
                target=f"session:{tokens.session_id}",
                after={"second_factor": somebody.second_factor},
            )
    return tokens


async def _find(session: AsyncSession, security: Security, email: str, device: Device, now: datetime) -> _Somebody:
    known_place = exists().where(
        LoginSession.user_id == User.id,
        LoginSession.ip == device.ip,
        LoginSession.created_at > now - timedelta(days=KNOWN_PLACE_DAYS),
    )
    row = (
        await session.execute(
            select(User.id, Credential.password_hash, Credential.totp_confirmed_at.is_not(None), known_place)
            .join(Credential, Credential.user_id == User.id)
            .where(func.lower(User.email) == email.lower(), User.active)
        )
    ).one_or_none()
    if row is None:
        return _Somebody(delay_name(security, email), code_delay_name(security, email))
    user_id, password_hash, second_factor, at_home = row
    place = device.ip if at_home else ""
    names = delay_name(security, email, place), code_delay_name(security, email, place)
    return _Somebody(*names, user_id, password_hash, second_factor)


def delay_name(security: Security, email: str, place: str = "") -> bytes:
    """The name under which attempts for an address are counted; a place where its user has been has its own."""
    return security.keyed_hash("login", f"{email.lower()}\0{place}")


def code_delay_name(security: Security, email: str, place: str = "") -> bytes:
    """As `delay_name`, for codes of a second factor."""
    return security.keyed_hash("second_factor", f"{email.lower()}\0{place}")


async def _forgive(session: AsyncSession, somebody: _Somebody, *, code: bool) -> None:
    """Take back what was counted: a right code takes the codes back too, and nothing else does."""
    await login_delay.forgive(session, somebody.name)
    if code:
        await login_delay.forgive(session, somebody.code_name)


async def _failed(sessions: Sessions, somebody: _Somebody, device: Device, why: str) -> None:
    """Write a failed attempt down. One for nobody costs a transaction that writes, too."""
    async with sessions.begin() as session:
        counted = update(LoginDelay).where(LoginDelay.name == somebody.name).values(failures=LoginDelay.failures)
        await session.execute(counted)
        if somebody.user_id is not None:
            await audit_service.record(
                session, Actor("system", ip=device.ip), "session.fail", subject_id=somebody.user_id, reason=why
            )


async def _second_factor(
    sessions: Sessions, vault: Vault | None, somebody: _Somebody, code: str | None, device: Device, now: datetime
) -> None:
    if code is None:
        raise NotAuthenticatedError(
            "Send the code of your second factor, or a recovery code, as `code` besides e-mail address and password.",
            code="second_factor_required",
        )
    async with sessions.begin() as session:
        await login_delay.count_attempt(session, somebody.code_name, now)
    async with sessions.begin() as session:
        fits = await second_factor_service.verify(session, vault, somebody.user_id or 0, code, now)
    if not fits:
        await _failed(sessions, somebody, device, "the second factor was wrong")
        raise NotAuthenticatedError(
            "The code is wrong, or has been used: wait for the next one.", code="second_factor_invalid"
        )


async def _require_unchanged(session: AsyncSession, somebody: _Somebody) -> None:
    """The password was checked outside a transaction: it must be the one that counts when the session begins."""
    same = await session.scalar(
        select(User.id)
        .join(Credential, Credential.user_id == User.id)
        .where(User.id == somebody.user_id, User.active, Credential.password_hash == somebody.password_hash)
        .with_for_update(read=True, of=Credential)
    )
    if same is None:
        raise NotAuthenticatedError("The e-mail address or the password is wrong.", code="credentials_invalid")


async def prove(
    sessions: Sessions, security: Security, vault: Vault | None, user: User, device: Device, secret: "Secret"
) -> None:
    """Check the password or the second factor of a user who is logged in; attempts are counted as logins are.

    Raises:
        NotAuthenticatedError: it is wrong.
        TooManyRequestsError: too many attempts.
    """
    now = security.now()
    with acting_as(IDENTITY_ROLE):
        async with sessions.begin() as session:
            somebody = await _find(session, security, user.email, device, now)
            counted = somebody.name if secret.code is None else somebody.code_name
            await login_delay.count_attempt(session, counted, now)
        if secret.code is None:
            fits = await security.verify_password(somebody.password_hash, secret.password or "")
        else:
            async with sessions.begin() as session:
                fits = await second_factor_service.verify(session, vault, user.id, secret.code, now)
        if not fits:
            what = "password" if secret.code is None else "code"
            await _failed(sessions, somebody, device, f"the {what} was wrong")
            raise NotAuthenticatedError(f"The {what} is wrong.", code="credentials_invalid")
        async with sessions.begin() as session:
            await login_delay.forgive(session, counted)


@dataclass(frozen=True, slots=True)
class Secret:
    """What somebody proves who they are with: a password, or the code of a second factor."""

    password: str | None = None
    code: str | None = None


async def step_up(
    sessions: Sessions,
    security: Security,
    vault: Vault | None,
    user: User,
    session_id: int,
    device: Device,
    secret: Secret,
) -> datetime:
    """Note in the session that the user has just proved who they are; when that was.

    Raises:
        NotAuthenticatedError, TooManyRequestsError: as `prove`.
    """
    await prove(sessions, security, vault, user, device, secret)
    now = security.now()
    proved = {"proved_at": now} | ({"second_factor_at": now} if secret.code is not None else {})
    with acting_as(IDENTITY_ROLE):
        async with sessions.begin() as session:
            await session.execute(update(LoginSession).where(LoginSession.id == session_id).values(proved))
            await audit_service.record(
                session,
                Actor(f"user:{user.id}", user.id, device.ip),
                "session.step_up",
                subject_id=user.id,
                target=f"session:{session_id}",
                after={"second_factor": secret.code is not None},
            )
    return now
