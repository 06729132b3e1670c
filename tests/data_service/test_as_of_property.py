"""Whatever becomes known after an instant changes no byte of any answer as of that instant: thousands of random pairs.

`AS_OF_PAIRS=10000 make test ARGS=tests/data_service/test_as_of_property.py` asks four times as many.
"""

import os
import random
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from functools import cache, partial
from itertools import product

import numpy as np
import polars as pl
from data_market import session, weekdays
from memory_stores import MemoryBars, MemoryFacts, MemoryStores

from contracts.market import Interval, Quote
from data_service.adjust import adjusted
from data_service.bars import COLUMN_FIELDS, INTERVAL_S, Bars
from data_service.providers.recorded import RecordedMarket, RecordedView
from data_service.reference_routes import UniverseName, _members
from data_service.routes import _unadjusted
from data_service.sessions import Sessions, ist_instant
from data_service.store.schemas import ACTION_SCHEMA, BAR_SCHEMA, INSTRUMENT_SCHEMA

STORES = 100
PAIRS = int(os.environ.get("AS_OF_PAIRS", "2500"))
DAYS = weekdays(date(2026, 12, 28), 5)
SESSIONS = Sessions(
    [session(day, "18:00", "18:45" if place > 1 else "19:00", "19:00") for place, day in enumerate(DAYS)]
)
FIRST, LAST = DAYS[0] - timedelta(days=3), DAYS[-1] + timedelta(days=30)
SHARES = ("CAS", "OLD", "PLAIN")
NAMES = (*SHARES, "NEW", "LATER", "FRESH")
REFERENCE = {"CAS": "Takes part in the closing auction"}
RATIOS = ((1, 2), (1, 10), (2, 3), (10, 1), (7, 13))
STORED = (Interval.MIN_1, Interval.MIN_5, Interval.MIN_15, Interval.MIN_30, Interval.DAY_1)


@cache
def places(interval: Interval) -> pl.DataFrame:
    """Where bars can be: symbol, start, the `part` (share and session) they are of, and when each is known: `ends`."""
    rows = []
    for part, (symbol, of) in enumerate(product(NAMES, SESSIONS.all)):
        close_s = of.close_s(symbol == "CAS")
        if interval is Interval.DAY_1:
            rows.append((symbol, of.open_s, part, of.official_close_s(symbol == "CAS")))
            continue
        length_s = INTERVAL_S[interval]
        starts = range(of.open_s, close_s, length_s)
        rows += [(symbol, start, part, min(start + length_s, close_s)) for start in starts]
    return pl.DataFrame(rows, schema=["symbol", "start", "part", "ends"], orient="row")


def some_bars(rng: np.random.Generator, symbols: tuple[str, ...]) -> dict[Interval, pl.DataFrame]:
    """Random bars (BAR_SCHEMA and `ends`) of some sessions of each share, some intervals with gaps."""
    found: dict[Interval, pl.DataFrame] = {}
    for interval in STORED:
        spots = places(interval)
        whole = rng.random(int(spots["part"].max()) + 1) < 0.8  # pyright: ignore[reportArgumentType]
        there = whole[spots["part"].to_numpy()] & (rng.random(len(spots)) < rng.choice([0.0, 0.5, 0.95, 1.0]))
        spots = spots.filter(there).filter(pl.col("symbol").is_in(symbols))
        open_, close = rng.integers(5_000, 20_000, (2, len(spots)))
        found[interval] = spots.select(
            "symbol",
            "start",
            open=pl.Series(open_),
            high=pl.Series(np.maximum(open_, close) + 10),
            low=pl.Series(np.minimum(open_, close) - 10),
            close=pl.Series(close),
            volume=pl.Series(rng.integers(0, 10_000, len(spots))),
            source=pl.lit(str(rng.choice(["nse", "yahoo"]))),
            ends="ends",
        )
    return found


def an_action(rng: random.Random, symbol: str, ex_date: date, known_on: date) -> dict:
    kind = rng.choice(["split", "bonus", "dividend", "demerger", "rights", "merger"])
    before, after = rng.choice(RATIOS) if kind in ("split", "bonus") else (None, None)
    return {
        "symbol": symbol,
        "ex_date": ex_date,
        "known_on": known_on,
        "kind": kind,
        "shares_before": before,
        "shares_after": after,
        "subject": f"{kind} {rng.random()}",
        "source": rng.choice(["nse", "yahoo"]),
    }


def a_rename(symbol: str, new_symbol: str, ex_date: date, known_on: date) -> dict:
    said = {"symbol": symbol, "new_symbol": new_symbol, "ex_date": ex_date, "known_on": known_on}
    return said | {"kind": "rename", "subject": f"{new_symbol} {known_on}", "source": "nse"}


def a_fact(rng: random.Random, symbol: str, known_on: date) -> dict:
    maybe = {
        "tick_paise": rng.choice([1, 5, 10, None]),
        "has_derivatives": rng.choice([True, False, None]),
        "band_pct": rng.choice([5, 20, None]),
        "lot_size": rng.choice([1, 25, None]),
    }
    return {"symbol": symbol, "known_on": known_on, "source": rng.choice(["nse", "kite"]), **maybe}


def some_actions(rng: random.Random) -> list[dict]:
    rows = [an_action(rng, rng.choice(SHARES), rng.choice(DAYS), rng.choice(DAYS)) for _ in range(rng.randrange(6))]
    return [*rows, a_rename("OLD", "NEW", day := rng.choice(DAYS[1:]), day)] if rng.random() < 0.7 else rows


class World:
    """A store and its twin that differs in everything that ends or becomes known after `cut_s`, and in nothing else."""

    def __init__(self, seed: int) -> None:
        self.rng, self.draw = random.Random(seed), np.random.default_rng(seed)
        self.bars = some_bars(self.draw, (*SHARES, "NEW"))
        self.rows = some_actions(self.rng)
        # Whether CAS has derivatives is told beforehand and no more: its bars' ends are made by that.
        self.facts = [a_fact(self.rng, self.rng.choice(SHARES[1:]), self.rng.choice(DAYS)) for _ in range(4)]
        self.facts = [fact | {"has_derivatives": False} for fact in self.facts]
        ends = np.concatenate([[DAYS_END_S], *(frame["ends"].to_numpy() for frame in self.bars.values())])
        self.cut_s = int(self.draw.choice(ends)) + self.rng.choice([-1, 0, 0, 1, 59, 3600])
        self.cut_day = ist_instant(self.cut_s).date()
        self.announced = self.rng.random() < 0.5
        self.view = self._view(self.bars, self.rows, self.facts)
        self.twin = self._view(self._other_bars(), self._other_actions(), self._other_facts())

    def _view(self, bars, rows, facts) -> RecordedView:
        frames = {of: part.select(list(BAR_SCHEMA)) for of, part in bars.items() if len(part)}
        told = pl.DataFrame(rows, schema=ACTION_SCHEMA).sort("symbol", "ex_date", maintain_order=True)
        said = pl.DataFrame(facts, schema=INSTRUMENT_SCHEMA)
        stores = MemoryStores(MemoryBars(frames), MemoryFacts(told, said))
        return RecordedMarket(stores, SESSIONS, REFERENCE).view()  # pyright: ignore[reportArgumentType]

    def _other_bars(self) -> dict[Interval, pl.DataFrame]:
        others = some_bars(self.draw, (*SHARES, "NEW", "LATER"))
        after, until = pl.col("ends") > self.cut_s, pl.col("ends") <= self.cut_s
        return {of: pl.concat([self.bars[of].filter(until), others[of].filter(after)]) for of in STORED}

    def _later(self) -> date:
        return self.cut_day + timedelta(days=self.rng.choice([1, 1, 2, 30]))

    def _other_actions(self) -> list[dict]:
        kept = [row for row in self.rows if row["known_on"] <= self.cut_day]
        if self.announced:
            kept = [row for row in kept if row["ex_date"] <= self.cut_day]
            kept += [an_action(self.rng, self.rng.choice(SHARES), self._later(), self.cut_day) for _ in range(2)]
        new = [an_action(self.rng, self.rng.choice(NAMES), self.rng.choice(DAYS), self._later()) for _ in range(3)]
        return [*kept, *new, a_rename(self.rng.choice(SHARES), "FRESH", self.rng.choice(DAYS), self._later())]

    def _other_facts(self) -> list[dict]:
        kept = [fact for fact in self.facts if fact["known_on"] <= self.cut_day]
        return kept + [a_fact(self.rng, symbol, self._later()) for symbol in NAMES]

    def instant(self, place: int) -> int:
        """The cut itself first, then instants shortly and long before it."""
        return self.cut_s if place == 0 else self.cut_s - self.rng.choice([1, 60, 300, 900, 3600, 86_400, 200_000])


DAYS_END_S = SESSIONS.all[-1].close_other_s


def raw_bytes(bars: Bars) -> bytes:
    return b"".join(np.ascontiguousarray(getattr(bars, name)).tobytes() for name in COLUMN_FIELDS)


def bars_at(view: RecordedView, as_of_s: int, symbol: str, intervals: Iterable[Interval]) -> list[object]:
    """Bars as they traded and adjusted, and the actions that no factor undoes."""
    found: list[object] = []
    as_of = ist_instant(as_of_s)
    today = as_of.date()
    for interval in intervals:
        bars = view.bars(symbol, interval, FIRST, LAST, as_of_s)
        found.append(bars)
        if isinstance(bars, Bars):
            scaled = adjusted(bars, view.factors(symbol, today), today)
            found[-1:] = [raw_bytes(bars), raw_bytes(scaled), scaled.decimals]
            found.append(repr(_unadjusted(view, {symbol: bars}, as_of)) if interval is Interval.DAY_1 else None)
    return found


def quote_at(view: RecordedView, as_of_s: int, symbol: str) -> list[object]:
    quote = view.quote(symbol, as_of_s)
    said = quote.model_dump_json() if isinstance(quote, Quote) else quote
    return [said, view.reference(symbol, ist_instant(as_of_s).date(), as_of_s)]


def market_at(view: RecordedView, as_of_s: int, announced: bool) -> list[object]:
    """Instruments, actions (those of days to come where none was announced after the fact), the universe, the days."""
    today = ist_instant(as_of_s).date()
    found: list[object] = [instrument.model_dump_json() for instrument in view.instruments(as_of_s)]
    through = today if announced else LAST
    found += [action.model_dump_json() for action in view.actions(FIRST, through, today)]
    return [*found, _members(view, UniverseName.TOP, 2, as_of_s), view.days(as_of_s)]


def everything(view: RecordedView, as_of_s: int, announced: bool) -> list[object]:
    of_shares = [
        part
        for symbol in (*SHARES, "NEW")
        for part in (*bars_at(view, as_of_s, symbol, Interval), *quote_at(view, as_of_s, symbol))
    ]
    return [*of_shares, *market_at(view, as_of_s, announced)]


def question(rng: random.Random, as_of_s: int, announced: bool) -> Callable[[RecordedView], list[object]]:
    """One of all questions there are."""
    symbol, kind = rng.choice(NAMES), rng.random()
    intervals = rng.sample(list(Interval), 2)
    if kind < 0.6:
        return lambda view: bars_at(view, as_of_s, symbol, intervals)
    if kind < 0.98:
        return lambda view: quote_at(view, as_of_s, symbol)
    return lambda view: market_at(view, as_of_s, announced)


def test_nothing_after_an_instant_changes_an_answer_as_of_it():
    """Of each store everything is asked at its cut, and one question each at instants before it."""
    differing, told = [], 0
    for seed in range(STORES):
        world = World(seed)
        for place in range(PAIRS // STORES):
            as_of_s = world.instant(place)
            asked = partial(everything, as_of_s=as_of_s, announced=world.announced)
            if place:
                asked = question(world.rng, as_of_s, world.announced)
            one, other = asked(world.view), asked(world.twin)
            told += sum(isinstance(answer, bytes) for answer in one)
            if one != other:
                differing.append((seed, place, as_of_s - world.cut_s))
    assert differing == []
    assert told > PAIRS


def test_the_twins_do_differ_after_their_cut():
    worlds = [World(seed) for seed in range(20)]
    after = [
        everything(world.view, DAYS_END_S + 86_400 * 60, False)
        != everything(world.twin, DAYS_END_S + 86_400 * 60, False)
        for world in worlds
    ]
    assert sum(after) > 15
