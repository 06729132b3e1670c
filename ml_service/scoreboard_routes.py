"""The public record over HTTP: how well every strategy's stated probabilities held, and each frozen prediction."""

import asyncio
import re
from collections import OrderedDict
from datetime import date
from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AfterValidator

from contracts.common import Problem, Symbol
from contracts.predictions import HORIZON_SESSIONS_DEFAULT
from contracts.scoreboard import FrozenPredictionsReply, ModeScore, Outcome, ScoreboardReply
from ml_service.metrics import CONTENT_TYPE
from ml_service.monitor import State, state_of
from ml_service.registry import Artefact, ArtefactError
from ml_service.scoreboard import Scoreboard, to_wire
from ml_service.scores import ModeRecord, event_scores, mode_records, share
from ml_service.service import PredictionService

LIMIT_MAX = 500
SESSIONS_PER_READ = 20
REPLIES_KEPT_MAX = 32
STRATEGY_PATTERN = "^[a-z][a-z0-9_]{0,39}$"
_CURSOR = re.compile(r"(\d{4}-\d\d-\d\d)~([0-9a-f]{12})~([a-z][a-z0-9_]{0,39})~([A-Z0-9][A-Z0-9&\-]{0,19})")

Key = tuple[date, str, str, str]


def parse_cursor(text: str) -> Key:
    """Session, version, strategy and symbol of the last entry seen. Raises ValueError."""
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise ValueError("not a cursor that this route gave")
    return date.fromisoformat(found[1]), found[2], found[3], found[4]


def _a_cursor(text: str) -> str:
    parse_cursor(text)
    return text


Cursor = Annotated[str, AfterValidator(_a_cursor)]
Strategy = Annotated[str | None, Query(pattern=STRATEGY_PATTERN, description="Only this strategy.")]


def mode_score(record: ModeRecord, artefact: Artefact | None, state: State) -> ModeScore:
    """A mode's record with its standing: by the current model's certificate and what the monitor makes of it."""
    strategy, mode = record.strategy, record.mode.name
    certificates = artefact.manifest.get("strategies", {}) if artefact else {}
    certificate = certificates.get(strategy, {}).get("modes", {}).get(mode, {})
    verdict = certificate.get("verdict", "no_model")
    if certificate.get("certified"):
        reason = state.held.get((strategy, mode))
        standing = "held" if reason else "certified"
    else:
        reason = verdict
        standing = "insufficient_evidence" if verdict in {"no_model", "insufficient_evidence"} else "refused"
    judged = record.judge()
    return ModeScore(
        strategy=strategy,
        mode=mode,
        signals=record.signals,
        matured=record.matured,
        episodes=judged[0] if judged else 0,
        hit_rate=share(judged[1]) if judged else None,
        net_return=share(judged[2]) if judged else None,
        state=standing,
        reason=reason,
    )


def page(
    board: Scoreboard,
    *,
    first: date,
    last: date,
    symbol: str | None,
    strategy: str | None,
    after: Key | None,
    rows_max: int,
) -> list[dict[str, Any]]:
    """At most `rows_max` served rows of the sessions `first`..`last`, newest session first, then by version, strategy
    and symbol, behind `after`. Reads no more sessions than it needs."""
    last = min(last, after[0]) if after else last
    days = sorted({part.session for part in board.frozen.parts(first, last)}, reverse=True)
    found: list[dict[str, Any]] = []
    for start in range(0, len(days), SESSIONS_PER_READ):
        if len(found) >= rows_max:
            break
        batch = days[start : start + SESSIONS_PER_READ]
        wanted = pl.lit(True)
        if symbol is not None:
            wanted &= pl.col("symbol") == symbol
        if strategy is not None:
            wanted &= pl.col("strategy") == strategy
        rows = board.scan(board.frozen.parts(batch[-1], batch[0]), board.outcomes.parts(batch[-1], batch[0]))
        table = rows.filter(wanted).collect()
        table = table.sort("session", "version", "strategy", "symbol", descending=[True, False, False, False])
        entries = table.iter_rows(named=True)
        found += [row for row in entries if after is None or row["session"] < after[0] or _key(row)[1:] > after[1:]]
    return found[:rows_max]


def _key(row: dict[str, Any]) -> Key:
    return row["session"], row["version"], row["strategy"], row["symbol"]


class Reporter:
    """Answers questions about the whole record, one at a time, and keeps what it answered until the record grows."""

    def __init__(self, service: PredictionService) -> None:
        self._service = service
        self._lock = asyncio.Lock()
        self._kept: OrderedDict[tuple[Any, ...], ScoreboardReply] = OrderedDict()

    async def scoreboard(self, strategy: str | None, since: date | None, horizon: int) -> ScoreboardReply:
        """Scores of the predictions served for sessions from `since` on."""
        async with self._lock:
            return await asyncio.to_thread(self._scoreboard, strategy, since, horizon)

    def _scoreboard(self, strategy: str | None, since: date | None, horizon: int) -> ScoreboardReply:
        service, first = self._service, since or date.min
        frozen, outcomes = service.board.frozen.parts(first), service.board.outcomes.parts(first)
        artefact = self._current(horizon)
        key = (strategy, since, horizon, artefact and artefact.sha256, tuple(frozen), tuple(outcomes))
        if key in self._kept:
            return self._kept[key]
        rows = service.board.scan(frozen, outcomes).filter(pl.col("horizon") == horizon)
        table = (rows if strategy is None else rows.filter(pl.col("strategy") == strategy)).collect()
        state = state_of(service.board, artefact, date.max) if artefact else State({})
        known = set(artefact.manifest.get("strategies", {}) if artefact else ()) | set(table["strategy"])
        strategies = sorted(known if strategy is None else known & {strategy})
        reply = ScoreboardReply(
            environment=service.environment,
            as_of=service.present.now,
            since=since,
            frozen=table.height,
            matured=table.filter(pl.col("outcome") == Outcome.MATURED.value).height,
            events=event_scores(table),
            modes=[mode_score(record, artefact, state) for record in mode_records(table, strategies)],
            drift=list(state.drift),
        )
        self._kept[key] = reply
        if len(self._kept) > REPLIES_KEPT_MAX:
            self._kept.popitem(last=False)
        return reply

    def _current(self, horizon: int) -> Artefact | None:
        service = self._service
        try:
            current = service.registry.current(service.environment).get(str(horizon))
            return service.registry.load_for(current, service.environment, str(horizon)) if current else None
        except ArtefactError:
            return None


def reporter_of(request: Request) -> Reporter:
    """The process's Reporter."""
    return request.app.state.reporter


def service_of(request: Request) -> PredictionService:
    """The process's PredictionService."""
    return request.app.state.service


router = APIRouter()
PROBLEMS: dict[int | str, dict[str, Any]] = {422: {"model": Problem}}


@router.get("/v1/scoreboard", operation_id="getScoreboard", responses=PROBLEMS)
async def get_scoreboard(
    reporter: Annotated[Reporter, Depends(reporter_of)],
    strategy: Strategy = None,
    since: Annotated[date | None, Query(description="First session counted; all where it is left out.")] = None,
    horizon_sessions: Annotated[int, Query(ge=1, le=60)] = HORIZON_SESSIONS_DEFAULT,
) -> ScoreboardReply:
    """How the stated probabilities of every strategy held, and what every mode would have taken."""
    return await reporter.scoreboard(strategy, since, horizon_sessions)


@router.get("/v1/scoreboard/predictions", operation_id="listFrozenPredictions", responses=PROBLEMS)
async def list_frozen_predictions(
    service: Annotated[PredictionService, Depends(service_of)],
    symbol: Annotated[Symbol | None, Query()] = None,
    strategy: Strategy = None,
    from_: Annotated[date | None, Query(alias="from", description="First session.")] = None,
    to: Annotated[date | None, Query(description="Last session.")] = None,
    limit: Annotated[int, Query(ge=1, le=LIMIT_MAX)] = 100,
    cursor: Annotated[Cursor | None, Query(description="`next_cursor` of the page before.")] = None,
) -> FrozenPredictionsReply:
    """Every prediction as it was first served, and what came of it, newest session first."""
    rows = await asyncio.to_thread(
        page,
        service.board,
        first=from_ or date.min,
        last=to or date.max,
        symbol=symbol,
        strategy=strategy,
        after=parse_cursor(cursor) if cursor else None,
        rows_max=limit + 1,
    )
    more = "~".join(map(str, _key(rows[limit - 1]))) if len(rows) > limit else None
    entries = [to_wire(row) for row in rows[:limit]]
    return FrozenPredictionsReply(environment=service.environment, entries=entries, next_cursor=more)


@router.get("/metrics", operation_id="getMetrics", response_class=Response)
def get_metrics(service: Annotated[PredictionService, Depends(service_of)]) -> Response:
    """What Prometheus reads."""
    return Response(service.metrics.render(), media_type=CONTENT_TYPE)
