"""Upstox's ticks: messages written field by field as the format says, and the stream over real connections."""

import json
import struct
from collections.abc import Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import serve

from data_service.providers.base import ProviderError, SessionEndedError
from data_service.providers.protobuf import Message
from data_service.providers.upstox_ticks import SYMBOLS_MAX, UpstoxTicker, quotes_of
from tests.data_service.test_provider_kite_ticks import Sleeps, taken

INFY, TCS = "NSE_EQ|INE009A01021", "NSE_EQ|INE467B01029"
WATCHED = {INFY: "INFY", TCS: "TCS"}
NOW_MS = 1_772_428_500_250


def varint(value: int) -> bytes:
    said = bytearray()
    while value > 0x7F:
        said.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*said, value])


def integer(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value % (1 << 64))


def double(number: int, value: float) -> bytes:
    return varint(number << 3 | 1) + struct.pack("<d", value)


def chunk(number: int, content: bytes | str) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def feed(key: str, last: float = 1573.15, *, bid: int = 50, ask: int = 70, traded_ms: int = NOW_MS - 900) -> bytes:
    """An entry of the map of feeds."""
    ltpc = double(1, last) + integer(2, traded_ms) + integer(3, 1) + double(4, 1567.8)
    best = integer(1, bid) + double(2, 1573.0) + integer(3, ask) + double(4, 1573.2)
    second = integer(1, 9) + double(2, 1.0) + integer(3, 9) + double(4, 2.0)
    day = chunk(1, "1d") + double(2, 1569.15) + double(3, 1575) + double(4, 1561.05) + double(5, last)
    minute = chunk(1, "I1") + double(2, 1.0) + double(3, 2.0) + double(4, 0.5)
    full = (
        chunk(1, ltpc)
        + chunk(2, chunk(1, best) + chunk(1, second))
        + chunk(4, chunk(1, minute) + chunk(1, day))
        + integer(6, 1_175_986)
    )
    return chunk(2, chunk(1, key) + chunk(2, chunk(2, chunk(1, full))))


def live(*feeds: bytes) -> bytes:
    return integer(1, 1) + b"".join(feeds) + integer(3, NOW_MS)


def test_a_live_message_is_a_quote_of_each_share_watched() -> None:
    infy, tcs = quotes_of(live(feed(INFY), feed("NSE_EQ|other"), feed(TCS, 3500.5, bid=0)), WATCHED)
    assert (infy.symbol, infy.source, infy.as_of_s) == ("INFY", "upstox", NOW_MS / 1000)
    assert (infy.last, infy.bid, infy.ask) == (Decimal("1573.15"), Decimal("1573.0"), Decimal("1573.2"))
    assert (infy.open, infy.high, infy.low) == (Decimal("1569.15"), Decimal("1575.0"), Decimal("1561.05"))
    assert (infy.previous_close, infy.volume, infy.upper_band) == (Decimal("1567.8"), 1_175_986, None)
    assert (tcs.symbol, tcs.last, tcs.bid) == ("TCS", Decimal("3500.5"), None)  # nobody buys


def test_the_first_message_is_as_old_as_the_last_trade() -> None:
    (quote,) = quotes_of(integer(1, 0) + feed(INFY) + integer(3, NOW_MS), WATCHED)
    assert quote.as_of_s == (NOW_MS - 900) / 1000


def test_what_has_no_price_is_no_quote() -> None:
    assert quotes_of(live(feed(INFY, 0.0)), WATCHED) == []
    assert quotes_of(integer(1, 2) + chunk(4, integer(1, 3)), WATCHED) == []  # the market's status
    assert quotes_of(b"", WATCHED) == []


@pytest.mark.parametrize(
    "broken",
    [
        live(feed(INFY))[:-1],
        chunk(2, b"xyz")[:-1],
        b"\x80" * 11,
        varint(1 << 3 | 3),
        integer(0, 1),
        live(feed(INFY, float("nan"))),
        live(chunk(2, chunk(1, b"\xff\xfe") + chunk(2, b""))),
    ],
    ids=["cut", "short", "endless", "group", "field 0", "no number", "no text"],
)
def test_what_is_no_message_is_refused(broken: bytes) -> None:
    with pytest.raises(ProviderError):
        quotes_of(broken, WATCHED)


@given(st.binary(max_size=300))
def test_no_bytes_break_it(noise: bytes) -> None:
    for content in (noise, live(feed(INFY)) + noise, live(chunk(2, chunk(1, INFY) + chunk(2, noise)))):
        with suppress(ProviderError):
            quotes_of(content, WATCHED)


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_integers_have_a_sign(value: int) -> None:
    assert Message(integer(6, value)).integer(6) == value


# ---- the stream


class Feed:
    """A script per connection: messages to send once it has been asked for something; then it ends, or waits."""

    def __init__(self, *scripts: list[bytes]) -> None:
        self.scripts, self.asked = iter(scripts), list[dict]()
        self.frames: list[type] = []

    async def __call__(self, socket) -> None:
        script: list[bytes] | None = next(self.scripts, None)
        async for said in socket:
            self.frames.append(type(said))
            self.asked.append(json.loads(said))
            for message in script or []:
                await socket.send(message)
            if script is not None:
                return


@asynccontextmanager
async def streamed(server: Feed) -> Iterator[tuple[UpstoxTicker, Sleeps, list[str]]]:
    async with serve(server, "127.0.0.1", 0, close_timeout=0.1) as listening:
        url = f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        given_: list[str] = []

        async def address() -> str:
            given_.append(f"{url}/?code={len(given_)}")
            return given_[-1]

        sleep = Sleeps()
        yield UpstoxTicker(address, silence_s=2.0, sleep=sleep, chance=lambda: 1.0), sleep, given_


async def test_it_subscribes_anew_on_a_new_address_each_time() -> None:
    server = Feed([live(feed(INFY))], [b"\xff nonsense", live(feed(TCS, 3500.5))])
    async with streamed(server) as (ticker, sleep, addresses):
        await ticker.watch(WATCHED)
        quotes = await taken(ticker, 2)
    assert [(quote.symbol, quote.last) for quote in quotes] == [
        ("INFY", Decimal("1573.15")),
        ("TCS", Decimal("3500.5")),
    ]
    assert [asked["method"] for asked in server.asked] == ["sub", "sub"]
    assert server.asked[0]["data"] == {"mode": "full", "instrumentKeys": [INFY, TCS]}
    assert server.frames == [bytes, bytes]
    assert len(set(addresses)) == 2
    assert sleep.slept == [1.0]


async def test_a_session_that_is_over_ends_it_and_another_failure_does_not() -> None:
    answers: list[Exception] = [ProviderError("no address"), OSError("nobody there"), SessionEndedError("log in")]

    async def address() -> str:
        raise answers.pop(0)

    sleep = Sleeps()
    ticker = UpstoxTicker(address, sleep=sleep, chance=lambda: 1.0)
    with pytest.raises(SessionEndedError):
        async with aclosing(ticker.quotes()) as quotes:
            await anext(quotes)
    assert (sleep.slept, answers) == ([1.0, 2.0], [])


async def test_too_many_symbols_are_refused() -> None:
    async def address() -> str:
        return "ws://127.0.0.1:1"

    with pytest.raises(ValueError, match=str(SYMBOLS_MAX)):
        await UpstoxTicker(address).watch({f"NSE_EQ|{n}": str(n) for n in range(SYMBOLS_MAX + 1)})
