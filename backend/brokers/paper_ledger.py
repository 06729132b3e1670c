"""The paper broker's ledger: what each account has, what its resting orders hold back, and every change as an entry."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, String, any_, bindparam, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncSession

from backend.db import lock_account
from backend.domain.calendar import IST
from backend.domain.charges import charges_on_turnover, rates_on
from backend.domain.market import Exchange, Product, Side
from backend.domain.matching import PaperStatus
from backend.models.paper import PaperBalance, PaperEntry, PaperEntryKind, PaperOrder, PaperTrade

CASH = "INR"
RESTING = (PaperStatus.OPEN, PaperStatus.TRIGGER_PENDING)


@dataclass(frozen=True, slots=True)
class Posting:
    """One change to be made: rupees where the asset is CASH, shares of that symbol otherwise."""

    asset: str
    kind: PaperEntryKind
    amount: Decimal


def any_id(ids: Sequence[int]) -> ColumnElement[Any]:
    """For `column == any_id(ids)`: one array, however many ids; an IN list ends at 32,767 parameters."""
    return any_(literal(list(ids), ARRAY(BigInteger)))


def any_tag(tags: Sequence[str]) -> ColumnElement[Any]:
    """For `column == any_tag(tags)`, as any_id."""
    return any_(literal(list(tags), ARRAY(String)))


def is_resting() -> ColumnElement[bool]:
    """Whether an order may still fill, in words the planner can match with the index of resting orders."""
    return PaperOrder.status.in_(bindparam("resting", RESTING, expanding=True, literal_execute=True))


async def deposit(session: AsyncSession, account_id: int, rupees: Decimal, at: datetime) -> None:
    """Put play money into a paper account. Joins the caller's transaction, which locks the account until its end."""
    await lock_account(session, account_id)
    await post(session, account_id, [Posting(CASH, PaperEntryKind.DEPOSIT, rupees)], at)


async def post(
    session: AsyncSession, account_id: int, postings: Sequence[Posting], at: datetime, trade_id: int | None = None
) -> None:
    """Append an entry for each posting, in order, and move the balances along. The caller has locked the account."""
    changes: dict[str, Decimal] = defaultdict(Decimal)
    for posting in postings:
        changes[posting.asset] += posting.amount
    upsert = insert(PaperBalance).values(
        [{"account_id": account_id, "asset": asset, "balance": change} for asset, change in changes.items()]
    )
    moved = await session.execute(
        upsert.on_conflict_do_update(
            index_elements=[PaperBalance.account_id, PaperBalance.asset],
            set_={"balance": PaperBalance.balance + upsert.excluded.balance},
        ).returning(PaperBalance.asset, PaperBalance.balance)
    )
    running = {asset: balance - changes[asset] for asset, balance in moved}
    for posting in postings:
        running[posting.asset] += posting.amount
        session.add(
            PaperEntry(
                account_id=account_id,
                asset=posting.asset,
                kind=posting.kind,
                amount=posting.amount,
                balance_after=running[posting.asset],
                trade_id=trade_id,
                at=at,
            )
        )
    await session.flush()


async def balances(session: AsyncSession, account_ids: Sequence[int]) -> dict[int, dict[str, Decimal]]:
    """What each account has now, by asset: rupees of CASH, shares of symbols. Accounts without an entry are absent."""
    rows = await session.execute(
        select(PaperBalance.account_id, PaperBalance.asset, PaperBalance.balance).where(
            PaperBalance.account_id == any_id(account_ids)
        )
    )
    found: dict[int, dict[str, Decimal]] = defaultdict(dict)
    for account_id, asset, balance in rows:
        found[account_id][asset] = balance
    return found


def cost_of_opening(
    side: Side,
    product: Product,
    exchange: Exchange,
    day: date,
    open_value: Decimal,
    *,
    leverage: Decimal = Decimal(1),
    filled_value: Decimal = Decimal(0),
    charges_paid: Decimal = Decimal(0),
) -> Decimal:
    """Rupees, charges included, that an order still needs to trade `open_value` rupees' worth of new shares on `day`.

    `filled_value` and `charges_paid` are what it has traded and paid already: charges are levied per order.
    """
    if not open_value:
        return Decimal(0)
    due = charges_on_turnover(rates_on(product, exchange, day), side, filled_value + open_value).total
    return open_value / leverage + due - charges_paid


async def reserved_cash(
    session: AsyncSession, account_ids: Sequence[int], besides: int | None = None
) -> dict[int, Decimal]:
    """Rupees that resting orders hold back, per account that has any: all that they can still cost, charges included.

    Args:
        besides: the order that is left out.
    """
    order = PaperOrder
    opening = order.quantity - func.greatest(order.filled_quantity, order.closing_quantity)
    rows = await session.execute(
        select(
            order.account_id,
            order.side,
            order.product,
            order.exchange,
            order.placed_at,
            order.limit_price * opening,
            order.leverage,
            order.filled_value,
            order.charges,
        ).where(order.account_id == any_id(account_ids), is_resting(), opening > 0, order.id != (besides or 0))
    )
    reserved: dict[int, Decimal] = defaultdict(Decimal)
    for account_id, side, product, exchange, placed_at, open_value, leverage, filled_value, paid in rows:
        reserved[account_id] += cost_of_opening(
            side,
            product,
            Exchange(exchange),
            placed_at.astimezone(IST).date(),
            open_value,
            leverage=leverage,
            filled_value=filled_value,
            charges_paid=paid,
        )
    return reserved


async def reserved_shares(
    session: AsyncSession,
    account_id: int,
    symbol: str,
    side: Side = Side.SELL,
    product: Product | None = None,
    besides: int | None = None,
) -> int:
    """Shares of `symbol` that the account's resting orders of one side take out of what it has; of one product, or of
    all. `besides` is the order that is left out."""
    order = PaperOrder
    closing = func.greatest(order.closing_quantity - order.filled_quantity, 0)
    wanted = [order.account_id == account_id, order.symbol == symbol, order.side == side, order.id != (besides or 0)]
    if product is not None:
        wanted.append(order.product == product)
    reserved = await session.scalar(select(func.sum(closing)).where(*wanted, is_resting()))
    return int(reserved or 0)


async def owes_dp_charge(session: AsyncSession, order: PaperOrder, day: date) -> bool:
    """Whether this is the day's first delivery sell of the share: the depository charges once per share and day."""
    if order.side is not Side.SELL or order.product is not Product.CNC:
        return False
    earlier = await session.scalar(
        select(PaperTrade.id)
        .join(PaperOrder, PaperOrder.id == PaperTrade.order_id)
        .where(
            PaperTrade.account_id == order.account_id,
            PaperTrade.trade_date == day,
            PaperOrder.symbol == order.symbol,
            PaperOrder.side == Side.SELL,
            PaperOrder.product == Product.CNC,
        )
        .limit(1)
    )
    return earlier is None
