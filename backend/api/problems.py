"""Every error as RFC 9457 problem+json, with a stable code and the request's id; never a stack trace."""

import re
import secrets
import string
from collections.abc import Mapping, Sequence
from typing import Any, cast

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.db import act_for
from backend.errors import SaudaError, TooManyRequestsError
from contracts.common import Problem

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
BODY_BYTES_MAX = 64 * 1024
FIELD_ERRORS_MAX = 50
AWAY = ("08", "57P0", "53300")
"""SQLSTATEs of a server that is not there, going down, coming up, or full (PostgreSQL's documentation, appendix A)."""
DEPTH_MAX = 32
REQUEST_ID_LENGTH_MAX = 64
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BRACKETS = re.compile(rb"[\[\]{}]")
_REQUEST_ID_CHARACTERS = frozenset(string.ascii_letters + string.digits + "-_.")

_BY_STATUS = {
    400: ("bad_request", "Bad request"),
    401: ("not_authenticated", "Not authenticated"),
    403: ("not_allowed", "Not allowed"),
    404: ("not_found", "Not found"),
    405: ("method_not_allowed", "Method not allowed"),
    413: ("body_too_large", "Body too large"),
    414: ("uri_too_long", "URI too long"),
    415: ("unsupported_media_type", "Unsupported media type"),
}


def problem_response(
    request_id: str,
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    errors: Sequence[dict[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The problem as a response."""
    problem = Problem(title=title, status=status, detail=detail, code=code, request_id=request_id, errors=list(errors))
    return Response(problem.model_dump_json(), status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Turn everything a route or the framework raises into a problem."""
    app.add_exception_handler(SaudaError, _sauda_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    for unreachable in (OperationalError, InterfaceError, PoolTimeoutError, OSError):
        app.add_exception_handler(unreachable, _unreachable)
    app.add_exception_handler(DBAPIError, _database_error)


def request_id_of(request: Request) -> str:
    return cast("str", request.scope["request_id"])


def request_id_of_scope(scope: Scope) -> str:
    """The id a request has already, else the caller's where it can be logged safely, else a new one."""
    return cast("str", scope.get("request_id") or _request_id(scope))


async def _sauda_error(request: Request, error: Exception) -> Response:
    error = cast("SaudaError", error)
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    elif error.status == 503:
        headers["Retry-After"] = "5"
    elif isinstance(error, TooManyRequestsError):
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status >= 500:
        log.warning("request_failed", code=error.code, detail=error.detail, path=request.url.path)
    return problem_response(
        request_id_of(request), error.status, error.code, error.title, error.detail, headers=headers
    )


async def _validation_error(request: Request, error: Exception) -> Response:
    found = cast("RequestValidationError", error).errors()
    errors = [_field_error(item) for item in found[:FIELD_ERRORS_MAX]]
    detail = "; ".join(f"{item['in']} {item['pointer']}: {item['detail']}" for item in errors[:3])
    return problem_response(request_id_of(request), 422, "validation_failed", "Invalid request", detail, errors=errors)


def _field_error(item: Mapping[str, Any]) -> dict[str, Any]:
    """Where and what, without the value itself: it may be a secret, or not even be JSON."""
    place, *path = [str(part) for part in item["loc"]]
    if item["type"] == "json_invalid":
        path = []
    pointer = "#" + "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)
    return {"in": place, "pointer": pointer, "code": item["type"], "detail": item["msg"]}


async def _unreachable(request: Request, error: Exception) -> Response:
    log.error("database_unreachable", error=repr(error), path=request.url.path)
    return problem_response(
        request_id_of(request),
        503,
        "database_unavailable",
        "Service unavailable",
        "The database did not answer: try again in a few seconds.",
        headers={"Retry-After": "5"},
    )


async def _database_error(request: Request, error: Exception) -> Response:
    """The driver has no class of its own for a lost connection: its SQLSTATE tells."""
    if not (getattr(cast("DBAPIError", error).orig, "sqlstate", None) or "").startswith(AWAY):
        raise error
    return await _unreachable(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    error = cast("HTTPException", error)
    code, title = _BY_STATUS.get(error.status_code, ("http_error", "Request failed"))
    detail, headers = error.detail or title, error.headers
    if error.status_code == 404:
        detail = f"There is nothing at {request.url.path[:200]}."
    elif error.status_code == 405:
        detail = f"{request.method} is not possible here."
        headers = {"Allow": ", ".join(_methods_at(request))}
    return problem_response(request_id_of(request), error.status_code, code, title, detail, headers=headers)


def _methods_at(request: Request) -> list[str]:
    """What is possible at the request's path: the router itself names the methods of the first route it finds."""
    found = (each.route for each in iter_route_contexts(request.app.routes))
    matching = [route for route in found if route.matches(request.scope)[0] is not Match.NONE]
    literal = [route for route in matching if getattr(route, "path", "") == request.url.path]
    return sorted({method for route in literal or matching for method in getattr(route, "methods", None) or ()})


class RequestContext:
    """Pure ASGI middleware: names each request, bounds its body, and turns what nobody foresaw into a problem."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        act_for(None)  # until it is known who calls
        request_id = request_id_of_scope(scope)
        scope["request_id"] = request_id
        started = False

        async def named_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, _bounded(receive), named_send)
            except Exception:
                log.exception("request_crashed", path=scope["path"])
                if started:
                    raise
                failed = problem_response(
                    request_id, 500, "internal_error", "Internal error", "Something went wrong; it has been logged."
                )
                await failed(scope, receive, named_send)


def _bounded(receive: Receive) -> Receive:
    """`receive` that ends the request with 413 once its body grows past BODY_BYTES_MAX, with 400 where it is too deep.

    Depth is judged when the whole body is there, which is before anybody parses it.
    """
    body = bytearray()

    async def bounded() -> Message:
        message = await receive()
        body.extend(message.get("body", b""))
        if len(body) > BODY_BYTES_MAX:
            raise HTTPException(413, f"A body may have {BODY_BYTES_MAX} bytes at most.")
        if message["type"] == "http.request" and not message.get("more_body") and depth_of(bytes(body)) > DEPTH_MAX:
            raise HTTPException(400, f"A body may be nested {DEPTH_MAX} levels deep.")
        return message

    return bounded


def depth_of(body: bytes) -> int:
    """How deep JSON is nested; at most DEPTH_MAX is not looked at closely."""
    if body.count(b"[") + body.count(b"{") <= DEPTH_MAX:
        return 0
    depth = deepest = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _request_id(scope: Scope) -> str:
    """The caller's id where it is one that can be logged safely, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if 0 < len(given) <= REQUEST_ID_LENGTH_MAX and _REQUEST_ID_CHARACTERS.issuperset(given):
                return given
    return secrets.token_hex(8)
