"""Fills the store from the providers: asks for what is lacking, keeps at once what came, can be stopped anywhere."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol, TypeVar

import polars as pl

from contracts.market import Interval
from data_service.bars import INTERVAL_S
from data_service.chain import BarsAnswer
from data_service.ingest import Gate, Ingested
from data_service.sessions import DAY_S, IST_OFFSET_S, Sessions
from data_service.store.schemas import ABSENCE_SCHEMA
from data_service.store.stores import Stores

SESSIONS_PER_STEP = 5
SYMBOLS_PER_STEP = 500
STEP_DEADLINE_S = 120.0

FINAL_SOURCES = ("nse", "bse", "file")
FINAL_AFTER_DAYS = 3
"""A bar that no provider had this long after its session is not asked for again: the share did not trade."""

T = TypeVar("T")


class BarsChain(Protocol):
    """The chain of providers, as far as a backfill needs it."""

    async def bars(
        self,
        interval: Interval,
        wanted: Mapping[str, frozenset[date]],
        deadline_s: float,
        through_s: float | None = None,
    ) -> BarsAnswer:
        """See data_service.chain.Chain."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One request of a backfill: the session days lacking per symbol."""

    wanted: Mapping[str, frozenset[date]]

    @property
    def size(self) -> int:
        """How many sessions of a symbol it asks for."""
        return sum(len(days) for days in self.wanted.values())

    @property
    def days(self) -> tuple[date, date]:
        """First and last day of it."""
        every = [day for days in self.wanted.values() for day in days]
        return min(every), max(every)


@dataclass(frozen=True, slots=True)
class BackfillReport:
    """What became of a step. `lacking` counts session days nobody had; `failures` is why providers did not answer."""

    ingested: Ingested = field(default_factory=Ingested)
    lacking: int = 0
    failures: dict[str, str] = field(default_factory=dict[str, str])


def plan(
    stores: Stores,
    sessions: Sessions,
    interval: Interval,
    symbols: Sequence[str],
    first: date,
    last: date,
    now_s: int,
    *,
    official_wanted: bool = False,
) -> list[Step]:
    """The steps that would fill the store, oldest first: sessions that are over, not stored and not known absent.

    With `official_wanted` a daily bar of the last FINAL_AFTER_DAYS days that is not the exchange's own word counts as
    lacking: the exchange publishes hours after others. Raises StoreError.
    """
    days = [s.day for s in sessions.all if first <= s.day <= last and s.official_close_s(True) <= now_s]
    weak_from_s = now_s - FINAL_AFTER_DAYS * DAY_S if official_wanted and interval is Interval.DAY_1 else now_s
    held = _held(stores, sessions, interval, days, weak_from_s) | _absent(stores, interval)
    held |= _quarantined(stores, interval)
    steps: list[Step] = []
    for some_days in _parts(days, SESSIONS_PER_STEP):
        lacking = {symbol: frozenset(day for day in some_days if (symbol, day) not in held) for symbol in symbols}
        wanted = [(symbol, missing) for symbol, missing in lacking.items() if missing]
        steps += [Step(dict(part)) for part in _parts(wanted, SYMBOLS_PER_STEP)]
    return steps


def _held(
    stores: Stores, sessions: Sessions, interval: Interval, days: Sequence[date], weak_from_s: int
) -> set[tuple[str, date]]:
    """The sessions that are stored: with a daily bar, or intraday bars up to the end of continuous trading.

    Bars made of the quotes that happened to be seen are no session, nor are bars from `weak_from_s` on that neither an
    exchange nor the operator told.
    """
    found: set[tuple[str, date]] = set()
    day = pl.from_epoch(pl.col("start") + IST_OFFSET_S).dt.date().alias("day")
    length_s = INTERVAL_S.get(interval)
    closes = {day: 0 if length_s is None else sessions.usual(day).close_cas_s - length_s for day in days}
    for year in {day.year for day in days}:
        if (interval, year) in stores.bars.stamps():
            final = pl.col("source").is_in(FINAL_SOURCES) | (pl.col("start") < weak_from_s)
            told = stores.bars.read(interval, year).filter(pl.col("source") != "stream", final)
            last = told.group_by("symbol", day).agg(pl.col("start").max())
            found |= {(symbol, on) for symbol, on, start_s in last.iter_rows() if start_s >= closes.get(on, 0)}
    return found


def _absent(stores: Stores, interval: Interval) -> set[tuple[str, date]]:
    absences = stores.facts.absences().filter(pl.col("interval") == interval)
    return set(absences.filter(_final("asked_at", pl.col("day"))).select("symbol", "day").iter_rows())


def _quarantined(stores: Stores, interval: Interval) -> set[tuple[str, date]]:
    """Sessions whose daily bar came and was not to be believed: it would come again."""
    if interval is not Interval.DAY_1:
        return set()
    found = stores.facts.findings().filter("quarantined", pl.col("interval") == interval, pl.col("start").is_not_null())
    day = pl.from_epoch(pl.col("start") + IST_OFFSET_S).dt.date()
    return set(
        found.with_columns(day=day).filter(_final("found_at", pl.col("day"))).select("symbol", "day").iter_rows()
    )


def _final(at: str, day: pl.Expr) -> pl.Expr:
    """Whether the instant `at` lies so long after the day that nothing more is to be expected of it."""
    return (pl.col(at) + IST_OFFSET_S) // DAY_S >= day.to_physical() + FINAL_AFTER_DAYS


async def fill(
    chain: BarsChain,
    gate: Gate,
    stores: Stores,
    interval: Interval,
    steps: Sequence[Step],
    *,
    now_s: int,
    deadline_s: float = STEP_DEADLINE_S,
) -> AsyncIterator[tuple[Step, BackfillReport]]:
    """Work through the steps and yield each with what became of it; everything yielded is stored.

    Where providers fail, what they lack is asked for again the next time. Raises StoreError, OSError.
    """
    day = pl.from_epoch(pl.col("start") + IST_OFFSET_S).dt.date().alias("day")
    for step in steps:
        answer = await chain.bars(interval, step.wanted, deadline_s)
        pairs = [(symbol, on) for symbol, days in step.wanted.items() for on in days]
        wanted = pl.DataFrame(pairs, schema={"symbol": pl.String, "day": pl.Date}, orient="row")
        ingested, told = Ingested(), set[date]()
        for _, bars in answer.frames:
            asked = bars.with_columns(day).join(wanted, on=["symbol", "day"], how="semi")
            told |= set(asked["day"].unique())
            ingested += gate.ingest(interval, asked.drop("day"), now_s)
        lacking = [(symbol, on) for symbol, days in answer.lacking.items() for on in days]
        # Only who had the day of another share is known to have been able to have it.
        absent = [(symbol, interval.value, on, now_s) for symbol, on in lacking if on in told and not answer.failures]
        if absent:
            stores.facts.add_absences(pl.DataFrame(absent, schema=ABSENCE_SCHEMA, orient="row"))
        yield step, BackfillReport(ingested, len(lacking), dict(answer.failures))


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[place : place + size] for place in range(0, len(items), size))
