"""The HTTP face of the past: have a walk-forward made ready, and read what was to be acted on day by day."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from contracts.common import Problem
from contracts.predictions import (
    WALK_FORWARD,
    PredictionHistoryReply,
    PredictionHistoryRequest,
    WalkForwardReply,
    WalkForwardRequest,
)
from ml_service.history_service import HistoryService
from ml_service.routes import PROBLEMS, Service, find_artefact

router = APIRouter()

WALK_EXAMPLE = {"through": "2024-01-02", "as_of": "2024-01-02T10:00:00+05:30", "horizon_sessions": 10}
HISTORY_EXAMPLE = {
    "symbols": ["RELIANCE", "TCS"],
    "from": "2023-10-01",
    "through": "2023-12-31",
    "as_of": "2024-01-02T10:00:00+05:30",
    "model": WALK_FORWARD,
}


def history_of(request: Request) -> HistoryService:
    """The process's HistoryService."""
    return request.app.state.history


History = Annotated[HistoryService, Depends(history_of)]


def _body(example: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"content": {"application/json": {"example": example}}}}


@router.post(
    "/v1/walk-forward",
    operation_id="startWalkForward",
    responses={**PROBLEMS, 409: {"model": Problem}},
    openapi_extra=_body(WALK_EXAMPLE),
)
async def start_walk_forward(request: WalkForwardRequest, history: History) -> WalkForwardReply:
    """Have ready what the strategies would have said on every day up to `through`: started the first time, then told
    how it goes on. One runs at a time, others wait in line; a run that was made before is found again."""
    return history.walk_forward(request)


@router.post(
    "/v1/predictions/history",
    operation_id="readPredictionHistory",
    response_model=PredictionHistoryReply,
    responses={**PROBLEMS, 404: {"model": Problem}, 409: {"model": Problem}},
    openapi_extra=_body(HISTORY_EXAMPLE),
)
async def read_prediction_history(request: PredictionHistoryRequest, history: History, service: Service) -> Response:
    """What was to be acted on on each trading day, by a walk-forward that is ready, or by one registered model on the
    days after it was trained."""
    artefact = None if request.model == WALK_FORWARD else await run_in_threadpool(find_artefact, service, request.model)
    reply = await history.predictions(request, artefact)
    # Returned as bytes: the reply is already of the contract's shape, and validating it twice would double its cost.
    return Response(reply.model_dump_json(), media_type="application/json")
