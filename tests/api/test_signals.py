"""Predictions, their explanations, strategies, models and the scoreboard, from the outside."""

import asyncio
from datetime import date
from typing import Any

import httpx
import pytest

from backend.services.auto_trading_service import run_cycle
from contracts.predictions import Action
from tests.api.conftest import MONDAY_10, Gateway, later
from tests.api.test_problems import problem_of
from tests.support.model_server import frozen, manifest, mode_card, mode_score

PREDICTIONS = "/v1/market/predictions"
STATUS = "/v1/auto-trading/status"
SETTINGS = {"mode": "moderate", "product": "cnc", "symbols": ["TCS"]}


async def get(gateway: Gateway, path: str, **headers: str) -> Any:
    reply = await gateway.client.get(path, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_predictions_show_what_every_strategy_says(own_gateway: Gateway) -> None:
    market = own_gateway.market
    market.stocks["TCS"].proposals = {"momentum": {"certified_modes": ["aggressive"], "target_probability": 0.6}}
    market.stocks["TCS"].cluster, market.stocks["TCS"].valid_until = "IT", later(MONDAY_10, 3600)
    market.held_modes = {"moderate": "it stated 0.8 and realised 0.4"}
    found = await get(own_gateway, f"{PREDICTIONS}?symbols=TCS,INFY")
    assert found["held_modes"] == market.held_modes
    assert found["certified_modes"] == ["conservative", "moderate", "aggressive"]
    learned = found["predictions"]["TCS"]
    assert (learned["strategy"], learned["cluster"]) == ("test_v1", "IT")
    assert learned["valid_until"] == "2024-03-18T11:00:00+05:30"
    (proposed,) = found["candidates"]["TCS"]
    assert (proposed["strategy"], proposed["certified_modes"]) == ("momentum", ["aggressive"])
    assert proposed["target_probability"] == 0.6
    assert "INFY" not in found["candidates"]


async def test_predictions_keep_their_tag_until_something_else_than_the_time_changes(own_gateway: Gateway) -> None:
    client, market = own_gateway.client, own_gateway.market
    first = await client.get(PREDICTIONS)
    tag = {"If-None-Match": first.headers["etag"]}
    assert tag["If-None-Match"].startswith('W/"')
    market.now = later(MONDAY_10, 60)
    same = await client.get(PREDICTIONS, headers=tag)
    assert (same.status_code, same.content) == (304, b"")
    market.stocks["TCS"].touch = 0.5
    changed = await client.get(PREDICTIONS, headers=tag)
    assert (changed.status_code, changed.json()["as_of"]) == (200, market.now.isoformat())


async def test_a_prediction_is_explained(own_gateway: Gateway) -> None:
    found = await get(own_gateway, f"{PREDICTIONS}/TCS/explanation")
    assert (found["environment"], found["event"], found["as_of"]) == (
        "simulated",
        "net_profit",
        MONDAY_10.isoformat(),
    )
    assert found["contributions"] == [{"feature": "rsi_14", "value": 40.0, "contribution": 0.2}]
    assert found["votes"] == [{"strategy": "momentum", "fired": True, "reason": "a new high"}]
    assert (found["prediction"]["symbol"], found["prediction"]["horizon_sessions"]) == ("TCS", 10)
    unknown = problem_of(await own_gateway.client.get(f"{PREDICTIONS}/NOSUCH/explanation"))
    assert (unknown.status, unknown.code) == (404, "unknown_symbol")
    assert not any("NOSUCH" in path for path in own_gateway.market.models.asked)


async def test_what_many_ask_for_is_fetched_once(own_gateway: Gateway) -> None:
    for _ in range(3):
        await get(own_gateway, f"{PREDICTIONS}/TCS/explanation")
        await get(own_gateway, "/v1/market/strategies")
        await get(own_gateway, "/v1/market/models/current")
        await get(own_gateway, "/v1/market/scoreboard")
    asked = own_gateway.market.models.asked
    assert sorted(asked) == [
        "/v1/models",
        "/v1/models/000000000000",
        "/v1/predictions/TCS/explanation",
        "/v1/scoreboard",
    ]


async def test_strategies_say_which_modes_may_trade_on_them_and_why_not(own_gateway: Gateway) -> None:
    models = own_gateway.market.models
    few = mode_card(certified=False, verdict="insufficient_evidence", candidates=3, episodes=2)
    weak = mode_card(certified=False, verdict="hit_rate_not_proven")
    modes = {"conservative": few, "moderate": weak, "aggressive": mode_card()}
    own = {"modes": modes, "metrics": None, "why": "too few rows"}
    models.cards = {
        "10": manifest(strategies=("test_v1",)) | {"strategies": {"test_v1": own}},
        # Of the same name, on another horizon: what is held there is not held here.
        "1": manifest(strategies=("test_v1",), horizon_sessions=1),
        "intraday": manifest(strategies=("opening",), horizon_sessions=1),
    }
    models.scores = [
        mode_score("test_v1", "aggressive", "held", "it stated 0.8 and realised 0.4"),
        # The monitor has nothing to hold where nothing was certified.
        mode_score("test_v1", "moderate", "held", "no"),
        mode_score("opening", "moderate", "certified"),
    ]
    found = (await get(own_gateway, "/v1/market/strategies"))["strategies"]
    assert [(s["strategy"], s["plan"]) for s in found] == [("test_v1", "1"), ("test_v1", "10"), ("opening", "intraday")]
    short, learned, opening = found
    assert {m["state"] for m in short["modes"].values()} == {"certified"}
    assert {mode: (m["state"], m["reason"]) for mode, m in learned["modes"].items()} == {
        "conservative": ("insufficient_evidence", "insufficient_evidence"),
        "moderate": ("refused", "hit_rate_not_proven"),
        "aggressive": ("held", "it stated 0.8 and realised 0.4"),
    }
    assert {m["state"] for m in opening["modes"].values()} == {"certified"}
    assert (learned["modes"]["conservative"]["trades"], learned["modes"]["conservative"]["episodes"]) == (3, 2)
    assert learned["modes"]["aggressive"]["hit_rate"] == {"mean": 0.8, "low": 0.72, "high": 0.88}


async def test_the_current_models_show_their_cards(own_gateway: Gateway) -> None:
    own_gateway.market.models.cards["1"] = manifest(horizon_sessions=1)
    own_gateway.market.models.refused = {"000000000001"}
    found = (await get(own_gateway, "/v1/market/models/current"))["models"]
    assert list(found) == ["10"]  # what ml_service refuses serves nothing
    card = found["10"]
    assert (card["model_version"], card["trained_through"], card["symbols"]) == ("000000000000", "2024-02-29", 2)
    assert card["strategies"]["momentum"]["events"]["net_profit"]["auc"] == 0.64
    assert card["strategies"]["momentum"]["modes"]["moderate"]["state"] == "certified"


async def test_the_scoreboard_is_passed_on_with_its_filters(own_gateway: Gateway) -> None:
    own_gateway.market.models.scores = [
        mode_score("test_v1", "moderate", "certified"),
        mode_score("b", "moderate", "x"),
    ]
    found = await get(own_gateway, "/v1/market/scoreboard?strategy=b&since=2024-01-02")
    assert (found["environment"], found["since"], found["frozen"]) == ("simulated", "2024-01-02", 2)
    assert [mode["strategy"] for mode in found["modes"]] == ["b"]
    assert len((await get(own_gateway, "/v1/market/scoreboard"))["modes"]) == 2
    assert (await get(own_gateway, "/v1/market/scoreboard?horizon_sessions=1"))["modes"] == []


async def test_frozen_predictions_come_page_by_page(own_gateway: Gateway) -> None:
    days = [date(2024, 3, day) for day in (15, 14, 13, 12)]
    own_gateway.market.models.entries = [frozen(day) for day in days] + [frozen(days[0], symbol="INFY")]
    seen: list[str] = []
    query = "?symbol=TCS&from=2024-03-12&to=2024-03-14&limit=2"
    cursor: str | None = ""
    while cursor is not None:
        more = f"&cursor={cursor}" if cursor else ""
        page = await get(own_gateway, f"/v1/market/scoreboard/predictions{query}{more}")
        seen += [entry["session"] for entry in page["entries"]]
        cursor = page["next_cursor"]
    assert seen == ["2024-03-14", "2024-03-13", "2024-03-12"]
    assert page["entries"][0]["served_at"] == "2024-03-13T09:30:00+05:30"
    foreign = problem_of(await own_gateway.client.get("/v1/market/scoreboard/predictions?cursor=bogus"))
    assert (foreign.status, foreign.code) == (422, "invalid_cursor")


PUBLIC = [
    f"{PREDICTIONS}/TCS/explanation",
    "/v1/market/strategies",
    "/v1/market/models/current",
    "/v1/market/scoreboard",
    "/v1/market/scoreboard/predictions",
]


@pytest.mark.parametrize("path", PUBLIC)
async def test_without_ml_service_the_public_is_told_so(own_gateway: Gateway, path: str) -> None:
    own_gateway.market.models.down = True
    problem = problem_of(await own_gateway.client.get(path))
    assert (problem.status, problem.code) == (503, "upstream_unavailable")
    own_gateway.market.models.down = False
    await get(own_gateway, path)  # a failure is not kept


@pytest.mark.parametrize("path", PUBLIC[:-1])
async def test_an_answer_that_did_not_change_is_not_sent_again(gateway: Gateway, path: str) -> None:
    first: httpx.Response = await gateway.client.get(path)
    assert first.headers["cache-control"] == "public, max-age=10"
    again = await gateway.client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        f"{PREDICTIONS}/tcs/explanation",
        f"{PREDICTIONS}/%00/explanation",
        "/v1/market/scoreboard?strategy=Momentum",
        "/v1/market/scoreboard?strategy=" + "a" * 41,
        "/v1/market/scoreboard?since=yesterday",
        "/v1/market/scoreboard?horizon_sessions=61",
        "/v1/market/scoreboard/predictions?limit=0",
        "/v1/market/scoreboard/predictions?limit=201",
        "/v1/market/scoreboard/predictions?cursor=" + "a" * 201,
        "/v1/market/scoreboard/predictions?cursor=%0a",
        "/v1/market/scoreboard/predictions?from=2024-03-02&to=2024-03-01",
        "/v1/market/scoreboard/predictions?mode=moderate",
    ],
)
async def test_a_question_that_means_nothing_is_not_passed_on(gateway: Gateway, path: str) -> None:
    before = len(gateway.market.models.asked)
    assert problem_of(await gateway.client.get(path)).status == 422
    assert len(gateway.market.models.asked) == before


async def put(gateway: Gateway, headers: dict[str, str], **changes: Any) -> httpx.Response:
    return await gateway.client.put("/v1/auto-trading/settings", json=SETTINGS | changes, headers=headers)


async def test_a_user_chooses_strategies(own_gateway: Gateway) -> None:
    user = await own_gateway.someone()
    fresh = (await get(own_gateway, STATUS, **user.headers))["settings"]
    assert fresh["strategies"] == []
    chosen = (await put(own_gateway, user.headers, strategies=["momentum"])).json()["settings"]
    assert chosen["strategies"] == ["momentum"]
    # Who does not know of them cannot switch them.
    assert (await put(own_gateway, user.headers)).json()["settings"]["strategies"] == ["momentum"]
    assert (await put(own_gateway, user.headers, strategies=None)).json()["settings"]["strategies"] == ["momentum"]
    assert (await put(own_gateway, user.headers, strategies=[])).json()["settings"]["strategies"] == []


async def test_a_strategy_that_no_model_has_is_named(own_gateway: Gateway) -> None:
    user = await own_gateway.someone()
    problem = problem_of(await put(own_gateway, user.headers, strategies=["momentum", "magic"]))
    assert (problem.status, problem.code) == (422, "unknown_strategy")
    assert problem.detail == "No such strategies: magic. There are momentum, test_v1."


async def test_without_ml_service_any_name_that_can_be_one_is_taken(own_gateway: Gateway) -> None:
    own_gateway.market.models.down = True
    user = await own_gateway.someone()
    assert (await put(own_gateway, user.headers, strategies=["magic"])).status_code == 200


@pytest.mark.parametrize(
    "strategies",
    [["Momentum"], ["1st"], [""], ["a" * 41], ["a", "a"], [f"s{i}" for i in range(21)], "momentum", [1]],
    ids=str,
)
async def test_strategies_that_can_be_none(gateway: Gateway, strategies: Any) -> None:
    user = await gateway.someone()
    problem = problem_of(await put(gateway, user.headers, strategies=strategies))
    assert (problem.status, problem.code) == (422, "validation_failed")


async def test_the_status_shows_each_modes_record_and_does_not_wait_for_it(own_gateway: Gateway) -> None:
    user = await own_gateway.someone()
    models = own_gateway.market.models
    models.silent = True
    async with asyncio.timeout(4):  # an answer of ml_service is waited for five seconds elsewhere
        status = await get(own_gateway, STATUS, **user.headers)
    assert status["strategies"] == []
    assert "did not answer" in status["strategies_note"]
    assert status["pnl"]["realized_total"] == "0.00"


async def test_the_status_says_how_often_each_mode_would_have_traded(own_gateway: Gateway) -> None:
    user = await own_gateway.someone()
    models = own_gateway.market.models
    models.scores = [mode_score("momentum", "moderate", "held", "drifted")]
    status = await get(own_gateway, STATUS, **user.headers)
    assert status["strategies_note"] is None
    momentum, learned = status["strategies"]
    assert (momentum["strategy"], learned["strategy"]) == ("momentum", "test_v1")
    assert (momentum["modes"]["moderate"]["state"], momentum["modes"]["moderate"]["reason"]) == ("held", "drifted")
    record = learned["modes"]["moderate"]
    assert (record["trades"], record["episodes"], record["net_return"]["mean"]) == (120, 31, 0.017)
    models.down = True
    # What came within the last seconds stands.
    assert (await get(own_gateway, STATUS, **user.headers))["strategies"] == status["strategies"]


async def test_decisions_and_trades_name_the_strategy(own_gateway: Gateway) -> None:
    market, client = own_gateway.market, own_gateway.client
    tcs, infy, hdfc = (market.stocks[symbol] for symbol in ("TCS", "INFY", "HDFCBANK"))
    tcs.proposals = {"momentum": {"expected_return_net_lower": 0.025}}
    tcs.cluster = "IT"
    infy.action = Action.HOLD
    infy.proposals = {"breakout": {"action": Action.BUY, "expected_return_net": 0.012}}
    hdfc.action = Action.HOLD
    hdfc.proposals = {"squeeze": {"action": Action.BUY}}
    user = await own_gateway.someone("basic", enabled=True, symbols=("TCS", "INFY", "HDFCBANK"))
    settings = SETTINGS | {"symbols": ["TCS", "INFY", "HDFCBANK"], "strategies": ["momentum", "test_v1"]}
    own_gateway.market.models.cards["10"] = manifest(("test_v1", "momentum", "breakout", "squeeze"))
    assert (await put(own_gateway, user.headers, **settings)).status_code == 200
    await run_cycle(own_gateway.trading, market.now)
    # What happens later must not change the answer.
    tcs.proposals, infy.proposals = {}, {}
    (cycle,) = (await get(own_gateway, "/v1/auto-trading/decisions", **user.headers))["cycles"]
    found = {s["symbol"]: s for s in cycle["symbols"]}
    assert {symbol: (s["strategy"], s["reason"], s["recorded"]) for symbol, s in found.items()} == {
        "TCS": ("momentum", None, True),
        "INFY": ("breakout", "return_below_mode", False),
        "HDFCBANK": ("squeeze", "strategy_not_enabled", True),
    }
    assert found["INFY"]["expected_return_net"] == pytest.approx(0.012)
    (trade,) = (await client.get("/v1/auto-trading/trades", headers=user.headers)).json()["trades"]
    assert (trade["strategy"], trade["cluster"], trade["logic_version"], trade["model_version"]) == (
        "momentum",
        "IT",
        "test_v1",
        "test",
    )
