"""The options of `sauda backtest` as the request that the API would take: one set of rules for both."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from backend.api.schemas.backtests import BacktestBody, SweepBody
from backend.backtest.spec import Proceeds
from backend.domain.market import Product
from backend.domain.modes import Mode
from contracts.market import Interval

BASIS_POINTS = 10_000


def body_of(
    *,
    modes: Sequence[Mode],
    first: date,
    last: date,
    universe: str,
    capital: str,
    interval: Interval,
    product: Product,
    strategies: str,
    slippage_bps: float,
    participation: str,
    latency_bars: int,
    proceeds: Proceeds,
    model: str,
    sweep: Sequence[str],
) -> BacktestBody:
    """The request, checked.

    Raises:
        ValueError: it cannot be meant; pydantic's ValidationError is one.
    """
    trader = {"capital": capital, "product": product, "strategies": _names(strategies, ",")}
    return BacktestBody.model_validate(
        {
            "traders": [trader | {"mode": mode} for mode in modes],
            "from": first,
            "to": last,
            "universe": universe if universe in {"default", "nifty50"} or ":" in universe else universe.upper(),
            "interval": interval,
            "slippage_fraction": Decimal(str(slippage_bps)) / BASIS_POINTS,
            "participation_fraction": participation,
            "latency_bars": latency_bars,
            "proceeds": proceeds.value,
            "model": model,
            "sweep": swept(sweep) if sweep else None,
        }
    )


def swept(texts: Sequence[str]) -> dict[str, list[Any]]:
    """`NAME=V1,V2` as the request has it. A value of `strategies` is names with + between them, or `all`.

    Raises:
        ValueError: no such parameter, one named twice, or no values.
    """
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        if name not in SweepBody.model_fields:
            raise ValueError(
                f"--sweep {name}: there is no such parameter; there are {', '.join(SweepBody.model_fields)}"
            )
        if name in found:
            raise ValueError(f"--sweep {name} is given twice: list all its values in one")
        if not _names(values, ","):
            raise ValueError(f"--sweep {text}: give the values as {name}=V1,V2")
        found[name] = [_value(name, value) for value in _names(values, ",")]
    return found


def _value(name: str, text: str) -> Any:
    if name == "strategies":
        return [] if text == "all" else _names(text, "+")
    if name in {"cluster_positions_max", "latency_bars"} and text.isdigit():
        return int(text)
    return text


def _names(text: str, between: str) -> list[str]:
    return [part.strip() for part in text.split(between) if part.strip()]
