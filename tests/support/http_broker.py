"""The adapter to the misbehaving broker: how any adapter must read proof, silence and nonsense off a wire."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

import httpx
from pydantic import AwareDatetime, BaseModel, TypeAdapter, ValidationError

from backend.brokers.base import (
    AccountSnapshot,
    BrokerError,
    BrokerUnavailableError,
    OrderChange,
    OrderRejectedError,
    OrderRequest,
    OutcomeUnknownError,
)
from backend.domain.market import Product, Side
from backend.domain.reconcile import BookOrder, BookStatus, BookTrade

T = TypeVar("T")

TIMEOUT_S = 5.0
READS_AT_ONCE_MAX = 8


class Refusal(BaseModel):
    """The broker's own words for no. Only a reply of this shape is proof that an order does not exist."""

    error_type: str
    message: str


class Placed(BaseModel):
    order_id: str


class Funds(BaseModel):
    cash: Decimal
    cash_free: Decimal


class WireTrade(BaseModel):
    trade_id: str
    order_id: str
    quantity: int
    price: Decimal
    charges: Decimal
    traded_at: AwareDatetime


class WireOrder(BaseModel):
    order_id: str
    tag: str
    symbol: str
    exchange: str
    side: Side
    product: Product
    quantity: int
    limit_price: Decimal | None
    placed_at: AwareDatetime
    status: str
    message: str


_ORDERS = TypeAdapter(list[WireOrder])
_TRADES = TypeAdapter(list[WireTrade])
_HOLDINGS = TypeAdapter(dict[str, int])
_FUNDS = TypeAdapter(Funds)
_STATUS = {status.value.upper(): status for status in BookStatus}


class HttpBroker:
    """A `Broker` over HTTP. `absence_is_proof_after_s` is None: this broker's book may be late."""

    name = "http"
    real_money = False

    def __init__(
        self,
        http: httpx.AsyncClient,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        absence_is_proof_after_s: float | None = None,
    ) -> None:
        self._http = http
        self._url = url
        self._timeout_s = timeout_s
        self.absence_is_proof_after_s = absence_is_proof_after_s
        self._reads = asyncio.Semaphore(READS_AT_ONCE_MAX)

    async def place(self, account_id: int, order: OrderRequest) -> str:
        ticket = {
            "symbol": order.symbol,
            "exchange": order.exchange,
            "side": order.side.value,
            "product": order.product.value,
            "order_type": order.order_type.value,
            "quantity": order.quantity,
            "limit_price": str(order.limit_price),
            "tag": order.tag,
        }
        order.require_time()
        reply = await self._write("POST", f"{self._url}/accounts/{account_id}/orders", ticket)
        try:
            return Placed.model_validate_json(reply.content).order_id
        except ValidationError:
            raise OutcomeUnknownError(f"{self.name} answered {reply.status_code} without an order id") from None

    async def modify(self, account_id: int, broker_order_id: str, change: OrderChange) -> None:
        raise OrderRejectedError("this broker changes no orders")

    async def cancel(self, account_id: int, broker_order_id: str) -> None:
        await self._write("DELETE", f"{self._url}/accounts/{account_id}/orders/{broker_order_id}", None)

    async def _write(self, method: str, url: str, body: Mapping[str, Any] | None) -> httpx.Response:
        """One request, sent once.

        Raises:
            OrderRejectedError: a 4xx in the broker's own words.
            OutcomeUnknownError: anything else but a 2xx, and no readable reply at all.
        """
        try:
            reply = await self._http.request(method, url, json=body, timeout=self._timeout_s)
        except (httpx.HTTPError, OSError) as error:
            raise OutcomeUnknownError(f"{self.name} did not answer: {error!r}") from error
        if reply.is_success:
            return reply
        refusal = _refusal(reply) if reply.is_client_error else None
        if refusal is None:
            raise OutcomeUnknownError(f"{self.name} answered {reply.status_code}")
        raise OrderRejectedError(refusal.message, code=refusal.error_type)

    async def books(
        self, account_ids: Sequence[int], since: datetime, tags: Sequence[str] | None = None
    ) -> Mapping[int, Sequence[BookOrder] | BrokerError]:
        """The whole book of each account, whatever `since` and `tags` ask for: this broker knows no filters."""
        return await self._of_each(account_ids, self._book)

    async def snapshots(self, account_ids: Sequence[int]) -> Mapping[int, AccountSnapshot | BrokerError]:
        return await self._of_each(account_ids, self._snapshot)

    async def _of_each(self, account_ids: Sequence[int], read: Callable[[int], Any]) -> Mapping[int, Any]:
        """What each account's report says; a failed one becomes that account's error, never an empty report."""

        async def one(account_id: int) -> Any:
            try:
                async with self._reads:
                    return await read(account_id)
            except BrokerError as error:
                return error

        reports = await asyncio.gather(*(one(account_id) for account_id in account_ids))
        return dict(zip(account_ids, reports, strict=True))

    async def _book(self, account_id: int) -> list[BookOrder]:
        # Orders first: an execution in between then shows as a trade of an open order, never as a fill without one.
        orders = await self._read(account_id, "orders", _ORDERS)
        trades = await self._read(account_id, "trades", _TRADES)
        by_order: dict[str, list[BookTrade]] = defaultdict(list)
        for t in sorted(trades, key=lambda trade: trade.traded_at):
            by_order[t.order_id].append(BookTrade(t.trade_id, t.quantity, t.price, t.charges, t.traded_at))
        return [_book_order(order, by_order[order.order_id]) for order in orders]

    async def _snapshot(self, account_id: int) -> AccountSnapshot:
        funds = await self._read(account_id, "funds", _FUNDS)
        holdings = await self._read(account_id, "holdings", _HOLDINGS)
        return AccountSnapshot(funds.cash, funds.cash_free, holdings)

    async def _read(self, account_id: int, what: str, shape: TypeAdapter[T]) -> T:
        """One report.

        Raises:
            BrokerUnavailableError: no reply, no 2xx, or nothing that can be read.
        """
        try:
            reply = await self._http.get(f"{self._url}/accounts/{account_id}/{what}", timeout=self._timeout_s)
            reply.raise_for_status()
            return shape.validate_json(reply.content)
        except (httpx.HTTPError, OSError, ValidationError) as error:
            detail = f"{self.name} did not report {what} of account {account_id}: {type(error).__name__}"
            raise BrokerUnavailableError(detail) from error


def _refusal(reply: httpx.Response) -> Refusal | None:
    try:
        return Refusal.model_validate_json(reply.content)
    except ValidationError:
        return None


def _book_order(order: WireOrder, trades: Sequence[BookTrade]) -> BookOrder:
    status = _STATUS.get(order.status)
    if status is None:
        raise BrokerUnavailableError(f"an order in the book is {order.status!r}")
    return BookOrder(
        broker_order_id=order.order_id,
        tag=order.tag,
        symbol=order.symbol,
        exchange=order.exchange,
        side=order.side,
        product=order.product,
        quantity=order.quantity,
        limit_price=order.limit_price,
        placed_at=order.placed_at,
        status=status,
        message=order.message,
        trades=tuple(trades),
    )
