"""The database: one engine per process, and the few statements that must be the same everywhere."""

from collections.abc import Sequence
from typing import Any, cast

import asyncpg
import orjson
from sqlalchemy import bindparam, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

Sessions = async_sessionmaker[AsyncSession]

CONNECT_TIMEOUT_S = 2
"""A server that is starting up may leave a connection unanswered: better to try again soon than to wait for it."""


def _dumps(value: Any) -> str:
    return orjson.dumps(value, default=str).decode()


APPLICATION_ROLE = "sauda_app"
"""The role every query runs under: it owns no table, and may only add to the books (migration 0002)."""


def create_engine(database_url: str, *, pool_size: int = 10, owner: bool = False) -> AsyncEngine:
    """An engine for a `postgresql://` URL (a Unix socket as `?host=DIR`). Connections are checked before use.

    `owner` works as the URL's own user, for migrations and whoever creates databases.
    """
    url = database_url.replace("postgresql://", "postgresql+asyncpg://", 1).replace("postgres:@", "postgres@")
    return create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        pool_timeout=5,
        json_serializer=_dumps,
        json_deserializer=orjson.loads,
        connect_args={
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": 30,
            "server_settings": {} if owner else {"role": APPLICATION_ROLE},
        },
    )


def is_about_data(error: Exception) -> bool:
    """Whether PostgreSQL, or its driver, refused a value rather than failed: one bad record then stops no other.

    SQLSTATE classes 22 (data exception) and 23 (integrity constraint violation).
    """
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None) or ""
    return state[:2] in {"22", "23"} or isinstance(getattr(error.orig, "__cause__", None), ValueError)


def create_sessions(engine: AsyncEngine) -> Sessions:
    """Sessions whose objects stay readable after commit: nothing is loaded lazily behind one's back."""
    return async_sessionmaker(engine, expire_on_commit=False)


_LOCK_ACCOUNT = text("SELECT 1 FROM broker_accounts WHERE id = :account_id FOR NO KEY UPDATE")


async def lock_account(session: AsyncSession, account_id: int) -> None:
    """Serialise what changes one broker account until the transaction ends."""
    await session.execute(_LOCK_ACCOUNT, {"account_id": account_id})


_NEXT_IDS = text("SELECT nextval(CAST(:sequence AS regclass)) FROM generate_series(1, :count)").bindparams(
    bindparam("sequence"), bindparam("count")
)


async def next_ids(session: AsyncSession, sequence: str, count: int) -> list[int]:
    """`count` fresh ids of a sequence, so that rows which refer to each other can be copied in bulk."""
    return list((await session.scalars(_NEXT_IDS, {"sequence": sequence, "count": count})).all())


async def copy_rows(session: AsyncSession, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """COPY rows into a table inside the session's transaction: the fastest way in, with every constraint checked."""
    connection = await session.connection()
    raw = await connection.get_raw_connection()
    driver = cast("asyncpg.Connection", raw.driver_connection)
    await driver.copy_records_to_table(table, columns=list(columns), records=rows)
