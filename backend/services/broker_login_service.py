"""Logging in at brokers, day by day: where the user goes, what comes back from there, and the session it makes.

A broker's token ends each night, and a rule of SEBI wants the user's own consent each day: nothing here logs in by
itself, and no password, PIN or TOTP secret of a broker's is ever kept (SEBI/HO/MIRSD/MIRSD-PoD/P/CIR/2025/0000013).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import httpx
import structlog
from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from backend.brokers.adapter import Access, Adapter, Credentials, LoggedIn
from backend.brokers.base import BrokerError
from backend.brokers.credential_fields import CredentialField
from backend.db import Sessions, lock_account
from backend.errors import ConflictError, InvalidRequestError
from backend.models import BrokerAccount, BrokerAccountStatus, BrokerSession
from backend.security import Security
from backend.services.account_service import own_account
from backend.services.audit_service import Actor, record
from backend.services.broker_credential_service import credentials_of, forget_token, keep_token, token_of
from backend.vault import Vault

log = structlog.get_logger()

_LOCK_CLIENT = text("SELECT pg_advisory_xact_lock(hashtextextended(:client, 0))")
STATE = "broker-login"
STATE_MINUTES = 15
RETURNED_FIELDS_MAX = 12
RETURNED_LENGTH_MAX = 600


@dataclass(frozen=True, slots=True)
class BrokerLogins:
    """What logging in needs: `sessions` work as the trader, for no one else may open credentials; `http` is for calls
    that no account's address matters to."""

    adapters: Mapping[str, Adapter]
    http: httpx.AsyncClient
    sessions: Sessions
    vault: Vault | None
    security: Security


@dataclass(frozen=True, slots=True)
class _Opened:
    account: BrokerAccount
    adapter: Adapter
    credentials: Credentials


async def begin_login(logins: BrokerLogins, user_id: int, account_id: int) -> tuple[BrokerAccount, str]:
    """The account, and where the user logs in at its broker.

    Raises:
        NotFoundError, ConflictError: no such account, it is closed, it needs no login, or credentials are missing.
        InvalidRequestError: the broker does not know the credentials.
        BrokerError: the broker did not answer.
    """
    opened = await _open(logins, user_id, account_id)
    state = logins.security.sign_state(STATE, account_id, STATE_MINUTES)
    return opened.account, await opened.adapter.login_url(logins.http, opened.credentials, state)


async def account_of_redirect(logins: BrokerLogins, broker: str, returned: Mapping[str, str]) -> tuple[int, int]:
    """The user and the account that a broker's redirect belongs to, by the state that it brings back.

    Raises:
        InvalidRequestError: it has none, or none that stands.
    """
    account_id = logins.security.account_of_state(STATE, returned.get("state", ""))
    async with logins.sessions() as session:
        account = await session.get(BrokerAccount, account_id)
    if account is None or account.broker != broker:
        raise InvalidRequestError("This login belongs to no account at this broker.", code="state_invalid")
    return account.user_id, account.id


async def finish_login(
    logins: BrokerLogins, actor: Actor, user_id: int, account_id: int, returned: Mapping[str, str], now: datetime
) -> tuple[BrokerAccount, BrokerSession]:
    """Exchange what the broker returned for the day's token and keep it sealed: the account and its new session.

    Raises:
        NotFoundError, ConflictError: as `begin_login`; or the login is that of another client of the broker's.
        InvalidRequestError: what was returned is not, or no longer, good for a token.
        BrokerError: the broker did not answer.
    """
    _require_sane(returned)
    opened = await _open(logins, user_id, account_id)
    found = await opened.adapter.log_in(logins.http, opened.credentials, returned, now)
    async with logins.sessions.begin() as session:
        await lock_account(session, account_id)
        account = await own_account(session, user_id, account_id)
        await _require_same_client(session, account, found)
        if await credentials_of(session, logins.vault, account) != opened.credentials:
            raise ConflictError("The credentials were changed meanwhile: begin again.", code="credentials_changed")
        await keep_token(session, logins.vault, account, found.token)
        begun = await _begin_session(session, account, found, now)
        await record(
            session,
            actor,
            "broker_session.begin",
            subject_id=user_id,
            target=f"broker_account:{account_id}",
            after={"ends_at": found.ends_at.isoformat()},
        )
    return account, begun


async def end_login(logins: BrokerLogins, actor: Actor, user_id: int, account_id: int, now: datetime) -> None:
    """Log out: the token is forgotten here, and ended at the broker if that answers.

    Raises:
        NotFoundError, ConflictError: no such account, it is closed, or it needs no login.
    """
    async with logins.sessions.begin() as session:
        await lock_account(session, account_id)
        account = await own_account(session, user_id, account_id)
        adapter = _adapter(logins, account)
        credentials = await credentials_of(session, logins.vault, account)
        token = await token_of(session, logins.vault, account)
        held = await session.get(BrokerSession, account_id)
        if token is None or held is None:
            return
        await forget_token(session, account_id)
        held.ended_at, held.end_reason = held.ended_at or now, "logged out"
        target = f"broker_account:{account_id}"
        await record(session, actor, "broker_session.end", subject_id=user_id, target=target)
    access = Access(account_id, held.client_id, credentials.get(CredentialField.API_KEY, ""), token, logins.http)
    try:
        await adapter.log_out(access)
    except BrokerError as silence:
        # Nobody here has the token any more, and it ends this night at the latest.
        log.warning("log_out_unanswered", account=account_id, error=type(silence).__name__)


async def session_ended(sessions: Sessions, account_id: int, begun_at: datetime, why: str) -> BrokerSession | None:
    """Note that the broker takes a session no more; None where that was known."""
    async with sessions.begin() as session:
        return await session.scalar(
            update(BrokerSession)
            .where(
                BrokerSession.account_id == account_id,
                BrokerSession.begun_at == begun_at,
                BrokerSession.ended_at.is_(None),
            )
            .values(ended_at=func.clock_timestamp(), end_reason=why)
            .returning(BrokerSession)
        )


async def mark_reconciled(sessions: Sessions, account_ids: Sequence[int], began: datetime | None) -> None:
    """From here on these accounts may trade: their books were read, and adopted, after their last login; `began` is an
    instant of the database's clock before they were."""
    async with sessions.begin() as session:
        await session.execute(
            update(BrokerSession)
            .where(
                BrokerSession.account_id == func.any(list(account_ids)),
                BrokerSession.reconciled_at.is_(None),
                BrokerSession.begun_at <= began,
            )
            .values(reconciled_at=func.clock_timestamp())
            .execution_options(synchronize_session=False)
        )


async def _open(logins: BrokerLogins, user_id: int, account_id: int) -> _Opened:
    async with logins.sessions() as session:
        account = await own_account(session, user_id, account_id)
        adapter = _adapter(logins, account)
        return _Opened(account, adapter, await credentials_of(session, logins.vault, account))


def _adapter(logins: BrokerLogins, account: BrokerAccount) -> Adapter:
    adapter = logins.adapters.get(account.broker)
    if adapter is None:
        raise ConflictError(f"An account at {account.broker} needs no login.", code="no_login_needed")
    return adapter


def _require_sane(returned: Mapping[str, str]) -> None:
    if len(returned) > RETURNED_FIELDS_MAX or any(len(value) > RETURNED_LENGTH_MAX for value in returned.values()):
        raise InvalidRequestError("That is not what a broker's login returns.", code="login_malformed")


async def _require_same_client(session: AsyncSession, account: BrokerAccount, found: LoggedIn) -> None:
    """One account here is one client there: what is on record of it would be another's otherwise."""
    # Two logins of one client at once must see each other.
    await session.execute(_LOCK_CLIENT, {"client": f"{account.broker}:{found.client_id}"})
    before = await session.get(BrokerSession, account.id)
    if before is not None and before.client_id != found.client_id:
        raise ConflictError(
            f"You logged in as another client of {account.broker} than before: link that one as an account of its own.",
            code="other_client",
        )
    elsewhere = await session.scalar(
        select(BrokerAccount.id)
        .join(BrokerSession, BrokerSession.account_id == BrokerAccount.id)
        .where(
            BrokerAccount.broker == account.broker,
            BrokerAccount.id != account.id,
            BrokerAccount.status != BrokerAccountStatus.CLOSED,
            BrokerSession.client_id == found.client_id,
        )
        .limit(1)
    )
    if elsewhere is not None:
        raise ConflictError(
            f"This client of {account.broker} is linked already: two accounts would trade against each other.",
            code="client_linked_elsewhere",
        )


async def _begin_session(
    session: AsyncSession, account: BrokerAccount, found: LoggedIn, now: datetime
) -> BrokerSession:
    values = {
        "account_id": account.id,
        "user_id": account.user_id,
        "client_id": found.client_id,
        "begun_at": now,
        "ends_at": found.ends_at,
        "reconciled_at": None,
        "ended_at": None,
        "end_reason": "",
    }
    upsert = insert(BrokerSession).values(values)
    statement = upsert.on_conflict_do_update(index_elements=[BrokerSession.account_id], set_=values)
    begun = await session.scalars(statement.returning(BrokerSession).execution_options(populate_existing=True))
    return begun.one()
