"""Backtests in the queue: no race gets more than the plan, nobody starves, a dead worker's job is done once more."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import func, select, text, update

from backend.errors import NotAllowedError, NotFoundError
from backend.models import Backtest, BacktestStatus, BacktestUsage, Plan
from backend.services import backtest_queue as queue
from backend.services import backtest_service as service
from backend.services.backtest_queue import ATTEMPTS_MAX, Progress, Standing, claim_next
from backend.services.end_of_day_service import end_of_day

LEASE_S = 30.0
REPORT = queue.packed("<p>what came of it</p>")


@pytest.fixture
def ask(sessions):
    """Put a backtest of a user into the queue; returns its id."""

    async def asked(user: int, *, combinations: int = 1, key: str | None = None) -> int:
        async with sessions.begin() as session:
            row = await service.enqueue(session, user, {"of": user}, combinations=combinations, key=key)
            return row.id

    return asked


async def row_of(sessions, backtest_id: int) -> Backtest:
    async with sessions() as session:
        return await session.get_one(Backtest, backtest_id)


async def silence(sessions) -> None:
    """Every worker's lease is over, as if it had not been heard of for so long."""
    async with sessions.begin() as session:
        await session.execute(
            update(Backtest)
            .where(Backtest.status == BacktestStatus.RUNNING)
            .values(claimed_until=func.clock_timestamp() - timedelta(seconds=1))
        )


# ---- asking


async def test_the_plan_bounds_a_day_under_any_race(sessions, make_user, ask) -> None:
    user = await make_user(plan="basic")
    outcomes = await asyncio.gather(*(ask(user) for _ in range(9)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if not isinstance(outcome, int)]
    assert len(outcomes) - len(refused) == 5
    assert {(type(error), error.code) for error in refused} == {(NotAllowedError, "backtests_used_up")}
    async with sessions() as session:
        assert await session.scalar(select(BacktestUsage.used)) == 5
        assert await session.scalar(select(func.count()).select_from(Backtest)) == 5


async def test_deleting_gives_nothing_back_and_the_next_day_everything(sessions, make_user, ask) -> None:
    user = await make_user(plan="basic")
    for _ in range(5):
        made = await ask(user)
        async with sessions.begin() as session:
            await service.withdraw(session, user, made)
        async with sessions.begin() as session:
            _, deleted = await service.withdraw(session, user, made)
        assert deleted
    with pytest.raises(NotAllowedError, match="5 backtests a day"):
        await ask(user)
    async with sessions.begin() as session:
        await session.execute(update(BacktestUsage).values(day=BacktestUsage.day - 1))
    assert await ask(user)


async def test_the_free_plan_is_told_where_to_go(make_user, ask) -> None:
    user = await make_user(plan="free")
    with pytest.raises(NotAllowedError) as refused:
        await ask(user)
    assert refused.value.code == "plan_required"
    assert "Basic does, with 5 backtests a day, for ₹499.00 a month before GST" in refused.value.detail
    assert 'POST /v1/subscription {"plan": "basic"}' in refused.value.detail


async def test_a_sweep_is_bounded_by_the_plan(make_user, ask) -> None:
    for plan, most in (("basic", 10), ("pro", 50), ("enterprise", 200)):
        user = await make_user(plan, plan=plan)
        assert await ask(user, combinations=most)
        with pytest.raises(NotAllowedError, match=f"has {most + 1} combinations, .* allows {most}") as refused:
            await ask(user, combinations=most + 1)
        assert refused.value.code == "too_many_combinations"


async def test_one_key_is_one_backtest_of_one_user_for_a_day(sessions, make_user, ask) -> None:
    asha, ravi = await make_user(), await make_user("ravi")
    first, *others = await asyncio.gather(*(ask(asha, key="k") for _ in range(4)))
    assert set(others) == {first}
    assert await ask(asha, key="another") != first
    assert await ask(ravi, key="k") != first
    async with sessions.begin() as session:
        await session.execute(update(Backtest).values(created_at=Backtest.created_at - timedelta(hours=25)))
        assert await session.scalar(select(BacktestUsage.used).where(BacktestUsage.user_id == asha)) == 2
    assert await ask(asha, key="k") != first


# ---- claiming


async def test_each_job_is_claimed_once(sessions, make_user, ask) -> None:
    users = [await make_user(name, plan="enterprise") for name in ("a", "b", "c")]
    made = [await ask(user) for user in users for _ in range(2)]
    claims = await asyncio.gather(*(claim_next(sessions, "w", LEASE_S) for _ in range(8)))
    assert sorted(claim.backtest_id for claim in claims if claim) == made
    assert len({claim.token for claim in claims if claim}) == len(made)
    claim = next(claim for claim in claims if claim)
    assert claim.request == {"of": claim.user_id}


async def test_no_more_run_at_once_than_the_plan_has(sessions, make_user, ask) -> None:
    basic, pro = await make_user("b", plan="basic"), await make_user("p", plan="pro")
    for _ in range(3):
        await ask(basic)
        await ask(pro)
    claims = [c for c in await asyncio.gather(*(claim_next(sessions, "w", LEASE_S) for _ in range(6))) if c]
    assert sorted(claim.user_id for claim in claims) == [basic, pro, pro]
    assert await queue.cancelled(sessions, next(c for c in claims if c.user_id == basic))
    again = await claim_next(sessions, "w", LEASE_S)
    assert again is not None
    assert again.user_id == basic


async def test_a_long_queue_lets_others_pass(sessions, make_user, ask) -> None:
    greedy, modest, late = [await make_user(name, plan="enterprise") for name in ("g", "m", "l")]
    for _ in range(4):
        await ask(greedy)
    await ask(modest)
    await ask(late)
    order: list[int] = []
    for _ in range(6):  # one worker, one job after the other
        claim = await claim_next(sessions, "w", LEASE_S)
        assert claim is not None
        order.append(claim.user_id)
        await queue.finish(sessions, claim, {}, REPORT)
    assert order == [greedy, modest, late, greedy, greedy, greedy]
    assert await claim_next(sessions, "w", LEASE_S) is None


async def test_a_lost_plan_still_gets_what_was_asked_for_one_by_one(sessions, make_user, ask) -> None:
    user = await make_user(plan="pro")
    await ask(user)
    await ask(user)
    async with sessions.begin() as session:
        await session.execute(text("UPDATE subscriptions SET status = 'cancelled'"))
    claims = [await claim_next(sessions, "w", LEASE_S) for _ in range(2)]
    assert [claim is not None for claim in claims] == [True, False]


# ---- while it runs, and its end


async def test_progress_is_told_and_the_claim_held(sessions, make_user, ask) -> None:
    await ask(await make_user())
    claim = await claim_next(sessions, "w", LEASE_S)
    assert claim is not None
    before = await row_of(sessions, claim.backtest_id)
    assert await queue.renew(sessions, claim, Progress(3, 9, "x" * 300), LEASE_S) is Standing.HELD
    after = await row_of(sessions, claim.backtest_id)
    assert (after.done, after.total, after.doing) == (3, 9, "x" * 200)
    assert after.claimed_until > before.claimed_until
    assert await claim_next(sessions, "other", LEASE_S) is None


async def test_the_result_is_kept_and_read_by_its_owner_alone(sessions, make_user, ask) -> None:
    user, stranger = await make_user(), await make_user("stranger")
    made = await ask(user)
    claim = await claim_next(sessions, "w", LEASE_S)
    assert await queue.finish(sessions, claim, {"trades": 3, "sharpe": None}, REPORT)
    async with sessions() as session:
        row = await service.backtest_of(session, user, made)
        assert (row.status, row.summary) == (BacktestStatus.DONE, {"trades": 3, "sharpe": None})
        assert await service.report_of(session, user, made) == b"<p>what came of it</p>"
        for reading in (service.backtest_of, service.report_of, service.withdraw):
            with pytest.raises(NotFoundError):
                await reading(session, stranger, made)
        assert await service.backtests_of(session, stranger, None, 10) == []
        assert [r.id for r in await service.backtests_of(session, user, None, 10)] == [made]


async def test_what_has_no_report_says_how_it_stands(sessions, make_user, ask) -> None:
    user = await make_user()
    made = await ask(user)
    async with sessions() as session:
        with pytest.raises(NotFoundError, match="The backtest is queued") as refused:
            await service.report_of(session, user, made)
    assert refused.value.code == "no_report"


async def test_a_queued_one_is_cancelled_at_once_and_never_runs(sessions, make_user, ask) -> None:
    user = await make_user()
    made = await ask(user)
    async with sessions.begin() as session:
        row, deleted = await service.withdraw(session, user, made)
        assert (row.status, deleted) == (BacktestStatus.CANCELLED, False)
    assert await claim_next(sessions, "w", LEASE_S) is None


async def test_one_whose_worker_has_gone_is_cancelled_at_once(sessions, make_user, ask) -> None:
    user = await make_user()
    made = await ask(user)
    claim = await claim_next(sessions, "w", LEASE_S)
    await silence(sessions)
    async with sessions.begin() as session:
        row, deleted = await service.withdraw(session, user, made)
        assert (row.status, row.claim, deleted) == (BacktestStatus.CANCELLED, None, False)
    assert await queue.renew(sessions, claim, Progress(), LEASE_S) is Standing.LOST
    assert not await queue.finish(sessions, claim, {}, REPORT)
    assert await claim_next(sessions, "another", LEASE_S) is None


async def test_a_running_one_is_stopped_through_its_worker(sessions, make_user, ask) -> None:
    user = await make_user()
    made = await ask(user)
    claim = await claim_next(sessions, "w", LEASE_S)
    async with sessions.begin() as session:
        row, _ = await service.withdraw(session, user, made)
        assert row.status is BacktestStatus.RUNNING
    assert await queue.renew(sessions, claim, Progress(), LEASE_S) is Standing.CANCEL
    assert await queue.cancelled(sessions, claim)
    assert (await row_of(sessions, made)).status is BacktestStatus.CANCELLED


async def test_a_dead_workers_job_is_done_once_more_and_then_given_up(sessions, make_user, ask) -> None:
    made = await ask(await make_user())
    for attempt in range(1, ATTEMPTS_MAX + 1):
        claim = await claim_next(sessions, f"w{attempt}", LEASE_S)
        assert claim is not None
        assert (await row_of(sessions, made)).attempts == attempt
        assert await claim_next(sessions, "other", LEASE_S) is None  # its lease lasts
        await silence(sessions)
    assert await claim_next(sessions, "w3", LEASE_S) is None
    row = await row_of(sessions, made)
    assert (row.status, row.error) == (BacktestStatus.FAILED, queue.DIED)


async def test_a_dead_workers_cancelled_job_is_not_done_again(sessions, make_user, ask) -> None:
    user = await make_user()
    made = await ask(user)
    await claim_next(sessions, "w", LEASE_S)
    async with sessions.begin() as session:
        await service.withdraw(session, user, made)
    await silence(sessions)
    assert await claim_next(sessions, "w", LEASE_S) is None
    assert (await row_of(sessions, made)).status is BacktestStatus.CANCELLED


async def test_who_was_given_up_for_dead_writes_nothing(sessions, make_user, ask) -> None:
    made = await ask(await make_user())
    dead = await claim_next(sessions, "dead", LEASE_S)
    await silence(sessions)
    alive = await claim_next(sessions, "alive", LEASE_S)
    assert alive is not None
    assert await queue.renew(sessions, dead, Progress(9, 9, "dead"), LEASE_S) is Standing.LOST
    assert not await queue.finish(sessions, dead, {}, REPORT)
    assert not await queue.fail(sessions, dead, "dead")
    assert not await queue.cancelled(sessions, dead)
    assert not await queue.release(sessions, dead)
    row = await row_of(sessions, made)
    assert (row.status, row.claim, row.doing) == (BacktestStatus.RUNNING, alive.token, "")


async def test_a_worker_that_stops_gives_its_job_back_unused(sessions, make_user, ask) -> None:
    made = await ask(await make_user())
    claim = await claim_next(sessions, "w", LEASE_S)
    assert await queue.release(sessions, claim)
    row = await row_of(sessions, made)
    assert (row.status, row.attempts, row.started_at) == (BacktestStatus.QUEUED, 0, None)
    assert await claim_next(sessions, "w", LEASE_S) is not None


# ---- what is kept


async def test_old_ones_are_dropped_by_age_and_by_number(sessions, trading, make_user, ask) -> None:
    user, other = await make_user(), await make_user("other")
    made = [await ask(user) for _ in range(6)]
    kept = await ask(other)
    async with sessions.begin() as session:
        done = {"status": BacktestStatus.CANCELLED, "finished_at": func.clock_timestamp()}
        await session.execute(update(Backtest).where(Backtest.id.in_([*made[:5], kept])).values(done))
        aged = {"finished_at": func.clock_timestamp() - timedelta(days=91)}
        await session.execute(update(Backtest).where(Backtest.id == made[4]).values(aged))
        session.add(BacktestUsage(user_id=user, day=trading_day_before(91), used=3))
    for statement in service.old_backtests(90, 2, 1000):
        async with sessions.begin() as session:
            await session.execute(statement)
    async with sessions() as session:
        left = list(await session.scalars(select(Backtest.id).order_by(Backtest.id)))
        assert left == [*made[2:4], made[5], kept]  # the newest two finished, the waiting one, another user's
        assert await session.scalar(select(func.count()).select_from(BacktestUsage)) == 2


def trading_day_before(days: int):
    from backend.main import real_now

    return real_now().date() - timedelta(days=days)


async def test_the_days_end_drops_them(sessions, trading, market, make_user, ask) -> None:
    made = await ask(await make_user())
    async with sessions.begin() as session:
        old = {"status": BacktestStatus.CANCELLED, "finished_at": func.clock_timestamp() - timedelta(days=91)}
        await session.execute(update(Backtest).values(old))
    await end_of_day(trading, market.now.date(), market.now)
    async with sessions() as session:
        assert await session.get(Backtest, made) is None


async def test_the_plans_have_their_limits(sessions) -> None:
    async with sessions() as session:
        rows = await session.scalars(select(Plan).order_by(Plan.rank))
        assert [(p.code, p.backtests_per_day, p.backtests_at_once, p.backtest_combinations_max) for p in rows] == [
            ("free", 0, 0, 0),
            ("basic", 5, 1, 10),
            ("pro", 50, 2, 50),
            ("enterprise", 500, 4, 200),
        ]
