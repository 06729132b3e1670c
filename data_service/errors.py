"""What can go wrong here, and how it reaches a caller: RFC 9457 problem+json with a stable code.

DataServiceError
├── ConfigError          the process refuses to start; one line that names the fix
├── StoreError           a file of the store cannot be read; names the file and the fix
├── ImportRefusedError        a file was not imported; carries the bad rows
└── RequestError         a request that cannot be answered; carries status and code
"""

import re
import uuid
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from contracts.common import Problem

log = structlog.get_logger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class DataServiceError(Exception):
    """Base of all errors raised on purpose."""


class ConfigError(DataServiceError):
    """The process cannot start with these settings and files."""


class StoreError(DataServiceError):
    """A stored file is damaged."""


class RequestError(DataServiceError):
    """A request that cannot be answered as asked."""

    def __init__(self, code: str, detail: str, status: int = 422) -> None:
        super().__init__(detail)
        self.code, self.detail, self.status = code, detail, status


def request_id(request: Request) -> str:
    """The caller's X-Request-ID where it is a sane token, else a new one."""
    given = request.headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _reply(
    request: Request, status: int, code: str, detail: str, errors: list[dict[str, Any]] | None = None
) -> Response:
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        request_id=request_id(request),
        errors=errors or [],
    )
    return Response(problem.model_dump_json(), status, media_type="application/problem+json")


def _pointer(location: tuple[int | str, ...]) -> str:
    steps = [str(step).replace("~", "~0").replace("/", "~1") for step in location if step != "body"]
    return "".join(f"/{step}" for step in steps)


async def _on_invalid(request: Request, error: Exception) -> Response:
    """Pointers and messages only: the offending input may hold NaN, which JSON cannot carry back."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type
    errors = [
        {"pointer": _pointer(item["loc"]), "message": item["msg"], "type": item["type"]} for item in error.errors()
    ]
    return _reply(request, 422, "validation_failed", "The request does not fit its schema.", errors)


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)  # noqa: S101
    return _reply(request, error.status, error.code, error.detail)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return _reply(request, error.status_code, code, str(error.detail))


async def _on_store(request: Request, error: Exception) -> Response:
    log.error("store_unreadable", detail=str(error))
    return _reply(request, 503, "store_unreadable", str(error))


async def _on_crash(request: Request, error: Exception) -> Response:
    log.error("unhandled_error", path=request.url.path, exc_info=error)
    return _reply(request, 500, "internal_error", "The service failed on this request; its log says why.")


def install_handlers(app: FastAPI) -> None:
    """Translate every error into problem+json."""
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(StoreError, _on_store)
    app.add_exception_handler(Exception, _on_crash)
