"""Compose the prediction service: settings and a clock in, an ASGI application out."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from http import HTTPStatus
from importlib.metadata import version

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from contracts.common import Problem
from ml_service.background import WORK_TIMEOUT_S, Background
from ml_service.client import DataServiceClient, DataServiceError
from ml_service.config import Settings
from ml_service.history_routes import router as history_router
from ml_service.history_service import HistoryError, HistoryService
from ml_service.intraday.bars import MinuteClient
from ml_service.intraday.service import OpeningRange
from ml_service.metrics import Metrics
from ml_service.predict import Ages
from ml_service.registry import ArtefactError, Registry
from ml_service.routes import NotFoundError, router
from ml_service.scoreboard import Scoreboard
from ml_service.scoreboard_routes import Reporter
from ml_service.scoreboard_routes import router as scoreboard_router
from ml_service.service import PredictionService

log = structlog.get_logger(__name__)

ERRORS_MAX = 20


def problem(
    request: Request, status: int, code: str, detail: str, errors: list[dict[str, str]] | None = None
) -> Response:
    """An RFC 9457 answer that carries the caller's X-Request-ID, or a new one."""
    request_id = request.headers.get("x-request-id", "")[:100] or str(uuid.uuid4())
    body = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        request_id=request_id,
        errors=list(errors or []),
    )
    return Response(
        body.model_dump_json(), status, media_type="application/problem+json", headers={"x-request-id": request_id}
    )


async def on_invalid(request: Request, error: Exception) -> Response:
    """422: one entry per bad field, without echoing the input (it may hold what JSON cannot)."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 registered for this type only
    errors = [
        {"pointer": "/" + "/".join(str(part) for part in e["loc"][1:]), "detail": e["msg"]} for e in error.errors()
    ]
    return problem(request, 422, "validation_failed", "The request is not valid.", errors[:ERRORS_MAX])


async def on_http(request: Request, error: Exception) -> Response:
    """Routing errors, 404 and 405."""
    assert isinstance(error, HTTPException)  # noqa: S101 registered for this type only
    return problem(request, error.status_code, HTTPStatus(error.status_code).name.lower(), str(error.detail))


async def on_data_service(request: Request, error: Exception) -> Response:
    """503: without bars there is nothing to predict from."""
    log.warning("data_service_unavailable", why=str(error))
    return problem(request, 503, "data_service_unavailable", f"data_service did not answer: {error}")


async def on_not_found(request: Request, error: Exception) -> Response:
    """404 for an unknown model."""
    return problem(request, 404, "not_found", str(error))


async def on_artefact(request: Request, error: Exception) -> Response:
    """409: the model exists and is refused."""
    return problem(request, 409, "artefact_mismatch", str(error))


async def on_history(request: Request, error: Exception) -> Response:
    """409: the past cannot be told as asked, or not yet."""
    assert isinstance(error, HistoryError)  # noqa: S101 registered for this type only
    return problem(request, 409, error.code, str(error))


async def on_unexpected(request: Request, error: Exception) -> Response:
    """500, without the cause: that is in the log."""
    log.error("unexpected_error", path=request.url.path, exc_info=error)
    return problem(request, 500, "internal_error", "Something went wrong; the log has the cause.")


def create_app(settings: Settings, clock: Callable[[], datetime]) -> FastAPI:
    """The application. `clock` gives the real present (aware) and only ages what is cached; decisions use `as_of`."""
    client = DataServiceClient(settings.data_service_url, settings.data_timeout_s)
    working = DataServiceClient(settings.data_service_url, WORK_TIMEOUT_S)
    metrics = Metrics()
    minutes = MinuteClient(settings.data_service_url, settings.data_timeout_s)
    opening_range = OpeningRange(minutes, settings.environment, metrics)
    service = PredictionService(
        environment=settings.environment,
        registry=Registry(settings.data_dir, settings.model_trusted_keys),
        client=client,
        board=Scoreboard(settings.data_dir, settings.environment, metrics.damaged),
        metrics=metrics,
        ages=Ages(settings.model_age_days_max, settings.calibration_age_days_max),
        timeout_s=settings.data_timeout_s,
        cache_age_s_max=settings.cache_age_s_max,
        clock=clock,
        opening_range=opening_range,
    )
    background = Background(service, working, settings.scoreboard_interval_s)
    looking_back = DataServiceClient(settings.data_service_url, WORK_TIMEOUT_S)
    history = HistoryService(service, looking_back)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(background.run())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await history.close()
        await opening_range.close()
        await minutes.close()
        await looking_back.close()
        await working.close()
        await client.close()

    app = FastAPI(title="Sauda predictions", version=version("sauda"), lifespan=lifespan)
    app.state.service, app.state.reporter, app.state.background = service, Reporter(service), background
    app.state.history = history
    for routes in (router, history_router, scoreboard_router):
        app.include_router(routes)
    for error, handler in (
        (RequestValidationError, on_invalid),
        (HTTPException, on_http),
        (DataServiceError, on_data_service),
        (NotFoundError, on_not_found),
        (ArtefactError, on_artefact),
        (HistoryError, on_history),
        (Exception, on_unexpected),
    ):
        app.add_exception_handler(error, handler)
    return app
