"""Quotes shared through a real Redis protocol: found by others, judged again, and nothing lost where Redis is."""

import asyncio
import json
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal

import pytest
import pytest_asyncio
from fakeredis import TcpFakeServer
from live_world import LIMITS, NOW_S, live_world, path, raw
from redis.asyncio import Redis

from data_service.breaker import Breaker, State
from data_service.shared_quotes import TIMEOUT_S, SharedQuotes, decoded, encoded

FULL = raw(bid=Decimal("99.95"), ask=Decimal("100.05"), volume=1234, previous_close=Decimal("98.10"))
SLOW_S = 2.0
"""Far more than the cache may cost, far less than the client's own retries would."""


@pytest.fixture(scope="module")
def redis_url():
    server = TcpFakeServer(("127.0.0.1", 0), server_type="redis")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"redis://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest_asyncio.fixture
async def redis(redis_url):
    client = Redis.from_url(redis_url)
    await client.flushall()
    yield client
    await client.aclose()


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@asynccontextmanager
async def cache(url: str, environment: str = "paper", kept_s: float = 2.0, clock: Clock | None = None):
    breaker = Breaker(LIMITS, clock or Clock(), lambda _: None)
    shared = SharedQuotes(url, environment, breaker, kept_s=kept_s)
    yield shared, breaker
    await shared.close()


@asynccontextmanager
async def misbehaving(answer: bytes | None):
    """A server that says `answer` to whatever it is asked, or nothing at all; yields its URL and what it was asked."""
    asked: list[bytes] = []

    async def serve(reader, writer):
        while content := await reader.read(65_536):
            asked.append(content)
            if answer is not None:
                writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    server.close()


async def test_what_one_puts_another_gets(redis, redis_url):
    async with cache(redis_url) as (one, _), cache(redis_url) as (other, _):
        await one.put([FULL, raw("BETA")])
        assert await other.get(["ACME", "NONE", "BETA"]) == {"ACME": FULL, "BETA": raw("BETA")}


async def test_keys_hold_the_environment_and_the_symbol_and_nobodys_name(redis, redis_url):
    async with cache(redis_url, "paper") as (paper, _), cache(redis_url, "live") as (live, _):
        await paper.put([FULL])
        assert await redis.keys("*") == [b"sauda:quote:paper:ACME"]
        assert await live.get(["ACME"]) == {}


async def test_a_quote_is_shared_no_longer_than_it_would_be_served(redis, redis_url):
    async with cache(redis_url, kept_s=2.0) as (shared, _):
        await shared.put([FULL])
        assert 0 < await redis.pttl("sauda:quote:paper:ACME") <= 2000


BASE = json.loads(encoded(FULL))
FOREIGN = {
    "text": b"hello",
    "no utf-8": b"\xff\xfe",
    "a number": b"7",
    "a list": b"[]",
    "null": b"null",
    "an empty object": b"{}",
    "deeply nested": b"[" * 100_000,
    "another symbol": encoded(replace(FULL, symbol="BETA")),
    "no symbol": json.dumps(BASE | {"symbol": ["ACME"]}).encode(),
    "no source": json.dumps(BASE | {"source": 5}).encode(),
    "a price of letters": json.dumps(BASE | {"last": "ten"}).encode(),
    "a price of another shape": json.dumps(BASE | {"bid": {"rupees": 5}}).encode(),
    "an instant of letters": json.dumps(BASE | {"as_of_s": "noon"}).encode(),
    "a volume of letters": json.dumps(BASE | {"volume": "many"}).encode(),
    "a field less": json.dumps({name: value for name, value in BASE.items() if name != "ask"}).encode(),
}


@pytest.mark.parametrize("name", FOREIGN)
async def test_content_that_is_no_quote_of_the_share_is_as_if_it_were_not_there(redis, redis_url, name):
    await redis.set("sauda:quote:paper:ACME", FOREIGN[name])
    async with cache(redis_url) as (shared, breaker):
        assert await shared.get(["ACME"]) == {}
        assert breaker.state is State.CLOSED


async def test_a_key_of_another_type_is_as_if_it_were_not_there(redis, redis_url):
    await redis.lpush("sauda:quote:paper:ACME", "x")
    async with cache(redis_url) as (shared, _):
        await shared.put([raw("BETA")])
        assert await shared.get(["ACME", "BETA"]) == {"BETA": raw("BETA")}


def test_a_quote_comes_back_as_it_was():
    assert decoded(encoded(FULL)) == FULL
    assert decoded(encoded(raw(as_of_s=NOW_S + 0.25))) == raw(as_of_s=NOW_S + 0.25)


@pytest.mark.parametrize("answer", [None, b"*abc\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR no\r\n", b"$-5\r\n"])
async def test_a_server_that_hangs_or_is_no_redis_costs_little_and_then_nothing(answer):
    clock = Clock()
    async with misbehaving(answer) as (url, asked), cache(url, clock=clock) as (shared, breaker):
        began = time.monotonic()
        assert await shared.get(["ACME"]) == {}
        await shared.put([FULL])
        assert time.monotonic() - began < SLOW_S
        assert breaker.state is State.OPEN
        before = len(asked)
        assert await shared.get(["ACME"]) == {}
        await shared.put([FULL])
        assert len(asked) == before


async def test_a_redis_that_comes_back_is_used_again(redis, redis_url):
    clock = Clock()
    async with cache(redis_url, clock=clock) as (shared, breaker):
        await shared.put([FULL])
        permit = breaker.ask()
        assert permit is not None
        breaker.failed(permit)
        breaker.failed(permit)
        assert await shared.get(["ACME"]) == {}
        clock.now_s = LIMITS.open_s
        assert await shared.get(["ACME"]) == {"ACME": FULL}
        assert breaker.state is State.CLOSED


async def test_a_caller_who_goes_away_leaves_no_probe_behind():
    async with misbehaving(None) as (url, asked), cache(url) as (shared, breaker):
        asking = asyncio.create_task(shared.get(["ACME"]))
        while not asked and not asking.done():  # noqa: ASYNC110 - the server's own list
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert breaker.state is State.CLOSED


async def test_one_service_asks_and_the_other_takes_its_quote_over(redis, redis_url):
    async with cache(redis_url) as (one, _), cache(redis_url) as (two, _), live_world(one) as world:
        world.says("ACME", 100.0)
        other = world.another(two)
        mine, _ = await world.book.quotes(["ACME"])
        theirs, missing = await other.quotes(["ACME"])
        assert (theirs, missing) == (mine, {})
        assert world.server.paths() == [path("ACME")]


async def test_a_service_does_not_take_its_own_quote_for_a_fresh_one(redis, redis_url):
    """Redis' clock is not the book's: what was shared is still there when the book wants a newer one."""
    async with cache(redis_url, kept_s=60) as (shared, _), live_world(shared) as world:
        world.says("ACME", 100.0)
        await world.book.quotes(["ACME"])
        world.passes(2.1)
        world.says("ACME", 101.0)
        held, _ = await world.book.quotes(["ACME"])
        assert held["ACME"].last == Decimal("101.00")


@pytest.mark.parametrize(
    ("shared_quote", "reason"),
    [
        (raw(last="-1"), "non_positive"),
        (raw(as_of_s=NOW_S - 61), "stale"),
        (raw(as_of_s=NOW_S + 60), "from_future"),
        (raw(last="100.01"), "off_tick"),
        (raw(last="100.001"), "finer_than_paisa"),
        (raw(last="1E+999999"), "too_large"),
        (raw(last="NaN"), "not_a_number"),
    ],
)
async def test_a_quote_from_redis_is_judged_again(redis, redis_url, shared_quote, reason):
    await redis.set("sauda:quote:paper:ACME", encoded(shared_quote))
    async with cache(redis_url) as (shared, _), live_world(shared) as world:
        world.says("ACME", 100.0)
        held, missing = await world.book.quotes(["ACME"])
        assert (held["ACME"].source, held["ACME"].last, missing) == ("yahoo", Decimal("100.0"), {})
        assert [refusal.reason for refusal in world.book.refusals] == [reason]


@pytest.mark.parametrize("answer", [None, b"*abc\r\n"])
async def test_the_answers_are_the_same_without_redis(answer):
    async with misbehaving(answer) as (url, _), cache(url) as (shared, _), live_world(shared) as world:
        for number in range(5):
            world.says("ACME", 100.0 + number)
            began = time.monotonic()
            held, missing = await world.book.quotes(["ACME", "NONE"])
            assert (held["ACME"].last, set(missing)) == (Decimal(100 + number), {"NONE"})
            assert time.monotonic() - began < 2 * TIMEOUT_S + 1
            world.passes(3)
