"""One broker's wire: how an account is logged in, traded and read there. `connected.py` makes a `Broker` of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

import httpx

from backend.brokers.base import OrderChange, OrderRequest
from backend.brokers.credential_fields import CredentialField
from backend.domain.market import Product
from backend.domain.reconcile import BookOrder

Credentials = Mapping[CredentialField, str]


class CallKind(StrEnum):
    """What a broker counts together. ORDER is placing and modifying; a CANCEL may use what placing leaves free."""

    ORDER = "order"
    CANCEL = "cancel"
    READ = "read"
    LOGIN = "login"


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `calls` in any `seconds` running."""

    calls: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Access:
    """What opens one account until its session ends. `http` leaves from the account's own address, `egress_ip`."""

    account_id: int
    client_id: str
    api_key: str
    token: str = field(repr=False)
    http: httpx.AsyncClient = field(repr=False)
    egress_ip: str = ""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """What a login brings: the user's number at the broker, the day's token, and the instant (UTC) at which it ends."""

    client_id: str
    token: str = field(repr=False)
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class Funds:
    """Rupees: `cash` is the account's own money, `cash_free` what of it no open order holds back."""

    cash: Decimal
    cash_free: Decimal


@dataclass(frozen=True, slots=True)
class Holding:
    """Shares in the depository or on their way there (`t1_quantity`), without those sold today; rupees per share."""

    symbol: str
    exchange: str
    isin: str
    quantity: int
    t1_quantity: int
    average_price: Decimal


@dataclass(frozen=True, slots=True)
class Position:
    """Today's trades in a share, net: shares (short below zero), rupees per share."""

    symbol: str
    exchange: str
    product: Product
    quantity: int
    average_price: Decimal


@dataclass(frozen=True, slots=True)
class Instrument:
    """A share as the broker lists it: `key` is its own name for it, tick in rupees, `closes_by_auction` None where the
    list does not tell."""

    symbol: str
    exchange: str
    key: str
    tick: Decimal
    lot: int
    closes_by_auction: bool | None = None


class Adapter(Protocol):
    """One broker over HTTP, for any account there. Every foreign error becomes one of brokers/base.py here.

    Reads raise SessionExpiredError, RateLimitedError or BrokerUnavailableError; a report that is cut off, or malformed
    in any order, is a failed one and never a shorter one.
    """

    name: str
    rates: Mapping[CallKind, Sequence[Rate]]
    """The broker's own limits of one account. Cancels are counted against those of orders, too."""

    async def login_url(self, http: httpx.AsyncClient, credentials: Credentials, state: str) -> str:
        """Where the user logs in at the broker; `state` comes back with the user where the broker lets it.

        Raises:
            BrokerUnavailableError: the broker has to be asked first, and did not answer.
            InvalidRequestError: the broker does not know the credentials.
        """
        ...

    async def log_in(
        self, http: httpx.AsyncClient, credentials: Credentials, returned: Mapping[str, str], now: datetime
    ) -> LoggedIn:
        """Exchange what the broker's login returned in its redirect for the day's token. Sent once, never again.

        Raises:
            InvalidRequestError: what was returned lacks its token, or the broker does not take it (any more).
            BrokerUnavailableError: the broker did not answer.
        """
        ...

    async def log_out(self, access: Access) -> None:
        """End the session at the broker. Raises BrokerError."""
        ...

    async def place(self, access: Access, order: OrderRequest) -> str:
        """As `Broker.place`."""
        ...

    async def modify(self, access: Access, broker_order_id: str, change: OrderChange) -> None:
        """As `Broker.modify`."""
        ...

    async def cancel(self, access: Access, broker_order_id: str) -> None:
        """As `Broker.cancel`."""
        ...

    async def orders(self, access: Access) -> Sequence[BookOrder]:
        """Today's whole book with the executions of each order."""
        ...

    async def holdings(self, access: Access) -> Sequence[Holding]: ...

    async def positions(self, access: Access) -> Sequence[Position]: ...

    async def funds(self, access: Access) -> Funds: ...

    def is_genuine(self, postback: bytes, credentials: Credentials) -> bool:
        """Whether a message about an order bears the broker's signature; True where the broker signs none."""
        ...

    async def instruments(self) -> Mapping[tuple[str, str], Instrument]:
        """The broker's list of today, by exchange ("nse", "bse") and symbol; read once a day."""
        ...
