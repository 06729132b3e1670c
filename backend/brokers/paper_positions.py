"""The paper book's positions: each day's trades by share and product, and the money that open intraday ones move."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from sqlalchemy import Select, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from backend.brokers.paper_ledger import CASH, any_id
from backend.brokers.paper_market import PaperRules
from backend.domain.market import Product, Side
from backend.models.paper import PaperOrder, PaperPosition


@dataclass(frozen=True, slots=True)
class OpenPosition:
    """Shares, short below zero, and what they were opened for: rupees paid, or received below zero."""

    quantity: int
    cost: Decimal

    def money(self, leverage: Decimal) -> Decimal:
        """What it adds to the account's cash to give its own money that is not held back: its cost is no loss, and its
        value divided by `leverage` is held back."""
        return self.cost - abs(self.cost) / leverage


def open_position(rows: Iterable[PaperPosition]) -> OpenPosition:
    """What is open of the rows together, at the average price of the side it was opened on."""
    bought = sold = 0
    buy_value = sell_value = Decimal(0)
    for row in rows:
        bought, sold = bought + row.buy_quantity, sold + row.sell_quantity
        buy_value, sell_value = buy_value + row.buy_value, sell_value + row.sell_value
    net = bought - sold
    if net == 0:
        return OpenPosition(0, Decimal(0))
    return OpenPosition(net, buy_value * net / bought if net > 0 else sell_value * net / sold)


async def open_intraday(session: AsyncSession, account_ids: Sequence[int]) -> Mapping[int, Mapping[str, OpenPosition]]:
    """The open intraday positions of each account that has any, by symbol."""
    rows: dict[int, dict[str, list[PaperPosition]]] = defaultdict(lambda: defaultdict(list))
    for row in await session.scalars(intraday_rows(account_ids)):
        rows[row.account_id][row.symbol].append(row)
    return {
        account: {symbol: position for symbol, of in found.items() if (position := open_position(of)).quantity}
        for account, found in rows.items()
    }


async def margin_money(
    session: AsyncSession, held: Mapping[int, Mapping[str, Decimal]], rules: PaperRules
) -> Mapping[int, Decimal]:
    """What the open intraday positions of each account that has any add to its cash, as OpenPosition.money.

    Where products do not stand apart, an intraday sale may be of shares held; then only real shorts count.

    Args:
        held: each account's balances.
    """
    short = {account: {a for a, n in assets.items() if a != CASH and n < 0} for account, assets in held.items()}
    asked = [account for account in held if rules.intraday or short[account]]
    if not asked:
        return {}
    return {
        account: sum(
            (p.money(rules.leverage) for symbol, p in of.items() if rules.intraday or symbol in short[account]),
            Decimal(0),
        )
        for account, of in (await open_intraday(session, asked)).items()
    }


def intraday_rows(account_ids: Sequence[int]) -> Select[PaperPosition]:
    """The rows of days whose intraday trades are not even, in words the planner can match with their index."""
    row = PaperPosition
    return (
        select(row)
        .where(row.account_id == any_id(account_ids), row.product == Product.MIS, row.buy_quantity != row.sell_quantity)
        .order_by(row.day)
        .execution_options(populate_existing=True)
    )


async def note_trade(session: AsyncSession, order: PaperOrder, quantity: int, value: Decimal, day: date) -> None:
    """Add a trade to its day's position. The caller has locked the account."""
    buys = order.side is Side.BUY
    row = PaperPosition
    upsert = insert(row).values(
        account_id=order.account_id,
        day=day,
        symbol=order.symbol,
        exchange=order.exchange,
        product=order.product,
        buy_quantity=quantity if buys else 0,
        buy_value=value if buys else 0,
        sell_quantity=0 if buys else quantity,
        sell_value=0 if buys else value,
    )
    added = upsert.excluded
    await session.execute(
        upsert.on_conflict_do_update(
            index_elements=[row.account_id, row.day, row.symbol, row.exchange, row.product],
            set_={
                "buy_quantity": row.buy_quantity + added.buy_quantity,
                "buy_value": row.buy_value + added.buy_value,
                "sell_quantity": row.sell_quantity + added.sell_quantity,
                "sell_value": row.sell_value + added.sell_value,
            },
        )
    )
