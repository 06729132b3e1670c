"""A model that buys without end and a broker that refuses without end: trading halts, and stays halted for a person."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select, text

from backend.db import create_engine, create_sessions
from backend.domain.orders import OrderState
from backend.domain.reasons import Reason
from backend.domain.trading_states import Cause, Standing, TradingState
from backend.errors import NotAllowedError
from backend.models import Role, User
from backend.services import gather_service
from backend.services.auto_trading_service import run_cycle
from backend.services.reconcile_service import reconcile
from backend.services.trading_state_service import lift_own, lift_period, periods, standings
from tests.support.broker_book import Mode
from tests.support.send_desk import SendDesk, open_send_desk

REASON = "looked at it, all is well"
TICKS_MAX = 30


@pytest.fixture
async def desk(trading, market, owner, monkeypatch):
    """A desk whose upper layers hold nothing back: no symbol is ever blocked, and the plan has no end."""
    monkeypatch.setattr(gather_service, "_blocked", lambda *_: {})
    async with owner.begin() as connection:
        await connection.execute(text("UPDATE plans SET auto_trades_per_day = 10000"))
    async with open_send_desk(trading, market) as desk:
        yield desk


async def tick(desk: SendDesk) -> None:
    """One minute of the market: a cycle, after which the broker cancels what rests and its book is read."""
    desk.market.now += timedelta(minutes=1)
    await run_cycle(desk.trading, desk.market.now)
    await desk.cancel_all()
    await reconcile(desk.trading)


async def standing(desk: SendDesk) -> list[Standing]:
    async with desk.trading.sessions() as session:
        return list((await standings(session)).rows)


async def ticks_until_halted(desk: SendDesk) -> None:
    for _ in range(TICKS_MAX):
        await tick(desk)
        if await standing(desk):
            return
    raise AssertionError(f"nothing halted it in {TICKS_MAX} ticks")


async def test_a_model_that_buys_at_every_tick_is_halted_after_twenty_orders(desk, make_user) -> None:
    await desk.behave(Mode.REST)
    user_id = await make_user(symbols=("INFY",))
    await desk.account(user_id)
    await ticks_until_halted(desk)
    truth = await desk.truth()
    assert truth["accepted_per_symbol"] == {"INFY": 20}
    assert set(truth["accepted_per_tag"].values()) == {1}
    (halt,) = await standing(desk)
    assert (halt.key, halt.state, halt.cause) == (str(user_id), TradingState.HALTED, Cause.ORDER_RATE)
    orders = await desk.orders()
    assert [order.state for order in orders] == [OrderState.CANCELLED] * 20 + [OrderState.DENIED]
    assert orders[-1].denied_reason is Reason.SYMBOL_ORDER_RATE
    for _ in range(3):
        await tick(desk)
    assert await desk.arrivals() == 20
    async with desk.trading.sessions.begin() as session:
        user = await session.get_one(User, user_id)
        with pytest.raises(NotAllowedError):
            await lift_own(session, user, REASON)


async def test_an_admin_lifts_the_runaways_halt_and_the_count_begins_anew(desk, make_user, sessions) -> None:
    gate = replace(desk.trading.rules.gate, symbol_orders_max=2)
    desk.trading = replace(desk.trading, rules=replace(desk.trading.rules, gate=gate))
    await desk.behave(Mode.REST)
    await desk.account(await make_user(symbols=("INFY",)))
    admin_id = await make_user("admin", enabled=False)
    await ticks_until_halted(desk)
    async with sessions.begin() as session:
        admin = await session.get_one(User, admin_id)
        admin.role = Role.ADMIN
        (period,) = await periods(session, None, 10, standing_only=True)
        await lift_period(session, period.id, admin, REASON)
    await tick(desk)
    assert (await desk.arrivals(), await standing(desk)) == (3, [])
    await ticks_until_halted(desk)
    assert await desk.arrivals() == 4


@pytest.mark.parametrize(
    ("refusal", "denied"),
    [(Mode.REFUSE, []), (Mode.REFUSE_IN_BOOK, [Reason.REJECTIONS_RUNNING])],
    ids=["at_once", "in_the_book"],
)
async def test_five_refusals_running_halt_and_the_sixth_order_is_never_sent(
    desk, make_user, database_url, refusal, denied
) -> None:
    """The broker's own answer halts at once; what only its book tells is seen when the next order asks."""
    await desk.behave(refusal)
    user_id = await make_user(symbols=("INFY",))
    await desk.account(user_id)
    await ticks_until_halted(desk)
    assert await desk.arrivals() == 5
    orders = await desk.orders()
    assert [order.state for order in orders[:5]] == [OrderState.REJECTED] * 5
    assert [order.denied_reason for order in orders[5:]] == denied
    (halt,) = await standing(desk)
    assert (halt.key, halt.state, halt.cause) == (str(user_id), TradingState.HALTED, Cause.REJECTIONS)
    await desk.behave(Mode.REST)
    engine = create_engine(database_url)
    desk.trading = replace(desk.trading, sessions=create_sessions(engine))
    await tick(desk)
    assert await desk.arrivals() == 5

    async with desk.trading.sessions.begin() as session:
        await lift_own(session, (await session.scalars(select(User).where(User.id == user_id))).one(), REASON)
    await tick(desk)
    assert (await desk.arrivals(), await standing(desk)) == (6, [])
    await engine.dispose()


async def test_a_refusal_after_an_order_that_was_taken_begins_the_count_anew(desk, make_user) -> None:
    await desk.account(await make_user(symbols=("INFY",)))
    for mode in (*[Mode.REFUSE] * 4, Mode.REST, *[Mode.REFUSE] * 4):
        await desk.behave(mode)
        await tick(desk)
    assert (await desk.arrivals(), await standing(desk)) == (9, [])
    await tick(desk)
    assert [halt.cause for halt in await standing(desk)] == [Cause.REJECTIONS]
