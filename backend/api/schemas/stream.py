"""The streams of bars on the wire: the question, and the messages."""

from datetime import date
from typing import Literal

from backend.api.schemas.common import Body, MarketReply, Moment, Reply, Symbol
from backend.api.schemas.market import BarView
from contracts.market import Interval


class BarStreamQuery(Body):
    symbol: Symbol
    interval: Interval = Interval.MIN_5


class BarsSnapshot(MarketReply):
    """First, and again after a gap: the finished bars of the session of `day`, oldest first, unadjusted."""

    type: Literal["snapshot"]
    symbol: str
    interval: Interval
    day: date | None
    source: str
    bars: list[BarView]
    note: str | None


class BarMessage(MarketReply):
    """A finished bar, once; or the forming one as it is at `as_of`, until it is finished."""

    type: Literal["bar"]
    symbol: str
    interval: Interval
    finished: bool
    as_of: Moment | None = None
    bar: BarView


class StaleMessage(MarketReply):
    """The market cannot be seen at present: what was sent before is old. A snapshot follows when it can."""

    type: Literal["stale"]
    symbol: str
    interval: Interval
    reason: str


class PingMessage(Reply):
    """Nothing happened for a while."""

    type: Literal["ping"]


StreamMessage = BarsSnapshot | BarMessage | StaleMessage | PingMessage
"""Any message of the stream of bars."""
