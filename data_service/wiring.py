"""Builds stores and the chain of providers as the settings ask; the service and the command line share it."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

import httpx
from httpx_aiohttp import AiohttpTransport

from data_service.breaker import Breakers
from data_service.chain import Chain, orders
from data_service.config import Settings
from data_service.metrics import Metrics
from data_service.providers.base import Provider
from data_service.providers.bse import Bse
from data_service.providers.kite import Kite
from data_service.providers.nse import Nse
from data_service.providers.yahoo import Yahoo
from data_service.sessions import Sessions, ist_date
from data_service.store.facts import Facts
from data_service.store.influx_bars import InfluxBars
from data_service.store.stores import Stores, embedded

INFLUX_TIMEOUT_S = 10.0

Clock = Callable[[], datetime]


def open_stores(settings: Settings) -> Stores:
    """The stores: bars in InfluxDB where INFLUXDB_URL is set, else as files; facts always as files."""
    if not settings.influxdb_url:
        return embedded(settings.recorded_dir)
    bars = InfluxBars(
        settings.influxdb_url,
        settings.influxdb_token.get_secret_value(),
        settings.influxdb_org,
        settings.influxdb_bucket,
        timeout_s=INFLUX_TIMEOUT_S,
        monotonic_s=time.monotonic,
    )
    return Stores(bars, Facts(settings.recorded_dir))


def _provider(name: str, settings: Settings, http: httpx.AsyncClient, sessions: Sessions, clock: Clock) -> Provider:
    def today():
        return ist_date(clock())

    def now_s() -> float:
        return clock().timestamp()

    if name == "nse":
        return Nse(http, sessions, today, archives_url=settings.nse_archives_url, site_url=settings.nse_site_url)
    if name == "bse":
        return Bse(http, sessions, today, archive_url=settings.bse_archive_url)
    if name == "kite":
        token = settings.kite_access_token
        return Kite(http, sessions, now_s, settings.kite_api_key, lambda: token, base_url=settings.kite_url)
    return Yahoo(http, sessions, now_s, base_url=settings.yahoo_url)


@asynccontextmanager
async def open_chain(settings: Settings, sessions: Sessions, clock: Clock, metrics: Metrics) -> AsyncIterator[Chain]:
    """The chain over the configured providers, with its connections, for as long as the block runs."""
    async with httpx.AsyncClient(transport=AiohttpTransport()) as http:
        providers = [_provider(name, settings, http, sessions, clock) for name in settings.providers]
        breakers = Breakers(time.monotonic, metrics.breaker)
        yield Chain(
            orders(providers),
            breakers,
            metrics,
            sessions,
            monotonic_s=time.monotonic,
            now_s=lambda: clock().timestamp(),
        )
