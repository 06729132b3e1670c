"""The services' answers are bounded in size as in time."""

from collections.abc import AsyncIterator

import httpx
import pytest
from httpx_aiohttp import AiohttpTransport

from backend.errors import UpstreamError
from backend.services import market_data_client
from backend.services.ml_service_client import MlServiceClient
from tests.support.upstream_server import CUT, HANG, Reply, UpstreamServer, as_json

CARD = {"version": "abc", "manifest": {"horizon_sessions": 10, "universe": ["TCS"] * 50, "strategies": {}}}
DAYS = {"trained_through": "2024-02-29", "calibrated_through": "2024-02-15", "logic_version": "1"}


@pytest.fixture
async def upstream() -> AsyncIterator[UpstreamServer]:
    card = CARD | {"manifest": CARD["manifest"] | DAYS}
    replies = {"/v1/models": as_json({"current": {"10": "abc", "1": None}}), "/v1/models/abc": as_json(card)}
    async with UpstreamServer(replies) as server:
        yield server


@pytest.fixture
async def client(upstream: UpstreamServer) -> AsyncIterator[MlServiceClient]:
    async with httpx.AsyncClient(transport=AiohttpTransport()) as http:
        yield MlServiceClient(http, upstream.url, 0.5)


async def test_an_answer_within_bounds_is_read(client: MlServiceClient) -> None:
    cards = await client.current_cards()
    assert list(cards) == ["10"]
    assert cards["10"].manifest.universe == ["TCS"] * 50


async def test_an_answer_beyond_its_bound_is_none(client: MlServiceClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market_data_client, "REPLY_BYTES_MAX", 200)
    with pytest.raises(UpstreamError, match="/v1/models/abc answered more than 200 bytes"):
        await client.current_cards()


@pytest.mark.parametrize("reply", [HANG, CUT, Reply(b"{}"), Reply(b"<html>")], ids=["hang", "cut", "other", "html"])
async def test_an_answer_that_cannot_be_read_is_none(
    client: MlServiceClient, upstream: UpstreamServer, reply: Reply
) -> None:
    upstream.everywhere = reply
    with pytest.raises(UpstreamError):
        await client.current_cards()
    upstream.everywhere = None
    assert list(await client.current_cards()) == ["10"]
