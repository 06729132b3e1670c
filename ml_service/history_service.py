"""Walk forward in the background, keep what came of it, and answer for past days from that or from one model."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from threading import Event

import polars as pl
import structlog

from contracts.common import Environment
from contracts.predictions import (
    PredictionHistoryReply,
    PredictionHistoryRequest,
    PredictionsReply,
    PredictionsRequest,
    SessionPredictions,
    WalkForwardReply,
    WalkForwardRequest,
    WalkForwardStatus,
)
from ml_service.checkpoint import FolderCheckpoint
from ml_service.client import IST, DataServiceClient, DataServiceError, History
from ml_service.features import BAR_SCHEMA
from ml_service.history import (
    HISTORY_VERSION,
    IDLE_HOLD,
    Run,
    is_actionable,
    session_predictions,
    sessions_of,
)
from ml_service.history_files import RunFiles
from ml_service.history_process import walk_apart
from ml_service.present import spread
from ml_service.registry import Artefact
from ml_service.service import PredictionService
from ml_service.train import TRAIN_FROM_DEFAULT, data_hash, fetch_bars, run_key
from ml_service.walkforward import TrainingError

log = structlog.get_logger(__name__)

FOLDER = ".walk-forward"
WAITING_MAX = 8
"""Walk-forwards asked for and not done, in all."""
IN_MEMORY_MAX = 4
FRESH_S = 600.0
"""A run that was seen to be of the present bars so long ago is compared with them again: they may have been mended."""
DAYS_PER_REQUEST_MAX = 370
ASKED_AT = time(9)
"""When on a trading day a model is asked: after the session before it, however late that was, and before any opens."""


class HistoryError(Exception):
    """The question about the past cannot be answered now; `code` is stable, the message says what to do."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class _StoppedError(Exception):
    """The service is going down; what is finished is kept."""


@dataclass
class _Walk:
    """One walk-forward: how far it is, and what came of it."""

    status: WalkForwardStatus = WalkForwardStatus.RUNNING
    done: int = 0
    total: int = 0
    what: str = "waiting for another walk-forward to finish"
    run: Run | None = None
    seen_s: float = 0.0
    """When its bars were last seen to be the present ones, by the event loop's clock."""
    task: "asyncio.Task[None] | None" = None

    def progress(self, done: int, total: int, what: str) -> None:
        self.done, self.total, self.what = done, total, what


_Key = tuple[date, int]
"""The day of `as_of`, and the horizon."""


class HistoryService:
    """The walk-forwards of one process, one at a time, and looks back with registered models. `client` is its own."""

    def __init__(self, service: PredictionService, client: DataServiceClient) -> None:
        self._service, self._client = service, client
        self._files = RunFiles(service.registry.root / FOLDER)
        self._walks: dict[_Key, _Walk] = {}
        self._one = asyncio.Lock()
        self._stopping = Event()

    @property
    def environment(self) -> Environment:
        return self._service.environment

    def walk_forward(self, request: WalkForwardRequest) -> WalkForwardReply:
        """Start it, or tell how it goes on; one that failed is started anew the next time.

        Raises HistoryError: too many are waiting, or days after `as_of` are asked for.
        """
        key = _key(request.as_of, request.horizon_sessions)
        if request.through > key[0]:
            raise HistoryError("through_after_as_of", f"through must not be after the day of as_of, {key[0]}.")
        walk = self._walks.get(key)
        now_s = asyncio.get_running_loop().time()
        old = walk is not None and walk.status is WalkForwardStatus.READY and now_s - walk.seen_s > FRESH_S
        if walk is None or old:
            walk = self._start(key, walk.run if walk is not None else None)
        if walk.status is WalkForwardStatus.FAILED:
            del self._walks[key]
        days = walk.run.days["day"] if walk.run is not None else []
        return WalkForwardReply(
            environment=self.environment,
            status=walk.status,
            done=walk.done,
            total=walk.total,
            what=walk.what,
            first=days[0] if len(days) else None,
            last=days[-1] if len(days) else None,
        )

    def _start(self, key: _Key, run: Run | None) -> _Walk:
        """Have it made, or seen that it is of the present bars; `run` answers meanwhile."""
        running = sum(one.status is WalkForwardStatus.RUNNING for one in self._walks.values())
        if running >= WAITING_MAX:
            raise HistoryError("too_many_walk_forwards", f"{running} walk-forwards wait already: ask again later.")
        walk = self._walks[key] = _Walk(run=run)
        walk.task = asyncio.create_task(self._walk(key, walk))
        finished = [each for each, one in self._walks.items() if one.status is WalkForwardStatus.READY]
        for each in finished[:-IN_MEMORY_MAX]:
            del self._walks[each]
        return walk

    async def predictions(
        self, request: PredictionHistoryRequest, artefact: Artefact | None = None
    ) -> PredictionHistoryReply:
        """What was to be acted on: by `artefact`, or by the walk-forward where there is none.

        Raises HistoryError: the walk-forward is not ready, too many days, or a model of another market or horizon.
        Raises DataServiceError.
        """
        if (request.through - request.from_).days >= DAYS_PER_REQUEST_MAX:
            raise HistoryError("too_many_days", f"At most {DAYS_PER_REQUEST_MAX} days at once: ask in parts.")
        if artefact is None:
            sessions, unanswered = await asyncio.to_thread(_walked, self._ready(request), request)
        else:
            sessions, unanswered = await self._answered_by(artefact, request)
        return PredictionHistoryReply(
            environment=self.environment,
            as_of=request.as_of,
            model=request.model,
            sessions=sessions,
            unanswered=unanswered,
        )

    async def close(self) -> None:
        """Stop what runs at its next step; finished folds are kept."""
        self._stopping.set()
        tasks = [walk.task for walk in self._walks.values() if walk.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ready(self, request: PredictionHistoryRequest) -> Run:
        walk = self._walks.get(_key(request.as_of, request.horizon_sessions))
        if walk is None or walk.run is None:
            raise HistoryError(
                "walk_forward_not_ready", "No walk-forward of that day and horizon is ready: POST /v1/walk-forward."
            )
        return walk.run

    async def _walk(self, key: _Key, walk: _Walk) -> None:
        try:
            async with self._one:
                version = (await self._client.clock()).data_version
                walk.run = await asyncio.to_thread(self._named, key, version)
                if walk.run is None:
                    adjusted, raw = await self._bars(key[0], walk.progress)
                    unchanged = (await self._client.clock()).data_version == version
                    walk.run = await asyncio.to_thread(
                        self._made, key, adjusted, raw, walk, version if unchanged else None
                    )
            walk.seen_s = asyncio.get_running_loop().time()
            walk.done = walk.total = max(walk.total, 1)
            walk.what, walk.status = "done", WalkForwardStatus.READY
        except (DataServiceError, TrainingError, OSError, _StoppedError) as error:
            walk.what, walk.status = str(error) or type(error).__name__, WalkForwardStatus.FAILED
        except Exception:
            log.exception("walk_forward_failed", as_of_day=str(key[0]), horizon=key[1])
            walk.what, walk.status = "it broke off; the service's log says why", WalkForwardStatus.FAILED

    async def _bars(self, as_of_day: date, progress: Callable[[int, int, str], None]) -> tuple[History, pl.DataFrame]:
        """Bars of all shares before the day, on its scale, and as they were traded."""
        midnight, through = datetime.combine(as_of_day, time(), IST), as_of_day - timedelta(days=1)
        progress(0, 1, "fetching bars")
        adjusted = await fetch_bars(self._client, None, TRAIN_FROM_DEFAULT, through, progress, as_of=midnight)
        if adjusted.source is None or adjusted.source.environment is not self.environment:
            raise DataServiceError(f"data_service does not serve the {self.environment.value} market")
        raw = await fetch_bars(
            self._client, None, TRAIN_FROM_DEFAULT, through, progress, as_of=midnight, adjusted=False
        )
        return adjusted, raw.bars

    def _named(self, key: _Key, version: str | None) -> Run | None:
        """A kept run of this state of data_service's store: then no bar needs to be read to know that it is one."""
        return None if version is None else self._files.named(self._name(key, version))

    def _name(self, key: _Key, version: str) -> str:
        as_of_day, horizon = key
        without_bars = run_key(pl.DataFrame(schema=BAR_SCHEMA), horizon)
        parts = (HISTORY_VERSION, without_bars, self.environment.value, as_of_day.isoformat(), version)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def _made(self, key: _Key, history: History, raw: pl.DataFrame, walk: _Walk, version: str | None) -> Run:
        """The run of these bars: kept from before, or made now. In a thread, which waits for a process."""
        as_of_day, horizon = key
        unadjusted = {symbol: sorted({a.ex_date for a in each}) for symbol, each in history.unadjusted.items()}
        parts = (
            run_key(history.bars, horizon, unadjusted),
            data_hash(raw),
            self.environment.value,
            as_of_day.isoformat(),
        )
        name = hashlib.sha256(repr((HISTORY_VERSION, *parts)).encode()).hexdigest()[:16]
        kept = self._files.load(name)
        if kept is not None:
            self._note(name, key, version)
            return kept
        folds = FolderCheckpoint(self._service.registry.root / f".walking-{name}")

        def progress(done: int, total: int, what: str) -> None:
            if self._stopping.is_set():
                raise _StoppedError("the service was stopped; it goes on from the last finished fold")
            walk.progress(done, total, what)

        run = walk_apart(
            history.bars,
            raw.select("symbol", "session", raw="close"),
            horizon,
            as_of_day,
            unadjusted=unadjusted,
            progress=progress,
            checkpoint=folds,
        )
        self._files.save(name, run)
        self._note(name, key, version)
        folds.clear()
        return run

    def _note(self, name: str, key: _Key, version: str | None) -> None:
        if version is not None:
            self._files.name(name, self._name(key, version))

    async def _answered_by(
        self, artefact: Artefact, request: PredictionHistoryRequest
    ) -> tuple[list[SessionPredictions], dict[date, str]]:
        """What one registered model says of each session after it was trained: one answer of the service per day."""
        plan = str(request.horizon_sessions)
        if (artefact.environment, artefact.plan) != (self.environment, plan):
            raise HistoryError(
                "model_of_another_plan",
                f"{artefact.version} is of the {artefact.environment.value} market and plan {artefact.plan}, "
                f"not {self.environment.value} and {plan}.",
            )
        probe = spread(artefact.manifest["universe"])
        _, bars = await self._client.bars(probe, request.from_, request.through, request.as_of)
        sessions: list[SessionPredictions] = []
        unanswered: dict[date, str] = {}
        for day in bars["session"].unique().sort():
            if day <= artefact.trained_through:
                unanswered[day] = f"the model was trained through {artefact.trained_through}"
                continue
            asked = PredictionsRequest(
                symbols=request.symbols,
                as_of=datetime.combine(day, ASKED_AT, IST),
                horizon_sessions=request.horizon_sessions,
            )
            reply = await self._service.predict_as(artefact, asked)
            if reply.features_through is None:
                unanswered[day] = ", ".join(sorted({r for p in reply.predictions.values() for r in p.reasons}))
            else:
                sessions.append(told(day, reply))
        return sessions, unanswered


def _key(as_of: datetime, horizon: int) -> _Key:
    return as_of.astimezone(IST).date(), horizon


def _walked(run: Run, request: PredictionHistoryRequest) -> tuple[list[SessionPredictions], dict[date, str]]:
    first = run.days["day"][0]
    early = {request.from_: f"nothing could be learned before {first}"} if request.from_ < first else {}
    return list(sessions_of(run, request.symbols, request.from_, request.through)), early


def told(day: date, reply: PredictionsReply) -> SessionPredictions:
    """What of a reply could be acted on in the session of `day`."""
    views = [*reply.predictions.values(), *(each for found in reply.candidates.values() for each in found)]
    reasons = {
        symbol: each.reasons[0] if each.reasons else IDLE_HOLD
        for symbol, each in reply.predictions.items()
        if not is_actionable(each)
    }
    assert reply.features_through is not None  # noqa: S101 - asked only where there is one
    return session_predictions(
        [each for each in views if is_actionable(each)],
        list(reply.predictions),
        reasons,
        reply.logic_version,
        day=day,
        features_through=reply.features_through,
        model_version=reply.model_version,
        trained_through=reply.trained_through,
    )
