"""Serve the opening-range strategy beside the daily ones: asked once per five-minute bar, never waited for long."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

import polars as pl
import structlog

from contracts.common import Environment
from contracts.predictions import Prediction
from ml_service.client import DataServiceError
from ml_service.intraday.bars import BAR_MINUTES, OPEN_MINUTE, MinuteClient, Minutes
from ml_service.intraday.features import STRATEGY
from ml_service.intraday.predict import HISTORY_DAYS, bar_end, may_propose, propose, valid_at
from ml_service.metrics import Metrics
from ml_service.registry import Artefact

log = structlog.get_logger(__name__)

WAIT_S = 0.5
"""How long a reply may wait for this strategy in all. What takes longer goes on for the replies after it."""
ASK_AGAIN_S = 15.0
"""Real seconds after which a failed answer, or one that lacked some share's newest bar, is asked for again."""
ASKED_MAX = 4
HISTORIES_MAX = 2


@dataclass(frozen=True)
class _Answer:
    """`final`: no share that traded today lacks its newest bar, so that asking again would say the same."""

    proposals: dict[str, Prediction] = field(default_factory=dict[str, Prediction])
    final: bool = False


@dataclass
class _Asked:
    """One question on its way or answered, since when (the loop's clock), and whether its lateness was told."""

    task: asyncio.Task[_Answer]
    since: float
    told: bool = False

    def is_over(self, now: float) -> bool:
        """Whether the same is to be asked again."""
        return self.task.done() and not self.task.result().final and now - self.since >= ASK_AGAIN_S


def lacks_bars(today: pl.DataFrame, end_minute: int) -> bool:
    """Whether a share that traded today lacks the bar that ends `end_minute` minutes after the open."""
    newest = today.group_by("symbol").agg(pl.col("minute").max())
    return newest.is_empty() or newest.select((pl.col("minute") + BAR_MINUTES < end_minute).any()).item()


class OpeningRange:
    """The proposals of one process. `client` is its own: it must not take connections from other questions."""

    def __init__(self, client: MinuteClient, environment: Environment, metrics: Metrics) -> None:
        self._client, self._environment, self._metrics = client, environment, metrics
        self._asked: OrderedDict[tuple[datetime, str], _Asked] = OrderedDict()
        self._histories: OrderedDict[tuple[date, str], Minutes] = OrderedDict()

    async def candidates(self, artefact: Artefact, symbols: Iterable[str], as_of: datetime) -> dict[str, Prediction]:
        """What may be acted upon at `as_of`, per requested symbol. Never raises, and waits for WAIT_S at most.

        Nothing is asked and nothing answered without a certified mode, nor outside the minutes of the strategy.
        """
        if not artefact.certified(STRATEGY) or not may_propose(as_of):
            return {}
        asked, now = self._ask(artefact, bar_end(as_of)), asyncio.get_running_loop().time()
        await asyncio.wait({asked.task}, timeout=max(asked.since + WAIT_S - now, 0))
        if not asked.task.done():
            if not asked.told:
                asked.told = True
                self._failed(f"no answer within {WAIT_S:g} s")
            return {}
        wanted = set(symbols)
        return {s: each for s, each in valid_at(asked.task.result().proposals, as_of).items() if s in wanted}

    async def close(self) -> None:
        """Stop asking."""
        for asked in self._asked.values():
            asked.task.cancel()
        await asyncio.gather(*(asked.task for asked in self._asked.values()), return_exceptions=True)
        self._asked.clear()

    def _ask(self, artefact: Artefact, end: datetime) -> _Asked:
        key, now = (end, artefact.sha256), asyncio.get_running_loop().time()
        asked = self._asked.get(key)
        if asked is None or asked.is_over(now):
            asked = self._asked[key] = _Asked(asyncio.create_task(self._answer(artefact, end)), now)
            while len(self._asked) > ASKED_MAX:
                _, oldest = self._asked.popitem(last=False)
                oldest.task.cancel()
        return asked

    async def _answer(self, artefact: Artefact, end: datetime) -> _Answer:
        """All proposals of the day from bars that had ended by `end`, a bar's end."""
        day, universe = end.date(), artefact.manifest["universe"]
        try:
            before = await self._history(artefact, end)
            today = await self._client.minutes(universe, day, day, end)
            for found in (before, today):
                if found.source is None or found.source.environment is not self._environment:
                    raise DataServiceError(f"data_service does not serve the {self._environment.value} market")
            flawed = before.unadjusted | today.unadjusted
            bars = pl.concat([before.bars, today.bars])
            proposals = await asyncio.to_thread(propose, artefact, bars, day, flawed)
            return _Answer(proposals, not lacks_bars(today.bars, end.hour * 60 + end.minute - OPEN_MINUTE))
        except DataServiceError as error:
            self._failed(str(error))
        except Exception:
            log.exception("intraday_failed")
            self._metrics.intraday_not_answered()
        return _Answer()

    async def _history(self, artefact: Artefact, end: datetime) -> Minutes:
        """The sessions before the day of `end`, asked for once a day."""
        day = end.date()
        key = (day, artefact.sha256)
        if key not in self._histories:
            first, last = day - timedelta(days=HISTORY_DAYS), day - timedelta(days=1)
            self._histories[key] = await self._client.minutes(artefact.manifest["universe"], first, last, end)
            if len(self._histories) > HISTORIES_MAX:
                self._histories.popitem(last=False)
        return self._histories[key]

    def _failed(self, why: str) -> None:
        log.warning("intraday_not_answered", why=why)
        self._metrics.intraday_not_answered()
