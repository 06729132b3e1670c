"""The sandbox's ASGI app: Kite Connect 3's routes over a World, in Kite's envelopes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import orjson
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from backend.errors import SaudaError
from backend.sandbox import costs, gtt, login, market, orders, portfolio
from backend.sandbox.pulse import Pulse, Ticker
from backend.sandbox.words import KiteError, failure
from backend.sandbox.world import Caller, World

log = structlog.get_logger()

BODY_BYTES_MAX = 1 << 18

Handler = Callable[[Caller, Request], Awaitable[Any]]
OpenHandler = Callable[[World, Request], Awaitable[Any]]

OPEN_ROUTES: tuple[tuple[str, str, OpenHandler], ...] = (
    ("GET", "/connect/login", login.page),
    ("POST", "/connect/login", login.confirm),
    ("POST", "/session/token", login.make_session),
    ("DELETE", "/session/token", login.end_session),
)
ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/user/profile", login.profile),
    ("GET", "/user/margins", portfolio.margins),
    ("GET", "/user/margins/{segment}", portfolio.margins),
    ("GET", "/orders", orders.book),
    ("GET", "/orders/{order_id}", orders.history),
    ("GET", "/orders/{order_id}/trades", orders.order_trades),
    ("POST", "/orders/{variety}", orders.place),
    ("PUT", "/orders/{variety}/{order_id}", orders.modify),
    ("DELETE", "/orders/{variety}/{order_id}", orders.cancel),
    ("GET", "/trades", orders.trades),
    ("GET", "/portfolio/positions", portfolio.positions),
    ("PUT", "/portfolio/positions", portfolio.convert),
    ("GET", "/portfolio/holdings", portfolio.holdings),
    ("GET", "/quote", market.quote),
    ("GET", "/quote/ohlc", market.ohlc),
    ("GET", "/quote/ltp", market.ltp),
    ("GET", "/instruments", market.instruments),
    ("GET", "/instruments/{exchange}", market.instruments),
    ("GET", "/instruments/historical/{token}/{interval}", market.historical),
    ("POST", "/margins/orders", costs.order_margins),
    ("POST", "/margins/basket", costs.basket_margins),
    ("POST", "/charges/orders", costs.charges),
    ("GET", "/gtt/triggers", gtt.listed),
    ("POST", "/gtt/triggers", gtt.place),
    ("GET", "/gtt/triggers/{trigger_id}", gtt.one),
    ("PUT", "/gtt/triggers/{trigger_id}", gtt.modify),
    ("DELETE", "/gtt/triggers/{trigger_id}", gtt.remove),
)


class Sandbox(Starlette):
    """The app. Where it is mounted in another, that one's lifespan enters `running`: a mounted app has none."""

    running: Callable[[], AbstractAsyncContextManager[None]]
    first_parts: frozenset[str]
    """How its paths begin."""


def create_sandbox(world: World, *, pulse_s: float = 0.5) -> Sandbox:
    """Kite Connect 3 over `world`; its ticker is the WebSocket /ws.

    Args:
        pulse_s: real seconds between looks at the market, for ticks, order updates and triggers.
    """
    pulse = Pulse(world, pulse_s)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with pulse.running():
            yield

    async def ticker(socket: WebSocket) -> None:
        given = socket.query_params
        try:
            caller = await login.caller_of(world, given.get("api_key", ""), given.get("access_token", ""))
        except KiteError:
            await socket.close(1008)  # before it was accepted: HTTP 403
            return
        await socket.accept()
        await pulse.listen(Ticker(socket, caller))

    routes = [Route(path, _open(world, handler), methods=[method]) for method, path, handler in OPEN_ROUTES]
    routes += [Route(path, _private(world, handler), methods=[method]) for method, path, handler in ROUTES]
    app = Sandbox(routes=[*routes, WebSocketRoute("/ws", ticker)], lifespan=lifespan)
    app.first_parts = frozenset({"ws", *(route.path.split("/")[1] for route in routes)})
    app.add_exception_handler(HTTPException, _not_found)
    app.running = pulse.running
    return app


def _open(world: World, handler: OpenHandler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await _answer(request, lambda: handler(world, request))

    return endpoint


def _private(world: World, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        async def call() -> Any:
            return await handler(await login.authorized(world, request), request)

        return await _answer(request, call)

    return endpoint


async def _answer(request: Request, call: Callable[[], Awaitable[Any]]) -> Response:
    try:
        if "transfer-encoding" in request.headers:
            raise KiteError("InputException", "The request must say its length.")
        if int(request.headers.get("content-length") or 0) > BODY_BYTES_MAX:
            raise KiteError("InputException", "The request is too large.")
        data = await call()
    except KiteError as error:
        return _json(failure(error), error.status)
    except (SaudaError, TimeoutError) as error:
        return _json(failure(KiteError("GeneralException", str(error) or "No answer in time.")), 500)
    except Exception:
        log.exception("sandbox_request_failed", path=request.url.path)
        return _json(failure(KiteError("GeneralException", "Something went wrong.")), 500)
    return data if isinstance(data, Response) else _json({"status": "success", "data": data}, 200)


def _json(content: Any, status: int) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


async def _not_found(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return _json(failure(KiteError("GeneralException", "Route not found")), status)
