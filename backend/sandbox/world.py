"""What the sandbox is made of, and who is calling it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from urllib.parse import parse_qsl

import httpx
from starlette.requests import Request

from backend.brokers.paper import PaperBroker
from backend.db import Sessions
from backend.domain.calendar import IST
from backend.errors import SaudaError
from backend.sandbox.limits import CallLimits, Group
from backend.sandbox.words import KiteError, tokens_of
from backend.services.market_calendar import MarketCalendar
from backend.services.market_data_client import MarketDataClient
from backend.vault import Vault
from contracts.market import Instrument

FIELDS_MAX = 100

Confirm = Callable[[int, str, str, str], Awaitable[None]]
"""(user id, password, code of the second factor, address) → raises SaudaError unless that user is there."""


@dataclass(slots=True)
class Listing:
    """The day's shares and their numbers at Kite."""

    day: date | None = None
    by_symbol: Mapping[str, Instrument] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    symbols: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class World:
    """The sandbox's parts. `sessions` work as the trader, `clock` is the market's, `now` the real one.

    `confirm` checks who logs in; without it a click does, which is for one's own machine alone. `postbacks` sends order
    updates to clients; None sends none. `user_id`s are Sauda's.
    """

    sessions: Sessions
    broker: PaperBroker
    market_data: MarketDataClient
    calendar: MarketCalendar
    clock: Callable[[], Awaitable[datetime]]
    now: Callable[[], datetime]
    vault: Vault
    confirm: Confirm | None = None
    postbacks: httpx.AsyncClient | None = None
    limits: CallLimits = field(default_factory=CallLimits)
    listing: Listing = field(default_factory=Listing)

    async def listed(self) -> Listing:
        """The market's shares, read anew each day of the market.

        Raises:
            KiteError: the market cannot be read.
        """
        try:
            today = (await self.clock()).astimezone(IST).date()
            if self.listing.day != today:
                found = {i.symbol: i for i in await self.market_data.load_instruments()}
                tokens = tokens_of(found)
                self.calendar.know(found.values())
                self.listing.by_symbol, self.listing.tokens = found, tokens
                self.listing.symbols = {token: symbol for symbol, token in tokens.items()}
                self.listing.day = today
        except (SaudaError, TimeoutError) as error:
            raise no_market(error) from error
        return self.listing

    async def token_of(self, symbol: str) -> int:
        """The instrument token; 0 for a share that is listed no more."""
        return (await self.listed()).tokens.get(symbol, 0)


@dataclass(frozen=True, slots=True)
class Caller:
    """A client that is logged in, and the key it is logged in with."""

    world: World
    api_key: str
    access_token: str
    account_id: int
    user_id: int

    def count(self, group: Group) -> None:
        """Count one call of the key. Raises KiteError."""
        self.world.limits.take(self.api_key, group)


def no_market(error: Exception) -> KiteError:
    return KiteError("DataException", f"The market cannot be read: {error or type(error).__name__}")


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a URL-encoded body; the first of each name counts. Raises KiteError."""
    try:
        pairs = parse_qsl((await request.body()).decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX)
    except ValueError:
        raise KiteError("InputException", "The form cannot be read.") from None
    return dict(reversed(pairs))
