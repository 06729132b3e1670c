"""ml_service over HTTP: a batch of predictions under one total deadline, turned into the decision's signals."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import httpx

from backend.domain.modes import Mode
from backend.domain.ranking import Signal, SignalAction
from backend.errors import UpstreamError
from backend.services.market_data_client import call, in_parts
from contracts.predictions import Prediction, PredictionsReply, PredictionsRequest


@dataclass(frozen=True, slots=True)
class SignalBatch:
    """Signals by symbol, and the reply as it came."""

    signals: Mapping[str, Signal]
    certified_modes: frozenset[Mode]
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
        together = {symbol: p for reply in replies for symbol, p in reply.predictions.items()}
        reply = replies[0].model_copy(update={"predictions": together})
        signals = {symbol: signal_of(p, reply.model_version) for symbol, p in reply.predictions.items()}
        return SignalBatch(signals, modes_of(reply.certified_modes), reply)


def modes_of(names: Iterable[str]) -> frozenset[Mode]:
    """The modes that may trade on a reply; a name that is no mode of ours certifies nothing."""
    certified = set(names)
    return frozenset(mode for mode in Mode if mode.value in certified)


def signal_of(prediction: Prediction, model_version: str | None) -> Signal:
    """A prediction without its numbers is an abstention, whatever its action says."""
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
    return Signal(
        symbol=prediction.symbol,
        action=SignalAction(prediction.action.value),
        strategy=prediction.strategy,
        model_version=model_version,
        horizon_sessions=prediction.horizon_sessions,
        touch={t.net_return: t.probability for t in prediction.touch},
        expected_return_net=prediction.expected_return_net or 0.0,
        expected_return_net_lower=prediction.expected_return_net_lower or 0.0,
        reference_close=prediction.reference_close or Decimal(0),
        target=prediction.target or Decimal(0),
        stop=prediction.stop or Decimal(0),
        abstained=reasons,
    )
