"""Public predictions, why they are what they are, who made them and how they held, without login."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from backend.api.deps import Public, State
from backend.api.documentation import documented
from backend.api.schemas.common import Symbol
from backend.api.schemas.market import SymbolsQuery
from backend.api.schemas.signals import (
    ExplanationView,
    FrozenPage,
    FrozenQuery,
    ModelsView,
    PredictionsView,
    ScoreboardQuery,
    ScoreboardView,
    StrategiesView,
    StrategyView,
)
from backend.api.tagged import tagged
from backend.services.strategy_service import records_of, strategy_records

router = APIRouter(prefix="/v1/market", tags=["market"], dependencies=[Public])

CACHE_CONTROL = "public, max-age=10"


@router.get("/predictions", response_model=PredictionsView, **documented("get_predictions", 503))
async def get_predictions(query: Annotated[SymbolsQuery, Query()], request: Request, state: State) -> Response:
    """What the model says now, with the probability of each event it speaks of, and what other strategies propose.

    The ETag is weak: it stays while nothing but `as_of` changes. Send it back as `If-None-Match` to get 304.
    """
    trading = state.trading
    now = await trading.clock()
    rules = trading.rules
    batch = await trading.ml_service.predictions(query.wanted(), now, rules.horizon_sessions, rules.environment)
    view = PredictionsView.of(state.environment, batch.reply)
    essence = view.model_dump_json(exclude={"as_of"}).encode()
    return tagged(request, view.model_dump_json().encode(), essence=essence)


@router.get(
    "/predictions/{symbol}/explanation",
    response_model=ExplanationView,
    **documented("explain_prediction", 404, 503),
)
async def explain_prediction(symbol: Annotated[Symbol, Path()], request: Request, state: State) -> Response:
    """Why the model says what it says of a symbol: what each feature adds, and which rules propose it."""
    trading = state.trading
    await trading.market_data.require(symbol)
    now = await trading.clock()
    reply = await trading.ml_service.explanation(symbol, now, trading.rules.horizon_sessions)
    body = ExplanationView.of(state.environment, reply).model_dump_json().encode()
    return tagged(request, body, cache_control=CACHE_CONTROL)


@router.get("/strategies", response_model=StrategiesView, **documented("list_strategies", 503))
async def list_strategies(request: Request, state: State) -> Response:
    """The strategies, and for each mode whether it may trade on them, how often it would have, and how that ended."""
    records = await strategy_records(state.trading.ml_service)
    view = StrategiesView(environment=state.environment, strategies=[StrategyView.of(record) for record in records])
    return tagged(request, view.model_dump_json().encode(), cache_control=CACHE_CONTROL)


@router.get("/models/current", response_model=ModelsView, **documented("get_current_models", 503))
async def get_current_models(request: Request, state: State) -> Response:
    """The models in use: what they were trained on, and how each of their strategies held out of sample."""
    ml_service = state.trading.ml_service
    cards = await ml_service.current_cards()
    view = ModelsView.of(state.environment, cards, await records_of(ml_service, cards))
    return tagged(request, view.model_dump_json().encode(), cache_control=CACHE_CONTROL)


@router.get("/scoreboard", response_model=ScoreboardView, **documented("get_scoreboard", 503))
async def get_scoreboard(query: Annotated[ScoreboardQuery, Query()], request: Request, state: State) -> Response:
    """How the served predictions held: stated against realised per event, and what each mode would have made of it."""
    trading = state.trading
    horizon_sessions = query.horizon_sessions or trading.rules.horizon_sessions
    reply = await trading.ml_service.scoreboard(horizon_sessions, query.strategy, query.since)
    view = ScoreboardView.of(state.environment, reply)
    return tagged(request, view.model_dump_json().encode(), cache_control=CACHE_CONTROL)


@router.get("/scoreboard/predictions", **documented("list_frozen_predictions", 503))
async def list_frozen_predictions(query: Annotated[FrozenQuery, Query()], state: State) -> FrozenPage:
    """Every prediction as it was first served, newest first, and what came of it."""
    asked = query.model_dump(by_alias=True)
    return FrozenPage.of(state.environment, await state.trading.ml_service.frozen_predictions(asked))
