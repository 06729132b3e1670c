"""Idempotency-Key on whatever creates an order or moves money: the first answer, byte for byte, to each repetition."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

import structlog
from fastapi import Depends, Header, Request
from fastapi.dependencies.models import Dependant
from fastapi.params import Depends as Dependency
from fastapi.routing import APIRoute
from pydantic import StringConstraints
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.api.deps import ACCESSES, AnyCaller, api_state
from backend.api.problems import problem_response, request_id_of
from backend.api.state import ApiState
from backend.db import act_for
from backend.services.idempotency_service import Answer, Claim, InFlightError, KeyedRequest, claim, finish, release

log = structlog.get_logger()

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
KEY_LENGTH_MAX = 128
RETRY_AFTER_S = 1
REFUSED_AT_THE_DOOR = frozenset({401, 403, 429})
"""Answers before anything began: who may do it later asks again with the same key."""

_Key = Annotated[str, StringConstraints(min_length=1, max_length=KEY_LENGTH_MAX, pattern=r"^[\x20-\x7e]+$")]
_DESCRIPTION = (
    f"1 to {KEY_LENGTH_MAX} printable ASCII characters of your choice, new for each new request. Repeated within "
    "24 hours with the same path and body, the first answer comes again and nothing is done twice."
)
RequiredKey = Annotated[_Key, Header(alias=HEADER, description=_DESCRIPTION)]
OptionalKey = Annotated[_Key | None, Header(alias=HEADER, description=_DESCRIPTION)]

_CALLER_ID = "idempotency_caller_id"


def optional_key(key: OptionalKey = None) -> str | None:
    """The request's key, where it has one; it documents the header and lets no malformed one pass."""
    return key


async def _let_in(request: Request, caller: AnyCaller) -> Response:
    request.scope[_CALLER_ID] = caller.user.id
    return Response(status_code=204)


class IdempotentRoute(APIRoute):
    """The `route_class` of a router whose POSTs create orders or move money: none of them can be without.

    It stands around the whole route, outside its transactions: what it keeps has been committed. 5xx and a request
    that died release the key; every other answer that came of the work is kept. Who may not use the route at all, or
    not any more, is refused before the key is looked at.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        methods: Sequence[str] | None = None,
        dependencies: Sequence[Dependency] | None = None,
        **options: Any,
    ) -> None:
        keyed = [Depends(optional_key)] if "POST" in (methods or ()) else []
        super().__init__(
            path, endpoint, methods=list(methods or ()), dependencies=[*(dependencies or ()), *keyed], **options
        )
        self._door = APIRoute(path, _let_in, methods=["POST"], dependencies=_accesses(self.dependant))

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = Headers(scope=scope).get(HEADER)
        if scope["method"] != "POST" or key is None or not _well_formed(key):
            await super().handle(scope, receive, send)
            return
        request = Request(scope, receive)
        state = api_state(request)
        at_the_door = await _messages_of(self._door.app, scope, receive)
        user_id = scope.get(_CALLER_ID)
        if user_id is None:
            for message in at_the_door:
                await send(message)
            return
        act_for(user_id)
        body = await request.body()
        asked = b"%s\0%s" % (scope["path"].encode(), body)
        try:
            claimed = await claim(state.sessions, KeyedRequest(user_id, "POST", self.path_format, key), asked)
        except InFlightError as error:
            await _in_flight(request, error)(scope, receive, send)
            return
        if isinstance(claimed, Claim):
            await self._work(state, claimed, scope, _again(body, receive), send)
        else:
            await _replayed(claimed)(scope, receive, send)

    async def _work(self, state: ApiState, claimed: Claim, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            messages = await _messages_of(super().handle, scope, receive)
        except BaseException:
            await release(state.sessions, claimed)
            raise
        answer = _answer(messages)
        if answer.status >= 500 or answer.status in REFUSED_AT_THE_DOOR:
            await release(state.sessions, claimed)
        else:
            await _finish(state, claimed, answer)
        for message in messages:
            await send(message)


def _accesses(dependant: Dependant) -> list[Dependency]:
    """The accesses among a route's dependencies, to be asked for without the route."""
    calls = [each.call for each in dependant.dependencies if each.call in ACCESSES]
    return [Depends(call) for call in calls]


async def _messages_of(app: ASGIApp, scope: Scope, receive: Receive) -> list[Message]:
    """What an application sends."""
    messages: list[Message] = []

    async def keep(message: Message) -> None:
        messages.append(message)

    await app(scope, receive, keep)
    return messages


def _well_formed(key: str) -> bool:
    return 0 < len(key) <= KEY_LENGTH_MAX and key.isascii() and key.isprintable()


def _again(body: bytes, receive: Receive) -> Receive:
    """`receive` for a body that has been read already."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _answer(messages: Sequence[Message]) -> Answer:
    start, *parts = messages
    content_type = Headers(raw=start["headers"]).get("content-type", "")
    return Answer(cast("int", start["status"]), content_type, b"".join(part.get("body", b"") for part in parts))


async def _finish(state: ApiState, claimed: Claim, answer: Answer) -> None:
    """The work is done and committed: that its answer could not be kept must not make it look undone."""
    try:
        await finish(state.sessions, claimed, answer)
    except (SQLAlchemyError, OSError) as error:
        log.error("answer_not_kept", route=claimed.request.route, error=repr(error))


def _replayed(answer: Answer) -> Response:
    return Response(answer.body, answer.status, {"content-type": answer.content_type, REPLAYED: "true"})


def _in_flight(request: Request, error: InFlightError) -> Response:
    return problem_response(
        request_id_of(request),
        error.status,
        error.code,
        error.title,
        error.detail,
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
