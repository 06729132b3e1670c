"""What ml_service's cards say of its current models, as far as users are shown it; what else they hold is skipped."""

from datetime import date

from pydantic import BaseModel, ConfigDict


class Told(BaseModel):
    """A part of a card."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Interval(Told):
    """A mean with its 95 % interval; null where there are too few episodes for one."""

    mean: float
    low: float | None = None
    high: float | None = None


class ModeCard(Told):
    """What a mode would have taken of a strategy's out-of-sample predictions, and how those plans ended.

    `hit_rate`: how often the mode's return was reached; `net`: the plans' net return, as a fraction.
    """

    certified: bool
    verdict: str = ""
    candidates: int = 0
    episodes: int = 0
    hit_rate: Interval | None = None
    net: Interval | None = None


class EventCard(Told):
    """How a strategy's probability of one event held out of sample; `ece` is its calibration error."""

    base_rate: float | None = None
    auc: float | None = None
    brier: float | None = None
    brier_skill: float | None = None
    ece: float | None = None


class Metrics(Told):
    """Figures by event, out of sample."""

    events: dict[str, EventCard] = {}


class StrategyCard(Told):
    """What a model's card says of one strategy."""

    metrics: Metrics | None = None
    modes: dict[str, ModeCard] = {}


class Manifest(Told):
    """What a model was made of; `universe` are the symbols it answers for."""

    horizon_sessions: int
    trained_through: date
    calibrated_through: date
    logic_version: str
    universe: list[str] = []
    strategies: dict[str, StrategyCard] = {}


class ModelCard(Told):
    """A registered model."""

    version: str
    manifest: Manifest


class ModelsIndex(Told):
    """The version of the current model of each plan: the sessions of its horizon, or `intraday`."""

    current: dict[str, str | None]
