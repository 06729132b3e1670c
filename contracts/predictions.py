"""Predictions on the wire, as ml_service makes them: every probability names the event it is the probability of."""

from datetime import date
from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

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
    `reasons` where the strategy abstains, and then the numbers may be null.

    `certified_modes`: the modes that may trade on this strategy; others must not. `cluster` groups shares that moved
    together of late, so that a decision can bound what it stakes on one movement. `intraday`: the plan ends with the
    session and its costs are those of an intraday trade. `valid_until`: from then on it is not to be acted upon.
    `model_version` and `logic_version` are told where another model than the reply's made the prediction.
    """

    symbol: Symbol
    action: Action
    strategy: str
    horizon_sessions: int
    confidence: float | None = Field(default=None, ge=0, le=1)
    confidence_kind: str = "net_profit"
    target_probability: float | None = Field(
        default=None, ge=0, le=1, description="P(the price reaches `target` before `stop`, within the horizon)."
    )
    expected_return_gross: float | None = None
    expected_return_net: float | None = None
    expected_return_net_lower: float | None = None
    touch: list[TouchProbability] = []
    reference_close: Rupees | None = None
    target: Rupees | None = None
    stop: Rupees | None = None
    reasons: list[str] = []
    supporting_strategies: list[str] = []
    certified_modes: list[str] = []
    cluster: str | None = None
    intraday: bool = False
    valid_until: Instant | None = None
    model_version: str | None = None
    logic_version: str | None = None


class PredictionsReply(Wire):
    """One entry per requested symbol: the machine-learned strategy's view. `features_through` is the last session whose
    bars were used.

    `candidates` holds what the other strategies propose now, per symbol, each calibrated by the same machinery;
    a strategy that proposes nothing for a symbol is not in its list. `certified_modes`: the modes for which the
    machine-learned strategy has shown enough separate episodes; others must not trade on it. `held_modes` were
    certified and are held by the monitor: mode → why.
    """

    environment: Environment
    as_of: Instant
    model_version: str | None
    logic_version: str
    trained_through: date | None
    features_through: date | None
    certified_modes: list[str] = []
    held_modes: dict[str, str] = {}
    predictions: dict[Symbol, Prediction]
    candidates: dict[Symbol, list[Prediction]] = {}


WALK_FORWARD = "walk_forward"


class WalkForwardRequest(Wire):
    """Have ready what the strategies would have said on every day up to `through`, each day by models trained and
    calibrated on what had ended before it, and certified by the record of then."""

    through: date
    as_of: Instant
    horizon_sessions: int = Field(default=HORIZON_SESSIONS_DEFAULT, ge=1, le=60, strict=True)


class WalkForwardStatus(StrEnum):
    """Where a walk-forward stands: under way (or waiting for another one), ready to be asked, or ended by an error."""

    RUNNING = "running"
    READY = "ready"
    FAILED = "failed"


class WalkForwardReply(Wire):
    """How far it is: `done` of `total` steps, `what` is done now or went wrong. Asking again with the same request
    tells how it goes on; a failed one starts anew. `first` and `last`: the days it can answer for once it is ready."""

    environment: Environment
    status: WalkForwardStatus
    done: int = 0
    total: int = 0
    what: str = ""
    first: date | None = None
    last: date | None = None


class PredictionHistoryRequest(Wire):
    """What was to be acted on in `symbols` on the trading days `from`..`through`, both inclusive.

    `model`: a registered version, which answers only for days after it was trained; or `walk_forward`, which must be
    ready (see WalkForwardRequest) and then answers from the run with the same `as_of` day and horizon.
    """

    symbols: Symbols
    from_: Annotated[date, Field(alias="from")]
    through: date
    as_of: Instant
    horizon_sessions: int = Field(default=HORIZON_SESSIONS_DEFAULT, ge=1, le=60, strict=True)
    model: str = WALK_FORWARD

    @model_validator(mode="after")
    def _ordered(self) -> "PredictionHistoryRequest":
        if self.from_ > self.through:
            raise ValueError("from must not be after through")
        return self


class SessionPredictions(Wire):
    """What could be acted on in the session of `day`: predictions and candidates with an action and a certified mode,
    as `/v1/predictions` would have served them on that day. `idle` counts the others by reason (`hold` where there was
    a view, but nothing to do)."""

    day: date
    features_through: date
    model_version: str | None
    logic_version: str
    trained_through: date | None
    predictions: dict[Symbol, Prediction] = {}
    candidates: dict[Symbol, list[Prediction]] = {}
    idle: dict[str, int] = {}


class PredictionHistoryReply(Wire):
    """One entry per session that can be answered for, oldest first; a day that is missing has no answer, and
    `unanswered` says why."""

    environment: Environment
    as_of: Instant
    model: str
    sessions: list[SessionPredictions]
    unanswered: dict[date, str] = {}


class Contribution(Wire):
    """How much one feature moves the score of an event, in log odds, against its mean in the training data."""

    feature: str
    value: float
    contribution: float


class RuleVote(Wire):
    """Whether a rule strategy proposes the symbol now, and the reason it gives."""

    strategy: str
    fired: bool
    reason: str


class ExplanationReply(Wire):
    """Why a prediction is what it is. `contributions` are of the event named by `event`, largest first; they add up,
    with `intercept` and all others in `rest`, to the uncalibrated score in log odds. Empty where it abstains."""

    environment: Environment
    as_of: Instant
    model_version: str | None
    features_through: date | None
    event: str
    intercept: float | None = None
    contributions: list[Contribution] = []
    rest: float | None = None
    votes: list[RuleVote] = []
    prediction: Prediction
