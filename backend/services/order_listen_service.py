"""Listening to what brokers say of orders as they change: each word is a hint to read the book, as a postback is."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from backend.brokers.base import BrokerError
from backend.brokers.connected import Accesses
from backend.brokers.order_sockets import OrderSocket, SocketOf, tells_of_an_order
from backend.db import Sessions
from backend.models import BrokerAccount, BrokerAccountStatus, BrokerSession

log = structlog.get_logger()

LOOK_EVERY_S = 10.0
ACCOUNTS_MAX = 500
"""Accounts that one process listens to; the others are polled, as all are."""
OPEN_S_MAX = 10.0
CLOSE_S_MAX = 0.5
PING_EVERY_S = 20.0
MESSAGE_BYTES_MAX = 1 << 20
LIVED_S = 60.0
"""A connection that lasted so long was a good one: the next failure is the first in a row again."""

# The library writes the address, and so the token, into its debug log.
_socket_log = logging.getLogger("backend.order_listen.socket")
_socket_log.setLevel(logging.INFO)


class _Direct(connect):
    """To the address given and no other: the library would follow a redirect to any host with the token."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds until the next attempt: doubling from `first_s` to `s_max`, the upper half by chance."""

    first_s: float = 2.0
    s_max: float = 120.0

    def delay_s(self, failures: int) -> float:
        whole_s = min(self.s_max, self.first_s * 2.0 ** min(failures - 1, 20))
        return whole_s * (0.5 + 0.5 * random.random())  # noqa: S311


class OrderListeners:
    """Keeps a connection to each account's broker for as long as the account's session lasts.

    A session that ends is not asked for again: the next login begins a new connection. What is missed while none
    stands, the regular reading of books finds.
    """

    def __init__(
        self,
        sessions: Sessions,
        accesses: Accesses,
        sockets: Mapping[str, SocketOf],
        hint: Callable[[int], None],
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._sessions, self._accesses, self._sockets, self._hint = sessions, accesses, sockets, hint
        self._backoff, self._sleep = backoff or Backoff(), sleep
        self._listening: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Listen until cancelled; trouble is logged and outlasted."""
        try:
            while True:
                try:
                    await self.look()
                except (SQLAlchemyError, OSError) as error:
                    log.warning("listeners_cannot_look", error=repr(error))
                await self._sleep(LOOK_EVERY_S)
        finally:
            await self._stop(list(self._listening))

    async def look(self) -> None:
        """Begin to listen to accounts that are logged in, and stop with those that are not any more."""
        async with self._sessions() as session:
            rows = await session.execute(
                select(BrokerAccount.id, BrokerAccount.broker)
                .join(BrokerSession, BrokerSession.account_id == BrokerAccount.id)
                .where(
                    BrokerAccount.broker.in_(self._sockets),
                    BrokerAccount.status == BrokerAccountStatus.READY,
                    BrokerSession.ended_at.is_(None),
                    BrokerSession.ends_at > func.clock_timestamp(),
                )
                .order_by(BrokerAccount.id)
                .limit(ACCOUNTS_MAX)
            )
            wanted = {row.id: row.broker for row in rows}
        await self._stop([account_id for account_id in self._listening if account_id not in wanted])
        for account_id, broker in wanted.items():
            if account_id not in self._listening:
                task = asyncio.create_task(self._listen(account_id, self._sockets[broker]))
                self._listening[account_id] = task
                task.add_done_callback(lambda _, account_id=account_id: self._listening.pop(account_id, None))

    async def _stop(self, account_ids: list[int]) -> None:
        tasks = [self._listening[account_id] for account_id in account_ids]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, account_id: int, socket_of: SocketOf) -> None:
        """One account's connection, made again as often as needed."""
        failures = 0
        while True:
            began = time.monotonic()
            try:
                access = await self._accesses.access(account_id)
                await self._hear(account_id, await socket_of(access))
            except (OSError, WebSocketException, BrokerError) as error:
                # Not its text: a handshake's error may name the address.
                log.info("order_socket_lost", account=account_id, why=type(error).__name__)
            failures = 1 if time.monotonic() - began >= LIVED_S else failures + 1
            # What changed meanwhile nobody has told.
            self._hint(account_id)
            await self._sleep(self._backoff.delay_s(failures))

    async def _hear(self, account_id: int, socket: OrderSocket) -> None:
        """Hint at each word of an order until the connection ends. Raises OSError, WebSocketException."""
        async with _connection(socket) as connection:
            if socket.hello:
                await connection.send(socket.hello)
            while True:
                if tells_of_an_order(await _message(connection, socket.silence_s)):
                    self._hint(account_id)


def _connection(socket: OrderSocket) -> connect:
    return _Direct(
        socket.url,
        open_timeout=OPEN_S_MAX,
        close_timeout=CLOSE_S_MAX,
        ping_interval=PING_EVERY_S if socket.silence_s is None else None,
        max_size=MESSAGE_BYTES_MAX,
        compression=None,
        proxy=None,
        logger=_socket_log,
    )


async def _message(connection: ClientConnection, silence_s: float | None) -> str | bytes:
    """The next message. Raises TimeoutError, an OSError, after the silence of a connection whose end is gone."""
    async with asyncio.timeout(silence_s) if silence_s is not None else contextlib.nullcontext():
        return await connection.recv()
