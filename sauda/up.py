"""`sauda up`: everything on one machine, from an empty folder to the first trade, until Ctrl-C."""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from backend.db import create_engine, create_sessions
from backend.errors import ConflictError
from backend.services.deployment_service import claim_environment
from backend.vault import VaultError, make_master_key_file, read_master_key_file
from contracts.common import Environment
from sauda.demo import DemoUser, ensure_demo_users
from sauda.embedded import DataFolderError, EmbeddedPostgres, create_database, hold_folder, migrate, service_url
from sauda.models import ensure_model
from sauda.processes import Service, ServiceFailedError, stop_all
from sauda.retrain import Retrainer

DATABASE = "sauda"
STOP_TIMEOUT_S = 7.0
INTERRUPTED = 130
"""The exit code of a program that a signal ended, by the shell's convention 128 + SIGINT."""
WATCH_PAUSE_S = 0.5
SIMULATED_CYCLE_S = 300
"""Market seconds between ticks in the simulated market: a tick every five real seconds at its usual speed."""


class StartError(Exception):
    """Sauda cannot start; the message is one line that names the fix."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the person asked for. Ports of ml_service and data_service follow the gateway's unless given."""

    data_dir: Path
    port: int
    ml_port: int
    data_port: int
    host: str
    seed: int
    speed: float
    edge: float
    environment: Environment


def up(options: Options, console: Console) -> None:
    """Start everything, watch it, and stop it in order.

    Raises:
        StartError, DataFolderError: something stands in the way.
    """
    data_dir = options.data_dir.resolve()
    _require_free_ports(options)
    external = os.environ.get("DATABASE_URL")
    services: list[Service] = []
    retrainer: Retrainer | None = None

    def end() -> NoReturn:
        _end_at_once(services, retrainer, None if external else data_dir / "postgres")

    with hold_folder(data_dir), _stop_signals(end) as stopping:
        postgres = None if external else EmbeddedPostgres(data_dir / "postgres")
        try:
            database_url = external or _embedded_database(postgres, console)
            migrate(database_url)
            database_url = external or service_url(database_url)
            asyncio.run(_claim(database_url, options.environment))
            services = _services(options, data_dir, database_url)
            retrainer = _retrainer(services, options, data_dir)
            users = _start(services, options, data_dir, database_url, console)
            _greet(options, data_dir, users, console)
            _watch(services, postgres, retrainer, stopping, console)
        except (DataFolderError, ServiceFailedError, ConflictError) as error:
            raise StartError(str(error)) from error
        finally:
            console.print("Stopping ...")
            if retrainer is not None:
                retrainer.stop()
            stop_all(services, STOP_TIMEOUT_S)
            if postgres is not None:
                postgres.stop()
            console.print("Stopped. The same command continues with the same data.")


async def _claim(database_url: str, environment: Environment) -> None:
    engine = create_engine(database_url, pool_size=1)
    try:
        await claim_environment(create_sessions(engine), environment)
    finally:
        await engine.dispose()


def _require_free_ports(options: Options) -> None:
    wanted = {"--port": options.port, "--ml-port": options.ml_port, "--data-port": options.data_port}
    for option, port in wanted.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((options.host, port))
            except OSError as error:
                raise StartError(
                    f"port {port} cannot be used on {options.host} ({error.strerror}): "
                    f"stop what listens there, or choose another with {option}"
                ) from error


@contextlib.contextmanager
def _stop_signals(end: Callable[[], NoReturn]) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them: the first interrupts, a second one calls `end`."""
    received: list[int] = []

    def on_signal(signum: int, _frame: object) -> None:
        received.append(signum)
        if len(received) == 1:
            raise KeyboardInterrupt
        end()

    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _end_at_once(services: Sequence[Service], retrainer: Retrainer | None, postgres_folder: Path | None) -> NoReturn:
    """Kill whatever runs and leave, without waiting for any of it.

    PostgreSQL is told to quit at once (its "immediate shutdown"): it recovers at the next start.
    """
    for service in services:
        if service.process is not None:
            service.process.kill()
    if retrainer is not None:
        retrainer.kill()
    if postgres_folder is not None:
        with contextlib.suppress(OSError, ValueError):
            pid, _, _ = (postgres_folder / "postmaster.pid").read_text().partition("\n")
            os.kill(int(pid), signal.SIGQUIT)
    os._exit(INTERRUPTED)


def _embedded_database(postgres: EmbeddedPostgres | None, console: Console) -> str:
    if postgres is None:
        raise StartError("no database")
    with console.status("Starting the embedded PostgreSQL ..."):
        postgres.start()
        return create_database(postgres, DATABASE)


def secret_key(data_dir: Path) -> str:
    """The key that signs access tokens: made once, readable by its owner alone."""
    path = data_dir / "secret.key"
    with contextlib.suppress(FileExistsError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_urlsafe(48))
    key = path.read_text().strip()
    if len(key) < 32:
        raise StartError(f"{path} is damaged: remove it; everybody will have to log in again")
    return key


def master_keys(data_dir: Path) -> Path:
    """The keys that seal other secrets: made once; without this file what they sealed cannot be read again."""
    path = data_dir / "master.keys"
    try:
        if not path.exists():
            make_master_key_file(path, "first")
        read_master_key_file(path)
    except (VaultError, OSError) as error:
        raise StartError(str(error)) from None
    return path


def _services(options: Options, data_dir: Path, database_url: str) -> list[Service]:
    data_url = f"http://{options.host}:{options.data_port}"
    ml_url = f"http://{options.host}:{options.ml_port}"
    simulated = options.environment is Environment.SIMULATED
    shared = {
        "ENVIRONMENT": options.environment.value,
        "DATA_DIR": str(data_dir),
        "DATA_SERVICE_URL": data_url,
        "ML_SERVICE_URL": ml_url,
    }
    data = {
        "DATA_SERVICE_HOST": options.host,
        "DATA_SERVICE_PORT": str(options.data_port),
        "SIM_SEED": str(options.seed),
        "SIM_SPEED": str(options.speed),
        "SIM_EDGE": str(options.edge),
    }
    ml = {"ML_SERVICE_HOST": options.host, "ML_SERVICE_PORT": str(options.ml_port)}
    gateway = {
        "DATABASE_URL": database_url,
        "GATEWAY_HOST": options.host,
        "GATEWAY_PORT": str(options.port),
        "PUBLIC_URL": os.environ.get("PUBLIC_URL") or f"http://{options.host}:{options.port}",
        "SECRET_KEY": os.environ.get("SECRET_KEY") or secret_key(data_dir),
        "MASTER_KEY_FILE": os.environ.get("MASTER_KEY_FILE") or str(master_keys(data_dir)),
    }
    if simulated:
        gateway["CYCLE_INTERVAL_S"] = os.environ.get("CYCLE_INTERVAL_S", str(SIMULATED_CYCLE_S))
        # Market seconds pass while a request is under way: a quote is older by `speed` times that.
        gateway["QUOTE_AGE_S_MAX"] = os.environ.get("QUOTE_AGE_S_MAX", str(max(10.0, options.speed * 2)))
    logs = data_dir / "logs"
    gateway_url = f"http://{options.host}:{options.port}"
    worker = {"DATABASE_URL": database_url}
    return [
        Service("data_service", "data_service", shared | data, f"{data_url}/health", logs / "data_service.log"),
        Service("ml_service", "ml_service", shared | ml, f"{ml_url}/health", logs / "ml_service.log"),
        Service(
            "gateway", "backend", shared | gateway, f"{gateway_url}/health", logs / "gateway.stderr.log", speaks=True
        ),
        Service("backtest", "backend.backtest", shared | worker, None, logs / "backtest.stderr.log", speaks=True),
    ]


def _start(
    services: list[Service], options: Options, data_dir: Path, database_url: str, console: Console
) -> list[DemoUser]:
    data, ml, gateway, backtest = services
    with console.status("Starting data_service ..."):
        data.start()
        data.wait_healthy(60)
    data_url = data.environment["DATA_SERVICE_URL"]
    if options.environment is Environment.SIMULATED:
        ensure_model(data_dir, data_url, console)
    with console.status("Starting ml_service ..."):
        ml.start()
        ml.wait_healthy(30)
    users: list[DemoUser] = []
    if options.environment is Environment.SIMULATED:
        users = ensure_demo_users(database_url, data_url, data_dir)
    with console.status("Starting the gateway ..."):
        gateway.start()
        gateway.wait_healthy(30)
    backtest.start()
    return users


def _greet(options: Options, data_dir: Path, users: list[DemoUser], console: Console) -> None:
    url = f"http://{options.host}:{options.port}"
    console.print(f"\n[bold]Sauda runs[/] ({options.environment.value} market).  API docs: [bold]{url}/docs[/]")
    if users:
        console.print(f"Demo users (passwords are also in {data_dir / 'demo-users.json'}):")
        for user in users:
            console.print(f"  {user.plan:<11} {user.email:<26} {user.password}", highlight=False)
    elif options.environment is Environment.SIMULATED:
        console.print(f"Demo users: see {data_dir / 'demo-users.json'}")
    console.print("Ctrl-C stops everything.\n")


def _retrainer(services: list[Service], options: Options, data_dir: Path) -> Retrainer | None:
    """Only the simulated market retrains by itself: on real data, training is the operator's decision."""
    if options.environment is not Environment.SIMULATED:
        return None
    return Retrainer(services[1].environment, data_dir / "logs" / "training.log")


def _watch(
    services: list[Service],
    postgres: EmbeddedPostgres | None,
    retrainer: Retrainer | None,
    stopping: list[int],
    console: Console,
) -> None:
    """Until a stop signal: what dies is started again, and said so."""
    with contextlib.suppress(KeyboardInterrupt):
        while not stopping:
            if postgres is not None and (news := postgres.ensure_running()):
                console.print(news, highlight=False)
            for service in services:
                if news := service.watch():
                    console.print(news, highlight=False)
            if retrainer is not None and (news := retrainer.watch()):
                console.print(news, highlight=False)
            time.sleep(WATCH_PAUSE_S)
