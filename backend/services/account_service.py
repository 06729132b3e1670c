"""Broker accounts: opening or linking one, and seeing what is in it."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from backend.brokers.base import AccountSnapshot, BrokerError
from backend.brokers.credential_fields import CREDENTIAL_FIELDS
from backend.brokers.paper import PaperBroker, deposit
from backend.db import lock_account
from backend.domain.decide import TradeStatus
from backend.errors import ConflictError, InvalidRequestError, NotFoundError
from backend.models import AutoTrade, BrokerAccount, BrokerAccountStatus, User
from backend.services import ledger_service
from backend.services.audit_service import SYSTEM, Actor, record
from backend.services.context import Trading

ACCOUNTS_PER_USER_MAX = 5
_LIVE_TRADES = (TradeStatus.ENTERING, TradeStatus.OPEN, TradeStatus.EXITING)


@dataclass(frozen=True, slots=True)
class AccountFunds:
    """An account with what its broker says is in it; `snapshot` is None and `problem` says why where it did not."""

    account: BrokerAccount
    snapshot: AccountSnapshot | None
    problem: str | None


async def open_account(
    trading: Trading, user_id: int, broker: str, label: str, deposit_rupees: Decimal, actor: Actor = SYSTEM
) -> AccountFunds:
    """Open a paper account with its deposit, or link one at a real broker: that is switched on once it is ready.

    The user's first ready account becomes the primary one.

    Raises:
        InvalidRequestError: another broker than the supported ones.
        ConflictError: the user has ACCOUNTS_PER_USER_MAX accounts.
    """
    require_known_broker(broker)
    paper = broker == PaperBroker.name
    now = await trading.clock()
    async with trading.sessions.begin() as session:
        await lock_user(session, user_id)
        existing = await accounts_of(session, user_id)
        if len(existing) >= ACCOUNTS_PER_USER_MAX:
            raise ConflictError(f"A user may have {ACCOUNTS_PER_USER_MAX} accounts.", code="too_many_accounts")
        account = BrokerAccount(
            user_id=user_id,
            broker=broker,
            label=label,
            status=BrokerAccountStatus.READY if paper else BrokerAccountStatus.DISABLED,
            is_primary=paper and not any(other.is_primary for other in existing),
        )
        session.add(account)
        await session.flush()
        await session.refresh(account)
        if paper:
            await deposit_play_money(session, account.id, deposit_rupees, now)
        opened = {"broker": broker, "status": account.status, "is_primary": account.is_primary}
        target = f"broker_account:{account.id}"
        await record(session, actor, "broker_account.open", subject_id=user_id, target=target, after=opened)
    return (await with_funds(trading, [account]))[0]


def require_known_broker(broker: str) -> None:
    """Let an account be opened only where one can be.

    Raises:
        InvalidRequestError: the detail names the brokers there are.
    """
    if broker not in CREDENTIAL_FIELDS:
        raise InvalidRequestError(
            f"The broker {broker!r} is not supported; supported are: {', '.join(CREDENTIAL_FIELDS)}.",
            code="broker_not_supported",
        )


async def deposit_play_money(session: AsyncSession, account_id: int, rupees: Decimal, at: datetime) -> None:
    """Put play money into a paper account: in the paper broker's book and in our own. Joins the transaction."""
    await deposit(session, account_id, rupees, at)
    await ledger_service.open_books(session, account_id, rupees, at)


async def accounts_of(session: AsyncSession, user_id: int) -> list[BrokerAccount]:
    """The user's accounts that are not closed, oldest first."""
    rows = await session.scalars(
        select(BrokerAccount)
        .where(BrokerAccount.user_id == user_id, BrokerAccount.status != BrokerAccountStatus.CLOSED)
        .order_by(BrokerAccount.id)
    )
    return list(rows.all())


async def locked_account(session: AsyncSession, user_id: int, account_id: int) -> BrokerAccount:
    """As `own_account`; nobody else changes it until the transaction ends."""
    await lock_account(session, account_id)
    return await own_account(session, user_id, account_id)


async def own_account(session: AsyncSession, user_id: int, account_id: int) -> BrokerAccount:
    """One account of the user's, ready or not.

    Raises:
        NotFoundError: there is none of that id.
        ConflictError: it is closed.
    """
    account = await session.scalar(
        select(BrokerAccount)
        .where(BrokerAccount.id == account_id, BrokerAccount.user_id == user_id)
        .execution_options(populate_existing=True)
    )
    if account is None:
        raise NotFoundError(f"You have no broker account {account_id}.")
    if account.status is BrokerAccountStatus.CLOSED:
        raise ConflictError(f"The account {account_id} is closed: open another one.", code="account_closed")
    return account


async def with_funds(trading: Trading, accounts: Sequence[BrokerAccount]) -> list[AccountFunds]:
    """Ask each account's broker for its money and shares, outside any transaction."""
    by_broker: dict[str, list[int]] = defaultdict(list)
    for account in accounts:
        by_broker[account.broker].append(account.id)
    known = [name for name in by_broker if name in trading.brokers]
    replies = await asyncio.gather(
        *(trading.brokers[name].snapshots(by_broker[name]) for name in known), return_exceptions=True
    )
    snapshots: dict[int, AccountSnapshot | BrokerError] = {}
    for name, reply in zip(known, replies, strict=True):
        if isinstance(reply, BrokerError):
            snapshots |= dict.fromkeys(by_broker[name], reply)
        elif isinstance(reply, BaseException):
            raise reply
        else:
            snapshots |= reply
    return [_funds(account, snapshots) for account in accounts]


def _funds(account: BrokerAccount, snapshots: Mapping[int, AccountSnapshot | BrokerError]) -> AccountFunds:
    snapshot = snapshots.get(account.id)
    if snapshot is None:
        return AccountFunds(account, None, f"the broker {account.broker} is not connected in this deployment")
    if isinstance(snapshot, BrokerError):
        return AccountFunds(account, None, snapshot.detail)
    return AccountFunds(account, snapshot, None)


async def account_of(session: AsyncSession, user_id: int, account_id: int | None) -> BrokerAccount:
    """The user's account with this id, or the primary one, if orders can go through it.

    Raises:
        NotFoundError: no such account of this user.
        ConflictError: it is not ready, or there is none.
    """
    accounts = await accounts_of(session, user_id)
    chosen = next((a for a in accounts if (a.is_primary if account_id is None else a.id == account_id)), None)
    if chosen is None and account_id is not None:
        raise NotFoundError(f"You have no broker account {account_id}.")
    if chosen is None or chosen.status is not BrokerAccountStatus.READY:
        raise ConflictError("No broker account is ready: open one with POST /v1/broker-accounts.", code="no_account")
    return chosen


async def ready_account(session: AsyncSession, user_id: int, account_id: int | None) -> BrokerAccount:
    """The account that executes the user's auto-trades; `account_id` makes it another one. Joins the transaction.

    Raises:
        NotFoundError: no such account of this user.
        ConflictError: none is ready, or trades are open in the account that would be left.
    """
    await lock_user(session, user_id)
    chosen = await account_of(session, user_id, account_id)
    primary = next((a for a in await accounts_of(session, user_id) if a.is_primary), None)
    if primary is not None and primary.id != chosen.id:
        await require_no_live_trades(session, primary.id)
        primary.is_primary = False
        await session.flush()
    chosen.is_primary = True
    await session.flush()
    return chosen


async def require_no_live_trades(session: AsyncSession, account_id: int) -> None:
    """Let an account be left only when nothing is open in it.

    Raises:
        ConflictError: trades are open.
    """
    # Exits go through the primary account: leaving it would leave its open trades without theirs.
    live = await session.scalar(
        select(func.count()).where(AutoTrade.account_id == account_id, AutoTrade.status.in_(_LIVE_TRADES))
    )
    if live:
        raise ConflictError(
            f"{live} trades are still open in the account {account_id}: change it when they are closed.",
            code="account_has_open_trades",
        )


async def lock_user(session: AsyncSession, user_id: int) -> None:
    """Serialise changes of one user's accounts until the transaction ends."""
    await session.execute(select(User.id).where(User.id == user_id).with_for_update(key_share=True))
