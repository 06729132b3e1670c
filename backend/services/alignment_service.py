"""Bringing one quiet account's books to its broker's figures, and closing trades whose shares were sold by hand."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from backend.brokers.base import AccountSnapshot
from backend.db import lock_account
from backend.domain.calendar import IST
from backend.domain.corporate_actions import RESCALING
from backend.domain.decide import ExitReason, TradeStatus
from backend.domain.market import Side
from backend.domain.orders import LIVE_STATES, OrderEventKind
from backend.domain.orders import OrderState as S
from backend.models import AutoTrade, BrokerAccount, LedgerEntry, Order, OrderOrigin, OutboxMessage
from backend.services import ledger_service
from backend.services.action_record_service import actions_of_trades, is_pending
from backend.services.context import Trading
from backend.services.order_service import apply_event, lock_order, update_trade
from backend.services.trade_query_service import midnight_before

log = structlog.get_logger()


async def marks_of(trading: Trading, account_ids: Sequence[int]) -> Mapping[int, int]:
    """The newest ledger entry of each account: one that is newer than a report makes the report an old one."""
    async with trading.sessions() as session:
        newest = (
            select(LedgerEntry.id)
            .where(LedgerEntry.account_id == BrokerAccount.id)
            .order_by(LedgerEntry.id.desc())
            .limit(1)
            .scalar_subquery()
        )
        rows = await session.execute(
            select(BrokerAccount.id, newest).where(BrokerAccount.id == func.any(list(account_ids)))
        )
        return {row[0]: row[1] or 0 for row in rows}


@dataclass(frozen=True, slots=True)
class OurSide:
    """One account as our own record has it: balances, open trades, and the newest ledger entry before the report."""

    books: ledger_service.Books
    trades: Sequence[AutoTrade]
    mark: int
    cash_off_max: Decimal = Decimal(0)

    def cash_in(self, snapshot: AccountSnapshot) -> Decimal:
        """The report's cash; our own figure where the two differ by no more than they may."""
        ours = self.books.cash + self.books.reserved
        return ours if self.books.opened and abs(ours - snapshot.cash) <= self.cash_off_max else snapshot.cash

    def short_of(self, snapshot: AccountSnapshot) -> list[AutoTrade]:
        """Trades of whose shares the account lacks some."""
        return [t for t in self.trades if snapshot.holdings.get(t.symbol, 0) < t.entry_quantity - t.exit_quantity]

    def agrees_with(self, snapshot: AccountSnapshot) -> bool:
        books = self.books
        cash = self.cash_in(snapshot)
        same = books.opened and books.cash + books.reserved == cash and books.shares == _shares(snapshot)
        return same and not self.short_of(snapshot)


async def align_account(
    trading: Trading, account: BrokerAccount, snapshot: AccountSnapshot, known: OurSide, now: datetime
) -> bool:
    """Bring an account's books to what its broker reports, where nothing of ours is open; whether anything changed."""
    short = known.short_of(snapshot)
    async with trading.sessions.begin() as session:
        # Locks as everywhere: trades before the account.
        ids = [trade.id for trade in short]
        await session.execute(
            select(AutoTrade.id).where(AutoTrade.id == func.any(ids)).order_by(AutoTrade.id).with_for_update()
        )
        await lock_account(session, account.id)
        newest = await session.scalar(select(func.max(LedgerEntry.id)).where(LedgerEntry.account_id == account.id))
        if (newest or 0) != known.mark:
            # Something was booked since the report: nothing that it seems to lack is missing.
            return False
        if await is_pending(session, account.id):
            return False
        guarded = select(func.count()).where(
            Order.auto_trade_id == func.any(ids), Order.origin == OrderOrigin.GUARD, Order.state.in_(LIVE_STATES)
        )
        if ids and await session.scalar(guarded):
            return False  # their guards may have been met: the book tells first
        for trade in short:
            await _close_by_hand(session, trade.id, snapshot.holdings.get(trade.symbol, 0), now)
        live = await session.scalar(
            select(func.count()).where(
                Order.account_id == account.id,
                Order.state.in_(LIVE_STATES),
                Order.origin != OrderOrigin.GUARD,  # it holds back nothing, and rests all day
            )
        )
        if live:
            return False
        changes = await ledger_service.align(session, account.id, known.cash_in(snapshot), _shares(snapshot), now)
        if changes and known.books.opened:
            log.warning("books_aligned", account=account.id, changes=changes)
            payload = {"account_id": account.id, "message": f"The broker's figures differ: {'; '.join(changes)}."}
            session.add(OutboxMessage(topic="account.adjusted", user_id=account.user_id, payload=payload))
    return bool(changes)


def _shares(snapshot: AccountSnapshot) -> dict[str, int]:
    return {symbol: shares for symbol, shares in snapshot.holdings.items() if shares}


async def open_trades(session: AsyncSession, account_ids: Sequence[int]) -> Mapping[int, Sequence[AutoTrade]]:
    """Each account's trades that are open and not being left."""
    rows = await session.scalars(
        select(AutoTrade).where(
            AutoTrade.account_id == func.any(account_ids),
            AutoTrade.closed_at.is_(None),
            AutoTrade.status == TradeStatus.OPEN,
        )
    )
    trades: dict[int, list[AutoTrade]] = defaultdict(list)
    for trade in rows.all():
        trades[trade.account_id].append(trade)
    return trades


async def _close_by_hand(session: AsyncSession, trade_id: int, holding: int, now: datetime) -> None:
    """Give an open trade the sells by hand that took its shares: its result is then what they really brought.

    Shares of the user's own are taken to be sold first: only what the account lacks is the trade's. Sells of before a
    split or bonus count other shares than those that are lacking now: a broker may credit new ones days later.
    """
    trade = (await session.scalars(select(AutoTrade).where(AutoTrade.id == trade_id).with_for_update())).one()
    actions = (await actions_of_trades(session, [trade_id]))[trade_id]
    rescaled = [midnight_before(action.ex_date) for action in actions if action.kind in RESCALING]
    missing = trade.entry_quantity - trade.exit_quantity - holding
    sells = await session.scalars(
        select(Order)
        .where(
            Order.account_id == trade.account_id,
            Order.symbol == trade.symbol,
            Order.side == Side.SELL,
            Order.origin != OrderOrigin.ENGINE,
            Order.auto_trade_id.is_(None),
            Order.state.not_in(LIVE_STATES),
            Order.filled_quantity > 0,
            Order.decided_at >= max([trade.decided_at, *rescaled]),
        )
        .order_by(Order.id.desc())
    )
    taken = False
    for sell in sells.all():
        if sell.filled_quantity <= missing:
            sell.auto_trade_id = trade.id
            missing -= sell.filled_quantity
            taken = True
    if taken and trade.status is TradeStatus.OPEN:
        trade.exit_reason = ExitReason.EXTERNAL
        await session.flush()
        await update_trade(session, trade.id, now)
    elif missing > 0:
        log.error("trade_without_shares", trade=trade.id, symbol=trade.symbol, missing=missing)


OVERNIGHT = "its day is over, today's book does not show it, and the account has the shares that it had"


async def end_overnight(
    trading: Trading, account_id: int, snapshot: AccountSnapshot, books: ledger_service.Books, now: datetime
) -> bool:
    """Expire orders of earlier days that a real broker's book, which is the day's, cannot show any more; whether there
    was one. The call comes after today's whole book was read.

    Every order is for the day. One whose share the account has just as many of as our books traded nothing that we do
    not know; any other stays as it is until a person has looked.
    """
    today = datetime.combine(now.astimezone(IST).date(), datetime.min.time(), tzinfo=IST)
    theirs = (Order.account_id == account_id, Order.decided_at < today, Order.state.in_(LIVE_STATES - {S.PENDING}))
    async with trading.sessions() as session:
        ids = (await session.scalars(select(Order.id).where(*theirs).order_by(Order.id))).all()
    ended = 0
    for order_id in ids:
        async with trading.sessions.begin() as session:
            order = await lock_order(session, order_id)
            same = snapshot.holdings.get(order.symbol, 0) == books.shares.get(order.symbol, 0)
            if same and order.state in LIVE_STATES:
                await apply_event(session, order, OrderEventKind.EXPIRED, OVERNIGHT, now)
                ended += 1
    if ended:
        log.warning("orders_of_yesterday_ended", account=account_id, orders=ended)
    return ended > 0
