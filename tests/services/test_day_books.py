"""Books that forget, change their word or cover one day only: what stood in one is never taken for what never was."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import event, func, select, text

from backend.brokers.base import BrokerError, BrokerUnavailableError, OrderRequest
from backend.domain.decide import TradeStatus
from backend.domain.market import OrderType, Product, Side
from backend.domain.orders import OrderEventKind, OrderState
from backend.domain.reconcile import BookOrder, BookStatus
from backend.models import AutoTrade, DailyUsage, Order, OutboxMessage
from backend.services.auto_trading_service import run_cycle
from backend.services.broker_books import book_questions, read_books
from backend.services.context import Trading
from backend.services.order_query_service import resolve_unknown
from backend.services.position_service import watch_positions
from backend.services.reconcile_service import reconcile
from tests.support.paper_desk import account_of


class DayBook:
    """The paper broker behind a book that is late with nothing and keeps nothing, unless a test says otherwise.

    `rests`: orders are placed below the market; `forgets`: its book is of a day in which nothing was placed; `says`:
    what it makes of an entry; `asked`: every question put to it.
    """

    name = "paper"
    real_money = False

    def __init__(self, real: Any, proof_after_s: float | None = None, *, rests: bool = True) -> None:
        self._real, self._rests = real, rests
        self.absence_is_proof_after_s = proof_after_s
        self.forgets = False
        self.says = lambda entry: entry
        self.silent_when_whole = False
        self.asked: list[tuple[Sequence[int], datetime, Sequence[str] | None]] = []

    async def place(self, account_id: int, order: OrderRequest) -> str:
        if self._rests:
            order = replace(order, limit_price=Decimal(1400))
        return await self._real.place(account_id, order)

    async def books(self, account_ids, since, tags=None):
        self.asked.append((account_ids, since, tags))
        if tags is None and self.silent_when_whole:
            raise BrokerUnavailableError("502")
        books = await self._real.books(account_ids, since, tags)
        return {a: [] if self.forgets else [self.says(entry) for entry in book] for a, book in books.items()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def with_book(trading: Trading, proof_after_s: float | None = None, *, rests: bool = True) -> tuple[Trading, DayBook]:
    broker = DayBook(trading.brokers["paper"], proof_after_s, rests=rests)
    return replace(trading, brokers={"paper": broker}), broker


async def orders(trading: Trading) -> Sequence[Order]:
    async with trading.sessions() as session:
        return (await session.scalars(select(Order).order_by(Order.id))).all()


async def state(trading: Trading) -> OrderState:
    (order,) = await orders(trading)
    return order.state


async def change(trading: Trading, statement: str, **values: Any) -> None:
    async with trading.sessions.begin() as session:
        await session.execute(text(statement), values)


async def let_time_pass(trading: Trading, seconds: float) -> None:
    by = "make_interval(secs => :s)"
    await change(
        trading,
        f"UPDATE orders SET submitted_at = submitted_at - {by}, missing_since = missing_since - {by}",
        s=seconds,
    )


async def resting(trading: Trading, market) -> None:
    await run_cycle(trading, market.now)
    assert await state(trading) is OrderState.ACCEPTED
    await let_time_pass(trading, 60)


async def test_an_order_gone_from_its_book_blocks_and_alerts_until_a_person_settles_it(trading, market, make_user):
    await make_user(symbols=("INFY",))
    day, broker = with_book(trading)
    await resting(day, market)
    broker.forgets = True
    for _ in range(4):
        await reconcile(day)
        await reconcile(day)  # within two seconds: it counts for nothing
        assert await state(day) is OrderState.ACCEPTED
        await let_time_pass(day, 2)
    await reconcile(day)
    assert await state(day) is OrderState.UNKNOWN
    async with trading.sessions() as session:
        assert (await session.scalars(select(OutboxMessage.topic))).all() == ["order.unknown"]
    market.now += timedelta(minutes=5)
    cycle = await run_cycle(day, market.now)
    assert cycle is not None
    assert cycle.denied == {"order_unknown": 1}
    async with trading.sessions.begin() as session:
        (order,) = await orders(day)
        await resolve_unknown(session, order.id, OrderEventKind.EXPIRED, order.user_id, "the broker's contract notes")
    async with trading.sessions() as session:
        assert (await session.scalars(select(AutoTrade.status))).one() is TradeStatus.CANCELLED


async def test_reports_without_an_order_count_only_in_a_row(trading, market, make_user):
    await make_user(symbols=("INFY",))
    day, broker = with_book(trading)
    await resting(day, market)
    for _ in range(2):
        broker.forgets = True
        for _ in range(4):
            await reconcile(day)
            await let_time_pass(day, 2)
        broker.forgets = False
        await reconcile(day)
        (order,) = await orders(day)
        assert (order.state, order.lookups, order.missing_since) == (OrderState.ACCEPTED, 0, None)


async def test_an_order_that_shows_again_goes_on_and_is_not_lost_at_its_next_absence(trading, market, make_user):
    await make_user(symbols=("INFY",))
    day, broker = with_book(trading)
    await resting(day, market)
    broker.forgets = True
    for _ in range(5):
        await reconcile(day)
        await let_time_pass(day, 2)
    assert await state(day) is OrderState.UNKNOWN
    for forgets in (False, True):
        broker.forgets = forgets
        await reconcile(day)
        assert await state(day) is OrderState.ACCEPTED


async def test_what_was_counted_before_the_answer_came_does_not_count_against_it(trading, market, make_user):
    await make_user(symbols=("INFY",))
    day, broker = with_book(trading)
    await resting(day, market)
    await change(day, "UPDATE orders SET lookups = 4")
    broker.forgets = True
    await reconcile(day)
    (order,) = await orders(day)
    assert (order.state, order.lookups) == (OrderState.ACCEPTED, 1)


async def test_where_silence_is_proof_an_order_that_vanished_is_lost_and_never_abandoned(trading, market, make_user):
    await make_user(symbols=("INFY",))
    keeps_all, broker = with_book(trading, 10.0)
    await resting(keeps_all, market)
    broker.forgets = True
    for _ in range(3):
        await reconcile(keeps_all)
        assert await state(keeps_all) is OrderState.UNKNOWN
    async with trading.sessions() as session:
        assert await session.scalar(select(func.sum(DailyUsage.entries_used))) == 1


async def test_a_report_older_than_the_answer_proves_nothing(trading, market, make_user):
    """The order showed to another pass while this one's report was on its way."""
    await make_user(symbols=("INFY",))
    keeps_all, _ = with_book(trading, 10.0)
    await resting(keeps_all, market)
    await change(keeps_all, "UPDATE orders SET state = 'submitted'")

    class Overtaken(DayBook):
        async def books(self, account_ids, since, tags=None):
            await reconcile(keeps_all)
            return {account_id: [] for account_id in account_ids}

    await reconcile(replace(trading, brokers={"paper": Overtaken(trading.brokers["paper"], 10.0)}))
    assert await state(trading) is OrderState.ACCEPTED


def refused(entry: BookOrder) -> BookOrder:
    return replace(entry, status=BookStatus.REJECTED, message="margin", trades=())


async def test_shares_of_an_order_that_its_book_called_refused_end_up_in_their_trade(trading, market, make_user):
    await make_user(symbols=("INFY",))
    day, broker = with_book(trading, rests=False)
    broker.says = refused
    await run_cycle(day, market.now)
    assert await state(day) is OrderState.REJECTED

    def partly(entry: BookOrder) -> BookOrder:
        (trade,) = entry.trades
        return replace(refused(entry), trades=(replace(trade, trade_id="first", quantity=4),))

    broker.says = partly
    await reconcile(day)
    (order,) = await orders(day)
    assert (order.state, order.filled_quantity) == (OrderState.REJECTED, 4)

    def wholly(entry: BookOrder) -> BookOrder:
        (trade,) = entry.trades
        rest = replace(trade, trade_id="second", quantity=trade.quantity - 4)
        return replace(entry, trades=(replace(trade, trade_id="first", quantity=4), rest))

    broker.says = wholly
    await reconcile(day)
    (order,) = await orders(day)
    async with trading.sessions() as session:
        trade = (await session.scalars(select(AutoTrade))).one()
    assert (order.state, order.filled_quantity) == (OrderState.FILLED, order.quantity)
    assert (trade.status, trade.entry_quantity) == (TradeStatus.OPEN, order.quantity)


@pytest.mark.parametrize(
    ("days", "ended", "watched"),
    [
        (0, "state = 'cancelled'", 1),
        (2, "state = 'cancelled'", 0),
        (0, "state = 'rejected'", 1),
        (0, "state = 'rejected', broker_order_id = NULL", 0),
    ],
    ids=["today", "two days on", "refused in the book", "refused at the send"],
)
async def test_an_order_that_ended_short_is_watched_for_a_market_day_at_most(
    trading, market, make_user, days, ended, watched
):
    """At sixty times the speed, a real day is most of a year."""
    await make_user(symbols=("INFY",))
    day, _ = with_book(trading)
    await resting(day, market)
    await change(day, f"UPDATE orders SET {ended}")
    market.now += timedelta(days=days)
    assert (await reconcile(day)).orders == watched


async def test_no_account_pays_for_anothers_old_or_foreign_order(trading, market, make_user):
    users = [await make_user(name, symbols=("INFY",)) for name in ("asha", "ravi", "meena", "kiran")]
    old, foreign, fresh, too = [await account_of(trading.sessions, user) for user in users]
    day, broker = with_book(trading)
    await run_cycle(day, market.now)
    await change(day, "UPDATE orders SET decided_at = decided_at - interval '100 days' WHERE account_id = :a", a=old)
    by_hand = OrderRequest("TCS", "nse", Side.BUY, Product.CNC, OrderType.LIMIT, 1, Decimal(3900), "")
    await trading.brokers["paper"].place(foreign, by_hand)
    assert (await watch_positions(day)).adopted == 1
    broker.asked.clear()
    report = await reconcile(day)
    assert (report.orders, report.failed_accounts) == (5, set())
    by_account = {tuple(accounts): (since, tags) for accounts, since, tags in broker.asked}
    assert set(by_account) == {(old,), (foreign,), (fresh, too)}
    tags = {order.account_id: order.client_order_id for order in await orders(day)}
    assert by_account[(old,)] == (market.now - timedelta(days=101), [tags[old]])
    assert by_account[(foreign,)] == (market.now - timedelta(days=1), None)
    since, asked = by_account[fresh, too]
    assert (since, set(asked or ())) == (market.now - timedelta(days=1), {tags[fresh], tags[too]})


async def test_a_call_that_fails_is_silence_for_its_own_accounts_only(trading, market, make_user):
    users = [await make_user(name, symbols=("INFY",)) for name in ("asha", "ravi")]
    foreign, ours = [await account_of(trading.sessions, user) for user in users]
    day, broker = with_book(trading)
    await run_cycle(day, market.now)
    await change(day, "UPDATE orders SET origin = 'external', cycle_id = NULL WHERE account_id = :a", a=foreign)
    broker.silent_when_whole = True
    assert (await reconcile(day)).failed_accounts == {foreign}
    books = await read_books(day.brokers["paper"], await orders(day), market.now)
    silence, book = books[foreign], books[ours]
    assert isinstance(silence, BrokerUnavailableError)
    assert not isinstance(book, BrokerError)
    assert [entry.status for entry in book] == [BookStatus.OPEN]


def test_a_years_spread_of_old_orders_is_few_calls_of_fitting_length() -> None:
    now = datetime.fromisoformat("2024-03-18T10:00:00+05:30")
    old = [
        Order(account_id=days, client_order_id=str(days), decided_at=now - timedelta(days=days)) for days in range(365)
    ]
    questions = book_questions(old, now)
    assert len(questions) == 10
    assert sorted(account for question in questions for account in question.accounts) == list(range(365))
    for question in questions:
        for days in question.accounts:
            needed = timedelta(days=days + 1)
            assert needed <= now - question.since <= 2 * needed


async def test_a_books_orders_are_found_by_number_and_not_by_reading_history(trading, trader_engine, market, make_user):
    user = await make_user(symbols=("INFY",))
    account = await account_of(trading.sessions, user)
    await change(
        trading,
        """INSERT INTO orders (client_order_id, origin, user_id, account_id, intent, symbol, exchange, side, product,
               order_type, quantity, limit_price, state, filled_quantity, broker_order_id, environment, decided_at,
               submitted_at)
           SELECT 'M' || n, 'manual', :u, :a, 'entry', 'INFY', 'nse', 'buy', 'cnc', 'limit', 1, 1, 'filled', 1,
               'B' || n, 'simulated', now(), now() FROM generate_series(1, 5000) n""",
        u=user,
        a=account,
    )
    by_hand = OrderRequest("INFY", "nse", Side.BUY, Product.CNC, OrderType.LIMIT, 1, Decimal(1400), "")
    await trading.brokers["paper"].place(account, by_hand)
    asked: list[tuple[str, Any]] = []

    def listen(_connection, _cursor, statement, parameters, *_):
        if "orders.broker_order_id = any" in statement:
            asked.append((statement, parameters))

    event.listen(trader_engine.sync_engine, "before_cursor_execute", listen)
    await watch_positions(trading)
    event.remove(trader_engine.sync_engine, "before_cursor_execute", listen)
    ((statement, parameters),) = asked
    async with trader_engine.connect() as connection:
        await connection.exec_driver_sql("SET plan_cache_mode = force_custom_plan")
        plan = (await connection.exec_driver_sql("EXPLAIN " + statement, parameters)).scalars().all()
    assert "ix_orders_account_id_broker_order_id" in "\n".join(plan)
