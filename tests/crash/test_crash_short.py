"""The short form of the crash sweep: a spread sample of kills, freezes and database stops, in a process of its own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 300


def test_nothing_is_doubled_lost_or_hidden_by_a_crash(tmp_path: Path):
    """The sweep forks, so it needs a parent without event loop or thread: not this one. Its seed is in the output."""
    log = tmp_path / "log"
    run = subprocess.run(
        [sys.executable, "-m", "tests.crash", "--short", "--log", str(log)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout}\n{log.read_text()[-3000:]}"
    for part in ("SIGKILL before an await", "SIGCONT", "PostgreSQL stopped at once"):
        assert part in run.stdout
    assert " 0 kills" not in run.stdout
