"""The headline figures of a backtest on the console; everything else is in the report."""

from collections.abc import Mapping, Sequence
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
    swept = "best" in summary
    traders = [best for best in [summary["best"]] if best] if swept else summary["traders"]
    span = f"{summary['first']} to {summary['last']}, {summary['universe']}, {summary['environment']} market"
    part = " (interrupted: what is done so far)" if interrupted else ""
    if traders:
        console.print(_table(f"{span}{part}", traders))
        for name in _left_out(traders):
            why = traders[0]["withheld"][name]
            console.print(f"No {formats.FIGURES[name][0]}: {why}.", highlight=False, soft_wrap=True)
    if swept:
        _print_choice(summary, console)
    lines = [("", summary["verdict"][0])] if swept else [(f"{one['name']}: ", one["verdict"][0]) for one in traders]
    for whose, statement in lines:
        colour = COLOURS.get(statement["tone"], "white")
        text = f"{escape(whose)}[{colour}]{escape(statement['text'])}[/]"
        console.print(text, highlight=False, soft_wrap=True)
    for note in summary["notes"]:
        console.print(f"Note: {note}", highlight=False, soft_wrap=True, markup=False)


def _table(title: str, traders: Sequence[Mapping[str, Any]]) -> Table:
    """The figures; one that no trader's days are enough for has no line."""
    left_out = _left_out(traders)
    table = Table(title=title, caption="with 95 % bootstrap intervals")
    table.add_column("")
    for trader in traders:
        table.add_column(escape(trader["name"]), justify="right")
    table.add_row("equity at the end", *(formats.rupees(trader["equity"]) for trader in traders))
    table.add_row("trades closed", *(str(trader["trades"]["closed"]) for trader in traders))
    table.add_row("charges", *(formats.rupees(trader["costs"]["total"]) for trader in traders))
    for name in FIGURES:
        if name not in left_out and all(name in trader["metrics"] for trader in traders):
            table.add_row(formats.FIGURES[name][0], *(_cell(name, trader["metrics"][name]) for trader in traders))
    return table


def _left_out(traders: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for name in FIGURES if all(name in trader["withheld"] for trader in traders)]


def _print_choice(summary: Mapping[str, Any], console: Console) -> None:
    """Which setting of a sweep came out best, and under which assumptions."""

    def told(values: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {value}" for name, value in values.items())

    at = summary["judged_at"]
    chosen = {name: value for name, value in (summary["best_parameters"] or {}).items() if name not in at}
    what = f"Best of {formats.count(summary['judged'], 'setting')} that traded"
    where = f" at {told(at)}, the most cautious assumptions" if at else ""
    if summary["best"]:
        console.print(f"{what}{where}: {told(chosen) or 'as asked'}", highlight=False, soft_wrap=True, markup=False)
    if summary["never_traded"]:
        many = formats.count(summary["never_traded"], "setting")
        console.print(f"{many} never traded and cannot be best.", highlight=False)


def _cell(name: str, told: Mapping[str, float | None]) -> str:
    if told["value"] is None:
        return "–"
    estimate = Estimate(told["value"], told["low"], told["high"])
    return f"{formats.figure(name, estimate.value)}  ({formats.interval(name, estimate)})"
