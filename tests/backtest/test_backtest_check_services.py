"""`sauda backtest --check` with a real data_service: as of then under the names of then, and what it prints."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest
from fastapi import FastAPI
from rich.console import Console
from test_backtest_inputs import CALENDAR, FIRST, LAST, NOW, RENAMED, actions, bars, prediction
from typer.testing import CliRunner

from backend.backtest.check import INPUTS, CheckReport, Delay, Finding, Make, check
from backend.backtest.request import Asked
from backend.backtest.spec import Spec, Trader
from backend.domain.calendar import IST
from backend.domain.modes import Mode
from backend.services.market_data_client import MarketDataClient
from backend.services.ml_service_client import MlServiceClient
from contracts.common import Environment
from contracts.market import Interval
from contracts.predictions import PredictionHistoryReply, PredictionHistoryRequest, SessionPredictions
from data_service.config import Settings
from data_service.main import create_app
from data_service.store.schemas import BAR_SCHEMA
from data_service.store.stores import embedded
from sauda import __main__ as command_line
from sauda import backtest_check
from sauda.backtest_check import Checked, answer, make_of, print_checked
from tests.support.market_server import serving

AS_OF = datetime(2024, 5, 1, tzinfo=IST)
DAYS = CALENDAR.sessions_between(FIRST, LAST)
EARLY, LATE = DAYS[12], DAYS[30]


@dataclass
class Teller:
    """ml_service with a registered model that says the same of a day whenever it is asked, or, if it peeks, one digit
    otherwise once a day is known."""

    peeks_at: date | None = None
    asked: list[PredictionHistoryRequest] = field(default_factory=list)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/predictions/history")
        def history(request: PredictionHistoryRequest) -> PredictionHistoryReply:
            self.asked.append(request)
            days = [day for day in DAYS if request.from_ <= day <= request.through]
            return PredictionHistoryReply(
                environment=Environment.PAPER,
                as_of=request.as_of,
                model=request.model,
                sessions=[self.said(day, request) for day in days],
            )

        return app

    def said(self, day: date, request: PredictionHistoryRequest) -> SessionPredictions:
        knows = self.peeks_at is not None and request.as_of.date() > self.peeks_at >= day
        levels = dict(zip(("reference_close", "target", "stop"), map(Decimal, ("500", "515", "470")), strict=True))
        told = {
            symbol: prediction(symbol).model_copy(
                update={"expected_return_net": 0.03 if knows else 0.02} | (levels if symbol[:1] == "S" else {})
            )
            for symbol in request.symbols
        }
        return SessionPredictions(
            day=day,
            features_through=day - timedelta(days=1),
            model_version="m1",
            logic_version="v2",
            trained_through=date(2024, 1, 1),
            predictions=told,
        )


@pytest.fixture(scope="module")
def data_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = Settings(environment=Environment.PAPER, data_dir=tmp_path_factory.mktemp("recorded"), _env_file=None)
    stores = embedded(settings.recorded_dir)
    stores.bars.upsert(Interval.DAY_1, bars())
    # A split puts later bars on another scale, which is told of too; here only names change.
    stores.facts.upsert_actions(actions().filter(pl.col("kind") != "split"))
    with serving(create_app(settings, lambda: NOW)) as url:
        yield url


@dataclass
class Services:
    market_data: MarketDataClient
    ml_service: MlServiceClient
    teller: Teller

    async def make(self, universe: str) -> Make:
        asked = Asked(SPEC, universe, "m1", 10, {})
        return await make_of(asked, AS_OF, self.market_data, self.ml_service, CALENDAR, lambda *_: None)


SPEC = Spec(FIRST, LAST, (Trader("one", Mode.MODERATE),))


@pytest.fixture
async def services(data_url: str) -> AsyncIterator[Services]:
    teller = Teller()
    with ExitStack() as stack:
        ml_url = stack.enter_context(serving(teller.app()))
        async with httpx.AsyncClient() as http:
            yield Services(MarketDataClient(http, data_url, 5), MlServiceClient(http, ml_url, 5), teller)


@pytest.mark.parametrize("universe", ["top:2", "NEW,BIG", "new"])
async def test_what_was_known_then_is_what_is_told_now(services: Services, universe: str) -> None:
    """Over a renaming and a delisting: OLD was called so as of the first cut."""
    make = await services.make(universe)
    report = await check(make, SPEC, [EARLY, LATE])
    assert [finding.changed for finding in report.findings] == [None] * 9
    instants = [request.as_of for request in services.teller.asked]
    assert {instant.astimezone(IST) for instant in instants} == {
        AS_OF,
        *(datetime.combine(day, datetime.min.time(), IST) + timedelta(hours=9) for day in (DAYS[13], DAYS[31])),
    }
    assert EARLY < RENAMED < LATE
    names = {symbol for r in services.teller.asked if r.as_of.date() < RENAMED for symbol in r.symbols}
    assert "OLD" in names
    assert "NEW" not in names


async def test_a_service_that_answers_otherwise_later_is_caught(services: Services) -> None:
    services.teller.peeks_at = DAYS[20]
    report = await check(await services.make("BIG"), SPEC, [EARLY, LATE])
    said = {finding.cut: finding.changed for finding in report.findings if finding.check == INPUTS}
    assert said == {
        EARLY: f"{FIRST} prediction of BIG (ensemble): expected_return_net 0.02 became 0.03",
        LATE: None,
    }


async def test_a_market_as_of_a_day_has_its_bars_and_the_next_days_predictions(services: Services) -> None:
    history = await (await services.make("top:2"))(EARLY)
    assert max(session.day for session in history.sessions) == max(history.predictions) == DAYS[13]
    last = max(int(share.start[-1]) for share in history.shares.values())
    assert datetime.fromtimestamp(last, IST).date() == EARLY


def console() -> Console:
    return Console(width=200, record=True, force_terminal=False)


def found(changed: str | None) -> Checked:
    features = (Finding("features, later bars changed", EARLY, None),)
    told = (Finding(INPUTS, EARLY, changed, "a note" if changed else ""),)
    return Checked(features, CheckReport(told, (Delay("moderate", 9, 0.05, 7, -0.01),), 40, 9))


def test_the_table_names_what_changed_and_what_a_delay_costs() -> None:
    honest, leaking = console(), console()
    print_checked(found(None), honest)
    print_checked(found("2024-03-05 bar of [TCS]: close 1 became 2 paise"), leaking)
    told = leaking.export_text()
    assert honest.export_text().count("nothing changed") == 3
    assert "2024-03-05 bar of [TCS]: close 1 became 2 paise" in told
    assert "Note: a note" in told
    assert "moderate: 9 trades, +5.00% net; acted on one session later: 7 trades, -1.00%. The profit is gone" in told
    assert "Compared up to the last cut: 40 predictions to act on, 9 orders." in told
    assert "1 of 2 checks changed" in answer(found("x"))
    assert (found(None).passed, found("x").passed) == (True, False)


@pytest.fixture(scope="module")
def long_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two years of six shares: enough for features."""
    settings = Settings(environment=Environment.PAPER, data_dir=tmp_path_factory.mktemp("long"), _env_file=None)
    days, random = CALENDAR.sessions_between(date(2022, 6, 1), LAST), np.random.default_rng(4)
    frames = []
    for number in range(6):
        close = (50_000 * np.exp(random.normal(0, 0.01, len(days)))).astype(np.int64) // 5 * 5
        opens = np.concatenate([close[:1], close[:-1]])
        starts = [int(datetime.combine(day, datetime.min.time(), IST).timestamp()) + 33_300 for day in days]
        columns = (opens, np.maximum(opens, close) + 100, np.minimum(opens, close) - 100, close)
        volume = random.integers(10**6, 10**7, len(days))
        names, source = [f"S{number}"] * len(days), ["file"] * len(days)
        frames.append(pl.DataFrame([names, starts, *columns, volume, source], schema=BAR_SCHEMA, orient="col"))
    embedded(settings.recorded_dir).bars.upsert(Interval.DAY_1, pl.concat(frames))
    with serving(create_app(settings, lambda: NOW)) as url:
        yield url


@pytest.mark.parametrize(
    ("peeks_at", "status", "said"),
    [(None, 0, "25 checks: nothing changed."), (DAYS[20], 3, "expected_return_net 0.02 became 0.03")],
)
def test_the_command_ends_with_what_was_found(
    long_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peeks_at: date | None, status: int, said: str
) -> None:
    """All but the two services' processes: they are served from here."""
    (tmp_path / "logs").mkdir()
    monkeypatch.setenv("COLUMNS", "200")
    with serving(Teller(peeks_at).app()) as ml_url:
        urls = {"DATA_SERVICE_URL": long_url, "ML_SERVICE_URL": ml_url}
        monkeypatch.setattr("sauda.backtest.backtest_stack", lambda *_: nullcontext((urls, tmp_path)))
        market = ("--universe", "S0,S1,S2,S3,S4,S5", "--model", "m1", "--environment", "simulated")
        days = ("--from", str(FIRST), "--to", str(LAST), "--data-dir", str(tmp_path))
        reply = CliRunner().invoke(command_line.app, ["backtest", *days, *market, "--check"])
    assert reply.exit_code == status, reply.output
    assert said in reply.output
    assert ": 0 trades" not in reply.output


def test_a_sweep_is_not_checked() -> None:
    asked = Asked(SPEC, "BIG", "m1", 10, {"mode": ("moderate",)})
    with pytest.raises(ValueError, match="leave out --sweep"):
        backtest_check.checked(asked, None, lambda *_: None, console())  # pyright: ignore[reportArgumentType]
