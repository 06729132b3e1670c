"""Public market data: quotes prepared once and served as bytes, bars, predictions and health."""

from datetime import timedelta
from decimal import Decimal

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.api.fast_path import FastQuotes, matches, requested_symbols
from backend.api.schemas.market import QuotesView
from backend.errors import UpstreamError
from backend.services.quote_board import SYMBOLS_DEFAULT, QuoteBoard
from backend.services.rupees import rupees_text
from contracts.common import Environment
from tests.api.conftest import MONDAY_10, Gateway, later
from tests.api.test_problems import problem_of

QUOTES = "/v1/market/quotes"


class Monotonic:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def _nothing_behind(*_: object) -> None:
    raise AssertionError("the request went past the prepared bytes")


async def test_quotes_are_public_and_true_to_their_model(gateway: Gateway) -> None:
    reply = await gateway.client.get(QUOTES)
    assert reply.status_code == 200
    assert reply.headers["cache-control"] == "public, max-age=1"
    view = QuotesView.model_validate_json(reply.content)
    assert view.environment is Environment.SIMULATED
    assert tuple(view.quotes) == SYMBOLS_DEFAULT
    quote = reply.json()["quotes"]["TCS"]
    assert (quote["last"], quote["bid"], quote["change"]) == ("1500.00", "1499.95", "0.00")
    assert quote["as_of"] == MONDAY_10.isoformat()


async def test_an_unknown_symbol_is_missing_with_a_reason(gateway: Gateway) -> None:
    reply = (await gateway.client.get(QUOTES, params={"symbols": "TCS,M&M"})).json()
    assert list(reply["quotes"]) == ["TCS"]
    assert list(reply["missing"]) == ["M&M"]


async def test_the_second_request_is_answered_by_the_prepared_bytes(own_gateway: Gateway) -> None:
    first = await own_gateway.client.get(QUOTES, params={"symbols": "TCS,INFY"})
    assert "x-request-id" in first.headers
    board = own_gateway.state.quote_board
    transport = httpx.ASGITransport(FastQuotes(_nothing_behind, board))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as fast:
        second = await fast.get(QUOTES, params={"symbols": "TCS,INFY"})
        assert (second.status_code, second.content) == (200, first.content)
        assert second.headers["etag"] == first.headers["etag"]
        same = await fast.get(f"{QUOTES}?symbols=TCS,INFY", headers={"If-None-Match": first.headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")
        assert same.headers["etag"] == first.headers["etag"]
        for query in ("?symbols=INFY,TCS", "?symbols=TCS,INFY&x=1", ""):
            with pytest.raises(AssertionError, match="past the prepared"):
                await fast.get(QUOTES + query)


async def test_a_changed_quote_changes_bytes_and_etag(own_gateway: Gateway) -> None:
    board = own_gateway.state.quote_board
    await board.refresh()
    first = await own_gateway.client.get(QUOTES)
    await board.refresh()
    unchanged = await own_gateway.client.get(QUOTES, headers={"If-None-Match": first.headers["etag"]})
    assert unchanged.status_code == 304
    own_gateway.market.stocks["TCS"].last += Decimal("0.05")
    own_gateway.market.now = later(MONDAY_10, 1)
    await board.refresh()
    changed = await own_gateway.client.get(QUOTES, headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200
    assert changed.headers["etag"] != first.headers["etag"]
    assert changed.json()["quotes"]["TCS"]["last"] == "1500.05"


async def test_what_is_stale_is_fetched_anew_or_refused(own_gateway: Gateway) -> None:
    clock = Monotonic()
    board = QuoteBoard(own_gateway.trading.market_data, Environment.SIMULATED, monotonic=clock)
    old = await board.answer(("TCS",))
    clock.seconds = 5.0
    assert board.fresh(("TCS",)) is old
    clock.seconds = 5.1
    assert board.fresh(("TCS",)) is None
    own_gateway.market.stocks["TCS"].last += 1
    assert (await board.answer(("TCS",))).body != old.body
    own_gateway.market.quotes_down = True
    clock.seconds = 20.0
    with pytest.raises(UpstreamError):
        await board.answer(("TCS",))
    with pytest.raises(UpstreamError):
        await board.refresh()


async def test_the_board_keeps_what_is_asked_for_and_no_more(own_gateway: Gateway) -> None:
    clock = Monotonic()
    board = QuoteBoard(own_gateway.trading.market_data, Environment.SIMULATED, monotonic=clock, sets_max=2)
    for symbol in ("TCS", "INFY", "RELIANCE"):
        await board.answer((symbol,))
    assert board.fresh(("TCS",)) is None
    assert board.fresh(("INFY",)) is not None
    await board.refresh()
    assert board.fresh(SYMBOLS_DEFAULT) is not None
    clock.seconds = 61.0
    await board.refresh()
    assert board.fresh(("INFY",)) is None
    assert board.fresh(SYMBOLS_DEFAULT) is not None


async def test_a_running_board_is_fresh_and_survives_an_outage(own_gateway: Gateway) -> None:
    board = QuoteBoard(own_gateway.trading.market_data, Environment.SIMULATED)
    own_gateway.market.quotes_down = True
    async with board.running(interval_s=0.001):
        with pytest.raises(UpstreamError):
            await board.answer(SYMBOLS_DEFAULT)
        own_gateway.market.quotes_down = False
        prepared = await board.answer(SYMBOLS_DEFAULT)
        before = prepared.etag
        own_gateway.market.stocks["TCS"].last += 1
        for _ in range(1000):
            await own_gateway.trading.market_data.clock()
            if (await board.answer(SYMBOLS_DEFAULT)).etag != before:
                break
        else:
            raise AssertionError("the board was not refreshed")


@pytest.mark.parametrize(
    ("query", "symbols"),
    [
        (b"", SYMBOLS_DEFAULT),
        (b"symbols=TCS", ("TCS",)),
        (b"symbols=TCS,M%26M", ("TCS", "M&M")),
        (b"symbols=TCS%2CINFY", ("TCS", "INFY")),
        (b"symbols=TCS&x=1", None),
        (b"x=1", None),
        (b"symbols=" + b"A" * 3000, None),
    ],
)
def test_the_query_of_the_fast_path(query: bytes, symbols: tuple[str, ...] | None) -> None:
    assert requested_symbols(query) == symbols


@given(st.binary(max_size=60))
def test_no_query_breaks_the_fast_path(query: bytes) -> None:
    requested_symbols(b"symbols=" + query)


@pytest.mark.parametrize(
    ("header", "same"),
    [(b'"a"', True), (b'W/"a"', True), (b'"b", "a"', True), (b"*", True), (b'"b"', False), (b"a", False), (b"", False)],
)
def test_if_none_match(header: bytes, same: bool) -> None:
    assert matches(header, b'"a"') is same


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=6))
def test_rupees_have_two_to_four_decimals_and_keep_their_value(amount: Decimal) -> None:
    text = rupees_text(amount)
    assert 2 <= len(text.partition(".")[2]) <= 4
    assert abs(Decimal(text) - amount) <= Decimal("0.00005")
    assert "E" not in text
    assert not text.startswith("-0.0000")


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "0.00"),
        ("-0.00001", "0.00"),
        ("2450.5", "2450.50"),
        ("0.12345", "0.1235"),
        ("1.2340", "1.234"),
        ("-12", "-12.00"),
        ("1E+3", "1000.00"),
    ],
)
def test_rupees_as_text(amount: str, text: str) -> None:
    assert rupees_text(Decimal(amount)) == text


async def test_bars(own_gateway: Gateway) -> None:
    nine_15 = MONDAY_10.replace(hour=9, minute=15)
    prices = [Decimal(p) for p in ("100", "101.5", "99.05", "100.1")]
    own_gateway.market.stocks["TCS"].bars = [(nine_15 + timedelta(minutes=i), *prices, 500 + i) for i in range(60)]
    reply = await own_gateway.client.get("/v1/market/bars", params={"symbol": "TCS", "interval": "1m"})
    found = reply.json()
    assert (found["environment"], found["symbol"], found["interval"], found["note"]) == (
        "simulated",
        "TCS",
        "1m",
        None,
    )
    assert len(found["bars"]) == 45
    assert found["bars"][0] == {
        "start": "2024-03-18T09:15:00+05:30",
        "open": "100.00",
        "high": "101.50",
        "low": "99.05",
        "close": "100.10",
        "volume": 500,
    }
    unknown = problem_of(await own_gateway.client.get("/v1/market/bars?symbol=NOSUCH"))
    assert (unknown.status, unknown.code) == (404, "unknown_symbol")


async def test_predictions(gateway: Gateway) -> None:
    found = (await gateway.client.get("/v1/market/predictions?symbols=TCS")).json()
    assert (found["environment"], found["model_version"], found["as_of"]) == (
        "simulated",
        "test",
        MONDAY_10.isoformat(),
    )
    prediction = found["predictions"]["TCS"]
    assert (prediction["action"], prediction["reference_close"], prediction["confidence"]) == ("buy", "1500.00", 0.85)
    assert prediction["touch"][0] == {"net_return": 0.01, "probability": 0.85}


async def test_health(gateway: Gateway) -> None:
    for path in ("/health", "/v1/health"):
        reply = await gateway.client.get(path)
        assert reply.json() | {"version": ""} == {
            "status": "ok",
            "service": "gateway",
            "version": "",
            "environment": "simulated",
            "detail": "",
        }


async def test_a_frontend_of_an_allowed_origin_may_read(gateway: Gateway) -> None:
    for path in (QUOTES, "/v1/plans", "/v1/nothing"):
        allowed = await gateway.client.get(path, headers={"Origin": "https://app.example.com"})
        assert allowed.headers["access-control-allow-origin"] == "https://app.example.com"
        other = await gateway.client.get(path, headers={"Origin": "https://evil.example.com"})
        assert "access-control-allow-origin" not in other.headers
