"""A real HTTP server on loopback that answers data_service's contract from a frame of daily bars."""

import asyncio
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from typing import Annotated
from zoneinfo import ZoneInfo

import polars as pl
import uvicorn
from fastapi import FastAPI, Header, Response

from contracts.common import Environment
from contracts.market import (
    BARS_ARROW,
    BarsReply,
    BarsRequest,
    ClockReply,
    CorporateAction,
    Instrument,
    InstrumentsReply,
    SeriesSource,
)

IST = ZoneInfo("Asia/Kolkata")
PRICES = ("open", "high", "low", "close")
OPEN, CLOSE = time(9, 15), time(15, 30)


@dataclass
class BarServer:
    """What is served, and what was asked: `calls` holds the requests in order."""

    bars: pl.DataFrame
    environment: Environment = Environment.SIMULATED
    hang_s: float = 0.0
    hang_from_symbols: int = 1
    url: str = ""
    now: datetime | None = None
    """The market's present; the morning of the last session where it is left out."""
    actions: list[CorporateAction] = field(default_factory=list)
    clock_calls: int = 0
    data_version: str | None = None
    calls: list[BarsRequest] = field(default_factory=list)

    def reply(self, request: BarsRequest) -> tuple[BarsReply, pl.DataFrame]:
        ended = pl.col("session").map_elements(
            lambda day: datetime.combine(day, CLOSE, IST) <= request.as_of, return_dtype=pl.Boolean
        )
        found = self.bars.filter(
            pl.col("symbol").is_in(request.symbols), pl.col("session").is_between(request.from_, request.through)
        ).filter(ended)
        prices = {name: (pl.col(name) * 10**4).round().cast(pl.Int64) * 10**2 for name in PRICES}
        start = pl.col("session").map_elements(_open_s, return_dtype=pl.Int64)
        volume = pl.col("volume").cast(pl.Int64)
        table = found.sort("symbol", "session").select("symbol", start=start, **prices, volume=volume)
        known = set(table["symbol"].to_list())
        head = BarsReply(
            environment=self.environment,
            as_of=request.as_of,
            provider="synthetic",
            interval=request.interval,
            adjusted=request.adjusted,
            series={},
            sources=sources_of(table, request.as_of),
            unadjusted={
                symbol: [action for action in self.actions if action.symbol == symbol]
                for symbol in known & {action.symbol for action in self.actions}
            },
            missing={symbol: "no bars" for symbol in request.symbols if symbol not in known},
        )
        return head, table

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/bars")
        async def bars(request: BarsRequest, accept: Annotated[str, Header()]) -> Response:
            assert accept == BARS_ARROW
            self.calls.append(request)
            if len(request.symbols) >= self.hang_from_symbols:
                await asyncio.sleep(self.hang_s)
            return Response(arrow(*self.reply(request)), media_type=BARS_ARROW)

        @app.get("/v1/instruments")
        def instruments(as_of: datetime) -> InstrumentsReply:
            listed = [
                Instrument(symbol=symbol, name=symbol, tick_size_rupees=Decimal("0.05"), has_derivatives=True)
                for symbol in self.bars["symbol"].unique().sort()
            ]
            return InstrumentsReply(environment=self.environment, as_of=as_of, instruments=listed)

        @app.get("/v1/clock")
        def clock() -> ClockReply:
            self.clock_calls += 1
            now = self.now or datetime.combine(self.bars["session"].max(), time(8), IST)
            return ClockReply(data_version=self.data_version, environment=self.environment, now=now, speed=60)

        return app


def _open_s(day: date) -> int:
    return int(datetime.combine(day, OPEN, IST).timestamp())


def sources_of(table: pl.DataFrame, as_of: datetime) -> dict[str, SeriesSource]:
    """What a reply says of the table's series."""
    counts = table["symbol"].value_counts().iter_rows()
    return {symbol: SeriesSource(bars=count, providers=["file"], as_of=as_of, age_s=0) for symbol, count in counts}


def arrow(head: BarsReply, table: pl.DataFrame) -> bytes:
    """The reply in contracts.market.BARS_ARROW."""
    text, content = head.model_dump_json().encode(), io.BytesIO()
    table.write_ipc_stream(content)
    return len(text).to_bytes(4, "big") + text + content.getvalue()


@contextmanager
def serving(server: BarServer) -> Iterator[BarServer]:
    """Serve on a free loopback port for the duration of the block; sets `url`."""
    uvicorn_server = uvicorn.Server(uvicorn.Config(server.app(), port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=uvicorn_server.run, daemon=True)
    thread.start()
    while not uvicorn_server.started:
        thread.join(0.005)
        assert thread.is_alive()
    port = uvicorn_server.servers[0].sockets[0].getsockname()[1]
    server.url = f"http://127.0.0.1:{port}"
    try:
        yield server
    finally:
        uvicorn_server.should_exit = uvicorn_server.force_exit = True
        thread.join()
