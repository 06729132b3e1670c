"""ml_service over HTTP: a batch of predictions under one total deadline, turned into the decision's signals."""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import httpx

from backend.domain.modes import Mode
from backend.domain.ranking import TYPICAL_ROUND_TRIP_FRACTION, Signal, SignalAction
from backend.errors import UpstreamError
from backend.services.market_data_client import call, in_parts
from contracts.predictions import Prediction, PredictionsReply, PredictionsRequest

STRATEGY_PATTERN = r"^[a-z][a-z0-9_]{0,39}$"
STRATEGY_NAME = re.compile(STRATEGY_PATTERN)
COST_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class SignalBatch:
    """The machine-learned strategy's signals by symbol, what other strategies propose, and the reply as it came."""

    signals: Mapping[str, Signal]
    proposals: Mapping[str, Sequence[Signal]]
    reply: PredictionsReply


class MlServiceClient:
    """Calls ml_service."""

    def __init__(self, http: httpx.AsyncClient, base_url: str, timeout_s: float) -> None:
        self._http = http
        self._url = base_url.rstrip("/")
        self._timeout_s = timeout_s

    async def predictions(self, symbols: Sequence[str], as_of: datetime, horizon_sessions: int) -> SignalBatch:
        """What the model says of `symbols` as of an instant.

        Raises:
            UpstreamError: no answer in time, or none that can be read.
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
        if len({reply.model_version for reply in replies}) > 1:
            raise UpstreamError("the model changed between two parts of one batch; the next tick asks again")
        whole = {
            "predictions": {symbol: p for reply in replies for symbol, p in reply.predictions.items()},
            "candidates": {symbol: p for reply in replies for symbol, p in reply.candidates.items()},
        }
        return signal_batch(replies[0].model_copy(update=whole))


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


def signal_of(prediction: Prediction, reply: PredictionsReply, certified_modes: frozenset[Mode]) -> Signal:
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
        model_version=reply.model_version,
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
        logic_version=reply.logic_version,
    )


def _cost_fraction(prediction: Prediction) -> Decimal:
    """The charges that the net return already contains, as a fraction of the entry value; never negative."""
    gross, net = prediction.expected_return_gross, prediction.expected_return_net
    if gross is None or net is None:
        return TYPICAL_ROUND_TRIP_FRACTION
    return Decimal(str(max(0.0, round(gross - net, COST_DECIMALS))))
