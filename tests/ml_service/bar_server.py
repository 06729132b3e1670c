"""A real HTTP server on loopback that answers data_service's contract from a frame of daily bars."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from decimal import Decimal
from zoneinfo import ZoneInfo

import polars as pl
import uvicorn
from fastapi import FastAPI

from contracts.common import Environment
from contracts.market import BarColumns, BarsReply, BarsRequest, ClockReply, Instrument, InstrumentsReply

IST = ZoneInfo("Asia/Kolkata")
OPEN, CLOSE = time(9, 15), time(15, 30)


@dataclass
class BarServer:
    """What is served, and what was asked: `calls` holds the requests in order."""

    bars: pl.DataFrame
    environment: Environment = Environment.SIMULATED
    hang_s: float = 0.0
    hang_from_symbols: int = 1
    url: str = ""
    calls: list[BarsRequest] = field(default_factory=list)

    def reply(self, request: BarsRequest) -> BarsReply:
        ended = pl.col("session").map_elements(
            lambda day: datetime.combine(day, CLOSE, IST) <= request.as_of, return_dtype=pl.Boolean
        )
        found = self.bars.filter(
            pl.col("symbol").is_in(request.symbols), pl.col("session").is_between(request.from_, request.through)
        ).filter(ended)
        series = {}
        for (symbol,), rows in found.sort("session").group_by("symbol"):
            prices = {n: [Decimal(f"{p:.4f}") for p in rows[n]] for n in ("open", "high", "low", "close")}
            starts = [datetime.combine(day, OPEN, IST).astimezone(UTC) for day in rows["session"]]
            volume = [int(shares) for shares in rows["volume"]]
            series[str(symbol)] = BarColumns.model_validate({"start": starts, "volume": volume, **prices})
        return BarsReply(
            environment=self.environment,
            as_of=request.as_of,
            provider="synthetic",
            interval=request.interval,
            adjusted=request.adjusted,
            series=series,
            missing={symbol: "no bars" for symbol in request.symbols if symbol not in series},
        )

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/bars")
        async def bars(request: BarsRequest) -> BarsReply:
            self.calls.append(request)
            if len(request.symbols) >= self.hang_from_symbols:
                await asyncio.sleep(self.hang_s)
            return self.reply(request)

        @app.get("/v1/instruments")
        def instruments(as_of: datetime) -> InstrumentsReply:
            listed = [
                Instrument(symbol=symbol, name=symbol, tick_size_rupees=Decimal("0.05"), has_derivatives=True)
                for symbol in self.bars["symbol"].unique().sort()
            ]
            return InstrumentsReply(environment=self.environment, as_of=as_of, instruments=listed)

        @app.get("/v1/clock")
        def clock() -> ClockReply:
            last = self.bars["session"].max()
            return ClockReply(environment=self.environment, now=datetime.combine(last, time(8), IST), speed=60)

        return app


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
