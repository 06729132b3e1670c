"""Walk-forwards for a process of their own, which knows nothing of what a test patched."""

import os
from pathlib import Path
from typing import Any

import pytest
from test_history import QUICK

from ml_service import history, predict, strategies, walkforward
from ml_service.history import Run, walk_history
from ml_service.walkforward import TrainingError


def quick(*args: Any, **given: Any) -> Run:
    """One linear strategy."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (strategies, walkforward, predict, history):
            patch.setattr(module, "STRATEGIES", (QUICK,))
        return walk_history(*args, **given)


def tells_of_itself(*_: Any, progress: Any, **__: Any) -> Run:
    """Its lowest and highest priority among its threads and how early it is ended; then nothing can be learned."""
    nice = [os.getpriority(os.PRIO_PROCESS, int(each.name)) for each in Path("/proc/self/task").iterdir()]
    progress(min(nice), max(nice), Path("/proc/self/oom_score_adj").read_text().strip())
    raise TrainingError("12 usable sessions")


def dies(*_: Any, **__: Any) -> Run:
    os._exit(9)


def hangs(*_: Any, progress: Any, **__: Any) -> Run:
    progress(1, 2, str(os.getpid()))
    Path(os.environ["NEVER"]).read_bytes()
    raise AssertionError
