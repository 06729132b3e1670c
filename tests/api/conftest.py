"""The gateway for tests: the real application over a real database, with a loopback market behind it."""

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest
import structlog
from argon2 import PasswordHasher
from fastapi import FastAPI
from httpx_aiohttp import AiohttpTransport
from sqlalchemy import text

from backend.api.app import create_api
from backend.api.state import ApiState
from backend.brokers.paper import PaperBroker, PaperMarket
from backend.brokers.zerodha import Zerodha
from backend.db import (
    APPLICATION_ROLE,
    OPERATOR_ROLE,
    Sessions,
    create_engine,
    create_sessions,
    create_tenant_sessions,
)
from backend.domain.calendar import IST, standard_calendar
from backend.domain.market import Product
from backend.domain.modes import Mode
from backend.domain.risk import RiskLimits
from backend.models import AutoTradeSettings, LoginSession, Role, Subscription, SubscriptionStatus, User
from backend.security import Security
from backend.services.account_service import open_account
from backend.services.broker_login_service import BrokerLogins
from backend.services.context import Trading, TradingRules
from backend.services.market_calendar import MarketCalendar
from backend.services.market_data_client import MarketDataClient
from backend.services.ml_service_client import MlServiceClient
from backend.services.quote_board import SYMBOLS_DEFAULT, QuoteBoard
from backend.services.streams import create_streams
from contracts.common import Environment
from sauda.embedded import EmbeddedPostgres
from tests.conftest import TEMPLATE
from tests.support.market_server import Market, Stock, create_app, serving

KEY = "a test key of more than thirty-two bytes"
MONDAY_10 = datetime(2024, 3, 18, 10, 0, tzinfo=IST)
DEPOSIT = Decimal(500_000)
_numbers = itertools.count(1)


@dataclass
class RealClock:
    """Real time as the tests set it."""

    now: datetime = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Someone:
    """A user in the database, and the headers that log them in."""

    id: int
    email: str
    headers: dict[str, str]
    account_id: int | None = None


@dataclass
class Gateway:
    app: FastAPI
    client: httpx.AsyncClient
    state: ApiState
    market: Market
    clock: RealClock
    operator: Sessions
    people: list[Someone] = field(default_factory=list)

    @property
    def trading(self) -> Trading:
        """The trading engine: whoever calls the API gets no such rights."""
        return self.state.desk

    @property
    def sessions(self) -> Sessions:
        """Everybody's rows: the gateway itself sees its caller's alone."""
        return self.operator

    async def someone(
        self,
        plan: str = "free",
        *,
        admin: bool = False,
        account: bool = False,
        enabled: bool = False,
        mode: Mode = Mode.MODERATE,
        symbols: tuple[str, ...] = SYMBOLS_DEFAULT,
    ) -> Someone:
        """Create a user who is logged in, on `plan`; with `account`, a paper account of DEPOSIT rupees."""
        email = f"someone{next(_numbers)}@example.com"
        async with self.sessions.begin() as session:
            user = User(email=email, name="Someone", role=Role.ADMIN if admin else Role.USER)
            session.add(user)
            await session.flush()
            login = LoginSession(
                user_id=user.id, proved_at=self.clock(), expires_at=self.clock() + timedelta(days=3650)
            )
            session.add(login)
            await session.flush()
            if plan != "free":
                session.add(Subscription(user_id=user.id, plan_code=plan, status=SubscriptionStatus.ACTIVE))
            if enabled:
                settings = AutoTradeSettings(
                    user_id=user.id, enabled=True, mode=mode, product=Product.CNC, symbols=list(symbols)
                )
                settings.enabled_at = self.market.now
                session.add(settings)
        headers = {"Authorization": f"Bearer {self.state.security.issue(user.id, login.id)}"}
        made = Someone(user.id, email, headers)
        if account or enabled:
            opened = await open_account(self.state.desk, user.id, "paper", "p", DEPOSIT)
            made.account_id = opened.account.id
        return made


def make_trading(http: httpx.AsyncClient, url: str, sessions: Sessions, market: Market) -> Trading:
    """The trading world as the composition root wires it, with the test's market."""
    market_data = MarketDataClient(http, url, 5)
    calendar = MarketCalendar(standard_calendar())

    async def now() -> datetime:
        return market.now

    async def quotes(symbols, as_of):
        return (await market_data.quotes(symbols, as_of)).quotes

    paper = PaperMarket(now, quotes, market_data.bars_since, calendar.phase, calendar.session_ended)
    rules = TradingRules(
        environment=Environment.SIMULATED,
        trader="test",
        cycle_interval_s=60,
        shards=1,
        horizon_sessions=10,
        order_rest_s_max=600,
        decisions_kept_days=30,
        limits=RiskLimits(),
    )
    return Trading(
        sessions=sessions,
        brokers={"paper": PaperBroker(sessions, paper, place_timeout_s=6.0)},
        market_data=market_data,
        ml_service=MlServiceClient(http, url, 5),
        calendar=calendar,
        rules=rules,
        clock=now,
        announce=lambda _: None,
    )


@asynccontextmanager
async def gateway_over(database_url: str, pool_size: int = 3) -> AsyncIterator[Gateway]:
    """A gateway on a database, with a market of the five default shares behind it."""
    market = Market(now=MONDAY_10, stocks={s: Stock(Decimal(1000 + 500 * i)) for i, s in enumerate(SYMBOLS_DEFAULT)})
    clock = RealClock()
    desk_engine = create_engine(database_url, pool_size=3)
    engine = create_engine(database_url, role=APPLICATION_ROLE, pool_size=pool_size)
    operator = create_engine(database_url, role=OPERATOR_ROLE, pool_size=1)
    sessions = create_tenant_sessions(engine)
    with serving(create_app(market)) as url:
        async with httpx.AsyncClient(transport=AiohttpTransport()) as http:
            trading = make_trading(http, url, create_sessions(desk_engine), market)
            trading.calendar.know(await trading.market_data.load_instruments())
            board = QuoteBoard(trading.market_data, Environment.SIMULATED)
            security = Security(KEY, 10, clock, PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
            # Nothing listens there: tests of logins bring a broker of their own.
            zerodha = Zerodha(http=http, now=clock, url="http://127.0.0.1:9")
            state = ApiState(
                sessions=sessions,
                trading=replace(trading, sessions=sessions),
                desk=trading,
                security=security,
                quote_board=board,
                streams=create_streams(board, trading.market_data, trading.calendar, Environment.SIMULATED),
                paper_deposit_rupees=DEPOSIT,
                cors_origins=("https://app.example.com",),
                environment=Environment.SIMULATED,
                broker_logins=BrokerLogins({zerodha.name: zerodha}, http, trading.sessions, None, security),
            )
            app = create_api(state)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                yield Gateway(app, client, state, market, clock, create_sessions(operator))
    for each in (desk_engine, engine, operator):
        await each.dispose()


async def _new_database(postgres: EmbeddedPostgres, name: str) -> str:
    admin = create_engine(postgres.url("postgres"), pool_size=1, owner=True)
    async with admin.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{TEMPLATE}"'))
    await admin.dispose()
    return postgres.url(name)


@pytest.fixture(scope="session", autouse=True)
def plain_log() -> Iterator[None]:
    """Log as the gateway does: structlog's own way of printing a crash takes seconds."""
    before = structlog.get_config()
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
async def gateway(postgres: EmbeddedPostgres) -> AsyncIterator[Gateway]:
    """One gateway for all tests that only look at their own users' rows, and move no clock and no market."""
    async with gateway_over(await _new_database(postgres, "api_shared")) as made:
        yield made


@pytest.fixture
async def own_gateway(database_url: str) -> AsyncIterator[Gateway]:
    """A gateway with a database, a clock and a market of the test's own."""
    async with gateway_over(database_url) as made:
        yield made


def later(moment: datetime, seconds: float) -> datetime:
    return moment + timedelta(seconds=seconds)
