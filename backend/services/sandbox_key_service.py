"""Keys with which a client trades a paper account through the sandbox, and the logins made with them."""

import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from urllib.parse import urlsplit

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from backend.brokers.credential_fields import CredentialField
from backend.brokers.paper import PaperBroker
from backend.errors import InvalidRequestError, NotAuthenticatedError
from backend.models import BrokerAccount, BrokerAccountStatus, BrokerCredential, SandboxApp, SandboxSession
from backend.services.account_service import locked_account
from backend.services.audit_service import Actor, record
from backend.services.broker_credential_service import context_of
from backend.services.second_factor_service import NoKeysError
from backend.vault import Sealed, Vault

REQUEST_TOKEN_LASTS = timedelta(minutes=2)
"""Kite's documents speak of a few minutes."""
URL_LENGTH_MAX = 400


@dataclass(frozen=True, slots=True)
class SandboxKey:
    """A new key. The secret is shown now and never again."""

    api_key: str
    api_secret: str


async def make_key(
    session: AsyncSession,
    vault: Vault | None,
    actor: Actor,
    user_id: int,
    account_id: int,
    redirect_url: str,
    postback_url: str = "",
) -> SandboxKey:
    """Make the key of a paper account, in the place of the one before: its logins end. Joins the transaction.

    Args:
        redirect_url: where a login returns to with its request token; `postback_url`: told of order updates.

    Raises:
        NotFoundError: no such account of this user.
        ConflictError: it is closed.
        InvalidRequestError: it is no paper account, or a URL is none.
        NoKeysError: the deployment has no master key.
    """
    account = await locked_account(session, user_id, account_id)
    if account.broker != PaperBroker.name:
        raise InvalidRequestError("Only a paper account has a sandbox key.", code="no_paper_account")
    for url in (redirect_url, *([postback_url] if postback_url else [])):
        if len(url) > URL_LENGTH_MAX or urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
            raise InvalidRequestError("A redirect or postback URL begins with http:// or https://.", code="bad_url")
    if vault is None:
        raise NoKeysError("A key cannot be kept: the operator must set MASTER_KEY_FILE.")
    await _drop(session, account_id)
    made = SandboxKey(secrets.token_hex(8), secrets.token_hex(16))
    app = SandboxApp(
        api_key=made.api_key,
        account_id=account_id,
        user_id=user_id,
        redirect_url=redirect_url,
        postback_url=postback_url,
    )
    session.add(app)
    sealed = vault.seal(_context(account), made.api_secret.encode())
    await session.execute(
        insert(BrokerCredential)
        .values(
            account_id=account_id,
            field=CredentialField.API_SECRET.value,
            user_id=user_id,
            key_id=sealed.key_id,
            wrapped_key=sealed.wrapped_key,
            sealed=sealed.sealed,
            hint="",
        )
        .inline()
    )
    await session.flush()
    target = f"broker_account:{account_id}"
    await record(session, actor, "sandbox_key.make", subject_id=user_id, target=target)
    return made


async def end_key(session: AsyncSession, actor: Actor, user_id: int, account_id: int) -> None:
    """End an account's key and its logins, if there are any. Joins the transaction.

    Raises:
        NotFoundError: no such account of this user.
    """
    await locked_account(session, user_id, account_id)
    await _drop(session, account_id)
    await record(session, actor, "sandbox_key.end", subject_id=user_id, target=f"broker_account:{account_id}")


async def _drop(session: AsyncSession, account_id: int) -> None:
    await session.execute(delete(SandboxSession).where(SandboxSession.account_id == account_id))
    await session.execute(delete(SandboxApp).where(SandboxApp.account_id == account_id))
    secret = BrokerCredential.field == CredentialField.API_SECRET.value
    await session.execute(delete(BrokerCredential).where(BrokerCredential.account_id == account_id, secret))


def _context(account: BrokerAccount) -> tuple[str, ...]:
    return context_of(account.user_id, account.broker, account.id, CredentialField.API_SECRET.value)


# ---- logins: `session` works as the trader


def token_hash(token: str) -> bytes:
    """What is kept of a token: enough to know it again."""
    return sha256(token.encode()).digest()


async def find_app(session: AsyncSession, api_key: str) -> SandboxApp:
    """The key's app; its account must be open.

    Raises:
        NotAuthenticatedError: there is no such key.
    """
    found = await session.scalar(
        select(SandboxApp)
        .join(BrokerAccount, BrokerAccount.id == SandboxApp.account_id)
        .where(SandboxApp.api_key == api_key, BrokerAccount.status == BrokerAccountStatus.READY)
    )
    if found is None:
        raise NotAuthenticatedError("Invalid `api_key`.")
    return found


async def grant(session: AsyncSession, app: SandboxApp, now: datetime) -> str:
    """A request token for a user who has just confirmed the login. Joins the transaction."""
    await session.execute(delete(SandboxSession).where(SandboxSession.ends_at <= now))
    token = secrets.token_hex(16)
    session.add(
        SandboxSession(
            api_key=app.api_key,
            account_id=app.account_id,
            user_id=app.user_id,
            token_hash=token_hash(token),
            exchanged=False,
            ends_at=now + REQUEST_TOKEN_LASTS,
        )
    )
    return token


async def exchange(
    session: AsyncSession,
    vault: Vault,
    app: SandboxApp,
    request_token: str,
    checksum: str,
    now: datetime,
    ends: datetime,
) -> str:
    """The day's access token for a request token, once; logins of the key before it end. Joins the transaction.

    Raises:
        NotAuthenticatedError: the checksum or the token is wrong, used, or too old.
    """
    secret = await secret_of(session, vault, app.account_id)
    expected = sha256((app.api_key + request_token + secret).encode()).hexdigest()
    if not hmac.compare_digest(expected.encode(), checksum.encode()):
        raise NotAuthenticatedError("Invalid `checksum`.")
    token = secrets.token_hex(16)
    waiting = (
        SandboxSession.token_hash == token_hash(request_token),
        SandboxSession.api_key == app.api_key,
        SandboxSession.exchanged.is_(False),
        SandboxSession.ends_at > now,
    )
    row_id = await session.scalar(
        update(SandboxSession)
        .where(*waiting)
        .values(token_hash=token_hash(token), exchanged=True, ends_at=ends)
        .returning(SandboxSession.id)
    )
    if row_id is None:
        raise NotAuthenticatedError("Token is invalid or has expired.")
    earlier = SandboxSession.api_key == app.api_key, SandboxSession.exchanged, SandboxSession.id != row_id
    await session.execute(delete(SandboxSession).where(*earlier))
    return token


async def secret_of(session: AsyncSession, vault: Vault, account_id: int) -> str:
    """The secret of an account's key. `session` works as the trader or the operator."""
    account = (await session.scalars(select(BrokerAccount).where(BrokerAccount.id == account_id))).one()
    field = BrokerCredential
    row = (
        await session.execute(
            select(field.key_id, field.wrapped_key, field.sealed).where(
                field.account_id == account.id, field.field == CredentialField.API_SECRET.value
            )
        )
    ).one()
    return vault.open(_context(account), Sealed(*row)).decode()


async def holder(session: AsyncSession, api_key: str, access_token: str, now: datetime) -> SandboxSession:
    """The login that an access token is of.

    Raises:
        NotAuthenticatedError: it is none, or its day is over.
    """
    found = await session.scalar(
        select(SandboxSession)
        .join(BrokerAccount, BrokerAccount.id == SandboxSession.account_id)
        .where(
            SandboxSession.token_hash == token_hash(access_token),
            SandboxSession.api_key == api_key,
            SandboxSession.exchanged,
            SandboxSession.ends_at > now,
            BrokerAccount.status == BrokerAccountStatus.READY,
        )
    )
    if found is None:
        raise NotAuthenticatedError("Incorrect `api_key` or `access_token`.")
    return found


async def log_out(session: AsyncSession, api_key: str, access_token: str) -> None:
    """End a login, if it is one. Joins the transaction."""
    await session.execute(
        delete(SandboxSession).where(
            SandboxSession.token_hash == token_hash(access_token), SandboxSession.api_key == api_key
        )
    )
