"""What data_service says is checked before it becomes a number."""

from collections.abc import Iterator
from datetime import UTC, date, datetime

import pytest
from bar_server import IST, BarServer, serving
from synthetic_market import simulate

from contracts.common import Environment
from contracts.market import BarColumns, BarsReply, BarsRequest
from ml_service.client import DataServiceClient, DataServiceError, bars_frame

AS_OF = datetime(2019, 6, 3, 23, 59, tzinfo=IST)


def columns(**changes: object) -> BarColumns:
    one = {
        "start": [datetime(2024, 1, 1, 3, 45, tzinfo=UTC), datetime(2024, 1, 2, 3, 45, tzinfo=UTC)],
        "open": ["100.05", "101"],
        "high": ["102", "103"],
        "low": ["99", "100"],
        "close": ["101", "102"],
        "volume": [10, 20],
    }
    return BarColumns.model_validate(one | changes)


def test_a_session_is_the_indian_date_of_the_bars_start() -> None:
    late = datetime(2024, 1, 1, 20, 0, tzinfo=UTC)
    frame = bars_frame({"M&M": columns(start=[datetime(2024, 1, 1, 3, 45, tzinfo=UTC), late])})
    assert frame["session"].to_list() == [date(2024, 1, 1), date(2024, 1, 2)]
    assert frame.row(0)[2:] == (100.05, 102.0, 99.0, 101.0, 10.0)
    assert bars_frame({}).is_empty()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"close": ["101"]}, "unequal length"),
        ({"low": ["0", "100"]}, "not positive"),
        ({"start": [datetime(2024, 1, 1, 3, 45, tzinfo=UTC)] * 2}, "same session twice"),
    ],
)
def test_bars_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataServiceError, match=message):
        bars_frame({"TCS": columns(**changes)})


class Fickle(BarServer):
    """Calls itself another market from the second answer on."""

    def reply(self, request: BarsRequest) -> BarsReply:
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
