"""The paper broker's book: its money and shares always add up, it scales, and neither market nor lock stalls it."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text
from structlog.testing import capture_logs

from backend.brokers.base import OrderRejectedError, OrderRequest, OutcomeUnknownError
from backend.brokers.paper import PaperBroker, deposit
from backend.brokers.paper_ledger import balances
from backend.db import lock_account
from backend.domain.market import OrderType, Product, Side
from backend.domain.reconcile import BookStatus
from backend.models.paper import PaperEntry, PaperOrder
from tests.support.market_server import Stock
from tests.support.paper_desk import CASH, D, Desk, open_desk, statements


@pytest.fixture
async def desk(trading, market, make_user, sessions) -> Desk:
    return await open_desk(trading, market, make_user, sessions)


async def check_ledger(desk: Desk) -> None:
    """Balances are the sums of entries, each entry tells the balance after it, and nothing is below zero."""
    async with desk.sessions() as session:
        mine = PaperEntry.account_id == desk.account
        entries = (await session.scalars(select(PaperEntry).where(mine).order_by(PaperEntry.id))).all()
        held = (await balances(session, [desk.account]))[desk.account]
    sums = dict.fromkeys(held, D(0))
    for entry in entries:
        sums[entry.asset] += entry.amount
        assert entry.balance_after == sums[entry.asset]
    assert held == sums
    assert min(held.values()) >= 0
    assert (await desk.funds()).cash_free >= 0


MOVES = st.one_of(
    st.tuples(st.just("deposit"), st.integers(1, 200_000)),
    st.tuples(st.just("buy"), st.integers(1, 400)),
    st.tuples(st.just("sell"), st.integers(1, 60)),
    st.tuples(st.just("rest"), st.integers(1, 100)),
    st.tuples(st.just("cancel"), st.integers(0, 5)),
    st.tuples(st.just("bar"), st.integers(100, 2000)),
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=st.lists(MOVES, min_size=4, max_size=12))
async def test_balances_are_the_sums_of_their_entries_after_anything(trading, market, make_user, sessions, moves):
    market.now, market.stocks["INFY"] = market.now.replace(day=18, hour=10, minute=0), Stock(D(1500), bar_volume=500)
    desk = await open_desk(trading, market, make_user, sessions, cash=D(200_000))
    orders: list[str] = []
    for move, size in moves:
        try:
            if move == "deposit":
                async with sessions.begin() as session:
                    await deposit(session, desk.account, D(size), market.now)
            elif move == "bar":
                desk.bar(1500, 1510, 1490, volume=size)
                await desk.book()
            elif move == "cancel" and orders:
                await desk.broker.cancel(desk.account, orders[size % len(orders)])
            elif move in {"buy", "sell", "rest"}:
                side, limit = (Side.SELL if move == "sell" else Side.BUY), 1495 if move == "rest" else 1500
                orders.append(await desk.place(side, size, limit))
        except OrderRejectedError:
            pass
    await check_ledger(desk)


async def test_deposits_at_once_are_all_kept(desk):
    async def one() -> None:
        async with desk.sessions.begin() as session:
            await deposit(session, desk.account, D("0.01"), desk.start)

    await asyncio.gather(*(one() for _ in range(8)))
    assert (await desk.funds()).cash == CASH + D("0.08")
    await check_ledger(desk)


async def test_funds_are_read_by_key_and_never_from_the_entries(desk, trader_engine):
    async with desk.sessions.begin() as session:
        for _ in range(20):
            await deposit(session, desk.account, D(1), desk.start)
    with statements(trader_engine) as seen:
        await desk.funds()
    (reading,) = (each for each in seen if "paper_balances" in each[0])
    assert not any("paper_entries" in statement for statement, _ in seen)
    async with trader_engine.connect() as connection:
        await connection.execute(text("SET enable_seqscan = off"))  # one page is read faster than its index
        plan = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {reading[0]}", reading[1])
        scan = plan.scalar_one()[0]["Plan"]
    scan = scan["Plans"][0] if "Plans" in scan else scan
    assert (scan["Index Name"], scan["Actual Rows"]) == ("pk_paper_balances", 1)


MANY = 34_000  # a statement of the database's protocol has at most 32,767 parameters


async def test_a_book_of_more_orders_than_a_statement_has_parameters(desk):
    async with desk.sessions.begin() as session:
        await session.execute(
            text(
                """INSERT INTO paper_orders (account_id, tag, symbol, exchange, side, product, order_type, quantity,
                       limit_price, status, filled_quantity, filled_value, charges, message, placed_at, matched_through)
                   SELECT :account, 'M' || i, 'INFY', 'nse', 'buy', 'cnc', 'limit', 1, 1500, 'complete', 1, 1500, 0, '',
                       CAST(:at AS timestamptz), :at FROM generate_series(1, :many) i"""
            ),
            {"account": desk.account, "at": desk.start, "many": MANY},
        )
        await session.execute(
            text(
                """INSERT INTO paper_trades (order_id, account_id, quantity, price, charges, trade_date, traded_at)
                   SELECT id, account_id, 1, 1500, 0, '2024-03-18', placed_at FROM paper_orders"""
            )
        )
    accounts = range(desk.account, desk.account + MANY)
    whole = (await desk.broker.books(accounts, desk.start))[desk.account]
    assert (len(whole), {len(order.trades) for order in whole}) == (MANY, {1})
    asked = await desk.broker.books(accounts, desk.start, [f"M{i}" for i in range(MANY, 2 * MANY)])
    assert [order.tag for order in asked[desk.account]] == [f"M{MANY}"]
    later = await desk.broker.books(accounts, desk.start + timedelta(seconds=1))
    assert (len(later), later[desk.account]) == (MANY, [])
    assert len(await desk.broker.snapshots(accounts)) == MANY


async def test_a_market_that_cannot_be_read_leaves_the_book_readable(desk):
    order = await desk.buy(10, 1495)
    desk.bar(1490, 1500, 1480)
    desk.market.quotes_down = True
    with capture_logs() as logs:
        assert (await desk.book())[order].status is BookStatus.OPEN
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("paper_market_unreadable", "warning")]
    with pytest.raises(OrderRejectedError, match="No market"):
        await desk.buy(10, 1495)
    desk.market.quotes_down = False
    assert (await desk.book())[order].status is BookStatus.COMPLETE


async def test_a_silent_clock_leaves_the_book_readable(desk):
    async def silent() -> datetime:
        raise TimeoutError

    order = await desk.buy(10, 1495)
    deaf = PaperBroker(desk.sessions, replace(desk.broker._market, now=silent))
    with capture_logs() as logs:
        (entry,) = (await deaf.books([desk.account], desk.start))[desk.account]
    assert (entry.broker_order_id, entry.status) == (order, BookStatus.OPEN)
    assert [entry["event"] for entry in logs] == ["paper_clock_unreadable"]


async def test_one_unreadable_symbol_among_many_does_not_hold_up_the_others(desk):
    """More symbols rest than one request may name, and the market fails on one of them."""
    order = await desk.buy(10, 1495)
    others = {f"S{i:03}": Stock(D(100)) for i in range(500)}
    desk.market.stocks.update(others)
    async with desk.sessions.begin() as session:
        resting = await session.get_one(PaperOrder, int(order))
        session.add_all(_copy_of(resting, symbol) for symbol in others)
    del desk.market.stocks["S499"]
    desk.bar(1490, 1500, 1480)
    with capture_logs() as logs:
        book = await desk.book()
    assert book[order].status is BookStatus.COMPLETE
    assert len(book) == 501
    (failed,) = (entry["symbols"] for entry in logs if entry["event"] == "paper_market_unreadable")
    assert "S499" in failed


def _copy_of(order: PaperOrder, symbol: str) -> PaperOrder:
    columns = {c.key: getattr(order, c.key) for c in PaperOrder.__table__.columns if c.key not in {"id", "created_at"}}
    return PaperOrder(**{**columns, "symbol": symbol, "tag": symbol, "quantity": 1, "limit_price": D(1)})


async def test_nothing_is_locked_where_nothing_happens(desk):
    order = await desk.buy(10, 1495)
    desk.bar(1500, 1501, 1499)
    async with desk.sessions.begin() as other:
        await lock_account(other, desk.account)
        async with asyncio.timeout(5):
            assert (await desk.book())[order].status is BookStatus.OPEN


async def test_an_account_is_advanced_in_one_transaction(desk, trader_engine):
    orders = [await desk.buy(10, limit) for limit in (1495, 1494, 1493)]
    desk.bar(1496, 1497, 1490)
    with statements(trader_engine) as seen:
        book = await desk.book()
    assert {book[order].status for order in orders} == {BookStatus.COMPLETE}
    assert sum("FOR NO KEY UPDATE" in statement for statement, _ in seen) == 1


async def test_a_cancel_waits_for_a_fill_that_is_under_way(desk):
    order = await desk.buy(10, 1495)
    async with asyncio.timeout(5), desk.sessions.begin() as other, desk.sessions() as watcher:
        await lock_account(other, desk.account)
        await other.execute(text("UPDATE paper_orders SET status = 'complete'"))
        cancel = asyncio.create_task(desk.broker.cancel(desk.account, order))
        while not await watcher.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
            pass
    await cancel
    assert (await desk.book())[order].status is BookStatus.COMPLETE


async def test_readers_at_once_fill_an_order_once(desk):
    order = await desk.buy(10, 1495)
    desk.bar(1490, 1500, 1480)
    await asyncio.gather(*(desk.book() for _ in range(6)))
    assert [trade.quantity for trade in (await desk.book())[order].trades] == [10]
    assert (await desk.funds()).holdings == {"INFY": 10}


async def test_an_order_that_cannot_be_booked_in_time_is_never_booked(desk):
    hurried = PaperBroker(desk.sessions, desk.broker._market, place_timeout_s=0.3)
    request = OrderRequest("INFY", "nse", Side.BUY, Product.CNC, OrderType.LIMIT, 1, D(1500), "LATE")
    async with desk.sessions.begin() as other:
        await lock_account(other, desk.account)
        async with asyncio.timeout(5):
            with pytest.raises(OutcomeUnknownError, match="TimeoutError"):
                await hurried.place(desk.account, request)
    assert await desk.book() == {}
