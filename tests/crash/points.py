"""The points of the trading path at which a process can die: every line of a service that awaits something."""

import ast
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, cast

SERVICES = Path(__file__).resolve().parents[2] / "backend" / "services"
NOT_TRADING = ("*_client.py", "quote_board.py", "*_query_service.py")

Act = Callable[[str], None]
Local = Callable[[FrameType, str, Any], Any]


def awaiting(source: str) -> dict[int, range]:
    """The line on which each `await`, `async with` or `async for` begins, with the lines of its expression."""
    found: dict[int, range] = {}
    for node in ast.walk(ast.parse(source)):
        last: int | None = None
        if isinstance(node, ast.Await):
            last = node.end_lineno
        elif isinstance(node, ast.AsyncWith):
            last = node.items[-1].context_expr.end_lineno
        elif isinstance(node, ast.AsyncFor):
            last = node.iter.end_lineno
        if isinstance(node, ast.Await | ast.AsyncWith | ast.AsyncFor):
            found[node.lineno] = range(node.lineno, (last or node.lineno) + 1)
    return found


@cache
def trading_lines() -> Mapping[str, dict[int, range]]:
    """What awaits in every service on the trading path, by file."""
    left_out = {path for pattern in NOT_TRADING for path in SERVICES.glob(pattern)}
    files = sorted(set(SERVICES.glob("*.py")) - left_out)
    return {str(file): lines for file in files if (lines := awaiting(file.read_text("utf-8")))}


class Points:
    """Counts how often an awaiting line is about to run, and acts once, before the `at`-th (from 1); 0 only counts.

    The line of an `async with` counts again before its block is left: a commit is a point, too.
    """

    def __init__(self, at: int, act: Act, modules: tuple[str, ...] = (), functions: tuple[str, ...] = ()) -> None:
        """Watch all services and functions, or only those named."""
        self.seen: list[str] = []
        self._at = at
        self._act = act
        self._lines = {f: lines for f, lines in trading_lines().items() if not modules or Path(f).stem in modules}
        self._functions = functions

    @property
    def modules(self) -> set[str]:
        """The modules that are watched."""
        return {Path(file).stem for file in self._lines}

    def install(self) -> None:
        """Trace this thread from the next call on."""
        sys.settrace(self._called)

    def _called(self, frame: FrameType, _event: str, _argument: Any) -> Local | None:
        lines = self._lines.get(frame.f_code.co_filename)
        name = frame.f_code.co_name
        if lines is None or name.startswith("<") or (self._functions and name not in self._functions):
            return None
        # A coroutine is "called" again each time it goes on: it keeps its tracer, and with it what it has passed.
        return cast("Local | None", frame.f_trace) or self._tracer(Path(frame.f_code.co_filename).stem, lines)

    def _tracer(self, module: str, lines: Mapping[int, range]) -> Local:
        passed = range(0)

        def step(frame: FrameType, event: str, _argument: Any) -> Local:
            nonlocal passed
            # An expression of several lines comes by its first one more than once: that is one point.
            if event == "line" and frame.f_lineno not in passed:
                passed = lines.get(frame.f_lineno, range(0))
                if passed:
                    self._pass(f"{module}:{frame.f_lineno} {frame.f_code.co_name}")
            return step

        return step

    def _pass(self, where: str) -> None:
        self.seen.append(where)
        if len(self.seen) == self._at:
            sys.settrace(None)  # whoever lives on after this has no more to count
            self._act(where)
