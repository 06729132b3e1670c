"""What a crash or a silent broker at any step of recording and sending leaves behind: nothing doubled, nothing lost."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
from sqlalchemy import func, select, text

from backend.brokers import base
from backend.brokers.base import OrderRejectedError, OrderRequest
from backend.domain.decide import TradeStatus
from backend.domain.orders import OrderState
from backend.domain.reasons import Reason
from backend.domain.risk import Approved, OrderIntent
from backend.models import AutoTrade, DailyUsage, Order, OrderEvent, OutboxMessage, PaperOrder
from backend.services import gate_service
from backend.services.auto_trading_service import decide_all, rank_modes, run_cycle
from backend.services.context import Trading
from backend.services.corporate_action_service import settle_actions
from backend.services.cycle_service import FencedError, claim_shard, fence, hold, open_cycle
from backend.services.gather_service import gather_market, gather_users
from backend.services.reconcile_service import reconcile
from backend.services.record_service import record


class Crash(BaseException):
    """The process is gone: nothing catches it."""


class Faulty:
    """The real paper broker with a fault around `place`."""

    name = "paper"
    absence_is_proof_after_s = 10.0

    def __init__(self, real, place: Callable[..., Awaitable[str]]) -> None:
        self._real = real
        self._place = place

    async def place(self, account_id, order):
        return await self._place(self._real, account_id, order)

    def __getattr__(self, name):
        return getattr(self._real, name)


def with_fault(trading: Trading, place) -> Trading:
    return replace(trading, brokers={"paper": Faulty(trading.brokers["paper"], place)})


async def states(trading: Trading) -> list[OrderState]:
    async with trading.sessions() as session:
        return list((await session.scalars(select(Order.state).order_by(Order.id))).all())


async def broker_orders(trading: Trading) -> int:
    async with trading.sessions() as session:
        return await session.scalar(select(func.count()).select_from(PaperOrder)) or 0


async def let_time_pass(trading: Trading, seconds: int) -> None:
    """Age everything the database timed by its own clock."""
    async with trading.sessions.begin() as session:
        age = {"s": seconds}
        await session.execute(text("UPDATE orders SET submitted_at = submitted_at - make_interval(secs => :s)"), age)
        await session.execute(
            text("UPDATE cycle_shards SET claimed_until = claimed_until - make_interval(secs => :s)"), age
        )


async def used(trading: Trading) -> int:
    async with trading.sessions() as session:
        return await session.scalar(select(func.coalesce(func.sum(DailyUsage.entries_used), 0))) or 0


async def test_a_crash_before_the_send_drops_the_order_and_refunds_the_quota(trading, market, make_user, monkeypatch):
    await make_user(symbols=("INFY",))

    async def crash(_trading, _claim, recorded, _now):
        if recorded:
            raise Crash

    async def never_reached(*_):
        """A killed process tidies nothing up."""

    monkeypatch.setattr("backend.services.auto_trading_service.send", crash)
    monkeypatch.setattr("backend.services.auto_trading_service.finish_shard", never_reached)
    with pytest.raises(Crash):
        await run_cycle(trading, market.now)
    assert await states(trading) == [OrderState.PENDING]
    await reconcile(trading)
    assert await states(trading) == [OrderState.PENDING]  # its holder may still be at it
    await let_time_pass(trading, 61)
    await reconcile(trading)
    assert await states(trading) == [OrderState.EXPIRED]
    assert (await broker_orders(trading), await used(trading)) == (0, 0)
    async with trading.sessions() as session:
        assert (await session.scalars(select(AutoTrade.status))).one() is TradeStatus.CANCELLED


async def test_a_crash_after_submitted_before_the_socket_is_settled_by_the_books_silence(trading, market, make_user):
    await make_user(symbols=("INFY",))

    async def crash(*_):
        raise Crash

    with pytest.raises(Crash):
        await run_cycle(with_fault(trading, crash), market.now)
    await reconcile(trading)
    assert await states(trading) == [OrderState.SUBMITTED]
    await let_time_pass(trading, 11)
    await reconcile(trading)
    assert await states(trading) == [OrderState.EXPIRED]
    assert (await broker_orders(trading), await used(trading)) == (0, 0)


async def test_a_crash_after_the_broker_took_it_is_found_by_its_tag(trading, market, make_user):
    await make_user(symbols=("INFY",))

    async def takes_it_and_dies(real, account_id, order):
        await real.place(account_id, order)
        raise Crash

    with pytest.raises(Crash):
        await run_cycle(with_fault(trading, takes_it_and_dies), market.now)
    assert await states(trading) == [OrderState.SUBMITTED]
    await reconcile(trading)
    assert await states(trading) == [OrderState.FILLED]
    assert (await broker_orders(trading), await used(trading)) == (1, 1)
    async with trading.sessions() as session:
        events = (await session.scalars(select(OrderEvent.kind).order_by(OrderEvent.id))).all()
        assert [e.value for e in events] == ["submitted", "accepted", "filled"]


async def test_a_timeout_is_never_retried_and_the_book_settles_it(trading, market, make_user):
    await make_user(symbols=("INFY",))

    async def answers_too_late(real, account_id, order):
        await real.place(account_id, order)
        raise TimeoutError

    await run_cycle(with_fault(trading, answers_too_late), market.now)
    assert await states(trading) == [OrderState.FILLED]  # by the settle step
    assert await broker_orders(trading) == 1


async def test_a_broker_whose_book_proves_nothing_leaves_the_symbol_blocked(trading, market, make_user):
    await make_user(symbols=("INFY",))

    async def vanishes(*_):
        raise TimeoutError

    faulty = with_fault(trading, vanishes)
    faulty.brokers["paper"].absence_is_proof_after_s = None
    await run_cycle(faulty, market.now)
    await let_time_pass(faulty, 5)
    for _ in range(4):
        await reconcile(faulty)
        await reconcile(faulty)  # sooner than the next look-up is due: it counts for nothing
        assert await states(trading) == [OrderState.SUBMITTED]
        await let_time_pass(faulty, 2)
    await reconcile(faulty)
    assert await states(trading) == [OrderState.UNKNOWN]
    async with trading.sessions() as session:
        assert (await session.scalars(select(OutboxMessage.topic))).all() == ["order.unknown"]
    market.now = market.now.replace(minute=5)
    report = await run_cycle(faulty, market.now)
    assert report.denied == {"order_unknown": 1}
    assert await broker_orders(trading) == 0


async def test_a_refusal_is_proof_and_refunds_the_quota(trading, market, make_user):
    await make_user(symbols=("INFY",))

    async def refuses(*_):
        raise OrderRejectedError("RMS: margin exceeded")

    await run_cycle(with_fault(trading, refuses), market.now)
    assert await states(trading) == [OrderState.REJECTED]
    assert await used(trading) == 0
    market.now = market.now.replace(minute=5)
    report = await run_cycle(trading, market.now)
    assert report.denied == {"entry_failed_today": 1}


async def test_reconciling_twice_changes_nothing(trading, market, make_user):
    await make_user()
    await run_cycle(trading, market.now)
    before = await states(trading)
    first, second = await reconcile(trading), await reconcile(trading)
    assert (first.changed, second.changed) == (0, 0)
    assert await states(trading) == before


async def test_a_fenced_worker_can_neither_record_nor_send(trading, market):
    cycle = await open_cycle(trading, market.now)
    claim = await claim_shard(trading, cycle.id)
    async with trading.sessions.begin() as session:
        await hold(session, claim, 60)
    async with trading.sessions.begin() as session:
        await fence(session, claim.cycle_id, claim.shard)
    async with trading.sessions() as session:
        with pytest.raises(FencedError):
            await hold(session, claim, 60)


async def test_a_worker_fenced_between_record_and_send_sends_nothing(trading, market, make_user, monkeypatch):
    await make_user()
    import backend.services.auto_trading_service as service

    real_send = service.send

    async def paused_too_long(trading, claim, recorded, now):
        async with trading.sessions.begin() as session:
            await fence(session, claim.cycle_id, claim.shard)
        await real_send(trading, claim, recorded, now)

    monkeypatch.setattr(service, "send", paused_too_long)
    await run_cycle(trading, market.now)
    assert await broker_orders(trading) == 0
    assert set(await states(trading)) == {OrderState.EXPIRED}


def test_only_the_gate_can_approve_an_order():
    order = OrderIntent.__new__(OrderIntent)
    with pytest.raises(TypeError):
        Approved(order, object())  # type: ignore[arg-type]


async def test_an_order_thought_dead_that_traded_is_found_again(trading, market, make_user):
    """The answer was lost, the book was read too early, and the order was given up; then it shows up filled."""
    await make_user(symbols=("INFY",))

    async def crash(*_):
        raise Crash

    with pytest.raises(Crash):
        await run_cycle(with_fault(trading, crash), market.now)
    await let_time_pass(trading, 11)
    await reconcile(trading)
    assert await states(trading) == [OrderState.EXPIRED]
    async with trading.sessions() as session:
        order = (await session.scalars(select(Order))).one()
    request = OrderRequest(
        order.symbol,
        order.exchange,
        order.side,
        order.product,
        order.order_type,
        order.quantity,
        order.limit_price,
        order.client_order_id,
    )
    await trading.brokers["paper"].place(order.account_id, request)
    await reconcile(trading)
    assert await states(trading) == [OrderState.FILLED]
    async with trading.sessions() as session:
        trade = (await session.scalars(select(AutoTrade))).one()
        assert (trade.status, trade.entry_quantity, trade.closed_at) == (TradeStatus.OPEN, 24, None)


async def test_one_order_that_cannot_be_does_not_stop_the_settling_of_others(trading, market, make_user):
    await make_user("asha", symbols=("INFY",))
    await make_user("ravi", symbols=("INFY",))

    async def answers_too_late(real, account_id, order):
        await real.place(account_id, order)
        raise TimeoutError

    class Overfills(Faulty):
        """Its book shows one account's order with more shares than were ordered."""

        victim = None

        async def books(self, account_ids, since, tags=None):
            books = dict(await self._real.books(account_ids, since, tags))
            self.victim = self.victim or min(books)
            books[self.victim] = [
                replace(o, trades=tuple(replace(t, quantity=t.quantity + 1) for t in o.trades))
                for o in books.get(self.victim, ())
            ]
            return books

    faulty = replace(trading, brokers={"paper": Overfills(trading.brokers["paper"], answers_too_late)})
    await run_cycle(faulty, market.now)
    report = await reconcile(faulty)
    assert len(report.unsettled) == 1
    assert sorted(await states(trading)) == [OrderState.FILLED, OrderState.SUBMITTED]


async def test_a_second_cycle_that_decided_meanwhile_records_no_second_exit_and_no_second_entry(
    trading, market, make_user
):
    await make_user(symbols=("INFY", "TCS"))
    await settle_actions(trading, market.now)
    first = await open_cycle(trading, market.now)
    market_inputs = await gather_market(trading, market.now)
    rankings = rank_modes(market_inputs.view, trading.rules.limits)

    async def decided(cycle):
        claims = [await claim_shard(trading, cycle.id) for _ in range(2)]
        return [
            (
                c,
                decide_all(
                    market_inputs.view,
                    rankings,
                    await gather_users(trading, c.shard, c.shards, market_inputs.view),
                    trading.rules.limits,
                ),
            )
            for c in claims
            if c
        ]

    one = await decided(first)
    async with trading.sessions.begin() as session:
        await session.execute(text("UPDATE cycle_shards SET claimed_until = clock_timestamp() - interval '1 s'"))
    later = market.now.replace(minute=1)
    two = await decided(await open_cycle(trading, later))
    recorded = []
    for cycle_at, work in ((market.now, one), (later, two)):
        for claim, decisions in work:
            recorded += await record(trading, claim, cycle_at, cycle_at, market_inputs.view.today, decisions)
    assert len(recorded) == 2
    assert [o.reason for _, ds in two for d in ds for o in d.outcomes] == [Reason.ALREADY_HELD] * 2


async def test_who_was_stopped_after_the_commit_sends_nothing(trading, market, make_user):
    """The time runs out between the commit and the adapter's last line: its word is proof that nothing was sent."""
    await make_user(symbols=("INFY",))

    async def stopped_in_between(real, account_id, order):
        return await real.place(account_id, replace(order, send_by=time.monotonic() - 0.001))

    await run_cycle(with_fault(trading, stopped_in_between), market.now)
    assert await states(trading) == [OrderState.EXPIRED]
    assert (await broker_orders(trading), await used(trading)) == (0, 0)


async def test_the_time_to_send_begins_before_the_commit(trading, market, make_user):
    await make_user(symbols=("INFY",))
    late = replace(trading, rules=replace(trading.rules, send_timeout_s=0.0))
    await run_cycle(late, market.now)
    assert await states(trading) == [OrderState.EXPIRED]
    assert await broker_orders(trading) == 0


async def test_what_an_adapter_did_not_foresee_is_an_unknown_outcome_and_nobody_elses_trouble(
    trading, market, make_user
):
    await make_user("asha", symbols=("INFY",))
    await make_user("ravi", symbols=("INFY",))
    broken: list[int] = []

    async def breaks_once(real, account_id, order):
        if not broken:
            broken.append(account_id)
            raise KeyError("order_id")
        return await real.place(account_id, order)

    await run_cycle(with_fault(trading, breaks_once), market.now)
    assert sorted(await states(trading)) == [OrderState.FILLED, OrderState.SUBMITTED]


async def test_a_halt_missed_by_a_slow_look_is_never_a_second_old_at_the_socket(
    trading, market, make_user, monkeypatch
):
    await make_user(symbols=("INFY",))
    trading = replace(trading, rules=replace(trading.rules, halt_unseen_s_max=0.9))
    look = gate_service.facts_of

    async def slowly(*args):
        facts = await look(*args)
        # The statement after the look took 0.91 s: well within the send's own two seconds.
        monkeypatch.setattr(base, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 0.91))
        return facts

    monkeypatch.setattr(gate_service, "facts_of", slowly)
    await run_cycle(trading, market.now)
    assert await states(trading) == [OrderState.EXPIRED]
    assert await broker_orders(trading) == 0
