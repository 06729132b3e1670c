"""The HTTP surface in both markets: shapes, problems, and that nobody may look ahead."""

import json
from datetime import date, datetime, timedelta

import httpx
import orjson
import pytest
from data_market import at, daily, filled_store, five_minutes, short_calendar

from contracts.common import Health, Problem
from contracts.market import BarsReply, ClockReply, InstrumentsReply, Interval, QuotesReply
from data_service.config import Settings
from data_service.errors import ConfigError
from data_service.main import create_app

DAY_BARS = {"symbols": ["TCS", "NOSUCH"], "interval": "1d", "from": "2019-01-01", "through": "2019-12-31"}


class Monotonic:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def client_of(app) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://data")


def settings(folder, **given) -> Settings:
    return Settings(data_dir=folder, sim_start=date(2019, 1, 15), sim_speed=60.0, **given)


@pytest.fixture(scope="module")
def monotonic():
    return Monotonic()


@pytest.fixture(scope="module")
async def simulated_client(tmp_path_factory, monotonic):
    folder = tmp_path_factory.mktemp("data")
    app = create_app(settings(folder), lambda: at("2026-01-01 00:00"), monotonic=monotonic, sessions=short_calendar())
    async with client_of(app) as client:
        yield client


NOW = at("2024-03-20 09:31")


@pytest.fixture
async def paper(tmp_path):
    rows = {
        Interval.DAY_1: [daily("TCS", date(2024, 3, 18), 400_000), daily("TCS", date(2024, 3, 19), 80_005)],
        Interval.MIN_5: five_minutes("TCS", date(2024, 3, 20), [80_500, 80_600, 80_400, 80_700]),
    }
    config = settings(tmp_path, environment="paper")
    filled_store(config.recorded_dir, rows, [("TCS", date(2024, 3, 19), 0.2), ("TCS", date(2024, 3, 21), 0.5)])
    async with client_of(create_app(config, lambda: NOW, sessions=short_calendar())) as client:
        yield client


def problem(response: httpx.Response, status: int, code: str) -> Problem:
    assert response.headers["content-type"] == "application/problem+json"
    found = Problem.model_validate_json(response.content)
    assert (response.status_code, found.status, found.code) == (status, status, code)
    return found


async def test_the_clock_moves_with_the_monotonic_clock(simulated_client, monotonic):
    before = ClockReply.model_validate_json((await simulated_client.get("/v1/clock")).content)
    monotonic.now_s += 120
    after = ClockReply.model_validate_json((await simulated_client.get("/v1/clock")).content)
    assert after.now - before.now == timedelta(seconds=120 * 60)
    assert (before.speed, before.data_from, after.data_through) == (60.0, date(2019, 1, 1), date(2019, 1, 15))


async def test_health_and_instruments(simulated_client):
    health = Health.model_validate_json((await simulated_client.get("/health")).content)
    assert (health.status, health.service, health.environment, health.detail) == ("ok", "data_service", "simulated", "")
    reply = InstrumentsReply.model_validate_json((await simulated_client.get("/v1/instruments")).content)
    assert len(reply.instruments) == 40
    assert {"RELIANCE", "TCS", "INFY", "HDFCBANK", "ICICIBANK"} <= {share.symbol for share in reply.instruments}
    assert sum(not share.has_derivatives for share in reply.instruments) == 4


async def test_bars_of_the_simulated_market(simulated_client):
    body = DAY_BARS | {"as_of": "2019-01-10T12:00:00+05:30"}
    reply = BarsReply.model_validate_json((await simulated_client.post("/v1/bars", json=body)).content)
    assert reply.series["TCS"].start[0] == at("2019-01-01 09:15")
    assert reply.series["TCS"].start[-1] == at("2019-01-09 09:15")
    assert reply.missing == {"NOSUCH": "unknown symbol"}
    assert reply.as_of == at("2019-01-10 12:00")


async def test_the_same_question_has_the_same_bytes_later(simulated_client, monotonic):
    body = DAY_BARS | {"as_of": "2019-01-10T12:00:00+05:30"}
    first = (await simulated_client.post("/v1/bars", json=body)).content
    monotonic.now_s += 30
    assert (await simulated_client.post("/v1/bars", json=body)).content == first


async def test_nobody_looks_ahead_in_the_simulated_market(simulated_client):
    now = datetime.fromisoformat((await simulated_client.get("/v1/clock")).json()["now"])
    ahead = (now + timedelta(milliseconds=1)).isoformat()
    problem(await simulated_client.post("/v1/bars", json=DAY_BARS | {"as_of": ahead}), 422, "as_of_in_future")
    problem(
        await simulated_client.post("/v1/quotes", json={"symbols": ["TCS"], "as_of": ahead}), 422, "as_of_in_future"
    )
    problem(await simulated_client.get("/v1/instruments", params={"as_of": ahead}), 422, "as_of_in_future")
    present = await simulated_client.post("/v1/quotes", json={"symbols": ["TCS", "NOSUCH"], "as_of": now.isoformat()})
    reply = QuotesReply.model_validate_json(present.content)
    assert reply.quotes["TCS"].as_of <= reply.as_of == now
    assert reply.missing == {"NOSUCH": "unknown symbol"}


async def test_the_simulated_clock_at_its_end_says_so(tmp_path):
    monotonic = Monotonic()
    app = create_app(settings(tmp_path), monotonic=monotonic, sessions=short_calendar())
    monotonic.now_s = 1e7
    async with client_of(app) as client:
        assert "another DATA_DIR" in (await client.get("/health")).json()["detail"]
        assert (await client.get("/v1/clock")).json()["now"] == "2019-02-11T15:40:00+05:30"


async def test_a_restart_continues_and_another_market_is_refused(tmp_path):
    monotonic = Monotonic()

    async def now() -> str:
        async with client_of(create_app(settings(tmp_path), monotonic=monotonic, sessions=short_calendar())) as client:
            return (await client.get("/v1/clock")).json()["now"]

    first = await now()
    assert first == "2019-01-15T09:14:00+05:30"
    assert datetime.fromisoformat(await now()) == at("2019-01-15 09:24")
    with pytest.raises(ConfigError, match="use another DATA_DIR"):
        create_app(settings(tmp_path, sim_edge=0.5), monotonic=monotonic, sessions=short_calendar())


async def test_recorded_bars_are_adjusted_as_of(paper):
    body = DAY_BARS | {"from": "2024-01-01", "through": "2024-12-31", "as_of": NOW.isoformat()}
    reply = BarsReply.model_validate_json((await paper.post("/v1/bars", json=body)).content)
    assert [str(price) for price in reply.series["TCS"].close] == ["800.000000", "800.050000"]
    assert reply.series["TCS"].volume == [500_000, 100_000]
    assert "sauda data import" in reply.missing["NOSUCH"]
    raw = BarsReply.model_validate_json((await paper.post("/v1/bars", json=body | {"adjusted": False})).content)
    assert [str(price) for price in raw.series["TCS"].close] == ["4000.00", "800.05"]
    earlier = await paper.post("/v1/bars", json=body | {"as_of": "2024-03-18T16:00:00+05:30"})
    assert [str(price) for price in BarsReply.model_validate_json(earlier.content).series["TCS"].close] == ["4000.00"]


async def test_recorded_quotes_default_to_the_present(paper):
    reply = QuotesReply.model_validate_json((await paper.post("/v1/quotes", json={"symbols": ["TCS"]})).content)
    assert reply.as_of == NOW
    assert (str(reply.quotes["TCS"].last), reply.quotes["TCS"].as_of) == ("804.00", at("2024-03-20 09:30"))
    clock = ClockReply.model_validate_json((await paper.get("/v1/clock")).content)
    assert (clock.now, clock.speed, clock.data_through) == (NOW, 1.0, date(2024, 3, 20))


@pytest.mark.parametrize(("ahead_s", "status"), [(60, 200), (61, 422)])
async def test_the_real_clock_tolerates_a_minute(paper, ahead_s, status):
    as_of = (NOW + timedelta(seconds=ahead_s)).isoformat()
    assert (await paper.post("/v1/quotes", json={"symbols": ["TCS"], "as_of": as_of})).status_code == status


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"symbols": []}, "/symbols"),
        ({"symbols": ["lower"]}, "/symbols/0"),
        ({"symbols": ["A"] * 501}, "/symbols"),
        ({"interval": "2h"}, "/interval"),
        ({"from": "yesterday"}, "/from"),
        ({"through": "2018-01-01"}, ""),
        ({"as_of": "2024-03-20T10:00:00"}, "/as_of"),
        ({"as_of": float("nan")}, "/as_of"),
        ({"adjusted": float("inf")}, "/adjusted"),
        ({"extra": float("nan")}, "/extra"),
    ],
)
async def test_a_bad_field_is_a_422_with_its_pointer(paper, change, pointer):
    body = DAY_BARS | {"as_of": NOW.isoformat()} | change
    text = json.dumps(body)
    response = await paper.post("/v1/bars", content=text, headers={"content-type": "application/json"})
    found = problem(response, 422, "validation_failed")
    assert [error["pointer"] for error in found.errors] == [pointer]
    assert all(set(error) == {"pointer", "message", "type"} for error in found.errors)


async def test_other_problems(paper):
    problem(await paper.get("/v1/nothing"), 404, "not_found")
    problem(await paper.get("/v1/bars"), 405, "method_not_allowed")
    broken = await paper.post("/v1/bars", content="{", headers={"content-type": "application/json"})
    problem(broken, 422, "validation_failed")
    ancient = await paper.post("/v1/quotes", json={"symbols": ["TCS"], "as_of": "0001-01-01T00:00:00+14:00"})
    problem(ancient, 422, "as_of_too_early")
    body = {"symbols": [f"S{number}" for number in range(500)], "interval": "5m", "as_of": NOW.isoformat()}
    big = await paper.post("/v1/bars", json=body | {"from": "2024-01-01", "through": "2024-12-31"})
    assert big.status_code == 200
    named = await paper.get("/v1/nothing", headers={"x-request-id": "abc-1"})
    assert problem(named, 404, "not_found").request_id == "abc-1"


async def test_a_request_for_too_many_bars_is_refused_before_the_work(simulated_client):
    body = {"symbols": [f"S{number}" for number in range(500)], "interval": "1m", "as_of": "2019-01-15T09:14:00+05:30"}
    response = await simulated_client.post("/v1/bars", json=body | {"from": "2019-01-01", "through": "2019-12-31"})
    assert "ask in parts" in problem(response, 422, "too_many_bars").detail


async def test_a_damaged_store_is_a_503_and_heals(tmp_path):
    config = settings(tmp_path, environment="live")
    async with client_of(create_app(config, lambda: NOW, sessions=short_calendar())) as client:
        assert "sauda data import" in (await client.get("/health")).json()["detail"]
        store = filled_store(config.recorded_dir, {Interval.DAY_1: [daily("TCS", date(2024, 3, 18), 100)]})
        path = store.facts.folder / "bars-1d-2024.parquet"
        content = path.read_bytes()
        path.write_bytes(content[:100])
        found = problem(await client.post("/v1/quotes", json={"symbols": ["TCS"]}), 503, "store_unreadable")
        assert "delete it and import its bars again" in found.detail
        path.write_bytes(content)
        assert (await client.post("/v1/quotes", json={"symbols": ["TCS"]})).status_code == 200


async def test_every_operation_is_named_and_shown_by_example(paper):
    schema = orjson.loads((await paper.get("/openapi.json")).content)
    operations = [operation for path in schema["paths"].values() for operation in path.values()]
    assert {operation["operationId"] for operation in operations} == {
        "list_instruments", "list_actions", "get_bars", "get_quotes", "get_quote_history", "get_clock",
        "get_health", "get_universe", "list_quality_findings", "get_metrics",
    }  # fmt: skip
    bodies = {
        path: operations["post"]["requestBody"]["content"]["application/json"]
        for path, operations in schema["paths"].items()
        if "post" in operations
    }
    for path, body in bodies.items():
        assert (await paper.post(path, json=body["example"])).status_code == 200
    assert set(bodies) == {"/v1/bars", "/v1/quotes", "/v1/quotes/history"}
