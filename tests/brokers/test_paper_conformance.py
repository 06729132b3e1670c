"""The paper broker through the conformance suite: its book in the real database, its market a minute at a time."""

import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, time, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import text

from backend.brokers.paper import PaperBroker, PaperMarket, PaperQuote
from backend.brokers.paper_ledger import CASH, Posting, deposit, post
from backend.brokers.paper_market import BROKER_LIKE, PaperRules
from backend.db import OPERATOR_ROLE, Sessions, create_engine, create_sessions, lock_account
from backend.domain.calendar import IST, standard_calendar
from backend.domain.matching import BarView, FillModel
from backend.domain.reconcile import BookStatus
from backend.domain.risk import QuoteView
from backend.models import BrokerAccount, BrokerAccountStatus, User
from backend.models.paper import PaperEntryKind
from backend.services.market_calendar import MarketCalendar
from sauda.embedded import EmbeddedPostgres
from tests.brokers.conformance import LIMIT, TradingConformance, book_of, only_order, placed
from tests.conftest import TEMPLATE

TEN = datetime(2024, 3, 18, 10, 0, tzinfo=IST)
MINUTE = timedelta(minutes=1)
LAST, TICK = Decimal(1505), Decimal("0.05")
FILLS = FillModel()
_names = itertools.count(1)


class PaperWorld:
    """One paper account. Nothing trades until a bar is made to: the quote's own minute has no volume."""

    def __init__(self, sessions: Sessions, account_id: int, rules: PaperRules) -> None:
        hours = MarketCalendar(standard_calendar())
        market = PaperMarket(self._clock, self._quotes, self._bars_since, hours.phase, hours.session_ended, hours)
        self.broker = PaperBroker(sessions, market, FILLS, place_timeout_s=30, rules=rules)
        self.account_id = account_id
        self._sessions, self._now, self._bars = sessions, TEN, list[BarView]()

    def now(self) -> datetime:
        return self._now

    async def _clock(self) -> datetime:
        return self._now

    async def _quotes(self, symbols: Sequence[str], now: datetime) -> Mapping[str, PaperQuote]:
        view = QuoteView(
            symbol=symbols[0],
            as_of=now,
            last=LAST,
            bid=LAST - TICK,
            ask=LAST + TICK,
            lower_band=LAST * Decimal("0.9"),
            upper_band=LAST * Decimal("1.1"),
            tick=TICK,
            lot=1,
            freeze_quantity=100_000,
            source="test",
        )
        return {symbols[0]: PaperQuote(view, BarView(now - MINUTE, now, LAST, LAST, LAST, LAST, 0))}

    async def _bars_since(self, since: Mapping[str, datetime], now: datetime) -> Mapping[str, Sequence[BarView]]:
        return {symbol: [b for b in self._bars if b.start >= start and b.end <= now] for symbol, start in since.items()}

    async def seed(self, cash: Decimal, holdings: dict[str, int]) -> None:
        async with self._sessions.begin() as session:
            await deposit(session, self.account_id, cash, TEN)
            shares = [Posting(symbol, PaperEntryKind.DEPOSIT, Decimal(held)) for symbol, held in holdings.items()]
            await post(session, self.account_id, shares, TEN)

    async def fill(self, order_id: str, quantity: int) -> Decimal:
        """A minute in which ten times the shares trade around the order's limit."""
        (order,) = [order for order in await book_of(self) if order.broker_order_id == order_id]
        assert order.limit_price is not None
        limit, volume = order.limit_price, int(quantity / FILLS.participation)
        self._bars.append(BarView(self._now, self._now + MINUTE, limit, limit + 1, limit - 1, limit, volume))
        self._now += MINUTE
        await book_of(self)  # the paper book meets the market when it is read
        return limit

    async def lapse(self, order_id: str) -> None:
        """A day order lapses with its day."""
        await self.end_session()

    async def reject(self, order_id: str, words: str) -> None:
        raise NotImplementedError("the paper exchange refuses on arrival")

    async def refuse_next(self, words: str) -> None:
        assert words.startswith("Insufficient funds")
        async with self._sessions.begin() as session:
            await lock_account(session, self.account_id)
            balance = text("SELECT balance FROM paper_balances WHERE account_id = :id AND asset = :asset")
            cash = await session.scalar(balance, {"id": self.account_id, "asset": CASH})
            await post(session, self.account_id, [Posting(CASH, PaperEntryKind.DEPOSIT, -Decimal(cash))], TEN)

    async def end_session(self) -> None:
        self._now = datetime.combine(TEN.date(), time(15, 45), IST)


@pytest.fixture(scope="module")
async def paper_sessions(postgres: EmbeddedPostgres) -> AsyncIterator[tuple[Sessions, Sessions]]:
    """One database for all of these tests, each with an account of its own: sessions to trade, and to make users."""
    name = "paper_conformance"
    admin = create_engine(postgres.url("postgres"), pool_size=1, owner=True)
    trader, operator = create_engine(postgres.url(name)), create_engine(postgres.url(name), role=OPERATOR_ROLE)
    async with admin.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{TEMPLATE}"'))
        yield create_sessions(trader), create_sessions(operator)
        for engine in (trader, operator):
            await engine.dispose()
        await autocommit.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    await admin.dispose()


async def open_account(operator: Sessions) -> int:
    async with operator.begin() as session:
        user = User(email=f"paper{next(_names)}@example.com")
        session.add(user)
        await session.flush()
        account = BrokerAccount(
            user_id=user.id, broker="paper", label="p", status=BrokerAccountStatus.READY, is_primary=True
        )
        session.add(account)
        await session.flush()
        return account.id


class TestPaper(TradingConformance):
    """As it plays in replays and backtests."""

    rules = PaperRules()
    lacks = {
        "test_an_order_may_be_refused_after_it_was_taken": "the paper exchange refuses on arrival or not at all",
    }

    @pytest.fixture
    async def world(self, paper_sessions: tuple[Sessions, Sessions]) -> PaperWorld:
        trader, operator = paper_sessions
        return PaperWorld(trader, await open_account(operator), self.rules)

    async def test_cancelling_a_finished_order_changes_nothing(self, world: PaperWorld):
        """And is no error here: what was asked for, that nothing more is traded, is so."""
        order_id = await placed(world)
        await world.fill(order_id, LIMIT.quantity)
        assert (await only_order(world)).status is BookStatus.COMPLETE
        await world.broker.cancel(world.account_id, order_id)
        assert (await only_order(world)).status is BookStatus.COMPLETE


class TestPaperLikeABroker(TestPaper):
    """As it plays for people."""

    rules = BROKER_LIKE
