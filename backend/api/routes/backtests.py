"""Backtests: asked for, followed, read, cancelled. The work is done by `python -m backend.backtest`."""

from collections.abc import AsyncIterator
from datetime import date
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import HTMLResponse

from backend.api.deps import CurrentUser, State, TradingUser
from backend.api.documentation import documented
from backend.api.idempotency import IdempotentRoute, OptionalKey
from backend.api.routes.stream import UNBUFFERED, EventStream, address_of
from backend.api.schemas.backtests import (
    BacktestBody,
    BacktestEventView,
    BacktestReply,
    BacktestsReply,
    BacktestView,
)
from backend.api.schemas.common import ID_MAX, PageQuery, next_cursor
from backend.domain.calendar import IST, Calendar, YearNotRecorded
from backend.errors import InvalidRequestError
from backend.models import BacktestStatus, Feature
from backend.services import backtest_service
from backend.services.backtest_stream import BacktestChannel, BacktestStreams, event_of
from backend.services.plan_service import require_feature
from backend.services.strategy_service import require_strategies
from contracts.market import ClockReply

router = APIRouter(prefix="/v1/backtests", tags=["backtests"], route_class=IdempotentRoute)

BacktestId = Annotated[int, Path(ge=1, le=ID_MAX)]
REPORT_HEADERS = {
    # The page may run its own inline script and style, and nothing else: no network, no form, no frame around it. The
    # sandbox gives it an origin of its own, so even its script could read nothing of this site's.
    "Content-Security-Policy": (
        "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-store",
}


@router.post("", **documented("create_backtest", 401, 403, 409, 503, status=202))
async def create_backtest(
    body: BacktestBody, user: TradingUser, state: State, response: Response, key: OptionalKey = None
) -> BacktestReply:
    """Ask what modes would have done with your money. Counts against the plan's backtests of the day; it waits in a
    queue, and `/events` tells how it goes on."""
    async with state.sessions() as session:
        plan = await require_feature(session, user.id, Feature.BACKTESTS)
    require_days(body.from_, body.to, await state.trading.market_data.clock(), state.trading.calendar.calendar)
    await require_strategies(state.trading.ml_service, body.strategies())
    request = body.stored(plan.auto_trades_per_day)
    async with state.sessions.begin() as session:
        row = await backtest_service.enqueue(session, user.id, request, combinations=body.combinations, key=key)
    response.headers["Location"] = f"{router.prefix}/{row.id}"
    return BacktestReply.of(state.environment, row, "It waits for a worker.")


def require_days(first: date, last: date, clock: ClockReply, calendar: Calendar) -> None:
    """Refuse days of which there is no data at all, that are yet to come, of a year without a calendar, or without a
    session. What lies partly outside the data is cut, and the report says so.

    Raises:
        InvalidRequestError: the detail names the days there are.
    """
    begins, ends = clock.data_from, clock.data_through
    today = clock.now.astimezone(IST).date()
    if last > today:
        raise InvalidRequestError(f"{last} is yet to come: ask for days up to {today}.", code="days_to_come")
    if (begins is not None and last < begins) or (ends is not None and first > ends):
        span = " ".join(f"{word} {day}" for word, day in (("from", begins), ("through", ends)) if day is not None)
        raise InvalidRequestError(f"There is market data {span} only: ask for days in it.", code="no_data")
    first, last = max(first, begins or first), min(last, ends or last)
    try:
        sessions = calendar.sessions_between(first, last)
    except YearNotRecorded as error:
        years = f"from {min(calendar.years)} to {max(calendar.years)}"
        raise InvalidRequestError(
            f"There is no calendar of {error.year}, only of the years {years}: ask for days in them.",
            code="year_not_recorded",
        ) from error
    if not sessions:
        raise InvalidRequestError(f"The market was closed from {first} to {last}: ask for other days.", code="closed")


@router.get("", **documented("list_backtests", 401))
async def list_backtests(page: Annotated[PageQuery, Query()], user: CurrentUser, state: State) -> BacktestsReply:
    """The user's backtests, newest first."""
    async with state.sessions() as session:
        rows = await backtest_service.backtests_of(session, user.id, page.before_id, page.limit + 1)
    return BacktestsReply(
        environment=state.environment,
        backtests=[BacktestView.of(row) for row in rows[: page.limit]],
        next_cursor=next_cursor([row.id for row in rows], page.limit),
    )


@router.get("/{backtest_id}", **documented("get_backtest", 401, 404))
async def get_backtest(backtest_id: BacktestId, user: CurrentUser, state: State) -> BacktestReply:
    """How far it is and, once it is done, its figures."""
    async with state.sessions() as session:
        row = await backtest_service.backtest_of(session, user.id, backtest_id)
    return BacktestReply(environment=state.environment, backtest=BacktestView.of(row), summary=row.summary)


@router.get(
    "/{backtest_id}/report",
    response_class=HTMLResponse,
    response_model=str,
    **documented("get_backtest_report", 401, 404, media_type=HTMLResponse.media_type),
)
async def get_backtest_report(backtest_id: BacktestId, user: CurrentUser, state: State) -> Response:
    """The report as one self-contained HTML page."""
    async with state.sessions() as session:
        html = await backtest_service.report_of(session, user.id, backtest_id)
    return HTMLResponse(html, headers=REPORT_HEADERS)


@router.delete("/{backtest_id}", **documented("withdraw_backtest", 401, 404))
async def withdraw_backtest(backtest_id: BacktestId, user: TradingUser, state: State) -> BacktestReply:
    """Cancel it, or delete it with its report once it is over. A running one stops within seconds."""
    async with state.sessions.begin() as session:
        row, deleted = await backtest_service.withdraw(session, user.id, backtest_id)
    if deleted:
        message = "It is deleted, its report too."
    else:
        running = row.status is BacktestStatus.RUNNING
        message = "Its worker stops it within seconds." if running else "It will not run."
    return BacktestReply.of(state.environment, row, message)


async def followed(
    backtest_id: BacktestId, request: Request, user: CurrentUser, state: State
) -> AsyncIterator[BacktestChannel]:
    """A place among the streams and the backtest's channel, until the answer has been sent."""
    async with state.sessions() as session:
        row = await backtest_service.backtest_of(session, user.id, backtest_id)
    with state.streams.slots.held(address_of(request)), _streams(request).subscribed(backtest_id) as channel:
        channel.newest = channel.newest or event_of(row)
        yield channel


def _streams(request: Request) -> BacktestStreams:
    return cast("BacktestStreams", request.app.state.backtest_streams)


@router.get(
    "/{backtest_id}/events",
    response_class=EventStream,
    response_model=BacktestEventView,
    **documented("stream_backtest", 401, 404, 429, 503, media_type=EventStream.media_type),
)
async def stream_backtest(
    channel: Annotated[BacktestChannel, Depends(followed)],
    request: Request,
    last_event_id: Annotated[str, Header(max_length=100)] = "",
) -> Response:
    """Its state at once and whenever it changes, as events `progress`, and `done` when it is over; then the stream
    ends. The data of an event is the example's JSON. Who comes back with the id of `done` gets a 204: there is no more.
    """
    if (known := channel.newest) is not None and known.last and known.id == last_event_id:
        return Response(status_code=204)
    return EventStream(_streams(request).listen(channel, last_event_id), headers=UNBUFFERED)
