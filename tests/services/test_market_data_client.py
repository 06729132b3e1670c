"""The client asks a real data_service, on imported bars, for the market of the instant it is about."""

from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from backend.domain.calendar import IST
from backend.services.market_data_client import MarketDataClient
from contracts.common import Environment
from data_service.config import Settings
from data_service.imports.load import import_file
from data_service.main import create_app
from data_service.sessions import load_sessions
from data_service.store.stores import embedded
from tests.support.market_server import serving

BARS = """symbol,date,open,high,low,close,volume
OLD,2024-03-14,200,210,190,200,5000
OLD,2024-03-15,200,210,190,200,5000
OLD,2024-06-28,200,210,190,200,5000
YOUNG,2024-06-28,200,210,190,200,5000
"""
NOW_S = 1_767_225_600
MARCH, JULY = datetime(2024, 3, 18, 9, 15, tzinfo=IST), datetime(2024, 7, 1, 9, 15, tzinfo=IST)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[MarketDataClient]:
    settings = Settings(environment=Environment.PAPER, data_dir=tmp_path)
    (tmp_path / "bars.csv").write_text(BARS)
    import_file(embedded(settings.recorded_dir), load_sessions(), tmp_path / "bars.csv", now_s=NOW_S)
    with serving(create_app(settings, lambda: JULY)) as url:
        async with httpx.AsyncClient() as http:
            yield MarketDataClient(http, url, 5)


def ticks(client: MarketDataClient) -> dict[str, Decimal]:
    return {symbol: instrument.tick_size_rupees for symbol, instrument in client.instruments.items()}


async def test_instruments_are_those_of_the_instant_with_its_ticks(client: MarketDataClient) -> None:
    listed = await client.load_instruments(MARCH)
    assert [instrument.symbol for instrument in listed] == ["OLD"]
    assert ticks(client) == {"OLD": Decimal("0.05")}
    await client.load_instruments(JULY)
    assert ticks(client) == {"OLD": Decimal("0.01"), "YOUNG": Decimal("0.01")}  # NSE's rule of 2024-06-10


async def test_without_an_instant_they_are_the_presents(client: MarketDataClient) -> None:
    await client.load_instruments()
    assert set(ticks(client)) == {"OLD", "YOUNG"}


async def test_a_first_quote_brings_the_ticks_of_its_own_instant(client: MarketDataClient) -> None:
    batch = await client.quotes(["OLD"], MARCH)
    assert batch.quotes["OLD"].view.tick == Decimal("0.05")
