"""Five-minute bars as one table, from data_service or a file, with the session and the minute that each belongs to."""

import asyncio
import io
import json
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import polars as pl
from pydantic import ValidationError

from contracts.market import BARS_ARROW, PRICE_DECIMALS, BarsReply, BarsRequest, Interval
from ml_service.client import (
    BARS_TABLE,
    IST_OFFSET_S,
    PRICES,
    DataServiceClient,
    DataServiceError,
    Source,
    within,
)
from ml_service.features import BAR_SCHEMA

BAR_MINUTES = 5
OPEN_MINUTE = 9 * 60 + 15
"""Minute of the day, IST, at which a usual session opens. `minute` counts from it."""
SESSION_MINUTES = 375
SYMBOLS_PER_CALL = 100
MINUTE_BARS = {name: dtype for name, dtype in BAR_SCHEMA.items() if name != "session"}
BARS_5M = pl.Schema({"symbol": pl.String, "session": pl.Date, "minute": pl.Int64} | MINUTE_BARS)
"""One row per symbol, session and `minute` (of the bar's start, counted from 09:15 IST): prices in rupees, volume in
shares."""


@dataclass(frozen=True)
class Minutes:
    """Bars (BARS_5M), where they came from (None where nothing was asked for), and the last ex-date of each symbol
    among whose sessions lies an action that moved the price and that no factor undoes."""

    source: Source | None
    bars: pl.DataFrame
    unadjusted: dict[str, date]


def _placed(frame: pl.DataFrame) -> pl.DataFrame:
    """Bars with an integer `start` (epoch seconds) as BARS_5M. Raises DataServiceError where they cannot be that."""
    local = pl.col("start") + IST_OFFSET_S
    minute = (local % 86_400) // 60 - OPEN_MINUTE
    placed = frame.with_columns(pl.from_epoch(local).dt.date().alias("session"), minute.alias("minute"))
    bars = placed.select(BARS_5M.names()).cast(dict(BARS_5M.items()))  # pyright: ignore[reportArgumentType]
    if bars.select((pl.min_horizontal(PRICES) <= 0).any()).item():
        raise DataServiceError("bars hold a price that is not positive")
    if bars.select("symbol", "session", "minute").is_duplicated().any():
        raise DataServiceError("bars hold the same minute twice")
    return bars


def _read(content: bytes) -> tuple[BarsReply, pl.DataFrame]:
    size = int.from_bytes(content[:4], "big")
    try:
        reply = BarsReply.model_validate_json(content[4 : 4 + size])
        table = pl.read_ipc_stream(io.BytesIO(content[4 + size :]))
    except (ValidationError, pl.exceptions.PolarsError, OSError) as error:
        raise DataServiceError("the answer is no table of bars") from error
    if reply.interval is not Interval.MIN_5 or not reply.adjusted or table.schema != BARS_TABLE:
        raise DataServiceError("asked for adjusted five-minute bars, got others")
    # A stream that was cut off between two batches is still a stream.
    if dict(table["symbol"].value_counts().iter_rows()) != {s: source.bars for s, source in reply.sources.items()}:
        raise DataServiceError("the bars are not as many as the answer says")
    # By numpy: how polars divides a column by a number depends, in the last bit, on where in it a row stands.
    prices = [pl.Series(name, table[name].to_numpy() / 10**PRICE_DECIMALS) for name in PRICES]
    return reply, _placed(table.with_columns(prices))


class MinuteClient(DataServiceClient):
    """As DataServiceClient, with five-minute bars."""

    async def minutes(self, symbols: list[str], from_: date, through: date, as_of: datetime) -> Minutes:
        """Adjusted five-minute bars of `symbols`, both dates inclusive, ended by `as_of`, in calls of 100 symbols.

        Raises DataServiceError.
        """
        source, frames = None, [pl.DataFrame(schema=BARS_5M)]
        unadjusted: dict[str, date] = {}
        async with within(self._timeout_s):
            for first in range(0, len(symbols), SYMBOLS_PER_CALL):
                request = BarsRequest(
                    symbols=symbols[first : first + SYMBOLS_PER_CALL],
                    interval=Interval.MIN_5,
                    from_=from_,
                    through=through,
                    as_of=as_of,
                    adjusted=True,
                )
                body = json.loads(request.model_dump_json(by_alias=True))
                content = await self._ask("POST", "/v1/bars", json=body, headers={"accept": BARS_ARROW})
                reply, bars = await asyncio.to_thread(_read, content)
                if source is not None and source.environment is not reply.environment:
                    raise DataServiceError("data_service changed its environment between two answers")
                source = Source(environment=reply.environment, provider=reply.provider)
                frames.append(bars)
                unadjusted |= {s: max(action.ex_date for action in each) for s, each in reply.unadjusted.items()}
        return Minutes(source, pl.concat(frames), unadjusted)


def read_minutes(path: Path) -> pl.DataFrame:
    """Recorded bars of a Parquet file (symbol, ts: aware start of the bar, open … close in rupees, volume) as BARS_5M.

    Raises DataServiceError, OSError, polars' errors for another file.
    """
    frame = pl.read_parquet(path)
    return _placed(frame.with_columns((pl.col("ts").dt.epoch("s")).alias("start")))
