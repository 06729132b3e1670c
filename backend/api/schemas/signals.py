"""Predictions, strategies, model cards and the scoreboard on the wire."""

from collections.abc import Mapping
from datetime import date
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from backend.api.schemas.common import Body, Day, MarketReply, Moment, Money, Reply, Symbol
from backend.domain.modes import Mode
from backend.services.ml_service_client import STRATEGY_PATTERN
from backend.services.model_cards import EventCard, Interval, ModelCard
from backend.services.strategy_service import ModeRecord, StrategyRecord
from contracts.common import Environment
from contracts.predictions import Action, Contribution, ExplanationReply, Prediction, PredictionsReply, RuleVote
from contracts.scoreboard import (
    EventScore,
    FeatureDrift,
    FrozenPrediction,
    FrozenPredictionsReply,
    ModeScore,
    Outcome,
    ScoreboardReply,
)

CURSOR_LENGTH_MAX = 200
PAGE_ROWS_MAX = 200

StrategyName = Annotated[str, StringConstraints(pattern=STRATEGY_PATTERN)]


class TouchView(Reply):
    """P(the price reaches `net_return` after charges within the horizon)."""

    net_return: float
    probability: float


class PredictionView(Reply):
    """For the plan: enter now, leave at `target`, at `stop` or after `horizon_sessions`. Returns are fractions.

    `target_probability` is P(`target` before `stop` within the horizon). `certified_modes` may trade on it, until
    `valid_until`; shares of one `cluster` moved together of late. An `intraday` plan ends with the session.
    """

    symbol: str
    action: Action
    strategy: str
    horizon_sessions: int
    confidence: float | None
    confidence_kind: str
    target_probability: float | None
    expected_return_gross: float | None
    expected_return_net: float | None
    expected_return_net_lower: float | None
    touch: list[TouchView]
    reference_close: Money | None
    target: Money | None
    stop: Money | None
    reasons: list[str]
    supporting_strategies: list[str]
    certified_modes: list[str]
    cluster: str | None
    intraday: bool
    valid_until: Moment | None

    @classmethod
    def of(cls, prediction: Prediction) -> "PredictionView":
        own = {name: getattr(prediction, name) for name in cls.model_fields if name != "touch"}
        touch = [TouchView(net_return=t.net_return, probability=t.probability) for t in prediction.touch]
        return cls(**own, touch=touch)


class PredictionsView(MarketReply):
    """`predictions` are the machine-learned strategy's, `certified_modes` the modes that may trade on them;
    `held_modes` were certified and are held: mode → why. `candidates` is what other strategies propose now."""

    as_of: Moment
    model_version: str | None
    logic_version: str
    trained_through: date | None
    features_through: date | None
    certified_modes: list[str]
    held_modes: dict[str, str]
    predictions: dict[str, PredictionView]
    candidates: dict[str, list[PredictionView]]

    @classmethod
    def of(cls, environment: Environment, reply: PredictionsReply) -> "PredictionsView":
        return cls(
            environment=environment,
            as_of=reply.as_of,
            model_version=reply.model_version,
            logic_version=reply.logic_version,
            trained_through=reply.trained_through,
            features_through=reply.features_through,
            certified_modes=reply.certified_modes,
            held_modes=reply.held_modes,
            predictions={symbol: PredictionView.of(p) for symbol, p in reply.predictions.items()},
            candidates={symbol: [PredictionView.of(p) for p in found] for symbol, found in reply.candidates.items()},
        )


class ExplanationView(MarketReply):
    """Why the prediction is what it is: contributions to the score of `event` in log odds, largest first. With
    `intercept` and `rest` they add up to it; empty where the strategy abstains."""

    as_of: Moment
    model_version: str | None
    features_through: date | None
    event: str
    intercept: float | None
    contributions: list[Contribution]
    rest: float | None
    votes: list[RuleVote]
    prediction: PredictionView

    @classmethod
    def of(cls, environment: Environment, reply: ExplanationReply) -> "ExplanationView":
        told = {name: getattr(reply, name) for name in cls.model_fields if name not in {"environment", "prediction"}}
        return cls(environment=environment, prediction=PredictionView.of(reply.prediction), **told)


class ModeRecordView(Reply):
    """How often a mode would have traded on a strategy's out-of-sample predictions, and how those plans ended.

    `state`: `certified` (the mode may trade on it), `held` (it may not for now), `insufficient_evidence` or `refused`;
    `reason` says why it is not certified. `hit_rate`: how often the mode's return was reached, `net_return` what the
    plans returned net, both with their 95 % interval over `episodes`; fractions.
    """

    state: str
    reason: str | None
    trades: int
    episodes: int
    hit_rate: Interval | None
    net_return: Interval | None

    @classmethod
    def of(cls, record: ModeRecord) -> "ModeRecordView":
        return cls(**{name: getattr(record, name) for name in cls.model_fields})


class StrategyView(Reply):
    """`plan`: the sessions of the horizon it predicts for, or `intraday`."""

    strategy: str
    plan: str
    model_version: str
    modes: dict[Mode, ModeRecordView]

    @classmethod
    def of(cls, record: StrategyRecord) -> "StrategyView":
        return cls(
            strategy=record.strategy,
            plan=record.plan,
            model_version=record.model_version,
            modes={mode: ModeRecordView.of(of_mode) for mode, of_mode in record.modes.items()},
        )


class StrategiesView(MarketReply):
    strategies: list[StrategyView]


class ModelStrategyView(Reply):
    """How the strategy's probability of each event held out of sample."""

    events: dict[str, EventCard]
    modes: dict[Mode, ModeRecordView]


class ModelView(Reply):
    """A current model, as it was judged before it served: `sauda ml card` shows the whole card."""

    model_version: str
    logic_version: str
    horizon_sessions: int
    trained_through: date
    calibrated_through: date
    symbols: int
    strategies: dict[str, ModelStrategyView]


class ModelsView(MarketReply):
    """By plan: the sessions of the horizon a model predicts for, or `intraday`."""

    models: dict[str, ModelView]

    @classmethod
    def of(
        cls, environment: Environment, cards: Mapping[str, ModelCard], records: tuple[StrategyRecord, ...]
    ) -> "ModelsView":
        modes = {(record.plan, record.strategy): StrategyView.of(record).modes for record in records}
        return cls(
            environment=environment,
            models={
                plan: ModelView(
                    model_version=card.version,
                    logic_version=card.manifest.logic_version,
                    horizon_sessions=card.manifest.horizon_sessions,
                    trained_through=card.manifest.trained_through,
                    calibrated_through=card.manifest.calibrated_through,
                    symbols=len(card.manifest.universe),
                    strategies={
                        name: ModelStrategyView(
                            events=strategy.metrics.events if strategy.metrics else {}, modes=modes[plan, name]
                        )
                        for name, strategy in sorted(card.manifest.strategies.items())
                    },
                )
                for plan, card in sorted(cards.items())
            },
        )


class ScoreboardQuery(Body):
    """One strategy or all, since the first day or a later one."""

    strategy: StrategyName | None = None
    since: Day | None = None
    horizon_sessions: Annotated[int, Field(ge=1, le=60)] | None = Field(
        default=None, description="The plan's length; the deployment's where it is left out."
    )


class ScoreboardView(MarketReply):
    """The record of every prediction served since `since`, scored where its horizon is over."""

    as_of: Moment | None
    since: date | None
    frozen: int
    matured: int
    events: list[EventScore]
    modes: list[ModeScore]
    drift: list[FeatureDrift]

    @classmethod
    def of(cls, environment: Environment, reply: ScoreboardReply) -> "ScoreboardView":
        told = {name: getattr(reply, name) for name in cls.model_fields if name != "environment"}
        return cls(environment=environment, **told)


class FrozenQuery(Body):
    """Filters by session day, both inclusive; `cursor` is the `next_cursor` of the page before."""

    symbol: Symbol | None = None
    strategy: StrategyName | None = None
    from_: Day | None = Field(default=None, alias="from")
    to: Day | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_ROWS_MAX)] = 50
    cursor: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]*$", max_length=CURSOR_LENGTH_MAX)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "FrozenQuery":
        if self.from_ is not None and self.to is not None and self.from_ > self.to:
            raise ValueError("from must not be after to")
        return self


class FrozenView(Reply):
    """A prediction as it was first served for a session, and what came of it. Returns are fractions, net of costs."""

    served_at: Moment
    session: date
    symbol: str
    strategy: str
    model_version: str
    horizon_sessions: int
    action: str
    probability: dict[str, float]
    expected_return_net: float
    expected_return_net_lower: float
    certified_modes: list[str]
    outcome: Outcome
    matured_through: date | None
    net_return: float | None
    hit: dict[str, bool]

    @classmethod
    def of(cls, frozen: FrozenPrediction) -> "FrozenView":
        return cls(**{name: getattr(frozen, name) for name in cls.model_fields})


class FrozenPage(MarketReply):
    entries: list[FrozenView]
    next_cursor: str | None

    @classmethod
    def of(cls, environment: Environment, reply: FrozenPredictionsReply) -> "FrozenPage":
        return cls(
            environment=environment,
            entries=[FrozenView.of(entry) for entry in reply.entries],
            next_cursor=reply.next_cursor,
        )
