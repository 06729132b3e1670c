"""Ask data_service for bars, instruments and the market's clock, under one total deadline, and never hang."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import TypeVar
from zoneinfo import ZoneInfo

import httpx
import polars as pl
from pydantic import ValidationError

from contracts.common import Environment, Wire
from contracts.market import (
    BARS_ARROW,
    PRICE_DECIMALS,
    BarsReply,
    BarsRequest,
    ClockReply,
    CorporateAction,
    InstrumentsReply,
    Interval,
)
from ml_service.features import BAR_SCHEMA

IST = ZoneInfo("Asia/Kolkata")
IST_OFFSET_S = 19_800
PRICES = ("open", "high", "low", "close")
BARS_TABLE = pl.Schema({"symbol": pl.String, "start": pl.Int64} | dict.fromkeys((*PRICES, "volume"), pl.Int64))
SYMBOLS_PER_CALL = 50
CONNECTIONS_MAX = 8

Reply = TypeVar("Reply", bound=Wire)


class DataServiceError(Exception):
    """data_service did not give a usable answer; the message says what happened."""


@dataclass(frozen=True)
class Source:
    """Where bars came from: it is recorded with a model and checked when serving."""

    environment: Environment
    provider: str


@dataclass(frozen=True)
class History:
    """Bars (BAR_SCHEMA), where they came from (None where nothing was asked for), and per symbol the actions among its
    bars that moved its price and that no factor undoes: returns across their ex-dates are not returns."""

    source: Source | None
    bars: pl.DataFrame
    unadjusted: dict[str, list[CorporateAction]]


@asynccontextmanager
async def within(timeout_s: float) -> AsyncIterator[None]:
    """Bound what happens inside to `timeout_s` in all; raises DataServiceError when it takes longer."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as late:
        raise DataServiceError(f"no answer within {timeout_s:g} s") from late


def bars_frame(table: pl.DataFrame) -> pl.DataFrame:
    """The table of a contracts.market.BARS_ARROW reply as a frame of BAR_SCHEMA; a daily bar's session is the IST date
    of its start.

    Whole numbers of rupee fractions become floats here and only here: what follows is statistics. Raises
    DataServiceError for other columns, prices that are not positive or a repeated session.
    """
    if table.schema != BARS_TABLE:
        raise DataServiceError(f"bars have the columns {', '.join(table.columns)}")
    if table.select((pl.min_horizontal(PRICES) <= 0).any()).item():
        raise DataServiceError("bars hold a price that is not positive")
    frame = table.select(
        "symbol",
        session=pl.from_epoch(pl.col("start") + IST_OFFSET_S).dt.date(),
        **{name: pl.col(name).cast(pl.Float64) / 10**PRICE_DECIMALS for name in PRICES},
        volume=pl.col("volume").cast(pl.Float64),
    ).cast(BAR_SCHEMA)  # pyright: ignore[reportArgumentType] - a mapping of names to types
    if frame.select("symbol", "session").is_duplicated().any():
        raise DataServiceError("bars hold the same session twice")
    return frame


class DataServiceClient:
    """The few questions ml_service asks. Every public method ends within `timeout_s` or raises DataServiceError."""

    def __init__(self, base_url: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        limits = httpx.Limits(max_connections=CONNECTIONS_MAX)
        self._http = httpx.AsyncClient(base_url=base_url, timeout=httpx.Timeout(timeout_s), limits=limits)

    async def __aenter__(self) -> "DataServiceClient":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def bars(
        self, symbols: list[str], from_: date, through: date, as_of: datetime
    ) -> tuple[Source | None, pl.DataFrame]:
        """Adjusted daily bars of `symbols`, both dates inclusive, ended by `as_of`."""
        found = await self.history(symbols, from_, through, as_of)
        return found.source, found.bars

    async def history(
        self, symbols: list[str], from_: date, through: date, as_of: datetime, *, adjusted: bool = True
    ) -> History:
        """As `bars`, with the actions that could not be adjusted for; in calls of 50 symbols. Unless `adjusted`, the
        prices are those that were traded."""
        calls = [symbols[i : i + SYMBOLS_PER_CALL] for i in range(0, len(symbols), SYMBOLS_PER_CALL)]
        source, frames = None, [pl.DataFrame(schema=BAR_SCHEMA)]
        unadjusted: dict[str, list[CorporateAction]] = {}
        async with within(self._timeout_s):
            for call in calls:
                request = BarsRequest(
                    symbols=call, interval=Interval.DAY_1, from_=from_, through=through, as_of=as_of, adjusted=adjusted
                )
                body = json.loads(request.model_dump_json(by_alias=True))
                content = await self._ask("POST", "/v1/bars", json=body, headers={"accept": BARS_ARROW})
                # Many years of bars of many symbols take longer than an event loop should stand still.
                reply, frame = await asyncio.to_thread(_read_bars, content, adjusted)
                if source is not None and source.environment is not reply.environment:
                    raise DataServiceError("data_service changed its environment between two answers")
                source = Source(environment=reply.environment, provider=reply.provider)
                frames.append(frame)
                unadjusted |= reply.unadjusted
        return History(source, pl.concat(frames), unadjusted)

    async def instruments(self, as_of: datetime) -> InstrumentsReply:
        """All instruments listed as of the instant."""
        async with within(self._timeout_s):
            content = await self._ask("GET", "/v1/instruments", params={"as_of": as_of.isoformat()})
        return _parse(InstrumentsReply, content)

    async def clock(self) -> ClockReply:
        """The market's present."""
        async with within(self._timeout_s):
            content = await self._ask("GET", "/v1/clock")
        return _parse(ClockReply, content)

    async def _ask(self, method: str, path: str, **arguments: object) -> bytes:
        try:
            response = await self._http.request(method, path, **arguments)  # pyright: ignore[reportArgumentType]
        except httpx.HTTPError as error:
            raise DataServiceError(f"{path}: {type(error).__name__}") from error
        if response.status_code != httpx.codes.OK:
            raise DataServiceError(f"{path} answered {response.status_code}: {response.text[:200]}")
        return response.content


def _parse(shape: type[Reply], content: bytes) -> Reply:
    try:
        return shape.model_validate_json(content)
    except ValidationError as error:
        raise DataServiceError(f"an answer is not a {shape.__name__}") from error


def _read_bars(content: bytes, adjusted: bool = True) -> tuple[BarsReply, pl.DataFrame]:
    size = int.from_bytes(content[:4], "big")
    reply = _parse(BarsReply, content[4 : 4 + size])
    if reply.interval is not Interval.DAY_1 or reply.adjusted is not adjusted:
        raise DataServiceError(f"asked for {'adjusted' if adjusted else 'unadjusted'} daily bars, got others")
    try:
        table = pl.read_ipc_stream(io.BytesIO(content[4 + size :]))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataServiceError("the bars are no Arrow table") from error
    frame = bars_frame(table)
    # A stream that was cut off between two batches is still a stream.
    if dict(frame["symbol"].value_counts().iter_rows()) != {s: source.bars for s, source in reply.sources.items()}:
        raise DataServiceError("the bars are not as many as the answer says")
    return reply, frame
