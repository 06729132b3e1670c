"""Backtests over the API: what may be asked, the plan's bounds, pages, reports that can do no harm, and events."""

import json
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.api.routes.backtests import require_days
from backend.api.schemas.backtests import BARS_MAX, STEPS_MAX, BacktestBody, SweepBody, asked_in
from backend.backtest.request import PARAMETERS, Rules, asked_of
from backend.backtest.spec import Proceeds
from backend.domain.calendar import standard_calendar
from backend.domain.market import Product
from backend.domain.modes import Mode
from backend.domain.protections import DEFAULTS, Cooldown
from backend.errors import InvalidRequestError
from backend.services import backtest_queue as queue
from backend.services.backtest_queue import Progress
from tests.api.backtest_calls import ASKED, claimed, create, get, made_by, problem_of
from tests.api.conftest import Gateway, Someone

CALENDAR = standard_calendar()
PAGE = "<!doctype html><script>1</script>"


# ---- asking


async def test_what_is_asked_is_queued_whole(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    reply = await create(gateway, user)
    body = reply.json()
    assert reply.status_code == 202
    assert reply.headers["location"] == f"/v1/backtests/{body['backtest']['id']}"
    assert body["environment"] == "simulated"
    assert body["backtest"]["status"] == "queued"
    asked = body["backtest"]["request"]
    assert (asked["from"], asked["to"], asked["universe"]) == ("2023-01-01", "2023-12-31", "nifty50")
    (trader,) = asked["traders"]
    assert (trader["name"], trader["capital"], trader["entries_per_day_max"]) == ("moderate", "500000", 50)
    assert (await get(gateway, user, f"/{body['backtest']['id']}")).json()["backtest"] == body["backtest"]


async def test_the_free_plan_has_none(gateway: Gateway) -> None:
    problem = problem_of(await create(gateway, await gateway.someone("free")), 403)
    assert problem.code == "plan_required"
    assert "Basic does, with 5 backtests a day" in problem.detail


async def test_the_day_has_its_bound_and_a_key_its_one_backtest(gateway: Gateway) -> None:
    user = await gateway.someone("basic")
    first = await create(gateway, user, **{"Idempotency-Key": "k"})
    again = await create(gateway, user, **{"Idempotency-Key": "k"})
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    for _ in range(4):
        await made_by(gateway, user)
    assert problem_of(await create(gateway, user), 403).code == "backtests_used_up"
    assert len((await get(gateway, user, "")).json()["backtests"]) == 5


async def test_own_limits_stay_below_the_plans(gateway: Gateway) -> None:
    user = await gateway.someone("basic")
    traders = [{"name": "a", "mode": "moderate", "entries_per_day_max": n} for n in (3, 9999)]
    traders[1]["name"] = "b"
    reply = await create(gateway, user, {"mode": None, "traders": traders})
    limits = [trader["entries_per_day_max"] for trader in reply.json()["backtest"]["request"]["traders"]]
    assert limits == [3, 10]


async def test_too_many_combinations_for_the_plan(gateway: Gateway) -> None:
    user = await gateway.someone("basic")
    sweep = {"mode": ["moderate", "aggressive"], "cluster_positions_max": [1, 2, 3, 4, 5, 6]}
    problem = problem_of(await create(gateway, user, {"sweep": sweep}), 403)
    assert problem.code == "too_many_combinations"
    assert "12 combinations, your plan Basic allows 10" in problem.detail


MODES = [mode.value for mode in Mode]
TWO = [{"mode": "moderate"}, {"mode": "aggressive"}]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"from": "2024-01-01"}, "from must not be after to"),
        ({"from": "2012-01-01"}, "3700 days at most"),
        ({"from": "1889-01-01", "to": "1889-02-01"}, "between 1990 and 2200"),
        ({"mode": None}, "either mode or traders"),
        ({"traders": TWO}, "either mode or traders"),
        ({"mode": None, "traders": [TWO[0], TWO[0]]}, "two traders have one name"),
        ({"mode": None, "traders": TWO, "sweep": {"cluster_positions_max": [1]}}, "a sweep is of one trader"),
        ({"sweep": {}}, "names no parameter"),
        ({"sweep": {"funds_fraction": [1]}}, "Extra inputs"),
        ({"sweep": {"mode": ["moderate", "moderate"]}}, "listed twice"),
        ({"sweep": {"latency_bars": [0, 1]}}, "with daily bars it must be 0"),
        ({"latency_bars": 1}, "with daily bars it must be 0"),
        ({"interval": "2h"}, "interval"),
        ({"interval": "1m", "universe": "top:200"}, "bars would be read"),
        ({"interval": "1m", "sweep": {"slippage_fraction": [f"0.00{n}" for n in range(10)], "mode": MODES}}, "30 runs"),
        ({"interval": "1m", "sweep": {"latency_bars": list(range(21))}}, "20 items"),
        ({"universe": "top:201"}, "1 to 200 shares"),
        ({"universe": "top:0"}, "1 to 200 shares"),
        ({"universe": "nifty500"}, "universe"),
        ({"universe": "TCS,TCS"}, "listed twice"),
        ({"universe": "TCS;INFY"}, "universe"),
        ({"slippage_fraction": "0.06"}, "0.05"),
        ({"participation_fraction": 0}, "0.0001"),
        ({"mode": None, "traders": [{"mode": "moderate", "capital": "999"}]}, "1000"),
        ({"mode": None, "traders": [{"mode": "moderate", "cash": 1}]}, "Extra inputs"),
        ({"proceeds": "never"}, "settled"),
        ({"model": "../../etc/passwd"}, "model"),
        ({"speed": 1}, "Extra inputs"),
    ],
)
async def test_what_cannot_be_meant_is_refused_with_the_reason(
    gateway: Gateway, changes: dict[str, Any], said: str
) -> None:
    user = await gateway.someone("enterprise")
    problem = problem_of(await create(gateway, user, changes), 422)
    assert said in problem.detail
    assert (await get(gateway, user, "")).json()["backtests"] == []


async def test_a_strategy_must_be_one_of_the_models(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    problem = problem_of(await create(gateway, user, {"sweep": {"strategies": [[], ["astrology"]]}}), 422)
    assert problem.code == "unknown_strategy"


async def test_days_without_any_data_are_refused(own_gateway: Gateway) -> None:
    user = await own_gateway.someone("pro")
    own_gateway.market.data_through = date(2022, 12, 31)
    problem = problem_of(await create(own_gateway, user), 422)
    assert (problem.code, problem.detail) == (
        "no_data",
        "There is market data through 2022-12-31 only: ask for days in it.",
    )
    own_gateway.market.data_through = date(2023, 1, 2)
    assert (await create(own_gateway, user)).status_code == 202


async def test_days_partly_with_data_are_not(gateway: Gateway) -> None:
    clock = await gateway.trading.market_data.clock()
    asked = BacktestBody.model_validate(ASKED)
    first, last = asked.from_, date(2023, 12, 29)
    within = clock.model_copy(update={"data_from": first, "data_through": last})
    require_days(first, last, within, CALENDAR)
    require_days(first, last, clock.model_copy(update={"data_from": last, "data_through": None}), CALENDAR)
    require_days(date(2001, 1, 1), last, clock.model_copy(update={"data_from": first}), CALENDAR)
    for known in ({"data_from": last.replace(year=2024)}, {"data_through": first.replace(year=2022)}):
        with pytest.raises(InvalidRequestError, match="ask for days in it"):
            require_days(first, last, clock.model_copy(update=known), CALENDAR)


@pytest.mark.parametrize(
    ("first", "last", "code", "said"),
    [
        ("2018-12-01", "2023-01-31", "year_not_recorded", "no calendar of 2018, only of the years from 2019 to 2026"),
        ("2023-01-01", "2024-03-19", "days_to_come", "2024-03-19 is yet to come: ask for days up to 2024-03-18."),
        ("2023-01-28", "2023-01-29", "closed", "The market was closed from 2023-01-28 to 2023-01-29: ask for other"),
    ],
)
async def test_days_that_cannot_be_traded_are_refused_and_cost_nothing(
    gateway: Gateway, first: str, last: str, code: str, said: str
) -> None:
    user = await gateway.someone("basic")
    problem = problem_of(await create(gateway, user, {"from": first, "to": last}), 422)
    assert problem.code == code
    assert said in problem.detail
    for _ in range(5):
        await made_by(gateway, user)


@pytest.mark.parametrize("name", ["a\u202eb", "a\u0085b", "a\u2066b", "a\u2028b", "a\x00b", "a\ufeffb"])
async def test_a_name_hides_nothing(gateway: Gateway, name: str) -> None:
    user = await gateway.someone("pro")
    problem_of(await create(gateway, user, {"mode": None, "traders": [{"mode": "moderate", "name": name}]}), 422)


def test_a_name_may_be_in_any_script() -> None:
    for name in ("क्‍ष", "می‌خواهم", "Zoë ✓"):
        body = ASKED | {"mode": None, "traders": [{"mode": "moderate", "name": name}]}
        assert BacktestBody.model_validate(body).users()[0].name == name


def test_what_was_accepted_once_can_be_shown_whatever_the_bounds_are_now() -> None:
    stored = BacktestBody.model_validate(ASKED).stored(10) | {"interval": "1m", "universe": "top:200"}
    stored["traders"][0]["name"] = "a\u202eb"
    shown = asked_in(stored)
    assert shown.bars > BARS_MAX
    assert shown.stored(10) == stored


def test_so_much_and_no_more_is_traded_in_one_backtest() -> None:
    days = ASKED | {"interval": "1m", "universe": "nifty50", "to": "2023-03-31"}
    bars = BacktestBody.model_validate(days).bars
    fit = STEPS_MAX // bars
    BacktestBody.model_validate(days | {"sweep": {"cluster_positions_max": list(range(1, fit + 1))}})
    with pytest.raises(ValueError, match=r"in all, 20,000,000 at most: fewer traders, combinations"):
        BacktestBody.model_validate(days | {"sweep": {"cluster_positions_max": list(range(1, fit + 2))}})


# ---- what a worker reads of it


def test_a_worker_reads_what_the_user_meant() -> None:
    trader = {
        "name": "mine",
        "mode": "aggressive",
        "capital": "123456.78",
        "product": "mis",
        "strategies": ["momentum"],
        "protections": {"cooldown": {"pause_sessions": 3}, "low_profit": None},
        "entries_per_day_max": 7,
    }
    body = ASKED | {
        "mode": None,
        "traders": [trader],
        "interval": "5m",
        "slippage_fraction": "0.001",
        "participation_fraction": "0.05",
        "latency_bars": 2,
        "proceeds": "settled",
        "model": "2026-02-27",
    }
    asked = asked_of(json.loads(json.dumps(BacktestBody.model_validate(body).stored(50))), Rules(order_rest_s_max=99))
    (user,) = asked.spec.traders
    assert (user.name, user.mode, user.capital, user.product) == (
        "mine", Mode.AGGRESSIVE, Decimal("123456.78"), Product.MIS
    )  # fmt: skip
    assert (user.strategies, user.entries_per_day_max) == (frozenset({"momentum"}), 7)
    assert user.protections == replace(DEFAULTS, cooldown=Cooldown(pause_sessions=3), low_profit=None)
    fills = asked.spec.fills
    assert (fills.slippage, fills.participation, asked.spec.latency_bars) == (Decimal("0.001"), Decimal("0.05"), 2)
    assert (asked.spec.proceeds, asked.model, asked.universe) == (Proceeds.SETTLED, "2026-02-27", "nifty50")
    assert (asked.spec.order_rest_s_max, asked.sweep) == (99, {})


def test_every_parameter_that_may_be_swept_is_known_to_the_worker() -> None:
    assert PARAMETERS.keys() == SweepBody.model_fields.keys()
    assert {p.value for p in Proceeds} == set(BacktestBody.model_json_schema()["properties"]["proceeds"]["enum"])


def test_each_swept_value_reaches_the_engine() -> None:
    sweep = {
        "mode": ["conservative", "aggressive"],
        "strategies": [["momentum"], []],
        "entry_protection_fraction": ["0.001", "0.002"],
        "exit_protection_fraction": ["0.004", "0.005"],
        "cluster_positions_max": [7, 8],
        "slippage_fraction": ["0.0001", "0.0003"],
        "latency_bars": [3, 4],
    }
    body = BacktestBody.model_validate(ASKED | {"interval": "1h", "to": "2023-01-31", "sweep": sweep})
    asked = asked_of(json.loads(json.dumps(body.stored(5))), Rules())
    combinations = list(asked.combinations())
    assert len(combinations) == body.combinations == 2**7
    for name, change in PARAMETERS.items():
        one, other = (change(asked.spec, value) for value in asked.sweep[name])
        assert one != other, name
        assert change(one, asked.sweep[name][1]) == other, name
    assert len({json.dumps(values) for values in combinations}) == 2**7


@given(
    universe=st.sampled_from(["default", "nifty50", "top:20", "TCS,M&M"]),
    interval=st.sampled_from(["1d", "1h", "15m", "5m"]),
    days=st.integers(0, 90),
    capital=st.decimals(1000, 10**9, places=2),
    own=st.none() | st.integers(1, 9999),
    slippage=st.decimals(0, Decimal("0.05"), places=6),
    pause=st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
def test_what_is_stored_is_shown_again_and_reads_the_same(
    universe: str, interval: str, days: int, capital: Decimal, own: int | None, slippage: Decimal, pause: int
) -> None:
    trader = {
        "mode": "moderate",
        "capital": str(capital),
        "entries_per_day_max": own,
        "protections": {"cooldown": {"pause_sessions": pause}},
    }
    body = BacktestBody.model_validate(
        ASKED
        | {"mode": None, "traders": [trader], "universe": universe, "interval": interval, "to": "2023-04-01"}
        | {"from": f"2023-{1 + days // 31:02}-{1 + days % 28:02}", "slippage_fraction": str(slippage)}
    )
    stored = json.loads(json.dumps(body.stored(10)))
    shown = asked_in(stored)
    assert shown.stored(10) == stored
    assert asked_of(shown.stored(10), Rules()) == asked_of(stored, Rules())
    assert asked_of(stored, Rules()).spec.traders[0].capital == capital
    assert body.bars <= BARS_MAX


# ---- reading


async def test_the_list_comes_in_pages(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    made = [await made_by(gateway, user) for _ in range(3)]
    first = (await get(gateway, user, "?limit=2")).json()
    assert [b["id"] for b in first["backtests"]] == [made[2], made[1]]
    rest = (await get(gateway, user, f"?limit=2&cursor={first['next_cursor']}")).json()
    assert ([b["id"] for b in rest["backtests"]], rest["next_cursor"]) == ([made[0]], None)


async def test_the_report_can_do_no_harm_and_is_ones_own(gateway: Gateway) -> None:
    user, stranger = await gateway.someone("pro"), await gateway.someone("pro")
    made = await made_by(gateway, user)
    assert problem_of(await get(gateway, user, f"/{made}/report"), 404).code == "no_report"
    claim = await claimed(gateway, made)
    await queue.finish(gateway.sessions, claim, {"trades": 3}, queue.packed(PAGE))
    reply = await get(gateway, user, f"/{made}/report")
    assert (reply.status_code, reply.text) == (200, PAGE)
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.headers["x-content-type-options"] == "nosniff"
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert policy.startswith("sandbox allow-scripts;")
    assert "allow-same-origin" not in policy
    answer = (await get(gateway, user, f"/{made}")).json()
    assert (answer["summary"], answer["backtest"]["status"]) == ({"trades": 3}, "done")
    for path in ("", "/report", "/events"):
        assert (await get(gateway, stranger, f"/{made}{path}")).status_code == 404
    assert (await gateway.client.delete(f"/v1/backtests/{made}", headers=stranger.headers)).status_code == 404
    gone = await gateway.client.delete(f"/v1/backtests/{made}", headers=user.headers)
    assert gone.json()["message"] == "It is deleted, its report too."
    assert (await get(gateway, user, f"/{made}")).status_code == 404


async def test_cancelling_says_what_happens(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    waiting, running = await made_by(gateway, user), await made_by(gateway, user)
    claim = await claimed_second(gateway, user, waiting, running)
    reply = await gateway.client.delete(f"/v1/backtests/{running}", headers=user.headers)
    assert reply.json()["backtest"]["cancelling"]
    assert reply.json()["message"] == "Its worker stops it within seconds."
    assert await queue.renew(gateway.sessions, claim, Progress(), 60) is queue.Standing.CANCEL
    assert await queue.cancelled(gateway.sessions, claim)


async def claimed_second(gateway: Gateway, user: Someone, first: int, second: int) -> queue.Claim:
    reply = await gateway.client.delete(f"/v1/backtests/{first}", headers=user.headers)
    assert (reply.json()["backtest"]["status"], reply.json()["message"]) == ("cancelled", "It will not run.")
    return await claimed(gateway, second)
