"""The short form of the proof that one key is one order, whoever races: a few rounds through two gateways."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120


def test_fifty_concurrent_requests_with_one_key_are_one_order(tmp_path: Path):
    """Forks need a parent without event loop or thread: not this one."""
    log = tmp_path / "log"
    run = subprocess.run(
        [sys.executable, "-m", "tests.crash", "--short", "--only", "same_key", "--log", str(log)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}\n{log.read_text()[-3000:]}"
    assert "50 orders at once under one key, 2 gateways  3 rounds" in run.stdout
