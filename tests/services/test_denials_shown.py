"""What the gate before the socket refused, and what holds trading back, is said where the user looks."""

from dataclasses import replace

from backend.domain.gate import GateLimits
from backend.domain.orders import OrderState
from backend.domain.reasons import Reason
from backend.domain.trading_states import Cause, Scope, TradingState
from backend.services.auto_trading_service import run_cycle
from backend.services.decision_query_service import decisions_of
from backend.services.outbox_service import deliver
from backend.services.status_service import auto_trading_status
from backend.services.trading_state_service import impose
from tests.services.test_order_safety import states, used


async def test_a_refusal_at_the_send_is_the_decisions_reason(trading, market, make_user):
    user = await make_user(symbols=("INFY",))
    strict = replace(trading, rules=replace(trading.rules, gate=GateLimits(orders_per_day_max=0)))
    await run_cycle(strict, market.now)
    assert (await states(trading), await used(trading)) == ([OrderState.DENIED], 0)
    (cycle,) = await decisions_of(trading, user, None, 10)
    (decision,) = cycle.symbols
    assert (decision.reason, decision.recorded) == (Reason.ORDERS_PER_DAY, True)


async def test_a_halt_is_the_first_thing_the_status_says_and_the_console_tells_it(trading, market, make_user):
    user = await make_user(symbols=("INFY",))
    async with trading.sessions.begin() as session:
        await impose(session, Scope.USER, str(user), TradingState.REDUCING, Cause.DAILY_LOSS, "the day has cost 2.1 %")
    status = await auto_trading_status(trading, user)
    assert status.blocking[0].code == "trading_reducing"
    assert "2.1 %" in status.blocking[0].next_step
    assert "/v1/trading-state/reactivate" in status.blocking[0].next_step
    lines: list[str] = []
    await deliver(replace(trading, announce=lines.append))
    assert lines == [f"    !    trading is REDUCING for user {user} (daily_loss): the day has cost 2.1 %"]
