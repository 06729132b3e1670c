"""Protections from the outside: set, shown, kept by a client that does not know them, and told in the status."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from backend.api.examples import ANSWERS, REQUESTS
from backend.api.schemas.protections import ProtectionRules
from backend.domain.protections import DEFAULTS, LowProfit, MaxDrawdown, Protections, StoplossGuard
from backend.services.auto_trading_service import run_cycle
from tests.api.conftest import Gateway
from tests.api.test_problems import problem_of

BASE = "/v1/auto-trading"
SETTINGS = {"mode": "moderate", "product": "cnc", "symbols": ["TCS", "INFY"]}
DEFAULT_RULES = ANSWERS["get_auto_trading_status"]["settings"]["protections"]


async def put(gateway: Gateway, headers: dict[str, str], **changes: object) -> dict[str, object]:
    reply = await gateway.client.put(f"{BASE}/settings", json=SETTINGS | changes, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply.json()["settings"]["protections"]


def test_the_wire_says_the_rules_as_they_are() -> None:
    """The documented defaults are the domain's, and every number has a place of its own in both directions."""
    assert ProtectionRules().rules() == DEFAULTS
    assert ProtectionRules.of(DEFAULTS).model_dump(mode="json") == DEFAULT_RULES
    other = Protections(
        cooldown=replace(DEFAULTS.cooldown, pause_sessions=11, stops_only=False),
        stoploss_guard=StoplossGuard(12, 13, 14, 15),
        max_drawdown=MaxDrawdown(16, 17, Decimal("0.1801"), 19),
        low_profit=LowProfit(20, 21, Decimal("-0.2202"), 17),
    )
    assert ProtectionRules.model_validate_json(ProtectionRules.of(other).model_dump_json()).rules() == other


async def test_protections_are_the_defaults_until_they_are_set(gateway: Gateway) -> None:
    user = await gateway.someone()
    status = (await gateway.client.get(f"{BASE}/status", headers=user.headers)).json()
    assert status["settings"]["protections"] == DEFAULT_RULES
    assert status["protections"] == []
    wanted = REQUESTS["replace_auto_trading_settings"]["protections"]
    assert wanted != DEFAULT_RULES
    assert await put(gateway, user.headers, protections=wanted) == wanted
    status = (await gateway.client.get(f"{BASE}/status", headers=user.headers)).json()
    assert status["settings"]["protections"] == wanted


async def test_a_client_that_does_not_know_protections_leaves_them_as_they_are(gateway: Gateway) -> None:
    user = await gateway.someone()
    changed = await put(gateway, user.headers, protections={"max_drawdown": None, "low_profit": {"trades_min": 9}})
    assert changed == DEFAULT_RULES | {
        "max_drawdown": None,
        "low_profit": DEFAULT_RULES["low_profit"] | {"trades_min": 9},
    }
    assert await put(gateway, user.headers) == changed
    assert await put(gateway, user.headers, protections=None) == changed
    assert await put(gateway, user.headers, protections={}) == DEFAULT_RULES


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("cooldown", {"pause_sessions": 0}),
        ("cooldown", {"pause_sessions": 21}),
        ("cooldown", {"pause_sessions": 1.0}),
        ("cooldown", {"pause_sessions": "1"}),
        ("cooldown", {"stops_only": 1}),
        ("cooldown", {"minutes": 5}),
        ("stoploss_guard", {"lookback_sessions": 41}),
        ("stoploss_guard", {"stops_min": 101}),
        ("stoploss_guard", {"symbol_stops_min": 0}),
        ("max_drawdown", {"drawdown_fraction_max": 0}),
        ("max_drawdown", {"drawdown_fraction_max": 1.0001}),
        ("max_drawdown", {"drawdown_fraction_max": 0.05001}),
        ("max_drawdown", {"drawdown_fraction_max": "NaN"}),
        ("low_profit", {"return_fraction_min": -1.0001}),
        ("low_profit", True),
        ("kill_switch", {}),
    ],
    ids=str,
)
async def test_protections_that_mean_nothing(gateway: Gateway, rule: str, value: object) -> None:
    user = await gateway.someone()
    body = SETTINGS | {"protections": {rule: value}}
    problem = problem_of(await gateway.client.put(f"{BASE}/settings", json=body, headers=user.headers))
    assert (problem.status, problem.code) == (422, "validation_failed")
    assert problem.errors[0]["pointer"].startswith(f"#/protections/{rule}")


async def test_the_status_says_what_is_barred_until_when_and_why(own_gateway: Gateway) -> None:
    market, client = own_gateway.market, own_gateway.client
    user = await own_gateway.someone("basic", enabled=True, symbols=("TCS", "INFY"))
    market.stocks["INFY"].touch = 0.5
    await put(own_gateway, user.headers, protections={"stoploss_guard": {"stops_min": 1, "pause_sessions": 3}})
    await run_cycle(own_gateway.trading, market.now)
    market.now += timedelta(minutes=1)
    market.stocks["TCS"].last *= Decimal("0.93")
    await run_cycle(own_gateway.trading, market.now)

    status = (await client.get(f"{BASE}/status", headers=user.headers)).json()
    pause = "1 trade ended at the stop within 5 sessions (limit 1): no entry before 2024-03-22."
    assert status["protections"] == [
        {"rule": "stoploss_guard", "symbol": None, "until": "2024-03-22", "detail": pause},
        {
            "rule": "cooldown",
            "symbol": "TCS",
            "until": "2024-03-20",
            "detail": "TCS was left by its stop on 2024-03-18: no entry in TCS before 2024-03-20.",
        },
    ]
    assert {"reason": "stoploss_guard", "next_step": pause} in status["blocking"]
    assert "cooldown" not in [b["reason"] for b in status["blocking"]]

    market.stocks["INFY"].touch = 0.85
    market.now += timedelta(minutes=1)
    await run_cycle(own_gateway.trading, market.now)
    newest = (await client.get(f"{BASE}/decisions", headers=user.headers)).json()["cycles"][0]
    assert {s["symbol"]: s["reason"] for s in newest["symbols"]} == {"INFY": "stoploss_guard", "TCS": "cooldown"}
    await client.post(f"{BASE}/disable", headers=user.headers)
