"""Bars served by data_service, and bhavcopy rows imported, against polars reading and writing the same files bare."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import polars as pl

from contracts.common import Environment
from contracts.market import BARS_ARROW, BarsRequest, Interval
from data_service.config import Settings
from data_service.imports.load import import_file
from data_service.main import create_app
from data_service.sessions import OPEN_USUAL_S, Sessions, floor_s, ist_midnight_s, load_sessions
from data_service.store.schemas import BAR_SCHEMA
from data_service.store.stores import embedded
from tests.bench.result import Result

ROUNDS = 7
SYMBOLS = [f"S{number:02d}" for number in range(50)]
FIRST, LAST = date(2016, 1, 1), date(2025, 12, 31)
NOW = datetime(2026, 1, 2, tzinfo=UTC)
BHAVCOPY_SHARES, BHAVCOPY_DAYS = 2_300, 5


def run(rounds: int = ROUNDS) -> list[Result]:
    """Medians of `rounds` interleaved rounds."""
    with tempfile.TemporaryDirectory(prefix="sauda-bench-") as folder:
        return [*asyncio.run(_served(Path(folder), rounds)), _imported(Path(folder), rounds)]


def _random_bars(days: list[date], symbols: list[str]) -> pl.DataFrame:
    """A seeded random walk; prices in paise."""
    stream = np.random.default_rng(7)
    starts = np.array([ist_midnight_s(day) + OPEN_USUAL_S for day in days])
    frames: list[pl.DataFrame] = []
    for symbol in symbols:
        close = np.rint(100_000 * np.exp(np.cumsum(0.01 * stream.standard_normal(len(days))))).astype(np.int64)
        columns = {"open": close, "high": close + 50, "low": close - 50, "close": close, "volume": close * 7}
        frames.append(
            pl.DataFrame({"start": starts, **columns}).with_columns(symbol=pl.lit(symbol), source=pl.lit("nse"))
        )
    return pl.concat(frames).select(list(BAR_SCHEMA)).cast(BAR_SCHEMA)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


async def _served(folder: Path, rounds: int) -> list[Result]:
    """50 symbols × 10 years of daily bars in one request, through the whole application, its arrays warm."""
    days = [FIRST + timedelta(days=n) for n in range((LAST - FIRST).days + 1)]
    bars = _random_bars([day for day in days if day.weekday() < 5], SYMBOLS)
    settings = Settings(environment=Environment.PAPER, data_dir=folder)
    embedded(settings.recorded_dir).bars.upsert(Interval.DAY_1, bars)
    files = sorted(settings.recorded_dir.glob("bars-1d-*.parquet"))
    request = BarsRequest(symbols=SYMBOLS, interval=Interval.DAY_1, from_=FIRST, through=LAST, as_of=NOW)
    app = create_app(settings, lambda: NOW)

    def bare() -> object:
        frames = [pl.read_parquet(file).filter(pl.col("symbol").is_in(SYMBOLS)) for file in files]
        return pl.concat(frames).sort("symbol", "start").partition_by("symbol")

    served: dict[str, list[float]] = {"application/json": [], BARS_ARROW: []}
    reference: list[float] = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://bench") as client:
        for _ in range(rounds + 1):
            for accepted, seconds in served.items():
                began = time.perf_counter()
                headers = {"content-type": "application/json", "accept": accepted}
                reply = await client.post("/v1/bars", content=request.model_dump_json(by_alias=True), headers=headers)
                seconds.append(time.perf_counter() - began)
                assert reply.status_code == 200, reply.text
            reference.append(_seconds(bare))
    bare_rate = len(bars) / statistics.median(reference[1:])
    return [
        Result(
            f"{len(SYMBOLS)} symbols × 10 years of daily bars in one request, {name}",
            len(bars) / statistics.median(served[accepted][1:]),
            "bars/s",
            bare_rate,
            "polars reading the same Parquet files into one frame a symbol",
            "–",
        )
        for name, accepted in (("Arrow", BARS_ARROW), ("JSON", "application/json"))
    ]


def _bhavcopy(day: date, folder: Path) -> Path:
    """A UDiFF file of invented shares."""
    stream, count = np.random.default_rng(day.toordinal()), BHAVCOPY_SHARES
    price = np.rint(stream.uniform(50, 5000, count) * 20) / 20
    path = folder / f"{day:%Y%m%d}.csv"
    prices = {"OpnPric": price, "HghPric": price + 1, "LwPric": price - 1, "ClsPric": price}
    columns = {"TradDt": [str(day)] * count, "Src": ["NSE"] * count, "ISIN": [f"INE{n:06d}010" for n in range(count)]}
    names = {"TckrSymb": [f"SHARE{n}" for n in range(count)], "SctySrs": ["EQ"] * count}
    names["FinInstrmNm"] = names["TckrSymb"]
    pl.DataFrame({**columns, **names, **prices, "TtlTradgVol": stream.integers(1, 10**7, count)}).write_csv(path)
    return path


def _days(sessions: Sessions, count: int) -> list[date]:
    return [session.day for session in sessions.all if session.day >= date(2025, 1, 1)][:count]


def _imported(folder: Path, rounds: int) -> Result:
    """Exchange files one by one, checked, gated, merged and flushed to disk."""
    sessions = load_sessions()
    files = [_bhavcopy(day, folder) for day in _days(sessions, BHAVCOPY_DAYS)]
    rows = BHAVCOPY_SHARES * len(files)
    ours: list[float] = []
    bare: list[float] = []
    for number in range(rounds):
        stores = embedded(folder / f"import-{number}")

        def import_all(stores=stores) -> None:
            for file in files:
                assert import_file(stores, sessions, file, now_s=floor_s(NOW)).result.counts.new

        def copy_all(number: int = number) -> None:
            for file in files:
                pl.read_csv(file).write_parquet(folder / f"{number}-{file.stem}.parquet", compression="zstd")

        ours.append(_seconds(import_all))
        bare.append(_seconds(copy_all))
    return Result(
        f"import of {len(files)} bhavcopies of {BHAVCOPY_SHARES:,} rows, gated and flushed",
        rows / statistics.median(ours),
        "rows/s",
        rows / statistics.median(bare),
        "polars reading the CSV and writing Parquet",
        "–",
    )
