"""Runs migrations against `DATABASE_URL`, or on the connection that a program hands over."""

import asyncio

from sqlalchemy import Connection

from alembic import context
from backend.config import Settings
from backend.db import create_engine
from backend.models import Base


def run_on(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()


async def connect_and_run() -> None:
    engine = create_engine(Settings().database_url, pool_size=1, owner=True)
    async with engine.begin() as connection:
        await connection.run_sync(run_on)
    await engine.dispose()


given = context.config.attributes.get("connection")
if given is not None:
    run_on(given)
else:
    asyncio.run(connect_and_run())
