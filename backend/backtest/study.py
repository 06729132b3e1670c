"""A backtest from its request to its report: read the market, trade it, judge what came of it."""

from collections.abc import Callable
from datetime import date, datetime, time, timedelta

import httpx
from httpx_aiohttp import AiohttpTransport

from backend.backtest.engine import run
from backend.backtest.history import MarketHistory
from backend.backtest.inputs import Wanted, fetch
from backend.backtest.report import Report, build, build_sweep
from backend.backtest.request import Asked, World, with_values
from backend.domain.calendar import IST
from backend.services.market_data_client import MarketDataClient
from backend.services.ml_service_client import MlServiceClient
from contracts.market import ClockReply

CALL_TIMEOUT_S = 60.0

Progress = Callable[[int, int, str], None]
"""`done` of `total` steps, and what is being done."""


def known_at(last: date, clock: ClockReply) -> datetime:
    """The instant as of which a backtest through `last` is done: at most the market's present, and the same one for as
    long as it can be, since another one means that every model is trained anew.

    It is the midnight (IST) that begins the present month, or, where `last` lies in that, the present day. What is
    stored may end earlier; then that is the present.
    """
    today = clock.now.astimezone(IST).date()
    present = today if clock.data_through is None else min(today, clock.data_through + timedelta(days=1))
    month = present.replace(day=1)
    return datetime.combine(month if last < month else present, time(), IST)


async def market_of(asked: Asked, world: World, progress: Progress) -> MarketHistory:
    """Everything the backtest reads, as of `known_at`.

    Raises:
        SaudaError: there is no such market, or a service does not answer.
    """
    async with httpx.AsyncClient(transport=AiohttpTransport(), timeout=CALL_TIMEOUT_S) as http:
        market_data = MarketDataClient(http, world.data_service_url, CALL_TIMEOUT_S)
        as_of = known_at(asked.spec.last, await market_data.clock())
        wanted = Wanted(asked.universe, as_of, asked.model, asked.horizon_sessions)
        ml_service = MlServiceClient(http, world.ml_service_url, CALL_TIMEOUT_S)
        return await fetch(asked.spec, wanted, market_data, ml_service, world.calendar, progress)


def study(asked: Asked, history: MarketHistory, progress: Progress) -> Report:
    """Trade the market as asked, every combination of a sweep one after the other, and report on it."""

    def judged(part: float, doing: str) -> None:
        progress(round(100 * part), 100, doing)

    if not asked.sweep:
        return build(run(asked.spec, history, progress), history, progress=judged, universe=asked.universe)
    combinations = list(asked.combinations())
    runs = []
    for number, values in enumerate(combinations):
        progress(number, len(combinations), f"combination {number + 1} of {len(combinations)}")
        runs.append((values, run(with_values(asked.spec, values), history)))
    return build_sweep(runs, history, progress=judged, universe=asked.universe)
