"""A walk-forward in a process of its own: it learns for minutes, and must not keep a live answer waiting."""

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any

import polars as pl

from ml_service.checkpoint import Checkpoint
from ml_service.history import Run, walk_history
from ml_service.walkforward import Progress, TrainingError

NICE = 10
"""Trading and live predictions go first."""
THREADS = Path("/proc/self/task")
OOM_SCORE_ADJ = Path("/proc/self/oom_score_adj")
OOM_FIRST = 500
"""Where memory runs out, the system ends this process before anything that trades (0); its most is 1000."""
LOOK_S = 0.2


def walk_apart(
    bars: pl.DataFrame,
    raw_closes: pl.DataFrame,
    horizon: int,
    as_of_day: date,
    *,
    unadjusted: Mapping[str, Sequence[date]] = MappingProxyType({}),
    progress: Progress,
    checkpoint: Checkpoint,
    walk: Callable[..., Run] = walk_history,
) -> Run:
    """What `walk_history` returns for the same arguments, made by a process of low priority, which ends with this one
    and when `progress` raises. `progress` is called several times a second.

    Raises TrainingError as `walk_history` does; ChildProcessError where the process ended without a word.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, walk), name="walk-forward", daemon=True)
    process.start()
    theirs.close()
    step: Any = (0, 0, "starting")
    try:
        ours.send(((bars, raw_closes, horizon, as_of_day), {"unadjusted": dict(unadjusted), "checkpoint": checkpoint}))
        while True:
            told: Any
            kind, told = ours.recv() if ours.poll(LOOK_S) else ("progress", step)
            if kind == "done":
                return told
            if kind == "failed":
                raise TrainingError(told)
            step = told
            progress(*step)
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        process.join()
        raise ChildProcessError(
            f"its process ended with exit status {process.exitcode}: the service's log says why, or there was too "
            "little memory"
        ) from error
    finally:
        process.kill()
        process.join()
        ours.close()


def _work(parent: Connection, walk: Callable[..., Run]) -> None:
    """The main function of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the service, and it decides
    _step_back()
    arguments, given = parent.recv()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        parent.send(("done", walk(*arguments, **given, progress=_teller(parent))))
    except TrainingError as error:
        parent.send(("failed", str(error)))


def _teller(parent: Connection) -> Progress:
    def tell(done: int, total: int, what: str) -> None:
        parent.send(("progress", (done, total, what)))

    return tell


def _step_back() -> None:
    """Lower the priority of every thread there is (those to come inherit it), and be ended first."""
    if THREADS.is_dir():
        for thread in THREADS.iterdir():
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, int(thread.name), NICE)
    else:
        os.nice(NICE)
    with suppress(OSError):
        OOM_SCORE_ADJ.write_text(str(OOM_FIRST))


def _end_with(parent: Connection) -> None:
    """End this process when the service's end of the pipe is closed: nothing more is ever sent."""
    try:
        parent.recv()
    except (EOFError, OSError):
        os._exit(1)
