"""The public record of what was predicted and what then happened, on the wire."""

from datetime import date
from enum import StrEnum

from pydantic import Field

from contracts.common import Environment, Instant, Symbol, Wire


class Outcome(StrEnum):
    """What is known of a prediction's plan by now."""

    PENDING = "pending"
    MATURED = "matured"
    UNSCORABLE = "unscorable"
    """No outcome can be known: the share's bars ended, or an unadjusted action lies within the horizon."""


class FrozenPrediction(Wire):
    """A prediction as it was first served for a session, and what came of it. Returns are fractions, net of costs.

    `served_at` is the market's instant at which it was first served; nothing of it was changed afterwards. `hit` maps
    each event to whether it happened; both `hit` and `net_return` are there once the outcome is `matured`.
    """

    served_at: Instant
    session: date = Field(description="The last session that was known; the plan enters at the next one's open.")
    symbol: Symbol
    strategy: str
    model_version: str
    horizon_sessions: int
    action: str
    probability: dict[str, float] = Field(description="Event → stated probability.")
    expected_return_net: float
    expected_return_net_lower: float
    certified_modes: list[str]
    outcome: Outcome = Outcome.PENDING
    matured_through: date | None = None
    net_return: float | None = None
    hit: dict[str, bool] = {}


class FrozenPredictionsReply(Wire):
    """Newest first. `next_cursor` asks for the following page; null on the last."""

    environment: Environment
    entries: list[FrozenPrediction]
    next_cursor: str | None = None


class Share(Wire):
    """A mean with its 95 % interval over independent episodes; bounds are null under two episodes."""

    mean: float
    low: float | None
    high: float | None


class ReliabilityBin(Wire):
    """Predictions that stated about the same probability: how many, what they stated, how often it happened."""

    count: int
    stated: float
    realised: float


class EventScore(Wire):
    """How one strategy's probability of one event held. `base_brier` is the Brier score of always stating the base rate
    known when the model was calibrated; `brier_skill` is 1 − brier / base_brier."""

    strategy: str
    event: str
    matured: int
    pending: int
    stated: float
    realised: float
    brier: float
    base_brier: float
    brier_skill: float
    calibration_error: float
    bins: list[ReliabilityBin]


class ModeScore(Wire):
    """What a mode would have taken of one strategy's served predictions, and how those plans ended.

    `state`: certified, held, insufficient_evidence or refused; `reason` says why it is not certified.
    """

    strategy: str
    mode: str
    signals: int
    matured: int
    episodes: int
    hit_rate: Share | None = None
    net_return: Share | None = None
    state: str
    reason: str | None = None


class FeatureDrift(Wire):
    """Population stability index of a feature against its training distribution; over 0.25 is a large shift."""

    feature: str
    psi: float


class ScoreboardReply(Wire):
    """The record of every prediction served since `since`, scored where its horizon is over."""

    environment: Environment
    as_of: Instant | None
    since: date | None
    frozen: int
    matured: int
    events: list[EventScore]
    modes: list[ModeScore]
    drift: list[FeatureDrift] = []
