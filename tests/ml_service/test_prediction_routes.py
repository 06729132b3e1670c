"""The service over real HTTP: right for every instant, cheap when nothing changed, and never hanging."""

import asyncio
import json
import time as wall
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import httpx
import polars as pl
import pytest
from bar_server import IST, BarServer, serving

from contracts.common import Environment, Problem
from contracts.market import BarsRequest
from contracts.predictions import PredictionsReply
from ml_service.config import Settings
from ml_service.lifecycle import TRAINING, Verdict, demote_if, promote
from ml_service.main import create_app
from ml_service.model import STRATEGY
from ml_service.monitor import State
from ml_service.pointers import Change
from ml_service.present import PROBE_DAYS
from ml_service.registry import Artefact, Registry
from ml_service.service import released

Client = httpx.AsyncClient


@pytest.fixture
def bar_server(planted: pl.DataFrame) -> Iterator[BarServer]:
    with serving(BarServer(planted)) as server:
        yield server


@pytest.fixture
def started(tmp_path: Path, bar_server: BarServer) -> Callable[..., Client]:
    def start(clock: Callable[[], datetime] = lambda: datetime(2026, 1, 1, tzinfo=UTC), **settings: object) -> Client:
        values = {"data_dir": tmp_path, "data_service_url": bar_server.url, "data_timeout_s": 5.0} | settings
        app = create_app(Settings(_env_file=None, **values), clock)
        return Client(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://ml")

    return start


@pytest.fixture
async def client(started: Callable[..., Client], artefact: Artefact) -> AsyncIterator[Client]:
    async with started() as http:
        yield http


@pytest.fixture
def days(planted: pl.DataFrame) -> list[date]:
    return planted["session"].unique().sort().to_list()


def at(day: date, hour: int, minute: int, second: int = 0) -> datetime:
    return datetime.combine(day, time(hour, minute, second), IST)


async def ask(http: Client, as_of: datetime, symbols: list[str] | None = None, **more: object) -> PredictionsReply:
    body = {"symbols": symbols or ["SIM00", "SIM01"], "as_of": as_of.isoformat(), **more}
    response = await http.post("/v1/predictions", json=body)
    assert response.status_code == 200, response.text
    return PredictionsReply.model_validate_json(response.content)


def histories(server: BarServer) -> list[BarsRequest]:
    """The questions that were for more than which session was the last."""
    return [call for call in server.calls if (call.through - call.from_).days > PROBE_DAYS]


def reasons(reply: PredictionsReply) -> set[tuple[str, ...]]:
    return {tuple(prediction.reasons) for prediction in reply.predictions.values()}


async def test_a_prediction_names_its_model_and_what_it_knew(
    client: Client, artefact: Artefact, days: list[date]
) -> None:
    symbols = [f"SIM{i:02d}" for i in range(40)]
    reply = await ask(client, at(days[-3], 11, 0), symbols)
    assert list(reply.predictions) == symbols
    assert (reply.model_version, reply.trained_through) == (artefact.version, days[-31])
    assert reply.features_through == days[-4]
    assert any(p.action == "buy" and p.confidence for p in reply.predictions.values())


async def test_a_session_is_known_from_its_close_on(client: Client, days: list[date]) -> None:
    during = await ask(client, at(days[-3], 15, 29, 59))
    after = await ask(client, at(days[-3], 15, 30))
    again = await ask(client, at(days[-3], 15, 29, 59))
    assert (during.features_through, after.features_through) == (days[-4], days[-3])
    assert again.predictions == during.predictions
    assert after.predictions != during.predictions


async def test_a_request_costs_one_small_question_a_minute(
    client: Client, bar_server: BarServer, days: list[date]
) -> None:
    for second in range(0, 60, 5):
        await ask(client, at(days[-3], 11, 0, second))
    universe, probes = (
        histories(bar_server),
        [c for c in bar_server.calls if c not in histories(bar_server)],
    )
    # The second small question was which session the market's present knows: it is asked once.
    assert (len(universe), len(probes), bar_server.clock_calls) == (1, 2, 1)
    for minute in range(1, 31):
        await ask(client, at(days[-3], 11, minute))
    await ask(client, at(days[-3], 11, 7, 30))
    universe = histories(bar_server)
    assert (len(universe), len(bar_server.calls), bar_server.clock_calls) == (1, 33, 1)


async def test_cached_answers_take_milliseconds(client: Client, days: list[date]) -> None:
    symbols = [f"SIM{i:02d}" for i in range(40)] + [f"OTHER{i}" for i in range(10)]
    await ask(client, at(days[-3], 10, 0), symbols)
    body = {"symbols": symbols, "as_of": at(days[-3], 10, 0, 7).isoformat()}
    spent = []
    for _ in range(100):
        begun = wall.perf_counter()
        assert (await client.post("/v1/predictions", json=body)).status_code == 200
        spent.append(wall.perf_counter() - begun)
    assert sorted(spent)[98] < 0.25


async def test_nothing_asked_of_the_data_lies_after_as_of(
    client: Client, bar_server: BarServer, days: list[date]
) -> None:
    as_of = bar_server.now = at(days[-3], 12, 0, 30)
    await ask(client, as_of)
    assert len(bar_server.calls) == 2
    assert all(call.as_of <= as_of and call.through <= days[-3] and call.adjusted for call in bar_server.calls)


async def test_the_markets_present_influences_no_answer_about_the_past(
    started: Callable[..., Client], artefact: Artefact, bar_server: BarServer, days: list[date]
) -> None:
    """The clock and a few bars of the present are looked at to know what to freeze, and for nothing else."""
    as_of = at(days[-8], 12, 0)
    replies = []
    for now in (as_of, at(days[-1], 16, 0)):
        bar_server.now = now
        async with started() as http:
            replies.append(await ask(http, as_of, [f"SIM{i:02d}" for i in range(40)]))
    assert replies[0] == replies[1]
    assert all(call.as_of <= as_of for call in bar_server.calls if len(call.symbols) == 40)


async def test_a_model_is_never_asked_about_days_it_was_trained_on(client: Client, days: list[date]) -> None:
    trained_through = days[-31]
    reply = await ask(client, at(trained_through, 23, 0))
    assert (reply.model_version, reasons(reply)) == (None, {("no_model",)})
    assert (await ask(client, at(trained_through + timedelta(days=1), 9, 0))).model_version is not None


async def test_an_earlier_model_answers_for_an_earlier_day(
    client: Client, registry: Registry, artefact: Artefact, days: list[date]
) -> None:
    for provider, through in (("older", days[-60]), ("oldest", days[-90])):
        dates = {
            "trained_through": through.isoformat(),
            "calibrated_through": through.isoformat(),
            "provider": provider,
        }
        earlier = registry.register(artefact.models, artefact.calibrations, artefact.manifest | dates)
    assert (await ask(client, at(days[-40], 11, 0))).trained_through == days[-60]
    assert (await ask(client, at(days[-70], 11, 0))).model_version == earlier.version
    assert (await ask(client, at(days[-5], 11, 0))).model_version == artefact.version


async def test_horizons_and_symbols_that_were_not_trained_abstain(client: Client, days: list[date]) -> None:
    assert reasons(await ask(client, at(days[-3], 11, 0), horizon_sessions=20)) == {("horizon_not_trained",)}
    reply = await ask(client, at(days[-3], 11, 0), ["SIM00", "NOSUCH"])
    assert reply.predictions["NOSUCH"].reasons == ["unknown_symbol"]
    assert reply.predictions["SIM00"].confidence is not None


async def test_without_a_model_everything_abstains(started: Callable[..., Client], days: list[date]) -> None:
    async with started() as http:
        assert reasons(await ask(http, at(days[-3], 11, 0))) == {("no_model",)}
        assert "sauda ml train" in (await http.get("/health")).json()["detail"]


async def test_another_environments_model_is_not_used(
    started: Callable[..., Client], registry: Registry, artefact: Artefact, days: list[date]
) -> None:
    async with started(environment="live") as http:
        assert reasons(await ask(http, at(days[-3], 11, 0))) == {("no_model",)}
        (registry.root / "current.live.json").write_bytes((registry.root / "current.simulated.json").read_bytes())
        assert reasons(await ask(http, at(days[-3], 11, 0))) == {("artefact_mismatch",)}


async def test_a_tampered_model_abstains_and_says_so(
    started: Callable[..., Client], registry: Registry, artefact: Artefact, days: list[date]
) -> None:
    path = registry.root / artefact.sha256 / "calibration.json"
    path.write_bytes(path.read_bytes().replace(b"slope", b"slopf", 1))
    async with started() as http:
        reply = await ask(http, at(days[-3], 11, 0))
        assert (reply.model_version, reasons(reply)) == (None, {("artefact_mismatch",)})
        assert "calibration.json" in (await http.get("/health")).json()["detail"]
        listed = (await http.get("/v1/models")).json()["models"]
        assert [(m["usable"], m["current"]) for m in listed] == [(False, True)]
        assert "calibration.json" in listed[0]["problem"]
        refused = await http.get(f"/v1/models/{artefact.version}")
        assert (refused.status_code, refused.json()["code"]) == (409, "artefact_mismatch")


async def test_old_models_abstain(client: Client, days: list[date]) -> None:
    assert reasons(await ask(client, at(days[-31] + timedelta(days=121), 11, 0))) == {("model_too_old",)}


async def test_bars_that_stopped_coming_are_stale(client: Client, days: list[date]) -> None:
    assert reasons(await ask(client, at(days[-1] + timedelta(days=11), 11, 0))) == {("stale_bars",)}
    assert reasons(await ask(client, at(days[-1] + timedelta(days=40), 11, 0))) == {("stale_bars",)}


async def problem_of(http: Client, body: object, path: str = "/v1/predictions") -> Problem:
    response = await http.post(path, json=body, headers={"x-request-id": "r1"})
    assert response.headers["content-type"] == "application/problem+json"
    found = Problem.model_validate_json(response.content)
    assert (found.status, found.request_id) == (response.status_code, "r1")
    return found


async def test_a_silent_data_service_is_a_problem_within_the_deadline(
    started: Callable[..., Client], artefact: Artefact, bar_server: BarServer, days: list[date]
) -> None:
    bar_server.hang_s = 30.0
    body = {"symbols": ["SIM00"], "as_of": at(days[-3], 11, 0).isoformat()}
    async with started(data_timeout_s=0.3) as http:
        begun = wall.perf_counter()
        found = await problem_of(http, body)
        assert (found.status, found.code) == (503, "data_service_unavailable")
        assert wall.perf_counter() - begun < 2


async def test_waiting_for_another_request_counts_too(
    started: Callable[..., Client], artefact: Artefact, bar_server: BarServer, days: list[date]
) -> None:
    bar_server.hang_s, bar_server.hang_from_symbols = 30.0, 6
    body = {"symbols": ["SIM00"], "as_of": at(days[-3], 11, 0).isoformat()}
    async with started(data_timeout_s=0.5) as http:
        begun = wall.perf_counter()
        found = await asyncio.gather(*(problem_of(http, body) for _ in range(6)))
        assert {problem.code for problem in found} == {"data_service_unavailable"}
        assert wall.perf_counter() - begun < 2.5  # one after the other they would take three


async def test_what_was_computed_is_refreshed_after_a_while(
    started: Callable[..., Client], artefact: Artefact, bar_server: BarServer, days: list[date]
) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    async with started(clock=lambda: now[0]) as http:
        for passed_s, fetched in ((0, 1), (599, 1), (2, 2)):
            now[0] += timedelta(seconds=passed_s)
            await ask(http, at(days[-3], 11, 0))
            assert len(histories(bar_server)) == fetched


async def test_an_absent_data_service_is_a_problem(
    started: Callable[..., Client], artefact: Artefact, days: list[date]
) -> None:
    body = {"symbols": ["SIM00"], "as_of": at(days[-3], 11, 0).isoformat()}
    async with started(data_service_url="http://127.0.0.1:1") as http:
        assert (await problem_of(http, body)).code == "data_service_unavailable"


async def test_bars_of_another_market_are_refused(client: Client, bar_server: BarServer, days: list[date]) -> None:
    bar_server.environment = Environment.PAPER
    body = {"symbols": ["SIM00"], "as_of": at(days[-3], 11, 0).isoformat()}
    assert (await problem_of(client, body)).status == 503


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"symbols": []}, "/symbols"),
        ({"symbols": ["lower"]}, "/symbols/0"),
        ({"symbols": ["A"] * 501}, "/symbols"),
        ({"as_of": "2024-01-01T10:00:00"}, "/as_of"),
        ({"horizon_sessions": 0}, "/horizon_sessions"),
        ({"horizon_sessions": "10"}, "/horizon_sessions"),
        ({"horizon_sessions": float("1e400")}, "/horizon_sessions"),
        ({"extra": 1}, "/extra"),
    ],
)
async def test_bad_requests_name_the_field(client: Client, change: dict[str, object], pointer: str) -> None:
    body = {"symbols": ["SIM00"], "as_of": "2024-01-01T10:00:00+05:30"} | change
    # Not `json=body`: httpx refuses to send an infinite number, and a hostile client does not.
    headers = {"content-type": "application/json"}
    response = await client.post("/v1/predictions", content=json.dumps(body), headers=headers)
    found = Problem.model_validate_json(response.content)
    assert (response.status_code, found.code) == (422, "validation_failed")
    assert found.errors[0]["pointer"] == pointer


async def test_cards_show_the_record(client: Client, artefact: Artefact) -> None:
    listed = (await client.get("/v1/models")).json()
    assert listed["current"] == {"10": artefact.version}
    assert listed["models"][0]["certified_modes"] == artefact.certified_modes
    card = (await client.get(f"/v1/models/{artefact.version}")).json()
    assert card["current"] is True
    assert card["manifest"]["strategies"][STRATEGY]["modes"]["aggressive"]["episodes"] >= 20
    missing = await client.get("/v1/models/" + "0" * 12)
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    unrouted = await client.get("/v1/nothing")
    assert (unrouted.status_code, unrouted.json()["code"]) == (404, "not_found")
    assert (await client.get("/health")).json()["status"] == "ok"


async def test_a_demoted_model_answers_for_no_day(
    client: Client, registry: Registry, artefact: Artefact, days: list[date]
) -> None:
    through = days[-60].isoformat()
    dates = {"trained_through": through, "calibrated_through": through, "provider": "older"}
    earlier = registry.register(artefact.models, artefact.calibrations, artefact.manifest | dates)
    now = datetime(2024, 6, 3, 4, 30, tzinfo=UTC)
    assert (await ask(client, at(days[-40], 11, 0))).model_version == earlier.version
    promote(registry, earlier, at=now, by=TRAINING, reason="for a test")
    verdict = Verdict(earlier.version, STRATEGY, "for a test")
    assert isinstance(demote_if(registry, artefact.environment, "10", verdict, at=now, ages=None), Change)
    assert (await ask(client, at(days[-5], 11, 0))).model_version == artefact.version
    assert reasons(await ask(client, at(days[-40], 11, 0))) == {("no_model",)}


async def test_another_day_is_computed_anew_over_the_same_session(
    client: Client, bar_server: BarServer, days: list[date]
) -> None:
    for hour, fetched in ((16, 1), (23, 1)):
        await ask(client, at(days[-3], hour, 0))
        assert len(histories(bar_server)) == fetched
    reply = await ask(client, at(days[-3] + timedelta(days=1), 9, 0))
    assert reply.features_through == days[-3]
    assert len(histories(bar_server)) == 2


async def test_the_first_shares_of_the_universe_do_not_stand_for_all(
    client: Client, bar_server: BarServer, artefact: Artefact, days: list[date]
) -> None:
    stopped = artefact.manifest["universe"][:5]
    bar_server.bars = bar_server.bars.filter(~pl.col("symbol").is_in(stopped) | (pl.col("session") < days[-9]))
    assert (await ask(client, at(days[-3], 11, 0))).features_through == days[-4]


async def test_a_model_that_is_held_altogether_sells_and_buys_nothing(
    client: Client, artefact: Artefact, days: list[date]
) -> None:
    reply = await ask(client, at(days[-3], 11, 0), artefact.manifest["universe"])
    acting = next(p for p in reply.predictions.values() if p.action == "buy")
    first, *others = acting.certified_modes
    held = released(acting, State({(STRATEGY, mode): "drifted" for mode in acting.certified_modes}))
    assert (held.action, held.reasons, held.certified_modes) == ("hold", ["insufficient_evidence"], [])
    assert held.expected_return_net == acting.expected_return_net
    if others:
        assert released(acting, State({(STRATEGY, first): "drifted"})).action == "buy"
