"""Kite's binary ticks, and the ticker against a real websocket server on loopback."""

import asyncio
import json
import logging
import struct
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from websockets.asyncio.server import serve
from websockets.http11 import Response

from data_service.providers.base import ProviderError
from data_service.providers.kite import SessionEndedError
from data_service.providers.kite_ticks import SYMBOLS_MAX, Backoff, KiteTicker, Tick, decode, raw_quote
from tests.support.fault_proxy import PASS, FaultProxy, Faults

QUOTE = (408065, 157315, 1, 157033, 1175986, 256511, 360503, 156915, 157500, 156105, 156780)
"""The broker's own sample of a quote packet (ticker_quote), decoded."""

AS_OF_S = 1_800_000_000
HEARTBEAT = b"\x00"


def message(*packets: bytes) -> bytes:
    return struct.pack(">H", len(packets)) + b"".join(struct.pack(">H", len(one)) + one for one in packets)


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}i", *values)


def full(token: int = 408065, last: int = 157315, as_of_s: int = AS_OF_S, bid=(50, 157300), ask=(70, 157320)) -> bytes:
    """A full packet with only the best level of the depth filled."""
    empty = struct.pack(">iihh", 0, 0, 0, 0)
    depth = [struct.pack(">iihh", *bid, 3, 0), *[empty] * 4, struct.pack(">iihh", *ask, 2, 0), *[empty] * 4]
    return words(token, last, *QUOTE[2:], AS_OF_S - 2, 0, 0, 0, as_of_s) + b"".join(depth)


def test_the_brokers_sample_quote():
    packet = words(*QUOTE)
    assert len(packet) == 44
    assert decode(message(packet)) == [
        Tick(
            408065,
            last=Decimal("1573.15"),
            open=Decimal("1569.15"),
            high=Decimal("1575"),
            low=Decimal("1561.05"),
            previous_close=Decimal("1567.8"),
            volume=1175986,
        )
    ]


def test_every_length_of_packet():
    assert len(full()) == 184
    ltp, index = words(408065, 157315), words(256265, 1_500_000, 1_510_000, 1_490_000, 1_495_000, 1_480_000, 20_000)
    ticks = decode(message(ltp, index, index + words(AS_OF_S), full(), full(bid=(0, 0), as_of_s=0), b"\x00" * 10))
    assert ticks[0] == Tick(408065, Decimal("1573.15"))
    assert ticks[1] == Tick(256265, Decimal(15000), Decimal(14950), Decimal(15100), Decimal(14900), Decimal(14800))
    assert ticks[2].as_of_s == AS_OF_S
    assert (ticks[3].bid, ticks[3].ask) == (Decimal(1573), Decimal("1573.2"))
    assert (ticks[3].as_of_s, ticks[3].volume, ticks[3].previous_close) == (AS_OF_S, 1175986, Decimal("1567.8"))
    assert (ticks[4].bid, ticks[4].as_of_s) == (None, None)
    assert len(ticks) == 5, "a length of tomorrow is passed over"
    quote = raw_quote(ticks[3], "INFY")
    assert (quote.symbol, quote.source, quote.last, quote.lower_band) == ("INFY", "kite", Decimal("1573.15"), None)


@pytest.mark.parametrize(
    ("segment", "price"), [(1, "1234567.89"), (3, "12.3456789"), (6, "12345.6789"), (12, "12345.6789")]
)
def test_prices_are_divided_as_their_segment_says(segment, price):
    assert decode(message(words(1000 << 8 | segment, 123456789)))[0].last == Decimal(price)


def test_a_heartbeat_holds_nothing():
    assert decode(HEARTBEAT) == []
    assert decode(message()) == []


@pytest.mark.parametrize(
    "broken", [b"", message(full())[:-1], message(full()) + b"\x00", b"\x00\x05", b"\x00\x02" + message(full())[2:]]
)
def test_lengths_that_do_not_add_up_are_refused(broken):
    with pytest.raises(ProviderError):
        decode(broken)


@given(st.binary(max_size=400))
def test_no_bytes_break_it(noise):
    try:
        ticks = decode(noise)
    except ProviderError:
        return
    assert all(isinstance(tick, Tick) for tick in ticks)


def test_the_wait_grows_to_its_limit_with_chance_in_its_upper_half():
    backoff = Backoff(first_s=1, s_max=10)
    assert [backoff.delay_s(failures, 1.0) for failures in (1, 2, 3, 4, 5, 5000)] == [1, 2, 4, 8, 10, 10]
    assert backoff.delay_s(3, 0.0) == 2


class Server:
    """Plays one script per connection: each step is a message to send, or one of the words below; then it waits.

    "close" closes, "subscribed" waits for a subscription. What clients said is in `said`, a list per connection.
    """

    def __init__(self, *scripts: list) -> None:
        self.scripts, self.said, self.paths, self.url = list(scripts), [], [], ""

    async def __call__(self, socket) -> None:
        said: list = []
        self.said.append(said)
        self.paths.append(socket.request.path)
        script = self.scripts.pop(0) if self.scripts else []
        for step in script:
            if step == "subscribed":
                while not said or said[-1]["a"] != "mode":
                    said.append(json.loads(await socket.recv()))
            elif step == "close":
                return
            else:
                await socket.send(step)
        async for words_said in socket:
            said.append(json.loads(words_said))


@asynccontextmanager
async def serving(server: Server, port: int = 0, **options):
    async with serve(server, "127.0.0.1", port, close_timeout=0.1, **options) as listening:
        server.url = f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield server


class Sleeps:
    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


def ticker_of(url: str, sleep, silence_s: float = 5.0) -> KiteTicker:
    token = lambda: SecretStr("token-of-today")  # noqa: E731
    return KiteTicker("the-key", token, url=url, silence_s=silence_s, sleep=sleep, chance=lambda: 1.0)


async def taken(ticker: KiteTicker, count: int) -> list:
    found = []
    async with asyncio.timeout(10), aclosing(ticker.quotes()) as quotes:
        async for quote in quotes:
            found.append(quote)
            if len(found) == count:
                break
    return found


WATCHED = {408065: "INFY", 738561: "RELIANCE"}
BOTH = [{"a": "subscribe", "v": list(WATCHED)}, {"a": "mode", "v": ["full", list(WATCHED)]}]


async def test_it_subscribes_and_yields_what_is_watched():
    text = json.dumps({"type": "error", "data": "a wrong token"})
    steps = ["subscribed", HEARTBEAT, text, "no json", b"\x00\x09", message(full(), full(738561, 250000), full(512))]
    async with serving(Server(steps)) as server:
        sleep = Sleeps()
        ticker = ticker_of(server.url, sleep)
        await ticker.watch(WATCHED)
        quotes = await taken(ticker, 2)
        assert [(quote.symbol, quote.last, quote.as_of_s) for quote in quotes] == [
            ("INFY", Decimal("1573.15"), AS_OF_S),
            ("RELIANCE", Decimal(2500), AS_OF_S),
        ]
        assert server.said == [BOTH]
        assert server.paths == ["/?api_key=the-key&access_token=token-of-today"]
        assert (sleep.slept, ticker.connected) == ([], False)


async def test_it_reconnects_and_subscribes_again():
    script = ["subscribed", message(full()), "close"]
    async with serving(Server(script, ["close"], ["close"], list(script), list(script))) as server:
        sleep = Sleeps()
        ticker = ticker_of(server.url, sleep)
        await ticker.watch(WATCHED)
        assert len(await taken(ticker, 3)) == 3
    assert sleep.slept == [1, 2, 4, 1], "the wait grows until something is heard again"
    assert [said for said in server.said if said] == [BOTH, BOTH, BOTH]


async def test_a_silent_connection_is_given_up():
    async with serving(Server(["subscribed", HEARTBEAT], ["subscribed", message(full())])) as server:
        sleep = Sleeps()
        ticker = ticker_of(server.url, sleep, silence_s=0.15)
        await ticker.watch(WATCHED)
        assert (await taken(ticker, 1))[0].symbol == "INFY"
    assert sleep.slept == [1]
    assert len(server.said) == 2


async def test_a_half_open_connection_is_given_up():
    script = ["subscribed", message(full())]
    async with serving(Server(script, list(script))) as server:
        port = int(server.url.rsplit(":", 1)[1])
        async with FaultProxy(("127.0.0.1", port)) as proxy:
            slept: list[float] = []

            async def then_mended(seconds: float) -> None:
                slept.append(seconds)
                proxy.switch(PASS)

            ticker = ticker_of(f"ws://127.0.0.1:{proxy.address[1]}", then_mended, silence_s=0.15)
            await ticker.watch(WATCHED)
            async with asyncio.timeout(10), aclosing(ticker.quotes()) as quotes:
                await anext(quotes)
                proxy.switch(Faults(half_open=True))
                assert (await anext(quotes)).symbol == "INFY"
    assert slept == [1]
    assert len(server.said) == 2


async def test_nobody_there_is_tried_again_more_and_more_slowly():
    async with serving(Server()) as gone:
        port = int(gone.url.rsplit(":", 1)[1])
    async with AsyncExitStack() as stack:
        slept: list[float] = []

        async def then_back(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 8:
                await stack.enter_async_context(serving(Server(["subscribed", message(full())]), port))

        ticker = ticker_of(gone.url, then_back)
        await ticker.watch(WATCHED)
        await taken(ticker, 1)
    assert slept == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_a_refused_token_ends_it():
    def refuse(connection, request) -> Response:
        return connection.respond(403, "Forbidden")

    async with serving(Server(), process_request=refuse) as server:
        sleep = Sleeps()
        ticker = ticker_of(server.url, sleep)
        with pytest.raises(SessionEndedError, match="log in again") as caught:
            await taken(ticker, 1)
    assert "token-of-today" not in str(caught.value)
    assert sleep.slept == []


async def test_another_refusal_does_not():
    refusals = [502, 400]

    def refuse(connection, request) -> Response | None:
        return connection.respond(refusals.pop(), "Refused") if refusals else None

    async with serving(Server(["subscribed", message(full())]), process_request=refuse) as server:
        sleep = Sleeps()
        ticker = ticker_of(server.url, sleep)
        await ticker.watch(WATCHED)
        await taken(ticker, 1)
    assert sleep.slept == [1, 2]


async def test_a_redirect_to_another_host_is_not_followed():
    elsewhere = Server(["subscribed", message(full(last=1))])
    redirects = 1

    async with serving(elsewhere) as other:

        def redirect(connection, request) -> Response | None:
            nonlocal redirects
            if not redirects:
                return None
            redirects -= 1
            response = connection.respond(302, "Found")
            response.headers["Location"] = other.url
            return response

        async with serving(Server(["subscribed", message(full())]), process_request=redirect) as server:
            sleep = Sleeps()
            ticker = ticker_of(server.url, sleep)
            await ticker.watch(WATCHED)
            (quote,) = await taken(ticker, 1)
    assert quote.last == Decimal("1573.15")
    assert sleep.slept == [1]


async def test_what_is_watched_changes_on_the_open_connection():
    script = ["subscribed", message(full()), "subscribed", message(full(738561, 250000), full())]
    async with serving(Server(script)) as server:
        ticker = ticker_of(server.url, Sleeps())
        await ticker.watch({408065: "INFY"})
        async with asyncio.timeout(10), aclosing(ticker.quotes()) as quotes:
            assert (await anext(quotes)).symbol == "INFY"
            assert ticker.connected
            server.said[0].clear()
            await ticker.watch({738561: "RELIANCE"})
            assert (await anext(quotes)).symbol == "RELIANCE"
    assert server.said[0] == [
        {"a": "unsubscribe", "v": [408065]},
        {"a": "subscribe", "v": [738561]},
        {"a": "mode", "v": ["full", [738561]]},
    ]
    with pytest.raises(ValueError, match="at most 3000"):
        await ticker.watch(dict.fromkeys(range(SYMBOLS_MAX + 1), "X"))


async def test_the_token_is_in_no_log(caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("websockets.server").setLevel(logging.INFO)  # the server's own
    async with serving(Server(["subscribed", message(full())])) as server:
        ticker = ticker_of(server.url, Sleeps())
        await ticker.watch(WATCHED)
        await taken(ticker, 1)
    assert "token-of-today" not in caplog.text
