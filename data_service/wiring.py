"""Builds stores and the chain of providers as the settings ask; the service and the command line share it."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime

import httpx
import polars as pl
from httpx_aiohttp import AiohttpTransport
from pydantic import SecretStr

from contracts.market import ActionKind
from data_service.breaker import Breakers
from data_service.chain import Chain, orders
from data_service.config import Settings
from data_service.live import Tokens
from data_service.metrics import Metrics
from data_service.providers.base import Provider
from data_service.providers.bse import Bse
from data_service.providers.kite import Kite
from data_service.providers.kite_ticks import KiteTicker
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


def last_ex_date(stores: Stores, symbol: str, today: date) -> date | None:
    """The last ex-date up to `today` on which a price was changed by more than the market. Raises StoreError."""
    actions = stores.facts.actions().filter(
        pl.col("symbol") == symbol,
        pl.col("ex_date") <= today,
        pl.col("kind").is_in([ActionKind.OTHER.value, ActionKind.RENAME.value]).not_(),
    )
    return actions.select(pl.col("ex_date").max()).item()


@dataclass(frozen=True, slots=True)
class Upstream:
    """The providers: their chain, their breakers, and Kite's stream with its numbers for symbols where it is set up."""

    chain: Chain
    breakers: Breakers
    ticker: KiteTicker | None
    tokens: Tokens | None


@asynccontextmanager
async def open_upstream(
    settings: Settings, stores: Stores, sessions: Sessions, clock: Clock, metrics: Metrics
) -> AsyncIterator[Upstream]:
    """The configured providers with their connections, for as long as the block runs."""

    def today() -> date:
        return ist_date(clock())

    def now_s() -> float:
        return clock().timestamp()

    def token() -> SecretStr:
        return settings.kite_access_token

    async with httpx.AsyncClient(transport=AiohttpTransport()) as http:
        nse = Nse(http, sessions, today, archives_url=settings.nse_archives_url, site_url=settings.nse_site_url)
        bse = Bse(http, sessions, today, archive_url=settings.bse_archive_url)
        kite = Kite(
            http,
            sessions,
            now_s,
            settings.kite_api_key,
            token,
            adjusted_before=lambda symbol: last_ex_date(stores, symbol, today()),
            base_url=settings.kite_url,
        )
        yahoo = Yahoo(http, sessions, now_s, base_url=settings.yahoo_url)
        known: dict[str, Provider] = {"nse": nse, "bse": bse, "kite": kite, "yahoo": yahoo}
        order = orders([known[name] for name in settings.providers])
        breakers = Breakers(time.monotonic, metrics.breaker)
        chain = Chain(order, breakers, metrics, sessions, monotonic_s=time.monotonic, now_s=now_s)
        ticker = None
        if "kite" in settings.providers:
            ticker = KiteTicker(settings.kite_api_key, token, url=settings.kite_ticker_url)
        yield Upstream(chain, breakers, ticker, kite.tokens if ticker else None)
