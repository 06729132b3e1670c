"""Corporate actions in the paper broker's own book: each holding by reversal and re-entry, once, in one transaction."""

from datetime import datetime, time
from decimal import Decimal

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from backend.brokers.paper_ledger import CASH, Posting, is_resting, post
from backend.db import lock_account
from backend.domain.calendar import IST
from backend.domain.corporate_actions import RESCALING, ActionKind, CorporateAction, Entitlement, entitlement
from backend.models.paper import PaperAction, PaperBalance, PaperEntry, PaperEntryKind, PaperOrder

log = structlog.get_logger()


async def action_holders(sessions: async_sessionmaker[AsyncSession], action: CorporateAction) -> list[int]:
    """Accounts with shares of the symbol, or orders that may still move some, that `action` has not reached."""
    settled = select(PaperAction.account_id).where(PaperAction.action == action.key)
    holding = select(PaperBalance.account_id).where(PaperBalance.asset == action.symbol, PaperBalance.balance != 0)
    ordered = select(PaperOrder.account_id).where(PaperOrder.symbol == action.symbol, is_resting())
    async with sessions() as session:
        found = set((await session.scalars(holding.union(ordered))).all())
        return sorted(found - set((await session.scalars(settled)).all()))


async def adjust(
    sessions: async_sessionmaker[AsyncSession], account_id: int, action: CorporateAction, now: datetime
) -> bool:
    """Bring one account through `action`; False where it cannot be (yet), and nothing was written."""
    ex_at = datetime.combine(action.ex_date, time(), tzinfo=IST)
    async with sessions.begin() as session:
        await lock_account(session, account_id)
        if await session.get(PaperAction, (account_id, action.key)) is not None:
            return True
        if await _unsettled(session, account_id, action, ex_at):
            return False
        balance = await session.get(PaperBalance, (account_id, action.symbol), populate_existing=True)
        shares = int(balance.balance) if balance is not None else 0
        # What came on the ex-date or later has no part in it.
        traded, since = await _traded_since(session, account_id, action, ex_at)
        before = shares if action.kind is ActionKind.RENAME else shares - since
        if action.kind is ActionKind.DIVIDEND:
            # A split of the same day or later may have been booked before the dividend became known.
            before = await _held_before(session, account_id, action, ex_at)
        if action.kind in RESCALING and traded and before:
            log.error("paper_holding_mixed", account=account_id, action=action.key, shares=shares, since=since)
            return False
        try:
            due = entitlement(action, before)
        except ValueError as unknown:
            log.warning("paper_action_waits", account=account_id, action=action.key, why=str(unknown))
            return False
        if postings := _postings(action, before, due):
            await post(session, account_id, postings, ex_at)
        session.add(
            PaperAction(
                account_id=account_id,
                action=action.key,
                shares_before=before,
                shares_after=due.shares,
                cash=due.cash,
                at=now,
            )
        )
        return True


async def _unsettled(session: AsyncSession, account_id: int, action: CorporateAction, ex_at: datetime) -> bool:
    """Whether an order of before the ex-date may still fill: its bars have not been read yet."""
    resting = select(PaperOrder.id).where(
        PaperOrder.account_id == account_id,
        PaperOrder.symbol == action.symbol,
        PaperOrder.placed_at < ex_at,
        is_resting(),
    )
    return await session.scalar(resting.limit(1)) is not None


async def _traded_since(
    session: AsyncSession, account_id: int, action: CorporateAction, ex_at: datetime
) -> tuple[bool, int]:
    """Whether the symbol was traded at or after the ex-date, and the shares bought less those sold."""
    traded = select(func.count(), func.coalesce(func.sum(PaperEntry.amount), 0)).where(
        PaperEntry.account_id == account_id,
        PaperEntry.asset == action.symbol,
        PaperEntry.kind == PaperEntryKind.TRADE,
        PaperEntry.at >= ex_at,
    )
    count, shares = (await session.execute(traded)).one()
    return count > 0, int(shares)


async def _held_before(session: AsyncSession, account_id: int, action: CorporateAction, ex_at: datetime) -> int:
    """Shares at the close before the ex-date, by the entries of then."""
    held = select(func.coalesce(func.sum(PaperEntry.amount), 0)).where(
        PaperEntry.account_id == account_id, PaperEntry.asset == action.symbol, PaperEntry.at < ex_at
    )
    return int((await session.execute(held)).scalar_one())


def _postings(action: CorporateAction, shares: int, due: Entitlement) -> list[Posting]:
    if not shares:
        return []
    if action.kind is ActionKind.DIVIDEND:
        return [Posting(CASH, PaperEntryKind.DIVIDEND, due.cash)]
    kind = PaperEntryKind.CORPORATE_ACTION
    moved = [Posting(action.symbol, kind, -Decimal(shares)), Posting(action.symbol_after, kind, Decimal(due.shares))]
    return [*moved, Posting(CASH, kind, due.cash)] if due.cash else moved
