"""Comparing positions: what users made in their broker's own app is adopted, and our books follow what is there."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import structlog
from sqlalchemy import func, or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from backend.brokers.base import AccountSnapshot, Broker, BrokerError
from backend.db import is_about_data
from backend.domain.calendar import IST
from backend.domain.decide import TradeStatus
from backend.domain.market import OrderType, Side
from backend.domain.orders import Intent, OrderState, external_order_id, is_own_name
from backend.domain.reconcile import BookOrder, BookStatus
from backend.domain.trading_states import Cause, Scope, TradingState
from backend.errors import SaudaError
from backend.models import (
    AutoTrade,
    AutoTradeSettings,
    BrokerAccount,
    BrokerAccountStatus,
    Order,
    OrderOrigin,
)
from backend.services import ledger_service
from backend.services.alignment_service import OurSide, align_account, end_overnight, marks_of, open_trades
from backend.services.broker_books import BOOK_TIMEOUT_S
from backend.services.broker_login_service import mark_reconciled
from backend.services.context import Trading
from backend.services.corporate_action_service import settle_actions
from backend.services.reconcile_service import reconcile
from backend.services.trading_state_service import impose

log = structlog.get_logger()

JUST_REFUSED = timedelta(seconds=60)
REAL_CASH_OFF_RUPEES = Decimal(1)
"""What a real broker's cash may differ from ours: its charges are known to the paisa on the contract note alone."""
_READY = BrokerAccountStatus.READY
LIVE_TRADES = (TradeStatus.ENTERING, TradeStatus.OPEN, TradeStatus.EXITING)


@dataclass(slots=True)
class PositionReport:
    """Accounts compared; orders adopted; accounts whose books were brought to the broker's figures, and those whose
    broker gave no report: nothing is concluded of these."""

    accounts: int = 0
    adopted: int = 0
    aligned: int = 0
    failed_accounts: set[int] = field(default_factory=set[int])


async def watch_positions(trading: Trading, account_ids: Collection[int] | None = None) -> PositionReport:
    """Compare every account that trades, or those given, with its broker, whole book and holdings. Doing it twice
    changes nothing.

    Raises:
        SQLAlchemyError, OSError: the database did not answer.
    """
    report = PositionReport()
    now = await trading.clock()
    # Shares that a split made must not be taken for shares that came from outside.
    scales_known = await settle_actions(trading, now)
    async with trading.sessions() as session:
        began = await session.scalar(select(func.clock_timestamp()))
        by_broker: dict[str, list[BrokerAccount]] = defaultdict(list)
        for account in await _accounts(session, account_ids):
            by_broker[account.broker].append(account)
    for name, accounts in by_broker.items():
        broker = trading.brokers.get(name)
        if broker is None:
            report.failed_accounts |= {account.id for account in accounts}
            continue
        report.accounts += len(accounts)
        await _adopt_foreign(trading, broker, accounts, now, report)
        if scales_known:
            await _align(trading, broker, accounts, now, report)
        await mark_reconciled(trading.sessions, [a.id for a in accounts if a.id not in report.failed_accounts], began)
    if report.adopted or report.aligned or report.failed_accounts:
        log.info(
            "positions", adopted=report.adopted, aligned=report.aligned, failed=sorted(report.failed_accounts)[:20]
        )
    return report


async def _accounts(session: AsyncSession, account_ids: Collection[int] | None) -> Sequence[BrokerAccount]:
    """Accounts through which anything goes: the primary of whoever auto-trades, and those with trades or orders. Of
    those given, all that are switched on."""
    if account_ids is not None:
        given = BrokerAccount.id == func.any(list(account_ids))
        return (await session.scalars(select(BrokerAccount).where(given, BrokerAccount.status == _READY))).all()
    enabled = select(AutoTradeSettings.user_id).where(AutoTradeSettings.enabled)
    trading = select(AutoTrade.account_id).where(AutoTrade.closed_at.is_(None), AutoTrade.status.in_(LIVE_TRADES))
    ordered = select(Order.account_id).where(Order.created_at > func.clock_timestamp() - text("interval '2 days'"))
    rows = await session.scalars(
        select(BrokerAccount)
        .where(
            BrokerAccount.status == _READY,
            or_(
                BrokerAccount.is_primary & BrokerAccount.user_id.in_(enabled),
                BrokerAccount.id.in_(trading),
                BrokerAccount.id.in_(ordered),
            ),
        )
        .order_by(BrokerAccount.id)
    )
    return rows.all()


async def _adopt_foreign(
    trading: Trading, broker: Broker, accounts: Sequence[BrokerAccount], now: datetime, report: PositionReport
) -> None:
    """Take in what the day's books show and we do not know, and settle it like any other order."""
    since = datetime.combine(now.astimezone(IST).date(), datetime.min.time(), tzinfo=IST)
    ids = [account.id for account in accounts]
    try:
        async with asyncio.timeout(BOOK_TIMEOUT_S):
            books = await broker.books(ids, since)
    except (SaudaError, TimeoutError) as silence:
        log.warning("book_unreadable", broker=broker.name, error=repr(silence))
        report.failed_accounts |= set(ids)
        return
    known = await _known_orders(trading, ids, [e for book in books.values() for e in _entries(book)])
    adopted: set[int] = set()
    for account in accounts:
        book = books.get(account.id)
        if book is None or isinstance(book, BrokerError):
            report.failed_accounts.add(account.id)
            continue
        for entry in book:
            if known.is_foreign(account.id, entry):
                if not await _is_taken(report, account.id, _adopt(trading, account, entry)):
                    continue
                adopted.add(account.id)
                report.adopted += 1
    if adopted:
        await reconcile(trading, adopted)


async def _is_taken(report: PositionReport, account_id: int, work: Awaitable[bool]) -> bool:
    """What became of one account's work. A value that cannot be kept is that account's trouble and nobody else's."""
    try:
        return await work
    except (ValueError, ArithmeticError, DBAPIError) as error:
        if isinstance(error, DBAPIError) and not is_about_data(error):
            raise
        log.error("report_cannot_be_kept", account=account_id, error=str(error).splitlines()[0])
        report.failed_accounts.add(account_id)
        return False


def _entries(book: Sequence[BookOrder] | BrokerError) -> Sequence[BookOrder]:
    return () if isinstance(book, BrokerError) else book


@dataclass(frozen=True, slots=True)
class _Known:
    """Our orders as far as a book is concerned: the broker's ids, names whose id we have not learnt yet, and names that
    the broker refused: these may only show as refused."""

    broker_ids: frozenset[tuple[int, str]]
    unanswered: frozenset[str]
    refused: frozenset[str]

    def is_foreign(self, account_id: int, entry: BookOrder) -> bool:
        if (account_id, entry.broker_order_id) in self.broker_ids or entry.tag in self.unanswered:
            return False
        return entry.tag not in self.refused or entry.status is not BookStatus.REJECTED or bool(entry.trades)


async def _known_orders(trading: Trading, account_ids: Sequence[int], entries: Sequence[BookOrder]) -> _Known:
    """Read after the books: an order that was sent meanwhile is then known."""
    names = [entry.tag for entry in entries if entry.tag]
    shown = [entry.broker_order_id for entry in entries]
    age = func.clock_timestamp() - Order.submitted_at
    async with trading.sessions() as session:
        rows = await session.execute(
            select(Order.account_id, Order.broker_order_id, Order.client_order_id, Order.state, age.label("age")).where(
                Order.account_id == func.any(list(account_ids)),
                or_(Order.broker_order_id == func.any(shown), Order.client_order_id == func.any(names)),
            )
        )
        found = rows.all()
    return _Known(
        frozenset((row.account_id, row.broker_order_id) for row in found if row.broker_order_id),
        frozenset(row.client_order_id for row in found if not row.broker_order_id and _may_show(row)),
        frozenset(row.client_order_id for row in found if row.state is OrderState.REJECTED),
    )


def _may_show(row: Any) -> bool:
    """Whether an order without a broker's id may stand in a book: it was sent, and settling still looks for it.

    One just refused may have shown for a moment before.
    """
    return row.age is not None and (row.state is not OrderState.REJECTED or row.age < JUST_REFUSED)


async def _adopt(trading: Trading, account: BrokerAccount, entry: BookOrder) -> bool:
    """Record one order that Sauda did not send. One that bears a name of ours means that our record is incomplete."""
    own = is_own_name(entry.tag)
    log.warning("foreign_order", account=account.id, broker_order=entry.broker_order_id, own_name=own)
    async with trading.sessions.begin() as session:
        await session.execute(
            insert(Order)
            .values(
                client_order_id=external_order_id(account.id, entry.broker_order_id),
                broker_order_id=entry.broker_order_id,
                origin=OrderOrigin.EXTERNAL,
                user_id=account.user_id,
                account_id=account.id,
                intent=Intent.ENTRY if entry.side is Side.BUY else Intent.EXIT,
                symbol=entry.symbol,
                exchange=entry.exchange,
                side=entry.side,
                product=entry.product,
                order_type=OrderType.MARKET if entry.limit_price is None else OrderType.LIMIT,
                quantity=entry.quantity,
                limit_price=entry.limit_price,
                state=OrderState.SUBMITTED,
                filled_quantity=0,
                environment=trading.rules.environment.value,
                decided_at=entry.placed_at,
                submitted_at=func.clock_timestamp(),
            )
            .on_conflict_do_nothing(index_elements=[Order.client_order_id])
        )
        if own:
            detail = f"the broker's book shows order {entry.broker_order_id} named {entry.tag}, which is not on record"
            user = str(account.user_id)
            await impose(session, Scope.USER, user, TradingState.HALTED, Cause.UNKNOWN_OWN_ORDER, detail)
    return True


async def _align(
    trading: Trading, broker: Broker, accounts: Sequence[BrokerAccount], now: datetime, report: PositionReport
) -> None:
    """Bring the books of quiet accounts to the broker's figures, after trades whose shares were sold by hand."""
    ids = [account.id for account in accounts if account.id not in report.failed_accounts]
    marks = await marks_of(trading, ids)
    try:
        async with asyncio.timeout(BOOK_TIMEOUT_S):
            snapshots = await broker.snapshots(ids)
    except (SaudaError, TimeoutError) as silence:
        log.warning("funds_unreadable", broker=broker.name, error=repr(silence))
        report.failed_accounts |= set(ids)
        return
    async with trading.sessions() as session:
        books = await ledger_service.books_of(session, ids)
        trades = await open_trades(session, ids)
    for account in accounts:
        snapshot = snapshots.get(account.id)
        if isinstance(snapshot, AccountSnapshot):
            off = REAL_CASH_OFF_RUPEES if broker.real_money else Decimal(0)
            known = OurSide(books[account.id], trades.get(account.id, ()), marks.get(account.id, 0), off)
            if broker.real_money:
                await _is_taken(report, account.id, end_overnight(trading, account.id, snapshot, known.books, now))
            if known.agrees_with(snapshot):
                continue
            aligning = align_account(trading, account, snapshot, known, now)
            report.aligned += await _is_taken(report, account.id, aligning)
        elif account.id in ids:
            report.failed_accounts.add(account.id)
