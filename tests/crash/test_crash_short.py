"""The short forms of the crash run: crashes, the kill switch, and one key whoever races; in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 420


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """All parts over one database server. They fork, so they need a parent without event loop or thread: not this one.
    The seed is in the output."""
    log = tmp_path_factory.mktemp("crash") / "log"
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash", "--short", "--log", str(log)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{log.read_text()[-3000:]}"
    return done.stdout


def test_nothing_is_doubled_lost_or_hidden_by_a_crash(run: str) -> None:
    for part in ("SIGKILL before an await", "SIGCONT", "PostgreSQL stopped at once"):
        assert part in run
    assert " 0 kills" not in run


def test_a_halt_stops_hundreds_of_queued_orders_whatever_is_down(run: str) -> None:
    """Everything there, and no database from the start."""
    assert "210 orders queued" in run
    assert "200 in" in run
    assert "503 in" in run


def test_fifty_concurrent_requests_with_one_key_are_one_order(run: str) -> None:
    """A few rounds through two gateways."""
    assert "50 orders at once under one key, 2 gateways  3 rounds" in run
