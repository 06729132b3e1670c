"""The paper broker: a book of its own in PostgreSQL, real prices, real charges, no real money."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from backend.brokers.base import (
    AccountSnapshot,
    BrokerError,
    BrokerUnavailableError,
    OrderRejectedError,
    OrderRequest,
)
from backend.db import lock_account
from backend.domain.calendar import IST, Phase
from backend.domain.charges import charges_on_turnover, dp_charge, rates_on
from backend.domain.market import Exchange, OrderType, Product, Side
from backend.domain.matching import (
    BarView,
    FillModel,
    Match,
    PaperStatus,
    RestingOrder,
    match_in_bar,
    match_on_arrival,
)
from backend.domain.reconcile import BookOrder, BookStatus, BookTrade
from backend.domain.risk import QuoteView
from backend.models import PaperEntry, PaperEntryKind, PaperOrder, PaperTrade

CASH = "INR"
RESTING = (PaperStatus.OPEN, PaperStatus.TRIGGER_PENDING)

_BOOK_STATUS = {
    PaperStatus.OPEN: BookStatus.OPEN,
    PaperStatus.TRIGGER_PENDING: BookStatus.OPEN,
    PaperStatus.COMPLETE: BookStatus.COMPLETE,
    PaperStatus.REJECTED: BookStatus.REJECTED,
    PaperStatus.CANCELLED: BookStatus.CANCELLED,
    PaperStatus.EXPIRED: BookStatus.EXPIRED,
}


@dataclass(frozen=True, slots=True)
class PaperQuote:
    """A quote with the last finished bar, which bounds what could have been traded just now."""

    view: QuoteView
    bar: BarView


@dataclass(frozen=True, slots=True)
class PaperMarket:
    """What the paper broker sees of the market. `now` is the market's clock, `today` and phases follow from it."""

    now: Callable[[], Awaitable[datetime]]
    quotes: Callable[[Sequence[str], datetime], Awaitable[Mapping[str, PaperQuote]]]
    bars_since: Callable[[Mapping[str, datetime], datetime], Awaitable[Mapping[str, Sequence[BarView]]]]
    phase: Callable[[str, datetime], Phase]
    session_ended: Callable[[datetime, datetime], bool]
    """(placed at, now) → whether the session an order was placed in is over: day orders expire then."""


class PaperBroker:
    """One book for all paper accounts. Each order, fill and entry is one transaction under the account's lock."""

    name = "paper"
    # A place is one transaction with a deadline of 2 s; after 10 s without a row it was never committed.
    absence_is_proof_after_s: float | None = 10.0

    def __init__(
        self, sessions: async_sessionmaker[AsyncSession], market: PaperMarket, fills: FillModel | None = None
    ) -> None:
        self._sessions = sessions
        self._market = market
        self._fills = fills or FillModel()

    async def place(self, account_id: int, order: OrderRequest) -> str:
        now = await self._market.now()
        quote = (await self._market.quotes([order.symbol], now)).get(order.symbol)
        async with self._sessions.begin() as session:
            await lock_account(session, account_id)
            refusal = await self._refusal(session, account_id, order, quote, now)
            stop = order.order_type is OrderType.STOP_LIMIT
            row = PaperOrder(
                account_id=account_id,
                tag=order.tag,
                symbol=order.symbol,
                exchange=order.exchange,
                side=order.side,
                product=order.product,
                order_type=order.order_type,
                quantity=order.quantity,
                limit_price=order.limit_price,
                trigger_price=order.trigger_price,
                status=PaperStatus.TRIGGER_PENDING if stop else PaperStatus.OPEN,
                filled_quantity=0,
                filled_value=Decimal(0),
                charges=Decimal(0),
                message="",
                placed_at=now,
                matched_through=now,
            )
            if refusal is not None:
                row.status, row.message = PaperStatus.REJECTED, refusal
            session.add(row)
            await session.flush()
            if refusal is None and quote is not None:
                view = quote.view
                match = match_on_arrival(_resting(row), view.bid, view.ask, quote.bar.volume, view.tick, self._fills)
                await self._book_match(session, row, match, now)
        if refusal is not None:
            raise OrderRejectedError(refusal)
        return str(row.id)

    async def cancel(self, account_id: int, broker_order_id: str) -> None:
        async with self._sessions.begin() as session:
            await lock_account(session, account_id)
            row = await session.get(PaperOrder, int(broker_order_id), with_for_update=True)
            if row is None or row.account_id != account_id:
                raise OrderRejectedError(f"no order {broker_order_id} in this account")
            if row.status in RESTING:
                row.status, row.message = PaperStatus.CANCELLED, "cancelled on request"

    async def books(
        self, account_ids: Sequence[int], since: datetime
    ) -> Mapping[int, Sequence[BookOrder] | BrokerError]:
        await self._advance(account_ids)
        async with self._sessions() as session:
            orders = (
                await session.scalars(
                    select(PaperOrder)
                    .where(PaperOrder.account_id.in_(account_ids), PaperOrder.placed_at >= since)
                    .order_by(PaperOrder.id)
                )
            ).all()
            trades = await session.scalars(
                select(PaperTrade).where(PaperTrade.order_id.in_([o.id for o in orders])).order_by(PaperTrade.id)
            )
            by_order: dict[int, list[BookTrade]] = defaultdict(list)
            for trade in trades:
                by_order[trade.order_id].append(
                    BookTrade(str(trade.id), trade.quantity, trade.price, trade.charges, trade.traded_at)
                )
        books: dict[int, list[BookOrder]] = {account_id: [] for account_id in account_ids}
        for order in orders:
            books[order.account_id].append(
                BookOrder(
                    str(order.id),
                    order.tag,
                    _BOOK_STATUS[order.status],
                    order.message,
                    tuple(by_order[order.id]),
                )
            )
        return books

    async def snapshots(self, account_ids: Sequence[int]) -> Mapping[int, AccountSnapshot | BrokerError]:
        async with self._sessions() as session:
            balances = await _balances(session, account_ids)
            reserved = await _reserved_cash(session, account_ids)
        snapshots: dict[int, AccountSnapshot | BrokerError] = {}
        for account_id in account_ids:
            assets = balances.get(account_id)
            if assets is None or CASH not in assets:
                snapshots[account_id] = BrokerUnavailableError(f"paper account {account_id} has no funds entry")
                continue
            cash = assets[CASH]
            holdings = {asset: int(held) for asset, held in assets.items() if asset != CASH and held}
            snapshots[account_id] = AccountSnapshot(cash, cash - reserved.get(account_id, Decimal(0)), holdings)
        return snapshots

    async def _refusal(
        self, session: AsyncSession, account_id: int, order: OrderRequest, quote: PaperQuote | None, now: datetime
    ) -> str | None:
        """The broker's words if it refuses `order`, as an exchange and a risk desk would."""
        if self._market.phase(order.symbol, now) is not Phase.CONTINUOUS:
            return "Market is closed: orders are taken in the continuous session only."
        if quote is None:
            return f"No market in {order.symbol} now."
        view = quote.view
        if order.quantity <= 0 or order.quantity % view.lot:
            return f"Quantity must be a positive multiple of {view.lot}."
        if order.limit_price % view.tick:
            return f"Price must be a multiple of the tick {view.tick}."
        if not view.lower_band <= order.limit_price <= view.upper_band:
            return f"Price is outside the band {view.lower_band}-{view.upper_band}."
        if order.order_type is OrderType.MARKET:
            return "Market orders are not accepted through the API without protection."
        if order.order_type is OrderType.STOP_LIMIT and order.trigger_price is None:
            return "A stop order needs a trigger price."
        balances = (await _balances(session, [account_id])).get(account_id, {})
        if order.side is Side.BUY:
            needed = order.limit_price * order.quantity
            rates = rates_on(order.product, Exchange(order.exchange), now.astimezone(IST).date())
            charges = charges_on_turnover(rates, order.side, needed).total
            free = balances.get(CASH, Decimal(0)) - (await _reserved_cash(session, [account_id])).get(account_id, 0)
            if needed + charges > free:
                return f"Insufficient funds: needs {needed + charges:.2f}, free {free:.2f}."
            return None
        held = int(balances.get(order.symbol, 0)) - await _reserved_shares(session, account_id, order.symbol)
        if order.quantity > held:
            return f"Insufficient holdings: sells {order.quantity}, holds {held}."
        return None

    async def _advance(self, account_ids: Sequence[int]) -> None:
        """Let resting orders meet the bars that finished since they were last matched, and expire day orders."""
        async with self._sessions() as session:
            resting = (
                await session.execute(
                    select(PaperOrder.id, PaperOrder.account_id, PaperOrder.symbol, PaperOrder.matched_through).where(
                        PaperOrder.account_id.in_(account_ids), PaperOrder.status.in_(RESTING)
                    )
                )
            ).all()
        if not resting:
            return
        now = await self._market.now()
        since: dict[str, datetime] = {}
        for row in resting:
            since[row.symbol] = min(row.matched_through, since.get(row.symbol, row.matched_through))
        bars = await self._market.bars_since(since, now)
        for row in resting:
            async with self._sessions.begin() as session:
                await lock_account(session, row.account_id)
                order = await session.get(PaperOrder, row.id, with_for_update=True)
                if order is not None and order.status in RESTING:
                    await self._match_bars(session, order, bars.get(row.symbol, ()), now)

    async def _match_bars(
        self, session: AsyncSession, order: PaperOrder, bars: Sequence[BarView], now: datetime
    ) -> None:
        for bar in bars:
            if bar.start < order.matched_through or self._market.session_ended(order.placed_at, bar.start):
                continue
            await self._book_match(session, order, match_in_bar(_resting(order), bar, self._fills), bar.end)
            order.matched_through = bar.end
            if order.status not in RESTING:
                return
        if self._market.session_ended(order.placed_at, now):
            order.status, order.message = PaperStatus.EXPIRED, "day order: the session has ended"

    async def _book_match(self, session: AsyncSession, order: PaperOrder, match: Match, at: datetime) -> None:
        """Write a fill: trade, cash and holding entries, and the order's progress."""
        if match.triggered and order.status is PaperStatus.TRIGGER_PENDING:
            order.status = PaperStatus.OPEN
        if not match.quantity:
            return
        value = match.price * match.quantity
        day = at.astimezone(IST).date()
        # Charges are per order: a partial fill pays the difference to what the order has paid before.
        rates = rates_on(order.product, Exchange(order.exchange), day)
        due = charges_on_turnover(rates, order.side, order.filled_value + value).total
        charges = due - order.charges
        if await _owes_dp_charge(session, order, day):
            charges += dp_charge()
        trade = PaperTrade(
            order_id=order.id,
            account_id=order.account_id,
            quantity=match.quantity,
            price=match.price,
            charges=charges,
            trade_date=day,
            traded_at=at,
        )
        session.add(trade)
        await session.flush()
        sign = 1 if order.side is Side.BUY else -1
        await _post(session, order.account_id, CASH, PaperEntryKind.TRADE, -sign * value, at, trade.id)
        await _post(session, order.account_id, CASH, PaperEntryKind.CHARGES, -charges, at, trade.id)
        shares = Decimal(sign * match.quantity)
        await _post(session, order.account_id, order.symbol, PaperEntryKind.TRADE, shares, at, trade.id)
        order.filled_quantity += match.quantity
        order.filled_value += value
        order.charges = due
        if order.filled_quantity == order.quantity:
            order.status = PaperStatus.COMPLETE


async def deposit(session: AsyncSession, account_id: int, rupees: Decimal, at: datetime) -> None:
    """Put play money into a paper account. Joins the caller's transaction."""
    await _post(session, account_id, CASH, PaperEntryKind.DEPOSIT, rupees, at, None)


async def _post(
    session: AsyncSession,
    account_id: int,
    asset: str,
    kind: PaperEntryKind,
    amount: Decimal,
    at: datetime,
    trade_id: int | None,
) -> None:
    before = (await _balances(session, [account_id])).get(account_id, {}).get(asset, Decimal(0))
    session.add(
        PaperEntry(
            account_id=account_id,
            asset=asset,
            kind=kind,
            amount=amount,
            balance_after=before + amount,
            trade_id=trade_id,
            at=at,
        )
    )
    await session.flush()


async def _balances(session: AsyncSession, account_ids: Sequence[int]) -> dict[int, dict[str, Decimal]]:
    rows = await session.execute(
        select(PaperEntry.account_id, PaperEntry.asset, PaperEntry.balance_after)
        .where(PaperEntry.account_id.in_(account_ids))
        .ext(distinct_on(PaperEntry.account_id, PaperEntry.asset))
        .order_by(PaperEntry.account_id, PaperEntry.asset, PaperEntry.id.desc())
    )
    balances: dict[int, dict[str, Decimal]] = defaultdict(dict)
    for account_id, asset, balance in rows:
        balances[account_id][asset] = balance
    return balances


async def _owes_dp_charge(session: AsyncSession, order: PaperOrder, day: date) -> bool:
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


async def _reserved_cash(session: AsyncSession, account_ids: Sequence[int]) -> dict[int, Decimal]:
    """Rupees that resting buys hold back, with a margin for their charges."""
    rows = await session.execute(
        select(
            PaperOrder.account_id,
            func.sum((PaperOrder.quantity - PaperOrder.filled_quantity) * PaperOrder.limit_price * Decimal("1.0015")),
        )
        .where(PaperOrder.account_id.in_(account_ids), PaperOrder.status.in_(RESTING), PaperOrder.side == Side.BUY)
        .group_by(PaperOrder.account_id)
    )
    return {row[0]: Decimal(row[1]) for row in rows}


async def _reserved_shares(session: AsyncSession, account_id: int, symbol: str) -> int:
    reserved = await session.scalar(
        select(func.coalesce(func.sum(PaperOrder.quantity - PaperOrder.filled_quantity), 0)).where(
            PaperOrder.account_id == account_id,
            PaperOrder.symbol == symbol,
            PaperOrder.status.in_(RESTING),
            PaperOrder.side == Side.SELL,
        )
    )
    return int(reserved or 0)


def _resting(order: PaperOrder) -> RestingOrder:
    return RestingOrder(
        side=order.side,
        order_type=order.order_type,
        open_quantity=order.quantity - order.filled_quantity,
        limit_price=order.limit_price,
        trigger_price=order.trigger_price,
        triggered=order.status is not PaperStatus.TRIGGER_PENDING,
    )
