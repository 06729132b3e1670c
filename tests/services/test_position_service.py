"""Orders and trades made by hand in the broker's own app: adopted, never mistaken for ours, and never for nothing."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import select, text

from backend.brokers.base import BrokerUnavailableError, OrderRequest
from backend.domain.decide import ExitReason, TradeStatus
from backend.domain.market import OrderType, Product, Side
from backend.domain.orders import Intent, OrderState
from backend.domain.trading_states import Cause, TradingState
from backend.models import AutoTrade, Fill, LedgerEntry, Order, OrderOrigin, OutboxMessage, TradingStatePeriod
from backend.services import ledger_service
from backend.services.auto_trading_service import run_cycle
from backend.services.position_service import watch_positions
from backend.services.reconcile_service import reconcile


async def account_of(trading, user_id: int) -> int:
    async with trading.sessions() as session:
        return await session.scalar(text("SELECT id FROM broker_accounts WHERE user_id = :u"), {"u": user_id})


async def by_hand(trading, user_id: int, side: Side, quantity: int, price: str, tag: str = "", symbol="INFY") -> str:
    """An order through the broker's own app."""
    order = OrderRequest(symbol, "nse", side, Product.CNC, OrderType.LIMIT, quantity, Decimal(price), tag)
    return await trading.brokers["paper"].place(await account_of(trading, user_id), order)


async def orders(trading, origin: OrderOrigin) -> Sequence[Order]:
    async with trading.sessions() as session:
        return (await session.scalars(select(Order).where(Order.origin == origin).order_by(Order.id))).all()


async def books(trading, user_id: int):
    account_id = await account_of(trading, user_id)
    async with trading.sessions() as session:
        return (await ledger_service.books_of(session, [account_id]))[account_id]


async def test_a_purchase_by_hand_is_adopted_and_bars_the_symbol(trading, market, make_user):
    user = await make_user(symbols=("INFY",))
    await by_hand(trading, user, Side.BUY, 10, "1510")
    report = await watch_positions(trading)
    assert (report.adopted, report.failed_accounts) == (1, set())
    (order,) = await orders(trading, OrderOrigin.EXTERNAL)
    assert (order.state, order.filled_quantity, order.auto_trade_id) == (OrderState.FILLED, 10, None)
    assert (await books(trading, user)).shares == {"INFY": 10}
    cycle = await run_cycle(trading, market.now)
    assert cycle.denied == {"already_held": 1}
    assert not await orders(trading, OrderOrigin.ENGINE)


async def test_comparing_twice_changes_nothing(trading, market, make_user):
    user = await make_user(symbols=("INFY",))
    await by_hand(trading, user, Side.BUY, 10, "1510")
    await watch_positions(trading)

    async def everything():
        async with trading.sessions() as session:
            counts = []
            for table in (Order, Fill, LedgerEntry, OutboxMessage):
                counts.append(len((await session.scalars(select(table))).all()))
            return counts, await books(trading, user)

    before = await everything()
    again = await watch_positions(trading)
    assert (again.adopted, again.aligned) == (0, 0)
    assert await everything() == before


async def test_our_own_order_is_never_taken_for_a_foreign_one(trading, market, make_user):
    await make_user(symbols=("INFY",))
    await run_cycle(trading, market.now)
    assert (await watch_positions(trading)).adopted == 0
    assert not await orders(trading, OrderOrigin.EXTERNAL)


async def test_an_order_that_rests_by_hand_is_followed_and_left_alone(trading, market, make_user):
    user = await make_user(symbols=("INFY",))
    broker_order = await by_hand(trading, user, Side.BUY, 10, "1400")
    await watch_positions(trading)
    market.now = market.now.replace(hour=14)
    await reconcile(trading)
    (order,) = await orders(trading, OrderOrigin.EXTERNAL)
    assert order.state is OrderState.ACCEPTED  # four hours on: it is the user's to cancel
    await trading.brokers["paper"].cancel(await account_of(trading, user), broker_order)
    await reconcile(trading)
    (order,) = await orders(trading, OrderOrigin.EXTERNAL)
    assert order.state is OrderState.CANCELLED


async def test_selling_a_trades_shares_by_hand_closes_it_at_what_they_brought(trading, market, make_user):
    user = await make_user(symbols=("INFY",))
    await run_cycle(trading, market.now)
    async with trading.sessions() as session:
        trade = (await session.scalars(select(AutoTrade))).one()
    assert trade.status is TradeStatus.OPEN
    await by_hand(trading, user, Side.SELL, trade.entry_quantity, "1490")
    await watch_positions(trading)
    async with trading.sessions() as session:
        after = (await session.scalars(select(AutoTrade))).one()
        fills = (await session.scalars(select(Fill).order_by(Fill.id))).all()
    assert (after.status, after.exit_reason) == (TradeStatus.CLOSED, ExitReason.EXTERNAL)
    bought, sold = fills
    gross = (sold.price - bought.price) * trade.entry_quantity
    assert after.realized_pnl == gross - bought.charges - sold.charges
    assert (await books(trading, user)).shares == {}


async def test_selling_ones_own_shares_leaves_the_trade_alone(trading, market, make_user):
    user = await make_user(symbols=("INFY",))
    await run_cycle(trading, market.now)
    await by_hand(trading, user, Side.BUY, 5, "1510")
    await watch_positions(trading)
    await by_hand(trading, user, Side.SELL, 5, "1490")
    await watch_positions(trading)
    async with trading.sessions() as session:
        assert (await session.scalars(select(AutoTrade.status))).one() is TradeStatus.OPEN
        assert (await session.scalars(select(Order.auto_trade_id).where(Order.side == Side.SELL))).one() is None


async def test_a_name_of_ours_that_is_not_on_record_halts_its_user(trading, market, make_user):
    """A restored backup, or a second Sauda on the same account: nothing goes out until a person has looked."""
    user = await make_user(symbols=("TCS",))
    await by_hand(trading, user, Side.BUY, 1, "1510", tag="0123456789ABCDEF0123")
    await watch_positions(trading)
    async with trading.sessions() as session:
        period = (await session.scalars(select(TradingStatePeriod))).one()
    assert (period.key, period.state, period.cause) == (str(user), TradingState.HALTED, Cause.UNKNOWN_OWN_ORDER)
    report = await run_cycle(trading, market.now)
    assert report.denied == {"trading_halted": 1}


@pytest.mark.parametrize(
    ("state", "sent"),
    [(OrderState.DENIED, False), (OrderState.EXPIRED, False), (OrderState.REJECTED, True)],
    ids=["denied", "abandoned unsent", "refused"],
)
async def test_an_order_on_record_as_never_sent_or_refused_that_stands_in_the_book_halts_its_user(
    trading, market, make_user, state, sent
):
    """Its record will never move again: nothing else would ever count what it trades."""
    user = await make_user(symbols=("INFY",))
    name = "0123456789ABCDEF0123"
    async with trading.sessions.begin() as session:
        session.add(
            Order(
                client_order_id=name,
                origin=OrderOrigin.MANUAL,
                user_id=user,
                account_id=await account_of(trading, user),
                intent=Intent.ENTRY,
                symbol="INFY",
                exchange="nse",
                side=Side.BUY,
                product=Product.CNC,
                order_type=OrderType.LIMIT,
                quantity=5,
                limit_price=Decimal(1510),
                state=state,
                environment="simulated",
                decided_at=market.now,
                submitted_at=market.now if sent else None,
            )
        )
    await by_hand(trading, user, Side.BUY, 5, "1510", tag=name)
    assert (await watch_positions(trading)).adopted == 1
    (adopted,) = await orders(trading, OrderOrigin.EXTERNAL)
    assert (adopted.state, adopted.filled_quantity) == (OrderState.FILLED, 5)
    async with trading.sessions() as session:
        period = (await session.scalars(select(TradingStatePeriod))).one()
    assert (period.state, period.cause) == (TradingState.HALTED, Cause.UNKNOWN_OWN_ORDER)


async def test_a_refused_order_that_shows_as_refused_is_no_news(trading, market, make_user):
    await make_user(symbols=("INFY",), cash=Decimal(500_000))
    real = trading.brokers["paper"]

    async def poorer(account_id, order):
        async with trading.sessions.begin() as session:
            await session.execute(text("UPDATE paper_balances SET balance = 1 WHERE asset = 'INR'"))
        return await type(real).place(real, account_id, order)

    real.place = poorer
    await run_cycle(trading, market.now)
    (order,) = await orders(trading, OrderOrigin.ENGINE)
    assert order.state is OrderState.REJECTED
    assert (await watch_positions(trading)).adopted == 0


async def test_a_report_older_than_a_fill_takes_no_sale_for_the_trades(trading, market, make_user):
    """The shares were bought while the report was on its way: that it does not show them proves nothing."""
    user = await make_user(symbols=("INFY",))
    account = await account_of(trading, user)

    class Overtaken(Silent):
        async def snapshots(self, account_ids):
            old = await self._real.snapshots(account_ids)
            await run_cycle(trading, market.now)
            async with trading.sessions.begin() as session:
                sold = await session.get_one(Order, await by_hand_record(session, user, account, market.now))
                sold.state, sold.filled_quantity = OrderState.FILLED, 5
            return old

    await watch_positions(replace(trading, brokers={"paper": Overtaken(trading.brokers["paper"], "")}))
    (sold,) = await orders(trading, OrderOrigin.EXTERNAL)
    async with trading.sessions() as session:
        trade = (await session.scalars(select(AutoTrade))).one()
    assert (sold.auto_trade_id, trade.status, trade.exit_quantity) == (None, TradeStatus.OPEN, 0)


async def by_hand_record(session, user_id: int, account_id: int, now) -> int:
    """Five shares sold in the broker's own app, as adopted."""
    order = Order(
        client_order_id="X0",
        broker_order_id="0",
        origin=OrderOrigin.EXTERNAL,
        user_id=user_id,
        account_id=account_id,
        intent=Intent.EXIT,
        symbol="INFY",
        exchange="nse",
        side=Side.SELL,
        product=Product.CNC,
        order_type=OrderType.LIMIT,
        quantity=5,
        limit_price=Decimal(1490),
        state=OrderState.SUBMITTED,
        environment="simulated",
        decided_at=now,
        submitted_at=now,
    )
    session.add(order)
    await session.flush()
    return order.id


class Silent:
    """The paper broker whose reports of one kind fail."""

    name = "paper"
    real_money = False
    absence_is_proof_after_s = None

    def __init__(self, real, failing: str) -> None:
        self._real, self._failing = real, failing

    def __getattr__(self, name):
        if name != self._failing:
            return getattr(self._real, name)

        async def fails(account_ids, *_):
            return {account_id: BrokerUnavailableError("502") for account_id in account_ids}

        return fails


@pytest.mark.parametrize("failing", ["books", "snapshots"])
async def test_a_failed_report_is_not_an_empty_one(trading, market, make_user, failing):
    user = await make_user(symbols=("INFY",))
    await run_cycle(trading, market.now)
    before = await books(trading, user)
    assert before.shares
    silent = replace(trading, brokers={"paper": Silent(trading.brokers["paper"], failing)})
    report = await watch_positions(silent)
    assert report.failed_accounts == {await account_of(trading, user)}
    assert await books(trading, user) == before
    async with trading.sessions() as session:
        assert (await session.scalars(select(AutoTrade.status))).one() is TradeStatus.OPEN


async def test_money_from_outside_is_taken_in_once_and_said(trading, market, make_user):
    user = await make_user(symbols=("INFY",), enabled=True)
    account_id = await account_of(trading, user)
    async with trading.sessions.begin() as session:
        from backend.brokers.paper import deposit

        await deposit(session, account_id, Decimal(1000), market.now)
    assert (await watch_positions(trading)).aligned == 1
    assert (await watch_positions(trading)).aligned == 0
    assert (await books(trading, user)).cash == Decimal(501_000)
    async with trading.sessions() as session:
        (message,) = (await session.scalars(select(OutboxMessage))).all()
    assert message.topic == "account.adjusted"


async def test_an_account_with_an_order_under_way_is_not_aligned(trading, market, make_user):
    """Its broker's figures and ours differ for a moment by nature."""
    user = await make_user(symbols=("INFY",))
    await run_cycle(trading, market.now)
    account_id = await account_of(trading, user)
    async with trading.sessions.begin() as session:
        await session.execute(text("UPDATE orders SET state = 'unknown'"))
        from backend.brokers.paper import deposit

        await deposit(session, account_id, Decimal(1000), market.now)
    before = await books(trading, user)
    assert (await watch_positions(trading)).aligned == 0
    assert await books(trading, user) == before
