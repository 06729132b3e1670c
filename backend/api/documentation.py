"""How operations are documented: an example on each, every error as a problem, the environment in the description."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from backend.api.examples import ANSWERS, REQUESTS
from backend.api.problems import MEDIA_TYPE
from contracts.common import Environment, Problem

TAGS = [
    {"name": "auth", "description": "Registering, logging in and out, my logins, and who I am."},
    {"name": "my data", "description": "What I was told and agreed to; all my data, and erasing it."},
    {"name": "plans", "description": "The catalogue of plans and my subscription."},
    {"name": "billing", "description": "My payments and invoices, and whom they name."},
    {"name": "broker accounts", "description": "The accounts through which orders go."},
    {"name": "auto-trading", "description": "Switching it, what it did and why, and what came of it."},
    {"name": "backtests", "description": "What modes would have done with your money, over years of history."},
    {"name": "orders", "description": "Orders of every origin, what happened to each, and cancelling one."},
    {"name": "trading state", "description": "What holds trading back, and the kill switch."},
    {"name": "live trading", "description": "What stands between you and real orders, and your own switch."},
    {"name": "market", "description": "Public market data and predictions, without login."},
    {"name": "streams", "description": "Public market data as it changes, without login."},
    {"name": "admin", "description": "For administrators."},
    {"name": "health", "description": "Whether the gateway is up."},
]

_PROBLEMS = {
    400: "The body is no JSON, or nested too deep.",
    401: "No valid access token.",
    403: "The plan or the role does not include it; the detail says which does.",
    404: "It does not exist, or is not yours.",
    409: "It contradicts what stands already; `code` says what.",
    413: "The body is too large.",
    414: "The path or the query is too long.",
    422: "The request is malformed; `errors` points at each bad field.",
    429: "Too many at once, or too often; `code` says what, `Retry-After` when to come again.",
    431: "The headers are too many or too large.",
    502: "The payment provider refused; nothing happened.",
    503: "A service behind the gateway did not answer in time.",
}


def documented(
    operation_id: str, *problems: int, status: int = 200, media_type: str = "application/json"
) -> dict[str, Any]:
    """A route's keyword arguments: its id, status, examples and the problems it answers with (those of any request
    always)."""
    responses: dict[int, dict[str, Any]] = {status: {"content": {media_type: {"example": ANSWERS[operation_id]}}}}
    of_bodies = {400, 413} if operation_id in REQUESTS else set[int]()
    for code in sorted({*problems, *of_bodies, 414, 422, 429, 431}):
        responses[code] = {"model": Problem, "description": _PROBLEMS[code]}
    extra: dict[str, Any] = {}
    if operation_id in REQUESTS:
        extra = {"requestBody": {"content": {"application/json": {"example": REQUESTS[operation_id]}}}}
    return {"operation_id": operation_id, "status_code": status, "responses": responses, "openapi_extra": extra}


def install(app: FastAPI, environment: Environment) -> None:
    """Generate the OpenAPI document once, with problems under their own media type."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=description(environment),
                routes=app.routes,
                tags=TAGS,
            )
            for path in schema["paths"].values():
                for operation in path.values():
                    _name_problems(operation["responses"])
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi


def _name_problems(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        if int(status) >= 400:
            response["content"] = {MEDIA_TYPE: next(iter(response["content"].values()))}


def description(environment: Environment) -> str:
    """What stands at the top of the documentation."""
    return (
        "Sauda trades Indian equities automatically for many users. "
        f"This deployment's environment is **{environment.value}**.\n\n"
        "Money is rupees, as decimal strings. Instants are ISO-8601 with an offset, days are India's. "
        "Lists come newest first in pages: pass `next_cursor` as `cursor`. "
        "Errors are RFC 9457 `application/problem+json` with a stable `code` and the `request_id`."
    )
