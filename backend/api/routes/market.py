"""Public market data and predictions, without login."""

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
    PredictionsView,
    QuotesView,
    SymbolsQuery,
    bar_views,
)
from backend.domain.calendar import IST
from backend.errors import InvalidRequestError, NotFoundError
from backend.services.market_calendar import EXCHANGE
from backend.services.status_service import market_status
from contracts.market import BarsRequest

router = APIRouter(prefix="/v1/market", tags=["market"], dependencies=[Public])


@router.get("/quotes", response_model=QuotesView, **documented("get_quotes", 503))
async def get_quotes(query: Annotated[SymbolsQuery, Query()], request: Request, state: State) -> Response:
    """Last prices, at most a second old. Send the ETag back as `If-None-Match` to get 304 while nothing changes."""
    prepared = await state.quote_board.answer(query.wanted())
    headers = {name.decode(): value.decode() for name, value in cache_headers(prepared)}
    if matches(request.headers.get("if-none-match", "").encode("latin-1"), prepared.etag):
        return Response(status_code=304, headers=headers)
    return Response(prepared.body, media_type="application/json", headers=headers)


@router.get("/bars", **documented("get_bars", 404, 503))
async def get_bars(query: Annotated[BarsQuery, Query()], state: State) -> BarsView:
    """Finished bars of one symbol: up to 3700 days of daily bars, 60 of five-minute ones, 10 of one-minute ones."""
    market_data = state.trading.market_data
    now = await state.trading.clock()
    first, last = query.days(now.astimezone(IST).date())
    if (last - first).days >= DAYS_MAX[query.interval]:
        raise InvalidRequestError(
            f"Bars of {query.interval} come for {DAYS_MAX[query.interval]} days at most: ask in parts.",
            code="too_many_bars",
        )
    if query.symbol not in market_data.instruments:
        await market_data.load_instruments()
    if query.symbol not in market_data.instruments:
        raise NotFoundError(f"There is no instrument {query.symbol}.", code="unknown_symbol")
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
    columns = reply.series.get(query.symbol)
    return BarsView(
        environment=state.environment,
        symbol=query.symbol,
        interval=query.interval,
        adjusted=reply.adjusted,
        as_of=reply.as_of,
        source=reply.provider,
        bars=bar_views(columns) if columns else [],
        note=reply.missing.get(query.symbol),
    )


@router.get("/predictions", **documented("get_predictions", 503))
async def get_predictions(query: Annotated[SymbolsQuery, Query()], state: State) -> PredictionsView:
    """What the model says now, with the probability of each event it speaks of."""
    trading = state.trading
    now = await trading.clock()
    batch = await trading.ml_service.predictions(query.wanted(), now, trading.rules.horizon_sessions)
    return PredictionsView.of(state.environment, batch.reply)


@router.get("/status", **documented("get_market_status", 503))
async def get_market_status(state: State) -> MarketStatusReply:
    """The market's phases now, its windows today, the next open and the square-off times."""
    return MarketStatusReply.of(state.environment, EXCHANGE.value, await market_status(state.trading))
