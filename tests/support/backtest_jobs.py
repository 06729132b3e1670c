"""Jobs for a worker's tests, each the main function of a process: what a backtest may do to its worker."""

import os
import signal
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from backend.backtest import job
from backend.backtest.job import Bounds
from backend.backtest.request import World


def answers(worker: Connection, world: World, request: Mapping[str, Any], bounds: Bounds) -> None:
    """Tell two steps, then a result that names what was asked."""
    worker.send(("progress", (1, 2, "halfway")))
    worker.send(("done", ({"asked": dict(request)}, f"<p>{request['name']}</p>")))


def hangs(worker: Connection, world: World, request: Mapping[str, Any], bounds: Bounds) -> None:
    """Tell a step and never end."""
    worker.send(("progress", (1, 4, "waiting")))
    threading.Event().wait()


def learns(worker: Connection, world: World, request: Mapping[str, Any], bounds: Bounds) -> None:
    """The real process around one that waits for models until something is written into the pipe `models`, or around
    one that has nothing to wait for."""

    def patient(_world: World, asked: Mapping[str, Any], progress: Any) -> tuple[dict[str, Any], str]:
        if "models" in asked:
            progress(1, 4, "walking forward: fold 1 of 4")
            Path(asked["models"]).read_bytes()
            progress(1, 4, "reading predictions")
        priority = int(job.OOM_SCORE_ADJ.read_text())
        return {"oom_score_adj": priority}, "<p></p>"

    job._answer = patient
    job.work(worker, world, request, bounds)


def aborts(worker: Connection, world: World, request: Mapping[str, Any], bounds: Bounds) -> None:
    """End as a library does that gets no memory."""
    os.kill(os.getpid(), signal.SIGABRT)


def vanishes(worker: Connection, world: World, request: Mapping[str, Any], bounds: Bounds) -> None:
    """End without a word."""
    os._exit(7)


def tells_nonsense(worker: Connection, world: World, request: Mapping[str, Any], bounds: Bounds) -> None:
    """A result that PostgreSQL refuses: its JSON holds no NUL."""
    worker.send(("done", ({"name": "\x00"}, "<p></p>")))


def devours(worker: Connection, world: World, request: Mapping[str, Any], bounds: Bounds) -> None:
    """The real process around a backtest that wants two gigabytes, none of which it touches."""

    def greedy(*_: Any) -> tuple[dict[str, Any], str]:
        return {"bytes": np.empty(2**31, np.uint8).size}, "<p></p>"

    job._answer = greedy
    job.work(worker, world, request, bounds)


def crashes(worker: Connection, world: World, request: Mapping[str, Any], bounds: Bounds) -> None:
    """The real process around a request that nobody can read."""
    job.work(worker, world, {"secret": "not a request"}, bounds)
