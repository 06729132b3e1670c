"""What every test may use: one embedded PostgreSQL for the run, and a fresh, migrated database for each test."""

import functools
import itertools
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from backend.db import OPERATOR_ROLE, create_engine, create_sessions
from sauda.embedded import EmbeddedPostgres, create_database, migrate

TEMPLATE = "sauda_template"
_numbers = itertools.count(1)


LONG = (
    "tests/e2e/",
    "tests/ml_service/test_real_market.py",
    "tests/ml_service/test_walk_forward.py",
    "tests/data_service/test_as_of_property.py",
)
"""What takes long begins first, so that no worker is left alone with it at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


@pytest.fixture(scope="session", autouse=True)
def authorities_read_once() -> Iterator[None]:
    """Every new HTTP client reads all certificate authorities, for 25 ms of a core; nothing here speaks TLS with it."""
    read_once = functools.cache(httpx.create_ssl_context)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx.create_ssl_context", read_once)
        patch.setattr("httpx._transports.default.create_ssl_context", read_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """A busy machine may leave a process without a core for seconds: no test fails for that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backend.db.CONNECT_TIMEOUT_S", 15)
        yield


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """A command that a test runs sets up the log for its own process, and to a stderr that ends with the test."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real market data beside the project; the test is skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real market data is not beside the project")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The run's PostgreSQL server, with a migrated template database.

    Its folder is not below pytest's own: pytest keeps that to its user, and PostgreSQL under root runs as another one.
    """
    with tempfile.TemporaryDirectory(prefix="sauda-test-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres")
        server.start()
        migrate(create_database(server, TEMPLATE))
        yield server
        server.stop()


@pytest.fixture
async def database_url(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database of the test's own, at the newest schema, with the plan catalogue."""
    name = f"test_{next(_numbers)}"
    admin = create_engine(postgres.url("postgres"), pool_size=1, owner=True)
    async with admin.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{TEMPLATE}"'))
    yield postgres.url(name)
    async with admin.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    await admin.dispose()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """Connections that make people and look at everything; what is tested works as its own role."""
    engine = create_engine(database_url, role=OPERATOR_ROLE)
    yield engine
    await engine.dispose()


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator[AsyncEngine]:
    """The database's owner, who may change tables: the application's role may not."""
    engine = create_engine(database_url, pool_size=1, owner=True)
    yield engine
    await engine.dispose()


@pytest.fixture
def sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Short transactions on the test's own database."""
    return create_sessions(engine)


@pytest.fixture
async def trader_engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """What the trading loop works with."""
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
def trader_sessions(trader_engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """The trading loop's transactions."""
    return create_sessions(trader_engine)
