"""Each fault of the proxy, between a real client and a real echoing server."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.fault_proxy import PASS, FaultProxy, Faults

DEADLINE_S = 5.0


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    """A proxy before a server that echoes."""
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with FaultProxy(server.sockets[0].getsockname()[:2]) as proxy:
        yield proxy
    server.close()
    await server.wait_closed()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1024):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def connect(proxy: FaultProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    assert isinstance(proxy.address, tuple)
    return await asyncio.open_connection(*proxy.address)


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, words: bytes) -> bytes:
    """Send words and read as many bytes back."""
    writer.write(words)
    async with asyncio.timeout(DEADLINE_S):
        return await reader.readexactly(len(words))


async def silent(reader: asyncio.StreamReader, for_s: float = 0.1) -> bool:
    """Whether nothing at all comes for a while."""
    try:
        async with asyncio.timeout(for_s):
            await reader.read(1)
    except TimeoutError:
        return True
    return False


async def test_it_passes_bytes_both_ways(proxy: FaultProxy):
    reader, writer = await connect(proxy)
    words = bytes(range(256)) * 1000
    assert await exchange(reader, writer, words) == words
    writer.close()


async def test_latency_delays_each_way(proxy: FaultProxy):
    reader, writer = await connect(proxy)
    proxy.switch(Faults(latency_s=0.05))
    began = time.monotonic()
    assert await exchange(reader, writer, b"hello") == b"hello"
    assert time.monotonic() - began >= 0.1
    writer.close()


async def test_new_connections_are_reset_and_existing_ones_go_on(proxy: FaultProxy):
    old = await connect(proxy)
    assert await exchange(*old, b"first") == b"first"
    proxy.switch(Faults(reset_new=True))
    reader, _ = await connect(proxy)
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(DEADLINE_S):
            await reader.read(1)
    assert await exchange(*old, b"still") == b"still"
    old[1].close()


async def test_existing_connections_are_reset_and_new_ones_pass(proxy: FaultProxy):
    old = await connect(proxy)
    assert await exchange(*old, b"first") == b"first"
    proxy.reset_existing()
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(DEADLINE_S):
            await old[0].read(1)
    reader, writer = await connect(proxy)
    assert await exchange(reader, writer, b"new") == b"new"
    writer.close()


async def test_a_half_open_network_accepts_and_never_answers_until_it_heals(proxy: FaultProxy):
    old = await connect(proxy)
    assert await exchange(*old, b"first") == b"first"
    proxy.switch(Faults(half_open=True))
    new = await connect(proxy)
    for reader, writer in (old, new):
        writer.write(b"anyone?")
        assert await silent(reader)
    proxy.switch(PASS)
    for reader, writer in (old, new):
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.readexactly(7) == b"anyone?"
        writer.close()


async def test_a_slow_drip_keeps_its_rate(proxy: FaultProxy):
    reader, writer = await connect(proxy)
    proxy.switch(Faults(bytes_per_s_max=200))
    began = time.monotonic()
    assert await exchange(reader, writer, b"x" * 30) == b"x" * 30
    assert time.monotonic() - began >= 30 / 200
    writer.close()


@pytest.mark.parametrize("faults", [Faults(cut_down_after_bytes=4), Faults(cut_up_after_bytes=4)])
async def test_a_connection_is_cut_after_its_bytes(proxy: FaultProxy, faults: Faults):
    proxy.switch(faults)
    reader, writer = await connect(proxy)
    writer.write(b"abcdefgh")
    async with asyncio.timeout(DEADLINE_S):
        got = await reader.read(-1)
    # Cut upwards, the echo of the four bytes races with the close of the connection.
    assert got == b"abcd" if faults.cut_down_after_bytes else b"abcd".startswith(got)
    writer.close()


async def test_a_cut_upwards_keeps_the_rest_from_the_server():
    heard = bytearray()
    ended = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read(-1))
        writer.close()
        ended.set()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with FaultProxy(server.sockets[0].getsockname()[:2]) as proxy, asyncio.timeout(DEADLINE_S):
        proxy.switch(Faults(cut_up_after_bytes=4))
        _, writer = await connect(proxy)
        writer.write(b"abcdefgh")
        await ended.wait()
        writer.close()
    server.close()
    assert bytes(heard) == b"abcd"


async def test_a_dead_server_is_a_reset(proxy: FaultProxy):
    async with FaultProxy(("127.0.0.1", 1)) as orphan:
        reader, _ = await connect(orphan)
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(DEADLINE_S):
                await reader.read(1)


async def test_it_forwards_unix_sockets_too(tmp_path: Path):
    server = await asyncio.start_unix_server(echo, tmp_path / "server")
    async with FaultProxy(tmp_path / "server", tmp_path / "front") as proxy:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "front")
        assert await exchange(reader, writer, b"hello") == b"hello"
        proxy.reset_existing()
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.read(1) == b""
        writer.close()
    server.close()
    await server.wait_closed()
