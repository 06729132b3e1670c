"""The short form of the kill switch's proof: everything there, and no database from the start."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120


def test_a_halt_stops_hundreds_of_queued_orders_whatever_is_down(tmp_path: Path):
    """Forks need a parent without event loop or thread: not this one."""
    log = tmp_path / "log"
    run = subprocess.run(
        [sys.executable, "-m", "tests.crash", "--short", "--only", "kill_switch", "--log", str(log)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}\n{log.read_text()[-3000:]}"
    assert "210 orders queued" in run.stdout
    assert "200 in" in run.stdout
    assert "503 in" in run.stdout
