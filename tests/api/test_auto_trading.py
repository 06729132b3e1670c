"""Auto-trading from the outside: switched on, trading through real cycles, explained, and switched off."""

from datetime import timedelta
from decimal import Decimal

import pytest

from backend.domain.calendar import IST
from backend.domain.modes import Mode
from backend.domain.reasons import NEXT_STEP, Reason
from backend.services.auto_trading_service import run_cycle
from backend.services.decision_query_service import decisions_of
from contracts.predictions import Action
from tests.api.conftest import MONDAY_10, Gateway, later
from tests.api.test_problems import problem_of

BASE = "/v1/auto-trading"
SETTINGS = {"mode": "moderate", "product": "cnc", "symbols": ["TCS", "INFY"], "entries_per_day_max": 2}


async def test_enable_needs_a_ready_account_of_ones_own(gateway: Gateway) -> None:
    user, other = await gateway.someone("basic"), await gateway.someone("basic", account=True)
    none = problem_of(await gateway.client.post(f"{BASE}/enable", json={}, headers=user.headers))
    assert (none.status, none.code) == (409, "no_account")
    body = {"account_id": other.account_id}
    foreign = problem_of(await gateway.client.post(f"{BASE}/enable", json=body, headers=user.headers))
    assert foreign.status == 404


async def test_enable_and_disable(gateway: Gateway) -> None:
    user = await gateway.someone("basic", account=True)
    enabled = await gateway.client.post(f"{BASE}/enable", json={"mode": "aggressive"}, headers=user.headers)
    assert enabled.status_code == 200
    settings = enabled.json()["settings"]
    assert (settings["enabled"], settings["mode"], settings["enabled_at"]) == (
        True,
        "aggressive",
        MONDAY_10.isoformat(),
    )
    assert settings["mode_rules"]["confidence_min"] == 0.6
    assert enabled.json()["account"]["id"] == user.account_id
    again = await gateway.client.post(f"{BASE}/enable", json={}, headers=user.headers)
    assert again.json() == enabled.json()
    disabled = await gateway.client.post(f"{BASE}/disable", headers=user.headers)
    assert disabled.json()["settings"]["enabled"] is False
    assert "exits" in disabled.json()["message"]


async def test_another_account_becomes_the_primary_one(gateway: Gateway) -> None:
    user = await gateway.someone("basic", account=True)
    second = await gateway.client.post(
        "/v1/broker-accounts", json={"broker": "paper", "label": "second"}, headers=user.headers
    )
    body = {"account_id": second.json()["account"]["id"]}
    enabled = await gateway.client.post(f"{BASE}/enable", json=body, headers=user.headers)
    assert enabled.json()["account"]["id"] == body["account_id"]
    listed = (await gateway.client.get("/v1/broker-accounts", headers=user.headers)).json()["accounts"]
    assert [account["is_primary"] for account in listed] == [False, True]


async def test_settings_are_replaced(gateway: Gateway) -> None:
    user = await gateway.someone()
    reply = await gateway.client.put(f"{BASE}/settings", json=SETTINGS, headers=user.headers)
    assert reply.status_code == 200
    stored = reply.json()["settings"]
    assert {name: stored[name] for name in SETTINGS} == SETTINGS
    body = {"mode": "conservative", "product": "mis", "symbols": ["TCS"]}
    reply = await gateway.client.put(f"{BASE}/settings", json=body, headers=user.headers)
    assert reply.json()["settings"]["entries_per_day_max"] is None
    status = (await gateway.client.get(f"{BASE}/status", headers=user.headers)).json()
    assert status["settings"] == reply.json()["settings"]


@pytest.mark.parametrize(
    "change",
    [{"symbols": []}, {"symbols": ["TCS", "TCS"]}, {"symbols": [f"S{i}" for i in range(51)]}, {"product": "CNC"}],
    ids=str,
)
async def test_settings_that_mean_nothing(gateway: Gateway, change: dict[str, object]) -> None:
    user = await gateway.someone()
    reply = await gateway.client.put(f"{BASE}/settings", json=SETTINGS | change, headers=user.headers)
    assert problem_of(reply).status == 422


async def test_only_instruments_of_the_market_can_be_chosen(gateway: Gateway) -> None:
    user = await gateway.someone()
    body = SETTINGS | {"symbols": ["TCS", "NOSUCH"]}
    problem = problem_of(await gateway.client.put(f"{BASE}/settings", json=body, headers=user.headers))
    assert (problem.status, problem.code) == (422, "unknown_symbol")
    assert "NOSUCH" in problem.detail
    assert "TCS" not in problem.detail


async def test_the_status_of_a_newcomer_says_what_is_missing(gateway: Gateway) -> None:
    user = await gateway.someone()
    status = (await gateway.client.get(f"{BASE}/status", headers=user.headers)).json()
    assert status["environment"] == "simulated"
    assert [b["reason"] for b in status["blocking"]] == ["plan_required", "no_account", "auto_trading_disabled"]
    assert status["pnl"] == {
        "unrealized": "0.00",
        "realized_today": "0.00",
        "realized_total": "0.00",
        "unpriced": [],
    }


async def test_what_a_cycle_did_is_seen_in_status_trades_and_accounts(own_gateway: Gateway) -> None:
    market, client = own_gateway.market, own_gateway.client
    user = await own_gateway.someone("basic", enabled=True, symbols=("TCS", "INFY"))
    market.stocks["INFY"].touch = 0.5
    await run_cycle(own_gateway.trading, market.now)
    entry = market.stocks["TCS"].last + Decimal("0.05")

    trades = (await client.get(f"{BASE}/trades", headers=user.headers)).json()
    assert trades["environment"] == "simulated"
    (trade,) = trades["trades"]
    assert (trade["symbol"], trade["status"], trade["mode"]) == ("TCS", "open", "moderate")
    assert Decimal(trade["entry_price"]) >= entry - Decimal("0.05")
    assert trade["entry_quantity"] == trade["quantity"] > 0

    market.stocks["TCS"].last += 10
    market.now = later(market.now, 60)
    status = (await client.get(f"{BASE}/status", headers=user.headers)).json()
    gained = (market.stocks["TCS"].last - Decimal(trade["entry_price"])) * trade["entry_quantity"]
    net = gained - Decimal(trade["charges"])
    assert abs(Decimal(status["pnl"]["unrealized"]) - net) < Decimal("0.001")
    assert (status["open_trades"], status["quota"]["entries_used"], status["quota"]["entries_left"]) == (1, 1, 9)
    assert (status["last_cycle"]["entries"], status["last_cycle"]["denied"]) == (1, {})
    assert status["blocking"] == []
    accounts = (await client.get("/v1/broker-accounts", headers=user.headers)).json()["accounts"]
    assert accounts[0]["holdings"] == {"TCS": trade["entry_quantity"]}

    leave = await client.post("/v1/broker-accounts", json={"broker": "paper", "label": "second"}, headers=user.headers)
    body = {"account_id": leave.json()["account"]["id"]}
    stuck = problem_of(await client.post(f"{BASE}/enable", json=body, headers=user.headers))
    assert (stuck.status, stuck.code) == (409, "account_has_open_trades")


async def test_a_used_up_limit_and_a_closed_market_block_and_say_so(own_gateway: Gateway) -> None:
    market, client = own_gateway.market, own_gateway.client
    user = await own_gateway.someone("basic", enabled=True)
    body = SETTINGS | {"entries_per_day_max": 1}
    assert (await client.put(f"{BASE}/settings", json=body, headers=user.headers)).status_code == 200
    await run_cycle(own_gateway.trading, market.now)
    status = (await client.get(f"{BASE}/status", headers=user.headers)).json()
    assert [b["reason"] for b in status["blocking"]] == ["own_day_limit"]
    assert status["last_cycle"]["denied"] == {"own_day_limit": 1}
    market.now = MONDAY_10.replace(hour=16)
    status = (await client.get(f"{BASE}/status", headers=user.headers)).json()
    assert [b["reason"] for b in status["blocking"]] == ["own_day_limit", "market_not_continuous"]
    assert status["next_open"] == "2024-03-19T09:15:00+05:30"
    assert status["blocking"][1]["next_step"] == NEXT_STEP[Reason.MARKET_NOT_CONTINUOUS]
    market.now = MONDAY_10 + timedelta(days=1)
    status = (await client.get(f"{BASE}/status", headers=user.headers)).json()
    assert (status["blocking"], status["quota"]["entries_used"]) == ([], 0)


async def test_decisions_explain_every_symbol_with_its_numbers(own_gateway: Gateway) -> None:
    market, client = own_gateway.market, own_gateway.client
    stocks = market.stocks
    stocks["INFY"].touch = 0.65
    stocks["HDFCBANK"].expected = 0.012
    stocks["ICICIBANK"].reasons = ("thin_history",)
    stocks["RELIANCE"].action = Action.SELL
    user = await own_gateway.someone("basic", enabled=True)
    await run_cycle(own_gateway.trading, market.now)
    # What happens later must not change the answer.
    stocks["INFY"].touch, stocks["TCS"].last = 0.99, Decimal(9)
    page = (await client.get(f"{BASE}/decisions", headers=user.headers)).json()
    (cycle,) = page["cycles"]
    assert (page["environment"], page["next_cursor"]) == ("simulated", None)
    assert (cycle["mode"], cycle["status"], cycle["model_version"]) == ("moderate", "done", "test")
    assert cycle["threshold"] == {"return_net_min": 0.015, "confidence_min": 0.7, "funds_fraction_per_trade": 0.075}
    found = {s["symbol"]: s for s in cycle["symbols"]}
    assert {symbol: s["reason"] for symbol, s in found.items()} == {
        "TCS": None,
        "INFY": "confidence_below_mode",
        "HDFCBANK": "return_below_mode",
        "ICICIBANK": "model_abstained",
        "RELIANCE": "not_a_buy",
    }
    assert (found["TCS"]["outcome"], found["TCS"]["recorded"]) == ("order", True)
    assert (found["TCS"]["price"], found["TCS"]["confidence"]) == ("1500.00", 0.85)
    assert found["TCS"]["expected_return_net"] == pytest.approx(0.03)
    assert (found["INFY"]["recorded"], found["INFY"]["confidence"]) == (False, 0.65)
    assert found["INFY"]["next_step"] == NEXT_STEP[Reason.CONFIDENCE_BELOW_MODE]
    assert found["HDFCBANK"]["expected_return_net"] == pytest.approx(0.012)
    assert found["ICICIBANK"]["confidence"] is None


async def test_decisions_come_cycle_by_cycle_also_where_nothing_was_to_do(own_gateway: Gateway) -> None:
    market, client = own_gateway.market, own_gateway.client
    user = await own_gateway.someone("basic", enabled=True, symbols=("TCS",))
    early = await own_gateway.someone("basic", enabled=True, symbols=("INFY",))
    market.stocks["TCS"].touch = market.stocks["INFY"].touch = 0.1
    for _ in range(3):
        await run_cycle(own_gateway.trading, market.now)
        market.now = later(market.now, 60)
    seen: list[str] = []
    query = "?limit=2"
    for _ in range(5):
        if not query:
            break
        page = (await client.get(f"{BASE}/decisions{query}", headers=user.headers)).json()
        seen += [cycle["scheduled_at"] for cycle in page["cycles"]]
        for cycle in page["cycles"]:
            assert [(s["symbol"], s["reason"]) for s in cycle["symbols"]] == [("TCS", "confidence_below_mode")]
        query = f"?limit=2&cursor={page['next_cursor']}" if page["next_cursor"] else ""
    assert seen == [later(MONDAY_10, 60 * i).isoformat() for i in (2, 1, 0)]

    market.now = later(market.now, 60)
    newcomer = await own_gateway.someone("basic", enabled=True, symbols=("TCS",))
    page = (await client.get(f"{BASE}/decisions", headers=newcomer.headers)).json()
    assert page["cycles"] == []
    assert len((await client.get(f"{BASE}/decisions", headers=early.headers)).json()["cycles"]) == 3


async def test_a_missed_batch_is_told(own_gateway: Gateway) -> None:
    market = own_gateway.market
    user = await own_gateway.someone("basic", enabled=True, symbols=("TCS",), mode=Mode.AGGRESSIVE)
    market.predictions_down = True
    await run_cycle(own_gateway.trading, market.now)
    (cycle,) = (await own_gateway.client.get(f"{BASE}/decisions", headers=user.headers)).json()["cycles"]
    assert "predictions" in cycle["problems"]
    assert [(s["reason"], s["price"]) for s in cycle["symbols"]] == [("no_prediction", "1500.00")]
    (read,) = await decisions_of(own_gateway.trading, user.id, None, 10)
    assert read.scheduled_at.astimezone(IST) == MONDAY_10


async def test_market_status(gateway: Gateway) -> None:
    user = await gateway.someone()
    own = await gateway.client.get(f"{BASE}/market-status", headers=user.headers)
    public = await gateway.client.get("/v1/market/status")
    assert own.json() == public.json()
    status = public.json()
    assert (status["environment"], status["exchange"], status["clock_speed"]) == ("simulated", "nse", 1.0)
    assert (status["now"], status["next_open"]) == (MONDAY_10.isoformat(), "2024-03-19T09:15:00+05:30")
    by_class = {c["stock_class"]: c for c in status["classes"]}
    assert {c["phase"] for c in by_class.values()} == {"continuous"}
    assert by_class["cas"]["square_off_at"] == "2024-03-18T15:15:00+05:30"
    windows = [w for w in by_class["non_cas"]["windows"] if w["phase"] == "continuous"]
    assert [(w["start"], w["end"]) for w in windows] == [("2024-03-18T09:15:00+05:30", "2024-03-18T15:30:00+05:30")]
