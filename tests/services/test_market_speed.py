"""A market whose clock runs faster than ours: the gate's real seconds follow it, and a replay has none that count."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI
from sqlalchemy import text

from backend.config import Settings
from backend.domain.orders import OrderState
from backend.domain.reasons import Reason
from backend.domain.trading_states import Cause, Scope, TradingState
from backend.main import Wired, at_market_speed, create_app, wire
from backend.models import TradingStatePeriod
from backend.services.deployment_service import begin
from backend.services.trading_state_service import impose, standings
from contracts.common import Environment
from contracts.market import ClockReply
from sauda.replay_alone import DAY_LOSS_LIFTED, lift_day_losses, without_rates
from tests.support.market_server import serving
from tests.support.send_desk import open_send_desk


def clock_at(now, speed: float) -> FastAPI:
    app = FastAPI()

    @app.get("/v1/clock")
    def clock() -> ClockReply:
        return ClockReply(environment=Environment.SIMULATED, now=now, speed=speed)

    return app


def settings_of(database_url: str, folder: Path, url: str = "http://127.0.0.1:1", **changes) -> Settings:
    return Settings(
        _env_file=None, database_url=database_url, data_dir=folder, data_service_url=url, secret_key="k" * 40, **changes
    )


async def paced_at(speed: float, settings: Settings) -> Wired:
    """The gateway's own wiring once it has asked a clock of that speed, and once more, which changes nothing."""
    wired = wire(settings, lambda _: None)
    paced = await at_market_speed(settings, wired)
    assert await at_market_speed(settings, paced) is paced
    await wired.close()
    return paced


@pytest.mark.parametrize(("speed", "window_s"), [(1.0, 300), (60.0, 5), (600.0, 0.5)])
async def test_the_symbols_window_is_300_seconds_of_the_markets_clock(
    market, database_url, tmp_path, speed, window_s
) -> None:
    with serving(clock_at(market.now, speed)) as url:
        paced = await paced_at(speed, settings_of(database_url, tmp_path, url, environment="simulated"))
    assert (paced.speed, paced.trading.rules.gate.symbol_window_s) == (speed, window_s)
    real = await paced_at(1.0, settings_of(database_url, tmp_path, environment="paper"))
    assert real.trading.rules.gate.symbol_window_s == 300


async def test_orders_of_six_market_minutes_ago_are_forgotten_however_fast_they_passed(
    trading, market, make_user
) -> None:
    gate = replace(trading.rules.gate, symbol_orders_max=2, symbol_window_s=300 / 60)
    fast = replace(trading, rules=replace(trading.rules, gate=gate))
    async with open_send_desk(fast, market) as desk:
        user_id = await make_user()
        await desk.account(user_id)
        for quantity in (1, 2):
            assert (await desk.send_new(user_id, quantity=quantity)).state is OrderState.ACCEPTED
        await desk.let_time_pass(6)
        assert (await desk.send_new(user_id)).state is OrderState.ACCEPTED


async def test_a_replay_counts_no_orders(trading, market, make_user) -> None:
    strict = replace(
        trading.rules.gate, symbol_orders_max=1, orders_per_second_max=1, orders_per_minute_max=1, orders_per_day_max=1
    )
    desk_rules = replace(trading.rules, gate=strict)
    async with open_send_desk(replace(trading, rules=desk_rules), market) as desk:
        user_id = await make_user()
        await desk.account(user_id)
        assert (await desk.send_new(user_id)).state is OrderState.ACCEPTED
        desk.trading = without_rates(desk.trading)
        assert (await desk.send_new(user_id)).state is OrderState.ACCEPTED
        assert desk.trading.rules.gate.open_value_rupees_max == strict.open_value_rupees_max
        desk.trading = replace(desk.trading, rules=desk_rules)
        assert (await desk.send_new(user_id)).denied_reason is Reason.SYMBOL_ORDER_RATE


async def test_a_replays_next_day_lifts_the_days_loss_and_nothing_else(sessions, make_user) -> None:
    loser, halted = str(await make_user("asha")), str(await make_user("ravi"))
    async with sessions.begin() as session:
        await impose(session, Scope.USER, loser, TradingState.REDUCING, Cause.DAILY_LOSS, "the day has cost 2 %")
        await impose(session, Scope.USER, halted, TradingState.HALTED, Cause.REJECTIONS, "why")
    await lift_day_losses(sessions)
    async with sessions() as session:
        assert [row.key for row in (await standings(session)).rows] == [halted]
        ended = await session.get_one(TradingStatePeriod, 1)
        assert (ended.ended_by, ended.end_reason) == (int(loser), DAY_LOSS_LIFTED)


async def test_the_gateway_says_at_its_start_that_trading_is_halted(
    trader_sessions, database_url, tmp_path, capsys
) -> None:
    await begin(trader_sessions, Environment.PAPER, tmp_path)
    async with trader_sessions.begin() as session:
        await session.execute(text("UPDATE deployment SET timeline = timeline + 1"))
    app = create_app(settings_of(database_url, tmp_path, environment="paper", trader_enabled=False))
    async with app.router.lifespan_context(app):
        pass
    out = capsys.readouterr().out
    assert out.count("trading is HALTED") == 1
    assert "recovered from an archive" in out


async def test_orders_by_hand_pass_a_gate_as_fast_as_the_market(sessions, market, database_url, tmp_path) -> None:
    """Also at a gateway whose trader is another process."""
    with serving(clock_at(market.now, 60.0)) as url:
        app = create_app(settings_of(database_url, tmp_path, url, environment="simulated", trader_enabled=False))
        async with app.router.lifespan_context(app), asyncio.timeout(10):
            while app.state.api.trading.rules.gate.symbol_window_s != 5:
                async with sessions() as session:
                    await standings(session)
