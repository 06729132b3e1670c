"""The paper broker: a book of its own in PostgreSQL, real prices, real charges, no real money."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from backend.brokers.base import (
    AccountSnapshot,
    BrokerError,
    BrokerUnavailableError,
    OrderChange,
    OrderRejectedError,
    OrderRequest,
    OutcomeUnknownError,
)
from backend.brokers.paper_actions import action_holders, adjust
from backend.brokers.paper_ledger import (
    CASH,
    RESTING,
    Posting,
    any_id,
    any_tag,
    balances,
    cost_of_buying,
    deposit,
    is_resting,
    owes_dp_charge,
    post,
    reserved_cash,
    reserved_shares,
)
from backend.brokers.paper_orders import arriving, resting_order, shown
from backend.db import lock_account
from backend.domain.calendar import IST, Phase
from backend.domain.charges import charges_on_turnover, dp_charge, rates_on
from backend.domain.corporate_actions import CorporateAction
from backend.domain.market import Exchange, OrderType, Side
from backend.domain.matching import (
    BarView,
    FillModel,
    Match,
    PaperStatus,
    match_in_bar,
    match_on_arrival,
    offered,
)
from backend.domain.reconcile import BookOrder, BookTrade
from backend.domain.risk import QuoteView
from backend.errors import SaudaError
from backend.models.paper import PaperEntryKind, PaperOrder, PaperTrade

__all__ = ["PaperBroker", "PaperMarket", "PaperQuote", "deposit"]

log = structlog.get_logger()

PLACE_TIMEOUT_S = 2.0
SYMBOLS_PER_READ_MAX = 100
ADVANCES_AT_ONCE_MAX = 4
MARKET_ERRORS = (SaudaError, TimeoutError)


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
    """One book for all paper accounts. Whatever changes an account is one transaction under that account's lock."""

    name = "paper"
    real_money = False
    # A place is one transaction with a deadline of PLACE_TIMEOUT_S; after 10 s without a row it was never committed.
    absence_is_proof_after_s: float | None = 10.0

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        market: PaperMarket,
        fills: FillModel | None = None,
        place_timeout_s: float = PLACE_TIMEOUT_S,
    ) -> None:
        self._sessions = sessions
        self._market = market
        self._fills = fills or FillModel()
        self._place_timeout_s = place_timeout_s

    async def place(self, account_id: int, order: OrderRequest) -> str:
        try:
            async with asyncio.timeout(self._place_timeout_s):
                return await self._place(account_id, order)
        except (SQLAlchemyError, OSError) as error:  # a TimeoutError is an OSError
            raise OutcomeUnknownError(f"the paper book did not answer: {_words(error)}") from error

    async def _place(self, account_id: int, order: OrderRequest) -> str:
        try:
            now = await self._market.now()
            quote = (await self._market.quotes([order.symbol], now)).get(order.symbol)
        except MARKET_ERRORS as error:
            raise OrderRejectedError(f"No market in {order.symbol} now: {_words(error)}") from error
        phase = self._market.phase(order.symbol, now)
        refusal = refusal_by_market(order, phase, quote.view if quote else None)
        row = arriving(account_id, order, now)
        async with self._sessions.begin() as session:
            # What the account can pay and deliver is known, and stays so until the commit, under its lock only.
            await lock_account(session, account_id)
            order.require_time()
            refusal = refusal or await _refusal_by_account(session, row)
            if refusal is not None:
                row.status, row.message = PaperStatus.REJECTED, refusal
            session.add(row)
            await session.flush()
            if refusal is None and quote is not None:
                view = quote.view
                bar = quote.bar
                volume = offered(row.side, bar.low, bar.high, bar.volume, view.lower_band, view.upper_band)
                match = match_on_arrival(resting_order(row), view.bid, view.ask, volume, view.tick, self._fills)
                await _book_match(session, row, match, now)
        if refusal is not None:
            raise OrderRejectedError(refusal)
        return str(row.id)

    async def modify(self, account_id: int, broker_order_id: str, change: OrderChange) -> None:
        raise OrderRejectedError("The paper book does not change orders yet: cancel it and place another.")

    async def cancel(self, account_id: int, broker_order_id: str) -> None:
        async with self._sessions.begin() as session:
            await lock_account(session, account_id)
            row = await session.get(PaperOrder, int(broker_order_id))
            if row is None or row.account_id != account_id:
                raise OrderRejectedError(f"no order {broker_order_id} in this account")
            if row.status in RESTING:
                row.status, row.message = PaperStatus.CANCELLED, "cancelled on request"

    async def books(
        self, account_ids: Sequence[int], since: datetime, tags: Sequence[str] | None = None
    ) -> Mapping[int, Sequence[BookOrder] | BrokerError]:
        await self._advance(account_ids)
        wanted = [PaperOrder.account_id == any_id(account_ids), PaperOrder.placed_at >= since]
        if tags is not None:
            wanted.append(PaperOrder.tag == any_tag(tags))
        async with self._sessions() as session:
            orders = (await session.scalars(select(PaperOrder).where(*wanted).order_by(PaperOrder.id))).all()
            trades = await _trades_of(session, [order.id for order in orders])
        books: dict[int, list[BookOrder]] = {account_id: [] for account_id in account_ids}
        for order in orders:
            books[order.account_id].append(shown(order, trades.get(order.id, ())))
        return books

    async def snapshots(self, account_ids: Sequence[int]) -> Mapping[int, AccountSnapshot | BrokerError]:
        async with self._sessions() as session:
            # In this order a fill in between makes the free cash too small for a moment, never too large.
            reserved = await reserved_cash(session, account_ids)
            held = await balances(session, account_ids)
        snapshots: dict[int, AccountSnapshot | BrokerError] = {}
        for account_id in account_ids:
            assets = held.get(account_id)
            if assets is None or CASH not in assets:
                snapshots[account_id] = BrokerUnavailableError(f"paper account {account_id} has no funds entry")
                continue
            cash = assets[CASH]
            holdings = {asset: int(shares) for asset, shares in assets.items() if asset != CASH and shares}
            snapshots[account_id] = AccountSnapshot(cash, cash - reserved.get(account_id, Decimal(0)), holdings)
        return snapshots

    async def apply_action(self, action: CorporateAction, now: datetime, waiting: Collection[int] = ()) -> set[int]:
        """Adjust every holding for `action`, once per account, each in a transaction of its own.

        Returns accounts left as they are: what was ordered before the ex-date is not settled yet, or was traded since,
        or they are `waiting` for an earlier action.
        """
        holders = await action_holders(self._sessions, action)
        await self._advance(holders)
        ready = [account for account in holders if account not in waiting]
        failed = {account for account in ready if not await adjust(self._sessions, account, action, now)}
        return failed | (set(holders) - set(ready))

    async def _advance(self, account_ids: Sequence[int]) -> None:
        """Let resting orders meet the bars that finished since they were last matched, and expire day orders.

        Only accounts in which something happens are locked. Where the market cannot be read, the book stays as it is.
        """
        async with self._sessions() as session:
            mine = PaperOrder.account_id == any_id(account_ids)
            resting = (await session.scalars(select(PaperOrder).where(mine, is_resting()))).all()
        if not resting:
            return
        try:
            now = await self._market.now()
        except MARKET_ERRORS as error:
            log.warning("paper_clock_unreadable", resting=len(resting), error=_words(error))
            return
        bars = await self._bars(resting, now)
        due = {order.account_id for order in resting if order.symbol in bars and self._is_due(order, bars, now)}
        at_once = asyncio.Semaphore(ADVANCES_AT_ONCE_MAX)

        async def advance(account_id: int) -> None:
            async with at_once:
                await self._advance_account(account_id, bars, now)

        await asyncio.gather(*(advance(account_id) for account_id in sorted(due)))

    async def _bars(self, resting: Sequence[PaperOrder], now: datetime) -> Mapping[str, Sequence[BarView]]:
        """The finished bars of each resting order's symbol; a symbol is absent where its market cannot be read."""
        since: dict[str, datetime] = {}
        for order in resting:
            since[order.symbol] = min(order.matched_through, since.get(order.symbol, order.matched_through))

        async def read(symbols: Sequence[str]) -> Mapping[str, Sequence[BarView]]:
            try:
                found = await self._market.bars_since({symbol: since[symbol] for symbol in symbols}, now)
            except MARKET_ERRORS as error:
                log.warning("paper_market_unreadable", symbols=list(symbols), error=_words(error))
                return {}
            return {symbol: found.get(symbol, ()) for symbol in symbols}

        symbols = sorted(since)
        parts = [symbols[i : i + SYMBOLS_PER_READ_MAX] for i in range(0, len(symbols), SYMBOLS_PER_READ_MAX)]
        found = await asyncio.gather(*(read(part) for part in parts))
        return {symbol: bars for part in found for symbol, bars in part.items()}

    async def _advance_account(self, account_id: int, bars: Mapping[str, Sequence[BarView]], now: datetime) -> None:
        async with self._sessions.begin() as session:
            await lock_account(session, account_id)
            mine = PaperOrder.account_id == account_id
            for order in await session.scalars(select(PaperOrder).where(mine, is_resting()).order_by(PaperOrder.id)):
                if order.symbol not in bars:
                    continue
                for match, at in self._matches(order, bars[order.symbol]):
                    await _book_match(session, order, match, at)
                    order.matched_through = at
                if order.status in RESTING and self._market.session_ended(order.placed_at, now):
                    order.status, order.message = PaperStatus.EXPIRED, "day order: the session has ended"

    def _is_due(self, order: PaperOrder, bars: Mapping[str, Sequence[BarView]], now: datetime) -> bool:
        return self._market.session_ended(order.placed_at, now) or bool(self._matches(order, bars[order.symbol]))

    def _matches(self, order: PaperOrder, bars: Sequence[BarView]) -> list[tuple[Match, datetime]]:
        """What the bars do to an order, oldest first: its trigger and its fills, each at the end of its bar."""
        found: list[tuple[Match, datetime]] = []
        resting = resting_order(order)
        for bar in bars:
            if not resting.open_quantity:
                break
            if bar.start < order.matched_through or self._market.session_ended(order.placed_at, bar.start):
                continue
            match = match_in_bar(resting, bar, self._fills)
            if match.quantity or (match.triggered and not resting.triggered):
                found.append((match, bar.end))
                resting = replace(
                    resting, open_quantity=resting.open_quantity - match.quantity, triggered=match.triggered
                )
        return found


def refusal_by_market(order: OrderRequest, phase: Phase, view: QuoteView | None) -> str | None:
    """The words in which an exchange refuses `order` in this phase and market (None: no quote); None: it takes it."""
    if phase is not Phase.CONTINUOUS:
        return "Market is closed: orders are taken in the continuous session only."
    if view is None:
        return f"No market in {order.symbol} now."
    if order.quantity <= 0 or order.quantity % view.lot:
        return f"Quantity must be a positive multiple of {view.lot}."
    if order.limit_price % view.tick or (order.trigger_price or 0) % view.tick:
        return f"Price must be a multiple of the tick {view.tick}."
    if not view.lower_band <= order.limit_price <= view.upper_band:
        return f"Price is outside the band {view.lower_band}-{view.upper_band}."
    if order.order_type is OrderType.MARKET:
        return "Market orders are not accepted through the API without protection."
    if order.order_type is OrderType.STOP_LIMIT and order.trigger_price is None:
        return "A stop order needs a trigger price."
    return None


async def _refusal_by_account(session: AsyncSession, order: PaperOrder) -> str | None:
    """The broker's words if the account cannot pay for or deliver `order`. The caller has locked the account."""
    held = (await balances(session, [order.account_id])).get(order.account_id, {})
    if order.side is Side.BUY:
        day = order.placed_at.astimezone(IST).date()
        needed = cost_of_buying(order.product, Exchange(order.exchange), day, order.limit_price * order.quantity)
        reserved = (await reserved_cash(session, [order.account_id])).get(order.account_id, Decimal(0))
        free = held.get(CASH, Decimal(0)) - reserved
        return f"Insufficient funds: needs {needed:.2f}, free {free:.2f}." if needed > free else None
    shares = int(held.get(order.symbol, 0)) - await reserved_shares(session, order.account_id, order.symbol)
    return f"Insufficient holdings: sells {order.quantity}, holds {shares}." if order.quantity > shares else None


async def _book_match(session: AsyncSession, order: PaperOrder, match: Match, at: datetime) -> None:
    """Write a fill: trade, cash and holding entries, and the order's progress. The caller has locked the account."""
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
    if await owes_dp_charge(session, order, day):
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
    postings = (
        Posting(CASH, PaperEntryKind.TRADE, -sign * value),
        Posting(CASH, PaperEntryKind.CHARGES, -charges),
        Posting(order.symbol, PaperEntryKind.TRADE, Decimal(sign * match.quantity)),
    )
    await post(session, order.account_id, postings, at, trade.id)
    order.filled_quantity += match.quantity
    order.filled_value += value
    order.charges = due
    if order.filled_quantity == order.quantity:
        order.status = PaperStatus.COMPLETE


async def _trades_of(session: AsyncSession, order_ids: Sequence[int]) -> dict[int, list[BookTrade]]:
    trade = PaperTrade
    columns = trade.order_id, trade.id, trade.quantity, trade.price, trade.charges, trade.traded_at
    rows = await session.execute(select(*columns).where(trade.order_id == any_id(order_ids)).order_by(trade.id))
    by_order: dict[int, list[BookTrade]] = defaultdict(list)
    for row in rows:
        by_order[row.order_id].append(BookTrade(str(row.id), row.quantity, row.price, row.charges, row.traded_at))
    return by_order


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
