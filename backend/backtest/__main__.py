"""`python -m backend.backtest`: the worker that does the backtests asked for over the API."""

import asyncio
import os
import secrets
import signal
import socket
import sys

from pydantic import ValidationError

from backend import log
from backend.backtest.job import Bounds
from backend.backtest.request import Rules
from backend.backtest.worker import Stack, serve
from backend.config import Settings
from backend.db import create_engine, create_sessions
from backend.domain.calendar import standard_calendar
from backend.services.market_calendar import MarketCalendar

NICE = 10
"""Trading goes first; the jobs inherit it."""


async def work(settings: Settings) -> None:
    stopping = asyncio.Event()
    running = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        running.add_signal_handler(signum, stopping.set)
    engine = create_engine(settings.database_url, pool_size=settings.backtest_workers + 1)
    stack = Stack(
        name=f"{socket.gethostname()}-{secrets.token_hex(3)}",
        sessions=create_sessions(engine),
        calendar=MarketCalendar(standard_calendar()),
        data_service_url=settings.data_service_url,
        ml_service_url=settings.ml_service_url,
        rules=Rules.of(settings),
        bounds=Bounds(
            memory_mb_max=settings.backtest_memory_mb_max,
            seconds_max=settings.backtest_seconds_max,
            log_level=settings.log_level,
            log_file=log.file_in(settings.data_dir, "backtest"),
        ),
        announce=log.announce,
    )
    try:
        await serve(stack, settings.backtest_workers, stopping)
    finally:
        await engine.dispose()


def main() -> None:
    try:
        settings = Settings()
    except (ValidationError, ValueError) as error:
        sys.exit(f"The backtest worker cannot start: {error}")
    log.configure(settings.log_level, log.file_in(settings.data_dir, "backtest"))
    os.nice(NICE)
    asyncio.run(work(settings))


if __name__ == "__main__":
    main()
