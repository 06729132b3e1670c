"""No user sees or moves another one's rows, on any route that is a user's."""

from typing import Any

import pytest
from fastapi.routing import APIRoute
from sqlalchemy import func, select, text

from backend.api.app import ROUTERS, access_of
from backend.api.examples import REQUESTS
from backend.models import AutoTradeSettings, Backtest, BacktestStatus, BrokerAccount, Subscription
from backend.services.auto_trading_service import run_cycle
from tests.api.conftest import Gateway, Someone
from tests.api.rows import backtest_asked, closed

USER_ROUTES = [
    route
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute)
    and (access_of(route) or "").startswith(("current_user", "trading_user", "paid_"))
    # test_plans shows these with rows of their own.
    and not {"billing", "preview_subscription"} & {*route.tags, route.operation_id}
]
_OWN_TABLES = (
    "users",
    "subscriptions",
    "broker_accounts",
    "auto_trade_settings",
    "auto_trades",
    "orders",
    "decisions",
    "backtests",
)


async def _rows_of(gateway: Gateway, user: Someone) -> dict[str, Any]:
    async with gateway.sessions() as session:
        return {
            table: (
                await session.execute(
                    text(
                        f"SELECT jsonb_agg(to_jsonb(t) ORDER BY to_jsonb(t)::text) FROM {table} t "
                        f"WHERE {'id' if table == 'users' else 'user_id'} = {user.id}"
                    )
                )
            ).scalar_one()
            for table in _OWN_TABLES
        }


@pytest.mark.parametrize("route", USER_ROUTES, ids=lambda r: r.operation_id)
async def test_a_users_route_shows_and_changes_ones_own_rows_only(own_gateway: Gateway, route: APIRoute) -> None:
    victim = await own_gateway.someone("pro", enabled=True)
    await run_cycle(own_gateway.trading, own_gateway.market.now)
    async with own_gateway.sessions.begin() as session:
        cycle = await session.scalar(text("SELECT max(id) FROM cycles"))
        session.add(
            Backtest(user_id=victim.id, status=BacktestStatus.QUEUED, request=backtest_asked(name="victims_own"))
        )
        session.add(closed(victim, cycle, own_gateway.market.now, "98765.43", strategy="victims_own"))
    stranger = await own_gateway.someone("enterprise", account=True)
    before = await _rows_of(own_gateway, victim)
    assert all(before.values())

    assert route.operation_id is not None
    body = REQUESTS.get(route.operation_id)
    if route.operation_id == "enable_auto_trading":
        body = {"account_id": victim.account_id}
    elif route.operation_id == "replace_auto_trading_settings":
        body = REQUESTS[route.operation_id] | {"strategies": []}  # this market's model has other strategies
    (method,) = route.methods
    async with own_gateway.sessions() as session:
        ids = {
            f"{table[:-1]}_id": await session.scalar(text(f"SELECT max(id) FROM {table}"))
            for table in ("orders", "backtests")
        } | {"account_id": victim.account_id}
    path = route.path.format(**ids)
    reply = await own_gateway.client.request(
        method, path, json=body, headers=stranger.headers | {"Idempotency-Key": "of the stranger's"}
    )
    assert reply.status_code < 500
    assert await _rows_of(own_gateway, victim) == before
    for secret in (victim.email, "98765.43", "victims_own"):
        assert secret not in reply.text
    answer = reply.json()
    if route.operation_id == "enable_auto_trading" or path != route.path:
        assert reply.status_code == 404
        return
    assert reply.is_success
    for name in ("trades", "cycles", "orders", "backtests"):
        assert answer.get(name, []) == []
    assert all(account["id"] == stranger.account_id for account in answer.get("accounts", []))


async def test_the_victim_does_see_them(own_gateway: Gateway) -> None:
    victim = await own_gateway.someone("pro", enabled=True)
    await run_cycle(own_gateway.trading, own_gateway.market.now)
    client, headers = own_gateway.client, victim.headers
    assert (await client.get("/v1/auto-trading/trades", headers=headers)).json()["trades"]
    assert (await client.get("/v1/auto-trading/decisions", headers=headers)).json()["cycles"]
    assert (await client.get("/v1/broker-accounts", headers=headers)).json()["accounts"]
    async with own_gateway.sessions() as session:
        for table in (Subscription, BrokerAccount, AutoTradeSettings):
            assert await session.scalar(select(func.count()).where(table.user_id == victim.id)) == 1
