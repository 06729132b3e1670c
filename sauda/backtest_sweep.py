"""A sweep over the cores that goes on where it stopped: each finished combination is a file of its own."""

import hashlib
import json
import multiprocessing
import os
import pickle  # nosec B403
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from backend.backtest.engine import run
from backend.backtest.history import MarketHistory
from backend.backtest.request import with_values
from backend.backtest.result import BacktestResult
from backend.backtest.spec import Spec
from data_service.files import write_atomically

Values = Mapping[str, Any]
Run = tuple[Values, BacktestResult]

CODE = ("backend.backtest", "backend.domain")
"""What a result follows from, besides spec and history; the report is made anew each time."""
FOLDERS_KEPT = 10
WAIT_S = 0.2
CHECK_BYTES = 16


class SweepError(Exception):
    """A combination cannot be run; the message is one line."""


def folder_of(base: Path, history: MarketHistory) -> Path:
    """Where combinations over this history by this code are kept: another market, or other code, has another folder."""
    return base / _hex(hash_of(history) + _code())


def file_of(folder: Path, spec: Spec) -> Path:
    """The file of one combination: its name covers everything that was asked."""
    return folder / f"{_hex(hash_of(spec))}.result"


def hash_of(value: Any) -> bytes:
    """A digest of plain values, arrays and dataclasses that is the same in every process."""
    digest = hashlib.blake2b(digest_size=16)
    _add(value, digest.update)
    return digest.digest()


def _add(value: Any, update: Callable[[bytes], None]) -> None:
    """Feed a value in, with marks that keep apart what is told side by side; sets and mappings in a fixed order."""
    kind = type(value)
    if kind in _PLAIN:
        update(f"{kind.__name__}:{value!r};".encode())
    elif is_dataclass(value):
        update(f"{kind.__name__}(".encode())
        for name in _field_names(kind):
            _add(getattr(value, name), update)
    elif isinstance(value, np.ndarray):
        update(f"{value.dtype.str}{value.shape};".encode())
        update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        update(b"{%d;" % len(value))
        for key, held in sorted(value.items(), key=lambda item: repr(item[0])):
            update(f"{key!r}=".encode())
            _add(held, update)
    elif isinstance(value, frozenset | set):
        update(f"<{sorted(map(repr, value))!r}".encode())
    elif isinstance(value, list | tuple):
        update(b"[%d;" % len(value))
        for one in value:
            _add(one, update)
    else:
        update(f"{kind.__name__}:{value!r};".encode())


_PLAIN = frozenset({str, int, float, bool, type(None), Decimal, date, datetime})


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _code() -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for package in CODE:
        (folder,) = import_module(package).__path__
        for source in sorted(Path(folder).glob("*.py")):
            digest.update(source.read_bytes())
    return digest.digest()


def _hex(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def saved(path: Path) -> BacktestResult | None:
    """The result a file holds; None where there is none, or it is damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    check, body = content[:CHECK_BYTES], content[CHECK_BYTES:]
    if hashlib.blake2b(body, digest_size=CHECK_BYTES).digest() != check:
        return None
    return pickle.loads(body)  # noqa: S301 - of our own making, in the user's own folder  # nosec B301


def save(path: Path, result: BacktestResult) -> None:
    """Keep a result, whole or not at all."""
    body = pickle.dumps(result, protocol=pickle.HIGHEST_PROTOCOL)
    write_atomically(path, hashlib.blake2b(body, digest_size=CHECK_BYTES).digest() + body)


def sweep(
    spec: Spec,
    combinations: Sequence[Values],
    history: MarketHistory,
    base: Path,
    *,
    jobs: int,
    progress: Callable[[int, int], None],
    stopped: Callable[[], bool],
) -> list[Run]:
    """Run every combination that is not kept already, `jobs` at once; the finished ones, in the order asked for.

    Once `stopped` says so nothing more is begun, what runs is ended, and the finished ones come back.

    Raises:
        SweepError: a process ended in the middle of a combination, most likely for want of memory.
    """
    folder = folder_of(base, history)
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    _forget_old(base)
    files = {file_of(folder, with_values(spec, values)): values for values in combinations}
    found = {path: result for path in files if (result := saved(path)) is not None}
    progress(len(found), len(files))
    missing = {path: values for path, values in files.items() if path not in found}
    if missing and not stopped():
        for path in _run_all(spec, missing, history, jobs, stopped):
            if (result := saved(path)) is not None:
                found[path] = result
            progress(len(found), len(files))
    return [(values, found[path]) for path, values in files.items() if path in found]


def _run_all(
    spec: Spec, missing: Mapping[Path, Values], history: MarketHistory, jobs: int, stopped: Callable[[], bool]
) -> Iterator[Path]:
    """Yields the file of each combination as it is finished, until all are or it is to stop."""
    # Not forked: the threads of polars and httpx would leave locks behind that nobody opens.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(missing)), context, _begin, (spec, history))
    try:
        waiting: set[Future[Path]] = {pool.submit(_one, str(path), json.dumps(v)) for path, v in missing.items()}
        while waiting and not stopped():
            done, waiting = wait(waiting, WAIT_S, FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise SweepError(
            "a process of the sweep was ended from outside, most likely for want of memory: "
            "give --jobs a smaller number and run the same command again"
        ) from error
    finally:
        if stopped():
            for process in multiprocessing.active_children():
                process.terminate()
        pool.shutdown(cancel_futures=True)


_given: dict[str, Any] = {}
"""What a process of the pool was given when it began: the history is sent once, not with every combination."""


def _begin(spec: Spec, history: MarketHistory) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the command, and it decides
    _given.update(spec=spec, history=history)


def _one(path: str, values: str) -> Path:
    save(Path(path), run(with_values(_given["spec"], json.loads(values)), _given["history"]))
    return Path(path)


def _forget_old(base: Path) -> None:
    """Keep the folders of the last few sweeps."""
    folders = [path for path in base.iterdir() if path.is_dir()]
    for path in sorted(folders, key=lambda path: path.stat().st_mtime)[:-FOLDERS_KEPT]:
        shutil.rmtree(path, ignore_errors=True)
