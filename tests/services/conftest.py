"""A trading world for the services' tests: real database, real HTTP, a paper broker, and a market the test moves."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

import httpx
import pytest
from httpx_aiohttp import AiohttpTransport
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from backend.brokers.paper import PaperBroker, PaperMarket
from backend.domain.calendar import IST, standard_calendar
from backend.domain.market import Product
from backend.domain.modes import Mode
from backend.domain.risk import RiskLimits
from backend.models import (
    AutoTradeSettings,
    BrokerAccount,
    BrokerAccountStatus,
    Subscription,
    SubscriptionStatus,
    User,
)
from backend.services.account_service import deposit_play_money
from backend.services.context import Trading, TradingRules
from backend.services.market_calendar import MarketCalendar
from backend.services.market_data_client import MarketDataClient
from backend.services.ml_service_client import MlServiceClient
from contracts.common import Environment
from tests.support.market_server import Market, Stock, create_app, serving

MONDAY_10 = datetime(2024, 3, 18, 10, 0, tzinfo=IST)


@pytest.fixture
def market() -> Market:
    return Market(now=MONDAY_10, stocks={"INFY": Stock(Decimal(1500)), "TCS": Stock(Decimal(4000))})


@pytest.fixture
async def trading(trader_sessions: async_sessionmaker[AsyncSession], market: Market) -> AsyncIterator[Trading]:
    """Everything a cycle needs, as main.py wires it, with the market's own clock."""
    with serving(create_app(market)) as url:
        async with httpx.AsyncClient(transport=AiohttpTransport()) as http:
            market_data = MarketDataClient(http, url, 5)
            calendar = MarketCalendar(standard_calendar())
            calendar.know(await market_data.load_instruments())

            async def now() -> datetime:
                return market.now

            async def quotes(symbols, as_of):
                return (await market_data.quotes(symbols, as_of)).quotes

            paper = PaperMarket(now, quotes, market_data.bars_since, calendar.phase, calendar.session_ended)
            yield Trading(
                sessions=trader_sessions,
                brokers={"paper": PaperBroker(trader_sessions, paper, place_timeout_s=6.0)},
                market_data=market_data,
                ml_service=MlServiceClient(http, url, 5),
                calendar=calendar,
                rules=TradingRules(
                    environment=Environment.SIMULATED,
                    trader="test",
                    cycle_interval_s=60,
                    shards=2,
                    horizon_sessions=10,
                    order_rest_s_max=600,
                    decisions_kept_days=30,
                    limits=RiskLimits(),
                    # Twice a second's hiccup of a busy machine; what tests the deadlines sets its own.
                    send_timeout_s=6.0,
                    halt_unseen_s_max=3.0,
                ),
                clock=now,
                announce=lambda _: None,
            )


@pytest.fixture
def two_traders(trading: Trading) -> tuple[Trading, Trading]:
    return trading, replace(trading, rules=replace(trading.rules, trader="other"))


MakeUser = Callable[..., Awaitable[int]]


@pytest.fixture
def make_user(sessions: async_sessionmaker[AsyncSession], market: Market) -> MakeUser:
    """Create a user who trades; returns the user's id."""

    async def make(
        name: str = "asha",
        plan: str = "pro",
        mode: Mode = Mode.MODERATE,
        cash: Decimal = Decimal(500_000),
        product: Product = Product.CNC,
        symbols: tuple[str, ...] = ("INFY", "TCS"),
        enabled: bool = True,
    ) -> int:
        async with sessions.begin() as session:
            user = User(email=f"{name}@example.com")
            session.add(user)
            await session.flush()
            account = BrokerAccount(
                user_id=user.id, broker="paper", label="p", status=BrokerAccountStatus.READY, is_primary=True
            )
            session.add(account)
            if plan != "free":
                session.add(Subscription(user_id=user.id, plan_code=plan, status=SubscriptionStatus.ACTIVE))
            session.add(
                AutoTradeSettings(user_id=user.id, enabled=enabled, mode=mode, product=product, symbols=list(symbols))
            )
            await session.flush()
            await deposit_play_money(session, account.id, cash, market.now)
            return user.id

    return make
