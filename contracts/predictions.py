"""Predictions on the wire, as ml_service makes them: every probability names the event it is the probability of."""

from datetime import date
from enum import StrEnum

from pydantic import Field

from contracts.common import Environment, Instant, Rupees, Symbol, Symbols, Wire

HORIZON_SESSIONS_DEFAULT = 10


class Action(StrEnum):
    BUY = "buy"
    SELL = "sell"
    HOLD = "hold"


class PredictionsRequest(Wire):
    """`as_of` is the decision's instant: only sessions that had ended by then may influence the answer."""

    symbols: Symbols
    as_of: Instant
    horizon_sessions: int = Field(default=HORIZON_SESSIONS_DEFAULT, ge=1, le=60, strict=True)


class TouchProbability(Wire):
    """P(the price reaches entry × (1 + charges + `net_return`) within the horizon), calibrated out of sample."""

    net_return: float
    probability: float = Field(ge=0, le=1)


class Prediction(Wire):
    """What one strategy says of one symbol, for the position plan that would really be traded.

    The plan: enter now, leave at `target`, at `stop`, or after `horizon_sessions`. All returns are fractions of the
    entry value (0.02 is 2 %). `confidence` is the calibrated probability of `confidence_kind`; `action` is HOLD with
    `reasons` where the model abstains, and then the numbers may be null.
    """

    symbol: Symbol
    action: Action
    strategy: str
    horizon_sessions: int
    confidence: float | None = Field(default=None, ge=0, le=1)
    confidence_kind: str = "net_profit"
    expected_return_gross: float | None = None
    expected_return_net: float | None = None
    expected_return_net_lower: float | None = None
    touch: list[TouchProbability] = []
    reference_close: Rupees | None = None
    target: Rupees | None = None
    stop: Rupees | None = None
    reasons: list[str] = []
    supporting_strategies: list[str] = []


class PredictionsReply(Wire):
    """One entry per requested symbol. `features_through` is the last session whose bars were used.

    `certified_modes`: the modes for which the model has shown enough separate episodes; others must not trade on it.
    """

    environment: Environment
    as_of: Instant
    model_version: str | None
    logic_version: str
    trained_through: date | None
    features_through: date | None
    certified_modes: list[str] = []
    predictions: dict[Symbol, Prediction]
