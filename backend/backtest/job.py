"""One backtest in a process of its own, with a bound on its memory, which ends when the worker that started it is gone.

It speaks to that worker alone and touches no database.
"""

import asyncio
import os
import resource
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import structlog

from backend import log as logs
from backend.backtest.request import WALKING, World, asked_of
from backend.errors import SaudaError

log = structlog.get_logger()

TELL_PAUSE_S = 0.2
OOM_SCORE_ADJ = Path("/proc/self/oom_score_adj")
OOM_FIRST = 500
"""Where memory runs out, the system ends a backtest before anything that trades (0); its most is 1000."""
FAILED = "Something went wrong in it, and the operator's log says what: ask again, or ask for something else."

Message = tuple[str, Any]
"""What a job tells its worker: `progress` or `waiting` (done, total, doing), `waited`, `done` (summary, html) or
`failed` (why). After `waited` it goes on as soon as the worker sends GO."""

GO = "go"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a job may use, and where it logs (stderr where None). `seconds_max` is of its own work, `wait_s_max` of
    waiting for the models of the past."""

    memory_mb_max: int
    seconds_max: int
    wait_s_max: int = 3600
    log_level: str = "INFO"
    log_file: Path | None = None


def work(worker: Connection, world: World, request: Mapping[str, Any], bounds: Bounds) -> None:
    """Do the backtest that `request` asks for and send what came of it. The main function of the process.

    How long it may take is for the worker to see to.
    """
    logs.configure(bounds.log_level, bounds.log_file)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the worker, and it decides
    may_go_on = threading.Event()
    threading.Thread(target=_listen, args=(worker, may_go_on), daemon=True).start()
    _be_ended_first()
    bytes_max = bounds.memory_mb_max * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (bytes_max, bytes_max))
    try:
        worker.send(("done", _answer(world, request, _teller(worker, may_go_on))))
    except SaudaError as error:
        worker.send(("failed", error.detail))
    except MemoryError:
        worker.send(("failed", too_large(bounds.memory_mb_max)))
    except Exception:
        log.exception("backtest_crashed", request=dict(request))
        worker.send(("failed", FAILED))


def too_large(memory_mb_max: int) -> str:
    """Why a backtest without enough memory came to nothing."""
    return f"It needs more than the {memory_mb_max} MB it may have: ask for fewer days or shares, or longer bars."


def _answer(world: World, request: Mapping[str, Any], progress: Any) -> tuple[dict[str, Any], str]:
    asked = asked_of(request, world.rules)
    # Imported here: it takes a second, and the limits above must hold by then.
    from backend.backtest.study import market_of, study  # noqa: PLC0415

    history = asyncio.run(market_of(asked, world, progress))
    report = study(asked, history, progress)
    return report.summary, report.html


def _teller(worker: Connection, may_go_on: threading.Event) -> Any:
    """A progress function that says something new at most every TELL_PAUSE_S seconds, and each new activity.

    Waiting for models is told as such. When it is over, the function returns only when the worker has a place again.
    """
    told_at, told, waiting = 0.0, "", False

    def tell(done: int, total: int, doing: str) -> None:
        nonlocal told_at, told, waiting
        was, waiting = waiting, doing.startswith(WALKING)
        if was and not waiting:
            worker.send(("waited", None))
            may_go_on.wait()
            may_go_on.clear()
        now = time.monotonic()
        if now - told_at >= TELL_PAUSE_S or (not told and doing) or was is not waiting:
            told_at, told = now, doing
            worker.send(("waiting" if waiting else "progress", (done, total, doing)))

    return tell


def _listen(worker: Connection, may_go_on: threading.Event) -> None:
    """Take in GO, and end this process when the worker's end of the pipe is closed."""
    try:
        while True:
            if worker.recv() == GO:
                may_go_on.set()
    except (EOFError, OSError):
        os._exit(1)


def _be_ended_first() -> None:
    with suppress(OSError):  # not Linux, or forbidden
        OOM_SCORE_ADJ.write_text(str(OOM_FIRST))
