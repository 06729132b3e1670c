"""Rotating master keys: each sealed secret is wrapped anew under the first of them, in batches, while others work.

Only the wrapping of a secret's own key changes (NIST SP 800-57 part 1, 5.3.5). A batch is one short transaction that
locks its rows, so that whoever stops it loses nothing, and whoever starts it again goes on with what is left.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from backend.db import Sessions
from backend.errors import ConflictError
from backend.services import second_factor_service
from backend.services.audit_service import Actor, record
from backend.services.broker_credential_service import context_of
from backend.vault import Sealed, Vault, VaultError

BATCH_ROWS = 200

# The name of the master key stands in the second factor's blob: version, length, name (backend/vault.py).
_TOTP_KEY = "convert_from(substring(totp_secret FROM 3 FOR get_byte(totp_secret, 1)), 'LATIN1')"
_IN_USE = text(f"""
    SELECT key_id, count(*) FROM broker_credentials GROUP BY key_id
    UNION ALL
    SELECT {_TOTP_KEY}, count(*) FROM credentials WHERE totp_secret IS NOT NULL GROUP BY 1
""")  # noqa: S608 - no value of anybody's  # nosec B608
_CREDENTIALS = text("""
    SELECT c.account_id, c.field, c.key_id, c.wrapped_key, c.sealed, a.broker, a.user_id
      FROM broker_credentials c JOIN broker_accounts a ON a.id = c.account_id
     WHERE c.key_id <> :current ORDER BY c.account_id, c.field LIMIT :rows FOR UPDATE OF c
""")
_WRAP_CREDENTIAL = text("""
    UPDATE broker_credentials SET key_id = :key_id, wrapped_key = :wrapped_key
     WHERE account_id = :account_id AND field = :field
""")
_TOTPS = text(f"""
    SELECT user_id, totp_secret FROM credentials
     WHERE totp_secret IS NOT NULL AND {_TOTP_KEY} <> :current ORDER BY user_id LIMIT :rows FOR UPDATE
""")  # noqa: S608 - no value of anybody's  # nosec B608
_WRAP_TOTP = text("UPDATE credentials SET totp_secret = :sealed WHERE user_id = :user_id")


@dataclass(frozen=True, slots=True)
class Rotated:
    """How many secrets were wrapped anew: fields of broker accounts, and secrets of second factors."""

    credentials: int
    second_factors: int


async def keys_in_use(sessions: Sessions) -> Mapping[str, int]:
    """How many sealed secrets need which master key; `sessions` work as the operator."""
    async with sessions() as session:
        counts: Counter[str] = Counter()
        for name, rows in await session.execute(_IN_USE):
            counts[name] += rows
    return counts


async def require_keys(sessions: Sessions, vault: Vault) -> None:
    """Refuse to go on where secrets stand under a master key that is not here: they would be lost with it.

    Raises:
        ConflictError: it names the keys and how many secrets need each.
    """
    missing = {name: rows for name, rows in (await keys_in_use(sessions)).items() if name not in vault.key_ids}
    if missing:
        listed = ", ".join(f"{name!r} ({rows} secrets)" for name, rows in sorted(missing.items()))
        raise ConflictError(
            f"Master keys are missing that secrets still need: {listed}. Put them back into MASTER_KEY_FILE, "
            "below the first, and rotate again.",
            code="master_key_missing",
        )


async def rotate(
    sessions: Sessions, vault: Vault, actor: Actor, progress: Callable[[int], None] = lambda _: None
) -> Rotated:
    """Wrap every sealed secret under the vault's first key; `progress` hears the total after each batch.

    Doing it twice changes nothing more. `sessions` work as the operator.

    Raises:
        ConflictError: as `require_keys`; nothing was changed then.
        VaultError: a secret does not open: it was changed or moved in the database. Earlier batches stand.
    """
    await require_keys(sessions, vault)
    done: dict[_Step, int] = {_rotate_credentials: 0, _rotate_second_factors: 0}
    # A batch that finds none may have waited for another rotation's rows: what is in use tells whether all is done.
    while set(await keys_in_use(sessions)) - {vault.current}:
        for step in done:
            while rows := await _batch(sessions, vault, step):
                done[step] += rows
                progress(sum(done.values()))
    rotated = Rotated(*done.values())
    if rotated != Rotated(0, 0):
        async with sessions.begin() as session:
            after = {
                "key": vault.current,
                "credentials": rotated.credentials,
                "second_factors": rotated.second_factors,
            }
            await record(session, actor, "master_key.rotate", after=after)
    return rotated


_Step = Callable[[AsyncSession, Vault], Awaitable[int]]


async def _batch(sessions: Sessions, vault: Vault, step: _Step) -> int:
    async with sessions.begin() as session:
        return await step(session, vault)


async def _rotate_credentials(session: AsyncSession, vault: Vault) -> int:
    rows = (await session.execute(_CREDENTIALS, {"current": vault.current, "rows": BATCH_ROWS})).all()
    for row in rows:
        context = context_of(row.user_id, row.broker, row.account_id, row.field)
        try:
            sealed = vault.rewrap(context, Sealed(row.key_id, row.wrapped_key, row.sealed))
        except VaultError as error:
            raise VaultError(f"{row.field} of broker account {row.account_id}: {error}") from None
        wrapped = {"key_id": sealed.key_id, "wrapped_key": sealed.wrapped_key}
        await session.execute(_WRAP_CREDENTIAL, wrapped | {"account_id": row.account_id, "field": row.field})
    return len(rows)


async def _rotate_second_factors(session: AsyncSession, vault: Vault) -> int:
    rows = (await session.execute(_TOTPS, {"current": vault.current, "rows": BATCH_ROWS})).all()
    for user_id, blob in rows:
        try:
            sealed = vault.rewrap_bytes(second_factor_service.context_of(user_id), blob)
        except VaultError as error:
            raise VaultError(f"second factor of user {user_id}: {error}") from None
        await session.execute(_WRAP_TOTP, {"sealed": sealed, "user_id": user_id})
    return len(rows)
