"""data_service's contract over real HTTP, from a frame of five-minute bars."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl
from bar_server import IST, PRICES, BarServer, sources_of

from contracts.market import BarsReply, BarsRequest, Interval


@dataclass
class MinuteServer(BarServer):
    """As BarServer; `bars` are BARS_5M. `fails`: every question for bars is answered with an error."""

    fails: bool = False

    def reply(self, request: BarsRequest) -> tuple[BarsReply, pl.DataFrame]:
        assert request.interval is Interval.MIN_5
        if self.fails:
            raise ConnectionError("the store is damaged")
        opening = pl.col("session").cast(pl.Datetime("us")) + pl.duration(hours=9, minutes=15)
        start = (opening + pl.duration(minutes="minute")).dt.replace_time_zone(IST.key)
        found = (
            self.bars.filter(
                pl.col("symbol").is_in(request.symbols), pl.col("session").is_between(request.from_, request.through)
            )
            .with_columns(start=start)
            .filter(pl.col("start") + timedelta(minutes=5) <= pl.lit(request.as_of.astimezone(IST)))
            .sort("symbol", "start")
        )
        table = found.select(
            "symbol",
            pl.col("start").dt.epoch("s"),
            *((pl.col(name) * 10**4).round().cast(pl.Int64) * 10**2 for name in PRICES),
            pl.col("volume").cast(pl.Int64),
        )
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
                action.symbol: [action]
                for action in self.actions
                if action.symbol in known and request.from_ <= action.ex_date <= request.through
            },
            missing={symbol: "no bars" for symbol in request.symbols if symbol not in known},
        )
        return head, table


def asked_at(server: MinuteServer) -> list[datetime]:
    """The `as_of` of every question for bars, in order."""
    return [call.as_of for call in server.calls]
