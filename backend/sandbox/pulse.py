"""The sandbox's heartbeat: books follow the market, triggers fire, and whoever listens is told of ticks and orders."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any

import httpx
import structlog
from sqlalchemy import select
from starlette.websockets import WebSocket, WebSocketDisconnect

from backend.brokers.paper_ledger import any_id
from backend.errors import SaudaError
from backend.models import SandboxApp
from backend.models.paper import PaperOrder
from backend.sandbox import gtt
from backend.sandbox.market import PARTICIPATION
from backend.sandbox.ticks import HEARTBEAT, MODES, Mode, message, packet
from backend.sandbox.words import KiteError, client_id, day_start, order_row
from backend.sandbox.world import Caller, World
from backend.services.sandbox_key_service import secret_of
from contracts.market import Quote

log = structlog.get_logger()

HEARTBEAT_S = 1.0
INSTRUMENTS_MAX = 3000
SOCKETS_MAX = 3
"""Of one key, as at Kite (kite.trade/docs/connect/v3/websocket)."""
MESSAGE_CHARACTERS_MAX = 65_536
POSTBACK_TIMEOUT_S = 5.0
SEND_TIMEOUT_S = 5.0
_POSTBACK_STATUSES = {"COMPLETE": "COMPLETE", "CANCELLED": "CANCEL", "REJECTED": "REJECTED"}


@dataclass(eq=False, slots=True)
class Ticker:
    """One client's WebSocket: what it subscribed to, and what of it was sent last."""

    socket: WebSocket
    caller: Caller
    modes: dict[int, Mode] = field(default_factory=dict)
    sent: dict[int, tuple[Mode, Quote]] = field(default_factory=dict)

    def control(self, text: str) -> None:
        """Take a client's message: {"a": "subscribe" | "unsubscribe" | "mode", "v": …}. Raises ValueError."""
        said = json.loads(text)
        if not isinstance(said, dict):
            raise ValueError("a message is an object")
        value = said.get("v")
        if said.get("a") == "subscribe":
            self.modes |= {token: self.modes.get(token, "quote") for token in _tokens(value)}
        elif said.get("a") == "unsubscribe":
            for token in _tokens(value):
                self.modes.pop(token, None)
                self.sent.pop(token, None)
        elif said.get("a") == "mode" and isinstance(value, list) and len(value) == 2 and value[0] in MODES:
            self.modes |= dict.fromkeys(_tokens(value[1]), value[0])
        else:
            raise ValueError("an unknown message")
        if len(self.modes) > INSTRUMENTS_MAX:
            raise ValueError(f"at most {INSTRUMENTS_MAX} instruments are subscribed to")

    def news(self, quotes: Mapping[int, Quote]) -> list[bytes]:
        """The packets of what changed since it was sent."""
        packets: list[bytes] = []
        for token, mode in self.modes.items():
            quote = quotes.get(token)
            if quote is None or self.sent.get(token) == (mode, quote):
                continue
            self.sent[token] = mode, quote
            packets.append(packet(token, quote, mode, quote.bar_volume // PARTICIPATION))
        return packets


def _tokens(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(token) is int for token in value):
        raise ValueError("instrument tokens are whole numbers")
    return value


class Pulse:
    """Follows the market every `every_s` real seconds for those who listen, and for triggers that stand."""

    def __init__(self, world: World, every_s: float = 0.5) -> None:
        self._world, self._every_s = world, every_s
        self._tickers: set[Ticker] = set()
        self._known: dict[int, tuple[object, ...]] = {}
        self._watched: set[int] = set()
        self._since: datetime | None = None
        self._posting: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Beat while the block runs."""
        beating = asyncio.create_task(self._beat_on())
        try:
            yield
        finally:
            for task in (beating, *self._posting):
                task.cancel()
            await asyncio.gather(beating, *self._posting, return_exceptions=True)

    async def listen(self, ticker: Ticker) -> None:
        """Serve one client until it goes."""
        if sum(other.caller.api_key == ticker.caller.api_key for other in self._tickers) >= SOCKETS_MAX:
            await ticker.socket.close(1008, "too many connections")
            return
        self._tickers.add(ticker)
        heart = asyncio.create_task(self._heart(ticker))
        try:
            while True:
                text = await ticker.socket.receive_text()
                try:
                    if len(text) > MESSAGE_CHARACTERS_MAX:
                        raise ValueError("the message is too long")
                    ticker.control(text)
                except (ValueError, RecursionError) as error:
                    await ticker.socket.send_text(json.dumps({"type": "error", "data": str(error)[:200]}))
        except (WebSocketDisconnect, RuntimeError, KeyError):
            return  # it went, or sent no text
        finally:
            self._tickers.discard(ticker)
            heart.cancel()

    async def _heart(self, ticker: Ticker) -> None:
        while True:
            await self._send(ticker, HEARTBEAT)
            await asyncio.sleep(HEARTBEAT_S)

    async def _beat_on(self) -> None:
        while True:
            try:
                await self.beat()
            except (KiteError, SaudaError) as error:
                log.warning("sandbox_pulse_failed", error=str(error))
            except Exception:
                log.exception("sandbox_pulse_failed")
            await asyncio.sleep(self._every_s)

    async def beat(self) -> None:
        """Once: triggers, books, ticks, order updates."""
        standing = await gtt.active(self._world)
        apps = await self._apps()
        accounts = {ticker.caller.account_id for ticker in self._tickers} | set(apps)
        if not accounts and not standing:
            return
        listing = await self._world.listed()
        tokens = {token for ticker in self._tickers for token in ticker.modes}
        symbols = {listing.symbols[token] for token in tokens if token in listing.symbols}
        symbols |= {row.symbol for row in standing if row.symbol in listing.by_symbol}
        quotes: Mapping[str, Quote] = {}
        if symbols:
            quotes = (await self._world.market_data.quotes(sorted(symbols), None)).reply.quotes
        now = await self._world.clock()
        for row in standing:
            await gtt.fire(self._world, row, quotes.get(row.symbol), now)
        by_token = {listing.tokens[symbol]: quote for symbol, quote in quotes.items() if symbol in listing.tokens}
        for ticker in tuple(self._tickers):
            if packets := ticker.news(by_token):
                await self._send(ticker, message(packets))
        if accounts:
            await self._world.broker.advance(sorted(accounts))
            await self._tell(accounts, apps, now)

    async def _apps(self) -> dict[int, SandboxApp]:
        """The apps that want postbacks, by account."""
        if self._world.postbacks is None:
            return {}
        async with self._world.sessions() as session:
            wants = SandboxApp.postback_url != ""
            return {app.account_id: app for app in await session.scalars(select(SandboxApp).where(wants))}

    async def _tell(self, accounts: set[int], apps: Mapping[int, SandboxApp], now: datetime) -> None:
        """Tell of each order that is not as it was; of none when an account is first looked at."""
        async with self._world.sessions() as session:
            of = PaperOrder.account_id == any_id(sorted(accounts)), PaperOrder.placed_at >= day_start(now)
            orders = (await session.scalars(select(PaperOrder).where(*of).order_by(PaperOrder.id))).all()
        if self._since != day_start(now):
            self._since, self._known, self._watched = day_start(now), {}, set()
        fresh, self._watched = accounts - self._watched, set(accounts)
        for order in orders:
            state = (order.status, order.filled_quantity, order.modifications)
            if self._known.get(order.id) == state:
                continue
            self._known[order.id] = state
            if order.account_id in fresh:
                continue
            row = order_row(order, await self._world.token_of(order.symbol))
            text = json.dumps({"type": "order", "id": "", "data": row | {"checksum": ""}})
            for ticker in tuple(self._tickers):
                if ticker.caller.account_id == order.account_id:
                    await self._send(ticker, text)
            app = apps.get(order.account_id)
            if app is not None and (order.ended_at or order.filled_quantity or order.modifications):
                self._post_later(app, row)

    async def _send(self, ticker: Ticker, content: bytes | str) -> None:
        """Send, or drop a client that takes nothing any more."""
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                if isinstance(content, bytes):
                    await ticker.socket.send_bytes(content)
                else:
                    await ticker.socket.send_text(content)
        except (WebSocketDisconnect, RuntimeError, OSError):  # a TimeoutError is an OSError
            self._tickers.discard(ticker)

    def _post_later(self, app: SandboxApp, row: Mapping[str, Any]) -> None:
        task = asyncio.create_task(self._post(app, row))
        self._posting.add(task)
        task.add_done_callback(self._posting.discard)

    async def posted(self) -> None:
        """Wait until every postback so far was sent, or failed."""
        await asyncio.gather(*self._posting, return_exceptions=True)

    async def _post(self, app: SandboxApp, row: Mapping[str, Any]) -> None:
        """Once, as Kite's postbacks: a hint that may be lost (kite.trade/docs/connect/v3/postbacks)."""
        async with self._world.sessions() as session:
            secret = await secret_of(session, self._world.vault, app.account_id)
        signed = f"{row['order_id']}{row['order_timestamp']}{secret}".encode()
        body = dict(row) | {
            "user_id": client_id(app.account_id),
            "app_id": app.account_id,
            "unfilled_quantity": row["quantity"] - row["filled_quantity"],
            "status": _POSTBACK_STATUSES.get(row["status"], "UPDATE"),
            "checksum": sha256(signed).hexdigest(),
        }
        if self._world.postbacks is None:
            return
        try:
            await self._world.postbacks.post(
                app.postback_url, json=body, timeout=POSTBACK_TIMEOUT_S, follow_redirects=False
            )
        except httpx.HTTPError as error:
            log.warning("sandbox_postback_failed", account=app.account_id, error=type(error).__name__)
