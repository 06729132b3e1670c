"""The rest of ml_service's contract on loopback: cards, explanations and the scoreboard, as a test sets them."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response

from contracts.common import Environment, Instant, Problem
from contracts.predictions import Contribution, ExplanationReply, Prediction, RuleVote
from contracts.scoreboard import FrozenPrediction, FrozenPredictionsReply, ModeScore, Outcome, ScoreboardReply, Share

MODES = ("conservative", "moderate", "aggressive")


def mode_card(*, certified: bool = True, verdict: str = "certified", **changes: Any) -> dict[str, Any]:
    """A mode's record as a card's manifest holds it, with figures that nobody here reads."""
    figures = {
        "name": "any",
        "candidates": 120,
        "episodes": 31,
        "sessions": 80,
        "hit_rate": {"mean": 0.8, "low": 0.72, "high": 0.88},
        "net": {"mean": 0.017, "low": 0.009, "high": 0.025},
    }
    return figures | {"certified": certified, "verdict": verdict} | changes


def manifest(strategies: tuple[str, ...] = ("test_v1", "momentum"), **changes: Any) -> dict[str, Any]:
    """A card of strategies certified for every mode."""
    events = {"net_profit": {"base_rate": 0.53, "auc": 0.64, "brier": 0.23, "brier_skill": 0.06, "ece": 0.02}}
    own = {"modes": {mode: mode_card() for mode in MODES}, "metrics": {"events": events, "rank_ic": 0.1}}
    told = {
        "horizon_sessions": 10,
        "trained_through": "2024-02-29",
        "calibrated_through": "2024-02-15",
        "logic_version": "test_v1",
        "universe": ["INFY", "TCS"],
        "environment": "simulated",
        "strategies": dict.fromkeys(strategies, own),
    }
    return told | changes


def frozen(day: date, **changes: Any) -> FrozenPrediction:
    """What was served for a session, and matured."""
    told: dict[str, Any] = {
        "served_at": datetime(day.year, day.month, day.day, 4, tzinfo=UTC) + timedelta(days=1),
        "session": day,
        "symbol": "TCS",
        "strategy": "test_v1",
        "model_version": "abc",
        "horizon_sessions": 10,
        "action": "buy",
        "probability": {"net_profit": 0.6},
        "expected_return_net": 0.02,
        "expected_return_net_lower": 0.01,
        "certified_modes": ["moderate"],
        "outcome": Outcome.MATURED,
        "matured_through": day,
        "net_return": 0.03,
        "hit": {"net_profit": True},
    }
    return FrozenPrediction(**(told | changes))


def mode_score(strategy: str, mode: str, state: str, reason: str | None = None) -> ModeScore:
    half = Share(mean=0.5, low=None, high=None)
    return ModeScore(
        strategy=strategy, mode=mode, signals=4, matured=2, episodes=1, hit_rate=half, state=state, reason=reason
    )


@dataclass
class Models:
    """What stands in the registry and on the scoreboard. `asked` are the paths that were asked for, in order."""

    cards: dict[str, dict[str, Any]] = field(default_factory=lambda: {"10": manifest()})
    refused: set[str] = field(default_factory=set)
    scores: list[ModeScore] = field(default_factory=list)
    scored_horizon: int = 10
    entries: list[FrozenPrediction] = field(default_factory=list)
    down: bool = False
    silent: bool = False
    asked: list[str] = field(default_factory=list)


def problem(status: int, code: str) -> Response:
    body = Problem(title="Refused", status=status, detail=f"refused: {code}", code=code)
    return Response(body.model_dump_json(), status, media_type="application/problem+json")


def install(app: FastAPI, models: Models) -> None:
    """Serve `models` beside the predictions; a silent one answers once its client has gone."""

    async def misbehave(request: Request) -> None:
        models.asked.append(request.url.path)
        while models.silent and (await request.receive())["type"] != "http.disconnect":
            pass
        if models.down:
            raise HTTPException(503)

    routes = APIRouter(dependencies=[Depends(misbehave)])

    @routes.get("/v1/models")
    def index() -> dict[str, Any]:
        return {
            "environment": "simulated",
            "current": {plan: f"{i:012x}" for i, plan in enumerate(models.cards)},
            "models": [],
        }

    @routes.get("/v1/models/{version}", response_model=None)
    def card(version: str) -> dict[str, Any] | Response:
        if version in models.refused:
            return problem(409, "artefact_mismatch")
        told = list(models.cards.values())[int(version, 16)]
        return {"version": version, "sha256": version, "current": True, "manifest": told}

    @routes.get("/v1/predictions/{symbol}/explanation")
    def explanation(symbol: str, as_of: Instant, horizon_sessions: int) -> ExplanationReply:
        held = Prediction(symbol=symbol, action="hold", strategy="test_v1", horizon_sessions=horizon_sessions)
        return ExplanationReply(
            environment=Environment.SIMULATED,
            as_of=as_of,
            model_version="test",
            features_through=date(2024, 3, 15),
            event="net_profit",
            intercept=0.1,
            contributions=[Contribution(feature="rsi_14", value=40.0, contribution=0.2)],
            rest=0.05,
            votes=[RuleVote(strategy="momentum", fired=True, reason="a new high")],
            prediction=held,
        )

    @routes.get("/v1/scoreboard")
    def scoreboard(horizon_sessions: int, strategy: str | None = None, since: date | None = None) -> ScoreboardReply:
        known = models.scores if horizon_sessions == models.scored_horizon else []
        scores = [score for score in known if strategy in (None, score.strategy)]
        return ScoreboardReply(
            environment=Environment.SIMULATED, as_of=None, since=since, frozen=2, matured=1, events=[], modes=scores
        )

    @routes.get("/v1/scoreboard/predictions", response_model=None)
    def page(
        symbol: str | None = None,
        strategy: str | None = None,
        from_: Annotated[date | None, Query(alias="from")] = None,
        to: date | None = None,
        limit: int = 50,
        cursor: str = "0",
    ) -> FrozenPredictionsReply | Response:
        if not cursor.isdigit():
            return problem(422, "invalid_cursor")
        found = [
            entry
            for entry in models.entries
            if symbol in (None, entry.symbol)
            and strategy in (None, entry.strategy)
            and (from_ or date.min) <= entry.session <= (to or date.max)
        ]
        first = int(cursor)
        more = str(first + limit) if len(found) > first + limit else None
        return FrozenPredictionsReply(
            environment=Environment.SIMULATED, entries=found[first : first + limit], next_cursor=more
        )

    app.include_router(routes)
