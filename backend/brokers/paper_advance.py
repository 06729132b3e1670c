"""Time passes in the paper book: resting orders meet finished bars and the closing auction, and end with their day."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from backend.brokers.paper_admission import closes_by_auction
from backend.brokers.paper_fills import book_match, end, meet
from backend.brokers.paper_ledger import RESTING, any_id, is_resting
from backend.brokers.paper_market import MARKET_ERRORS, PaperMarket, PaperQuote, PaperRules, words
from backend.brokers.paper_orders import resting_order
from backend.brokers.paper_square_off import due_positions, square_off
from backend.db import lock_account
from backend.domain.calendar import IST, Phase, PhaseWindow, Session
from backend.domain.market import OrderType, Product, Side, StockClass
from backend.domain.matching import BarView, FillModel, Match, PaperStatus, match_in_auction, match_in_bar, match_queue
from backend.models.paper import PaperOrder

log = structlog.get_logger()

SYMBOLS_PER_READ_MAX = 100
ADVANCES_AT_ONCE_MAX = 4
EXPIRED = "day order: the session has ended"
SQUARED_OFF = "intraday orders end when positions are squared off"
NO_STOPS = "stop orders end before the closing auction"
UNMATCHED = "not matched in the closing auction"


@dataclass(frozen=True, slots=True)
class _News:
    """What the market did since the books were last looked at: bars by symbol, and quotes as of single instants."""

    now: datetime
    bars: Mapping[str, Sequence[BarView]]
    quotes: Mapping[tuple[str, datetime], PaperQuote | None] = field(default_factory=dict)


class Advance:
    """Lets books of accounts follow the market. Only accounts in which something happens are locked."""

    def __init__(
        self, sessions: async_sessionmaker[AsyncSession], market: PaperMarket, fills: FillModel, rules: PaperRules
    ) -> None:
        self._sessions, self._market, self._fills, self._rules = sessions, market, fills, rules

    async def run(self, account_ids: Sequence[int]) -> None:
        """Bring the books up to the market's present. Where the market cannot be read, a book stays as it is."""
        await self._follow(account_ids)
        if not self._rules.intraday or self._market.hours is None:
            return
        async with self._sessions() as session:
            due = await due_positions(session, account_ids, self._market.hours)
        if not due or (now := await self._now(len(due))) is None:
            return
        due = [position for position in due if position.at <= now]
        quotes = await self._quotes({(position.symbol, position.at) for position in due})
        squared: set[int] = set()
        for position in due:
            quote = quotes.get((position.symbol, position.at))
            if quote is not None and await square_off(self._sessions, position, quote, self._fills, self._rules):
                squared.add(position.account_id)
        if squared:
            await self._follow(sorted(squared))

    async def _follow(self, account_ids: Sequence[int]) -> None:
        async with self._sessions() as session:
            mine = PaperOrder.account_id == any_id(account_ids)
            resting = (await session.scalars(select(PaperOrder).where(mine, is_resting()))).all()
        if not resting or (now := await self._now(len(resting))) is None:
            return
        resting = [order for order in resting if self._is_ours(order, now)]
        if not resting:
            return
        bars = await self._bars(resting, now)
        news = _News(now, bars, await self._quotes(self._instants(resting, now)))
        due = {order.account_id for order in resting if order.symbol in bars and self._is_due(order, news)}
        at_once = asyncio.Semaphore(ADVANCES_AT_ONCE_MAX)

        async def advance(account_id: int) -> None:
            async with at_once:
                await self._advance_account(account_id, news)

        await asyncio.gather(*(advance(account_id) for account_id in sorted(due)))

    def _is_ours(self, order: PaperOrder, now: datetime) -> bool:
        """Whether these rules may move the order: on its own day those that it was placed under alone, so that a trader
        and a sandbox can share an account; later any, so that it does not rest for ever."""
        same_rules = order.broker_like == self._rules.intraday
        return same_rules or order.placed_at.astimezone(IST).date() < now.astimezone(IST).date()

    async def _now(self, waiting: int) -> datetime | None:
        try:
            return await self._market.now()
        except MARKET_ERRORS as error:
            log.warning("paper_clock_unreadable", resting=waiting, error=words(error))
            return None

    async def _bars(self, resting: Sequence[PaperOrder], now: datetime) -> Mapping[str, Sequence[BarView]]:
        """The finished bars of each resting order's symbol; a symbol is absent where its market cannot be read."""
        since: dict[str, datetime] = {}
        for order in resting:
            since[order.symbol] = min(order.matched_through, since.get(order.symbol, order.matched_through))

        async def read(symbols: Sequence[str]) -> Mapping[str, Sequence[BarView]]:
            try:
                found = await self._market.bars_since({symbol: since[symbol] for symbol in symbols}, now)
            except MARKET_ERRORS as error:
                log.warning("paper_market_unreadable", symbols=list(symbols), error=words(error))
                return {}
            return {symbol: found.get(symbol, ()) for symbol in symbols}

        symbols = sorted(since)
        parts = [symbols[i : i + SYMBOLS_PER_READ_MAX] for i in range(0, len(symbols), SYMBOLS_PER_READ_MAX)]
        found = await asyncio.gather(*(read(part) for part in parts))
        return {symbol: bars for part in found for symbol, bars in part.items()}

    def _instants(self, resting: Iterable[PaperOrder], now: datetime) -> set[tuple[str, datetime]]:
        """Of which symbols a quote of a past instant is needed: orders that arrived, auctions that were held."""
        wanted: set[tuple[str, datetime]] = set()
        for order in resting:
            if order.arrives_at is not None and order.arrives_at <= now:
                wanted.add((order.symbol, order.arrives_at))
            auction = self._auction(order)
            if auction is not None and auction.end <= now:
                wanted.add((order.symbol, auction.end))
        return wanted

    async def _quotes(
        self, wanted: Collection[tuple[str, datetime]]
    ) -> Mapping[tuple[str, datetime], PaperQuote | None]:
        """The quotes of those instants: None where there is none, absent where the market cannot be read."""
        by_instant: dict[datetime, list[str]] = defaultdict(list)
        for symbol, at in sorted(wanted):
            by_instant[at].append(symbol)
        found: dict[tuple[str, datetime], PaperQuote | None] = {}
        for at, symbols in by_instant.items():
            try:
                quotes = await self._market.quotes(symbols, at)
            except MARKET_ERRORS as error:
                log.warning("paper_market_unreadable", symbols=symbols, error=words(error))
                continue
            found |= {(symbol, at): quotes.get(symbol) for symbol in symbols}
        return found

    async def _advance_account(self, account_id: int, news: _News) -> None:
        async with self._sessions.begin() as session:
            await lock_account(session, account_id)
            mine = PaperOrder.account_id == account_id
            found = await session.scalars(select(PaperOrder).where(mine, is_resting()).order_by(PaperOrder.id))
            orders = [o for o in found if o.symbol in news.bars and self._is_ours(o, news.now)]
            await self._arrive(session, orders, news)
            await self._trade(session, [order for order in orders if order.status in RESTING], news)
            await self._auctions(session, orders, news)
            for order in orders:
                if order.status in RESTING and (ending := self._ending(order, news)):
                    end(order, *ending)

    async def _arrive(self, session: AsyncSession, orders: Iterable[PaperOrder], news: _News) -> None:
        for order in orders:
            at = order.arrives_at
            if at is None or (order.symbol, at) not in news.quotes:
                continue
            order.arrives_at = None
            if (quote := news.quotes[order.symbol, at]) is not None:
                await meet(session, order, quote, self._fills, self._rules, at)

    async def _trade(self, session: AsyncSession, orders: Sequence[PaperOrder], news: _News) -> None:
        if not self._rules.queues:
            for order in orders:
                for match, at in self._matches(order, news.bars[order.symbol]):
                    await book_match(session, order, match, at)
                    order.matched_through = at
            return
        by_symbol: dict[str, list[PaperOrder]] = defaultdict(list)
        for order in orders:
            by_symbol[order.symbol].append(order)
        for symbol, of in by_symbol.items():
            own = {order.id: self._own_bars(order, news.bars[symbol]) for order in of}
            rows = {order.id: order for order in of}
            queue = {order.id: (resting_order(order), own[order.id]) for order in of}
            for key, match, at in match_queue(queue, self._fills):
                await book_match(session, rows[key], match, at)
            for order in of:
                # Of a bar that others took whole nothing is left another time.
                order.matched_through = max([order.matched_through, *(bar.end for bar in own[order.id])])

    async def _auctions(self, session: AsyncSession, orders: Iterable[PaperOrder], news: _News) -> None:
        """Match what waits for an auction that was held, at its one price and by price-time priority."""
        taken: dict[tuple[str, Side], int] = defaultdict(int)
        for order in sorted(orders, key=lambda o: (-o.limit_price if o.side is Side.BUY else o.limit_price, o.id)):
            auction = self._auction(order)
            if order.status not in RESTING or auction is None or (order.symbol, auction.end) not in news.quotes:
                continue
            if (quote := news.quotes[order.symbol, auction.end]) is not None:
                match = match_in_auction(
                    resting_order(order),
                    quote.view.last,
                    quote.bar.volume,
                    self._fills,
                    taken[order.symbol, order.side],
                )
                taken[order.symbol, order.side] += match.quantity
                await book_match(session, order, match, auction.start)
            if order.status in RESTING:
                end(order, PaperStatus.CANCELLED, UNMATCHED, auction.end)

    def _is_due(self, order: PaperOrder, news: _News) -> bool:
        auction = self._auction(order)
        asked = {at for at in (order.arrives_at, auction.end if auction else None) if at is not None}
        if any((order.symbol, at) in news.quotes for at in asked) or self._ending(order, news):
            return True
        bars = news.bars[order.symbol]
        return bool(self._own_bars(order, bars) if self._rules.queues else self._matches(order, bars))

    def _own_bars(self, order: PaperOrder, bars: Sequence[BarView]) -> list[BarView]:
        """The bars that began after the order came and before its trading ended."""
        if order.arrives_at is not None:
            return []
        return [bar for bar in bars if bar.start >= order.matched_through and not self._is_over(order, bar.start)]

    def _matches(self, order: PaperOrder, bars: Sequence[BarView]) -> list[tuple[Match, datetime]]:
        """What the bars do to an order, oldest first: its trigger and its fills, each at the end of its bar."""
        found: list[tuple[Match, datetime]] = []
        resting = resting_order(order)
        for bar in self._own_bars(order, bars):
            if not resting.open_quantity:
                break
            match = match_in_bar(resting, bar, self._fills)
            if match.quantity or (match.triggered and not resting.triggered):
                found.append((match, bar.end))
                resting = replace(
                    resting, open_quantity=resting.open_quantity - match.quantity, triggered=match.triggered
                )
        return found

    # ---- when an order ends

    def _is_over(self, order: PaperOrder, at: datetime) -> bool:
        """Whether the order trades no more in the continuous session of `at`."""
        early = self._early_end(order)
        if early is not None and at >= early[0]:
            return True
        auction = self._auction(order)
        if auction is not None:
            return at >= self._continuous_close(order)
        return self._market.session_ended(order.placed_at, at)

    def _ending(self, order: PaperOrder, news: _News) -> tuple[PaperStatus, str, datetime] | None:
        early = self._early_end(order)
        if early is not None and news.now >= early[0]:
            return PaperStatus.CANCELLED, early[1], early[0]
        if self._auction(order) is not None or not self._market.session_ended(order.placed_at, news.now):
            return None
        return PaperStatus.EXPIRED, EXPIRED, news.now

    def _early_end(self, order: PaperOrder) -> tuple[datetime, str] | None:
        """When an order ends before its session does, and why."""
        hours = self._market.hours
        if hours is None:
            return None
        if self._rules.intraday and order.product is Product.MIS and not order.squares_off:
            at = hours.square_off_at(order.symbol, order.placed_at.astimezone(IST).date())
            return None if at is None else (at, SQUARED_OFF)
        if order.order_type is OrderType.STOP_LIMIT and order.status is PaperStatus.TRIGGER_PENDING:
            closes = closes_by_auction(order.symbol, self._market, self._rules) and self._auction_window(order)
            return (self._continuous_close(order), NO_STOPS) if closes else None
        return None

    def _auction(self, order: PaperOrder) -> PhaseWindow | None:
        """The matching of the closing auction that the order takes part in if it is not filled before; None: none."""
        if self._early_end(order) is not None or not closes_by_auction(order.symbol, self._market, self._rules):
            return None
        return self._auction_window(order)

    def _auction_window(self, order: PaperOrder) -> PhaseWindow | None:
        session = self._session(order)
        windows = session.windows(StockClass.CAS) if session else ()
        return next((window for window in windows if window.phase is Phase.CLOSING_MATCHING), None)

    def _continuous_close(self, order: PaperOrder) -> datetime:
        session = self._session(order)
        return session.continuous_close(StockClass.CAS) if session else order.placed_at

    def _session(self, order: PaperOrder) -> Session | None:
        hours = self._market.hours
        return None if hours is None else hours.session(order.placed_at.astimezone(IST).date())
