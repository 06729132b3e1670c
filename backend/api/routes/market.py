"""Public market data, without login."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from backend.api.deps import Public, State
from backend.api.documentation import documented
from backend.api.fast_path import cache_headers, matches
from backend.api.schemas.market import (
    DAYS_MAX,
    BarsQuery,
    BarsView,
    MarketStatusReply,
    QuotesView,
    SymbolsQuery,
)
from backend.api.schemas.reference import (
    ActionsQuery,
    ActionsView,
    QualityQuery,
    QualityView,
    UniverseQuery,
    UniverseView,
)
from backend.api.tagged import tagged
from backend.domain.calendar import IST
from backend.errors import InvalidRequestError
from backend.services.market_calendar import EXCHANGE
from backend.services.status_service import market_status
from contracts.market import BarsRequest

router = APIRouter(prefix="/v1/market", tags=["market"], dependencies=[Public])
quality_router = APIRouter(prefix="/v1", tags=["market"], dependencies=[Public])


@router.get("/quotes", response_model=QuotesView, **documented("get_quotes", 503))
async def get_quotes(query: Annotated[SymbolsQuery, Query()], request: Request, state: State) -> Response:
    """Last prices, at most a second old. Send the ETag back as `If-None-Match` to get 304 while nothing changes."""
    prepared = await state.quote_board.answer(query.wanted())
    headers = {name.decode(): value.decode() for name, value in cache_headers(prepared)}
    if matches(request.headers.get("if-none-match", "").encode("latin-1"), prepared.etag):
        return Response(status_code=304, headers=headers)
    return Response(prepared.body, media_type="application/json", headers=headers)


@router.get("/bars", response_model=BarsView, **documented("get_bars", 404, 503))
async def get_bars(query: Annotated[BarsQuery, Query()], request: Request, state: State) -> Response:
    """Finished bars of one symbol, up to 3700 days of daily bars and 10 of one-minute ones. Send the ETag back as
    `If-None-Match` to get 304 while nothing changes."""
    market_data = state.trading.market_data
    now = await state.trading.clock()
    first, last = query.days(now.astimezone(IST).date())
    if (last - first).days >= DAYS_MAX[query.interval]:
        raise InvalidRequestError(
            f"Bars of {query.interval} come for {DAYS_MAX[query.interval]} days at most: ask in parts.",
            code="too_many_bars",
        )
    await market_data.require(query.symbol)
    reply = await market_data.bars(
        BarsRequest(
            symbols=[query.symbol],
            interval=query.interval,
            from_=first,
            through=last,
            as_of=now,
            adjusted=query.adjusted,
        )
    )
    return tagged(request, BarsView.of(state.environment, query.symbol, reply).model_dump_json().encode())


@router.get("/actions", **documented("list_actions", 503))
async def list_actions(query: Annotated[ActionsQuery, Query()], state: State) -> ActionsView:
    """Splits, bonuses, dividends and other corporate actions by ex-date, as they are known now: up to 370 days of all
    shares, ten years of one."""
    reply = await state.trading.market_data.actions(query.from_, query.to, await state.trading.clock())
    return ActionsView.of(state.environment, reply, query.symbol)


@router.get("/universe", **documented("get_universe", 503))
async def get_universe(query: Annotated[UniverseQuery, Query()], state: State) -> UniverseView:
    """The shares of a universe as of the market's present."""
    return UniverseView.of(state.environment, await state.trading.market_data.universe(query.name, query.n))


@router.get("/status", **documented("get_market_status", 503))
async def get_market_status(state: State) -> MarketStatusReply:
    """The market's phases now, its windows today, the next open and the square-off times."""
    return MarketStatusReply.of(state.environment, EXCHANGE.value, await market_status(state.trading))


@quality_router.get("/quality", **documented("list_quality_findings", 503))
async def list_quality_findings(query: Annotated[QualityQuery, Query()], state: State) -> QualityView:
    """What was found wrong with prices: bars and quotes kept out of every answer, and those served with a flag."""
    found = await state.trading.market_data.quality(query.symbol, query.reason, query.limit, query.cursor)
    return QualityView.of(state.environment, found)
