"""How a model's record looks in a terminal."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Record = dict[str, Any]


def percent(value: float | None) -> str:
    """A fraction in per cent, or a dash."""
    return "–" if value is None else f"{100 * value:.1f} %"


def interval(value: dict[str, float | None] | None) -> str:
    """A mean with its bounds, in per cent."""
    if value is None:
        return "–"
    return f"{percent(value['mean'])} [{percent(value['low'])}, {percent(value['high'])}]"


def _number(value: float | None, pattern: str) -> str:
    return "–" if value is None else format(value, pattern)


def events_table(strategy: str, metrics: Record) -> Table:
    """Scores per event over the out-of-sample rows."""
    title = (
        f"{strategy}, out of sample: {metrics['rows']} rows, {metrics['sessions']} sessions, "
        f"rank IC {metrics['rank_ic']:.3f} of the plan, {metrics['rank_ic_forward']:.3f} of the return"
    )
    columns = (
        "event",
        "base rate",
        "AUC",
        "Brier",
        "skill vs trailing base rate",
        "ECE raw → Platt",
        "ECE, equal bins",
    )
    table = Table(*columns, title=title)
    for name, event in metrics["events"].items():
        table.add_row(
            name,
            percent(event["base_rate"]),
            _number(event["auc"], ".3f"),
            f"{event['brier']:.4f}",
            _number(event["brier_skill"], "+.4f"),
            f"{event['ece_raw']:.3f} → {event['ece']:.3f}",
            f"{event['ece_equal_size']:.3f}",
        )
    return table


def modes_table(strategies: dict[str, Record]) -> Table:
    """What each mode would have taken of each strategy out of sample, and whether that is evidence enough."""
    columns = (
        "strategy",
        "mode",
        "candidates",
        "episodes",
        "stated",
        "hit rate [95 %]",
        "net per trade [95 %]",
        "verdict",
    )
    table = Table(*columns)
    for strategy, record in strategies.items():
        for name, mode in record["modes"].items():
            table.add_row(
                strategy,
                name,
                str(mode["candidates"]),
                str(mode["episodes"]),
                percent(mode.get("stated")),
                interval(mode.get("hit_rate")),
                interval(mode.get("net")),
                mode["verdict"],
            )
    return table


def filters_table(title: str, rows: dict[str, Record]) -> Table:
    """How the plans of some rows ended."""
    columns = ("entries", "trades", "days", "episodes", "P(net > 0) [95 %]", "net per trade [95 %]", "deflated Sharpe")
    table = Table(*columns, title=title)
    for name, row in rows.items():
        table.add_row(
            escape(name),
            str(row["trades"]),
            str(row["days"]),
            str(row["episodes"]),
            interval(row.get("profitable")),
            interval(row.get("net")),
            _number(row.get("deflated_sharpe"), ".2f"),
        )
    return table


def held_table(rows: dict[str, Record]) -> Table:
    """What holding would have earned."""
    table = Table("held, equally weighted", "per year", "volatility", "Sharpe")
    for name, row in rows.items():
        table.add_row(name, percent(row["cagr"]), percent(row["volatility"]), _number(row["sharpe"], ".2f"))
    return table


def verdict(strategies: dict[str, Record]) -> str:
    """One honest sentence."""
    proven = [
        f"{mode} ({strategy})"
        for strategy, record in strategies.items()
        for mode, one in record["modes"].items()
        if one["certified"]
    ]
    if not proven:
        return "No mode is certified: predictions will say insufficient_evidence and nothing will be bought."
    return f"Certified: {', '.join(proven)}. Past results; the next market may be another."


def print_record(console: Console, strategy: str, record: Record) -> None:
    """The record of a registered model or of an evaluation."""
    strategies = record["strategies"]
    console.print(events_table(strategy, strategies[strategy]["metrics"]))
    console.print(modes_table(strategies))
    if "filters" in record:
        console.print(filters_table(f"What a filter would have taken; {record['trials']} trials", record["filters"]))
        held = {name: row for name, row in record["baselines"].items() if "cagr" in row}
        entered = {name: row for name, row in record["baselines"].items() if "cagr" not in row}
        console.print(filters_table("The same exits without a model", entered))
        console.print(held_table(held))
    console.print(verdict(strategies))
