"""Credentials of broker accounts: sealed as they come in, opened for the broker's adapter alone, shown to nobody."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from backend.brokers.credential_fields import CREDENTIAL_FIELDS, VALUE_LENGTH_MAX, CredentialField, hint_of
from backend.errors import ConflictError, InvalidRequestError
from backend.models import BrokerAccount, BrokerCredential, BrokerSession
from backend.services.account_service import locked_account
from backend.services.audit_service import Actor, record
from backend.services.second_factor_service import NoKeysError
from backend.vault import Sealed, Vault

TOKEN = "access_token"  # noqa: S105 (a field's name)
"""The field of a day's token: it comes out of a login and is never given by the user."""


@dataclass(frozen=True, slots=True)
class FieldState:
    """One field that an account needs: since when it is set (None: it is not), and the hint that may be shown."""

    field: CredentialField
    set_at: datetime | None
    hint: str


def context_of(user_id: int, broker: str, account_id: int, field: str) -> tuple[str, ...]:
    """The context under which a field is sealed: moved to another user, broker, account or field it does not open."""
    return (str(user_id), broker, str(account_id), field)


def _context_in(account: BrokerAccount, field: str) -> tuple[str, ...]:
    return context_of(account.user_id, account.broker, account.id, field)


def required_fields(broker: str) -> tuple[CredentialField, ...]:
    """What an account at `broker` needs.

    Raises:
        InvalidRequestError: accounts there need none.
    """
    fields = CREDENTIAL_FIELDS.get(broker, ())
    if not fields:
        raise InvalidRequestError(f"An account at {broker} needs no credentials.", code="no_credentials_needed")
    return fields


def checked(broker: str, given: Mapping[CredentialField, str]) -> dict[CredentialField, str]:
    """The credentials, if they are what the broker needs; a refusal never repeats any of it.

    Raises:
        InvalidRequestError: one is missing, one too many, or one cannot be meant.
    """
    needed = required_fields(broker)
    if set(given) != set(needed):
        raise InvalidRequestError(
            f"{broker} needs {', '.join(needed)}, and nothing else.", code="credentials_incomplete"
        )
    for field in needed:
        value = given[field]
        if not 0 < len(value) <= VALUE_LENGTH_MAX or not all("!" <= character <= "~" for character in value):
            raise InvalidRequestError(
                f"{field} is 1 to {VALUE_LENGTH_MAX} printable characters without blanks: copy it again.",
                code="credential_malformed",
            )
    return {field: given[field] for field in needed}


async def set_credentials(
    session: AsyncSession,
    vault: Vault | None,
    actor: Actor,
    user_id: int,
    account_id: int,
    given: Mapping[CredentialField, str],
) -> list[FieldState]:
    """Seal an account's credentials in the place of those before. Joins the transaction.

    Raises:
        NotFoundError: no such account of this user.
        ConflictError: it is closed.
        InvalidRequestError: as `checked`.
        NoKeysError: the deployment has no master key.
    """
    account = await locked_account(session, user_id, account_id)
    values = checked(account.broker, given)
    if vault is None:
        raise NoKeysError("Credentials cannot be kept: the operator must set MASTER_KEY_FILE.")
    replaced = await _erase(session, account_id)
    rows = [_row(vault, account, field, value) for field, value in values.items()]
    await session.execute(insert(BrokerCredential).inline(), rows)
    found = await states_of(session, account)
    await record(
        session,
        actor,
        "broker_credential.set",
        subject_id=user_id,
        target=f"broker_account:{account_id}",
        before={"fields": replaced},
        after={"fields": sorted(values)},
    )
    return found


def _row(vault: Vault, account: BrokerAccount, field: str, value: str) -> dict[str, object]:
    sealed = vault.seal(_context_in(account, field), value.encode())
    return {
        "account_id": account.id,
        "field": str(field),
        "user_id": account.user_id,
        "key_id": sealed.key_id,
        "wrapped_key": sealed.wrapped_key,
        "sealed": sealed.sealed,
        "hint": hint_of(field, value),
    }


async def states_of(session: AsyncSession, account: BrokerAccount) -> list[FieldState]:
    """Which fields the account needs, and which are set."""
    rows = await session.execute(
        select(BrokerCredential.field, BrokerCredential.updated_at, BrokerCredential.hint).where(
            BrokerCredential.account_id == account.id
        )
    )
    known = {name: (at, hint) for name, at, hint in rows}
    return [FieldState(field, *known.get(field, (None, ""))) for field in CREDENTIAL_FIELDS.get(account.broker, ())]


async def erase_credentials(session: AsyncSession, actor: Actor, account: BrokerAccount) -> None:
    """Erase an account's credentials, if there are any. Joins the transaction, which has locked the account."""
    erased = await _erase(session, account.id)
    if erased:
        await record(
            session,
            actor,
            "broker_credential.erase",
            subject_id=account.user_id,
            target=f"broker_account:{account.id}",
            before={"fields": erased},
        )


async def _erase(session: AsyncSession, account_id: int) -> list[str]:
    await session.execute(
        update(BrokerSession)
        .where(BrokerSession.account_id == account_id, BrokerSession.ended_at.is_(None))
        .values(ended_at=func.clock_timestamp(), end_reason="the credentials were changed")
        .execution_options(synchronize_session=False)
    )
    gone = await session.scalars(
        delete(BrokerCredential).where(BrokerCredential.account_id == account_id).returning(BrokerCredential.field)
    )
    return sorted(gone.all())


async def credentials_of(
    session: AsyncSession, vault: Vault | None, account: BrokerAccount
) -> dict[CredentialField, str]:
    """An account's credentials, for its broker's adapter; `session` works as the trader or the operator.

    Raises:
        ConflictError: not all of them are set.
        NoKeysError: the deployment has no master key.
        VaultError: they do not open; what is in the database was moved or changed, or a master key was removed.
    """
    rows = await session.execute(
        select(
            BrokerCredential.field, BrokerCredential.key_id, BrokerCredential.wrapped_key, BrokerCredential.sealed
        ).where(BrokerCredential.account_id == account.id, BrokerCredential.user_id == account.user_id)
    )
    found = {name: Sealed(key_id, wrapped, sealed) for name, key_id, wrapped, sealed in rows}
    missing = [field for field in CREDENTIAL_FIELDS.get(account.broker, ()) if field not in found]
    if missing:
        raise ConflictError(f"The account {account.id} lacks {', '.join(missing)}.", code="credentials_missing")
    if found and vault is None:
        raise NoKeysError("Credentials cannot be opened: the operator must set MASTER_KEY_FILE.")
    return {
        CredentialField(name): vault.open(_context_in(account, name), sealed).decode()
        for name, sealed in found.items()
        if vault is not None and name != TOKEN
    }


async def keep_token(session: AsyncSession, vault: Vault | None, account: BrokerAccount, token: str) -> None:
    """Seal the day's token of an account in the place of the one before. Joins the transaction.

    Raises:
        NoKeysError: the deployment has no master key.
    """
    if vault is None:
        raise NoKeysError("A login cannot be kept: the operator must set MASTER_KEY_FILE.")
    await forget_token(session, account.id)
    await session.execute(insert(BrokerCredential).inline(), [_row(vault, account, TOKEN, token)])


async def forget_token(session: AsyncSession, account_id: int) -> None:
    """Erase an account's token, if there is one. Joins the transaction."""
    await session.execute(
        delete(BrokerCredential).where(BrokerCredential.account_id == account_id, BrokerCredential.field == TOKEN)
    )


async def token_of(session: AsyncSession, vault: Vault | None, account: BrokerAccount) -> str | None:
    """An account's token, for its adapter; None where there is none. `session` works as the trader.

    Raises:
        NoKeysError, VaultError: as `credentials_of`.
    """
    row = await session.get(BrokerCredential, (account.id, TOKEN), populate_existing=True)
    if row is None:
        return None
    if vault is None:
        raise NoKeysError("Credentials cannot be opened: the operator must set MASTER_KEY_FILE.")
    return vault.open(_context_in(account, TOKEN), Sealed(row.key_id, row.wrapped_key, row.sealed)).decode()
