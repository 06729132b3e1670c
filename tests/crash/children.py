"""Forked children: the parent has imported everything, and holds no event loop and no thread when it forks."""

import gc
import json
import os
import selectors
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

Say = Callable[[Any], None]
Work = Callable[[Say], None]
"""What a child does; what it says (JSON, one line each) the parent reads after its end, however it ended."""


class ChildFailed(Exception):  # noqa: N818 - it says what happened
    """A child ended by an error of its own; the message is its traceback."""


@dataclass(slots=True)
class Ended:
    """How a child ended: its exit code, negative for a signal, and what it said."""

    code: int
    said: list[Any]

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Child:
    """One forked process at its work."""

    def __init__(self, work: Work) -> None:
        if threading.active_count() > 1:
            raise RuntimeError("a process with threads must not fork")
        sys.stdout.flush()
        sys.stderr.flush()
        self._reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._reader)
            _be_child(work, writer)
        os.close(writer)
        self.heard = bytearray()

    def fileno(self) -> int:
        return self._reader

    def hear(self) -> bool:
        """Take what has been said by now (waits for something); False once the child and its pipe are at their end."""
        data = os.read(self._reader, 65_536)
        self.heard += data
        return bool(data)

    def said(self) -> list[Any]:
        """What has been heard so far, whole lines only."""
        return [json.loads(line) for line in self.heard.decode().splitlines(keepends=True) if line.endswith("\n")]

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self) -> Ended:
        """Wait for the end.

        Raises:
            ChildFailed: the child ended by an error.
        """
        while self.hear():
            pass
        os.close(self._reader)
        _, status = os.waitpid(self.pid, 0)
        said = self.said()
        ended = Ended(os.waitstatus_to_exitcode(status), said)
        if ended.code > 0:
            raise ChildFailed(said[-1]["traceback"] if said else f"exit code {ended.code}")
        return ended


def _be_child(work: Work, writer: int) -> NoReturn:
    code = 1

    def say(words: Any) -> None:
        os.write(writer, json.dumps(words, default=str).encode() + b"\n")

    try:
        work(say)
        code = 0
    except BaseException:
        say({"traceback": traceback.format_exc()})
    finally:
        os._exit(code)


def run_child(work: Work) -> Ended:
    """Run one child to its end."""
    return Child(work).end()


def run_all(works: Iterable[Work], at_once: int) -> Iterator[list[Any]]:
    """Run children, so many at once, and yield what each said, in the order of their ends.

    Raises:
        ChildFailed: one of them ended by an error; the others are killed.
    """
    gc.collect()
    gc.freeze()  # children that only read then share the parent's pages
    waiting = iter(works)
    with selectors.DefaultSelector() as selector:
        running: set[Child] = set()

        def start() -> None:
            for work in waiting:
                child = Child(work)
                running.add(child)
                selector.register(child, selectors.EVENT_READ)
                return

        try:
            for _ in range(at_once):
                start()
            while running:
                for key, _ in selector.select():
                    child: Child = key.fileobj  # type: ignore[assignment]
                    if child.hear():
                        continue
                    selector.unregister(child)
                    running.discard(child)
                    ended = child.end()
                    start()
                    yield ended.said
        finally:
            _kill(running)


def _kill(children: Iterable[Child]) -> None:
    for child in children:
        child.signal(signal.SIGKILL)
        with suppress(ChildFailed, OSError):
            child.end()


def spread(points: int, samples: int) -> Sequence[int]:
    """At most `samples` of the points 1…`points`, evenly, the first and the last among them."""
    if points <= samples:
        return range(1, points + 1)
    if samples < 2:
        return [(points + 1) // 2][:samples]
    return sorted({1 + round(i * (points - 1) / (samples - 1)) for i in range(samples)})
