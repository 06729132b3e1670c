"""The composition root of data_service: wires settings, clock and provider into the HTTP application."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version

import structlog
from fastapi import FastAPI

from contracts.common import Environment
from contracts.market import Interval
from data_service.chain import Chain
from data_service.clock import Identity, ProgressFile, SimulatedClock, Timeline
from data_service.complete import Completer
from data_service.config import Settings
from data_service.errors import install_handlers
from data_service.fresh_facts import keep_facts_fresh
from data_service.ingest import Gate
from data_service.instruments import InstrumentMaster, load_reference
from data_service.live import Gauge, LiveMarket, References
from data_service.maintenance import downsample
from data_service.providers.base import Kind, RawQuote
from data_service.providers.recorded import RecordedMarket, Reference
from data_service.providers.simulated import SimulatedMarket
from data_service.quote_book import QuoteBook
from data_service.quote_history_routes import quote_history_router
from data_service.reference_routes import metrics_router, reference_router
from data_service.routes import Market, health_router, router
from data_service.sessions import DAY_S, Sessions, floor_s, ist_date, load_sessions
from data_service.shared_quotes import SharedQuotes
from data_service.simulator.universe import load_universe
from data_service.store.buffer import BarBuffer
from data_service.store.stores import Stores
from data_service.wiring import open_stores, open_upstream

log = structlog.get_logger(__name__)


def real_clock() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


def simulated_market(settings: Settings, sessions: Sessions, monotonic: Callable[[], float]) -> Market:
    """The generated market with its own clock. Raises ConfigError, OSError."""
    identity = Identity(settings.sim_seed, settings.sim_edge, settings.sim_start)
    progress = ProgressFile(settings.simulated_dir / "clock.json", identity)
    timeline = Timeline(sessions, settings.sim_start)
    progress.read()
    provider = SimulatedMarket(
        load_universe(), sessions, seed=identity.seed, edge=identity.edge, folder=settings.simulated_dir
    )
    clock = SimulatedClock(timeline, settings.sim_speed, progress, monotonic)
    last_day = sessions.all[-1].day

    def trouble() -> str:
        if not clock.at_end:
            return ""
        return (
            f"The simulated clock stands still: its calendar ends on {last_day}. "
            "Start over with another DATA_DIR and an earlier SIM_START, or add sessions to the calendar."
        )

    return Market(settings.environment, provider, clock, settings.sim_speed, trouble)


def recorded_market(settings: Settings, stores: Stores, sessions: Sessions, clock: Callable[[], datetime]) -> Market:
    """What is stored under the real clock."""

    def trouble() -> str:
        return "" if stores.bars.stamps() else "No bars are stored: import some with `sauda data import FILE`."

    source = RecordedMarket(stores, sessions, load_reference())
    return Market(settings.environment, source, clock, 1.0, trouble, facts=stores.facts)


def live_market(
    settings: Settings, market: Market, stores: Stores, sessions: Sessions, chain: Chain, shared: SharedQuotes | None
) -> LiveMarket:
    """Quotes of the present on top of what is stored."""

    def reference_of(symbol: str, now: datetime) -> Reference:
        assert isinstance(market.source, RecordedMarket)  # noqa: S101 - made by recorded_market
        return market.source.view().reference(symbol, ist_date(now), floor_s(now))

    gauge = Gauge(sessions, References(reference_of, market.now), market.now, settings.quote_age_s_max)

    def book(on_accepted: Callable[[RawQuote], None]) -> QuoteBook:
        return QuoteBook(
            chain,
            gauge.context,
            monotonic_s=time.monotonic,
            refresh_s=settings.quote_refresh_s,
            deadline_s=settings.provider_timeout_s,
            shared=shared,
            on_accepted=on_accepted,
        )

    gate = Gate(stores, sessions, load_reference())
    return LiveMarket(book, gauge, BarBuffer(Interval.MIN_1, gate.ingest, on_dropped=market.metrics.bars_dropped))


@asynccontextmanager
async def providers_running(
    settings: Settings, market: Market, stores: Stores, sessions: Sessions
) -> AsyncIterator[None]:
    """Connect the market to the providers, the stream and the shared cache for as long as the block runs."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(
            open_upstream(settings, stores, sessions, market.now, market.metrics)
        )
        shared = None
        if settings.redis_url:
            breaker = upstream.breakers.of("redis", Kind.QUOTES)
            shared = SharedQuotes(settings.redis_url, settings.environment, breaker, kept_s=settings.quote_refresh_s)
            stack.push_async_callback(shared.close)
        live = live_market(settings, market, stores, sessions, upstream.chain, shared)
        await stack.enter_async_context(live.running(settings.quote_refresh_s, upstream.ticker, upstream.tokens))
        market.live = live
        market.completer = Completer(
            upstream.chain,
            Gate(stores, sessions, load_reference()),
            stores,
            sessions,
            deadline_s=settings.provider_timeout_s,
            monotonic_s=time.monotonic,
        )
        market.expects_actions = Kind.ACTIONS in upstream.kinds
        if market.expects_actions:
            task = asyncio.create_task(keep_facts_fresh(upstream.chain, stores, market.now))
            stack.callback(task.cancel)
        try:
            yield
        finally:
            market.live = market.completer = None


async def keep_small(settings: Settings, stores: Stores, sessions: Sessions, clock: Callable[[], datetime]) -> None:
    """Once a day make five-minute bars of old minute bars."""
    while True:
        try:
            master = InstrumentMaster(stores.facts.instruments(), load_reference())
            today = ist_date(clock())
            await asyncio.to_thread(downsample, stores, sessions, master, today, settings.retention_days_1m)
        except Exception:
            log.exception("retention_failed")
        await asyncio.sleep(DAY_S)


def create_app(
    settings: Settings,
    clock: Callable[[], datetime] = real_clock,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    sessions: Sessions | None = None,
) -> FastAPI:
    """The application. `clock` is the present outside the simulated market, whose own clock follows `monotonic`.

    Generates the simulated history at the first start (seconds). Raises ConfigError, SessionsFileError, OSError.
    """
    calendar = sessions or load_sessions()
    stores: Stores | None = None
    if settings.environment is Environment.SIMULATED:
        market = simulated_market(settings, calendar, monotonic)
    else:
        stores = open_stores(settings)
        market = recorded_market(settings, stores, calendar, clock)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if stores is not None and settings.providers:
                await stack.enter_async_context(providers_running(settings, market, stores, calendar))
            if stores is not None and settings.retention_days_1m:
                task = asyncio.create_task(keep_small(settings, stores, calendar, clock))
                stack.callback(task.cancel)
            yield

    app = FastAPI(
        title="Sauda data_service", version=version("sauda"), docs_url="/docs", redoc_url=None, lifespan=lifespan
    )
    install_handlers(app)
    for routes in (router, quote_history_router, reference_router, health_router, metrics_router):
        app.include_router(routes(market))
    return app
