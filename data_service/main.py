"""The composition root of data_service: wires settings, clock and provider into the HTTP application."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version

from fastapi import FastAPI

from contracts.common import Environment
from data_service.clock import Identity, ProgressFile, SimulatedClock, Timeline
from data_service.config import Settings
from data_service.errors import install_handlers
from data_service.instruments import load_reference
from data_service.providers.recorded import RecordedMarket
from data_service.providers.simulated import SimulatedMarket
from data_service.routes import Market, health_router, router
from data_service.sessions import Sessions, load_sessions
from data_service.simulator.universe import load_universe
from data_service.store.stores import embedded


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


def recorded_market(settings: Settings, sessions: Sessions, clock: Callable[[], datetime]) -> Market:
    """The imported bars under the real clock."""
    stores = embedded(settings.recorded_dir)

    def trouble() -> str:
        return "" if stores.bars.stamps() else "No bars are stored: import some with `sauda data import FILE`."

    return Market(settings.environment, RecordedMarket(stores, sessions, load_reference()), clock, 1.0, trouble)


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
    if settings.environment is Environment.SIMULATED:
        market = simulated_market(settings, calendar, monotonic)
    else:
        market = recorded_market(settings, calendar, clock)
    app = FastAPI(title="Sauda data_service", version=version("sauda"), docs_url="/docs", redoc_url=None)
    install_handlers(app)
    app.include_router(router(market))
    app.include_router(health_router(market))
    return app
