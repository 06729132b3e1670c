"""Holds bars that come in live until the store takes them, so that a store that is away loses nothing at first."""

from collections import deque
from collections.abc import Callable
from threading import Lock

import polars as pl
import structlog

from contracts.market import Interval
from data_service.errors import StoreError
from data_service.store.schemas import BAR_SCHEMA

log = structlog.get_logger(__name__)

BARS_MAX = 200_000
"""About a session of minute bars of 500 shares."""

Row = tuple[str, int, int, int, int, int, int, str]
"""One bar in the order of BAR_SCHEMA."""


class BarBuffer:
    """Bars of one interval on their way into the store. Safe to call from several threads; one flush at a time."""

    def __init__(
        self,
        interval: Interval,
        ingest: Callable[[Interval, pl.DataFrame, int], object],
        *,
        on_dropped: Callable[[int], None],
        bars_max: int = BARS_MAX,
    ) -> None:
        """`ingest` (data_service.ingest.Gate.ingest) keeps the bars or raises; `on_dropped` counts what was lost."""
        self._interval, self._ingest, self._on_dropped, self._bars_max = interval, ingest, on_dropped, bars_max
        self._waiting: deque[Row] = deque()
        self._dropped = 0
        self._lock, self._flushing = Lock(), Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, bar: Row) -> None:
        """Take one bar in; over the limit the oldest goes, and is counted."""
        with self._lock:
            self._waiting.append(bar)
            over = len(self._waiting) - self._bars_max
            if over > 0:
                self._waiting.popleft()
                self._dropped += 1
        if over > 0:
            self._on_dropped(1)

    def flush(self, now_s: int) -> int:
        """Give the store everything that waits; what it does not take stays for the next time. Returns how many went.

        A failure of the store is logged, not raised: the bars wait.
        """
        with self._flushing:
            with self._lock:
                batch, dropped_before = list(self._waiting), self._dropped
            if not batch:
                return 0
            frame = pl.DataFrame(batch, schema=BAR_SCHEMA, orient="row").unique(["symbol", "start"], keep="last")
            try:
                self._ingest(self._interval, frame, now_s)
            except (StoreError, OSError) as error:
                log.warning("bars_wait_for_the_store", waiting=len(batch), error=str(error))
                return 0
            with self._lock:
                # What was dropped meanwhile were the oldest, so of this batch.
                for _ in range(max(len(batch) - (self._dropped - dropped_before), 0)):
                    self._waiting.popleft()
            return len(batch)
