"""Writing Sauda's own books: each journal in one statement, with the balances that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from backend.db import lock_account
from backend.domain import ledger
from backend.domain.calendar import IST
from backend.domain.corporate_actions import ActionKind, CorporateAction, entitlement
from backend.domain.ledger import Journal, JournalKind, LedgerAccount
from backend.domain.market import Side
from backend.domain.orders import LIVE_STATES
from backend.domain.reconcile import BookTrade
from backend.models import AccountAction, LedgerBalance, LedgerEntry, Order
from backend.services.action_record_service import applied_after

_POST = text("""
    WITH journal AS MATERIALIZED (SELECT nextval('ledger_journal_seq') AS number),
         lines AS (
             SELECT * FROM unnest(CAST(:accounts AS text[]), CAST(:symbols AS text[]), CAST(:amounts AS numeric[]),
                                  CAST(:quantities AS int[])) AS l(ledger_account, symbol, amount, quantity)),
         written AS (
             INSERT INTO ledger_entries
                    (journal, account_id, kind, ledger_account, symbol, amount, quantity, order_id, at)
             SELECT journal.number, :account_id, :kind, l.ledger_account, l.symbol, l.amount, l.quantity,
                    CAST(:order_id AS bigint), :at
               FROM journal, lines l)
    INSERT INTO ledger_balances AS b (account_id, ledger_account, symbol, balance, quantity)
    -- a share that leaves and comes in again has two lines in one journal
    SELECT :account_id, l.ledger_account, l.symbol, sum(l.amount), CAST(sum(l.quantity) AS int) FROM lines l
     GROUP BY l.ledger_account, l.symbol
        ON CONFLICT (account_id, ledger_account, symbol) DO UPDATE
       SET balance = b.balance + EXCLUDED.balance, quantity = b.quantity + EXCLUDED.quantity
""")


@dataclass(frozen=True, slots=True)
class Books:
    """An account's balances: rupees free, reserved and in positions at cost, and shares by symbol."""

    cash: Decimal = Decimal(0)
    reserved: Decimal = Decimal(0)
    positions: Decimal = Decimal(0)
    shares: dict[str, int] = field(default_factory=dict[str, int])
    opened: bool = False
    """Whether anything was ever written: what was not, cannot be spent."""


async def post(
    session: AsyncSession, account_id: int, journal: Journal, at: datetime, order_id: int | None = None
) -> None:
    """Write a journal. Joins the caller's transaction, which has locked the account."""
    lines = journal.lines
    await session.execute(
        _POST,
        {
            "account_id": account_id,
            "kind": journal.kind.value,
            "order_id": order_id,
            "at": at,
            "accounts": [line.account.value for line in lines],
            "symbols": [line.symbol for line in lines],
            "amounts": [line.amount for line in lines],
            "quantities": [line.quantity for line in lines],
        },
    )


async def open_books(session: AsyncSession, account_id: int, rupees: Decimal, at: datetime) -> None:
    """Begin an account's books with the money that is in it."""
    await lock_account(session, account_id)
    await post(session, account_id, ledger.fund(rupees), at)


async def books_of(session: AsyncSession, account_ids: Sequence[int]) -> dict[int, Books]:
    """The balances of accounts; one without entries has empty, unopened books."""
    rows = await session.scalars(select(LedgerBalance).where(LedgerBalance.account_id == func.any(list(account_ids))))
    found: dict[int, Books] = {account_id: Books() for account_id in account_ids}
    sums: dict[tuple[int, LedgerAccount], Decimal] = {}
    for row in rows:
        key = row.account_id, row.ledger_account
        sums[key] = sums.get(key, Decimal(0)) + row.balance
        if row.ledger_account is LedgerAccount.POSITIONS and row.quantity:
            found[row.account_id].shares[row.symbol] = row.quantity
    for account_id in {account_id for account_id, _ in sums}:
        found[account_id] = Books(
            cash=sums.get((account_id, LedgerAccount.CASH), Decimal(0)),
            reserved=sums.get((account_id, LedgerAccount.RESERVED), Decimal(0)),
            positions=sums.get((account_id, LedgerAccount.POSITIONS), Decimal(0)),
            shares=found[account_id].shares,
            opened=True,
        )
    return found


async def reserved_for(session: AsyncSession, order_id: int) -> Decimal:
    """Rupees an order still holds back."""
    reserved = await session.scalar(
        select(func.sum(LedgerEntry.amount)).where(
            LedgerEntry.order_id == order_id, LedgerEntry.ledger_account == LedgerAccount.RESERVED
        )
    )
    return reserved or Decimal(0)


async def reserve(session: AsyncSession, order: Order, rupees: Decimal, at: datetime) -> None:
    """Set aside what a buy may cost. The caller has locked the account."""
    await post(session, order.account_id, ledger.reserve(rupees), at, order.id)


async def post_fill(session: AsyncSession, order: Order, trade: BookTrade) -> None:
    """Book one execution of an order that has just counted it: cash, charges, shares, and its part of the reserve."""
    await lock_account(session, order.account_id)
    went_through = await applied_after(session, order.account_id, trade.traded_at.astimezone(IST).date())
    symbol, quantity = await _carry(session, order, trade, went_through)
    held, cost = await position(session, order.account_id, symbol)
    value = trade.price * trade.quantity
    used = Decimal(0)
    if order.side is Side.BUY:
        open_before = order.quantity - order.filled_quantity + trade.quantity
        used = ledger.used_of_reserve(await reserved_for(session, order.id), trade.quantity, open_before)
    if not quantity:
        kind = JournalKind.BUY if order.side is Side.BUY else JournalKind.SELL
        signed = value if order.side is Side.BUY else -value
        journal = ledger.settle_without_shares(kind, signed, trade.charges, used)
    elif order.side is Side.BUY:
        journal = ledger.buy(symbol, quantity, value / quantity, trade.charges, used, held=held, value=value)
    else:
        journal = ledger.sell(
            symbol, quantity, value / quantity, trade.charges, held=max(held, 0), held_cost=cost, value=value
        )
    await post(session, order.account_id, journal, trade.traded_at, order.id)


async def _carry(
    session: AsyncSession, order: Order, trade: BookTrade, went_through: Sequence[tuple[AccountAction, CorporateAction]]
) -> tuple[str, int]:
    """The symbol and shares of today that a trade is of. One from before the ex-date of an action that the account has
    been through changes what that action made of the holding, as if it had been known in time."""
    symbol, shares = order.symbol, trade.quantity if order.side is Side.BUY else -trade.quantity
    for row, action in went_through:
        if action.symbol != symbol:
            continue
        row.shares_before += shares
        due = entitlement(action, row.shares_before)
        moved, paid = due.shares - row.shares_after, due.cash - row.cash
        row.shares_after, row.cash = due.shares, due.cash
        if paid and action.kind is ActionKind.DIVIDEND:
            await post(session, order.account_id, ledger.dividend(symbol, paid), trade.traded_at, order.id)
        elif paid:
            await post(session, order.account_id, ledger.payout_change(paid), trade.traded_at, order.id)
        symbol, shares = action.symbol_after, moved
    return symbol, abs(shares)


async def position(session: AsyncSession, account_id: int, symbol: str) -> tuple[int, Decimal]:
    """(shares, their cost in rupees) of one symbol."""
    key = (account_id, LedgerAccount.POSITIONS, symbol)
    position = await session.get(LedgerBalance, key, populate_existing=True)
    return (position.quantity, position.balance) if position is not None else (0, Decimal(0))


async def release_rest(session: AsyncSession, order: Order, at: datetime) -> None:
    """Give back what an ended order still holds. Nothing where it holds nothing or may still fill."""
    if order.state in LIVE_STATES or order.side is not Side.BUY:
        return
    rest = await reserved_for(session, order.id)
    if rest:
        await lock_account(session, order.account_id)
        await post(session, order.account_id, ledger.release(rest), at, order.id)


async def align(
    session: AsyncSession, account_id: int, cash: Decimal, holdings: dict[str, int], at: datetime
) -> list[str]:
    """Bring the books to the broker's own figures and say in words what differed.

    Only for an account in which nothing of ours is open: then a difference came from outside (a deposit, interest, a
    corporate action). The caller has locked the account.
    """
    books = (await books_of(session, [account_id]))[account_id]
    changes: list[str] = []
    if cash != books.cash + books.reserved:
        kind = JournalKind.ADJUST if books.opened else JournalKind.FUND
        await post(session, account_id, ledger.fund(cash - books.cash - books.reserved, kind), at)
        changes.append(f"cash by {cash - books.cash - books.reserved} rupees")
    for symbol in sorted(holdings.keys() | books.shares.keys()):
        difference = holdings.get(symbol, 0) - books.shares.get(symbol, 0)
        if difference:
            held, cost = await position(session, account_id, symbol)
            await post(session, account_id, ledger.adopt(symbol, difference, held=held, held_cost=cost), at)
            changes.append(f"{symbol} by {difference:+d} shares")
    return changes
