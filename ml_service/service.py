"""Answer for any instant: find the last finished session and the model allowed for it, and compute each session once.

During a session thousands of requests differ only in `as_of`. What they may know changes once a day, when a session's
bar is finished, so predictions are kept per (last finished session, model); a request costs at most one small question
to data_service, and none within the same minute.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import structlog

from contracts.common import Environment
from contracts.predictions import Prediction, PredictionsReply, PredictionsRequest
from ml_service.client import IST, DataServiceClient, DataServiceError, within
from ml_service.features import TAIL_SESSIONS
from ml_service.model import LOGIC_VERSION
from ml_service.predict import (
    SESSION_AGE_DAYS_MAX,
    Abstention,
    Ages,
    hold,
    predict_universe,
    too_old,
)
from ml_service.registry import Artefact, ArtefactError, Registry

log = structlog.get_logger(__name__)

PROBE_SYMBOLS = 5
PROBE_DAYS = 15
TAIL_DAYS = TAIL_SESSIONS * 365 // 240
CACHED_SESSIONS_MAX = 8
KNOWN_SPANS_MAX = 512


@dataclass(frozen=True)
class Chosen:
    """The model a request may use, or why there is none."""

    artefact: Artefact | None
    reason: Abstention | None


def choose(registry: Registry, environment: Environment, horizon: int, session: date) -> Chosen:
    """The current model, if it was trained before `session`; else the newest registered one that was.

    A model that fails verification is never replaced silently by another: it abstains with `artefact_mismatch`.
    """
    try:
        slots, plan = registry.slots(environment), str(horizon)
        if plan not in slots:
            return Chosen(None, Abstention.HORIZON_NOT_TRAINED if slots else Abstention.NO_MODEL)
        current = slots[plan].current
        if current is None:
            return Chosen(None, Abstention.NO_MODEL)
        artefact = registry.load_for(current, environment, plan)
    except ArtefactError as error:
        log.error("model_refused", why=str(error))
        return Chosen(None, Abstention.ARTEFACT_MISMATCH)
    if session > artefact.trained_through:
        return Chosen(artefact, None)
    earlier = [
        other
        for other in registry.usable()
        if (other.environment, other.plan) == (environment, plan) and other.trained_through < session
    ]
    return Chosen(earlier[-1], None) if earlier else Chosen(None, Abstention.NO_MODEL)


class FinishedSessions:
    """The last finished session as of an instant, remembered.

    If the same session was the last one at two instants, it was at every instant between them, so what was learned at
    one minute never answers for a later one.
    """

    def __init__(self, client: DataServiceClient, environment: Environment) -> None:
        self._client, self._environment = client, environment
        self._spans: OrderedDict[date, tuple[datetime, datetime]] = OrderedDict()

    async def last(self, symbols: list[str], as_of: datetime) -> date | None:
        """Session date of the newest daily bar of a few symbols ended by `as_of`, to the minute; None without any."""
        minute = as_of.astimezone(IST).replace(second=0, microsecond=0)
        for session, (first, last) in self._spans.items():
            if first <= minute <= last:
                return session
        today = minute.date()
        source, frame = await self._client.bars(
            symbols[:PROBE_SYMBOLS], today - timedelta(days=PROBE_DAYS), today, minute
        )
        if source is None or source.environment is not self._environment:
            raise DataServiceError(f"data_service does not serve the {self._environment.value} market")
        if frame.is_empty():
            return None
        session = max(frame["session"].to_list())
        first, last = self._spans.get(session, (minute, minute))
        self._spans[session] = (min(first, minute), max(last, minute))
        if len(self._spans) > KNOWN_SPANS_MAX:
            self._spans.popitem(last=False)
        return session


@dataclass(frozen=True)
class _Computed:
    at: datetime
    predictions: dict[str, Prediction]


class PredictionService:
    """Gathers what a request may know, and answers it. One per process."""

    def __init__(
        self,
        *,
        environment: Environment,
        registry: Registry,
        client: DataServiceClient,
        ages: Ages,
        timeout_s: float,
        cache_age_s_max: float,
        clock: Callable[[], datetime],
    ) -> None:
        self.environment, self.registry = environment, registry
        self._client, self._ages, self._clock = client, ages, clock
        self._timeout_s = timeout_s
        self._cache_age_max = timedelta(seconds=cache_age_s_max)
        self._sessions = FinishedSessions(client, environment)
        self._computed: OrderedDict[tuple[date, str], _Computed] = OrderedDict()
        self._lock = asyncio.Lock()

    async def predict(self, request: PredictionsRequest) -> PredictionsReply:
        """One prediction per requested symbol. Raises DataServiceError where the bars cannot be had in time.

        The deadline includes waiting for another request that is fetching the same session.
        """
        async with within(self._timeout_s):
            return await self._predict(request)

    async def _predict(self, request: PredictionsRequest) -> PredictionsReply:
        day = request.as_of.astimezone(IST).date()
        chosen = choose(self.registry, self.environment, request.horizon_sessions, day)
        if chosen.artefact is None:
            return self._reply(request, None, None, {}, chosen.reason or Abstention.NO_MODEL)
        artefact = chosen.artefact
        if too_old(artefact, day, self._ages):
            return self._reply(request, artefact, None, {}, Abstention.MODEL_TOO_OLD)
        through = await self._sessions.last(artefact.manifest["universe"], request.as_of)
        if through is None or (day - through).days > SESSION_AGE_DAYS_MAX:
            return self._reply(request, artefact, through, {}, Abstention.STALE_BARS)
        known = await self._of_session(artefact, through, request.as_of)
        return self._reply(request, artefact, through, known, Abstention.UNKNOWN_SYMBOL)

    async def _of_session(self, artefact: Artefact, through: date, as_of: datetime) -> dict[str, Prediction]:
        key = (through, artefact.sha256)
        async with self._lock:
            computed = self._computed.get(key)
            if computed is None or self._clock() - computed.at > self._cache_age_max:
                universe = artefact.manifest["universe"]
                _, bars = await self._client.bars(universe, through - timedelta(days=TAIL_DAYS), through, as_of)
                predictions = await asyncio.to_thread(predict_universe, artefact, bars, through)
                computed = self._computed[key] = _Computed(self._clock(), predictions)
                if len(self._computed) > CACHED_SESSIONS_MAX:
                    self._computed.popitem(last=False)
            return computed.predictions

    def _reply(
        self,
        request: PredictionsRequest,
        artefact: Artefact | None,
        through: date | None,
        known: dict[str, Prediction],
        otherwise: Abstention,
    ) -> PredictionsReply:
        horizon = request.horizon_sessions
        unknown = set(request.symbols) - set(artefact.manifest["universe"]) if artefact else set()
        return PredictionsReply.model_construct(
            environment=self.environment,
            as_of=request.as_of,
            model_version=artefact.version if artefact else None,
            logic_version=LOGIC_VERSION,
            trained_through=artefact.trained_through if artefact else None,
            features_through=through,
            certified_modes=artefact.certified_modes if artefact else [],
            predictions={
                symbol: known.get(symbol)
                or hold(symbol, horizon, Abstention.UNKNOWN_SYMBOL if symbol in unknown else otherwise)
                for symbol in request.symbols
            },
        )
