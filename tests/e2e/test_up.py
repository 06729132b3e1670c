"""`sauda up` as a newcomer meets it: from an empty folder to trades, through kills and restarts, to a clean stop."""

import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

FIRST_TRADE_S_MAX = 60 if not os.environ.get("CI") else 120
STOP_S_MAX = 10


class Running:
    """One `sauda up` in a folder, on ports of its own."""

    def __init__(self, data_dir: Path, port: int, *options: str) -> None:
        self.data_dir, self.url = data_dir, f"http://127.0.0.1:{port}"
        self.output = (data_dir.parent / "console.txt").open("a+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sauda", "up", "--data-dir", str(data_dir), "--port", str(port), *options],
            stdout=self.output,
            stderr=self.output,
            start_new_session=True,
        )

    def console(self) -> str:
        self.output.seek(0)
        return self.output.read()

    def until(self, what: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.console()
            try:
                if what():
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        raise AssertionError(f"it did not happen within {timeout_s} s:\n{self.console()}")

    def get(self, path: str, token: str | None = None) -> dict:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.get(f"{self.url}{path}", headers=headers, timeout=5).raise_for_status().json()

    def login(self, plan: str) -> str:
        users = json.loads((self.data_dir / "demo-users.json").read_text())
        user = next(u for u in users if u["plan"] == plan)
        body = {"email": user["email"], "password": user["password"]}
        return httpx.post(f"{self.url}/v1/auth/login", json=body, timeout=5).raise_for_status().json()["access_token"]

    def children(self) -> dict[str, psutil.Process]:
        found = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                command = child.cmdline()
            except psutil.Error:
                continue  # dead, and not yet buried by its parent
            if "sauda.child" in command:
                found[command[-1]] = child
        return found

    def stop(self) -> float:
        started = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)
        return time.monotonic() - started

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.output.close()


def free_ports() -> int:
    """A port that is free with its two successors, below those that outgoing connections are given."""
    while True:
        port = random.randrange(20_000, 30_000)
        if not any(_taken(port + i) for i in range(3)):
            return port


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_newcomer_sees_trades_and_nothing_is_lost_by_kills(home: Path) -> None:
    port = free_ports()
    running = Running(home / "data", port, "--seed", "7")
    try:
        started = time.monotonic()
        running.until(lambda: running.get("/health")["status"] == "ok", FIRST_TRADE_S_MAX)
        token = running.login("enterprise")
        running.until(lambda: bool(running.get("/v1/auto-trading/trades", token)["trades"]), FIRST_TRADE_S_MAX)
        assert time.monotonic() - started < FIRST_TRADE_S_MAX
        secrets = home / "data" / "demo-users.json"
        assert stat.S_IMODE(secrets.stat().st_mode) == 0o600

        assert running.children().keys() == {"data_service", "ml_service", "backend", "backend.backtest"}

        before = running.get("/v1/auto-trading/trades", token)["trades"]
        for module in ("data_service", "ml_service", "backend"):
            victim = running.children()[module]
            victim.kill()
            running.until(lambda m=module, v=victim: running.children().get(m, v) != v, 30)
            running.until(lambda: running.get("/health")["status"] == "ok", 30)
        psutil.Process(int((home / "data" / "postgres" / "postmaster.pid").read_text().split()[0])).kill()
        running.until(lambda: "PostgreSQL had died; it runs again" in running.console(), 30)
        running.until(lambda: running.get("/health")["status"] == "ok", 30)
        running.until(lambda: "environment" in running.get("/v1/auto-trading/status", token), 30)
        cycles = running.get("/v1/auto-trading/status", token)
        assert cycles["environment"] == "simulated"
        after = running.get("/v1/auto-trading/trades?limit=200", token)["trades"]
        assert {t["id"] for t in before} <= {t["id"] for t in after}

        assert running.stop() < STOP_S_MAX

        again = Running(home / "data", port, "--seed", "7")
        try:
            again.until(lambda: again.get("/health")["status"] == "ok", FIRST_TRADE_S_MAX)
            kept = again.get("/v1/auto-trading/trades?limit=200", again.login("enterprise"))["trades"]
            assert {t["id"] for t in after} <= {t["id"] for t in kept}
            live = [t["symbol"] for t in kept if t["status"] in {"entering", "open", "exiting"}]
            assert len(live) == len(set(live))
            children = again.children()
            again.process.kill()
            again.process.wait()
            gone, alive = psutil.wait_procs(children.values(), timeout=15)
            assert not alive, "children outlived their killed parent"
            assert len(gone) == 4
        finally:
            again.kill()

        third = Running(home / "data", port, "--seed", "7")
        try:
            third.until(lambda: third.get("/health")["status"] == "ok", FIRST_TRADE_S_MAX)
            assert third.stop() < STOP_S_MAX
        finally:
            third.kill()

        line = failed("--data-dir", str(home / "data"), "--seed", "8", "--port", str(port))
        assert "seed" in line.lower(), "another seed on the same data is another market"
    finally:
        running.kill()


def test_a_second_interrupt_ends_at_once_and_leaves_nothing(home: Path) -> None:
    running = Running(home / "data", free_ports(), "--seed", "7")
    try:
        running.until(lambda: "data_service" in running.children(), 60)
        stuck = running.children()["data_service"]
        stuck.suspend()  # it cannot stop by itself: an orderly stop would wait for it
        postmaster = psutil.Process(int((home / "data" / "postgres" / "postmaster.pid").read_text().split()[0]))
        running.process.send_signal(signal.SIGINT)
        running.until(lambda: "Stopping ..." in running.console(), 10)
        asked = time.monotonic()
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(30) == 130
        assert time.monotonic() - asked < 2
        _, alive = psutil.wait_procs([stuck, postmaster], timeout=10)
        assert not alive
    finally:
        running.kill()


def failed(*options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sauda", "up", *options], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("Sauda cannot start")]
    assert len(lines) == 1, done.stdout + done.stderr
    return lines[0]


def test_a_port_in_use_is_named_with_the_option_that_helps(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = failed("--data-dir", str(home / "data"), "--ml-port", str(port), "--port", str(free_ports()))
    assert str(port) in line
    assert "--ml-port" in line


def test_a_half_written_data_folder_is_named_with_its_fix(home: Path) -> None:
    postgres = home / "data" / "postgres"
    postgres.mkdir(parents=True)
    (postgres / "PG_VERSION").write_text("18\n")
    line = failed("--data-dir", str(home / "data"), "--port", str(free_ports()))
    assert "half-written" in line
    assert f"rm -rf {postgres}" in line
