"""`sauda backtest`: what modes would have done with your money, over stored history, on this machine alone."""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backend import log
from backend.backtest.engine import run
from backend.backtest.history import MarketHistory
from backend.backtest.report import Report, build, build_sweep
from backend.backtest.request import Asked, Rules, World, asked_of
from backend.backtest.spec import ENTRIES_PER_DAY_DEFAULT, Proceeds
from backend.backtest.study import market_of
from backend.config import Settings
from backend.domain.calendar import standard_calendar
from backend.domain.market import Product
from backend.domain.modes import Mode
from backend.errors import SaudaError
from contracts.common import Environment
from contracts.market import Interval
from contracts.predictions import WALK_FORWARD
from sauda.backtest_check import checked, print_checked
from sauda.backtest_files import record_fault, report_name, require_writable
from sauda.backtest_request import body_of
from sauda.backtest_stack import backtest_stack, environment_of
from sauda.backtest_summary import print_summary
from sauda.backtest_sweep import SweepError, sweep
from sauda.embedded import DataFolderError
from sauda.processes import ServiceFailedError

FAILED = 2
INTERRUPTED = 1
CHANGED = 3
Day = Annotated[datetime, typer.Option(formats=["%Y-%m-%d"])]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the results go, and over how many processes a sweep is spread."""

    report: Path
    summary: Path | None
    jobs: int


def backtest(
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day.")],
    last: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day.")],
    mode: Annotated[list[Mode], typer.Option(help="May be repeated: each is a user with an own account.")] = [  # noqa: B006
        Mode.MODERATE
    ],
    universe: Annotated[str, typer.Option(help="default, nifty50, top:N, or symbols with commas.")] = "default",
    capital: Annotated[str, typer.Option(help="Rupees each user starts with.")] = "500000",
    interval: Annotated[Interval, typer.Option(help="Length of the bars that are traded.")] = Interval.DAY_1,
    product: Annotated[Product, typer.Option(help="cnc (delivery) or mis (intraday).")] = Product.CNC,
    strategies: Annotated[str, typer.Option(help="Names with commas; all that are certified where empty.")] = "",
    entries_per_day: Annotated[int, typer.Option(min=1, help="The plan's entries a day.")] = ENTRIES_PER_DAY_DEFAULT,
    slippage_bps: Annotated[float, typer.Option(min=0, help="Slippage in hundredths of a per cent.")] = 2.0,
    participation: Annotated[str, typer.Option(help="Largest share of a bar's volume that fills.")] = "0.1",
    latency_bars: Annotated[int, typer.Option(min=0, help="Bars from a decision to the market.")] = 0,
    proceeds: Annotated[Proceeds, typer.Option(help="When a sale's money may be spent.")] = Proceeds.AT_ONCE,
    model: Annotated[str, typer.Option(help="walk_forward, or a registered version.")] = WALK_FORWARD,
    sweep_over: Annotated[
        list[str] | None, typer.Option("--sweep", help="NAME=V1,V2 ...: tries every combination.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes of a sweep (default: the cores).")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The report (default: below DATA_DIR/backtests, named by what is asked).")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="The figures as JSON.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Look for look-ahead instead: does anything know of later days?")
    ] = False,
    data_dir: Annotated[Path, typer.Option(help="Folder of the imported bars and of what is kept.")] = Path("data"),
    environment: Annotated[
        Environment | None, typer.Option(help="simulated or paper (default: paper where bars are imported).")
    ] = None,
) -> None:
    """Trade history as the modes would have, and write a report on it.

    Ctrl-C ends it with what is done so far; a sweep goes on there when the same command is given again. Exit status 0:
    done; 1: interrupted; 2: it could not start; 3: --check found something that knows of later days.
    """
    console = Console()

    def work() -> int:
        body = body_of(
            modes=mode,
            first=first.date(),
            last=last.date(),
            universe=universe,
            capital=capital,
            interval=interval,
            product=product,
            strategies=strategies,
            slippage_bps=slippage_bps,
            participation=participation,
            latency_bars=latency_bars,
            proceeds=proceeds,
            model=model,
            sweep=sweep_over or [],
        )
        asked = asked_of(body.stored(entries_per_day), Rules.of(Settings()))
        if not check:
            _require_writable(out, json_out)
        market = environment_of(data_dir.resolve(), environment, console)
        if check:
            return _check(asked, data_dir.resolve(), market, console)
        report = out or data_dir / "backtests" / report_name(asked, market)
        outputs = Outputs(report, json_out, jobs or os.cpu_count() or 1)
        return INTERRUPTED if _backtest(asked, data_dir.resolve(), market, outputs, console) else 0

    raise typer.Exit(_exit_status(work, _log_of(data_dir.resolve() / "backtests"), console))


def _exit_status(work: Callable[[], int], log_path: Path, console: Console) -> int:
    """What `work` returns; what goes wrong is told in one line."""
    try:
        return work()
    except (DataFolderError, ServiceFailedError, SweepError, SaudaError, ValueError, OSError) as error:
        console.print(f"[red]The backtest cannot be done:[/] {escape(_line(error))}", highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        console.print("Interrupted before anything was traded.")
        return INTERRUPTED
    except Exception as error:
        _print_broken(error, log_path, console)
    return FAILED


def _require_writable(out: Path | None, json_out: Path | None) -> None:
    """Try the files that are named before the work. Raises OSError, ValueError."""
    if out is not None and json_out is not None and out.resolve() == json_out.resolve():
        raise ValueError(f"--out and --json are both {out}: give two paths")
    for option, path in (("--out", out), ("--json", json_out)):
        if path is not None:
            require_writable(option, path)


def _log_of(own: Path) -> Path:
    return own / "logs" / "backtest.log"


def _print_broken(error: Exception, log_file: Path, console: Console) -> None:
    """A fault of the program's own: one line here, the traceback in the log."""
    record_fault(error, log_file)
    what = f"{type(error).__name__}: {_line(error)}; the log has all of it: {log_file}"
    console.print(f"[red]The backtest broke off:[/] {escape(what)}", highlight=False, soft_wrap=True)


def _line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else str(first["msg"]).removeprefix("Value error, ")
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _backtest(asked: Asked, data_dir: Path, market: Environment, outputs: Outputs, console: Console) -> bool:
    """Everything from the services to the files. True where it was interrupted."""
    with ExitStack() as stack:
        urls, own = stack.enter_context(backtest_stack(data_dir, market, asked, console))
        log.configure("INFO", _log_of(own))
        rules = Rules.of(Settings())
        world = World(urls["DATA_SERVICE_URL"], urls["ML_SERVICE_URL"], rules, standard_calendar())
        tell = stack.enter_context(_bar(console))
        history = asyncio.run(market_of(asked, world, tell))
        stopped = stack.enter_context(_stop_signal(console))
        report, interrupted = _found(asked, history, own, outputs, tell, stopped)
    outputs.report.parent.mkdir(parents=True, exist_ok=True)
    outputs.report.write_text(report.html, "utf-8")
    if outputs.summary is not None:
        outputs.summary.write_text(json.dumps(report.summary, indent=1, ensure_ascii=False), "utf-8")
    print_summary(report.summary, console, interrupted=interrupted)
    console.print(f"Report: {outputs.report}", highlight=False, soft_wrap=True)
    return interrupted


def _check(asked: Asked, data_dir: Path, market: Environment, console: Console) -> int:
    """Look for what knows of later days. The exit status."""
    with backtest_stack(data_dir, market, asked, console) as (urls, own):
        log.configure("INFO", _log_of(own))
        rules = Rules.of(Settings())
        world = World(urls["DATA_SERVICE_URL"], urls["ML_SERVICE_URL"], rules, standard_calendar())
        with _bar(console) as tell:
            found = checked(asked, world, tell, console)
    print_checked(found, console)
    return 0 if found.passed else CHANGED


def _found(
    asked: Asked,
    history: MarketHistory,
    own: Path,
    outputs: Outputs,
    tell: Callable[[int, int, str], None],
    stopped: Callable[[], bool],
) -> tuple[Report, bool]:
    """The report, and whether it is on a part only."""

    def judged(part: float, doing: str) -> None:
        tell(round(100 * part), 100, f"report: {doing}")

    if not asked.sweep:
        result = run(asked.spec, history, tell, stopped)
        return build(result, history, progress=judged, universe=asked.universe), result.interrupted
    combinations = list(asked.combinations())
    runs = sweep(
        asked.spec,
        combinations,
        history,
        own / "sweeps",
        jobs=outputs.jobs,
        progress=lambda done, total: tell(done, total, "combinations"),
        stopped=stopped,
    )
    if not runs:
        raise KeyboardInterrupt
    return build_sweep(runs, history, progress=judged, universe=asked.universe), len(runs) < len(combinations)


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar; calling it tells how far what is going on now is."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def tell(done: int, total: int, doing: str) -> None:
            bar.update(task, completed=done, total=total or None, description=doing[:60])

        yield tell


@contextmanager
def _stop_signal(console: Console) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed since; a second time, it interrupts at once."""
    received: list[int] = []

    def on_signal(signum: int, _frame: object) -> None:
        received.append(signum)
        signal.signal(signum, before)
        console.print("Stopping: what is done so far is reported. Once more ends it at once.")

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGINT, before)
