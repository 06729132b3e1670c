"""The REST API, put together from its state; nothing in it reads the environment or a clock of its own."""

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from typing import Protocol

from fastapi import APIRouter, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.api import docs_page, documentation, problems
from backend.api.deps import ACCESSES
from backend.api.fast_path import FastQuotes
from backend.api.idempotency import HEADER, REPLAYED
from backend.api.perimeter import AtThePerimeter, require_origins
from backend.api.routes import (
    admin,
    admin_billing,
    admin_compliance,
    admin_trading,
    admin_users,
    api_keys,
    audit,
    auth,
    auto_trading,
    backtests,
    billing,
    broker_accounts,
    broker_sessions,
    consents,
    data_rights,
    health,
    live,
    market,
    orders,
    plans,
    sandbox,
    second_factor,
    sessions,
    signals,
    stream,
    trading_state,
)
from backend.api.state import ApiState
from backend.services.backtest_stream import BacktestStreams

ROUTERS = (
    auth.router,
    sessions.router,
    second_factor.router,
    api_keys.router,
    consents.router,
    data_rights.router,
    plans.router,
    billing.router,
    billing.webhooks,
    broker_accounts.router,
    broker_sessions.router,
    broker_sessions.callbacks,
    sandbox.router,
    auto_trading.router,
    orders.router,
    backtests.router,
    trading_state.router,
    live.router,
    audit.router,
    market.router,
    signals.router,
    market.quality_router,
    stream.router,
    admin.router,
    admin_billing.router,
    admin_compliance.router,
    audit.admin_router,
    admin_trading.router,
    admin_users.router,
    broker_sessions.admin_router,
    health.router,
)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class Neighbour(Protocol):
    """Another application on the same address: it answers paths that begin with one of its `first_parts`."""

    first_parts: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Gateway(FastAPI):
    """FastAPI behind its `front`: what stands there is spared the framework's own layers, a third of a quick answer."""

    front: ASGIApp
    neighbour: Neighbour | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.front(scope, receive, send)

    async def framework(self, scope: Scope, receive: Receive, send: Send) -> None:
        """FastAPI itself, or its neighbour where the path is one of its."""
        beside = self.neighbour
        if beside is not None and scope.get("path", "/").split("/")[1] in beside.first_parts:
            await beside(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_api(state: ApiState, lifespan: Lifespan | None = None, neighbour: Neighbour | None = None) -> FastAPI:
    """The application; `neighbour` is the sandbox: Kite's clients take an address without a path, so it has Kite's.

    Raises:
        LookupError: a route does not declare who may call it.
        ValueError: CORS_ORIGINS holds something else than origins.
    """
    app = Gateway(title="Sauda", version=version("sauda"), lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.api = state
    app.state.backtest_streams = BacktestStreams(state.sessions, state.streams.slots)
    for router in ROUTERS:
        require_access(router)
        app.include_router(router)
    app.neighbour = neighbour
    documentation.install(app, state.environment)
    docs_page.install(app)
    problems.install(app)
    app.add_middleware(problems.RequestContext)
    app.front = AtThePerimeter(FastQuotes(app.framework, state.quote_board), state.perimeter)
    if state.cors_origins:
        require_origins(state.cors_origins)
        app.front = CORSMiddleware(
            app.front,
            allow_origins=list(state.cors_origins),
            allow_credentials=True,  # the refresh token may be a cookie
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "If-None-Match", "Last-Event-ID", "X-Request-Id", HEADER],
            expose_headers=["ETag", "X-Request-Id", "Retry-After", "RateLimit", "RateLimit-Policy", REPLAYED],
        )
    return app


def require_access(router: APIRouter) -> None:
    """Deny by default: refuse a router with a route that declares no access.

    Raises:
        LookupError: it names the route.
    """
    for route in router.routes:
        if not isinstance(route, APIRoute | APIWebSocketRoute) or access_of(route) is None:
            raise LookupError(f"{route} does not declare who may call it (backend.api.deps)")


def access_of(route: APIRoute | APIWebSocketRoute) -> str | None:
    """The strictest of the accesses a route declares, by name; None where it declares none."""
    called = set(_calls(route.dependant))
    return next((access.__name__ for access in reversed(ACCESSES) if access in called), None)


def _calls(dependant: Dependant) -> Iterator[object]:
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from _calls(dependency)
