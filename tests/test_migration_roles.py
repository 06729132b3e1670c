"""Migrating as a user who may not create roles, as on managed servers: it works once the role is given, or says so."""

import tempfile
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from alembic import command
from backend.db import create_engine
from sauda.embedded import EmbeddedPostgres, alembic_config

PLAIN = "plain_owner"


@dataclass
class Server:
    """A server of its own, so that no other database has made the role; `admin` may do anything on it."""

    postgres: EmbeddedPostgres
    admin: AsyncConnection


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory(prefix="sauda-roles-", ignore_cleanup_errors=True) as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres")
        postgres.start()
        engine = create_engine(postgres.url("postgres"), pool_size=1, owner=True)
        async with engine.connect() as connection:
            admin = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await admin.execute(text(f"CREATE ROLE {PLAIN} LOGIN"))
            yield Server(postgres, admin)
        await engine.dispose()
        postgres.stop()


async def migrate_as_plain(server: Server) -> str:
    """Migrate a new database that PLAIN owns, as PLAIN; its URL."""
    name = f"db_{uuid.uuid4().hex}"
    await server.admin.execute(text(f"CREATE DATABASE {name} OWNER {PLAIN}"))
    url = server.postgres.url(name).replace("postgres@", f"{PLAIN}@")

    def upgrade(connection: Connection) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    engine = create_engine(url, pool_size=1, owner=True)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
    finally:
        await engine.dispose()
    return url


async def test_a_user_who_may_not_create_roles_is_told_what_to_ask_for_and_goes_on_with_it(server) -> None:
    """What the hints say, done to the letter, step by step."""
    with pytest.raises(DBAPIError, match=f"the user {PLAIN} may not create roles"):
        await migrate_as_plain(server)
    await server.admin.execute(text("CREATE ROLE sauda_app NOLOGIN"))
    with pytest.raises(DBAPIError, match=f"the user {PLAIN} does not have the role sauda_app"):
        await migrate_as_plain(server)
    await server.admin.execute(text(f"GRANT sauda_app TO {PLAIN}"))
    with pytest.raises(DBAPIError, match=f"the user {PLAIN} may not create roles"):
        await migrate_as_plain(server)
    for role in ("sauda_identity", "sauda_operator", "sauda_trader"):
        await server.admin.execute(text(f"CREATE ROLE {role} NOLOGIN"))
    with pytest.raises(DBAPIError, match=f"the user {PLAIN} does not have the role sauda_identity"):
        await migrate_as_plain(server)
    await server.admin.execute(text(f"GRANT sauda_app, sauda_identity, sauda_operator, sauda_trader TO {PLAIN}"))
    engine = create_engine(await migrate_as_plain(server), pool_size=1)
    async with engine.begin() as connection:
        assert await connection.scalar(text("SELECT current_user")) == "sauda_trader"
        with pytest.raises(DBAPIError, match="permission denied"):
            await connection.execute(text("DELETE FROM ledger_entries"))
    await engine.dispose()
