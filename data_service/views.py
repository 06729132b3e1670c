"""What the routes answer from: one consistent state of the market, whether it is generated or recorded."""

from dataclasses import dataclass
from datetime import date
from typing import Protocol

from contracts.market import CorporateAction, Instrument, Interval, Quote
from data_service.adjust import Factors
from data_service.bars import Bars, Ints
from data_service.quote_history import SessionFacts


@dataclass(frozen=True, slots=True)
class Missing:
    """Why there is no answer for one symbol."""

    reason: str


UNKNOWN_SYMBOL = Missing("unknown symbol")


class MarketView(Protocol):
    """One consistent state of a source; nothing that ended after `as_of_s` (seconds since the epoch) leaves it."""

    def instruments(self, as_of_s: int) -> list[Instrument]:
        """All shares known at `as_of_s`, with the tick size and band of then."""
        ...

    def bars(self, symbol: str, interval: Interval, from_: date, through: date, as_of_s: int) -> Bars | Missing:
        """Unadjusted bars of the sessions, ended by `as_of_s`, at least one."""
        ...

    def factors(self, symbol: str, as_of: date) -> Factors:
        """The splits and bonuses of `symbol` that were known on `as_of`."""
        ...

    def actions(self, from_: date, through: date, as_of: date) -> list[CorporateAction]:
        """All corporate actions with an ex-date in the days (both inclusive) that were known on `as_of`."""
        ...

    def quote(self, symbol: str, as_of_s: int) -> Quote | Missing:
        """The market in `symbol` as it stood at `as_of_s`."""
        ...

    def session_facts(self, symbol: str, days: Ints, as_of_s: int) -> SessionFacts:
        """What a quote of `symbol`, as it is called at `as_of_s`, stood on in each of its sessions `days` (ascending,
        since 1970-01-01), by what was known then."""
        ...

    def days(self, as_of_s: int) -> tuple[date, date] | None:
        """First and last session date with data at `as_of_s`; None where there is none."""
        ...


class MarketSource(Protocol):
    """A market to answer from. `name` stands in replies and quotes."""

    name: str

    def view(self) -> MarketView:
        """The source's present state; one request uses one view. Raises StoreError where a file is damaged."""
        ...

    def version(self) -> str | None:
        """What tells this state of the source from every other; None where it is not read from a store."""
        ...
