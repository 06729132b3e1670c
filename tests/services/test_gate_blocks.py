"""What else the gate before the socket must know: orders whose outcome is unknown, and what a person has forgiven."""

from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import text

from backend.domain import ledger
from backend.domain.gate import GateLimits
from backend.domain.market import Side
from backend.domain.orders import OrderState
from backend.domain.reasons import Reason
from backend.domain.trading_states import Cause, Scope, TradingState
from backend.models import Role, User
from backend.services import ledger_service
from backend.services.trading_state_service import impose, lift
from tests.support.broker_book import Mode
from tests.support.send_desk import SendDesk, open_send_desk


@pytest.fixture
async def desk(trading, market):
    async with open_send_desk(trading, market) as desk:
        yield desk


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


async def test_a_graver_state_over_another_forgives_nothing_and_a_person_does(desk: SendDesk, make_user) -> None:
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
        admin = User(email="admin@example.com", password_hash="!", role=Role.ADMIN)
        session.add(admin)
        await session.flush()
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
