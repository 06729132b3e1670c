"""The HTTP surface: validates, refuses to look ahead, and answers from one consistent view of the market."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Header, Query, Response
from starlette.concurrency import run_in_threadpool

from contracts.common import Environment, Health, Instant, Problem
from contracts.market import (
    BARS_ARROW,
    ActionKind,
    BarsReply,
    BarsRequest,
    ClockReply,
    CorporateAction,
    InstrumentsReply,
    Interval,
    Quote,
    QuoteHistoryRequest,
    QuotesReply,
    QuotesRequest,
)
from data_service.adjust import adjusted
from data_service.bars import INTERVAL_S, Bars, day_number
from data_service.complete import Completer
from data_service.encode import bars_arrow, bars_head, bars_json
from data_service.errors import RequestError
from data_service.live import LiveMarket
from data_service.metrics import Metrics
from data_service.sessions import EPOCH, IST, floor_s, ist_date
from data_service.store.facts import Facts
from data_service.views import MarketSource, MarketView, Missing

BARS_PER_REQUEST_MAX = 2_000_000
SESSION_S = 22_500
REAL_CLOCK_TOLERANCE = timedelta(seconds=60)
"""How far other machines' clocks may run ahead of this one's; the simulated clock is one for all."""

UNADJUSTABLE_KINDS = frozenset(
    {ActionKind.DEMERGER, ActionKind.MERGER, ActionKind.RIGHTS, ActionKind.CAPITAL_REDUCTION}
)

AS_OF_MIN = datetime(1990, 1, 1, tzinfo=UTC)

PROBLEMS: dict[int | str, dict[str, object]] = {
    422: {"model": Problem, "description": "The request cannot be answered as asked; `code` says why."},
    503: {"model": Problem, "description": "The store is damaged."},
}

BARS_EXAMPLE = {
    "symbols": ["RELIANCE", "TCS"],
    "interval": "1d",
    "from": "2023-01-01",
    "through": "2023-12-31",
    "as_of": "2024-01-01T09:14:00+05:30",
    "adjusted": True,
}
QUOTES_EXAMPLE = {"symbols": ["RELIANCE", "TCS"]}


@dataclass(slots=True)
class Market:
    """What the routes answer from. `now` is the market's clock, `trouble` what /health should say, if anything.

    `live` and `completer` are there while providers are connected, `facts` where the market is a recorded one;
    `expects_actions` where a provider tells corporate actions, so that a day without its word is not a day without any.
    """

    environment: Environment
    source: MarketSource
    now: Callable[[], datetime]
    speed: float
    trouble: Callable[[], str]
    live: LiveMarket | None = None
    completer: Completer | None = None
    expects_actions: bool = False
    facts: Facts | None = None
    metrics: Metrics = field(default_factory=Metrics)

    def is_present(self, as_of: datetime | None) -> bool:
        """Whether a question about `as_of` is one about this moment, which live quotes answer."""
        return as_of is None or abs(as_of - self.now()) <= REAL_CLOCK_TOLERANCE


def checked(market: Market, as_of: datetime | None) -> datetime:
    """The instant to answer for, in IST. Raises RequestError where it lies in the market's future."""
    now = market.now()
    tolerance = timedelta() if market.environment is Environment.SIMULATED else REAL_CLOCK_TOLERANCE
    if as_of is None:
        return now.astimezone(IST)
    if as_of < AS_OF_MIN:
        raise RequestError("as_of_too_early", f"as_of must not be before {AS_OF_MIN.isoformat()}.")
    if as_of > now + tolerance:
        raise RequestError("as_of_in_future", f"as_of {as_of.isoformat()} is after the market's now {now.isoformat()}.")
    return as_of.astimezone(IST)


def within_limit(
    view: MarketView, request: BarsRequest | QuoteHistoryRequest, as_of: datetime, bars_max: int = BARS_PER_REQUEST_MAX
) -> None:
    """Raises RequestError where the answer could hold more than `bars_max` bars."""
    days = view.days(floor_s(as_of))
    first, last = max(request.from_, days[0] if days else date.max), min(request.through, ist_date(as_of))
    sessions = max(int(np.busday_count(first, last)) + 1, 1) if first <= last else 1
    per_session = SESSION_S // INTERVAL_S.get(request.interval, SESSION_S)
    bars = len(request.symbols) * sessions * per_session
    if bars > bars_max:
        raise RequestError("too_many_bars", f"Up to {bars} bars are asked for, {bars_max} are allowed: ask in parts.")


def router(market: Market) -> APIRouter:
    """The routes, bound to one market."""
    routes = APIRouter(prefix="/v1", tags=["market"])

    @routes.get("/instruments", operation_id="list_instruments", responses=PROBLEMS)
    def list_instruments(
        as_of: Annotated[Instant | None, Query(description="The market's present where it is left out.")] = None,
    ) -> InstrumentsReply:
        """All shares known at `as_of`, with their tick size and band of then."""
        instant = checked(market, as_of)
        instruments = market.source.view().instruments(floor_s(instant))
        return InstrumentsReply(environment=market.environment, as_of=instant, instruments=instruments)

    @routes.post(
        "/bars",
        operation_id="get_bars",
        responses={**PROBLEMS, 200: {"model": BarsReply, "content": {BARS_ARROW: {}}}},
        openapi_extra=example_of(BARS_EXAMPLE),
    )
    async def get_bars(request: BarsRequest, accept: Annotated[str, Header()] = "") -> Response:
        """Bars as columns. Only bars that had ended by `as_of`, adjusted by what was known by then; each series says
        which providers it came from and how old its last bar is."""
        as_of = checked(market, request.as_of)
        if market.completer is not None and market.is_present(request.as_of):
            await market.completer.complete(request.interval, request.symbols, request.from_, request.through, as_of)
        return await run_in_threadpool(_bars_response, market, request, as_of, BARS_ARROW in accept)

    @routes.post("/quotes", operation_id="get_quotes", responses=PROBLEMS, openapi_extra=example_of(QUOTES_EXAMPLE))
    async def get_quotes(request: QuotesRequest) -> QuotesReply:
        """The market in each symbol as it stood at `as_of`: of this moment from the providers, where there are any, and
        else from the bars that had ended; each quote says its source and age."""
        as_of = checked(market, request.as_of)
        quotes: dict[str, Quote] = {}
        refused: Mapping[str, str] = {}
        if market.live is not None and market.is_present(request.as_of):
            quotes, refused = await market.live.quotes(request.symbols, as_of)
        rest = [symbol for symbol in request.symbols if symbol not in quotes]
        recorded = await run_in_threadpool(_recorded_quotes, market, rest, floor_s(as_of))
        missing: dict[str, str] = {}
        for symbol, answer in recorded.items():
            if isinstance(answer, Missing):
                missing[symbol] = "; ".join(filter(None, (refused.get(symbol), answer.reason)))
            else:
                quotes[symbol] = answer
        return QuotesReply(environment=market.environment, as_of=as_of, quotes=quotes, missing=missing)

    @routes.get("/clock", operation_id="get_clock", responses=PROBLEMS)
    def get_clock() -> ClockReply:
        """The market's present, and the days the store can answer for."""
        now = market.now().astimezone(IST)
        days = market.source.view().days(floor_s(now))
        return ClockReply(
            environment=market.environment,
            now=now,
            speed=market.speed,
            data_from=days[0] if days else None,
            data_through=days[1] if days else None,
            data_version=market.source.version(),
        )

    return routes


def health_router(market: Market) -> APIRouter:
    """GET /health."""
    routes = APIRouter(tags=["health"])

    @routes.get("/health", operation_id="get_health")
    def get_health() -> Health:
        """Whether the service answers, and what it would like somebody to do."""
        return Health(
            status="ok",
            service="data_service",
            version=version("sauda"),
            environment=market.environment,
            detail=market.trouble(),
        )

    return routes


def _bars_response(market: Market, request: BarsRequest, as_of: datetime, arrow: bool) -> Response:
    view = market.source.view()
    within_limit(view, request, as_of)
    series, missing = _series(view, request, as_of)
    head = bars_head(
        environment=market.environment,
        as_of=as_of,
        provider=market.source.name,
        interval=request.interval,
        adjusted=request.adjusted,
        series=series,
        unadjusted=_unadjusted(view, series, as_of),
        missing=missing,
    )
    if arrow:
        return Response(bars_arrow(head, series), media_type=BARS_ARROW)
    return Response(bars_json(head, series), media_type="application/json")


def _recorded_quotes(market: Market, symbols: Sequence[str], as_of_s: int) -> dict[str, Quote | Missing]:
    if not symbols:
        return {}
    view = market.source.view()
    return {symbol: view.quote(symbol, as_of_s) for symbol in symbols}


def example_of(example: Mapping[str, object]) -> dict[str, object]:
    return {"requestBody": {"content": {"application/json": {"example": example}}}}


def _series(view: MarketView, request: BarsRequest, as_of: datetime) -> tuple[dict[str, Bars], dict[str, str]]:
    """The bars per symbol, and why there are none for the others."""
    as_of_s, today = floor_s(as_of), ist_date(as_of)
    series: dict[str, Bars] = {}
    missing: dict[str, str] = {}
    for symbol in request.symbols:
        found = view.bars(symbol, Interval(request.interval), request.from_, request.through, as_of_s)
        if isinstance(found, Missing):
            missing[symbol] = found.reason
        else:
            series[symbol] = adjusted(found, view.factors(symbol, today), today) if request.adjusted else found
    return series, missing


def _unadjusted(view: MarketView, series: Mapping[str, Bars], as_of: datetime) -> dict[str, list[CorporateAction]]:
    """Per symbol the actions among its bars that moved its price and that no factor undoes."""
    if not series:
        return {}
    spans = {symbol: (int(bars.day[0]), int(bars.day[-1])) for symbol, bars in series.items()}
    first, last = min(span[0] for span in spans.values()), max(span[1] for span in spans.values())
    found: dict[str, list[CorporateAction]] = {}
    for action in view.actions(EPOCH + timedelta(days=first), EPOCH + timedelta(days=last), ist_date(as_of)):
        span = spans.get(action.symbol)
        if span and action.kind in UNADJUSTABLE_KINDS and span[0] < day_number(action.ex_date) <= span[1]:
            found.setdefault(action.symbol, []).append(action)
    return found
