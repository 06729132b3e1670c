"""A TCP or Unix-socket proxy between a client and its server that breaks the network on demand."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

Address = tuple[str, int] | Path
"""A host and port, or a Unix socket's path."""

CHUNK_BYTES_MAX = 65_536
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Faults:
    """What happens to bytes on their way; the default passes them. Up is client → server.

    `half_open` accepts connections and lets no byte through either way; `reset_new` resets each new connection.
    A connection is cut once it has passed `cut_up_after_bytes` or `cut_down_after_bytes` since it was made.
    """

    latency_s: float = 0.0
    bytes_per_s_max: int | None = None
    half_open: bool = False
    reset_new: bool = False
    cut_up_after_bytes: int | None = None
    cut_down_after_bytes: int | None = None


PASS = Faults()


class FaultProxy:
    """Forwards a listening address to another one; `switch` changes what happens, for existing connections too.

    Use it as `async with FaultProxy(server) as proxy:` and connect to `proxy.address`.
    """

    def __init__(self, server: Address, listen: Address = ("127.0.0.1", 0)) -> None:
        self._server = server
        self._listen = listen
        self._faults = PASS
        self._switched = asyncio.Event()
        self._listener: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def address(self) -> Address:
        """Where clients connect: the port that was really taken."""
        assert self._listener is not None
        return self._listen if isinstance(self._listen, Path) else self._listener.sockets[0].getsockname()[:2]

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    def switch(self, faults: Faults) -> None:
        """Let `faults` hold from now on; bytes that wait in a half-open connection flow again."""
        self._faults = faults
        self._switched.set()
        self._switched = asyncio.Event()

    def reset_existing(self) -> None:
        """Reset every open connection (a Unix socket knows no reset: it is closed)."""
        for task, client in self._connections.items():
            _reset(client)
            task.cancel()

    async def __aenter__(self) -> Self:
        if isinstance(self._listen, Path):
            self._listener = await asyncio.start_unix_server(self._accepted, self._listen)
        else:
            self._listener = await asyncio.start_server(self._accepted, *self._listen)
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        self._listener.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._listener.wait_closed()
        if isinstance(self._listen, Path):
            self._listen.unlink(missing_ok=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._faults.reset_new:
            _reset(writer)
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: asyncio.StreamWriter | None = None
        try:
            await self._open()
            replies, upstream = await self._connect()
            up = self._pump(reader, upstream, lambda faults: faults.cut_up_after_bytes)
            down = self._pump(replies, writer, lambda faults: faults.cut_down_after_bytes)
            pumps = [asyncio.ensure_future(up), asyncio.ensure_future(down)]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            _reset(writer)
        finally:
            for end in (writer, upstream):
                if end is not None:
                    end.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._server, Path):
            return await asyncio.open_unix_connection(self._server)
        return await asyncio.open_connection(*self._server)

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, cut_after: Callable[[Faults], int | None]
    ) -> None:
        """Pass one direction's bytes until either end closes or the direction is cut."""
        passed = 0
        with contextlib.suppress(OSError):
            while chunk := await source.read(CHUNK_BYTES_MAX):
                while chunk:
                    await self._open()
                    faults = self._faults
                    await asyncio.sleep(faults.latency_s)
                    cut = cut_after(faults)
                    piece = chunk if cut is None else chunk[: max(0, cut - passed)]
                    if faults.bytes_per_s_max is not None:
                        piece = piece[:1]
                        await asyncio.sleep(1 / faults.bytes_per_s_max)
                    target.write(piece)
                    await target.drain()
                    passed += len(piece)
                    chunk = chunk[len(piece) :]
                    if cut is not None and passed >= cut:
                        return

    async def _open(self) -> None:
        """Wait for as long as the network is half-open."""
        while self._faults.half_open:
            await self._switched.wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close at once; a TCP peer hears a reset."""
    peer = writer.get_extra_info("socket")
    if peer is not None and peer.family != socket.AF_UNIX:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()
