"""What ml_service counts and how its record stands, as Prometheus reads it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from contracts.predictions import Prediction
from contracts.scoreboard import EventScore
from ml_service.monitor import State

CONTENT_TYPE = CONTENT_TYPE_LATEST
COMPUTING_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """One process's figures, in a registry of their own. Labels are few words: strategies, events, modes, reasons."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._served = self._counter("predictions_served", "Predictions served that state numbers.", "strategy")
        self._abstained = self._counter("abstentions", "Predictions served that abstain.", "reason")
        self._computing = Histogram(
            "sauda_ml_computing_seconds",
            "Time to fetch a session's bars and compute its predictions.",
            buckets=COMPUTING_BUCKETS_S,
            registry=self.registry,
        )
        self._not_frozen = self._counter("not_frozen", "Answers about the present that could not be frozen.")
        self._damaged = self._counter("scoreboard_damaged_files", "Damaged files of the record that were skipped.")
        self._failures = self._counter("background_failures", "Rounds of the background task that failed.")
        self._intraday = self._counter("intraday_not_answered", "Times the intraday strategy was not answered in time.")
        self._record = self._gauge("scoreboard_predictions", "Served predictions in the record.", "outcome")
        self._brier = self._gauge("scoreboard_brier", "Brier score of what was served.", "strategy", "event")
        self._skill = self._gauge("scoreboard_brier_skill", "1 - Brier / base Brier.", "strategy", "event")
        self._held = self._gauge("mode_held", "1 for a mode that is held.", "plan", "strategy", "mode", "reason")
        self._drift = self._gauge("feature_drift", "Population stability index.", "plan", "feature")
        self._age = self._gauge("model_age_days", "Days since the last session the current model knows.", "plan")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"sauda_ml_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"sauda_ml_{name}", text, labels, registry=self.registry)

    def served(self, predictions: Iterable[Prediction]) -> None:
        """Predictions have been answered."""
        for prediction in predictions:
            if prediction.confidence is None:
                self._abstained.labels(next(iter(prediction.reasons), "unknown")).inc()
            else:
                self._served.labels(prediction.strategy).inc()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Times what happens inside."""
        begun = perf_counter()
        yield
        self._computing.observe(perf_counter() - begun)

    def not_frozen(self) -> None:
        """An answer about the present went out unrecorded."""
        self._not_frozen.inc()

    def damaged(self, _name: str) -> None:
        """A file of the record is not what was written."""
        self._damaged.inc()

    def background_failed(self) -> None:
        """A round of the background task ended with an error."""
        self._failures.inc()

    def intraday_not_answered(self) -> None:
        """Replies go out without the intraday strategy's proposals."""
        self._intraday.inc()

    def record(self, counts: Mapping[str, int], scores: Iterable[EventScore]) -> None:
        """How the record stands: rows per outcome, and the scores."""
        for outcome, count in counts.items():
            self._record.labels(outcome).set(count)
        for score in scores:
            self._brier.labels(score.strategy, score.event).set(score.brier)
            self._skill.labels(score.strategy, score.event).set(score.brier_skill)

    def monitored(self, states: Mapping[str, State]) -> None:
        """What the monitor makes of each plan's current model now."""
        self._held.clear()
        self._drift.clear()
        for plan, state in states.items():
            for (strategy, mode), reason in state.held.items():
                self._held.labels(plan, strategy, mode, reason).set(1)
            for each in state.drift:
                self._drift.labels(plan, each.feature).set(each.psi)

    def model_age(self, plan: str, days: int) -> None:
        """The current model of a plan is that old."""
        self._age.labels(plan).set(days)

    def render(self) -> bytes:
        """The text of GET /metrics, of content type CONTENT_TYPE."""
        return generate_latest(self.registry)
