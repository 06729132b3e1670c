"""Answer for any instant: find the last finished session and the model allowed for it, and compute each session once.

During a session thousands of requests differ only in `as_of`. What they may know changes once a day, when a session's
bar is finished, so predictions are kept per (last finished session, model); a request costs at most one small question
to data_service, and none within the same minute.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import partial

import polars as pl
import structlog

from contracts.common import Environment
from contracts.predictions import (
    Action,
    ExplanationReply,
    Prediction,
    PredictionsReply,
    PredictionsRequest,
)
from ml_service.client import IST, DataServiceClient, DataServiceError, within
from ml_service.drift import feature_bins
from ml_service.features import FEATURES, TAIL_SESSIONS
from ml_service.intraday.service import OpeningRange
from ml_service.lifecycle import demoted_versions
from ml_service.metrics import Metrics
from ml_service.model import LOGIC_VERSION, STRATEGY
from ml_service.monitor import RECORD_NOT_WRITTEN, State, everything, state_of
from ml_service.pointers import INTRADAY, PointerError
from ml_service.predict import (
    SESSION_AGE_DAYS_MAX,
    Abstention,
    Ages,
    SessionAnswers,
    answer_session,
    end_of,
    expiring,
    explain,
    hold,
    too_old,
)
from ml_service.present import FinishedSessions, Present
from ml_service.registry import Artefact, ArtefactError, Registry
from ml_service.scoreboard import Scoreboard, frozen_rows

log = structlog.get_logger(__name__)

TAIL_DAYS = TAIL_SESSIONS * 365 // 240
CACHED_SESSIONS_MAX = 8


@dataclass(frozen=True)
class Chosen:
    """The model a request may use, or why there is none."""

    artefact: Artefact | None
    reason: Abstention | None


def choose(registry: Registry, environment: Environment, horizon: int | str, session: date) -> Chosen:
    """The current model of the plan (a horizon in sessions, or `intraday`), if it was trained before `session`; else
    the newest registered one that was and is not demoted.

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
        if session > artefact.trained_through:
            return Chosen(artefact, None)
        demoted, _ = demoted_versions(registry.pointers.history(environment), plan)
    except (ArtefactError, PointerError) as error:
        log.error("model_refused", why=str(error))
        return Chosen(None, Abstention.ARTEFACT_MISMATCH)
    earlier = [
        other
        for other in registry.usable()
        if (other.environment, other.plan) == (environment, plan)
        and other.trained_through < session
        and other.sha256 not in demoted
    ]
    return Chosen(earlier[-1], None) if earlier else Chosen(None, Abstention.NO_MODEL)


def released(prediction: Prediction, state: State) -> Prediction:
    """The prediction without the modes that the monitor holds; nothing to act upon where it has no other."""
    held = state.of(prediction.strategy, prediction.certified_modes)
    if not held:
        return prediction
    left = [mode for mode in prediction.certified_modes if mode not in held]
    idle = {} if left else {"action": Action.HOLD, "reasons": [Abstention.INSUFFICIENT_EVIDENCE.value]}
    return prediction.model_copy(update={"certified_modes": left} | idle)


@dataclass
class _Computed:
    """What is known of one session by one model: `answers` as computed, and less what `state` holds once that is known.
    `frozen`: the record has them."""

    at: datetime
    bars: pl.DataFrame
    unadjusted: dict[str, date]
    answers: SessionAnswers
    state: State | None = None
    predictions: dict[str, Prediction] = field(default_factory=dict)
    candidates: dict[str, list[Prediction]] = field(default_factory=dict)
    frozen: bool = False

    def judge(self, state: State) -> None:
        self.state = state
        self.predictions = {symbol: released(each, state) for symbol, each in self.answers.predictions.items()}
        self.candidates = {s: [released(each, state) for each in found] for s, found in self.answers.candidates.items()}

    def unrecorded(self, artefact: Artefact) -> "_Computed":
        """The same for nobody to trade on: what is not in the record must not be acted upon."""
        other, state = replace(self), self.state or State({})
        other.judge(replace(state, held=everything(artefact, RECORD_NOT_WRITTEN) | dict(state.held)))
        return other

    def all(self) -> Iterable[Prediction]:
        yield from self.predictions.values()
        for found in self.candidates.values():
            yield from found


@dataclass(frozen=True)
class _Answer:
    """Which model answers a request, from which session on, or why it abstains."""

    artefact: Artefact | None
    through: date | None
    computed: _Computed | None
    otherwise: Abstention


_Computing = Callable[[Artefact, date, datetime], Awaitable[_Computed]]


class PredictionService:
    """Gathers what a request may know, answers it, and freezes what it answers about the present. One per process."""

    def __init__(
        self,
        *,
        environment: Environment,
        registry: Registry,
        client: DataServiceClient,
        board: Scoreboard,
        metrics: Metrics,
        ages: Ages,
        timeout_s: float,
        cache_age_s_max: float,
        clock: Callable[[], datetime],
        opening_range: OpeningRange | None = None,
    ) -> None:
        self.environment, self.registry, self.board, self.metrics = environment, registry, board, metrics
        self.ages = ages
        self._client, self._clock, self._opening_range = client, clock, opening_range
        self._timeout_s = timeout_s
        self._cache_age_max = timedelta(seconds=cache_age_s_max)
        self._sessions = FinishedSessions(client, environment)
        self.present = Present(client, self._sessions, environment)
        self.frozen_anew = asyncio.Event()
        """Set when something was frozen: the background task need not wait any longer."""
        self._computed: OrderedDict[tuple[date, str, date], _Computed] = OrderedDict()
        self._lock, self._explaining = asyncio.Lock(), asyncio.Lock()

    async def predict(self, request: PredictionsRequest) -> PredictionsReply:
        """One prediction per requested symbol. Raises DataServiceError where the bars cannot be had in time.

        The deadline includes waiting for another request that is fetching the same session.
        """
        async with within(self._timeout_s):
            reply = self._reply(request, await self._answer(request.as_of, request.horizon_sessions))
        reply = await self._with_intraday(request, reply)
        self.metrics.served(reply.predictions.values())
        for found in reply.candidates.values():
            self.metrics.served(found)
        return reply

    async def predict_as(self, artefact: Artefact, request: PredictionsRequest) -> PredictionsReply:
        """What this version says as of a past session, as `predict` would have served it without an intraday model;
        neither kept nor recorded, so that a look back is in nobody's way. Raises DataServiceError."""

        async def computing(artefact: Artefact, through: date, as_of: datetime) -> _Computed:
            computed = await self._compute(artefact, through, as_of)
            computed.judge(await asyncio.to_thread(state_of, self.board, artefact, through))
            return computed

        async with within(self._timeout_s):
            return self._reply(request, await self._answer_by(artefact, request.as_of, computing))

    async def _with_intraday(self, request: PredictionsRequest, reply: PredictionsReply) -> PredictionsReply:
        """The reply with what the intraday strategy proposes; as it is where that has nothing to say in time."""
        day = request.as_of.astimezone(IST).date()
        if self._opening_range is None:
            return reply
        artefact = choose(self.registry, self.environment, INTRADAY, day).artefact
        if artefact is None or too_old(artefact, day, self.ages):
            return reply
        found = await self._opening_range.candidates(artefact, request.symbols, request.as_of)
        candidates = dict(reply.candidates)
        for symbol, each in found.items():
            said = each.model_copy(update={"cluster": reply.predictions[symbol].cluster})
            candidates[symbol] = [*candidates.get(symbol, []), said]
        return reply.model_copy(update={"candidates": candidates}) if found else reply

    async def now(self) -> datetime:
        """The market's present instant. Raises DataServiceError."""
        return (await self._client.clock()).now

    async def explain(self, symbol: str, as_of: datetime, horizon: int) -> ExplanationReply:
        """Why the prediction of one symbol is what it is; computed when asked. Raises DataServiceError."""
        request = PredictionsRequest(symbols=[symbol], as_of=as_of, horizon_sessions=horizon)
        async with within(self._timeout_s):
            answer = await self._answer(as_of, horizon)
            reply = self._reply(request, answer)
            prediction = reply.predictions[symbol]
            reply_of = partial(
                ExplanationReply,
                environment=self.environment,
                as_of=as_of,
                model_version=reply.model_version,
                features_through=reply.features_through,
                prediction=prediction,
            )
            if not (answer.artefact and answer.computed and answer.through and prediction.confidence is not None):
                return reply_of(event=prediction.confidence_kind)
            async with self._explaining:
                known = answer.computed
                why = await asyncio.to_thread(
                    explain, answer.artefact, known.bars, answer.through, symbol, known.unadjusted
                )
        return reply_of(
            event=why.event, intercept=why.intercept, contributions=why.contributions, rest=why.rest, votes=why.votes
        )

    async def freeze_shadows(self, through: date, as_of: datetime) -> None:
        """Compute and freeze what the shadow models would have answered. Raises ArtefactError, DataServiceError."""
        day = as_of.astimezone(IST).date()
        for plan, slot in self.registry.slots(self.environment).items():
            if slot.shadow is None:
                continue
            artefact = self.registry.load_for(slot.shadow, self.environment, plan)
            if artefact.trained_through < day and not too_old(artefact, day, self.ages):
                await self._of_session(artefact, through, as_of, shadow=True)

    def forget_states(self) -> None:
        """New outcomes are known: judge anew at the next request."""
        for computed in self._computed.values():
            computed.state = None

    async def _answer(self, as_of: datetime, horizon: int) -> _Answer:
        day = as_of.astimezone(IST).date()
        chosen = choose(self.registry, self.environment, horizon, day)
        if chosen.artefact is None:
            return _Answer(None, None, None, chosen.reason or Abstention.NO_MODEL)
        return await self._answer_by(chosen.artefact, as_of, self._of_session)

    async def _answer_by(self, artefact: Artefact, as_of: datetime, computing: _Computing) -> _Answer:
        day = as_of.astimezone(IST).date()
        if too_old(artefact, day, self.ages):
            return _Answer(artefact, None, None, Abstention.MODEL_TOO_OLD)
        through = await self._sessions.last(artefact.manifest["universe"], as_of)
        if through is None or (day - through).days > SESSION_AGE_DAYS_MAX:
            return _Answer(artefact, through, None, Abstention.STALE_BARS)
        computed = await computing(artefact, through, as_of)
        return _Answer(artefact, through, computed, Abstention.UNKNOWN_SYMBOL)

    async def _of_session(
        self, artefact: Artefact, through: date, as_of: datetime, *, shadow: bool = False
    ) -> _Computed:
        # Corporate actions become known by the day: what was computed on another day may lack one.
        key = (through, artefact.sha256, as_of.astimezone(IST).date())
        async with self._lock:
            computed = self._computed.get(key)
            if computed is None or self._clock() - computed.at > self._cache_age_max:
                with self.metrics.computing():
                    computed = await self._compute(artefact, through, as_of)
                self._computed[key] = computed
                if len(self._computed) > CACHED_SESSIONS_MAX:
                    self._computed.popitem(last=False)
            if computed.state is None or computed.state.unreadable:
                computed.judge(await asyncio.to_thread(state_of, self.board, artefact, through))
            if not computed.frozen:
                try:
                    computed.frozen = await self._freeze(artefact, computed, through, as_of, shadow)
                except OSError as error:
                    self._report_not_frozen(artefact, through, error)
                    return computed.unrecorded(artefact)
            return computed

    async def _compute(self, artefact: Artefact, through: date, as_of: datetime) -> _Computed:
        universe = artefact.manifest["universe"]
        found = await self._client.history(universe, through - timedelta(days=TAIL_DAYS), through, as_of)
        days = {symbol: [action.ex_date for action in actions] for symbol, actions in found.unadjusted.items()}
        unadjusted = {
            symbol: max(known) for symbol, each in days.items() if (known := [d for d in each if d <= through])
        }
        answers = await asyncio.to_thread(answer_session, artefact, found.bars, through, unadjusted)
        return _Computed(self._clock(), found.bars, unadjusted, answers)

    async def _freeze(
        self, artefact: Artefact, computed: _Computed, through: date, as_of: datetime, shadow: bool
    ) -> bool:
        """Put what is about to be served into the record, if it is about the market's present; whether it is there.

        An answer is not withheld because the market's clock could not be asked: that is logged, counted, and tried
        again. Raises OSError where the disk refuses.
        """
        try:
            served_at = await self.present.instant(artefact.manifest["universe"], through, as_of)
            if served_at is None:
                return False
            rows = frozen_rows(
                computed.all(),
                session=through,
                version=artefact.version,
                manifest=artefact.manifest,
                served_at=served_at,
                shadow=shadow,
            )
            added = await asyncio.to_thread(self.board.frozen.add, through, artefact.version, rows)
            if added:
                await asyncio.to_thread(self._freeze_features, artefact, computed.answers, through)
                if not shadow:
                    self.frozen_anew.set()
        except DataServiceError as error:
            self._report_not_frozen(artefact, through, error)
            return False
        return True

    def _report_not_frozen(self, artefact: Artefact, through: date, error: Exception) -> None:
        log.error("not_frozen", session=str(through), version=artefact.version, why=str(error))
        self.metrics.not_frozen()

    def _freeze_features(self, artefact: Artefact, answers: SessionAnswers, through: date) -> None:
        trained = artefact.manifest.get("feature_drift")
        if not trained or not len(answers.features):
            return
        bins = feature_bins(answers.features, FEATURES, trained["deciles"]).select(
            pl.lit(through).alias("session"), pl.lit(artefact.version).alias("version"), pl.all()
        )
        self.board.features.add(through, artefact.version, bins)

    def _reply(self, request: PredictionsRequest, answer: _Answer) -> PredictionsReply:
        artefact, computed, horizon = answer.artefact, answer.computed, request.horizon_sessions
        unknown = set(request.symbols) - set(artefact.manifest["universe"]) if artefact else set()
        known = computed.predictions if computed else {}
        proposed = computed.candidates if computed else {}
        certified = artefact.certified_modes if artefact else []
        held = computed.state.of(STRATEGY, certified) if computed and computed.state else {}
        until = end_of(request.as_of.astimezone(IST).date())
        return PredictionsReply.model_construct(
            environment=self.environment,
            as_of=request.as_of,
            model_version=artefact.version if artefact else None,
            logic_version=LOGIC_VERSION,
            trained_through=artefact.trained_through if artefact else None,
            features_through=answer.through,
            certified_modes=[mode for mode in certified if mode not in held],
            held_modes=held,
            predictions={
                symbol: expiring(known[symbol], until)
                if symbol in known
                else hold(symbol, horizon, Abstention.UNKNOWN_SYMBOL if symbol in unknown else answer.otherwise)
                for symbol in request.symbols
            },
            candidates={
                symbol: [expiring(each, until) for each in proposed[symbol]]
                for symbol in request.symbols
                if proposed.get(symbol)
            },
        )
