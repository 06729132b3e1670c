"""Five-minute bars from data_service are those that were asked for, whole and possible, or none."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import polars as pl
import pytest
from bar_server import serving
from minute_server import MinuteServer
from synthetic_minutes import simulate_minutes

from contracts.market import BarsReply, BarsRequest, Interval
from ml_service.client import DataServiceError
from ml_service.intraday.bars import BARS_5M, MinuteClient, Minutes
from ml_service.intraday.predict import at_minute

BARS = simulate_minutes(0.0, symbols=3, sessions=4)
DAYS: list[date] = BARS["session"].unique().sort().to_list()
Answer = tuple[BarsReply, pl.DataFrame]


@dataclass
class Distorted(MinuteServer):
    """Distorts what it answers."""

    distort: Callable[[BarsReply, pl.DataFrame], Answer] = lambda head, table: (head, table)

    def reply(self, request: BarsRequest) -> Answer:
        return self.distort(*super().reply(request))


async def asked(server: MinuteServer) -> Minutes:
    with serving(server):
        client = MinuteClient(server.url, 5.0)
        async with client:
            return await client.minutes(["MIN00", "MIN01", "MIN02"], DAYS[1], DAYS[-1], at_minute(DAYS[-1], 62))


async def test_what_had_ended_arrives_to_the_last_bit() -> None:
    found = await asked(Distorted(BARS))
    last = (pl.col("session") < DAYS[-1]) | (pl.col("minute") < 60)
    expected = BARS.filter((pl.col("session") > DAYS[0]) & last).sort("symbol", "session", "minute")
    assert found.bars.schema == BARS_5M
    assert found.bars.equals(expected)


DISTORTIONS: dict[str, Callable[[BarsReply, pl.DataFrame], Answer]] = {
    "cut off": lambda head, table: (head, table.head(-1)),
    "a price of nothing": lambda head, table: (
        head,
        table.with_columns(low=pl.when(pl.int_range(pl.len()) == 7).then(0).otherwise("low")),
    ),
    "a minute twice": lambda head, table: (
        head,
        table.with_columns(start=pl.when(pl.int_range(pl.len()) == 7).then(pl.col("start") + 300).otherwise("start")),
    ),
    "another interval": lambda head, table: (head.model_copy(update={"interval": Interval.MIN_15}), table),
    "not adjusted": lambda head, table: (head.model_copy(update={"adjusted": False}), table),
    "another column": lambda head, table: (head, table.rename({"low": "bid"})),
}


@pytest.mark.parametrize("distort", DISTORTIONS.values(), ids=DISTORTIONS.keys())
async def test_other_bars_are_refused(distort: Callable[[BarsReply, pl.DataFrame], Answer]) -> None:
    with pytest.raises(DataServiceError):
        await asked(Distorted(BARS, distort=distort))


async def test_a_silent_data_service_is_given_up() -> None:
    with serving(MinuteServer(BARS, hang_s=30)) as server:
        client = MinuteClient(server.url, 0.2)
        async with client:
            with pytest.raises(DataServiceError, match="within"):
                await client.minutes(["MIN00"], DAYS[0], DAYS[0], at_minute(DAYS[0], 100))
