"""A gateway whose data_service and ml_service do not answer: what needs the database alone must go on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime

import httpx
from httpx_aiohttp import AiohttpTransport

from backend.api.app import create_api
from backend.services.context import Trading
from backend.services.market_data_client import MarketDataClient
from backend.services.ml_service_client import MlServiceClient
from tests.api.conftest import Gateway

NOWHERE = "http://127.0.0.1:1"


@asynccontextmanager
async def without_market(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the same gateway, alone in the world but for its database."""
    async with httpx.AsyncClient(transport=AiohttpTransport()) as http:
        market_data = MarketDataClient(http, NOWHERE, 5)

        async def clock() -> datetime:
            return (await market_data.clock()).now

        def alone(trading: Trading) -> Trading:
            return replace(trading, clock=clock, market_data=market_data, ml_service=MlServiceClient(http, NOWHERE, 5))

        app = create_api(replace(gateway.state, trading=alone(gateway.state.trading), desk=alone(gateway.state.desk)))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            yield client
