"""Converting a position of today between delivery and intraday: it moves from one product to the other at its price."""

from datetime import date
from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from backend.brokers.base import OrderRejectedError
from backend.brokers.paper_ledger import CASH, balances, reserved_cash, reserved_shares
from backend.brokers.paper_market import PaperRules
from backend.brokers.paper_positions import margin_money, open_position
from backend.db import lock_account
from backend.domain.market import Product
from backend.models.paper import PaperPosition


async def convert_position(
    sessions: async_sessionmaker[AsyncSession],
    account_id: int,
    symbol: str,
    day: date,
    quantity: int,
    old: Product,
    new: Product,
    leverage: Decimal,
) -> None:
    """Move `quantity` shares that were bought on `day`. The charges of the orders that bought them stay what they were.

    Raises:
        OrderRejectedError: so many are not open, resting orders sell them, or delivery cannot be paid for.
    """
    async with sessions.begin() as session:
        await lock_account(session, account_id)
        row = PaperPosition
        of = row.account_id == account_id, row.day == day, row.symbol == symbol, row.product == old
        source = await session.scalar(select(row).where(*of).execution_options(populate_existing=True))
        held = open_position([source]) if source is not None else None
        promised = await reserved_shares(session, account_id, symbol, product=old)
        if source is None or held is None or not 0 < quantity <= held.quantity - promised:
            raise OrderRejectedError(f"So many shares of {symbol} are not open as {old.value.upper()} today.")
        value = held.cost * quantity / held.quantity
        source.buy_quantity -= quantity
        source.buy_value -= value
        upsert = insert(row).values(
            account_id=account_id,
            day=day,
            symbol=symbol,
            exchange=source.exchange,
            product=new,
            buy_quantity=quantity,
            buy_value=value,
            sell_quantity=0,
            sell_value=0,
        )
        await session.flush()
        await session.execute(
            upsert.on_conflict_do_update(
                index_elements=[row.account_id, row.day, row.symbol, row.exchange, row.product],
                set_={"buy_quantity": row.buy_quantity + quantity, "buy_value": row.buy_value + value},
            )
        )
        await _require_paid(session, account_id, PaperRules(intraday=True, intraday_leverage=leverage))


async def _require_paid(session: AsyncSession, account_id: int, rules: PaperRules) -> None:
    held = await balances(session, [account_id])
    margins = (await margin_money(session, held, rules)).get(account_id, Decimal(0))
    reserved = (await reserved_cash(session, [account_id])).get(account_id, Decimal(0))
    free = held[account_id][CASH] + margins - reserved
    if free < 0:
        raise OrderRejectedError(f"Insufficient funds: {-free:.2f} more are needed to take the shares for delivery.")
