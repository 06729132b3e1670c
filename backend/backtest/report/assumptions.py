"""What of a sweep is a choice and what only an assumption: how orders fill nobody may choose, least of all kindly."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from backend.backtest.report.formats import words
from backend.backtest.report.metrics import finite
from backend.backtest.result import BacktestResult
from backend.backtest.spec import Proceeds

Parameters = Mapping[str, Any]
Run = tuple[Parameters, BacktestResult]
"""One combination of a sweep and what came of it."""

CAUTION: Mapping[str, Callable[[Any], Decimal]] = {
    "slippage_fraction": lambda value: Decimal(str(value)),
    "participation_fraction": lambda value: -Decimal(str(value)),
    "latency_bars": Decimal,
    "proceeds": lambda value: Decimal(value == Proceeds.SETTLED),
}
"""The assumptions, each by how cautious a value of it is: more is less kind to the trader."""


def assumptions_of(parameters: Parameters) -> dict[str, Any]:
    """The parameters that say how orders fill."""
    return {name: value for name, value in parameters.items() if name in CAUTION}


def settings_of(parameters: Parameters) -> dict[str, Any]:
    """The parameters that a user may choose."""
    return {name: value for name, value in parameters.items() if name not in CAUTION}


def by_caution(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs by their assumptions, the kindest first; where two assumptions say otherwise, the first of CAUTION
    that differs decides."""
    groups: dict[tuple[Decimal, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(_caution(run[0]), []).append(run)
    return [groups[key] for key in sorted(groups)]


def most_cautious(runs: Sequence[Run]) -> list[Run]:
    """The runs under the most cautious of their assumptions: in a whole sweep, each at its least kind value."""
    return by_caution(runs)[-1]


def same_settings(runs: Sequence[Run], parameters: Parameters) -> Run | None:
    """The one of the runs whose settings are those of `parameters`."""
    wanted = settings_of(parameters)
    return next((run for run in runs if settings_of(run[0]) == wanted), None)


def _caution(parameters: Parameters) -> tuple[Decimal, ...]:
    return tuple(of(parameters[name]) if name in parameters else Decimal(0) for name, of in CAUTION.items())


def plain(parameters: Parameters) -> dict[str, Any]:
    """Parameters as JSON holds them."""
    return {
        str(name): value
        if isinstance(value, str | int | bool | None)
        else finite(value)
        if isinstance(value, float)
        else str(value)
        for name, value in parameters.items()
    }


def words_of(parameters: Parameters) -> str:
    """Slippage fraction 0.001, latency bars 1."""
    told = ", ".join(f"{words(name).lower()} {value}" for name, value in parameters.items())
    return told[:1].upper() + told[1:]
