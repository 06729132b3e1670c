"""What data_service says is checked before it becomes a number."""

from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal

import polars as pl
import pytest
from bar_server import IST, BarServer, arrow, serving, sources_of
from hypothesis import given
from hypothesis import strategies as st
from synthetic_market import simulate

from contracts.common import Environment
from contracts.market import BarsReply, BarsRequest, Interval
from ml_service.client import DataServiceClient, DataServiceError, _read_bars, bars_frame

AS_OF = datetime(2019, 6, 3, 23, 59, tzinfo=IST)


MORNING_S = 1_704_080_700  # 2024-01-01 09:15 IST
RUPEE = 10**6


def table(symbol: str, **changes: list[int]) -> pl.DataFrame:
    one = {
        "start": [MORNING_S, MORNING_S + 86_400],
        "open": [100_050_000, 101 * RUPEE],
        "high": [102 * RUPEE, 103 * RUPEE],
        "low": [99 * RUPEE, 100 * RUPEE],
        "close": [101 * RUPEE, 102 * RUPEE],
        "volume": [10, 20],
    }
    return pl.DataFrame(one | changes).select(pl.lit(symbol).alias("symbol"), pl.all())


def test_a_session_is_the_indian_date_of_the_bars_start() -> None:
    late = MORNING_S + 16 * 3600 + 900  # 2024-01-02 01:30 IST
    frame = bars_frame(table("M&M", start=[MORNING_S, late]))
    assert frame["session"].to_list() == [date(2024, 1, 1), date(2024, 1, 2)]
    assert frame.row(0)[2:] == (100.05, 102.0, 99.0, 101.0, 10.0)
    assert bars_frame(table("M&M").clear()).is_empty()


@given(st.integers(1, 10**12))
def test_prices_become_the_floats_that_their_decimals_name(micro_rupees: int) -> None:
    prices = {name: [micro_rupees] for name in ("open", "high", "low", "close")}
    frame = bars_frame(table("TCS", start=[MORNING_S], volume=[1], **prices))
    assert frame["close"].item() == float(Decimal(micro_rupees).scaleb(-6))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (table("TCS").drop("close"), "have the columns"),
        (table("TCS").cast({"close": pl.Float64}), "have the columns"),
        (table("TCS", low=[0, 100 * RUPEE]), "not positive"),
        (table("TCS", start=[MORNING_S] * 2), "same session twice"),
    ],
)
def test_bars_that_cannot_be_are_refused(broken: pl.DataFrame, message: str) -> None:
    with pytest.raises(DataServiceError, match=message):
        bars_frame(broken)


def test_an_answer_that_is_no_table_is_refused() -> None:
    head = BarsReply(
        environment=Environment.PAPER,
        as_of=AS_OF,
        provider="x",
        interval=Interval.DAY_1,
        adjusted=True,
        series={},
        sources=sources_of(table("TCS"), AS_OF),
    )
    whole = arrow(head, table("TCS"))
    assert len(_read_bars(whole)[1]) == 2
    shorter = arrow(head, table("TCS").head(1))
    for broken in (b"", whole[:3], whole[:40], whole[:-100], whole[:4] + b"x" + whole[5:], shorter):
        with pytest.raises(DataServiceError):
            _read_bars(broken)
    unadjusted = arrow(head.model_copy(update={"adjusted": False}), table("TCS"))
    with pytest.raises(DataServiceError, match="asked for adjusted"):
        _read_bars(unadjusted)


class Fickle(BarServer):
    """Calls itself another market from the second answer on."""

    def reply(self, request: BarsRequest) -> tuple[BarsReply, pl.DataFrame]:
        reply = super().reply(request)
        self.environment = Environment.PAPER
        return reply


@pytest.fixture
def fickle() -> Iterator[Fickle]:
    with serving(Fickle(simulate(1.0, symbols=2, sessions=100))) as server:
        yield server


async def test_one_answer_comes_from_one_market(fickle: Fickle) -> None:
    symbols = [f"SIM{i:02d}" for i in range(51)]
    async with DataServiceClient(fickle.url, timeout_s=5) as client:
        with pytest.raises(DataServiceError, match="changed its environment"):
            await client.bars(symbols, date(2019, 1, 1), date(2019, 6, 3), AS_OF)


async def test_a_refusal_is_told_with_its_words(fickle: Fickle) -> None:
    async with DataServiceClient(fickle.url, timeout_s=5) as client:
        with pytest.raises(DataServiceError, match="answered 404"):
            await client._ask("GET", "/v1/nothing")
        source, frame = await client.bars(["SIM00", "NOSUCH"], date(2019, 1, 1), date(2019, 6, 3), AS_OF)
        assert source is not None
        assert frame["symbol"].unique().to_list() == ["SIM00"]
