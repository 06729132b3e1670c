"""Setting up a second factor, taking it away, and new recovery codes; what it is good for: second_factor_service."""

import base64
import secrets
from dataclasses import dataclass
from datetime import datetime

from pyotp import random_base32
from pyotp.totp import TOTP
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from backend.errors import ConflictError, InvalidRequestError
from backend.models import Credential, LoginSession, RecoveryCode, User
from backend.services import live_service, mail_service
from backend.services.audit_service import Actor, record
from backend.services.mail_texts import MailKind
from backend.services.second_factor_service import NoKeysError, context_of, opened, plain_code, recovery_hash, step_of
from backend.services.session_service import end_sessions
from backend.vault import Vault

ISSUER = "Sauda"
SECRET_LENGTH = 32
"""Characters of base32: 160 bits, the length of SHA-1's output (RFC 4226, 4, R6)."""
RECOVERY_CODES = 10
RECOVERY_BYTES = 15
"""120 random bits, 24 characters: long enough to be kept as a plain SHA-256."""


@dataclass(frozen=True, slots=True)
class SecondFactorState:
    """Since when the second factor counts (None: it does not), and how many recovery codes are left."""

    confirmed_at: datetime | None
    recovery_codes_left: int


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What an authenticator is told, once: the secret (base32), and the same as an otpauth URI for a QR code."""

    secret: str
    uri: str


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The recovery codes, shown once, and how many other logins ended."""

    recovery_codes: list[str]
    sessions_ended: int


async def state_of(session: AsyncSession, user_id: int) -> SecondFactorState:
    """How the user's second factor stands."""
    confirmed_at = await session.scalar(select(Credential.totp_confirmed_at).where(Credential.user_id == user_id))
    unused = select(func.count()).where(RecoveryCode.user_id == user_id, RecoveryCode.used_at.is_(None))
    return SecondFactorState(confirmed_at, (await session.scalar(unused) or 0) if confirmed_at else 0)


async def begin(session: AsyncSession, vault: Vault | None, actor: Actor, user: User) -> Enrolment:
    """Make a secret; it counts from `confirm` on, and takes the place of one that was not confirmed. Joins.

    Raises:
        ConflictError: the user has a second factor.
        NoKeysError: the deployment has no master key.
    """
    if vault is None:
        raise NoKeysError("Second factors cannot be kept: the operator must set MASTER_KEY_FILE.")
    credential = await _locked(session, user.id)
    if credential.totp_confirmed_at is not None:
        raise ConflictError(
            "You have a second factor: take it away first with DELETE /v1/auth/second-factor.", code="second_factor_on"
        )
    secret = random_base32(SECRET_LENGTH)
    credential.totp_secret = vault.seal_bytes(context_of(user.id), secret.encode())
    credential.totp_last_step = 0
    await session.flush()
    await record(session, actor, "second_factor.begin", subject_id=user.id)
    return Enrolment(secret, TOTP(secret).provisioning_uri(name=user.email, issuer_name=ISSUER))


async def confirm(
    session: AsyncSession, vault: Vault | None, actor: Actor, user: User, login: LoginSession, code: str, now: datetime
) -> Confirmed:
    """Switch the second factor on by its first code, which serves no second time. Other logins end. Joins.

    Raises:
        ConflictError: nothing was begun, or it is on already.
        InvalidRequestError: the code is wrong.
        NoKeysError: the secret cannot be opened.
    """
    credential = await _locked(session, user.id)
    if credential.totp_confirmed_at is not None:
        raise ConflictError("Your second factor is on already.", code="second_factor_on")
    if credential.totp_secret is None:
        raise ConflictError("Begin with POST /v1/auth/second-factor.", code="second_factor_not_begun")
    step = step_of(opened(vault, user.id, credential.totp_secret), plain_code(code), now)
    if step is None:
        raise InvalidRequestError(
            "The code is wrong: send the one your authenticator shows now, and check your device's clock.",
            code="second_factor_invalid",
        )
    credential.totp_confirmed_at, credential.totp_last_step = now, step
    codes = await _new_codes(session, user.id)
    await session.execute(
        update(LoginSession).where(LoginSession.id == login.id).values(second_factor_at=now, proved_at=now)
    )
    ended = await end_sessions(session, user.id, now, reason="second_factor_on", but=login.id)
    await _tell(session, user, "Your second factor is on", "A second factor was switched on for {email}.")
    await record(session, actor, "second_factor.confirm", subject_id=user.id, after={"sessions_ended": ended})
    return Confirmed(codes, ended)


async def require_on(session: AsyncSession, user_id: int) -> None:
    """Let pass whoever has a second factor.

    Raises:
        ConflictError: the user has none.
    """
    if (await state_of(session, user_id)).confirmed_at is None:
        raise ConflictError(
            "You have no second factor: POST /v1/auth/second-factor sets one up.", code="no_second_factor"
        )


async def remove(session: AsyncSession, actor: Actor, user: User, login: LoginSession, now: datetime) -> int:
    """Take the second factor away from a user who has just given a code of it; how many other logins ended. Joins.

    The switch for live trading, which needs a second factor, goes off with it.

    Raises:
        ConflictError: the user has none.
    """
    credential = await _locked(session, user.id)
    await require_on(session, user.id)
    credential.totp_secret = credential.totp_confirmed_at = None
    credential.totp_last_step = 0
    await session.flush()
    await session.execute(delete(RecoveryCode).where(RecoveryCode.user_id == user.id))
    ended = await end_sessions(session, user.id, now, reason="second_factor_off", but=login.id)
    await _tell(session, user, "Your second factor is off", "The second factor of {email} was taken away.")
    await live_service.withdraw(session, actor, user.id, "the second factor was taken away")
    await record(session, actor, "second_factor.remove", subject_id=user.id, after={"sessions_ended": ended})
    return ended


async def renew_codes(session: AsyncSession, actor: Actor, user: User) -> list[str]:
    """New recovery codes in the place of the old ones. Joins.

    Raises:
        ConflictError: the user has no second factor.
    """
    await _locked(session, user.id)
    await require_on(session, user.id)
    codes = await _new_codes(session, user.id)
    await _tell(session, user, "New recovery codes", "New recovery codes were made for {email}; the old ones are void.")
    await record(session, actor, "recovery_codes.renew", subject_id=user.id, after={"codes": len(codes)})
    return codes


def new_recovery_code() -> str:
    """RECOVERY_BYTES of randomness, in groups of four characters."""
    plain = base64.b32encode(secrets.token_bytes(RECOVERY_BYTES)).decode()
    return "-".join(plain[at : at + 4] for at in range(0, len(plain), 4))


async def _new_codes(session: AsyncSession, user_id: int) -> list[str]:
    await session.execute(delete(RecoveryCode).where(RecoveryCode.user_id == user_id))
    codes = [new_recovery_code() for _ in range(RECOVERY_CODES)]
    session.add_all(RecoveryCode(user_id=user_id, code_hash=recovery_hash(code)) for code in codes)
    await session.flush()
    return codes


async def _locked(session: AsyncSession, user_id: int) -> Credential:
    """The user's credential, kept from others' changes.

    Raises:
        ConflictError: the user has no password, so no login that a second factor could be for.
    """
    query = select(Credential).where(Credential.user_id == user_id).with_for_update()
    found = (await session.scalars(query.execution_options(populate_existing=True))).first()
    if found is None:
        raise ConflictError("Set a password first: POST /v1/auth/password-reset.", code="no_password")
    return found


async def _tell(session: AsyncSession, user: User, subject: str, text: str) -> None:
    words = text.format(email=user.email) + " If that was not you, change your password at once."
    await mail_service.post(session, MailKind.NOTICE, user.email, user_id=user.id, subject=subject, text=words)
