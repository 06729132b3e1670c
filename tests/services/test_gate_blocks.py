"""What else the gate before the socket must know: orders whose outcome is unknown, and what a person has forgiven."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import text

from backend.api.schemas.trading_state import KillSwitchReply
from backend.db import Sessions
from backend.domain import ledger
from backend.domain.decide import TradeStatus
from backend.domain.gate import GateLimits
from backend.domain.market import Side
from backend.domain.orders import OrderState
from backend.domain.reasons import Reason
from backend.domain.trading_states import Cause, Scope, TradingState
from backend.models import Role, User
from backend.services import ledger_service
from backend.services.kill_switch_service import Halt, kill_switch
from backend.services.trading_state_service import impose, lift, standings
from tests.api.conftest import Someone
from tests.api.rows import add_cycle, trade
from tests.support.broker_book import Mode
from tests.support.send_desk import SendDesk, open_send_desk


@pytest.fixture
async def desk(trading, market):
    async with open_send_desk(trading, market) as desk:
        yield desk


async def admin_of(sessions: Sessions) -> User:
    async with sessions.begin() as session:
        admin = User(email="admin@example.com", role=Role.ADMIN)
        session.add(admin)
    return admin


async def test_an_unknown_order_bars_another_purchase_of_its_symbol_in_its_account(desk: SendDesk, make_user) -> None:
    await desk.behave(Mode.REST)
    user_id, other = await make_user("asha"), await make_user("ravi")
    await desk.account(user_id)
    await desk.account(other)
    first = await desk.send_new(user_id)
    async with desk.trading.sessions.begin() as session:
        await session.execute(text("UPDATE orders SET state = 'unknown' WHERE id = :id"), {"id": first.id})
    assert (await desk.send_new(user_id)).denied_reason is Reason.ORDER_UNKNOWN
    assert (await desk.send_new(user_id, "TCS")).state is OrderState.ACCEPTED
    assert (await desk.send_new(other)).state is OrderState.ACCEPTED
    assert await desk.arrivals() == 3


async def test_a_graver_state_over_another_forgives_nothing_and_a_person_does(
    desk: SendDesk, make_user, sessions
) -> None:
    """Two of two orders of the symbol are sent; what then replaces a standing state is nobody's pardon."""
    desk.trading = replace(desk.trading, rules=replace(desk.trading.rules, gate=GateLimits(symbol_orders_max=2)))
    user_id = await make_user()
    await desk.account(user_id)
    for quantity in (1, 2):
        assert (await desk.send_new(user_id, quantity=quantity)).state is OrderState.ACCEPTED
    key = str(user_id)
    async with desk.trading.sessions.begin() as session:
        await impose(session, Scope.STRATEGY, "other", TradingState.REDUCING, Cause.ADMIN, "of no concern here")
        await impose(session, Scope.PLATFORM, "", TradingState.REDUCING, Cause.DAILY_LOSS, "for a test")
    async with desk.trading.sessions.begin() as session:
        await impose(session, Scope.PLATFORM, "", TradingState.HALTED, Cause.ADMIN, "over the other one")
        # Gone without a word, so that the gate's own count is what is left.
        await session.execute(text("UPDATE trading_states SET ended_at = '-infinity' WHERE ended_at IS NULL"))
    assert (await desk.send_new(user_id)).denied_reason is Reason.SYMBOL_ORDER_RATE
    async with desk.trading.sessions.begin() as session:
        admin = await admin_of(sessions)
        await lift(session, Scope.USER, key, admin, "looked at it, all is well")
    assert (await desk.send_new(user_id)).state is OrderState.ACCEPTED


@pytest.mark.parametrize(
    ("resting", "price", "reason"),
    [
        ("1460", "1490", None),
        ("1489.95", "1490", None),
        ("1490", "1490", Reason.OWN_OPPOSITE_ORDER),
        ("1500", "1490", Reason.OWN_OPPOSITE_ORDER),
        (None, "1490", Reason.OWN_OPPOSITE_ORDER),
    ],
)
async def test_a_buy_that_rests_below_an_exits_price_does_not_block_it(
    desk: SendDesk, make_user, resting, price, reason
) -> None:
    """None: an order of the broker's own app, at the market."""
    await desk.behave(Mode.REST)
    user_id = await make_user()
    account_id = await desk.account(user_id)
    async with desk.trading.sessions.begin() as session:
        bought = ledger.buy("INFY", 10, Decimal(0), Decimal(0), Decimal(0))
        await ledger_service.post(session, account_id, bought, desk.market.now)
    first = await desk.send_new(user_id, price=Decimal(resting or "1460"))
    if resting is None:
        async with desk.trading.sessions.begin() as session:
            at_market = text("UPDATE orders SET limit_price = NULL, origin = 'external' WHERE id = :id")
            await session.execute(at_market, {"id": first.id})
    leaving = await desk.send_new(user_id, side=Side.SELL, price=Decimal(price))
    assert leaving.denied_reason is reason


async def test_a_sale_that_rests_above_an_entrys_price_does_not_block_it(desk: SendDesk, make_user) -> None:
    await desk.behave(Mode.REST)
    user_id = await make_user()
    account_id = await desk.account(user_id)
    async with desk.trading.sessions.begin() as session:
        bought = ledger.buy("INFY", 10, Decimal(0), Decimal(0), Decimal(0))
        await ledger_service.post(session, account_id, bought, desk.market.now)
    await desk.send_new(user_id, side=Side.SELL, price=Decimal(1530))
    assert (await desk.send_new(user_id, price=Decimal("1529.95"))).state is OrderState.ACCEPTED
    assert (await desk.send_new(user_id, price=Decimal(1530))).denied_reason is Reason.OWN_OPPOSITE_ORDER


async def open_trades(desk: SendDesk, user_id: int, *symbols: str) -> None:
    """Trades of ten shares each, and one whose entry has not filled and needs no stop yet."""
    account_id = await desk.account(user_id)
    cycle_id = await add_cycle(desk.trading.sessions, desk.market.now + timedelta(minutes=user_id))
    someone = Someone(user_id, "", {}, account_id)
    waiting = trade(someone, cycle_id, symbol="WAITS", status=TradeStatus.ENTERING)
    waiting.entry_quantity, waiting.entry_price, waiting.opened_at = 0, None, None
    async with desk.trading.sessions.begin() as session:
        session.add_all([waiting, *(trade(someone, cycle_id, symbol=symbol) for symbol in symbols)])


async def pulled(desk: SendDesk, scope: Scope, key: str, flatten: bool, by: int) -> str:
    """The kill switch's words to the person."""
    async with desk.trading.sessions() as session:
        user = await session.get_one(User, by)
    report = await kill_switch(desk.trading, Halt(scope, key, Cause.ADMIN, "enough", flatten), user)
    return KillSwitchReply.of(desk.trading.rules.environment, scope, key, report).message


async def test_the_kill_switch_says_how_many_open_trades_have_no_stop_now(desk: SendDesk, make_user, sessions) -> None:
    mine, other = await make_user("asha"), await make_user("ravi")
    await open_trades(desk, mine, "TCS", "WIPRO", "ITC")
    await open_trades(desk, other, "TCS")
    three = "3 open trades are held without their stops until this is lifted."
    assert "stop" not in await pulled(desk, Scope.USER, str(mine), True, mine)
    async with desk.trading.sessions.begin() as session:
        await lift(session, Scope.USER, str(mine), await admin_of(sessions), "looked at it, all is well")
    assert three in await pulled(desk, Scope.USER, str(mine), False, mine)
    assert "1 open trade is held without its stop" in await pulled(desk, Scope.USER, str(other), False, mine)
    assert "4 open trades" in await pulled(desk, Scope.STRATEGY, "pooled", False, mine)
    assert "stop" not in await pulled(desk, Scope.STRATEGY, "another", False, mine)
    (broker,) = desk.trading.brokers
    assert "4 open trades" in await pulled(desk, Scope.BROKER, broker, False, mine)
    assert "4 open trades" in await pulled(desk, Scope.PLATFORM, "", False, mine)


async def test_a_halt_after_refusals_says_so_too(desk: SendDesk, make_user) -> None:
    gate = GateLimits(rejections_running_max=1)
    desk.trading = replace(desk.trading, rules=replace(desk.trading.rules, gate=gate))
    await desk.behave(Mode.REFUSE)
    user_id = await make_user()
    await open_trades(desk, user_id, "TCS", "WIPRO")
    assert (await desk.send_new(user_id)).state is OrderState.REJECTED
    async with desk.trading.sessions() as session:
        (row,) = (await standings(session)).rows
    assert "; 2 open trades are held without their stops until this is lifted; the last refusal: " in row.detail
