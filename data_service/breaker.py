"""Circuit breakers: a provider that fails is left alone for a while and then asked by one careful probe.

The machine is a value and pure functions of it; `Breaker` holds one value and a monotonic clock.

    closed ── too many failures, or "leave me alone" ──▶ open ── its time is over ──▶ half-open (one probe)
       ▲                                                  ▲                              │        │
       └───────────────── the probe succeeded ────────────│──────────────────────────────┘        │
                                                          └───────── the probe failed ────────────┘
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from data_service.providers.base import Kind

CALLS_KEPT_MAX = 1000


class State(StrEnum):
    """Closed lets calls pass; open refuses them; half-open has one probe under way and refuses all others."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When a breaker opens, and for how long: `open_s`, doubled with each failed probe up to `open_s_max`."""

    failures_in_row_max: int = 3
    window_s: float = 120.0
    window_calls_min: int = 10
    failure_share_max: float = 0.5
    open_s: float = 15.0
    open_s_max: float = 600.0


@dataclass(frozen=True, slots=True)
class Circuit:
    """One breaker's state. `turn` counts its changes: an outcome counts only for the turn in which its call began, so
    that a late answer cannot close or open what has changed since. `calls` are (when, failed) of the window."""

    state: State = State.CLOSED
    turn: int = 0
    failures_in_row: int = 0
    calls: tuple[tuple[float, bool], ...] = ()
    until_s: float = 0.0
    probes_failed: int = 0


def admits(circuit: Circuit, now_s: float) -> bool:
    """Whether a call asked for at `now_s` would be let through."""
    return circuit.state is State.CLOSED or (circuit.state is State.OPEN and now_s >= circuit.until_s)


def asked(circuit: Circuit, now_s: float) -> tuple[Circuit, int | None]:
    """A call is asked for: its permit (to be given back with the outcome), None where it is refused."""
    if not admits(circuit, now_s):
        return circuit, None
    if circuit.state is State.CLOSED:
        return circuit, circuit.turn
    probing = replace(circuit, state=State.HALF_OPEN, turn=circuit.turn + 1)
    return probing, probing.turn


def succeeded(circuit: Circuit, limits: BreakerLimits, permit: int, now_s: float) -> Circuit:
    """The call with this permit was answered."""
    if permit != circuit.turn:
        return circuit
    if circuit.state is State.HALF_OPEN:
        return Circuit(turn=circuit.turn + 1)
    return replace(circuit, failures_in_row=0, calls=_window(circuit, limits, now_s, failed=False))


def failed(circuit: Circuit, limits: BreakerLimits, permit: int, now_s: float) -> Circuit:
    """The call with this permit was not."""
    if permit != circuit.turn:
        return circuit
    if circuit.state is State.HALF_OPEN:
        return _opened(circuit, limits, now_s, circuit.probes_failed + 1)
    counted = replace(
        circuit,
        failures_in_row=circuit.failures_in_row + 1,
        calls=_window(circuit, limits, now_s, failed=True),
    )
    return _opened(counted, limits, now_s, 0) if _too_many(counted, limits) else counted


def limited(circuit: Circuit, retry_after_s: float, now_s: float) -> Circuit:
    """The provider asked to be left alone, whatever the state."""
    until_s = now_s + retry_after_s
    if circuit.state is State.OPEN:
        return replace(circuit, until_s=max(circuit.until_s, until_s))
    return Circuit(State.OPEN, circuit.turn + 1, until_s=until_s, probes_failed=circuit.probes_failed)


def abandoned(circuit: Circuit, permit: int, now_s: float) -> Circuit:
    """The caller went away before there was an outcome: a probe gives its place back, a call is as if never begun."""
    if permit != circuit.turn or circuit.state is not State.HALF_OPEN:
        return circuit
    return replace(circuit, state=State.OPEN, turn=circuit.turn + 1, until_s=now_s)


def _window(circuit: Circuit, limits: BreakerLimits, now_s: float, *, failed: bool) -> tuple[tuple[float, bool], ...]:
    recent = [call for call in circuit.calls if call[0] > now_s - limits.window_s]
    return (*recent[1 - CALLS_KEPT_MAX :], (now_s, failed))


def _too_many(circuit: Circuit, limits: BreakerLimits) -> bool:
    if circuit.failures_in_row >= limits.failures_in_row_max:
        return True
    failures = sum(failed for _, failed in circuit.calls)
    return len(circuit.calls) >= limits.window_calls_min and failures / len(circuit.calls) > limits.failure_share_max


def _opened(circuit: Circuit, limits: BreakerLimits, now_s: float, probes_failed: int) -> Circuit:
    open_s = min(limits.open_s * 2.0 ** min(probes_failed, 60), limits.open_s_max)
    return Circuit(State.OPEN, circuit.turn + 1, until_s=now_s + open_s, probes_failed=probes_failed)


class Breaker:
    """One circuit over time. Every permit of `ask` must be given back with exactly one outcome."""

    def __init__(
        self, limits: BreakerLimits, monotonic_s: Callable[[], float], on_change: Callable[[State], None]
    ) -> None:
        self._limits, self._now_s, self._on_change = limits, monotonic_s, on_change
        self._circuit = Circuit()
        on_change(State.CLOSED)

    @property
    def state(self) -> State:
        return self._circuit.state

    @property
    def retry_in_s(self) -> float:
        """Seconds until a call is let through; 0 where one is now."""
        return max(0.0, self._circuit.until_s - self._now_s()) if self.state is State.OPEN else 0.0

    def admits(self) -> bool:
        """Whether `ask` would give a permit now; changes nothing."""
        return admits(self._circuit, self._now_s())

    def ask(self) -> int | None:
        """A permit for one call, None where it must not be made."""
        circuit, permit = asked(self._circuit, self._now_s())
        self._become(circuit)
        return permit

    def succeeded(self, permit: int) -> None:
        self._become(succeeded(self._circuit, self._limits, permit, self._now_s()))

    def failed(self, permit: int) -> None:
        self._become(failed(self._circuit, self._limits, permit, self._now_s()))

    def limited(self, retry_after_s: float) -> None:
        self._become(limited(self._circuit, retry_after_s, self._now_s()))

    def abandoned(self, permit: int) -> None:
        self._become(abandoned(self._circuit, permit, self._now_s()))

    def _become(self, circuit: Circuit) -> None:
        changed = circuit.state is not self._circuit.state
        self._circuit = circuit
        if changed:
            self._on_change(circuit.state)


class Breakers:
    """One breaker per provider and kind of data, made when first asked for."""

    def __init__(
        self,
        monotonic_s: Callable[[], float],
        on_change: Callable[[str, Kind, State], None],
        limits: BreakerLimits | None = None,
    ) -> None:
        self._monotonic_s, self._on_change, self._limits = monotonic_s, on_change, limits or BreakerLimits()
        self._all: dict[tuple[str, Kind], Breaker] = {}

    def of(self, provider: str, kind: Kind) -> Breaker:
        found = self._all.get((provider, kind))
        if found is None:

            def changed(state: State) -> None:
                self._on_change(provider, kind, state)

            found = self._all[provider, kind] = Breaker(self._limits, self._monotonic_s, changed)
        return found
