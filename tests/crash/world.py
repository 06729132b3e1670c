"""The world a crash happens in: one tick with an exit and two entries, over a real database, broker and market."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from httpx_aiohttp import AiohttpTransport
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import configure_mappers

from backend.brokers.base import Broker
from backend.db import OPERATOR_ROLE, Sessions, create_engine, create_sessions
from backend.domain.calendar import IST, standard_calendar
from backend.domain.market import Product
from backend.domain.modes import Mode as TradingMode
from backend.domain.reconcile import LookupRules
from backend.domain.risk import RiskLimits
from backend.models import (
    AutoTradeSettings,
    BrokerAccount,
    BrokerAccountStatus,
    Subscription,
    SubscriptionStatus,
    User,
)
from backend.services.auto_trading_service import run_cycle
from backend.services.context import Trading, TradingRules
from backend.services.ledger_service import open_books
from backend.services.market_calendar import MarketCalendar
from backend.services.market_data_client import MarketDataClient
from backend.services.ml_service_client import MlServiceClient
from backend.services.reconcile_service import reconcile
from contracts.common import Environment
from contracts.predictions import Action
from sauda.embedded import EmbeddedPostgres, create_database, migrate
from tests.crash.children import Child, Say, run_child
from tests.support import broker_server, kite_routes, market_server
from tests.support.broker_book import FIRST_CASH, Mode
from tests.support.http_broker import HttpBroker
from tests.support.kite_routes import ZerodhaDesk, as_kite_tells
from tests.support.market_server import Market, Stock

FIRST_TICK = datetime(2024, 3, 18, 10, 0, tzinfo=IST)
TICK = timedelta(minutes=1)
CRASH_TICK = FIRST_TICK + TICK
EMPTY = "crash_empty"
PEOPLE = {"crash_one": {"asha": ("INFY", "TCS")}}
PEOPLE["crash_three"] = PEOPLE["crash_one"] | {"ravi": ("TCS",), "meera": ("INFY", "TCS")}
"""The templates: who trades which symbols. Whoever chose INFY holds it when the crash tick comes, and sells it then."""
ZERODHA = "crash_zerodha"
"""The template whose people trade at Zerodha, over Kite's wire; laid out by who needs it."""
CONTROL_TIMEOUT_S = 10.0

PRODUCTION: dict[str, Any] = {}
"""No change to TradingRules: its own leases, deadlines and look-up times."""

SCALED: dict[str, Any] = {
    "lease_s": 1.0,
    "send_timeout_s": 1.0,
    "lookup": LookupRules(from_s=1.2, every_s=0.2, count_max=3),
}
"""A crash every second, not every minute: the same waits, shorter, in the same order."""


@dataclass(frozen=True, slots=True)
class Hall:
    """What outlives every crash: the database server, the broker and the market before and after prices moved."""

    folder: Path
    postgres: EmbeddedPostgres
    broker_url: str
    kite_url: str
    quiet_url: str
    moved_url: str


@dataclass(frozen=True, slots=True)
class Stage:
    """One round's own part of it: a database and a book at the broker, both as they were before the crash tick."""

    hall: Hall
    name: str
    template: str = "crash_one"

    @property
    def database_url(self) -> str:
        return self.hall.postgres.url(self.name)

    @property
    def at_zerodha(self) -> bool:
        return ZERODHA in {self.name, self.template}

    @property
    def broker_name(self) -> str:
        return ZerodhaDesk.broker if self.at_zerodha else HttpBroker.name

    @property
    def broker_url(self) -> str:
        return f"{self.hall.kite_url if self.at_zerodha else self.hall.broker_url}/{self.name}"


@contextmanager
def hall(folder: Path) -> Iterator[Hall]:
    """Start database, broker and markets, and lay out the template stage. Servers run in children, forked first."""
    servers = Child(_serve)
    postgres = EmbeddedPostgres(folder / "postgres")
    configure_mappers()  # once here, and in no child again
    try:
        while not servers.said() and servers.hear():
            pass
        urls = servers.said()[0]
        postgres.start()
        place = Hall(folder, postgres, *urls)
        run_child(lambda _: _lay_out(place))
        yield place
    finally:
        servers.signal(signal.SIGKILL)
        servers.end()
        postgres.stop()


def _serve(say: Say) -> None:
    """The broker and both markets, until killed."""
    before = {"INFY": Stock(Decimal(1500)), "TCS": Stock(Decimal(4000), action=Action.HOLD)}
    after = {"INFY": Stock(Decimal(1560), reference=Decimal(1500)), "TCS": Stock(Decimal(4000))}
    with (
        broker_server.serving(broker_server.create_app(lambda: FIRST_TICK)) as broker,
        broker_server.serving(kite_routes.create_app(lambda: FIRST_TICK)) as kite,
        broker_server.serving(market_server.create_app(Market(FIRST_TICK, before))) as quiet,
        broker_server.serving(market_server.create_app(Market(FIRST_TICK, after))) as moved,
    ):
        say([broker, kite, quiet, moved])
        signal.pause()


def _lay_out(place: Hall) -> None:
    """Migrate the template databases and trade their first tick."""
    migrate(create_database(place.postgres, EMPTY))
    for name, people in PEOPLE.items():
        _lay_out_template(Stage(place, name, EMPTY), people)


def lay_out_zerodha(place: Hall) -> None:
    """Let crash_one's people trade their first tick at Zerodha."""
    run_child(lambda _: _lay_out_template(Stage(place, ZERODHA, EMPTY), PEOPLE["crash_one"]))


def _lay_out_template(template: Stage, people: Mapping[str, tuple[str, ...]]) -> None:
    _set_up(template, [Mode.ACCEPT])
    asyncio.run(_trade_first_tick(template, people))


async def _trade_first_tick(template: Stage, people: Mapping[str, tuple[str, ...]]) -> None:
    async with trading_on(template, at=FIRST_TICK, moved=False) as desk:
        operator = create_engine(template.database_url, role=OPERATOR_ROLE, pool_size=1)
        for name, symbols in people.items():
            await _add_user(create_sessions(operator), name, symbols, template.broker_name)
        await operator.dispose()
        await run_cycle(desk.trading, FIRST_TICK)
        await reconcile(desk.trading)
        async with desk.trading.sessions() as session:
            held = (await session.execute(text("SELECT symbol, status FROM auto_trades"))).all()
    holders = sum("INFY" in symbols for symbols in people.values())
    assert [tuple(row) for row in held] == [("INFY", "open")] * holders, held


async def _add_user(sessions: Sessions, name: str, symbols: tuple[str, ...], broker: str) -> None:
    async with sessions.begin() as session:
        user = User(email=f"{name}@example.com")
        session.add(user)
        await session.flush()
        ready = BrokerAccountStatus.READY
        account = BrokerAccount(user_id=user.id, broker=broker, label="p", status=ready, is_primary=True)
        session.add(account)
        session.add(Subscription(user_id=user.id, plan_code="pro", status=SubscriptionStatus.ACTIVE))
        session.add(
            AutoTradeSettings(
                user_id=user.id, enabled=True, mode=TradingMode.MODERATE, product=Product.CNC, symbols=list(symbols)
            )
        )
        await session.flush()
        await open_books(session, account.id, FIRST_CASH, FIRST_TICK)


@dataclass(slots=True)
class Desk:
    """A trader in this process: its trading world, engine and the market instant it believes in."""

    stage: Stage
    trading: Trading
    engine: AsyncEngine
    http: httpx.AsyncClient
    now: datetime

    async def set_clock(self, now: datetime) -> None:
        """Move the market's instant, here and at the broker."""
        self.now = now
        await self._control("PUT", "clock", {"now": now.isoformat()})

    async def behave(self, modes: list[Mode], **figures: float) -> None:
        await self._control("PUT", "behaviour", {"modes": modes} | figures)

    async def truth(self) -> dict[str, Any]:
        told = (await self._control("GET", "truth", None)).json()
        return as_kite_tells(told) if self.stage.at_zerodha else told

    async def _control(self, method: str, what: str, body: Any) -> httpx.Response:
        url = f"{self.stage.broker_url}/control/{what}"
        return (await self.http.request(method, url, json=body, timeout=CONTROL_TIMEOUT_S)).raise_for_status()


@asynccontextmanager
async def trading_on(
    stage: Stage,
    *,
    at: datetime,
    moved: bool = True,
    rules: dict[str, Any] = PRODUCTION,
    trader: str = "crash",
    pool_size: int = 3,
) -> AsyncIterator[Desk]:
    """The trading world as main.py wires it, with the misbehaving broker's adapter and a market clock set by hand."""
    engine = create_engine(stage.database_url, pool_size=pool_size)
    url = stage.hall.moved_url if moved else stage.hall.quiet_url
    broker_timeout_s = rules.get("send_timeout_s", 2.0) * 2
    async with httpx.AsyncClient(transport=AiohttpTransport()) as http:
        market_data = MarketDataClient(http, url, 5)
        calendar = MarketCalendar(standard_calendar())
        calendar.know(await market_data.load_instruments())

        async def clock() -> datetime:
            return desk.now

        trading = Trading(
            sessions=create_sessions(engine),
            brokers={stage.broker_name: _broker_of(stage, http, broker_timeout_s)},
            market_data=market_data,
            ml_service=MlServiceClient(http, url, 5),
            calendar=calendar,
            rules=rules_with(rules, trader, shards=2 if stage.template == "crash_three" else 1),
            clock=clock,
            announce=lambda _: None,
        )
        desk = Desk(stage, trading, engine, http, at)
        try:
            yield desk
        finally:
            await engine.dispose()


def _broker_of(stage: Stage, http: httpx.AsyncClient, timeout_s: float) -> Broker:
    if stage.at_zerodha:
        return ZerodhaDesk(http, stage.broker_url, lambda: FIRST_TICK, timeout_s)
    return HttpBroker(http, stage.broker_url, timeout_s=timeout_s)


def rules_with(changes: dict[str, Any], trader: str, shards: int) -> TradingRules:
    """The deployment's rules, with another pace where a rule of that name exists."""
    rules = TradingRules(
        environment=Environment.SIMULATED,
        trader=trader,
        cycle_interval_s=60,
        shards=shards,
        horizon_sessions=10,
        order_rest_s_max=600,
        decisions_kept_days=30,
        limits=RiskLimits(),
    )
    return replace(rules, **changes)


@asynccontextmanager
async def _admin(place: Hall) -> AsyncIterator[Any]:
    engine = create_engine(place.postgres.url("postgres"), pool_size=1, owner=True)
    async with engine.connect() as connection:
        yield await connection.execution_options(isolation_level="AUTOCOMMIT")
    await engine.dispose()


async def _control(stage: Stage, method: str, path: str, body: Any) -> httpx.Response:
    async with httpx.AsyncClient() as http:
        url = f"{stage.broker_url}{path}"
        return (await http.request(method, url, json=body, timeout=CONTROL_TIMEOUT_S)).raise_for_status()


BY_HAND = {
    "account": 1,
    "symbol": "TCS",
    "exchange": "nse",
    "side": "buy",
    "product": "cnc",
    "order_type": "market",
    "quantity": 2,
    "limit_price": None,
}


def set_up(stage: Stage, modes: list[Mode], *, by_hand: bool = False, **figures: float) -> None:
    """Give a round its own database and book; from now on the broker behaves as `modes` say.

    `by_hand`: its user has bought TCS in the broker's own app.
    """
    run_child(lambda _: _set_up(stage, modes, by_hand, **figures))


def _set_up(stage: Stage, modes: list[Mode], by_hand: bool = False, **figures: float) -> None:

    async def run() -> None:
        async with _admin(stage.hall) as admin:
            await admin.execute(text(f'CREATE DATABASE "{stage.name}" TEMPLATE "{stage.template}" STRATEGY FILE_COPY'))
        await _control(stage, "POST", "/control/copy", {"source": stage.template})
        await _control(stage, "PUT", "/control/clock", {"now": CRASH_TICK.isoformat()})
        await _control(stage, "PUT", "/control/behaviour", {"modes": modes} | figures)
        if by_hand:
            placed = await _control(stage, "POST", "/control/orders", BY_HAND)
            await _control(stage, "POST", "/control/fill", placed.json())

    asyncio.run(run())


def tear_down(stage: Stage) -> None:
    async def run() -> None:
        async with _admin(stage.hall) as admin:
            await admin.execute(text(f'DROP DATABASE IF EXISTS "{stage.name}" WITH (FORCE)'))
        await _control(stage, "DELETE", "", None)

    run_child(lambda _: asyncio.run(run()))


def quieten(log: Path) -> None:
    """Let this process and its children write their log to a file: the table of figures stays readable."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    with suppress(AttributeError):
        import structlog

        structlog.configure(logger_factory=structlog.WriteLoggerFactory(log.open("a", buffering=1)))
