"""Do what nobody waits for: freeze what shadows would say, write outcomes, let the rules judge, refresh the figures."""

import asyncio
from collections.abc import Iterator
from datetime import date, datetime

import polars as pl
import structlog

from contracts.scoreboard import Outcome
from ml_service.client import IST, DataServiceClient, DataServiceError
from ml_service.lifecycle import demote_if, judge_shadow
from ml_service.maturing import mature
from ml_service.model import STRATEGY
from ml_service.monitor import VERDICT_SESSIONS, State, compare, demotion, state_of
from ml_service.pointers import Change, Slot
from ml_service.registry import VERSION_CHARS, Artefact, ArtefactError
from ml_service.scores import event_scores
from ml_service.service import PredictionService

log = structlog.get_logger(__name__)

WORK_TIMEOUT_S = 120.0
"""Longest one question of the background task to data_service: a long absence is caught up with in large answers."""


class Background:
    """The rounds of one process. `client` is its own: it must not take connections from requests."""

    def __init__(self, service: PredictionService, client: DataServiceClient, interval_s: float) -> None:
        self._service, self._client, self._interval_s = service, client, interval_s
        self._done: date | None = None
        """The last finished session for which all was done."""

    async def run(self) -> None:
        """Rounds until cancelled: one every interval, and at once when something was frozen."""
        while True:
            try:
                await self.round()
            except (DataServiceError, ArtefactError, OSError) as error:
                log.warning("background_round_failed", why=str(error))
                self._service.metrics.background_failed()
            except Exception:
                log.exception("background_round_failed")
                self._service.metrics.background_failed()
            try:
                await asyncio.wait_for(self._service.frozen_anew.wait(), self._interval_s)
            except TimeoutError:
                continue

    async def round(self) -> None:
        """Do what is due; two small questions where nothing is. Raises DataServiceError, ArtefactError, OSError."""
        service = self._service
        anew = service.frozen_anew.is_set()
        service.frozen_anew.clear()
        current = self._current()
        symbols = await self._symbols(current)
        if not symbols:
            return
        now = await service.present.look(symbols)
        through = service.present.session
        if through is None or (self._done == through and not anew):
            return
        self._done = None
        await service.freeze_shadows(through, now)
        if await mature(service.board, self._client, through, now):
            service.forget_states()
        states = {p: await asyncio.to_thread(state_of, service.board, a, through) for p, a in current.items()}
        held = {plan: why for plan, artefact in current.items() if (why := all_held(artefact, states[plan]))}
        for change in await asyncio.to_thread(self._judge, now, held):
            log.info("model_changed", what=change.event.value, version=change.version, reason=change.reason)
        await self._refresh(current, states, now)
        self._done = through

    def _current(self) -> dict[str, Artefact]:
        """Plan → its current model, of those that can be used."""
        service, found = self._service, {}
        for plan, sha256 in service.registry.current(service.environment).items():
            try:
                found[plan] = service.registry.load_for(sha256, service.environment, plan)
            except ArtefactError:
                continue  # /health says so
        return found

    async def _symbols(self, current: dict[str, Artefact]) -> list[str]:
        """Symbols by whose bars to tell the last finished session: outcomes fall due without a model too."""
        if current:
            return next(iter(current.values())).manifest["universe"]
        board = self._service.board
        days = [part.session for part in await asyncio.to_thread(board.frozen.parts)]
        return await asyncio.to_thread(board.symbols, days[-1:]) if days else []

    def _judge(self, now: datetime, held: dict[str, str]) -> list[Change]:
        """Let the life cycle's rules see the record: of a shadow beside its current model, and of each current one."""
        service = self._service
        slots = {p: s for p, s in service.registry.slots(service.environment).items() if s.current}
        days = sorted({part.session for part in service.board.frozen.parts()})
        if not slots or not days:
            return []
        rows = service.board.read(days[-VERDICT_SESSIONS:][0], shadow=None)
        return [
            change
            for plan, slot in slots.items()
            for change in self._judge_plan(rows, plan, slot, now, held.get(plan))
            if isinstance(change, Change)
        ]

    def _judge_plan(
        self, rows: pl.DataFrame, plan: str, slot: Slot, now: datetime, held: str | None
    ) -> Iterator[Change | str]:
        service, current = self._service, (slot.current or "")[:VERSION_CHARS]
        registry, environment, ages = service.registry, service.environment, service.ages
        verdict = demotion(rows.filter(~pl.col("shadow")), STRATEGY, current)
        demoted = demote_if(registry, environment, plan, verdict, at=now, ages=ages)
        yield demoted
        if slot.shadow and not isinstance(demoted, Change):
            record = compare(rows, STRATEGY, current, slot.shadow[:VERSION_CHARS], slot.shadow_since)
            yield judge_shadow(registry, environment, plan, record, at=now, ages=ages, held=held)

    async def _refresh(self, current: dict[str, Artefact], states: dict[str, State], now: datetime) -> None:
        """Bring the metrics up to date."""
        service = self._service
        rows = await asyncio.to_thread(service.board.read)
        counts = dict.fromkeys((outcome.value for outcome in Outcome), 0) | dict(
            rows["outcome"].value_counts().iter_rows()
        )
        service.metrics.record(counts, await asyncio.to_thread(event_scores, rows))
        service.metrics.monitored(states)
        for plan, artefact in current.items():
            service.metrics.model_age(plan, (now.astimezone(IST).date() - artefact.trained_through).days)


def all_held(artefact: Artefact, state: State) -> str | None:
    """Why the model itself lets no mode trade on the machine-learned strategy although some are certified, or None.

    What another version did, or a record that cannot be read, says nothing against this one.
    """
    certified = artefact.certified_modes
    own = [state.own[STRATEGY, mode] for mode in certified if (STRATEGY, mode) in state.own]
    return ", ".join(sorted(set(own))) if certified and len(own) == len(certified) else None
