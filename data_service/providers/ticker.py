"""A stream of live quotes that is there again after any failure; what is sent and read on it is each provider's own."""

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from data_service.providers.base import ProviderError, RawQuote, SessionEndedError

log = structlog.get_logger(__name__)

OPEN_S_MAX, CLOSE_S_MAX = 10.0, 0.5
"""Patience for the opening handshake, and for the closing one, which an end that is gone never answers."""

MESSAGE_BYTES_MAX = 8 << 20

# The library writes the address, and so the token in it, into its debug log.
socket_log = logging.getLogger("data_service.ticker.socket")
socket_log.setLevel(logging.INFO)

Key = TypeVar("Key", bound=Hashable)


class _Direct(connect):
    """A connection to the address given and no other: the library would follow a redirect to any host, and what that
    one sends would count as the provider's."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the next attempt: doubling from `first_s` up to `s_max`, the upper half by chance, so
    that many clients do not come back at the same instant."""

    first_s: float = 1.0
    s_max: float = 60.0

    def delay_s(self, failures_in_row: int, chance: float) -> float:
        """`chance` is within 0 and 1."""
        whole_s = min(self.s_max, self.first_s * 2.0 ** min(failures_in_row - 1, 60))
        return whole_s * (0.5 + 0.5 * chance)


class Ticker(ABC, Generic[Key]):
    """Live quotes of the symbols watched, over one connection that is made again as often as needed.

    `Key` is the provider's own name of a symbol.
    """

    name: ClassVar[str]
    symbols_max: ClassVar[int]
    """Symbols on one connection."""

    ping_s: ClassVar[float | None] = None
    """How often the other end is asked whether it is there; None where it speaks often by itself."""

    def __init__(
        self,
        silence_s: float,
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """After `silence_s` without a message the connection is given up."""
        self._silence_s = silence_s
        self._backoff, self._sleep, self._chance = backoff or Backoff(), sleep, chance
        self._symbols: dict[Key, str] = {}
        self._socket: ClientConnection | None = None

    @abstractmethod
    async def _address(self) -> str:
        """Where to connect this time. Raises ProviderError; SessionEndedError ends the stream."""

    @abstractmethod
    def _asking(self, keys: Sequence[Key]) -> Sequence[str | bytes]:
        """The messages that subscribe to `keys`."""

    @abstractmethod
    def _leaving(self, keys: Sequence[Key]) -> Sequence[str | bytes]:
        """The messages that end the subscription to `keys`."""

    @abstractmethod
    def _quotes_in(self, message: str | bytes) -> Sequence[RawQuote]:
        """The quotes of what is watched in a message; none in one that cannot be read."""

    def _ends(self, status: int) -> SessionEndedError | None:  # noqa: ARG002
        """The error for a handshake that was refused with `status` where asking again would not help."""
        return None

    @property
    def connected(self) -> bool:
        return self._socket is not None

    async def watch(self, symbols: Mapping[Key, str]) -> None:
        """Watch these (symbol by key) instead of what was watched. Raises ValueError above `symbols_max`."""
        if len(symbols) > self.symbols_max:
            raise ValueError(f"at most {self.symbols_max} symbols on one connection")
        gone = [key for key in self._symbols if key not in symbols]
        new = [key for key in symbols if key not in self._symbols]
        self._symbols = dict(symbols)
        if self._socket is None:
            return
        try:
            await self._send(self._socket, self._leaving(gone) if gone else ())
            await self._send(self._socket, self._asking(new) if new else ())
        except WebSocketException:
            log.info("ticker_lost_while_subscribing")  # the reader notices too, reconnects and subscribes to all

    async def quotes(self) -> AsyncIterator[RawQuote]:
        """Each tick of a watched symbol as it comes, until the caller closes the iterator (contextlib.aclosing).

        Raises SessionEndedError: the token was refused, and asking again would not help. Nothing else ends it.
        """
        failures = 0
        while True:
            try:
                async with await self._connection() as socket:
                    await self._send(socket, self._asking(list(self._symbols)) if self._symbols else ())
                    self._socket = socket
                    while True:
                        message = await self._message(socket)
                        failures = 0
                        for quote in self._quotes_in(message):
                            yield quote
            except InvalidStatus as error:
                if ended := self._ends(error.response.status_code):
                    raise ended from None
                log.warning("ticker_refused", ticker=self.name, status=error.response.status_code)
            except SessionEndedError:
                raise
            except (OSError, WebSocketException, ProviderError) as error:
                log.warning("ticker_lost", ticker=self.name, why=type(error).__name__)
            finally:
                self._socket = None
            failures += 1
            await self._sleep(self._backoff.delay_s(failures, self._chance()))

    async def _connection(self) -> connect:
        async with asyncio.timeout(OPEN_S_MAX):
            address = await self._address()
        return _Direct(
            address,
            open_timeout=OPEN_S_MAX,
            close_timeout=CLOSE_S_MAX,
            ping_interval=self.ping_s,
            ping_timeout=self.ping_s,
            compression=None,
            max_size=MESSAGE_BYTES_MAX,
            logger=socket_log,
        )

    async def _send(self, socket: ClientConnection, messages: Sequence[str | bytes]) -> None:
        for message in messages:
            await socket.send(message)

    async def _message(self, socket: ClientConnection) -> str | bytes:
        """The next message. Raises TimeoutError after the silence of a connection whose other end is gone."""
        async with asyncio.timeout(self._silence_s):
            return await socket.recv()
