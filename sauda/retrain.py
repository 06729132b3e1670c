"""Retraining while Sauda runs: a model is made anew each month of market time, long before it grows too old to use."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path

import httpx

MODEL_AGE_MAX = timedelta(days=30)
LOOK_EVERY_S = 20.0
RETRY_S = 60.0
RETRY_S_MAX = 1800.0


def pause_s(failures: int) -> float:
    """Seconds until the next look after that many failed trainings in a row: 1, 2, 4 … minutes, at most 30."""
    return LOOK_EVERY_S if failures == 0 else min(RETRY_S_MAX, RETRY_S * 2.0 ** min(failures - 1, 10))


class Retrainer:
    """Looks now and then how old the model in use is, and trains the next one in a process of its own.

    `clock` is monotonic, in seconds.
    """

    def __init__(
        self, environment: Mapping[str, str], log_path: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._environment = environment
        self._log_path = log_path
        self._clock = clock
        self._look_at = clock() + LOOK_EVERY_S
        self._failures = 0
        self._training: subprocess.Popen[bytes] | None = None

    def watch(self) -> str | None:
        """Do what is due. Returns a line when there is news; a service that does not answer is asked again later."""
        if self._training is not None:
            status = self._training.poll()
            if status is None:
                return None
            self._training = None
            return self._ended(status)
        if self._clock() < self._look_at:
            return None
        self._look_at = self._clock() + LOOK_EVERY_S
        try:
            trained_through, today = self._newest(), self._today()
        except (httpx.HTTPError, ValueError, KeyError):
            return None
        if trained_through is not None and today - trained_through <= MODEL_AGE_MAX:
            return None
        self._start()
        return f"Retraining: the newest model knows sessions through {trained_through}"

    def stop(self) -> None:
        if self._training is not None and self._training.poll() is None:
            self._training.terminate()
            self._training.wait()

    def kill(self) -> None:
        """End a training at once."""
        if self._training is not None:
            self._training.kill()

    def _ended(self, status: int) -> str:
        self._failures = 0 if status == 0 else self._failures + 1
        pause = pause_s(self._failures)
        self._look_at = self._clock() + pause
        if status == 0:
            return "A new model is in use"
        return f"Retraining failed; it is tried again in {pause / 60:.0f} min; see {self._log_path}"

    def _newest(self) -> date | None:
        reply = httpx.get(f"{self._environment['ML_SERVICE_URL']}/v1/models", timeout=5).raise_for_status().json()
        days = [date.fromisoformat(m["trained_through"]) for m in reply["models"] if m["usable"]]
        return max(days, default=None)

    def _today(self) -> date:
        reply = httpx.get(f"{self._environment['DATA_SERVICE_URL']}/v1/clock", timeout=5).raise_for_status().json()
        return date.fromisoformat(reply["now"][:10])

    def _start(self) -> None:
        """Train at a lower priority, so that the trading loop keeps its pace."""
        command = ["ml", "train", "--promote", "--data-service-url", self._environment["DATA_SERVICE_URL"]]
        with self._log_path.open("ab") as log:
            self._training = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "sauda", *command, "--data-dir", self._environment["DATA_DIR"]],
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.setpriority(os.PRIO_PROCESS, self._training.pid, 10)
