"""ml_service over HTTP: a batch of predictions under one total deadline, turned into the decision's signals."""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from backend.domain.modes import Mode
from backend.domain.ranking import TYPICAL_ROUND_TRIP_FRACTION, Signal, SignalAction
from backend.errors import SaudaError, UpstreamError
from backend.services.kept_answers import KeptAnswers
from backend.services.market_data_client import Reply, call, in_parts
from backend.services.model_cards import ModelCard, ModelsIndex
from contracts.common import Environment
from contracts.predictions import (
    ExplanationReply,
    Prediction,
    PredictionHistoryReply,
    PredictionHistoryRequest,
    PredictionsReply,
    PredictionsRequest,
    SessionPredictions,
    WalkForwardReply,
    WalkForwardRequest,
)
from contracts.scoreboard import FrozenPredictionsReply, ScoreboardReply

STRATEGY_PATTERN = r"^[a-z][a-z0-9_]{0,39}$"
STRATEGY_NAME = re.compile(STRATEGY_PATTERN)
COST_DECIMALS = 6
KEPT_S = 10.0
KEPT_MAX = 256
LONG_TIMEOUT_S = 300.0
"""For weeks of a model's answers at once, which no trading waits for."""


@dataclass(frozen=True, slots=True)
class SignalBatch:
    """The machine-learned strategy's signals by symbol, what other strategies propose, and the reply as it came."""

    signals: Mapping[str, Signal]
    proposals: Mapping[str, Sequence[Signal]]
    reply: PredictionsReply

    def abstaining(self, reason: str) -> "SignalBatch":
        """The batch with nothing in it to act upon, and why."""
        return replace(
            self,
            signals={
                symbol: replace(signal, abstained=(*signal.abstained, reason))
                for symbol, signal in self.signals.items()
            },
            proposals={
                symbol: [replace(signal, abstained=(*signal.abstained, reason)) for signal in proposed]
                for symbol, proposed in self.proposals.items()
            },
        )


class MlServiceClient:
    """Calls ml_service. What changes once a session and anybody may ask for is kept for seconds; predictions never."""

    def __init__(self, http: httpx.AsyncClient, base_url: str, timeout_s: float) -> None:
        self._http = http
        self._url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._kept = KeptAnswers[BaseModel](KEPT_S, KEPT_MAX)

    async def predictions(
        self, symbols: Sequence[str], as_of: datetime, horizon_sessions: int, environment: Environment
    ) -> SignalBatch:
        """What the model of an environment says of `symbols` as of an instant.

        Raises:
            UpstreamError: no answer in time, none that can be read, or one to another question.
        """
        url = f"{self._url}/v1/predictions"
        replies = await asyncio.gather(
            *(
                call(
                    self._http,
                    "POST",
                    url,
                    PredictionsReply,
                    body=PredictionsRequest(symbols=part, as_of=as_of, horizon_sessions=horizon_sessions),
                    timeout_s=self._timeout_s,
                )
                for part in in_parts(symbols)
            )
        )
        _require_answer(replies, as_of, environment)
        whole = {
            "predictions": {symbol: p for reply in replies for symbol, p in reply.predictions.items()},
            "candidates": {symbol: p for reply in replies for symbol, p in reply.candidates.items()},
        }
        return signal_batch(replies[0].model_copy(update=whole))

    async def walk_forward(self, request: WalkForwardRequest) -> WalkForwardReply:
        """Have the walk-forward made ready, and how far it is. Raises SaudaError."""
        url = f"{self._url}/v1/walk-forward"
        return await call(self._http, "POST", url, WalkForwardReply, body=request, timeout_s=self._timeout_s)

    async def prediction_history(self, request: PredictionHistoryRequest) -> PredictionHistoryReply:
        """What was to be acted on, day by day. Raises SaudaError."""
        url, timeout_s = f"{self._url}/v1/predictions/history", max(self._timeout_s, LONG_TIMEOUT_S)
        return await call(self._http, "POST", url, PredictionHistoryReply, body=request, timeout_s=timeout_s)

    async def explanation(self, symbol: str, as_of: datetime, horizon_sessions: int) -> ExplanationReply:
        """Why the machine-learned strategy says what it says of a symbol. Raises as `predictions`."""
        path, asked = f"/v1/predictions/{quote(symbol, safe='')}/explanation", {"horizon_sessions": horizon_sessions}
        return await self._kept_get(path, ExplanationReply, asked, {"as_of": as_of.isoformat()})

    async def scoreboard(
        self, horizon_sessions: int, strategy: str | None = None, since: date | None = None
    ) -> ScoreboardReply:
        """The record of what was predicted for a horizon, of one strategy or all, since a day or ever. Raises as
        `predictions`."""
        asked = {"horizon_sessions": horizon_sessions, "strategy": strategy, "since": since}
        return await self._kept_get("/v1/scoreboard", ScoreboardReply, asked)

    async def frozen_predictions(self, asked: Mapping[str, Any]) -> FrozenPredictionsReply:
        """A page of predictions as they were served, by the query's own names. Raises as `predictions`, and SaudaError
        where ml_service refuses the query."""
        return await self._get("/v1/scoreboard/predictions", FrozenPredictionsReply, asked)

    async def current_cards(self) -> dict[str, ModelCard]:
        """The card of each plan's current model; a plan without one that can be trusted is left out. Raises as
        `predictions`."""
        index = await self._kept_get("/v1/models", ModelsIndex)
        current = {plan: version for plan, version in index.current.items() if version}
        cards = await asyncio.gather(*(self._card(version) for version in current.values()))
        return {plan: card for plan, card in zip(current, cards, strict=True) if card is not None}

    async def _card(self, version: str) -> ModelCard | None:
        """A model's card; None where ml_service refuses the model: it then serves nothing either."""
        try:
            return await self._kept_get(f"/v1/models/{quote(version, safe='')}", ModelCard)
        except SaudaError as refused:
            if refused.status != HTTPStatus.CONFLICT:
                raise
            return None

    async def _kept_get(
        self,
        path: str,
        reply: type[Reply],
        asked: Mapping[str, Any] | None = None,
        now: Mapping[str, Any] | None = None,
    ) -> Reply:
        """An answer of the last seconds where there is one; `now` is asked with, and does not tell answers apart."""
        key = (path, *sorted((asked or {}).items(), key=lambda item: item[0]))
        kept = await self._kept.get(key, lambda: self._get(path, reply, {**(asked or {}), **(now or {})}))
        return cast("Reply", kept)

    async def _get(self, path: str, reply: type[Reply], asked: Mapping[str, Any]) -> Reply:
        given = {name: str(value) for name, value in asked.items() if value is not None}
        url = str(httpx.URL(self._url + path, params=given))
        return await call(self._http, "GET", url, reply, timeout_s=self._timeout_s)


def _require_answer(replies: Iterable[PredictionsReply], as_of: datetime, environment: Environment) -> None:
    """Raises UpstreamError unless all parts answer the question that was asked, of one model and one session."""
    for reply in replies:
        if reply.environment is not environment:
            raise UpstreamError(
                f"ml_service answered for the {reply.environment.value} market, not {environment.value}"
            )
        if reply.as_of != as_of:
            raise UpstreamError(f"ml_service answered as of {reply.as_of.isoformat()}, not {as_of.isoformat()}")
    if len({(reply.model_version, reply.features_through) for reply in replies}) > 1:
        raise UpstreamError("the model or its session changed between two parts of one batch; the next tick asks again")


def signal_batch(reply: PredictionsReply) -> SignalBatch:
    """A reply turned into the decision's signals: a pure function of it, so that a stored one decides the same."""
    return SignalBatch(
        {symbol: signal_of(p, reply, _learned_modes(p, reply)) for symbol, p in reply.predictions.items()},
        {
            symbol: [signal_of(p, reply, modes_of(p.certified_modes)) for p in proposed]
            for symbol, proposed in reply.candidates.items()
        },
        reply,
    )


def _learned_modes(prediction: Prediction, reply: PredictionsReply) -> frozenset[Mode]:
    """The modes that both the prediction and its reply certify, less those held. One of before predictions named their
    modes has its reply's."""
    told = "certified_modes" in prediction.model_fields_set
    modes = modes_of(reply.certified_modes) - modes_of(reply.held_modes)
    return modes & modes_of(prediction.certified_modes) if told else modes


def modes_of(names: Iterable[str]) -> frozenset[Mode]:
    """The modes that are named; a name that is no mode of ours certifies nothing."""
    certified = set(names)
    return frozenset(mode for mode in Mode if mode.value in certified)


def signal_of(
    prediction: Prediction, reply: PredictionsReply | SessionPredictions, certified_modes: frozenset[Mode]
) -> Signal:
    """A prediction without its numbers, or of a strategy that cannot be recorded, is an abstention, whatever its action
    says."""
    numbers = (
        prediction.expected_return_net,
        prediction.expected_return_net_lower,
        prediction.reference_close,
        prediction.target,
        prediction.stop,
    )
    reasons = tuple(prediction.reasons)
    if None in numbers and not reasons:
        reasons = ("incomplete_prediction",)
    if not STRATEGY_NAME.fullmatch(prediction.strategy):
        reasons = ("strategy_name_invalid",)
    return Signal(
        symbol=prediction.symbol,
        action=SignalAction(prediction.action.value),
        strategy=prediction.strategy,
        model_version=prediction.model_version or reply.model_version,
        horizon_sessions=prediction.horizon_sessions,
        touch={t.net_return: t.probability for t in prediction.touch},
        expected_return_net=prediction.expected_return_net or 0.0,
        expected_return_net_lower=prediction.expected_return_net_lower or 0.0,
        reference_close=prediction.reference_close or Decimal(0),
        target=prediction.target or Decimal(0),
        stop=prediction.stop or Decimal(0),
        certified_modes=certified_modes,
        abstained=reasons,
        cost_fraction=_cost_fraction(prediction),
        cluster=prediction.cluster,
        intraday=prediction.intraday,
        valid_until=prediction.valid_until,
        logic_version=prediction.logic_version or reply.logic_version,
    )


def _cost_fraction(prediction: Prediction) -> Decimal:
    """The charges that the net return already contains, as a fraction of the entry value; never negative."""
    gross, net = prediction.expected_return_gross, prediction.expected_return_net
    if gross is None or net is None:
        return TYPICAL_ROUND_TRIP_FRACTION
    return Decimal(str(max(0.0, round(gross - net, COST_DECIMALS))))
