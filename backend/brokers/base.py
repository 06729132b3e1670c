"""What a broker is to Sauda, and how it can fail. Each adapter translates its own words into these once."""

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol, runtime_checkable

from backend.domain.corporate_actions import CorporateAction
from backend.domain.market import OrderType, Product, Side, Validity
from backend.domain.reconcile import BookOrder
from backend.errors import SaudaError


class BrokerError(SaudaError):
    """A broker said no, or said nothing."""

    status, code, title = 503, "broker_unavailable", "Service unavailable"


class OrderRejectedError(BrokerError):
    """Proof that the order does not exist at the broker: its own refusal, in its own words."""


class OutcomeUnknownError(BrokerError):
    """A timeout, a broken connection, a 5xx or an unreadable reply: the order may or may not exist."""


class NotPlacedError(BrokerError):
    """Proof that the order does not exist, for a reason that is not the order's own: it may be decided anew.

    Reads and cancels raise its kinds, too: then nothing was read or cancelled.
    """


class TooLateError(NotPlacedError):
    """Proof that nothing was sent: the order's time was over right before its request would have been written."""


class RateLimitedError(NotPlacedError):
    """One call too many: kept back here before it was sent, or turned away by the broker's own counter."""


class SessionExpiredError(NotPlacedError):
    """The account's session with its broker is over, or was never begun: its owner has to log in there."""

    status, code, title = 409, "broker_login_needed", "Conflict"


class BrokerUnavailableError(BrokerError):
    """A read that failed. A failed report is never an empty one."""


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """An order as a broker takes it: shares, rupees per share; `tag` is echoed in the book.

    `send_by`: the instant of the monotonic clock after which its request must not be written any more.
    `protection_percent`: how far from the last price a MARKET order may trade; never 0, and needed for those alone.
    `algo_id`: the exchange's name of the strategy, where it is registered; `egress_ip`: the address it must leave from.
    """

    symbol: str
    exchange: str
    side: Side
    product: Product
    order_type: OrderType
    quantity: int
    limit_price: Decimal
    tag: str
    trigger_price: Decimal | None = None
    send_by: float = math.inf
    validity: Validity = Validity.DAY
    protection_percent: Decimal | None = None
    algo_id: str = ""
    egress_ip: str = ""

    def require_time(self) -> None:
        """For an adapter's last line before the request is written: a process may have been stopped meanwhile.

        Raises:
            TooLateError: the order's time is over.
        """
        if time.monotonic() > self.send_by:
            raise TooLateError(f"the order {self.tag} was not sent: its time was over")


@dataclass(frozen=True, slots=True)
class OrderChange:
    """What a resting order becomes: all of it, changed or not. `quantity` counts what has been filled already, too."""

    order_type: OrderType
    quantity: int
    limit_price: Decimal
    trigger_price: Decimal | None = None
    validity: Validity = Validity.DAY


@dataclass(frozen=True, slots=True)
class AccountSnapshot:
    """Money and shares at the broker: rupees, and shares by symbol. `cash_free` leaves out what open orders reserve."""

    cash: Decimal
    cash_free: Decimal
    holdings: Mapping[str, int]


class Broker(Protocol):
    """One broker. Reads of many accounts come in one call, so that an adapter may batch or run them concurrently."""

    name: str
    real_money: bool
    """Whether its orders trade real money: then all three live switches must be on."""
    absence_is_proof_after_s: float | None
    """Seconds after which absence from the book proves that an order never arrived; None where it proves nothing."""

    async def place(self, account_id: int, order: OrderRequest) -> str:
        """Place one order and return the broker's order id. Calls `order.require_time()` right before it writes.

        Raises:
            NotPlacedError: it was not placed, and that is not its own fault.
            OrderRejectedError: the broker refused it.
            OutcomeUnknownError: nobody knows.
        """
        ...

    async def modify(self, account_id: int, broker_order_id: str, change: OrderChange) -> None:
        """Ask for a change of a resting order. That it was taken is not that it happened: the book tells.

        Raises:
            OrderRejectedError: the broker refused it; the order rests as it did.
            BrokerError: it may rest either way.
        """
        ...

    async def cancel(self, account_id: int, broker_order_id: str) -> None:
        """Ask for a cancel. That it was taken is not that it happened: the book tells. Raises BrokerError."""
        ...

    async def books(
        self, account_ids: Sequence[int], since: datetime, tags: Sequence[str] | None = None
    ) -> Mapping[int, Sequence[BookOrder] | BrokerError]:
        """The orders placed since `since`, per account; an error where an account's report failed.

        `tags` are the client order ids that are asked for; None asks for the whole book, orders made by hand included.
        A broker that reports whole days only returns more.
        """
        ...

    async def snapshots(self, account_ids: Sequence[int]) -> Mapping[int, AccountSnapshot | BrokerError]:
        """Funds and holdings per account; an error where an account's report failed."""
        ...


@runtime_checkable
class KeepsBook(Protocol):
    """A broker whose book is Sauda's to keep; a real one hears of corporate actions itself."""

    async def apply_action(self, action: CorporateAction, now: datetime, waiting: Collection[int] = ()) -> set[int]:
        """Adjust every holding in the book for `action`, once per account; doing it again changes nothing. Accounts
        `waiting` for an earlier action of the share are left as they are.

        Returns the accounts in which it cannot be done (yet). Raises BrokerUnavailableError.
        """
        ...


@runtime_checkable
class HasShareList(Protocol):
    """A broker that names shares in its own way, and anew each day."""

    async def prepare(self) -> None:
        """Have today's list; nothing is asked where it is there. Raises BrokerUnavailableError."""
        ...
