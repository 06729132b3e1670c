"""The services as child processes: started, watched, restarted when they die, and gone when their parent is gone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import httpx

RESTART_PAUSE_S_MAX = 10.0
LAST_LINES = 20
HEALTH_TIMEOUT_S = 2.0


@cache
def _http() -> httpx.Client:
    """One client for all questions: a new one reads every certificate authority first, which takes longer than they."""
    return httpx.Client(timeout=HEALTH_TIMEOUT_S)


@dataclass(slots=True)
class Service:
    """One child: a module run with `python -m`, its environment, and where it answers that it is healthy.

    `speaks`: its standard output is for the person watching; everything else goes to `log_path`.
    """

    name: str
    module: str
    environment: Mapping[str, str]
    health_url: str | None
    log_path: Path
    speaks: bool = False
    process: "subprocess.Popen[bytes] | None" = None
    deaths: int = 0
    restart_at: float = 0.0
    started_at: float = field(default=0.0)

    def start(self) -> None:
        """Start the child in a session of its own: Ctrl-C reaches the parent alone, which stops the children in order.

        The child's standard input is a pipe whose other end only the parent holds; `sauda.child` ends the child when it
        closes, so that a killed parent leaves nothing behind.
        """
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "sauda.child", self.module],
                env={**os.environ, **self.environment},
                stdin=subprocess.PIPE,
                stdout=None if self.speaks else log,
                stderr=log,
                start_new_session=True,
            )
        self.started_at = time.monotonic()

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def healthy(self) -> bool:
        """Whether the child answers; a child without a health page counts as healthy while it lives."""
        if self.health_url is None:
            return self.alive()
        try:
            return _http().get(self.health_url).is_success
        except httpx.HTTPError:
            return False

    def wait_healthy(self, timeout_s: float) -> None:
        """Block until the child is healthy.

        Raises:
            ServiceFailedError: it died or did not answer in time.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self.alive():
                raise ServiceFailedError(f"{self.name} stopped while starting: {self.last_words()}")
            if self.healthy():
                return
            time.sleep(0.05)
        raise ServiceFailedError(f"{self.name} did not answer within {timeout_s:.0f} s; see {self.log_path}")

    def last_words(self) -> str:
        """What the child's log gives as the cause: its last error, else its last line."""
        lines = self.log_path.read_text("utf-8", "replace").strip().splitlines()[-LAST_LINES:]
        causes = [line for line in lines if "cannot start" in line or line.startswith("ERROR")]
        return next(reversed(causes or lines), f"see {self.log_path}")

    def watch(self) -> str | None:
        """Restart a dead child after a pause that grows with its deaths. Returns a line when there is news."""
        now = time.monotonic()
        if self.alive():
            return None
        if self.restart_at == 0.0:
            if now - self.started_at > 60:
                self.deaths = 0
            self.deaths += 1
            pause = min(RESTART_PAUSE_S_MAX, 0.25 * 2**self.deaths)
            self.restart_at = now + pause
            code = self.process.returncode if self.process else None
            return f"{self.name} died (status {code}); it starts again in {pause:.1f} s"
        if now >= self.restart_at:
            self.restart_at = 0.0
            self.start()
            return f"{self.name} started again"
        return None


class ServiceFailedError(Exception):
    """A service could not be started."""


def stop_all(services: list[Service], timeout_s: float) -> None:
    """Stop every child, the last started first and before what it depends on; end what has not stopped in time."""
    deadline = time.monotonic() + timeout_s
    for service in reversed(services):
        if service.process is None:
            continue
        if service.alive():
            service.process.send_signal(signal.SIGTERM)
        try:
            service.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            service.process.kill()
            service.process.wait()
