"""Real orders end to end: each bears its names, a stop rests at the broker, and a session that ends stops it all."""

from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select, update

from backend.brokers.base import NotPlacedError
from backend.domain.decide import ExitReason, TradeStatus
from backend.domain.orders import Intent, OrderState
from backend.domain.reasons import Reason
from backend.models import AutoTrade, BrokerAccount, BrokerSession, Order, OrderOrigin, OutboxMessage
from backend.services import gate_service, ledger_service
from backend.services.auto_trading_service import CycleReport, run_cycle
from backend.services.gather_service import gather_market, gather_users
from backend.services.guard_service import guard_trades, release_guards
from backend.services.position_service import watch_positions
from backend.services.readiness_service import nudge, prepare_lists
from backend.services.reconcile_service import reconcile
from tests.brokers.rest_server import Break
from tests.support.live_desk import EGRESS_IP, LiveDesk, open_live_desk


@pytest.fixture
async def desk(trading, market, sessions):
    async with open_live_desk(trading, market, sessions) as desk:
        yield desk


async def entered(desk: LiveDesk, make_user, quantity: int | None = None) -> tuple[int, AutoTrade]:
    """A user whose entry in INFY has filled, all of it or `quantity` shares; the account and the trade."""
    account_id = await desk.account(await make_user(symbols=("INFY",)))
    await run_cycle(desk.trading, desk.market.now)
    (entry,) = await desk.orders(intent=Intent.ENTRY)
    desk.fill(entry, quantity)
    await reconcile(desk.trading)
    return account_id, await trade_of(desk)


async def cycle(desk: LiveDesk) -> CycleReport:
    report = await run_cycle(desk.trading, desk.market.now)
    assert report is not None
    return report


async def trade_of(desk: LiveDesk) -> AutoTrade:
    async with desk.trading.sessions() as session:
        return (await session.scalars(select(AutoTrade))).one()


async def guards(desk: LiveDesk) -> list[tuple[OrderState, int, Decimal]]:
    return [(g.state, g.quantity, g.trigger_price) for g in await desk.orders(origin=OrderOrigin.GUARD)]


async def test_an_order_bears_its_algo_id_and_leaves_from_the_approved_address(desk, make_user) -> None:
    await desk.account(await make_user(symbols=("INFY",)))
    await run_cycle(desk.trading, desk.market.now)
    (order,) = await desk.orders()
    (form,) = desk.forms()
    assert (order.state, order.algo_id, order.egress_ip) == (OrderState.ACCEPTED, "ALGO1", EGRESS_IP)
    assert (form["tag"], form["algo_id"], form["order_type"]) == (order.client_order_id, "ALGO1", "LIMIT")


async def test_without_a_route_from_its_address_no_order_leaves(desk, make_user) -> None:
    desk.accesses._egress._routes.clear()
    await desk.account(await make_user(symbols=("INFY",)))
    await run_cycle(desk.trading, desk.market.now)
    (order,) = await desk.orders()
    assert (order.state, desk.forms()) == (OrderState.EXPIRED, [])
    assert EGRESS_IP in order.status_message


async def test_a_stop_rests_at_the_broker_for_what_an_entry_has_filled(desk, make_user) -> None:
    _, trade = await entered(desk, make_user, 20)
    assert (await guard_trades(desk.trading)).placed == 1
    assert await guards(desk) == [(OrderState.ACCEPTED, 20, trade.stop_price)]
    form = desk.forms()[-1]
    assert (form["transaction_type"], form["order_type"], form["quantity"]) == ("SELL", "SL", "20")
    assert Decimal(form["trigger_price"]) == trade.stop_price > Decimal(form["price"])
    assert (form["validity"], form["product"], form["algo_id"]) == ("DAY", "CNC", "ALGO1")
    again = await guard_trades(desk.trading)
    assert (again.placed, again.cancelled) == (0, 0)
    assert (await trade_of(desk)).status is TradeStatus.ENTERING


async def test_a_guard_follows_an_entry_that_goes_on_filling_once_a_minute(desk, make_user) -> None:
    _, trade = await entered(desk, make_user, 5)
    await guard_trades(desk.trading)
    (entry,) = await desk.orders(intent=Intent.ENTRY)
    desk.fill(entry)
    await reconcile(desk.trading)
    assert (await guard_trades(desk.trading)).cancelled == 0  # a minute has not passed
    desk.market.now += timedelta(minutes=2)
    assert (await guard_trades(desk.trading)).cancelled == 1
    await reconcile(desk.trading)
    assert (await guard_trades(desk.trading)).placed == 1
    assert await guards(desk) == [
        (OrderState.CANCELLED, 5, trade.stop_price),
        (OrderState.ACCEPTED, entry.quantity, trade.stop_price),
    ]


async def test_a_guard_that_fills_closes_its_trade_at_the_stop(desk, make_user) -> None:
    await entered(desk, make_user)
    await guard_trades(desk.trading)
    assert (await trade_of(desk)).status is TradeStatus.OPEN
    (guard,) = await desk.orders(origin=OrderOrigin.GUARD)
    desk.fill(guard)
    await reconcile(desk.trading)
    trade = await trade_of(desk)
    assert (trade.status, trade.exit_reason, trade.exit_quantity) == (
        TradeStatus.CLOSED,
        ExitReason.STOP,
        trade.entry_quantity,
    )
    assert (await guard_trades(desk.trading)).placed == 0


async def test_an_exit_takes_the_guard_back_first_and_sells_once(desk, make_user) -> None:
    _, trade = await entered(desk, make_user)
    await guard_trades(desk.trading)
    desk.market.stocks["INFY"].last = trade.target_price + 5
    desk.market.now += timedelta(minutes=1)
    report = await cycle(desk)
    assert report.exits == 1
    (guard,) = await desk.orders(origin=OrderOrigin.GUARD)
    (leaving,) = await desk.orders(intent=Intent.EXIT, origin=OrderOrigin.ENGINE)
    assert (guard.state, leaving.state) == (OrderState.CANCELLED, OrderState.ACCEPTED)
    resting = [o for o in desk.kite.book.orders.values() if o.ticket.side == "sell" and o.status == "OPEN"]
    assert len(resting) == 1
    assert (await guard_trades(desk.trading)).placed == 0


async def test_a_guard_that_cannot_be_taken_back_keeps_the_exit_for_later(desk, make_user) -> None:
    """Both at the broker could sell the same shares twice: a stop that may still fill is waited for."""
    _, trade = await entered(desk, make_user)
    await guard_trades(desk.trading)
    desk.kite.book.cancel = lambda account, order_id: None  # taken, and never done
    desk.market.stocks["INFY"].last = trade.target_price + 5
    desk.market.now += timedelta(minutes=1)
    report = await cycle(desk)
    assert (report.exits, report.denied[Reason.ORDER_OPEN]) == (0, 2)  # the exit, and the symbol's next entry
    assert await desk.orders(intent=Intent.EXIT, origin=OrderOrigin.ENGINE) == []


async def test_guards_are_taken_back_before_the_continuous_session_ends(desk, make_user) -> None:
    _, trade = await entered(desk, make_user)
    await guard_trades(desk.trading)
    desk.market.now = desk.market.now.replace(hour=15, minute=28)
    assert (await guard_trades(desk.trading)).cancelled == 1
    await reconcile(desk.trading)
    assert (await guard_trades(desk.trading)).placed == 0
    assert await guards(desk) == [(OrderState.CANCELLED, trade.entry_quantity, trade.stop_price)]


async def test_a_refused_guard_is_tried_twice_a_day_and_halts_nobody(desk, make_user) -> None:
    await entered(desk, make_user)
    for _ in range(4):
        desk.kite.refusal = "RMS: trigger price out of range"
        await guard_trades(desk.trading)
        desk.market.now += timedelta(minutes=2)
    assert [state for state, _, _ in await guards(desk)] == [OrderState.REJECTED] * 2
    async with desk.trading.sessions() as session:
        (order, *_) = (await session.scalars(select(Order).where(Order.origin == OrderOrigin.GUARD))).all()
        assert await gate_service._rejections_running(session, desk.trading.rules.gate, order) == 0


async def test_a_guard_taken_back_for_an_exit_is_not_placed_again_before_it(desk, make_user) -> None:
    _, trade = await entered(desk, make_user)
    await guard_trades(desk.trading)
    desk.market.now += timedelta(minutes=5)
    await release_guards(desk.trading, [trade.id], desk.market.now)
    assert [state for state, _, _ in await guards(desk)] == [OrderState.CANCELLED]
    assert (await guard_trades(desk.trading)).placed == 0
    desk.market.now += timedelta(minutes=1)
    assert (await guard_trades(desk.trading)).placed == 1


async def test_a_guard_does_not_outlive_its_trade(desk, make_user) -> None:
    _, trade = await entered(desk, make_user)
    await guard_trades(desk.trading)
    async with desk.trading.sessions.begin() as session:
        closed = {"status": TradeStatus.CLOSED, "closed_at": desk.market.now, "exit_quantity": trade.entry_quantity}
        await session.execute(update(AutoTrade).values(**closed))
    assert (await guard_trades(desk.trading)).cancelled == 1


async def test_what_was_never_asked_of_the_broker_is_not_unknown(desk, make_user) -> None:
    account_id = await desk.account(await make_user(symbols=("INFY",)))
    desk.accesses._vault = None  # the account cannot be opened
    broken = desk.trading.brokers["zerodha"]
    desk.accesses._kept.clear()
    with pytest.raises(NotPlacedError, match="could not be opened"):
        await broken.cancel(account_id, "1")
    assert desk.forms() == []


# ---- the next morning


async def slept_through(desk: LiveDesk, make_user, *, sold: bool) -> AutoTrade:
    """A trade whose guard rested when Sauda went down; the next morning's book is empty. Was it met meanwhile?"""
    account_id, trade = await entered(desk, make_user)
    await guard_trades(desk.trading)
    desk.kite.book.orders.clear()
    desk.kite.opening[7] = {} if sold else {"INFY": trade.entry_quantity}
    desk.market.now += timedelta(days=1)
    async with desk.trading.sessions() as session:
        account = await session.get(BrokerAccount, account_id)
    assert account is not None
    await desk.log_in(account.user_id, account_id)
    await reconcile(desk.trading)
    assert [state for state, _, _ in await guards(desk)] == [OrderState.ACCEPTED]  # one report proves nothing
    await watch_positions(desk.trading)
    return trade


async def test_a_guard_of_yesterday_that_was_not_met_makes_way(desk, make_user) -> None:
    trade = await slept_through(desk, make_user, sold=False)
    assert [state for state, _, _ in await guards(desk)] == [OrderState.EXPIRED]
    assert (await guard_trades(desk.trading)).placed == 1
    desk.market.stocks["INFY"].last = trade.target_price + 5
    desk.market.now += timedelta(minutes=1)
    assert (await cycle(desk)).exits == 1


async def test_one_that_may_have_been_met_stays_for_a_person(desk, make_user) -> None:
    await slept_through(desk, make_user, sold=True)
    assert [state for state, _, _ in await guards(desk)] == [OrderState.ACCEPTED]
    assert (await guard_trades(desk.trading)).placed == 0


# ---- sessions


async def test_a_session_that_the_broker_ends_stops_calls_and_tells_the_owner_once(desk, make_user) -> None:
    account_id, _ = await entered(desk, make_user)
    desk.kite.sessions.clear()
    await reconcile(desk.trading)
    asked = len(desk.requests())
    for _ in range(3):
        desk.market.now += timedelta(minutes=1)
        report = await cycle(desk)
        assert report.denied == {Reason.BROKER_LOGIN_NEEDED: 1}
        await watch_positions(desk.trading)
        await guard_trades(desk.trading)
    assert len(desk.requests()) <= asked + 1  # the first call after the end, and none after that
    assert await guards(desk) == []
    async with desk.trading.sessions() as session:
        held = await session.get(BrokerSession, account_id)
        told = await session.scalars(select(OutboxMessage).where(OutboxMessage.topic == "account.session_ended"))
        assert held is not None
        assert held.ended_at is not None
        assert len(told.all()) == 1


async def test_nothing_is_traded_between_a_login_and_the_first_whole_report(desk, make_user) -> None:
    user_id = await make_user(symbols=("INFY",))
    account_id = await desk.account(user_id, logged_in=False)
    report = await cycle(desk)
    assert report.denied == {Reason.BROKER_LOGIN_NEEDED: 1}
    await desk.log_in(user_id, account_id)
    desk.market.now += timedelta(minutes=1)
    report = await cycle(desk)
    assert report.denied == {Reason.BROKER_NOT_RECONCILED: 1}
    await watch_positions(desk.trading)
    desk.market.now += timedelta(minutes=1)
    report = await cycle(desk)
    assert report.entries == 1


async def test_owners_are_reminded_from_half_past_eight_once_a_day(desk, make_user) -> None:
    user_id = await make_user(symbols=("INFY",))
    account_id = await desk.account(user_id)
    desk.market.now = desk.market.now.replace(hour=8, minute=0) + timedelta(days=1)  # the token ended at six
    assert await nudge(desk.trading, desk.market.now) == 0
    desk.market.now += timedelta(minutes=30)
    assert [await nudge(desk.trading, desk.market.now) for _ in range(2)] == [1, 0]
    async with desk.trading.sessions() as session:
        mails = await session.scalars(select(OutboxMessage).where(OutboxMessage.topic == "mail.notice"))
        (mail,) = mails.all()
        assert f"POST /v1/broker-accounts/{account_id}/login" in mail.payload["text"]
    await desk.log_in(user_id, account_id)
    desk.market.now += timedelta(hours=1)
    assert await nudge(desk.trading, desk.market.now) == 0
    saturday = desk.market.now.replace(day=23, hour=9)
    assert await nudge(desk.trading, saturday) == 0


# ---- books


async def test_a_paisas_difference_is_no_difference(desk, make_user) -> None:
    account_id, _ = await entered(desk, make_user)
    for off, adjusted in ((Decimal("0.99"), 0), (Decimal("25.50"), 1)):
        async with desk.trading.sessions() as session:
            books = (await ledger_service.books_of(session, [account_id]))[account_id]
        (free,) = [s.cash for s in (await desk.trading.brokers["zerodha"].snapshots([account_id])).values()]
        desk.kite.cash_more += books.cash + books.reserved - free + off
        await guard_trades(desk.trading)  # what rests all day bars no comparison
        await watch_positions(desk.trading)
        async with desk.trading.sessions() as session:
            told = await session.scalars(select(OutboxMessage).where(OutboxMessage.topic == "account.adjusted"))
            assert len(told.all()) == adjusted, off


async def test_what_an_open_order_holds_back_counts_as_used_where_the_broker_tells_only_what_is_free(
    desk, make_user
) -> None:
    account_id = await desk.account(await make_user(symbols=("INFY", "TCS")))
    market = (await gather_market(desk.trading, desk.market.now)).view
    (before,) = [u for shard in (0, 1) for u in await gather_users(desk.trading, shard, 2, market)]
    await run_cycle(desk.trading, desk.market.now)
    (after,) = [u for shard in (0, 1) for u in await gather_users(desk.trading, shard, 2, market)]
    async with desk.trading.sessions() as session:
        reserved = (await ledger_service.books_of(session, [account_id]))[account_id].reserved
    assert reserved > 0
    assert before.funds_in_use == 0
    assert after.funds_in_use >= reserved
    assert abs(after.funds_total - before.funds_total) <= reserved / 100


async def test_lists_of_shares_are_there_before_the_market_opens(desk, make_user) -> None:
    await desk.account(await make_user(symbols=("INFY",)))

    def fetched() -> int:
        return sum(request.path.startswith("/instruments") for request in desk.requests("GET"))

    desk.market.now = desk.market.now.replace(hour=7)
    await prepare_lists(desk.trading, desk.market.now)
    assert fetched() == 0  # yesterday's names would still be there
    desk.market.now = desk.market.now.replace(hour=8, minute=45)
    desk.server.break_next(Break.BAD_GATEWAY, "GET", "/instruments")
    await prepare_lists(desk.trading, desk.market.now)  # logged, and tried again
    await prepare_lists(desk.trading, desk.market.now)
    there = fetched()
    await prepare_lists(desk.trading, desk.market.now)
    assert there == fetched() > 1
