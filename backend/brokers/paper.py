"""The paper broker: a book of its own in PostgreSQL, real prices, real charges, no real money."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

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
from backend.brokers.paper_admission import (
    admit,
    protected,
    refusal_by_hours,
    refusal_by_market,
    refusal_of_change,
    refusal_of_stop,
)
from backend.brokers.paper_advance import Advance
from backend.brokers.paper_fills import end, meet
from backend.brokers.paper_ledger import CASH, RESTING, any_id, any_tag, balances, deposit, reserved_cash
from backend.brokers.paper_market import MARKET_ERRORS, PaperMarket, PaperQuote, PaperRules, words
from backend.brokers.paper_orders import arriving, changed, requested, shown
from backend.brokers.paper_positions import margin_money
from backend.db import lock_account
from backend.domain.calendar import Phase
from backend.domain.corporate_actions import CorporateAction
from backend.domain.matching import FillModel, PaperStatus
from backend.domain.reconcile import BookOrder, BookTrade
from backend.models.paper import PaperOrder, PaperTrade

__all__ = ["PaperBroker", "PaperMarket", "PaperQuote", "deposit"]

PLACE_TIMEOUT_S = 2.0
CLOCK_TIMEOUT_S = 0.5


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
        rules: PaperRules | None = None,
    ) -> None:
        self._sessions = sessions
        self._market = market
        self._fills = fills or FillModel()
        self._place_timeout_s = place_timeout_s
        self._rules = rules or PaperRules()
        self._advance = Advance(sessions, market, self._fills, self._rules).run

    async def place(self, account_id: int, order: OrderRequest) -> str:
        try:
            async with asyncio.timeout(self._place_timeout_s):
                return await self._place(account_id, order)
        except (SQLAlchemyError, OSError) as error:  # a TimeoutError is an OSError
            raise OutcomeUnknownError(f"the paper book did not answer: {words(error)}") from error

    async def _place(self, account_id: int, order: OrderRequest) -> str:
        now, quote, phase = await self._look(order.symbol)
        order = protected(order, quote.view if quote else None)
        refusal = self._refusal(order, phase, quote, now)
        row = arriving(account_id, order, now)
        row.broker_like = self._rules.intraday
        async with self._sessions.begin() as session:
            # What the account can pay and deliver is known, and stays so until the commit, under its lock only.
            await lock_account(session, account_id)
            order.require_time()
            refusal = refusal or await admit(session, row, self._rules)
            if refusal is not None:
                end(row, PaperStatus.REJECTED, refusal, now)
            session.add(row)
            await session.flush()
            if refusal is None and quote is not None:
                await self._arrive(session, row, quote, phase, now)
        if refusal is not None:
            raise OrderRejectedError(refusal)
        return str(row.id)

    async def _look(self, symbol: str) -> tuple[datetime, PaperQuote | None, Phase]:
        try:
            now = await self._market.now()
            quote = (await self._market.quotes([symbol], now)).get(symbol)
        except MARKET_ERRORS as error:
            raise OrderRejectedError(f"No market in {symbol} now: {words(error)}") from error
        return now, quote, self._market.phase(symbol, now)

    def _refusal(self, order: OrderRequest, phase: Phase, quote: PaperQuote | None, now: datetime) -> str | None:
        view = quote.view if quote else None
        refused = refusal_by_market(order, phase, view, auctions=self._rules.auctions)
        refused = refused or refusal_of_stop(order, view, self._rules)
        return refused or refusal_by_hours(order.symbol, order.product, self._market, self._rules, now)

    async def _arrive(
        self, session: AsyncSession, row: PaperOrder, quote: PaperQuote, phase: Phase, now: datetime
    ) -> None:
        """Let an admitted order meet the market, or set out for it where it takes its time."""
        if phase is not Phase.CONTINUOUS:
            return  # it waits for the auction's one price
        travel = self._rules.latency(row.account_id, row.tag, now)
        if travel:
            row.arrives_at = row.matched_through = now + travel
            return
        await meet(session, row, quote, self._fills, self._rules, now)

    async def modify(self, account_id: int, broker_order_id: str, change: OrderChange) -> None:
        """As `Broker.modify`. What bars until now filled stays filled; the changed order waits for its turn anew."""
        await self._advance([account_id])
        async with self._sessions() as session:
            found = await self._own(session, account_id, broker_order_id)
        now, quote, phase = await self._look(found.symbol)
        refusal = self._refusal(requested(found, change), phase, quote, now)
        async with self._sessions.begin() as session:
            await lock_account(session, account_id)
            row = await self._own(session, account_id, broker_order_id)
            refusal = refusal_of_change(row, change) or refusal
            if refusal is not None:
                raise OrderRejectedError(refusal)
            session.add(changed(row, change, now))
            if (refusal := await admit(session, row, self._rules)) is not None:
                raise OrderRejectedError(refusal)  # the transaction leaves the order as it was
            await session.flush()
            if quote is not None and row.arrives_at is None:
                await self._arrive(session, row, quote, phase, now)

    async def cancel(self, account_id: int, broker_order_id: str) -> None:
        now = await self._clock()
        async with self._sessions.begin() as session:
            await lock_account(session, account_id)
            row = await self._own(session, account_id, broker_order_id)
            if row.status in RESTING:
                end(row, PaperStatus.CANCELLED, "cancelled on request", now or row.matched_through)

    async def _own(self, session: AsyncSession, account_id: int, broker_order_id: str) -> PaperOrder:
        row = await session.get(PaperOrder, int(broker_order_id), populate_existing=True)
        if row is None or row.account_id != account_id:
            raise OrderRejectedError(f"no order {broker_order_id} in this account")
        return row

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

    async def advance(self, account_ids: Sequence[int]) -> None:
        """Bring the books up to the market's present, as reading them does."""
        await self._advance(account_ids)

    async def snapshots(self, account_ids: Sequence[int]) -> Mapping[int, AccountSnapshot | BrokerError]:
        async with self._sessions() as session:
            # In this order a fill in between makes the free cash too small for a moment, never too large.
            reserved = await reserved_cash(session, account_ids)
            held = await balances(session, account_ids)
            margins = await margin_money(session, held, self._rules)
        snapshots: dict[int, AccountSnapshot | BrokerError] = {}
        none = Decimal(0)
        for account_id in account_ids:
            assets = held.get(account_id)
            if assets is None or CASH not in assets:
                snapshots[account_id] = BrokerUnavailableError(f"paper account {account_id} has no funds entry")
                continue
            cash = assets[CASH] + margins.get(account_id, none)
            # Shares that are owed are no holding.
            holdings = {asset: int(shares) for asset, shares in assets.items() if asset != CASH and shares > 0}
            snapshots[account_id] = AccountSnapshot(cash, cash - reserved.get(account_id, none), holdings)
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

    async def _clock(self) -> datetime | None:
        """The market's present, for the record alone: a cancel does not wait for a market that cannot be read."""
        try:
            async with asyncio.timeout(CLOCK_TIMEOUT_S):
                return await self._market.now()
        except MARKET_ERRORS:
            return None


async def _trades_of(session: AsyncSession, order_ids: Sequence[int]) -> dict[int, list[BookTrade]]:
    trade = PaperTrade
    columns = trade.order_id, trade.id, trade.quantity, trade.price, trade.charges, trade.traded_at
    rows = await session.execute(select(*columns).where(trade.order_id == any_id(order_ids)).order_by(trade.id))
    by_order: dict[int, list[BookTrade]] = defaultdict(list)
    for row in rows:
        by_order[row.order_id].append(BookTrade(str(row.id), row.quantity, row.price, row.charges, row.traded_at))
    return by_order
