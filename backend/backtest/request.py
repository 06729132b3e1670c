"""A stored request turned into what the engine runs: the deployment's own rules, the users to simulate, the sweep."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from itertools import product
from typing import Any

from backend.backtest.spec import Proceeds, Spec, Trader
from backend.config import Settings
from backend.domain.calendar import Calendar
from backend.domain.gate import GateLimits
from backend.domain.market import Product
from backend.domain.matching import FillModel
from backend.domain.modes import Mode
from backend.domain.protections import from_stored
from backend.domain.risk import RiskLimits
from contracts.market import Interval

WALKING = "walking forward: "
"""How each step of progress begins that waits for the models of the past."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a deployment's trading goes by and no request changes."""

    limits: RiskLimits = field(default_factory=RiskLimits)
    gate: GateLimits = field(default_factory=GateLimits)
    day_loss_fraction_max: Decimal = Decimal("0.02")
    order_rest_s_max: int = 600
    horizon_sessions: int = 10

    @classmethod
    def of(cls, settings: Settings) -> "Rules":
        return cls(
            settings.risk_limits,
            settings.gate_limits,
            settings.day_loss_fraction_max,
            settings.order_rest_s_max,
            settings.horizon_sessions,
        )


@dataclass(frozen=True, slots=True)
class World:
    """Where a backtest finds its market, and the rules of the deployment it belongs to."""

    data_service_url: str
    ml_service_url: str
    rules: Rules
    calendar: Calendar


@dataclass(frozen=True, slots=True)
class Asked:
    """A request understood: `sweep` holds the values to try by parameter, empty for a single run."""

    spec: Spec
    universe: str
    model: str
    horizon_sessions: int
    sweep: Mapping[str, tuple[Any, ...]]

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Every combination of the sweep's values, in their order, the last parameter changing fastest."""
        for values in product(*self.sweep.values()):
            yield dict(zip(self.sweep, values, strict=True))


def asked_of(request: Mapping[str, Any], rules: Rules) -> Asked:
    """Read a request as the API stores it.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    spec = Spec(
        first=date.fromisoformat(request["from"]),
        last=date.fromisoformat(request["to"]),
        traders=tuple(_trader(trader) for trader in request["traders"]),
        interval=Interval(request["interval"]),
        fills=FillModel(Decimal(request["participation_fraction"]), Decimal(request["slippage_fraction"])),
        latency_bars=request["latency_bars"],
        proceeds=Proceeds(request["proceeds"]),
        limits=rules.limits,
        gate=rules.gate,
        day_loss_fraction_max=rules.day_loss_fraction_max,
        order_rest_s_max=rules.order_rest_s_max,
    )
    sweep = {name: tuple(values) for name, values in (request.get("sweep") or {}).items()}
    asked = Asked(spec, request["universe"], request["model"], rules.horizon_sessions, sweep)
    for values in asked.combinations():
        with_values(spec, values)
    return asked


def _trader(stored: Mapping[str, Any]) -> Trader:
    return Trader(
        name=stored["name"],
        mode=Mode(stored["mode"]),
        capital=Decimal(stored["capital"]),
        product=Product(stored["product"]),
        strategies=frozenset(stored["strategies"]),
        protections=from_stored(stored["protections"]),
        entries_per_day_max=stored["entries_per_day_max"],
    )


def with_values(spec: Spec, values: Mapping[str, Any]) -> Spec:
    """The same backtest with a combination's values, as JSON has them (fractions are text).

    Raises:
        KeyError: a parameter that cannot be swept. ValueError: a value that cannot be.
    """
    for name, value in values.items():
        spec = PARAMETERS[name](spec, value)
    return spec


def _of_traders(spec: Spec, **changes: Any) -> Spec:
    return replace(spec, traders=tuple(replace(trader, **changes) for trader in spec.traders))


def _of_mode(spec: Spec, mode: Mode) -> Spec:
    """A trader that is called by its mode is called by the new one."""
    traders = [replace(t, mode=mode, name=mode.value if t.name == t.mode.value else t.name) for t in spec.traders]
    return replace(spec, traders=tuple(traders))


def _of_limits(spec: Spec, **changes: Any) -> Spec:
    return replace(spec, limits=replace(spec.limits, **changes))


PARAMETERS: Mapping[str, Callable[[Spec, Any], Spec]] = {
    "mode": lambda spec, value: _of_mode(spec, Mode(value)),
    "strategies": lambda spec, value: _of_traders(spec, strategies=frozenset(value)),
    "entry_protection_fraction": lambda spec, value: _of_limits(spec, entry_protection_fraction=Decimal(value)),
    "exit_protection_fraction": lambda spec, value: _of_limits(spec, exit_protection_fraction=Decimal(value)),
    "cluster_positions_max": lambda spec, value: _of_limits(spec, cluster_positions_max=value),
    "slippage_fraction": lambda spec, value: replace(spec, fills=replace(spec.fills, slippage=Decimal(value))),
    "latency_bars": lambda spec, value: replace(spec, latency_bars=value),
}
"""What a sweep may vary, each by how a value of it changes the backtest."""
