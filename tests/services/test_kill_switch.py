"""The kill switch and the states behind it: what is imposed stands, never weakens, and cancels what is open."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import func, select, text

from backend.brokers.base import BrokerUnavailableError
from backend.db import Sessions, create_engine, create_sessions
from backend.domain.decide import TradeStatus
from backend.domain.market import Side
from backend.domain.orders import OrderState
from backend.domain.reasons import Reason
from backend.domain.trading_states import Cause, Scope, Standing, TradingState
from backend.errors import InvalidRequestError, NotAllowedError, NotFoundError, UpstreamError
from backend.models import Order, OrderEvent, OrderOrigin, OutboxMessage, PaperOrder, Role, TradingStatePeriod, User
from backend.services import cancel_service
from backend.services.auto_trading_service import run_cycle
from backend.services.cancel_service import CANCEL_S_MAX
from backend.services.context import Trading
from backend.services.kill_switch_service import Halt, KillSwitchReport, kill_switch
from backend.services.reconcile_service import reconcile
from backend.services.send_service import send
from backend.services.trading_state_service import impose, lift, lift_own, lift_period, standings
from tests.api.conftest import Someone
from tests.api.rows import add_cycle, trade
from tests.support.paper_desk import account_of
from tests.support.resting_orders import rest, state_of

HALTED, REDUCING = TradingState.HALTED, TradingState.REDUCING
REASON = "looked at it, all is well"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time enough on a busy machine, where a test is about what becomes of the orders and not about how soon."""
    monkeypatch.setattr(cancel_service, "CANCEL_S_MAX", 20)


async def user_of(sessions: Sessions, user_id: int, role: Role = Role.USER) -> User:
    async with sessions.begin() as session:
        user = await session.get_one(User, user_id)
        user.role = role
    return user


async def halt(sessions: Sessions, key: str, cause: Cause = Cause.USER_KILL_SWITCH, **changes) -> bool:
    async with sessions.begin() as session:
        return await impose(
            session, changes.pop("scope", Scope.USER), key, changes.pop("state", HALTED), cause, "why", **changes
        )


async def standing(sessions: Sessions) -> tuple[Standing, ...]:
    async with sessions() as session:
        return (await standings(session)).rows


async def count(sessions: Sessions, *conditions) -> int:
    async with sessions() as session:
        return await session.scalar(select(func.count()).where(*conditions)) or 0


# ---- imposing and lifting


async def test_a_state_is_one_row_and_one_message_however_often_it_is_imposed(sessions, make_user) -> None:
    user_id = await make_user()
    assert [await halt(sessions, str(user_id), by=user_id) for _ in range(3)] == [True, False, False]
    (row,) = await standing(sessions)
    assert (row.scope, row.key, row.state, row.by) == (Scope.USER, str(user_id), HALTED, user_id)
    async with sessions() as session:
        (message,) = (await session.scalars(select(OutboxMessage))).all()
    assert (message.topic, message.user_id) == ("trading_state.changed", user_id)
    assert (message.payload["before"], message.payload["state"]) == ("active", "halted")


async def test_a_transaction_that_fails_leaves_no_state(sessions, make_user) -> None:
    user_id = await make_user()

    async def fail() -> None:
        async with sessions.begin() as session:
            await impose(session, Scope.USER, str(user_id), HALTED, Cause.REJECTIONS, "why")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await standing(sessions) == ()


async def test_a_graver_state_replaces_and_a_lesser_one_does_nothing(sessions, make_user) -> None:
    key = str(await make_user())
    assert await halt(sessions, key, Cause.DAILY_LOSS, state=REDUCING)
    assert await halt(sessions, key, Cause.REJECTIONS)
    assert not await halt(sessions, key, Cause.DAILY_LOSS, state=REDUCING)
    (row,) = await standing(sessions)
    assert (row.state, row.cause) == (HALTED, Cause.REJECTIONS)
    async with sessions() as session:
        ended = (
            await session.scalars(select(TradingStatePeriod).where(TradingStatePeriod.ended_at.is_not(None)))
        ).one()
    assert (ended.state, ended.end_reason) == (REDUCING, "replaced: rejections")


async def test_a_flatten_request_over_a_halt_adds_flatten(sessions, make_user) -> None:
    key = str(await make_user())
    assert await halt(sessions, key)
    assert await halt(sessions, key, flatten=True)
    (row,) = await standing(sessions)
    assert (row.state, row.flatten) == (HALTED, True)


async def test_many_at_once_leave_one_standing_state_and_the_gravest(sessions, make_user) -> None:
    key = str(await make_user())
    causes = [Cause.DAILY_LOSS, Cause.REJECTIONS, Cause.ORDER_RATE, Cause.USER_KILL_SWITCH] * 5
    await asyncio.gather(
        *(halt(sessions, key, cause, state=REDUCING if cause is Cause.DAILY_LOSS else HALTED) for cause in causes)
    )
    (row,) = await standing(sessions)
    assert (row.state, row.cause) == (HALTED, Cause.ORDER_RATE)


async def test_two_transactions_that_impose_at_once_see_each_other(sessions, make_user) -> None:
    """The second waits for the first's commit, and brings the two together instead of failing."""
    key = str(await make_user())
    async with sessions.begin() as first:
        await impose(first, Scope.USER, key, HALTED, Cause.USER_KILL_SWITCH, "why")
        second = asyncio.create_task(halt(sessions, key, Cause.ORDER_RATE))
        async with asyncio.timeout(5):
            while not await waiting(sessions):
                pass
    assert await second
    (row,) = await standing(sessions)
    assert row.cause is Cause.ORDER_RATE


async def test_a_lift_that_meets_a_graver_state_lifts_nothing(sessions, make_user) -> None:
    user = await user_of(sessions, await make_user())
    await halt(sessions, str(user.id))

    async def lift_it() -> None:
        async with sessions.begin() as session:
            await lift(session, Scope.USER, str(user.id), user, REASON)

    async with sessions.begin() as first:
        await impose(first, Scope.USER, str(user.id), HALTED, Cause.ORDER_RATE, "why")
        lifting = asyncio.create_task(lift_it())
        async with asyncio.timeout(5):
            while not await waiting(sessions):
                pass
    with pytest.raises(NotFoundError):
        await lifting
    assert [row.cause for row in await standing(sessions)] == [Cause.ORDER_RATE]
    assert await count(sessions, OutboxMessage.payload["state"].astext == "active") == 0


async def waiting(sessions: Sessions) -> int:
    """How many locks are waited for."""
    async with sessions() as session:
        return (await session.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))).scalar_one()


async def test_what_stands_survives_the_process(sessions, make_user, database_url) -> None:
    await halt(sessions, str(await make_user()))
    engine = create_engine(database_url)
    assert await standing(create_sessions(engine)) == await standing(sessions)
    await engine.dispose()


async def test_a_user_lifts_what_they_imposed_and_says_why(sessions, make_user) -> None:
    user = await user_of(sessions, await make_user())
    await halt(sessions, str(user.id), by=user.id)
    async with sessions.begin() as session:
        ended = await lift(session, Scope.USER, str(user.id), user, f"  {REASON} ")
    assert (ended.ended_by, ended.end_reason) == (user.id, REASON)
    assert ended.ended_at is not None
    assert await standing(sessions) == ()
    assert await count(sessions, OutboxMessage.payload["state"].astext == "active") == 1


@pytest.mark.parametrize(("reason", "short"), [("123456789", True), ("1234567890", False), ("  12345678  ", True)])
async def test_a_reason_has_ten_characters(sessions, make_user, reason, short) -> None:
    user = await user_of(sessions, await make_user())
    await halt(sessions, str(user.id))
    async with sessions.begin() as session:
        if short:
            with pytest.raises(InvalidRequestError):
                await lift(session, Scope.USER, str(user.id), user, reason)
        else:
            await lift(session, Scope.USER, str(user.id), user, reason)
    assert len(await standing(sessions)) == short


@pytest.mark.parametrize(
    ("scope", "key", "cause"),
    [
        (Scope.USER, "own", Cause.ADMIN),
        (Scope.USER, "own", Cause.UNKNOWN_OWN_ORDER),
        (Scope.USER, "other", Cause.USER_KILL_SWITCH),
        (Scope.PLATFORM, "", Cause.USER_KILL_SWITCH),
        (Scope.BROKER, "paper", Cause.REJECTIONS),
    ],
)
async def test_what_only_an_admin_may_lift(sessions, make_user, scope, key, cause) -> None:
    user, other = await user_of(sessions, await make_user()), await make_user("ravi")
    key = {"own": str(user.id), "other": str(other)}.get(key, key)
    await halt(sessions, key, cause, scope=scope)
    async with sessions.begin() as session:
        with pytest.raises(NotAllowedError):
            await lift(session, scope, key, user, REASON)
    assert len(await standing(sessions)) == 1
    admin = await user_of(sessions, other, Role.ADMIN)
    async with sessions.begin() as session:
        await lift(session, scope, key, admin, REASON)
    assert await standing(sessions) == ()


async def test_there_is_nothing_to_lift(sessions, make_user) -> None:
    user = await user_of(sessions, await make_user(), Role.ADMIN)
    async with sessions.begin() as session:
        with pytest.raises(NotFoundError):
            await lift(session, Scope.PLATFORM, "", user, REASON)
        with pytest.raises(NotFoundError):
            await lift_period(session, 12345, user, REASON)
        await lift_own(session, user, REASON)
    assert await count(sessions, OutboxMessage.id > 0) == 0


# ---- the kill switch


@pytest.fixture
def pull(trading: Trading) -> Callable:
    """Pull the switch: by default the one of the user with this id, by that user."""

    async def pulled(user_id: int, *, world: Trading = trading, flatten=False, scope=Scope.USER, key=None):
        wanted = Halt(scope, str(user_id) if key is None else key, Cause.USER_KILL_SWITCH, "enough", flatten)
        return await kill_switch(world, wanted, await user_of(trading.sessions, user_id))

    return pulled


def counts(report: KillSwitchReport) -> tuple[int, int, int, int]:
    found = report.cancels
    return found.open, found.requested, found.asked, found.unconfirmed


async def test_it_cancels_my_open_orders_and_nobody_elses(trading, market, make_user, pull) -> None:
    mine, other = await make_user(), await make_user("ravi")
    orders = [await rest(trading, mine, market.now, limit) for limit in (1460, 1470, 1480)]
    theirs = await rest(trading, other, market.now, 1460)
    report = await pull(mine)
    assert (report.effective.state, report.changed, counts(report)) == (HALTED, True, (3, 3, 3, 0))
    assert {await state_of(trading, order) for order in orders} == {OrderState.CANCELLED}
    assert await state_of(trading, theirs) is OrderState.ACCEPTED
    again = await pull(mine)
    assert (again.changed, counts(again)) == (False, (0, 0, 0, 0))


async def bought(trading: Trading, market, user_id: int) -> None:
    """Ten shares of INFY in the account, bought at the market."""
    order = await rest(trading, user_id, market.now, 1510)
    await reconcile(trading)
    assert await state_of(trading, order) is OrderState.FILLED


@pytest.mark.parametrize("flatten", [True, False])
async def test_exits_are_cancelled_except_when_flattening(trading, market, make_user, pull, flatten) -> None:
    user_id = await make_user()
    await bought(trading, market, user_id)
    entry = await rest(trading, user_id, market.now, 1460)
    leaving = await rest(trading, user_id, market.now, 1540, side=Side.SELL)
    report = await pull(user_id, flatten=flatten)
    assert report.effective.flatten is flatten
    assert await state_of(trading, entry) is OrderState.CANCELLED
    assert await state_of(trading, leaving) is (OrderState.ACCEPTED if flatten else OrderState.CANCELLED)


async def test_an_order_of_the_brokers_own_app_is_left_alone(trading, market, make_user, pull) -> None:
    user_id = await make_user()
    order = await rest(trading, user_id, market.now, 1460, origin=OrderOrigin.EXTERNAL)
    assert counts(await pull(user_id)) == (0, 0, 0, 0)
    assert await state_of(trading, order) is OrderState.ACCEPTED


@pytest.mark.parametrize(
    ("scope", "key", "concerned"),
    [
        (Scope.PLATFORM, "", {"pooled", "momentum", "manual"}),
        (Scope.BROKER, "paper", {"pooled", "momentum", "manual"}),
        (Scope.STRATEGY, "pooled", {"pooled"}),
    ],
)
async def test_each_scope_cancels_its_own_orders(
    trading, sessions, market, make_user, pull, scope, key, concerned
) -> None:
    user_id = await make_user()
    cycle_id = await add_cycle(sessions, market.now)
    orders = {"manual": await rest(trading, user_id, market.now, 1460)}
    someone = Someone(user_id, "", {}, await account_of(sessions, user_id))
    for strategy, symbol in (("pooled", "INFY"), ("momentum", "TCS")):
        owner = trade(someone, cycle_id, strategy=strategy, symbol=symbol, status=TradeStatus.ENTERING)
        owner.entry_quantity, owner.entry_price, owner.opened_at = 0, None, None
        async with sessions.begin() as session:
            session.add(owner)
        limit = 1460 if symbol == "INFY" else 3900
        orders[strategy] = await rest(trading, user_id, market.now, limit, symbol=symbol, trade=owner)
    await pull(user_id, scope=scope, key=key)
    ended = {name for name, order in orders.items() if await state_of(trading, order) is OrderState.CANCELLED}
    assert ended == concerned


@pytest.mark.parametrize(
    ("scope", "key", "error"),
    [
        (Scope.PLATFORM, "x", InvalidRequestError),
        (Scope.STRATEGY, "", InvalidRequestError),
        (Scope.BROKER, "papper", NotFoundError),
        (Scope.USER, "999999", NotFoundError),
        (Scope.USER, "01", NotFoundError),
        (Scope.USER, "asha", NotFoundError),
    ],
)
async def test_a_typing_error_halts_nobody_loudly(sessions, make_user, pull, scope, key, error) -> None:
    user_id = await make_user()
    with pytest.raises(error):
        await pull(user_id, scope=scope, key=key)
    assert await standing(sessions) == ()


class OddBroker:
    """The real paper broker with something done around its cancels."""

    name = "paper"

    def __init__(self, real, around) -> None:
        self._real, self._around = real, around

    async def cancel(self, account_id: int, broker_order_id: str) -> None:
        await self._around()
        await self._real.cancel(account_id, broker_order_id)

    def __getattr__(self, name):
        return getattr(self._real, name)


def with_broker(trading: Trading, around) -> Trading:
    return replace(trading, brokers={"paper": OddBroker(trading.brokers["paper"], around)})


async def test_the_halt_is_committed_before_any_broker_is_asked(trading, sessions, market, make_user, pull) -> None:
    user_id = await make_user()
    await rest(trading, user_id, market.now, 1460)
    seen = []

    async def look() -> None:
        seen.extend(await standing(sessions))

    await pull(user_id, world=with_broker(trading, look))
    assert [row.state for row in seen] == [HALTED]


async def test_a_broker_that_hangs_does_not_hold_the_answer_up(
    trading, sessions, market, make_user, pull, monkeypatch
) -> None:
    monkeypatch.setattr(cancel_service, "CANCEL_S_MAX", CANCEL_S_MAX)
    user_id = await make_user()
    orders = [await rest(trading, user_id, market.now, limit) for limit in range(1460, 1466)]

    async def hang() -> None:
        await asyncio.Event().wait()

    began = time.monotonic()
    report = await pull(user_id, world=with_broker(trading, hang))
    assert time.monotonic() - began < 2
    # Four are asked at once, and none of them answers.
    assert counts(report) == (6, 4, 0, 6)
    states = [await state_of(trading, order) for order in orders]
    assert states == [OrderState.CANCEL_PENDING] * 4 + [OrderState.ACCEPTED] * 2
    assert len(await standing(sessions)) == 1


async def test_a_broker_that_refuses_is_asked_again_by_the_next_switch(trading, market, make_user, pull) -> None:
    user_id = await make_user()
    order = await rest(trading, user_id, market.now, 1460)
    answers = iter([False])

    async def refuse_once() -> None:
        if next(answers, None) is not None:
            raise BrokerUnavailableError("busy")

    # Its book shows that the order rests, so that reconciliation asks once more.
    report = await pull(user_id, world=with_broker(trading, refuse_once))
    assert (report.cancels.open, report.cancels.requested) == (1, 1)
    await pull(user_id)
    assert await state_of(trading, order) is OrderState.CANCELLED


@pytest.mark.parametrize("hangs", [True, False])
async def test_it_works_without_the_markets_clock(trading, sessions, market, make_user, pull, hangs) -> None:
    user_id = await make_user()
    order = await rest(trading, user_id, market.now, 1460)

    async def no_clock() -> datetime:
        if hangs:
            await asyncio.Event().wait()
        raise UpstreamError("data_service is down")

    report = await pull(user_id, world=replace(trading, clock=no_clock))
    assert counts(report) == (1, 1, 1, 0)
    async with sessions() as session:
        events = (await session.scalars(select(OrderEvent).where(OrderEvent.order_id == order))).all()
    assert {event.market_at for event in events} == {market.now}
    assert await state_of(trading, order) is OrderState.CANCELLED


# ---- and the cycle


async def broker_orders(sessions: Sessions, side: Side) -> int:
    return await count(sessions, PaperOrder.side == side)


async def test_nothing_is_sent_under_a_halt_and_again_once_it_is_lifted(
    trading, sessions, market, make_user, pull
) -> None:
    user_id = await make_user(symbols=("INFY",))
    await pull(user_id)
    await run_cycle(trading, market.now)
    assert await broker_orders(sessions, Side.BUY) == 0
    async with sessions.begin() as session:
        await lift(session, Scope.USER, str(user_id), await user_of(sessions, user_id), REASON)
    market.now += timedelta(minutes=1)
    await run_cycle(trading, market.now)
    assert await broker_orders(sessions, Side.BUY) == 1


@pytest.mark.parametrize(("flatten", "sold"), [(True, 1), (False, 0)])
async def test_flattening_sells_what_is_held_at_the_next_tick(
    trading, sessions, market, make_user, pull, flatten, sold
) -> None:
    user_id = await make_user(symbols=("INFY",))
    await run_cycle(trading, market.now)
    await reconcile(trading)
    await pull(user_id, flatten=flatten)
    market.now += timedelta(minutes=1)
    await run_cycle(trading, market.now)
    assert (await broker_orders(sessions, Side.BUY), await broker_orders(sessions, Side.SELL)) == (1, sold)


async def test_a_halt_between_the_decision_and_the_send_stops_the_order(
    trading, sessions, market, make_user, pull, monkeypatch
) -> None:
    """The switch is pulled when the order stands as PENDING and its sender is about to begin."""
    user_id = await make_user(symbols=("INFY",))

    async def pull_first(world, claim, recorded, now):
        if recorded:
            await pull(user_id)
        await send(world, claim, recorded, now)

    monkeypatch.setattr("backend.services.auto_trading_service.send", pull_first)
    await run_cycle(trading, market.now)
    async with sessions() as session:
        order = (await session.scalars(select(Order))).one()
    assert (order.state, order.denied_reason) == (OrderState.DENIED, Reason.TRADING_HALTED)
    assert await broker_orders(sessions, Side.BUY) == 0
