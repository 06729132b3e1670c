"""The HTTP surface of what quotes were, for backtests: years of them in one answer."""

from datetime import datetime

import numpy as np
from fastapi import APIRouter, Response
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from contracts.market import QUOTE_HISTORY_ARROW, QuoteHistoryHead, QuoteHistoryRequest
from data_service.quote_history import NO_EARLIER_CLOSE, quote_columns, quote_history_arrow
from data_service.quotes import HALF_SPREAD_BP
from data_service.routes import PROBLEMS, Market, checked, example_of, within_limit
from data_service.sessions import floor_s
from data_service.views import MarketView, Missing

ROWS_PER_REQUEST_MAX = 500_000
QUOTE_HISTORY_EXAMPLE = {
    "symbols": ["RELIANCE", "TCS"],
    "interval": "5m",
    "from": "2024-01-01",
    "through": "2024-03-19",
    "as_of": "2024-03-20T09:00:00+05:30",
}


def quote_history_router(market: Market) -> APIRouter:
    """The route, bound to one market."""
    routes = APIRouter(prefix="/v1", tags=["market"])

    @routes.post(
        "/quotes/history",
        operation_id="get_quote_history",
        response_class=Response,
        responses={**PROBLEMS, 200: {"content": {QUOTE_HISTORY_ARROW: {}}}},
        openapi_extra=example_of(QUOTE_HISTORY_EXAMPLE),
    )
    async def get_quote_history(request: QuoteHistoryRequest) -> Response:
        """What quotes showed as each bar ended: every bar that had ended by `as_of`, unadjusted, with what was known of
        its session before it opened. Bars are joined under the name that a share had at `as_of`."""
        as_of = checked(market, request.as_of)
        return await run_in_threadpool(_response, market, request, as_of)

    return routes


def _response(market: Market, request: QuoteHistoryRequest, as_of: datetime) -> Response:
    view = market.source.view()
    within_limit(view, request, as_of, ROWS_PER_REQUEST_MAX)
    shares: dict[str, dict[str, NDArray[np.int64 | np.bool_]]] = {}
    missing: dict[str, str] = {}
    for symbol in dict.fromkeys(request.symbols):
        found = _of_share(view, symbol, request, floor_s(as_of))
        if isinstance(found, Missing):
            missing[symbol] = found.reason
        else:
            shares[symbol] = found
    head = QuoteHistoryHead(
        environment=market.environment,
        as_of=as_of,
        provider=market.source.name,
        interval=request.interval,
        half_spread_bp=HALF_SPREAD_BP,
        missing=missing,
    )
    return Response(quote_history_arrow(head, shares), media_type=QUOTE_HISTORY_ARROW)


def _of_share(
    view: MarketView, symbol: str, request: QuoteHistoryRequest, as_of_s: int
) -> dict[str, NDArray[np.int64 | np.bool_]] | Missing:
    bars = view.bars(symbol, request.interval, request.from_, request.through, as_of_s)
    if isinstance(bars, Missing):
        return bars
    columns = quote_columns(bars, view.session_facts(symbol, np.unique(bars.day), as_of_s))
    return columns if len(columns["start"]) else Missing(NO_EARLIER_CLOSE)
