"""Fetching: every byte counted, every failure a ProviderError, against a real server that misbehaves."""

import asyncio
import gzip
import io
import tracemalloc
import zipfile
from decimal import Decimal

import httpx
import pytest
import pytest_asyncio
from httpx_aiohttp import AiohttpTransport

from data_service.providers.base import ProviderError, RateLimitedError
from data_service.providers.http import (
    FAILURES_MAX,
    fetch,
    gather_each,
    parsed_json,
    require_ok,
    retry_after_s,
    unzipped_csv,
)
from tests.support.upstream_server import CUT, HALF_OPEN, HANG, Reply, UpstreamServer, bomb


@pytest_asyncio.fixture
async def http():
    async with httpx.AsyncClient(transport=AiohttpTransport(), timeout=5) as client:
        yield client


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


async def test_a_reply_comes_unpacked_with_its_status_and_place(http):
    body = b"a,b\n" * 1000
    replies = {"/plain": Reply(body), "/packed": Reply(gzip.compress(body), headers={"content-encoding": "gzip"})}
    async with UpstreamServer(replies) as server:
        for path in replies:
            reply = await fetch(http, f"{server.url}{path}?token=secret", headers={"x-mine": "1"})
            assert (reply.status, require_ok(reply)) == (200, body)
            assert "secret" not in reply.place
            assert reply.place.endswith(path)
        assert server.asked[0].headers["x-mine"] == "1"
        assert (await fetch(http, f"{server.url}/absent")).status == 404


async def test_a_gzip_bomb_is_refused_without_unpacking_it(http):
    async with UpstreamServer(everywhere=bomb(64 << 20)) as server:
        tracemalloc.start()
        try:
            with pytest.raises(ProviderError, match="more than 1000000 bytes when unpacked"):
                await fetch(http, server.url, bytes_max=1_000_000)
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(bytes(2000)), "more than 1000 bytes"),
        (Reply(gzip.compress(b"x" * 500)[:-9], headers={"content-encoding": "gzip"}), "cut off"),
        (Reply(b"not gzip", headers={"content-encoding": "gzip"}), "damaged gzip"),
        (Reply(b"x", headers={"content-encoding": "br"}), "not asked for"),
        (CUT, "Error"),
        (Reply(b"", headers={"content-length": "nonsense"}), "Error"),
    ],
)
async def test_a_damaged_reply_is_a_provider_error(http, reply, said):
    async with UpstreamServer(everywhere=reply) as server:
        with pytest.raises(ProviderError, match=said):
            await fetch(http, server.url, bytes_max=1000)


async def test_nobody_there_is_a_provider_error(http):
    async with UpstreamServer() as server:
        pass
    with pytest.raises(ProviderError, match=r"127\.0\.0\.1"):
        await fetch(http, server.url)


@pytest.mark.parametrize("reply", [HANG, HALF_OPEN])
async def test_the_callers_deadline_ends_a_silent_reply(http, reply):
    async with UpstreamServer(everywhere=reply) as server:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await fetch(http, server.url)


async def test_statuses(http):
    replies = {
        "/429": Reply(status=429, headers={"retry-after": "17"}),
        "/503": Reply(status=503, headers={"retry-after": "9"}),
        "/plain503": Reply(status=503),
        "/301": Reply(status=301, headers={"location": "/429"}),
    }
    async with UpstreamServer(replies) as server:
        for path, wait_s in (("/429", 17), ("/503", 9)):
            with pytest.raises(RateLimitedError) as caught:
                require_ok(await fetch(http, server.url + path))
            assert caught.value.retry_after_s == wait_s
        for path in ("/plain503", "/301"):
            with pytest.raises(ProviderError, match="answered") as caught:
                require_ok(await fetch(http, server.url + path))
            assert not isinstance(caught.value, RateLimitedError)


def test_retry_after_is_read_and_bounded():
    date = {"date": "Wed, 01 Jul 2026 10:00:00 GMT"}
    assert retry_after_s({**date, "retry-after": "Wed, 01 Jul 2026 10:02:00 GMT"}) == 120
    assert retry_after_s({"retry-after": "999999999"}) == 3600
    assert retry_after_s({"retry-after": "0"}) == 1
    assert retry_after_s({**date, "retry-after": "Wed, 01 Jul 2026 09:00:00 GMT"}) == 1
    for said in ("", "soon", "-5", "1e9", "nan"):
        assert retry_after_s({"retry-after": said}) == 60


def test_zips():
    assert unzipped_csv(zipped({"a.CSV": b"x,y\n", "readme.txt": b"hello"}), "here") == b"x,y\n"
    whole = zipped({"a.csv": b"x,y\n" * 5000})
    for content, said in (
        (whole[:-40], "damaged zip"),
        (whole[:50] + b"\xff" * 20 + whole[70:], "damaged zip"),
        (b"<html>", "damaged zip"),
        (zipped({}), "0 CSV"),
        (zipped({"a.csv": b"", "b.csv": b""}), "2 CSV"),
        (zipped({"a.csv": bytes(1 << 20)}), "more than 100000 bytes"),
    ):
        with pytest.raises(ProviderError, match=said):
            unzipped_csv(content, "here", 100_000)


def test_json_keeps_money_exact_and_refuses_what_is_none():
    assert parsed_json(b'{"price": 442.3, "count": 3}', "here") == {"price": Decimal("442.3"), "count": 3}
    assert parsed_json(b"[0.1, 1e2]", "here") == [Decimal("0.1"), Decimal(100)]
    for garbage in (
        b"<html>",
        b"",
        b'{"a": NaN}',
        b"[Infinity]",
        b"\xff\xfe",
        b"[" * 100_000,
        b"1" * 10_000,
        b"[1.5e99999999999999999999]",
    ):
        with pytest.raises(ProviderError, match="not JSON"):
            parsed_json(garbage, "here")


async def test_gathering_is_bounded_and_stops_when_told_to():
    running = peak = 0
    asked = []

    async def ask(key):
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        asked.append(key)
        await asyncio.sleep(0)
        running -= 1
        if key == 20:
            raise RateLimitedError("enough", 5)
        if key % 7 == 6:
            raise ProviderError(f"no {key}")
        return key * 2

    gathered = await gather_each(range(6), ask, at_once_max=3)
    assert (gathered.got, gathered.error, peak) == ({key: key * 2 for key in range(6)}, None, 3)
    asked.clear()
    gathered = await gather_each(range(100), ask, at_once_max=3)
    assert isinstance(gathered.error, RateLimitedError)
    assert max(asked) < 24
    assert 19 in gathered.got

    async def fail(key):
        asked.append(key)
        raise ProviderError(f"no {key}")

    asked.clear()
    gathered = await gather_each(range(100), fail, at_once_max=2)
    assert str(gathered.error) == "no 0"
    assert len(asked) <= FAILURES_MAX + 1
