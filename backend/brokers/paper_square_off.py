"""Open intraday positions, squared off by the broker at the day's time: at the market, for a fee."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import exists, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from backend.brokers.base import OrderRequest
from backend.brokers.paper_fills import meet
from backend.brokers.paper_ledger import is_resting
from backend.brokers.paper_market import MarketHours, PaperQuote, PaperRules
from backend.brokers.paper_orders import arriving
from backend.brokers.paper_positions import intraday_rows, open_position
from backend.db import lock_account
from backend.domain.market import OrderType, Product, Side, round_nearest
from backend.domain.matching import FillModel
from backend.models.paper import PaperOrder, PaperPosition

MESSAGE = "intraday position squared off by the broker"


@dataclass(frozen=True, slots=True)
class DuePosition:
    """An intraday position that its broker ends at the instant `at`, if it is still open then."""

    account_id: int
    symbol: str
    exchange: str
    at: datetime


async def due_positions(session: AsyncSession, account_ids: Sequence[int], hours: MarketHours) -> list[DuePosition]:
    """The open intraday positions for which no square-off was placed yet."""
    days: dict[tuple[int, str, str], list[PaperPosition]] = defaultdict(list)
    for row in await session.scalars(intraday_rows(account_ids)):
        days[row.account_id, row.symbol, row.exchange].append(row)
    found: list[DuePosition] = []
    for (account_id, symbol, exchange), rows in days.items():
        at = hours.square_off_at(symbol, rows[-1].day)
        if at is not None and open_position(rows).quantity and not await _was_placed(session, account_id, symbol, at):
            found.append(DuePosition(account_id, symbol, exchange, at))
    return found


async def _was_placed(session: AsyncSession, account_id: int, symbol: str, at: datetime) -> bool:
    order = PaperOrder
    placed = exists().where(
        order.account_id == account_id, order.symbol == symbol, order.squares_off, order.placed_at == at
    )
    return bool(await session.scalar(select(placed)))


async def square_off(
    sessions: async_sessionmaker[AsyncSession],
    due: DuePosition,
    quote: PaperQuote,
    fills: FillModel,
    rules: PaperRules,
) -> bool:
    """Place the order that ends the position, at the edge of the band; whether it was this call that did.

    What it cannot fill at once it goes on filling until continuous trading ends; what is left then is carried.
    """
    async with sessions.begin() as session:
        await lock_account(session, due.account_id)
        rows = [row for row in await session.scalars(intraday_rows([due.account_id])) if row.symbol == due.symbol]
        held = open_position(rows).quantity
        waiting = exists().where(
            PaperOrder.account_id == due.account_id,
            PaperOrder.symbol == due.symbol,
            PaperOrder.product == Product.MIS,
            is_resting(),
        )
        placed = await _was_placed(session, due.account_id, due.symbol, due.at)
        if not held or placed or await session.scalar(select(waiting)):
            return False
        side = Side.SELL if held > 0 else Side.BUY
        edge = quote.view.lower_band if side is Side.SELL else quote.view.upper_band
        limit = round_nearest(edge, quote.view.tick)
        order = OrderRequest(
            due.symbol, due.exchange, side, Product.MIS, OrderType.LIMIT, abs(held), Decimal(limit), tag=""
        )
        row = arriving(due.account_id, order, due.at)
        row.closing_quantity, row.squares_off, row.broker_like, row.message = abs(held), True, True, MESSAGE
        session.add(row)
        await session.flush()
        await meet(session, row, quote, fills, rules, due.at)
        return True
