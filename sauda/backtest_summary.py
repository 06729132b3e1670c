"""The headline figures of a backtest on the console; everything else is in the report."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backend.backtest.report import formats
from backend.backtest.report.bootstrap import Estimate

FIGURES = (
    "total_return",
    "cagr",
    "volatility",
    "sharpe",
    "max_drawdown",
    "hit_rate",
    "profit_factor",
    "expectancy_rupees",
)
COLOURS = {"good": "green", "bad": "red", "caution": "yellow"}


def print_summary(summary: Mapping[str, Any], console: Console, *, interrupted: bool) -> None:
    """A column per trader, or of a sweep's best combination; then what may be concluded."""
    traders = [summary["best"]] if "best" in summary else summary["traders"]
    span = f"{summary['first']} to {summary['last']}, {summary['universe']}, {summary['environment']} market"
    part = " (interrupted: what is done so far)" if interrupted else ""
    table = Table(title=f"{span}{part}", caption="with 95 % bootstrap intervals")
    table.add_column("")
    for trader in traders:
        table.add_column(escape(trader["name"]), justify="right")
    table.add_row("equity at the end", *(formats.rupees(trader["equity"]) for trader in traders))
    table.add_row("trades closed", *(str(trader["trades"]["closed"]) for trader in traders))
    table.add_row("charges", *(formats.rupees(trader["costs"]["total"]) for trader in traders))
    for name in FIGURES:
        if all(name in trader["metrics"] for trader in traders):
            table.add_row(formats.FIGURES[name][0], *(_cell(name, trader["metrics"][name]) for trader in traders))
    console.print(table)
    if "best" in summary:
        chosen = ", ".join(f"{name} {value}" for name, value in summary["best_parameters"].items())
        console.print(f"Best of {summary['combinations']} combinations: {chosen}", highlight=False, markup=False)
    for trader in traders:
        for statement in trader["verdict"][:1]:
            colour = COLOURS.get(statement["tone"], "white")
            console.print(
                f"{escape(trader['name'])}: [{colour}]{escape(statement['text'])}[/]", highlight=False, soft_wrap=True
            )
    for note in summary["notes"]:
        console.print(f"Note: {note}", highlight=False, soft_wrap=True, markup=False)


def _cell(name: str, told: Mapping[str, float | None]) -> str:
    if told["value"] is None:
        return "–"
    estimate = Estimate(told["value"], told["low"], told["high"])
    return f"{formats.figure(name, estimate.value)}  ({formats.interval(name, estimate)})"
