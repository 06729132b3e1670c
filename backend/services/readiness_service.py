"""Who has to log in at a broker before the market opens: the board, and the reminders from 08:30 IST on.

A broker's token ends each night; nobody but the account's owner can get the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time
from enum import StrEnum
from typing import Any

import structlog
from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from backend.brokers.base import BrokerError, HasShareList
from backend.brokers.credential_fields import CREDENTIAL_FIELDS
from backend.db import Sessions
from backend.domain.calendar import IST
from backend.domain.decide import TradeStatus
from backend.domain.market import StockClass
from backend.models import (
    AutoTrade,
    AutoTradeSettings,
    BrokerAccount,
    BrokerAccountStatus,
    BrokerCredential,
    BrokerSession,
    OutboxMessage,
    User,
)
from backend.services.context import Trading
from backend.services.mail_service import post
from backend.services.mail_texts import MailKind
from backend.services.market_calendar import MarketCalendar

log = structlog.get_logger()

NUDGE_FROM = time(8, 30)
"""Time of day (IST) of the first reminder: after the nightly end of all tokens and before the market."""
NUDGES_PER_PASS_MAX = 200
_OPEN = (TradeStatus.ENTERING, TradeStatus.OPEN, TradeStatus.EXITING)


class Readiness(StrEnum):
    """Whether an account can trade now, or what is in its way."""

    READY = "ready"
    SWITCHED_OFF = "switched_off"
    NOT_CONNECTED = "not_connected"
    CREDENTIALS_MISSING = "credentials_missing"
    LOGIN_NEEDED = "login_needed"


@dataclass(frozen=True, slots=True)
class AccountReadiness:
    """One account: its state, until when its session lasts, trades that are open in it, and what its owner does."""

    account: BrokerAccount
    state: Readiness
    session_ends_at: datetime | None
    open_trades: int
    next_step: str


async def readiness(
    session: AsyncSession,
    connected: Sequence[str],
    now: datetime,
    *,
    user_id: int | None = None,
    before_id: int | None = None,
    limit: int = 100,
) -> list[AccountReadiness]:
    """Accounts that are not closed, newest first: of one user, or (for administrators) of everybody.

    Args:
        connected: brokers that orders can go to from this deployment.
    """
    query = _accounts().where(BrokerAccount.status != BrokerAccountStatus.CLOSED)
    if before_id is not None:
        query = query.where(BrokerAccount.id < before_id)
    if user_id is not None:
        query = query.where(BrokerAccount.user_id == user_id)
    rows = await session.execute(query.order_by(BrokerAccount.id.desc()).limit(limit))
    return [_readiness(row, connected, now) for row in rows]


def _accounts() -> Select[*tuple[Any, ...]]:
    given = (
        select(func.array_agg(BrokerCredential.field))
        .where(BrokerCredential.account_id == BrokerAccount.id)
        .scalar_subquery()
    )
    trades = (
        select(func.count())
        .where(AutoTrade.account_id == BrokerAccount.id, AutoTrade.closed_at.is_(None), AutoTrade.status.in_(_OPEN))
        .scalar_subquery()
    )
    return select(BrokerAccount, BrokerSession, given.label("given"), trades.label("open_trades")).outerjoin(
        BrokerSession, BrokerSession.account_id == BrokerAccount.id
    )


def _readiness(row: Any, connected: Sequence[str], now: datetime) -> AccountReadiness:
    account, held = row.BrokerAccount, row.BrokerSession
    ends_at = held.ends_at if held is not None and held.ended_at is None and held.ends_at > now else None
    state = state_of(account, frozenset(row.given or ()), connected, session_lasts=ends_at is not None)
    return AccountReadiness(account, state, ends_at, row.open_trades, _NEXT_STEPS[state].format(id=account.id))


def state_of(
    account: BrokerAccount, given: frozenset[str], connected: Sequence[str], *, session_lasts: bool
) -> Readiness:
    """What is in the way first, in the order in which it has to be mended."""
    needed = CREDENTIAL_FIELDS.get(account.broker, ())
    if not set(needed) <= given:
        return Readiness.CREDENTIALS_MISSING
    if needed and not session_lasts:
        return Readiness.LOGIN_NEEDED
    if account.broker not in connected:
        return Readiness.NOT_CONNECTED
    return Readiness.READY if account.status is BrokerAccountStatus.READY else Readiness.SWITCHED_OFF


_NEXT_STEPS = {
    Readiness.READY: "",
    Readiness.SWITCHED_OFF: 'PATCH /v1/broker-accounts/{id} with {{"enabled": true}} switches it on.',
    Readiness.NOT_CONNECTED: "Orders go to this broker only where the deployment trades live (ENVIRONMENT=live).",
    Readiness.CREDENTIALS_MISSING: "PUT /v1/broker-accounts/{id}/credentials gives the keys of your app there.",
    Readiness.LOGIN_NEEDED: "POST /v1/broker-accounts/{id}/login tells where to log in for today.",
}


async def nudge(trading: Trading, real_now: datetime) -> int:
    """Remind the owners of accounts that should trade today and cannot; once a day each. How many were reminded."""
    today = real_now.astimezone(IST).date()
    brokers = [name for name in trading.brokers if CREDENTIAL_FIELDS.get(name)]
    if not brokers or not _is_time(trading.calendar, real_now):
        return 0
    auto_trades = select(AutoTradeSettings.user_id).where(AutoTradeSettings.enabled)
    trades = select(AutoTrade.account_id).where(AutoTrade.closed_at.is_(None), AutoTrade.status.in_(_OPEN))
    async with trading.sessions.begin() as session:
        query = (
            _accounts()
            .add_columns(User.email)
            .join(User, User.id == BrokerAccount.user_id)
            .where(
                BrokerAccount.broker.in_(brokers),
                BrokerAccount.status == BrokerAccountStatus.READY,
                or_(BrokerAccount.nudged_on.is_(None), BrokerAccount.nudged_on < today),
                or_(
                    BrokerSession.account_id.is_(None),
                    BrokerSession.ended_at.is_not(None),
                    BrokerSession.ends_at <= real_now,
                ),
                or_(BrokerAccount.is_primary & BrokerAccount.user_id.in_(auto_trades), BrokerAccount.id.in_(trades)),
                User.active,
            )
            .order_by(BrokerAccount.id)
            .limit(NUDGES_PER_PASS_MAX)
            .with_for_update(of=BrokerAccount, skip_locked=True, key_share=True)
        )
        rows = (await session.execute(query)).all()
        for row in rows:
            await _remind(session, row, tuple(trading.brokers), real_now)
        ids = [row.BrokerAccount.id for row in rows]
        await session.execute(
            update(BrokerAccount)
            .where(BrokerAccount.id.in_(ids))
            .values(nudged_on=today)
            .execution_options(synchronize_session=False)
        )
    return len(rows)


async def prepare_lists(trading: Trading, real_now: datetime) -> None:
    """Have the day's list of shares of each broker that somebody trades at, so that no order waits for it. One that
    cannot be had keeps none of the others back; without it that broker's orders are not sent."""
    listed = {name: broker for name, broker in trading.brokers.items() if isinstance(broker, HasShareList)}
    if not listed or not _is_time(trading.calendar, real_now):
        return
    async with trading.sessions() as session:
        ready = select(BrokerAccount.broker).where(
            BrokerAccount.broker.in_(listed), BrokerAccount.status == BrokerAccountStatus.READY
        )
        names = (await session.scalars(ready.distinct())).all()
    for name in names:
        try:
            await listed[name].prepare()
        except BrokerError as error:
            log.warning("no_list_of_shares", broker=name, error=str(error))


def _is_time(calendar: MarketCalendar, real_now: datetime) -> bool:
    """From 08:30 IST until the close, on days with a session."""
    local = real_now.astimezone(IST)
    session = calendar.session(local.date())
    return (
        session is not None and local.time() >= NUDGE_FROM and real_now < session.continuous_close(StockClass.NON_CAS)
    )


async def _remind(session: AsyncSession, row: Any, connected: Sequence[str], real_now: datetime) -> None:
    found = _readiness(row, connected, real_now)
    account, trades = found.account, found.open_trades
    held = f" {trades} open trades there have no exits until you do." if trades else ""
    text = (
        f"Your account {account.id} at {account.broker} is not ready for today's market: its session ended overnight, "
        f"as every broker's does.{held} {found.next_step}"
    )
    await post(
        session,
        MailKind.NOTICE,
        row.email,
        user_id=account.user_id,
        subject=f"Log in at {account.broker} for today",
        text=text,
    )
    payload = {"account_id": account.id, "broker": account.broker, "open_trades": trades, "message": text}
    session.add(OutboxMessage(topic="account.login_needed", user_id=account.user_id, payload=payload))


async def tell_of_end(sessions: Sessions, account_id: int) -> None:
    """Tell the owner of an account whose session ended while trades are open in it: no exit goes out any more."""
    async with sessions.begin() as session:
        query = _accounts().add_columns(User.email).join(User, User.id == BrokerAccount.user_id)
        row = (await session.execute(query.where(BrokerAccount.id == account_id))).one()
        if not row.open_trades:
            return
        account = row.BrokerAccount
        message = (
            f"{account.broker} ended the session of your account {account_id} while {row.open_trades} trades are open "
            f"there. Nothing is bought or sold until you log in again: POST /v1/broker-accounts/{account_id}/login."
        )
        subject = f"{account.broker} ended your session with open trades"
        await post(session, MailKind.NOTICE, row.email, user_id=account.user_id, subject=subject, text=message)
        payload = {"account_id": account_id, "open_trades": row.open_trades, "message": message}
        session.add(OutboxMessage(topic="account.session_ended", user_id=account.user_id, payload=payload))
