"""A `Broker` of many accounts out of one `Adapter`: each call with its account's access and within its limits."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from backend.brokers.adapter import Access, Adapter, CallKind
from backend.brokers.base import (
    AccountSnapshot,
    BrokerError,
    BrokerUnavailableError,
    NotPlacedError,
    OrderChange,
    OrderRequest,
    SessionExpiredError,
)
from backend.domain.reconcile import BookOrder
from backend.errors import SaudaError

log = structlog.get_logger()

T = TypeVar("T")

ACCOUNTS_AT_ONCE_MAX = 16
READ_WAIT_S_MAX = 3.0
"""How long a read waits for its account's busy second."""
ORDER_WAIT_S_MAX = 0.5
CANCEL_WAIT_S_MAX = 2.0


class Accesses(Protocol):
    """Who opens accounts."""

    async def access(self, account_id: int) -> Access:
        """The account's access of today. Raises SessionExpiredError, BrokerUnavailableError."""
        ...

    async def expired(self, access: Access) -> None:
        """The broker takes this access no more: whoever asks next is told so without a call."""
        ...


class CallBudget(Protocol):
    """Who counts calls, for all processes together."""

    async def take(self, account_id: int, kind: CallKind, until: float) -> None:
        """Take one call of the account's; waits for a busy second until the monotonic instant `until`.

        Raises:
            RateLimitedError: there is none left; nothing must be sent.
        """
        ...


class ConnectedBroker:
    """The accounts at one broker, over real HTTP with real money."""

    real_money = True
    # No broker promises that its book shows an order at once: what is absent may still be on its way.
    absence_is_proof_after_s: float | None = None

    def __init__(self, adapter: Adapter, accesses: Accesses, budget: CallBudget) -> None:
        self.name = adapter.name
        self._adapter, self._accesses, self._budget = adapter, accesses, budget
        self._at_once = asyncio.Semaphore(ACCOUNTS_AT_ONCE_MAX)

    async def prepare(self) -> None:
        """Have today's list of shares, once a day, so that no order waits for it. Raises BrokerUnavailableError."""
        await self._adapter.instruments()

    async def place(self, account_id: int, order: OrderRequest) -> str:
        until = min(order.send_by, time.monotonic() + ORDER_WAIT_S_MAX)

        async def place(access: Access) -> str:
            if not order.egress_ip or order.egress_ip != access.egress_ip:
                raise NotPlacedError(
                    f"the account leaves from {access.egress_ip}, not from {order.egress_ip} as approved"
                )
            return await self._adapter.place(access, order)

        return await self._call(account_id, CallKind.ORDER, until, place)

    async def modify(self, account_id: int, broker_order_id: str, change: OrderChange) -> None:
        until = time.monotonic() + ORDER_WAIT_S_MAX
        await self._call(
            account_id, CallKind.ORDER, until, lambda access: self._adapter.modify(access, broker_order_id, change)
        )

    async def cancel(self, account_id: int, broker_order_id: str) -> None:
        until = time.monotonic() + CANCEL_WAIT_S_MAX
        await self._call(
            account_id, CallKind.CANCEL, until, lambda access: self._adapter.cancel(access, broker_order_id)
        )

    async def books(
        self, account_ids: Sequence[int], since: datetime, tags: Sequence[str] | None = None
    ) -> Mapping[int, Sequence[BookOrder] | BrokerError]:
        wanted = None if tags is None else frozenset(tags)

        async def book(account_id: int) -> Sequence[BookOrder]:
            shown = await self._read(account_id, self._adapter.orders)
            asked = (order for order in shown if wanted is None or order.tag in wanted)
            return [order for order in asked if order.placed_at >= since]

        return await self._of_each(account_ids, book)

    async def snapshots(self, account_ids: Sequence[int]) -> Mapping[int, AccountSnapshot | BrokerError]:
        return await self._of_each(account_ids, self._snapshot)

    async def _snapshot(self, account_id: int) -> AccountSnapshot:
        """What is sold today has left the holdings, and what is bought today has not reached them: a share that is
        traded between these reads is counted wrongly until the next ones, as everything here is compared again."""
        funds = await self._read(account_id, self._adapter.funds)
        shares: dict[str, int] = {}
        for holding in await self._read(account_id, self._adapter.holdings):
            shares[holding.symbol] = shares.get(holding.symbol, 0) + holding.quantity + holding.t1_quantity
        for position in await self._read(account_id, self._adapter.positions):
            if position.quantity > 0:
                shares[position.symbol] = shares.get(position.symbol, 0) + position.quantity
        return AccountSnapshot(funds.cash, funds.cash_free, {symbol: held for symbol, held in shares.items() if held})

    async def _read(self, account_id: int, read: Callable[[Access], Awaitable[T]]) -> T:
        return await self._call(account_id, CallKind.READ, time.monotonic() + READ_WAIT_S_MAX, read)

    async def _call(self, account_id: int, kind: CallKind, until: float, call: Callable[[Access], Awaitable[T]]) -> T:
        try:
            access = await self._accesses.access(account_id)
            await self._budget.take(account_id, kind, until)
        except NotPlacedError:
            raise
        except (SaudaError, SQLAlchemyError, OSError) as error:
            # Whatever it was, the broker has not been asked yet.
            raise NotPlacedError(f"The account {account_id} could not be opened: {type(error).__name__}") from error
        try:
            return await call(access)
        except SessionExpiredError:
            await self._accesses.expired(access)
            raise

    async def _of_each(
        self, account_ids: Sequence[int], read: Callable[[int], Awaitable[T]]
    ) -> Mapping[int, T | BrokerError]:
        async def one(account_id: int) -> T | BrokerError:
            async with self._at_once:
                try:
                    return await read(account_id)
                except BrokerError as error:
                    return error
                except (SaudaError, TimeoutError) as error:
                    return BrokerUnavailableError(str(error) or type(error).__name__)
                except Exception as error:
                    # What nobody foresaw is this account's trouble, and nobody else's.
                    log.exception("account_unreadable", broker=self.name, account=account_id)
                    return BrokerUnavailableError(type(error).__name__)

        results = await asyncio.gather(*(one(account_id) for account_id in account_ids))
        return dict(zip(account_ids, results, strict=True))
