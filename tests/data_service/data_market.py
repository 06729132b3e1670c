"""Small markets for the tests: a short calendar, a store of a few bars, a noise that can be disturbed."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from contracts.market import Interval
from data_service.sessions import IST, Session, Sessions, floor_s, ist_midnight_s
from data_service.simulator.model import Noise, session_noise
from data_service.store.facts import FACTOR_SCHEMA, factor_actions
from data_service.store.schemas import BAR_SCHEMA
from data_service.store.stores import Stores, embedded

SHARED_DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


def at(text: str) -> datetime:
    """An IST instant from "2019-01-03 10:00"."""
    return datetime.fromisoformat(text).replace(tzinfo=IST)


def at_s(text: str) -> int:
    return floor_s(at(text))


def session(day: date, open_: str = "09:15", close_cas: str = "15:30", close_other: str = "15:30") -> Session:
    def clock_s(text: str) -> int:
        return int(text[:2]) * 3600 + int(text[3:]) * 60

    midnight_s = ist_midnight_s(day)
    times = (midnight_s + clock_s(text) for text in (open_, close_cas, close_other))
    return Session(day, *times)


def weekdays(first: date, count: int) -> list[date]:
    days = (first + timedelta(days=number) for number in range(2 * count + 7))
    return [day for day in days if day.weekday() < 5][:count]


def short_calendar(count: int = 30) -> Sessions:
    """Sessions from 2019-01-01; the tenth is a muhurat hour, the last three have the closing auction."""
    days = weekdays(date(2019, 1, 1), count)
    sessions = [session(day) for day in days[:-3]] + [session(day, close_cas="15:15") for day in days[-3:]]
    sessions[9] = session(days[9], "18:00", "19:00", "19:00")
    return Sessions(sessions)


def disturbed_after(as_of_s: int, amount: float):
    """A noise source like the market's own up to `as_of_s`, and another one after it."""

    def noise(seed: int, of: Session, shares: int) -> Noise:
        shocks = session_noise(seed, of, shares)
        known = min(max((as_of_s - of.open_s) // 60, 0), len(shocks.market))
        later = np.arange(len(shocks.market)) >= known
        overnight = shocks.overnight + (amount if of.open_s > as_of_s else 0.0)
        return replace(
            shocks,
            market=shocks.market + amount * later,
            fundamental=shocks.fundamental * np.where(later, -1.0, 1.0)[:, None],
            deviation=shocks.deviation + amount * later[:, None],
            overnight=overnight,
        )

    return noise


def frame(rows: Iterable[tuple[str, int, int, int, int, int, int]], source: str = "file") -> pl.DataFrame:
    """Rows (symbol, start in s, open, high, low, close in paise, volume) as the store wants them."""
    return pl.DataFrame([(*row, source) for row in rows], schema=BAR_SCHEMA, orient="row")


def five_minutes(symbol: str, day: date, closes: list[int], open_: str = "09:15") -> list[tuple]:
    """5-minute bars from the open on, each from the close before to its own."""
    start = session(day, open_).open_s
    opens = [closes[0], *closes[:-1]]
    return [
        (symbol, start + 300 * place, before, max(before, close) + 5, min(before, close) - 5, close, 1000 + place)
        for place, (before, close) in enumerate(zip(opens, closes, strict=True))
    ]


def daily(symbol: str, day: date, close: int) -> tuple:
    return (symbol, session(day).open_s, close - 10, close + 50, close - 60, close, 100_000)


def filled_store(folder: Path, rows: dict[Interval, list[tuple]], factors: list[tuple] | None = None) -> Stores:
    stores = embedded(folder)
    for interval, bars in rows.items():
        stores.bars.upsert(interval, frame(bars))
    if factors:
        stores.facts.upsert_actions(factor_actions(pl.DataFrame(factors, schema=FACTOR_SCHEMA, orient="row")))
    return stores
