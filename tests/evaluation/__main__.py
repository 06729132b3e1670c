"""`make eval`: what predictions are worth, that a backtest does as a replay, and that the gateway does as its document
says; ends with 1 where a claim fails."""

import argparse
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.progress import Progress as ProgressBar

from ml_service.walkforward import Progress
from tests.evaluation import leaks, parity, recorded, reproduced, schema, shuffled, simulated
from tests.evaluation.claims import Claim, table
from tests.evaluation.recorded_files import Recorded

ONE_IN = 4
"""Every so many-th recorded symbol is looked at for leaks and shuffled: they do not depend on how many there are."""

Part = Callable[[Recorded, Progress], list[Claim]]


def _market(files: Recorded, progress: Progress) -> tuple[str, pl.DataFrame]:
    """Recorded bars where there are any, else those of the default simulated market."""
    progress(0, 1, "reading the market")
    if files.present:
        return "recorded market", files.sample(ONE_IN)
    return "simulated market", simulated.default_bars()


def _leaks(files: Recorded, progress: Progress) -> list[Claim]:
    which, bars = _market(files, progress)
    return [*leaks.claims(bars, which, progress)]


def _shuffled(files: Recorded, progress: Progress) -> list[Claim]:
    _, bars = _market(files, progress)
    return shuffled.claims(bars, progress)


def _simulated(_files: Recorded, progress: Progress) -> list[Claim]:
    return simulated.claims(progress)


def _shipped(_files: Recorded, progress: Progress) -> list[Claim]:
    return reproduced.claims(progress)


PARTS: dict[str, Part] = {
    "parity": parity.claims,
    "leaks": _leaks,
    "shuffled": _shuffled,
    "simulated": _simulated,
    "shipped": _shipped,
}
ON_REQUEST: dict[str, Part] = {"schemathesis": schema.claims}
"""Minutes of work about something else than predictions: only where it is named."""
RECORDED = "recorded"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make eval ARGS=...", description=__doc__)
    parser.add_argument(
        "parts",
        nargs="*",
        help=f"of {', '.join((*PARTS, *ON_REQUEST, RECORDED))}; default: all but {', '.join(ON_REQUEST)}",
    )
    parser.add_argument("--data", type=Path, help="daily bars of your own, as `sauda ml evaluate` reads them")
    parser.add_argument("--factors", type=Path)
    parser.add_argument("--history", type=Path)
    parser.add_argument("--from", dest="from_", type=date.fromisoformat)
    parser.add_argument(
        "--from-history", type=date.fromisoformat, help="first day judged where there are earlier years"
    )
    parser.add_argument("--to", type=date.fromisoformat)
    given = parser.parse_args()
    if unknown := set(given.parts) - {*PARTS, *ON_REQUEST, RECORDED}:
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}")
    if (given.data is None) != (given.factors is None):
        parser.error("--data and --factors come together")
    return given


def _run(console: Console, part: str, files: Recorded) -> list[Claim]:
    if part == RECORDED:
        # The command draws its own progress.
        return recorded.claims(files) if files.present else []
    with ProgressBar(console=console, transient=True) as bar:
        task = bar.add_task(part)
        return (PARTS | ON_REQUEST)[part](
            files,
            lambda done, total, what: bar.update(task, completed=done, total=total, description=f"{part}: {what}"),
        )


def main() -> int:
    given, console = _arguments(), Console()
    options = {name: value for name, value in vars(given).items() if name != "parts"}
    files, failed = Recorded().changed(**options), []
    for part in given.parts or (*PARTS, RECORDED):
        claims = _run(console, part, files)
        if claims:
            console.print(table(part, claims))
        else:
            console.print(f"{part}: left out, this machine has no recorded market data")
        failed += [claim for claim in claims if claim.fails]
    console.print(f"{len(failed)} claims do not hold" if failed else "Every claim holds.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
