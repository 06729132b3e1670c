"""All streams of one process, and how they end before the server does."""

from dataclasses import dataclass

from backend.services.bar_stream import BarStreamPace, BarStreams
from backend.services.market_calendar import MarketCalendar
from backend.services.market_data_client import MarketDataClient
from backend.services.quote_board import QuoteBoard
from backend.services.quote_stream import QuoteStreamPace, QuoteStreams
from backend.services.stream_slots import StreamLimits, StreamSlots
from contracts.common import Environment

CLOSE_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Streams:
    """The streams and the places they share."""

    slots: StreamSlots
    quotes: QuoteStreams
    bars: BarStreams

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Open no more, end those that are open, and wait for that: at most `timeout_s` seconds."""
        self.slots.closing = True
        self.quotes.wake()
        self.bars.wake()
        await self.slots.emptied(timeout_s)


def create_streams(
    board: QuoteBoard,
    market_data: MarketDataClient,
    calendar: MarketCalendar,
    environment: Environment,
    *,
    limits: StreamLimits | None = None,
    quote_pace: QuoteStreamPace | None = None,
    bar_pace: BarStreamPace | None = None,
) -> Streams:
    """The streams of a gateway; nothing runs before somebody listens."""
    slots = StreamSlots(limits)
    bars = BarStreams(market_data, calendar, environment, slots, bar_pace)
    return Streams(slots, QuoteStreams(board, slots, quote_pace), bars)
