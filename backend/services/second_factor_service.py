"""The second factor: codes of an authenticator (TOTP, RFC 6238), each good once, and recovery codes in their stead."""

import hmac
from datetime import datetime

import structlog
from pyotp.totp import TOTP
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from backend.errors import SaudaError
from backend.models import Credential, RecoveryCode
from backend.security import digest
from backend.vault import Vault, VaultError

log = structlog.get_logger()

STEP_S = 30
DRIFT_STEPS = 1
"""Steps that an authenticator's clock may be ahead or behind (RFC 6238, 5.2)."""
DIGITS = 6


class NoKeysError(SaudaError):
    """A sealed secret cannot be opened: its master key is not here."""

    status, code, title = 503, "no_master_key", "Service unavailable"


def context_of(user_id: int) -> tuple[str, ...]:
    """The context under which a user's TOTP secret (base32, as bytes) is sealed: it opens for nobody else."""
    return (str(user_id), "totp", "secret")


async def verify(session: AsyncSession, vault: Vault | None, user_id: int, code: str, now: datetime) -> bool:
    """Whether a code fits the user's confirmed second factor, or is one of their recovery codes; it is used up then.

    Joins the transaction: what decides is one UPDATE, so a code serves one of any number who bring it.

    Raises:
        NoKeysError: the secret cannot be opened.
    """
    plain = plain_code(code)
    if len(plain) == DIGITS and plain.isdecimal():
        return await _verify_totp(session, vault, user_id, plain, now)
    used = await session.scalar(
        update(RecoveryCode)
        .where(
            RecoveryCode.user_id == user_id,
            RecoveryCode.code_hash == recovery_hash(plain),
            RecoveryCode.used_at.is_(None),
        )
        .values(used_at=now)
        .returning(RecoveryCode.user_id)
        .execution_options(synchronize_session=False)
    )
    return used is not None


async def _verify_totp(session: AsyncSession, vault: Vault | None, user_id: int, code: str, now: datetime) -> bool:
    confirmed = Credential.user_id == user_id, Credential.totp_confirmed_at.is_not(None)
    sealed = await session.scalar(select(Credential.totp_secret).where(*confirmed))
    if sealed is None:
        return False
    step = step_of(opened(vault, user_id, sealed), code, now)
    if step is None:
        return False
    accepted = await session.scalar(
        update(Credential)
        .where(*confirmed, Credential.totp_secret == sealed, Credential.totp_last_step < step)
        .values(totp_last_step=step)
        .returning(Credential.user_id)
        .execution_options(synchronize_session=False)
    )
    return accepted is not None


def opened(vault: Vault | None, user_id: int, sealed: bytes) -> str:
    """The base32 secret of a user.

    Raises:
        NoKeysError: it does not open.
    """
    try:
        if vault is None:
            raise VaultError("no master key is set")
        return vault.open_bytes(context_of(user_id), sealed).decode()
    except VaultError as error:
        log.error("second_factor_sealed", user_id=user_id, error=str(error))
        raise NoKeysError("Second factors cannot be checked now: the operator must set MASTER_KEY_FILE.") from None


def step_of(secret: str, code: str, now: datetime) -> int | None:
    """The time step, near `now`, at which an authenticator with this base32 secret shows `code`; None where none is."""
    totp = TOTP(secret, digits=DIGITS, interval=STEP_S)
    present = int(now.timestamp()) // STEP_S
    near = range(present - DRIFT_STEPS, present + DRIFT_STEPS + 1)
    fitting = [step for step in near if hmac.compare_digest(totp.generate_otp(step), code)]
    return max(fitting, default=None)


def plain_code(code: str) -> str:
    """A code as it is compared: letters and digits alone, in upper case."""
    return "".join(character for character in code.upper() if character.isascii() and character.isalnum())


def recovery_hash(code: str) -> bytes:
    """What is kept of a recovery code; it must be long enough that nobody guesses it (112 bits or more)."""
    return digest(plain_code(code))
