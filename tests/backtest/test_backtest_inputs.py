"""What a backtest reads: universes of then under names of now, every bar, actions and signals; and what it refuses."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest
from fastapi import FastAPI

from backend.backtest import inputs
from backend.backtest.history import MarketHistory
from backend.backtest.inputs import InputsError, Wanted, day_signals, fetch
from backend.backtest.spec import Spec, Trader
from backend.domain.calendar import IST, standard_calendar
from backend.domain.corporate_actions import ActionKind
from backend.domain.modes import Mode
from backend.domain.ranking import SignalAction
from backend.services.market_data_client import MarketDataClient
from backend.services.ml_service_client import MlServiceClient, signal_batch
from contracts.common import Environment
from contracts.market import Interval, QuotesReply
from contracts.predictions import (
    Action,
    Prediction,
    PredictionHistoryReply,
    PredictionHistoryRequest,
    PredictionsReply,
    SessionPredictions,
    TouchProbability,
    WalkForwardReply,
    WalkForwardRequest,
    WalkForwardStatus,
)
from data_service.actions import parse_symbol_changes
from data_service.config import Settings
from data_service.main import create_app
from data_service.store.schemas import ACTION_SCHEMA, BAR_SCHEMA
from data_service.store.stores import embedded
from tests.support.market_server import serving

CALENDAR = standard_calendar()
DAYS = CALENDAR.sessions_between(date(2024, 1, 15), date(2024, 4, 30))
LEFT, RENAMED, SPLIT, PAID = date(2024, 3, 22), date(2024, 4, 10), date(2024, 4, 15), date(2024, 3, 12)
NOW = datetime(2024, 5, 1, 8, tzinfo=IST)
FIRST, LAST = date(2024, 3, 1), date(2024, 4, 30)
VOLUME = {"GONE": 1_000_000, "OLD": 500_000, "BIG": 200_000, "SMALL": 1_000}
TRADERS = (Trader("one", Mode.MODERATE),)


def bars() -> pl.DataFrame:
    rows = []
    for place, day in enumerate(DAYS):
        open_s = int(datetime.combine(day, datetime.min.time(), IST).timestamp()) + 33_300
        for name, volume in VOLUME.items():
            if name == "GONE" and day > LEFT:
                continue
            symbol = "NEW" if name == "OLD" and day >= RENAMED else name
            close = (100_00 + 5 * (place % 7)) // (2 if name == "BIG" and day >= SPLIT else 1) // 5 * 5
            rows.append((symbol, open_s, close - 10, close + 20, close - 25, close, volume + place, "file"))
    return pl.DataFrame(rows, schema=BAR_SCHEMA, orient="row")


def actions() -> pl.DataFrame:
    rows = [
        {"symbol": "BIG", "ex_date": SPLIT, "known_on": SPLIT, "kind": "split", "shares_before": 1, "shares_after": 2},
        {"symbol": "BIG", "ex_date": PAID, "known_on": PAID, "kind": "dividend", "amount_paise": 250},
        {"symbol": "BIG", "ex_date": PAID, "known_on": PAID, "kind": "other"},
        {"symbol": "ELSE", "ex_date": PAID, "known_on": PAID, "kind": "dividend", "amount_paise": 100},
    ]
    told = pl.DataFrame([row | {"subject": row["kind"], "source": "nse"} for row in rows], schema=ACTION_SCHEMA)
    return pl.concat([told, parse_symbol_changes("Company,OLD,NEW,10-Apr-2024\n", "nse")])


def prediction(symbol: str, strategy: str = "ensemble", action: Action = Action.BUY) -> Prediction:
    return Prediction(
        symbol=symbol,
        action=action,
        strategy=strategy,
        horizon_sessions=10,
        confidence=0.8,
        expected_return_gross=0.0235,
        expected_return_net=0.02,
        expected_return_net_lower=0.01,
        touch=[TouchProbability(net_return=0.015, probability=0.75)],
        reference_close=Decimal("100.05"),
        target=Decimal("103.00"),
        stop=Decimal("94.00"),
        certified_modes=["moderate"],
        cluster=symbol,
        valid_until=NOW,
    )


def session(day: date, symbols: list[str]) -> SessionPredictions:
    said = {symbol: prediction(symbol) for symbol in symbols if symbol in ("NEW", "BIG")}
    return SessionPredictions(
        day=day,
        features_through=day - timedelta(days=1),
        model_version="walk_forward:2024-01-01",
        logic_version="ensemble_v2.0",
        trained_through=date(2024, 1, 1),
        predictions=said,
        candidates={"GONE": [prediction("GONE", "momentum")]} if "GONE" in symbols else {},
        idle={"hold": len(symbols) - len(said)},
    )


@dataclass
class Model:
    """ml_service as the test sets it: what it says of the walk-forward, one answer per question, and from which day on
    it has predictions."""

    walks: list[WalkForwardReply] = field(default_factory=list)
    first: date = FIRST
    environment: Environment = Environment.PAPER
    asked: list[PredictionHistoryRequest] = field(default_factory=list)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/walk-forward")
        def walk_forward(request: WalkForwardRequest) -> WalkForwardReply:
            assert request.through <= request.as_of.date()
            return self.walks.pop(0) if len(self.walks) > 1 else self.walks[0]

        @app.post("/v1/predictions/history")
        def history(request: PredictionHistoryRequest) -> PredictionHistoryReply:
            self.asked.append(request)
            days = [day for day in DAYS if request.from_ <= day <= request.through]
            return PredictionHistoryReply(
                environment=self.environment,
                as_of=request.as_of,
                model=request.model,
                sessions=[session(day, request.symbols) for day in days if day >= self.first],
                unanswered={day: "it was trained later" for day in days if day < self.first},
            )

        return app


READY = WalkForwardReply(
    environment=Environment.PAPER, status=WalkForwardStatus.READY, done=9, total=9, first=FIRST, last=LAST
)
RUNNING = READY.model_copy(
    update={"status": WalkForwardStatus.RUNNING, "done": 4, "what": "ensemble: fold 2 of 5", "first": None}
)


@dataclass
class World:
    market_data: MarketDataClient
    ml_service: MlServiceClient
    model: Model
    told: list[tuple[int, int, str]] = field(default_factory=list)

    async def fetch(self, universe: str = "top:2", first: date = FIRST, last: date = LAST, **given) -> MarketHistory:
        wanted = Wanted(universe, given.pop("as_of", None), **given)
        spec = Spec(first, last, TRADERS)
        return await fetch(
            spec, wanted, self.market_data, self.ml_service, CALENDAR, lambda *step: self.told.append(step)
        )


@pytest.fixture(scope="module")
def data_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("recorded")
    settings = Settings(environment=Environment.PAPER, data_dir=folder, _env_file=None)
    stores = embedded(settings.recorded_dir)
    stores.bars.upsert(Interval.DAY_1, bars())
    stores.facts.upsert_actions(actions())
    with serving(create_app(settings, lambda: NOW)) as url:
        yield url


@pytest.fixture
async def world(data_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(inputs, "POLL_S", 0.0)
    model = Model([READY])
    with ExitStack() as stack:
        ml_url = stack.enter_context(serving(model.app()))
        async with httpx.AsyncClient() as http:
            yield World(MarketDataClient(http, data_url, 5), MlServiceClient(http, ml_url, 5), model)


async def test_members_are_those_of_then_under_the_names_of_now(world: World) -> None:
    history = await world.fetch()
    first_of_april = next(day for day in DAYS if day.month == 4)
    assert dict(history.members) == {FIRST: {"GONE", "NEW"}, first_of_april: {"NEW", "BIG"}}
    assert set(history.shares) == {"GONE", "NEW", "BIG"}
    assert (
        history.shares["GONE"].end[-1]
        < datetime.combine(LEFT + timedelta(days=1), datetime.min.time(), IST).timestamp()
    )


async def test_every_bar_has_what_its_quote_said(world: World) -> None:
    """Asked one by one under the name of the day, data_service says the same."""
    history = await world.fetch()
    assert (history.environment, history.provider, history.half_spread_bp) == ("paper", "recorded", 1.25)
    days = [day for day in DAYS if FIRST <= day <= LAST]
    assert [each.day for each in history.sessions] == days
    assert history.session_days[0] <= FIRST - timedelta(days=90)
    assert history.session_days[-1] >= LAST + timedelta(days=40)
    for symbol, then in (("NEW", "OLD"), ("BIG", "BIG")):
        share = history.shares[symbol]
        assert len(share) == len(days)
        for place in (0, 12, len(share) - 1):
            instant = datetime.fromtimestamp(int(share.end[place]), IST)
            name = then if instant.date() < RENAMED else symbol
            reply: QuotesReply = (await world.market_data.quotes([name], instant)).reply
            quote = reply.quotes[name]
            told = [
                int(column[place]) for column in (share.close, share.previous_close, share.lower_band, share.upper_band)
            ]
            assert told == [
                int(p * 100) for p in (quote.last, quote.previous_close, quote.lower_band, quote.upper_band)
            ]
    on_split = np.searchsorted(
        history.shares["BIG"].start, datetime.combine(SPLIT, datetime.min.time(), IST).timestamp()
    )
    assert history.shares["BIG"].previous_close[on_split] < 5_100


async def test_actions_are_those_of_the_shares_and_of_the_days(world: World) -> None:
    history = await world.fetch()
    kinds = [(action.symbol, action.ex_date, action.kind) for action in history.actions]
    assert kinds == [("BIG", PAID, ActionKind.DIVIDEND), ("BIG", SPLIT, ActionKind.SPLIT)]
    assert history.actions[0].amount == Decimal("2.5")
    earlier = await world.fetch("BIG", last=SPLIT - timedelta(days=3))
    assert [action.kind for action in earlier.actions] == [ActionKind.DIVIDEND]


async def test_a_rename_is_none_of_the_actions_even_where_the_name_is_anothers_by_now(world: World) -> None:
    told = (await world.market_data.actions(FIRST, LAST, NOW)).actions
    assert ("OLD", "NEW") in {(action.symbol, action.new_symbol) for action in told}
    assert inputs._actions(told, {"OLD": None}, LAST) == []


async def test_signals_are_made_as_the_live_cycle_makes_them(world: World) -> None:
    history = await world.fetch()
    days = [day for day in DAYS if FIRST <= day <= LAST]
    assert list(history.predictions) == days
    told = history.predictions[days[3]]
    live = signal_batch(
        PredictionsReply(
            environment=Environment.PAPER,
            as_of=NOW,
            model_version="walk_forward:2024-01-01",
            logic_version="ensemble_v2.0",
            trained_through=None,
            features_through=None,
            certified_modes=["moderate"],
            predictions={"NEW": prediction("NEW"), "BIG": prediction("BIG")},
            candidates={"GONE": [prediction("GONE", "momentum")]},
        )
    )
    assert told.signals == live.signals
    assert told.proposals == live.proposals
    assert told.signals["NEW"].action is SignalAction.BUY
    assert told.idle == {"hold": 1}
    assert {request.model for request in world.model.asked} == {"walk_forward"}
    assert max((r.through - r.from_).days for r in world.model.asked) < inputs.PREDICTION_DAYS_PER_CALL


async def test_parts_of_a_day_are_joined(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "in_parts", lambda symbols: [[symbol] for symbol in symbols])
    history = await world.fetch()
    told = history.predictions[FIRST]
    assert (set(told.signals), set(told.proposals), told.idle) == ({"NEW", "BIG"}, {"GONE"}, {"hold": 1})


async def test_the_walk_forward_is_waited_for_and_told(world: World) -> None:
    world.model.walks = [RUNNING, RUNNING, READY]
    await world.fetch()
    assert [step for step in world.told if "fold 2 of 5" in step[2]] == [
        (4, 9, "walking forward: ensemble: fold 2 of 5")
    ] * 2
    assert world.model.walks == [READY]
    assert all(0 <= done <= total for done, total, _ in world.told)


async def test_a_registered_model_needs_no_walk(world: World) -> None:
    world.model.walks, world.model.first = [], date(2024, 4, 1)
    history = await world.fetch(model="0123456789ab")
    assert min(history.predictions) == date(2024, 4, 1)
    assert "Nothing is predicted before 2024-04-01: it was trained later." in history.notes


async def test_days_beyond_the_data_are_left_out_and_told(world: World) -> None:
    history = await world.fetch("BIG, nosuch", last=date(2024, 5, 20))
    assert history.sessions[-1].day == LAST
    assert any("ends there, not on 2024-05-20" in note for note in history.notes)
    assert any(note.startswith("NOSUCH: ") for note in history.notes)
    assert history.members == {FIRST: {"BIG", "NOSUCH"}}


async def test_days_before_the_data_are_left_out_and_told(world: World) -> None:
    history = await world.fetch("BIG", first=date(2023, 1, 2))
    assert history.sessions[0].day == DAYS[0] == date(2024, 1, 15)
    assert "There is market data from 2024-01-15 only: the backtest begins there, not on 2023-01-02." in history.notes


async def test_what_is_later_than_as_of_is_not_there(world: World) -> None:
    as_of = datetime(2024, 4, 9, 20, tzinfo=IST)
    history = await world.fetch(as_of=as_of)
    assert "OLD" in history.shares
    assert "NEW" not in history.shares
    assert history.sessions[-1].day == date(2024, 4, 9)
    assert [action.kind for action in history.actions] == [ActionKind.DIVIDEND]


async def test_bars_are_asked_for_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = await world.fetch()
    monkeypatch.setattr(inputs, "SYMBOLS_PER_CALL", 2)
    monkeypatch.setattr(inputs, "ROWS_PER_CALL", 14)
    parts = await world.fetch()
    for symbol, share in whole.shares.items():
        assert np.array_equal(share.start, parts.shares[symbol].start)
        assert np.array_equal(share.has_derivatives, parts.shares[symbol].has_derivatives)
    assert len([step for step in world.told if "bars" in step[2]]) > 10


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"universe": "top:0"}, "top:N takes 1 to 500"),
        ({"universe": "top:many"}, "top:N takes 1 to 500"),
        ({"universe": " , "}, "is no universe"),
        ({"universe": "NOSUCH"}, "There are no 1d bars of NOSUCH from 2024-03-01"),
        ({"first": date(2023, 1, 2), "last": date(2023, 1, 5)}, "from 2024-01-15 to 2024-04-30, none from 2023-01-02"),
        ({"first": date(2024, 5, 2), "last": date(2024, 5, 3)}, "none from 2024-05-02 to 2024-05-03"),
        ({"first": date(2024, 3, 30), "last": date(2024, 3, 31)}, "The market was closed"),
        ({"as_of": NOW + timedelta(days=1)}, "after the market's present"),
    ],
)
async def test_what_cannot_be_is_refused_with_the_reason(world: World, given: dict, why: str) -> None:
    with pytest.raises(InputsError, match=why):
        await world.fetch(**given)


async def test_a_walk_forward_that_fails_or_comes_later_is_refused(world: World) -> None:
    world.model.walks = [READY.model_copy(update={"status": WalkForwardStatus.FAILED, "what": "120 usable sessions"})]
    with pytest.raises(InputsError, match="The walk-forward failed: 120 usable sessions"):
        async with asyncio.timeout(20):
            await world.fetch()
    world.model.walks = [READY.model_copy(update={"first": LAST + timedelta(days=1)})]
    with pytest.raises(InputsError, match="Nothing could be learned before 2024-05-01"):
        await world.fetch()
    world.model.walks, world.model.first = [READY], LAST + timedelta(days=1)
    with pytest.raises(InputsError, match=r"There are no predictions .*: it was trained later"):
        await world.fetch()
    world.model.first, world.model.environment = FIRST, Environment.SIMULATED
    with pytest.raises(InputsError, match="ml_service answers for the simulated market"):
        await world.fetch()


def test_a_day_without_anything_is_a_day_without_signals() -> None:
    told = day_signals(session(FIRST, []))
    assert (dict(told.signals), dict(told.proposals), dict(told.idle)) == ({}, {}, {"hold": 0})
