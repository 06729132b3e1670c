"""The HTTP face of the predictions: shapes in, shapes out, problems as problem+json."""

from datetime import date
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from contracts.common import Environment, Health, Instant, Problem, Symbol, Wire
from contracts.predictions import (
    HORIZON_SESSIONS_DEFAULT,
    ExplanationReply,
    PredictionsReply,
    PredictionsRequest,
)
from ml_service.registry import Artefact, ArtefactError
from ml_service.service import PredictionService

router = APIRouter()

REQUEST_EXAMPLE = {"symbols": ["RELIANCE", "TCS"], "as_of": "2024-01-02T10:00:00+05:30", "horizon_sessions": 10}
PROBLEMS: dict[int | str, dict[str, Any]] = {422: {"model": Problem}, 503: {"model": Problem}}


class NotFoundError(Exception):
    """No such thing; the message says what was looked for."""


class ModelSummary(Wire):
    """A registered model. `usable` is false, with `problem`, where verification refused it."""

    version: str
    sha256: str
    usable: bool
    problem: str | None = None
    current: bool = False
    environment: Environment | None = None
    horizon_sessions: int | None = None
    trained_through: date | None = None
    certified_modes: list[str] = []


class ModelsReply(Wire):
    environment: Environment
    current: dict[str, str]
    models: list[ModelSummary]


class ModelCard(Wire):
    """Everything known of a model: its manifest with the out-of-sample record it was certified, or not, by."""

    version: str
    sha256: str
    current: bool
    manifest: dict[str, Any]


def service_of(request: Request) -> PredictionService:
    """The process's PredictionService."""
    return request.app.state.service


Service = Annotated[PredictionService, Depends(service_of)]


@router.post(
    "/v1/predictions",
    operation_id="createPredictions",
    response_model=PredictionsReply,
    responses=PROBLEMS,
    openapi_extra={"requestBody": {"content": {"application/json": {"example": REQUEST_EXAMPLE}}}},
)
async def create_predictions(request: PredictionsRequest, service: Service) -> Response:
    """Calibrated predictions of the symbols as of an instant; nothing later than `as_of` influences them."""
    reply = await service.predict(request)
    # Returned as bytes: the reply is already of the contract's shape, and validating it twice would double its cost.
    return Response(reply.model_dump_json(), media_type="application/json")


AsOf = Annotated[Instant | None, Query(description="The market's present where it is left out.")]
Horizon = Annotated[int, Query(ge=1, le=60)]


@router.get("/v1/predictions/{symbol}", operation_id="getPrediction", responses=PROBLEMS)
async def get_prediction(
    symbol: Symbol, service: Service, as_of: AsOf = None, horizon_sessions: Horizon = HORIZON_SESSIONS_DEFAULT
) -> PredictionsReply:
    """As createPredictions, of one symbol."""
    instant = as_of or await service.now()
    return await service.predict(PredictionsRequest(symbols=[symbol], as_of=instant, horizon_sessions=horizon_sessions))


@router.get("/v1/predictions/{symbol}/explanation", operation_id="explainPrediction", responses=PROBLEMS)
async def explain_prediction(
    symbol: Symbol, service: Service, as_of: AsOf = None, horizon_sessions: Horizon = HORIZON_SESSIONS_DEFAULT
) -> ExplanationReply:
    """Which features make the prediction what it is, and what the rules say."""
    return await service.explain(symbol, as_of or await service.now(), horizon_sessions)


def _summary(service: PredictionService, sha256: str, current: set[str]) -> ModelSummary:
    short = sha256[:12]
    try:
        artefact = service.registry.load(sha256)
    except ArtefactError as error:
        return ModelSummary(version=short, sha256=sha256, usable=False, problem=str(error), current=sha256 in current)
    return ModelSummary(
        version=short,
        sha256=sha256,
        usable=True,
        current=sha256 in current,
        environment=artefact.manifest["environment"],
        horizon_sessions=artefact.horizon_sessions,
        trained_through=artefact.trained_through,
        certified_modes=artefact.certified_modes,
    )


def _current(service: PredictionService) -> dict[str, str]:
    try:
        return service.registry.current(service.environment)
    except ArtefactError:
        return {}


@router.get("/v1/models", operation_id="listModels")
def list_models(service: Service) -> ModelsReply:
    """All registered models and, per plan, the current one of this environment."""
    current = _current(service)
    models = [_summary(service, sha256, set(current.values())) for sha256 in service.registry.versions()]
    return ModelsReply(
        environment=service.environment, current={plan: sha[:12] for plan, sha in current.items()}, models=models
    )


def find_artefact(service: PredictionService, prefix: str) -> Artefact:
    """The verified artefact whose version starts with `prefix`. Raises NotFoundError, ArtefactError."""
    found = [sha256 for sha256 in service.registry.versions() if sha256.startswith(prefix)]
    if len(found) != 1:
        raise NotFoundError(f"{len(found)} registered models have a version that starts with {prefix}")
    return service.registry.load(found[0])


@router.get(
    "/v1/models/{version}",
    operation_id="getModel",
    responses={404: {"model": Problem}, 409: {"model": Problem}, 422: {"model": Problem}},
)
def get_model(version: Annotated[str, Path(pattern="^[0-9a-f]{12,64}$")], service: Service) -> ModelCard:
    """One model's card: what it predicts, what it was trained on and how it did out of sample."""
    artefact = find_artefact(service, version)
    current = artefact.sha256 in _current(service).values()
    return ModelCard(version=artefact.version, sha256=artefact.sha256, current=current, manifest=artefact.manifest)


@router.get("/health", operation_id="getHealth")
def get_health(service: Service) -> Health:
    """Whether the service runs; `detail` says where it can answer with abstentions only."""
    try:
        current = service.registry.current(service.environment)
        for sha256 in current.values():
            service.registry.load(sha256)
        detail = "" if current else "no model is current: run `sauda ml train`"
    except ArtefactError as error:
        detail = str(error)
    return Health(
        status="ok", service="ml_service", version=version("sauda"), environment=service.environment, detail=detail
    )
