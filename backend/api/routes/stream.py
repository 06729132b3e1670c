"""Public market data as it changes: quotes as server-sent events, bars over a WebSocket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Header, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.requests import HTTPConnection

from backend.api.deps import Public, State
from backend.api.documentation import documented
from backend.api.schemas.market import QuotesView, SymbolsQuery
from backend.api.schemas.stream import BarStreamQuery
from backend.api.state import ApiState
from backend.errors import NotFoundError, SaudaError
from backend.services.quote_stream import QuoteChannel
from backend.services.streams import Streams

router = APIRouter(prefix="/v1/stream", tags=["streams"], dependencies=[Public])

GOING_AWAY, POLICY_VIOLATION, TRY_AGAIN_LATER, NOT_FOUND, INVALID = 1001, 1008, 1013, 4404, 4422
"""Close codes: RFC 6455 (7.4.1) and its registry; from 4000 on an application's own."""
REASON_BYTES_MAX = 123
UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventStream(StreamingResponse):
    """Events that are bytes already: fastapi.sse would make each of them anew for every listener."""

    media_type = "text/event-stream"


def address_of(connection: HTTPConnection) -> str:
    """The client's address; empty where the server does not know it."""
    return connection.client.host if connection.client is not None else ""


async def quote_channel(
    query: Annotated[SymbolsQuery, Query()], request: Request, state: State
) -> AsyncIterator[QuoteChannel]:
    """A place among the streams and its channel, until the answer has been sent."""
    with (
        state.streams.slots.held(address_of(request)),
        state.streams.quotes.subscribed(query.wanted()) as channel,
    ):
        yield channel


@router.get(
    "/quotes",
    response_class=EventStream,
    response_model=QuotesView,
    **documented("stream_quotes", 429, 503, media_type=EventStream.media_type),
)
async def stream_quotes(
    channel: Annotated[QuoteChannel, Depends(quote_channel)],
    state: State,
    last_event_id: Annotated[str, Header(max_length=100)] = "",
) -> Response:
    """The quotes at once, and again whenever they change, as events `quotes` whose id is the ETag. An event `stale`
    says why the last ones are old. The data of an event is the example's JSON."""
    events = state.streams.quotes.listen(channel, last_event_id.encode())
    return EventStream(events, headers=UNBUFFERED)


@router.websocket("/bars")
async def stream_bars(websocket: WebSocket) -> None:
    """Finished bars and the forming one. Why it ends, if it is not the client's wish, is in the closing code."""
    streams = cast("ApiState", websocket.app.state.api).streams
    await websocket.accept()
    try:
        code, reason = await _serve_bars(websocket, streams)
    except ValidationError as error:
        first = error.errors()[0]
        code, reason = INVALID, f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except NotFoundError as error:
        code, reason = NOT_FOUND, error.detail
    except SaudaError as error:
        code, reason = TRY_AGAIN_LATER, error.detail
    except WebSocketDisconnect:
        return
    with suppress(WebSocketDisconnect, RuntimeError):  # the client may have gone meanwhile
        await websocket.close(code, reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore"))


async def _serve_bars(websocket: WebSocket, streams: Streams) -> tuple[int, str]:
    """Send messages until one side ends it; why this side does.

    Raises:
        WebSocketDisconnect: the client has.
        SaudaError: the stream cannot be had. ValidationError: it is asked for in a wrong way.
    """
    query = BarStreamQuery.model_validate(dict(websocket.query_params))
    with streams.slots.held(address_of(websocket)):
        await streams.bars.require(query.symbol)
        with streams.bars.subscribed(query.symbol, query.interval) as channel:
            sending = asyncio.create_task(_send_all(websocket, streams.bars.listen(channel)))
            receiving = asyncio.create_task(websocket.receive())
            try:
                await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
                if receiving.done():
                    message = receiving.result()
                    if message["type"] == "websocket.disconnect":
                        raise WebSocketDisconnect(message["code"])
                    return POLICY_VIOLATION, "This stream takes no messages."
                sending.result()
                return GOING_AWAY, "The gateway stops: connect again in a few seconds."
            finally:
                for task in (sending, receiving):
                    task.cancel()
                await asyncio.gather(sending, receiving, return_exceptions=True)


async def _send_all(websocket: WebSocket, messages: AsyncIterator[str]) -> None:
    async for message in messages:
        await websocket.send_text(message)
