"""A simulated market of its own for a long check: data_service on a free port, ended with the block."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

START_TIMEOUT_S = 120.0


@contextmanager
def simulated_market(**settings: str) -> Iterator[str]:
    """The URL of a fresh data_service with the given settings (`SIM_EDGE="0"`, …) beside the defaults."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SIM_", "DATA_"))},
            "ENVIRONMENT": "simulated",
            "DATA_DIR": folder,
            "DATA_SERVICE_PORT": str(port),
            **settings,
        }
        service = subprocess.Popen(
            [sys.executable, "-m", "data_service"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _await_health(url, service)
            yield url
        finally:
            service.terminate()
            service.wait()


def _await_health(url: str, service: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until and service.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=2).json()["status"] == "ok":
                return
        except (httpx.HTTPError, ValueError, KeyError):
            pass
        time.sleep(0.2)
    raise RuntimeError("data_service did not start")
