"""What data_service counts about its providers, as Prometheus reads it."""

from enum import StrEnum

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from data_service.breaker import State
from data_service.providers.base import Kind

CONTENT_TYPE = CONTENT_TYPE_LATEST
LATENCY_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
QUOTE_AGE_BUCKETS_S = (0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 86_400)


class Outcome(StrEnum):
    """How a call to a provider ended. `incomplete`: a part of the answer came; `refused`: the breaker is open, nothing
    was sent; `abandoned`: the caller went away."""

    OK = "ok"
    INCOMPLETE = "incomplete"
    ERROR = "error"
    TIMEOUT = "timeout"
    LIMITED = "limited"
    UNSUPPORTED = "unsupported"
    REFUSED = "refused"
    ABANDONED = "abandoned"


class Metrics:
    """One process's figures, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        by_call = ["provider", "kind"]
        self._requests = Counter(
            "sauda_data_provider_requests", "Calls to providers.", [*by_call, "outcome"], registry=self.registry
        )
        self._seconds = Histogram(
            "sauda_data_provider_request_seconds",
            "Duration of calls to providers that were sent.",
            by_call,
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._breakers = Gauge(
            "sauda_data_breaker_state",
            "1 at the state the circuit breaker is in, 0 at the others.",
            [*by_call, "state"],
            registry=self.registry,
        )
        self._ages = Histogram(
            "sauda_data_quote_age_seconds",
            "Market seconds between an accepted quote's own instant and its acceptance.",
            ["provider"],
            buckets=QUOTE_AGE_BUCKETS_S,
            registry=self.registry,
        )
        self._rejected = Counter(
            "sauda_data_quotes_rejected", "Quotes the gate refused.", ["provider", "reason"], registry=self.registry
        )
        self._dropped = Counter(
            "sauda_data_bars_dropped", "Bars lost while the store was away.", registry=self.registry
        )

    def request(self, provider: str, kind: Kind, outcome: Outcome, seconds: float | None = None) -> None:
        """One call to a provider has ended; `seconds` where it was sent."""
        self._requests.labels(provider, kind, outcome).inc()
        if seconds is not None:
            self._seconds.labels(provider, kind).observe(seconds)

    def breaker(self, provider: str, kind: Kind, state: State) -> None:
        """A breaker is in `state` from now on."""
        for each in State:
            self._breakers.labels(provider, kind, each).set(each is state)

    def quote_accepted(self, provider: str, age_s: float | None) -> None:
        """A quote passed the gate; `age_s` where it says of when it is."""
        if age_s is not None:
            self._ages.labels(provider).observe(age_s)

    def quote_rejected(self, provider: str, reason: str) -> None:
        """The gate refused a quote; `reason` is one of few words (each becomes a time series)."""
        self._rejected.labels(provider, reason).inc()

    def bars_dropped(self, count: int) -> None:
        """Bars were lost because the store was away for too long."""
        self._dropped.inc(count)

    def render(self) -> bytes:
        """The text of GET /metrics, of content type CONTENT_TYPE."""
        return generate_latest(self.registry)
