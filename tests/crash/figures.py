"""The table of what a crash run found: one row per promise, and the breaches below it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Result = dict[str, Any]
"""What a round says: `breaches`, `recovered_s`, and where it was struck."""

BREACHES = ("doubled", "lost", "unbalanced", "hidden", "unblocked", "unsettled", "oversold")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, what it should be, and whether it is."""

    name: str
    figure: str
    wanted: str
    holds: bool


def counted(results: Sequence[Result], kinds: Sequence[str] = BREACHES) -> list[Row]:
    """A row per kind of breach: how many rounds had one."""
    rounds = Counter(kind for result in results for kind in {b.partition(":")[0] for b in result["breaches"]})
    return [Row(f"  rounds with something {kind}", str(rounds[kind]), "0", not rounds[kind]) for kind in kinds]


def recovery(results: Sequence[Result], name: str, wanted_s: float | None) -> Row:
    """From the fresh process's start until every promise held and a tick was traded."""
    seconds = [result["recovered_s"] for result in results] or [0.0]
    figure = f"median {median(seconds):.1f} s, largest {max(seconds):.1f} s"
    holds = wanted_s is None or max(seconds) <= wanted_s
    return Row(name, figure, "–" if wanted_s is None else f"≤ {wanted_s:g} s", holds)


def largest(results: Sequence[Result], key: str, name: str, wanted: float, unit: str) -> Row:
    """The largest of a figure; one that is missing is larger than any."""
    found = max(float("inf") if result[key] is None else result[key] for result in results)
    return Row(name, f"{found:g}{unit}", f"≤ {wanted:g}{unit}", found <= wanted)


def table(rows: Sequence[Row]) -> str:
    width = max(len(row.name) for row in rows) + 2
    middle = max(len(row.figure) for row in rows) + 2
    lines = [f"{r.name:<{width}}{r.figure:<{middle}}{r.wanted:<12}{'' if r.holds else 'BREACH'}" for r in rows]
    return "\n".join(lines)


def told(results: Sequence[Result], shown_max: int = 20) -> str:
    """The first breaches, each with what it takes to have it again."""
    lines: list[str] = []
    for result in results:
        struck = {k: v for k, v in result.items() if k != "breaches"}
        lines += [f"  {breach}   [{struck}]" for breach in result["breaches"]]
    more = [f"  … and {len(lines) - shown_max} more"] if len(lines) > shown_max else []
    return "\n".join([*lines[:shown_max], *more])
