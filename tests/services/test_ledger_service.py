"""Sauda's books on the database: they add up after whatever a broker does, and nobody can rewrite them."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from itertools import permutations
from random import Random

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import ProgrammingError

from backend.brokers.base import AccountSnapshot
from backend.db import TRADER_ROLE, Sessions, lock_account
from backend.domain.ledger import JournalKind, LedgerAccount
from backend.domain.market import Side
from backend.domain.orders import LIVE_STATES, OrderState
from backend.domain.reasons import Reason
from backend.models import BrokerAccount, BrokerAccountStatus, Fill, LedgerBalance, LedgerEntry, Order
from backend.services.auto_trading_service import run_cycle
from backend.services.context import Trading
from backend.services.ledger_service import Books, align, books_of
from backend.services.reconcile_service import ask_cancel, reconcile, request_cancel
from tests.support.broker_book import Mode
from tests.support.paper_desk import account_of
from tests.support.send_desk import SendDesk, open_send_desk

D = Decimal
S = OrderState
SEED = 7
PERMUTATIONS_TRIED = 6


@pytest.fixture
async def desk(trading, market):
    async with open_send_desk(trading, market) as desk:
        yield desk


async def books(sessions: Sessions, account_id: int) -> Books:
    """The account's books, after making sure that all books add up."""
    entry, balance = LedgerEntry, LedgerBalance
    key = (entry.account_id, entry.ledger_account, entry.symbol)
    async with sessions() as session:
        sums = await session.execute(select(*key, func.sum(entry.amount), func.sum(entry.quantity)).group_by(*key))
        kept = await session.execute(
            select(balance.account_id, balance.ledger_account, balance.symbol, balance.balance, balance.quantity)
        )
        assert {tuple(row) for row in sums} == {tuple(row) for row in kept}
        unbalanced = select(entry.journal).group_by(entry.journal).having(func.sum(entry.amount) != 0)
        assert (await session.scalars(unbalanced)).all() == []
        holding_back = (
            select(Order.state)
            .join(entry, entry.order_id == Order.id)
            .where(entry.ledger_account == LedgerAccount.RESERVED)
            .group_by(Order.id)
            .having(func.sum(entry.amount) != 0)
        )
        assert set(await session.scalars(holding_back)) <= LIVE_STATES
        filled = select(Fill.order_id, func.sum(Fill.quantity)).group_by(Fill.order_id)
        progress = select(Order.id, Order.filled_quantity).where(Order.filled_quantity > 0)
        assert {tuple(row) for row in await session.execute(filled)} == {
            tuple(row) for row in await session.execute(progress)
        }
        return (await books_of(session, [account_id]))[account_id]


async def at_broker(trading: Trading, account_id: int) -> AccountSnapshot:
    (broker,) = trading.brokers.values()
    snapshot = (await broker.snapshots([account_id]))[account_id]
    assert isinstance(snapshot, AccountSnapshot)
    return snapshot


async def require_agreement(trading: Trading, account_id: int) -> Books:
    """The account's books, after making sure that they say what the broker says."""
    ours, theirs = await books(trading.sessions, account_id), await at_broker(trading, account_id)
    assert (ours.cash + ours.reserved, ours.shares) == (theirs.cash, dict(theirs.holdings))
    return ours


# ---- whatever a broker does


async def test_cycles_at_the_paper_broker_leave_books_that_agree_with_its_own(trading, market, make_user) -> None:
    asha, ravi = await make_user("asha"), await make_user("ravi", cash=D(60_000))
    await run_cycle(trading, market.now)
    for user in (asha, ravi):
        assert "INFY" in (await require_agreement(trading, await account_of(trading.sessions, user))).shares
    market.now += timedelta(minutes=1)
    market.stocks["INFY"].last = D(1600)
    await run_cycle(trading, market.now)
    for user in (asha, ravi):
        ours = await require_agreement(trading, await account_of(trading.sessions, user))
        assert ours.reserved == 0
        assert "INFY" not in ours.shares
    async with trading.sessions() as session:
        gained = select(func.sum(LedgerEntry.amount)).where(LedgerEntry.ledger_account == LedgerAccount.PNL)
        assert (await session.scalar(gained) or 0) < 0  # a gain is a credit


async def fills_in_parts(desk: SendDesk, user_id: int) -> tuple[OrderState, int]:
    await desk.behave(Mode.PARTIAL, parts=3)
    order = await desk.send_new(user_id)
    for _ in range(3):
        await reconcile(desk.trading)
        await books(desk.trading.sessions, order.account_id)
    return (await desk.orders([order.id]))[0].state, 10


async def is_cancelled_after_a_part(desk: SendDesk, user_id: int) -> tuple[OrderState, int]:
    await desk.behave(Mode.REST)
    order = await desk.send_new(user_id)
    await desk.control("fill", order_id=order.broker_order_id, quantity=4)
    await desk.cancel_all()
    await reconcile(desk.trading)
    return (await desk.orders([order.id]))[0].state, 4


async def fills_after_its_cancel(desk: SendDesk, user_id: int) -> tuple[OrderState, int]:
    await desk.behave(Mode.FILL_LATE)
    order = await desk.send_new(user_id)
    await desk.cancel_all()
    await reconcile(desk.trading)
    assert [o.state for o in await desk.orders([order.id])] == [S.CANCELLED]
    assert (await books(desk.trading.sessions, order.account_id)).reserved == 0
    await reconcile(desk.trading)
    return (await desk.orders([order.id]))[0].state, 10


async def is_refused(desk: SendDesk, user_id: int) -> tuple[OrderState, int]:
    await desk.behave(Mode.REFUSE)
    return (await desk.send_new(user_id)).state, 0


async def is_denied(desk: SendDesk, user_id: int) -> tuple[OrderState, int]:
    sending = await desk.recorded(user_id)
    desk.market.stocks["INFY"].last = D(1600)
    (order,) = await desk.send(sending)
    desk.market.stocks["INFY"].last = D(1500)
    return order.state, 0


async def is_told_twice(desk: SendDesk, user_id: int) -> tuple[OrderState, int]:
    await desk.behave(Mode.ACCEPT_THEN_502, Mode.DOUBLE_TRADES)
    order = await desk.send_new(user_id)
    assert order.state is S.SUBMITTED
    assert (await books(desk.trading.sessions, order.account_id)).reserved > 0
    await reconcile(desk.trading)
    await reconcile(desk.trading)
    return (await desk.orders([order.id]))[0].state, 10


async def stays_unknown(desk: SendDesk, user_id: int) -> tuple[OrderState, int]:
    await desk.behave(Mode.DROP_BEFORE_ACCEPT)
    order = await desk.send_new(user_id)
    await desk.let_time_pass(5)
    for _ in range(5):
        await reconcile(desk.trading)
        await desk.let_time_pass(2)
    ours = await books(desk.trading.sessions, order.account_id)
    assert ours.reserved == D(15_000) * D("1.0015")
    return (await desk.orders([order.id]))[0].state, 0


Happening = Callable[[SendDesk, int], Awaitable[tuple[OrderState, int]]]


@pytest.mark.parametrize(
    ("happening", "end"),
    [
        (fills_in_parts, S.FILLED),
        (is_cancelled_after_a_part, S.CANCELLED),
        (fills_after_its_cancel, S.FILLED),
        (is_refused, S.REJECTED),
        (is_denied, S.DENIED),
        (is_told_twice, S.FILLED),
        (stays_unknown, S.UNKNOWN),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_an_order_that(desk, make_user, happening: Happening, end) -> None:
    user_id = await make_user()
    account_id = await desk.account(user_id)
    state, shares = await happening(desk, user_id)
    assert state is end
    ours = await require_agreement(desk.trading, account_id)
    assert ours.shares.get("INFY", 0) == shares
    assert (ours.reserved > 0) == (end in LIVE_STATES)
    # the shares' price, and the broker's charges of a thousandth
    assert ours.cash + ours.reserved == 500_000 - 1500 * shares * D("1.001")


async def test_a_sell_brings_its_price_less_charges_and_leaves_the_rest_at_cost(desk, make_user) -> None:
    user_id = await make_user()
    account_id = await desk.account(user_id)
    await desk.send_new(user_id)
    await reconcile(desk.trading)
    await desk.send_new(user_id, side=Side.SELL, quantity=4, price=D(1490))
    await reconcile(desk.trading)
    ours = await require_agreement(desk.trading, account_id)
    assert (ours.shares, ours.positions, ours.reserved) == ({"INFY": 6}, 9_000, 0)
    assert ours.cash == 500_000 - 15_000 - 15 + 5_960 - D("5.96")


# ---- every order of events, a sample


async def test_a_sample_of_the_orders_of_six_events_ends_alike(desk, make_user) -> None:
    """Three fills, a cancel wanted and confirmed, and a doubled report, in shuffled order, each read from the book."""
    for n, order_of_events in enumerate(Random(SEED).sample(list(permutations(range(6))), PERMUTATIONS_TRIED)):
        await desk.behave(Mode.REST)
        user_id = await make_user(f"user{n}")
        account_id = await desk.account(user_id)
        order = await desk.send_new(user_id)
        for event in order_of_events:
            await happen(desk, order, event)
            await reconcile(desk.trading, [account_id])
            held = (await books(desk.trading.sessions, account_id)).shares.get("INFY", 0)
            assert (await at_broker(desk.trading, account_id)).holdings.get("INFY", 0) == held
        (after,) = await desk.orders([order.id])
        ours = await require_agreement(desk.trading, account_id)
        assert (after.state, after.filled_quantity, ours.shares) == (S.FILLED, 10, {"INFY": 10}), order_of_events
        assert (ours.cash, ours.reserved) == (500_000 - 15_015, 0), order_of_events
        too_many = await desk.send_new(user_id, side=Side.SELL, quantity=11)
        assert too_many.denied_reason is Reason.SELL_EXCEEDS_HOLDING


async def happen(desk: SendDesk, order: Order, event: int) -> None:
    if event < 3:
        await desk.control("fill", order_id=order.broker_order_id, quantity=(3, 3, 4)[event])
    elif event == 3:
        if await request_cancel(desk.trading, order.id, "wanted", desk.market.now):
            await ask_cancel(desk.trading.brokers["http"], order.account_id, order.broker_order_id or "")
    elif event == 4:
        await desk.control("cancel", order_id=order.broker_order_id)
    else:
        await desk.behave(Mode.REST, Mode.DOUBLE_TRADES)


# ---- nobody rewrites them


@pytest.mark.parametrize("table", ["ledger_entries", "fills", "order_events", "paper_entries", "paper_trades"])
async def test_what_is_written_once_is_never_changed(trader_sessions, table) -> None:
    for statement in (f"UPDATE {table} SET id = id + 1", f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):
        async with trader_sessions() as session:
            with pytest.raises(ProgrammingError, match="permission denied"):
                await session.execute(text(statement))


async def test_the_application_owns_nothing(trader_sessions) -> None:
    async with trader_sessions() as session:
        assert await session.scalar(text("SELECT current_user")) == TRADER_ROLE
        tables = select(text("tableowner")).select_from(text("pg_tables")).where(text("schemaname = 'public'"))
        owners = (await session.scalars(tables)).all()
        role = text(f"SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = '{TRADER_ROLE}'")
        assert await session.scalar(role) is False
    assert len(owners) > 20
    assert TRADER_ROLE not in owners


# ---- following the broker's own figures


async def test_a_difference_is_posted_once(sessions, market, make_user) -> None:
    account_id = await account_of(sessions, await make_user())

    async def follow(cash: int, holdings: dict[str, int]) -> list[str]:
        async with sessions.begin() as session:
            await lock_account(session, account_id)
            return await align(session, account_id, D(cash), holdings, market.now)

    assert await follow(500_100, {"INFY": 5}) == ["cash by 100 rupees", "INFY by +5 shares"]
    assert await follow(500_100, {"INFY": 5}) == []
    assert await follow(500_100, {"TCS": 2}) == ["INFY by -5 shares", "TCS by +2 shares"]
    ours = await books(sessions, account_id)
    assert (ours.cash, ours.shares, ours.positions) == (500_100, {"TCS": 2}, 0)
    async with sessions() as session:
        kinds = await session.scalars(select(LedgerEntry.kind).distinct().order_by(LedgerEntry.kind))
        assert kinds.all() == [JournalKind.ADJUST, JournalKind.FUND]


async def test_books_that_were_never_opened_begin_with_what_the_broker_has(sessions, market, make_user) -> None:
    user_id = await make_user()
    async with sessions.begin() as session:
        account = BrokerAccount(
            user_id=user_id, broker="paper", label="second", status=BrokerAccountStatus.READY, is_primary=False
        )
        session.add(account)
        await session.flush()
        assert not (await books_of(session, [account.id]))[account.id].opened
        await align(session, account.id, D(750), {}, market.now)
        kinds = select(LedgerEntry.kind).where(LedgerEntry.account_id == account.id).distinct()
        assert (await session.scalars(kinds)).all() == [JournalKind.FUND]
    ours = await books(sessions, account.id)
    assert (ours.opened, ours.cash) == (True, 750)
