"""A broker's own list of shares, fetched once a day: keys, names and ticks of yesterday are not today's."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TypeVar

import structlog

from backend.brokers.adapter import Instrument
from backend.brokers.base import BrokerUnavailableError
from backend.brokers.wire_fields import MalformedError
from backend.domain.calendar import IST

log = structlog.get_logger()

T = TypeVar("T")

FILE_TIMEOUT_S = 60.0
FILE_BYTES_MAX = 256 << 20
"""Unpacked: these lists hold every derivative, too, and are tens of megabytes."""

RETRY_AFTER = timedelta(seconds=30)
"""How long a failed download is not tried again: orders ask for the list, and must not wait for it one by one."""

PAISE = Decimal(100)


@dataclass(frozen=True, slots=True)
class ShareList:
    """A day's shares by (exchange, symbol) and by (exchange, the broker's key)."""

    by_name: Mapping[tuple[str, str], Instrument]
    by_key: Mapping[tuple[str, str], Instrument]

    @classmethod
    def of(cls, listed: Iterable[Instrument]) -> "ShareList":
        """Of two shares with one symbol the first counts: give them in the order of preference."""
        by_name: dict[tuple[str, str], Instrument] = {}
        by_key: dict[tuple[str, str], Instrument] = {}
        for share in listed:
            by_name.setdefault((share.exchange, share.symbol), share)
            by_key.setdefault((share.exchange, share.key), share)
        return cls(by_name, by_key)

    def symbol(self, exchange: str, key: str, otherwise: str) -> str:
        """The symbol of a key; of one that is not listed, the name `otherwise` that the broker's report gives it."""
        share = self.by_key.get((exchange, key))
        return share.symbol if share else otherwise


NO_LIST = ShareList({}, {})


def is_share(isin: str) -> bool:
    """Whether an ISIN names an equity share ("01" after the issuer) or a fund's unit (INF), and no bond or warrant."""
    return len(isin) == 12 and (isin.startswith("INF") or (isin.startswith("IN") and isin[7:9] == "01"))


def tick_of_paise(paise: Decimal) -> Decimal:
    """A tick in rupees. Raises MalformedError for one that is no whole number of paise: the list changed its unit."""
    if paise <= 0 or paise != paise.to_integral_value():
        raise MalformedError("a tick is no whole number of paise")
    return paise / PAISE


def readable(listed: Sequence[T], share_of: Callable[[T], Instrument]) -> list[Instrument]:
    """The rows of a list as shares. One that cannot be read costs that share alone; a list without any is none.

    Raises:
        MalformedError: no row can be read.
    """
    found: list[Instrument] = []
    fault = "it lists none"
    for row in listed:
        try:
            found.append(share_of(row))
        except MalformedError as error:
            fault = str(error)
    if not found:
        raise MalformedError(f"it has no shares: {fault}")
    if len(found) < len(listed):
        log.warning("shares_unreadable", count=len(listed) - len(found))
    return found


class DayList:
    """Today's list, downloaded by whoever asks first. Where that fails there is none: the last day's stays out."""

    def __init__(
        self, download: Callable[[], Awaitable[ShareList]], now: Callable[[], datetime], new_from: timedelta
    ) -> None:
        """`new_from` is the time of day, in India, at which the broker has made the new list."""
        self._download, self._now, self._new_from = download, now, new_from
        self._held: tuple[date, ShareList] | None = None
        self._failed_at: datetime | None = None
        self._lock = asyncio.Lock()

    async def today(self) -> ShareList:
        """The list of the day. Raises BrokerUnavailableError."""
        async with self._lock:
            made_on = (self._now().astimezone(IST) - self._new_from).date()
            if self._held is None or self._held[0] != made_on:
                self._held = made_on, await self._downloaded()
            return self._held[1]

    async def today_or_none(self) -> ShareList:
        """The list of the day or an empty one: reports can be read by the names in them."""
        try:
            return await self.today()
        except BrokerUnavailableError as error:
            log.warning("share_list_missing", error=str(error))
            return NO_LIST

    async def _downloaded(self) -> ShareList:
        now = self._now()
        if self._failed_at is not None and now - self._failed_at < RETRY_AFTER:
            raise BrokerUnavailableError("today's list of shares could not be downloaded just now; it is tried again")
        try:
            return await self._download()
        except BrokerUnavailableError:
            self._failed_at = now
            raise
