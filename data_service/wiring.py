"""Builds stores and the chain of providers as the settings ask; the service and the command line share it."""

import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import httpx
import polars as pl
from httpx_aiohttp import AiohttpTransport
from pydantic import SecretStr

from contracts.market import ActionKind
from data_service.actions import company_names
from data_service.breaker import Breakers
from data_service.chain import Chain, orders
from data_service.config import Settings
from data_service.live import Tokens
from data_service.metrics import Metrics
from data_service.providers.base import Kind, Provider
from data_service.providers.bse import Bse
from data_service.providers.kite import Kite
from data_service.providers.kite_ticks import KiteTicker
from data_service.providers.nse import Nse
from data_service.providers.ticker import Ticker
from data_service.providers.upstox import Upstox
from data_service.providers.upstox_ticks import UpstoxTicker
from data_service.providers.yahoo import Yahoo
from data_service.sessions import Sessions, ist_date
from data_service.store.facts import Facts
from data_service.store.influx_bars import InfluxBars
from data_service.store.stores import Stores, embedded

INFLUX_TIMEOUT_S = 10.0

Clock = Callable[[], datetime]
Stream = tuple[Ticker[Any], Tokens]


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


class ExDates:
    """The last ex-date of each share on which its price was changed by more than the market, read once per change."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._read: tuple[Hashable, dict[str, date]] | None = None

    def last(self, symbol: str, today: date) -> date | None:
        """The last one up to `today`, under any name of the share. Raises StoreError."""
        key = self._facts.signature(), today
        if self._read is None or self._read[0] != key:
            self._read = key, _last_ex_dates(self._facts.actions(), today)
        return self._read[1].get(symbol)


def _last_ex_dates(actions: pl.DataFrame, today: date) -> dict[str, date]:
    renames = actions.filter(pl.col("kind") == ActionKind.RENAME)
    moving = actions.filter(
        pl.col("ex_date") <= today, pl.col("kind").is_in([ActionKind.OTHER.value, ActionKind.RENAME.value]).not_()
    )
    last = dict(moving.group_by("symbol").agg(pl.col("ex_date").max()).iter_rows())
    for symbol in {*renames["symbol"], *renames["new_symbol"].drop_nulls()}:
        of_share = [last[span.name] for span in company_names(symbol, renames, today) if span.name in last]
        if of_share:
            last[symbol] = max(of_share)
    return last


@dataclass(frozen=True, slots=True)
class Upstream:
    """The providers: their chain, the kinds of data they have, their breakers, and the stream of the first broker
    among them with its own names of symbols."""

    chain: Chain
    kinds: frozenset[Kind]
    breakers: Breakers
    ticker: Ticker[Any] | None
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

    ex_dates = ExDates(stores.facts)

    def adjusted_before(symbol: str) -> date | None:
        return ex_dates.last(symbol, today())

    # No timeout of the client's own: each caller brings its deadline.
    async with httpx.AsyncClient(transport=AiohttpTransport(), timeout=None) as http:  # noqa: S113  # nosec B113
        nse = Nse(http, sessions, today, archives_url=settings.nse_archives_url, site_url=settings.nse_site_url)
        bse = Bse(http, sessions, today, archive_url=settings.bse_archive_url)
        kite = Kite(
            http,
            sessions,
            now_s,
            settings.kite_api_key,
            token,
            adjusted_before=adjusted_before,
            base_url=settings.kite_url,
        )
        upstox = Upstox(
            http,
            sessions,
            now_s,
            lambda: settings.upstox_access_token,
            adjusted_before=adjusted_before,
            base_url=settings.upstox_url,
            files_url=settings.upstox_files_url,
        )
        yahoo = Yahoo(http, sessions, now_s, base_url=settings.yahoo_url)
        known: dict[str, Provider] = {"nse": nse, "bse": bse, "kite": kite, "upstox": upstox, "yahoo": yahoo}
        order = orders([known[name] for name in settings.providers])
        breakers = Breakers(time.monotonic, metrics.breaker)
        chain = Chain(order, breakers, metrics, sessions, monotonic_s=time.monotonic, now_s=now_s)
        streams: dict[str, Callable[[], Stream]] = {
            "kite": lambda: (KiteTicker(settings.kite_api_key, token, url=settings.kite_ticker_url), kite.tokens),
            "upstox": lambda: (UpstoxTicker(upstox.feed_address), upstox.keys),
        }
        stream = next((streams[name]() for name in settings.providers if name in streams), None)
        kinds = frozenset(kind for kind, providers in order.items() if providers)
        yield Upstream(chain, kinds, breakers, *(stream or (None, None)))
