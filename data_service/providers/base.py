"""What an upstream source of market data offers, and the ways in which it can fail."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

import polars as pl

from contracts.market import Interval
from data_service.errors import DataServiceError

SERIES_SUFFIX = re.compile(r"-([A-Z][A-Z0-9])$")
"""Brokers write the series of shares outside EQ at the end of the trading symbol: XYZ-BE. No NSE symbol itself ends in
a hyphen and two letters."""

SHARE_SERIES = ("EQ", "BE")


class Kind(StrEnum):
    """The kinds of data; each has its own order of providers and its own circuit breaker per provider."""

    DAILY_BARS = "daily_bars"
    INTRADAY_BARS = "intraday_bars"
    QUOTES = "quotes"
    INSTRUMENTS = "instruments"
    ACTIONS = "actions"


class ProviderError(DataServiceError):
    """The provider gave no usable answer: unreachable, too slow, garbage, refused. Another one may."""


class UnsupportedError(ProviderError):
    """This provider does not offer that kind of data."""


class RateLimitedError(ProviderError):
    """The provider asks to be left alone for `retry_after_s` seconds."""

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class SessionEndedError(ProviderError):
    """The access token is not valid any more: the account's owner has to get a new one."""


class IncompleteError(ProviderError):
    """A part of the answer came, the rest failed: `got` is what the method would have returned, `cause` why."""

    def __init__(self, cause: ProviderError, got: pl.DataFrame | Mapping[str, "RawQuote"]) -> None:
        super().__init__(str(cause))
        self.cause, self.got = cause, got


@dataclass(frozen=True, slots=True)
class RawQuote:
    """A quote as its provider said it, unchecked. Rupees; None where it does not say.

    `as_of_s` is seconds since 1970-01-01 UTC at which the provider says this was the market, None where it says
    nothing; `volume` is shares of the session so far.
    """

    symbol: str
    source: str
    as_of_s: float | None
    last: Decimal | None
    bid: Decimal | None = None
    ask: Decimal | None = None
    open: Decimal | None = None
    high: Decimal | None = None
    low: Decimal | None = None
    previous_close: Decimal | None = None
    volume: int | None = None
    lower_band: Decimal | None = None
    upper_band: Decimal | None = None


class Provider(Protocol):
    """An upstream source. `name` is one of store.schemas.TRUST; `kinds` says which of the methods it offers.

    Nothing is checked here beyond the format: what comes back goes through the quality gate. Symbols the source does
    not know are absent from its answer.
    """

    name: str
    kinds: frozenset[Kind]

    @property
    def batch_max(self) -> Mapping[Kind, int]:
        """Symbols per call where each costs a request: what has come by the deadline counts."""
        ...

    async def bars(self, symbols: Sequence[str], interval: Interval, from_: date, through: date) -> pl.DataFrame:
        """Unadjusted bars (store.schemas.BAR_SCHEMA) of the days, both inclusive. Raises ProviderError."""
        ...

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, RawQuote]:
        """The market's present. Raises ProviderError."""
        ...

    async def instruments(self) -> pl.DataFrame:
        """The instrument master of today (INSTRUMENT_SCHEMA). Raises ProviderError."""
        ...

    async def actions(self, from_: date, through: date) -> pl.DataFrame:
        """Corporate actions (ACTION_SCHEMA) with an ex-date in the days. Raises ProviderError."""
        ...


class Unsupporting:
    """Base of providers: refuses what the subclass does not offer."""

    name = ""
    batch_max: Mapping[Kind, int] = {}

    async def bars(self, symbols: Sequence[str], interval: Interval, from_: date, through: date) -> pl.DataFrame:  # noqa: ARG002
        raise UnsupportedError(f"{self.name} has no {interval} bars")

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, RawQuote]:  # noqa: ARG002
        raise UnsupportedError(f"{self.name} has no quotes")

    async def instruments(self) -> pl.DataFrame:
        raise UnsupportedError(f"{self.name} has no instruments")

    async def actions(self, from_: date, through: date) -> pl.DataFrame:  # noqa: ARG002
        raise UnsupportedError(f"{self.name} has no corporate actions")
