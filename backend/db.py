"""The database: engines, in whose place a transaction works, and the few statements that must be the same everywhere.

Row-level security (migration 0007) shows each role its rows. The API works as APPLICATION_ROLE, and then sees the
rows of the one user that `act_for` named, or none; `acting_as` takes another role for a block, where a caller may be
anybody (IDENTITY_ROLE) or is an administrator (OPERATOR_ROLE). The trading loop works as TRADER_ROLE throughout.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, cast

import asyncpg
import orjson
from sqlalchemy import Connection, Table, bindparam, event, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, SessionTransaction

Sessions = async_sessionmaker[AsyncSession]

CONNECT_TIMEOUT_S = 2
"""A server that is starting up may leave a connection unanswered: better to try again soon than to wait for it."""


def _dumps(value: Any) -> str:
    return orjson.dumps(value, default=str).decode()


APPLICATION_ROLE = "sauda_app"
"""The API: the rows of one user, none without one; of trading it may read, and write no order."""
IDENTITY_ROLE = "sauda_identity"
"""Registering, logging in, tokens and keys: who somebody is, across users."""
OPERATOR_ROLE = "sauda_operator"
"""Administrators, billing, mail: everybody's rows, but for what may only be added to."""
TRADER_ROLE = "sauda_trader"
"""The trading loop and the workers of backtests: everybody's orders, nobody's password."""

_place: ContextVar[int | str | None] = ContextVar("place", default=None)
"""A user's id, or the role taken for a while."""


def create_engine(
    database_url: str, *, role: str = TRADER_ROLE, pool_size: int = 10, owner: bool = False
) -> AsyncEngine:
    """An engine for a `postgresql://` URL (a Unix socket as `?host=DIR`). Connections are checked before use.

    All of them work as `role`; with `owner` as the URL's own user, for migrations and whoever creates databases.
    """
    url = database_url.replace("postgresql://", "postgresql+asyncpg://", 1).replace("postgres:@", "postgres@")
    return create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        pool_timeout=5,
        hide_parameters=True,  # an error names the statement, and not what somebody wrote into it
        json_serializer=_dumps,
        json_deserializer=orjson.loads,
        connect_args={
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": 30,
            "server_settings": {} if owner else {"role": role},
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


class TenantSession(Session):
    """A session whose every transaction begins by taking its place: the caller's, or the role of `acting_as`."""


@event.listens_for(TenantSession, "after_begin")
def _take_place(session: Session, transaction: SessionTransaction, connection: Connection) -> None:  # noqa: ARG001
    place = _place.get()
    if isinstance(place, int):
        connection.execute(_SET_USER, {"user_id": str(place)})
    elif place is not None:
        connection.execute(text(f"SET LOCAL ROLE {place}"))


_SET_USER = text("SELECT set_config('sauda.user_id', :user_id, true)")


def create_tenant_sessions(engine: AsyncEngine) -> Sessions:
    """Sessions of an APPLICATION_ROLE engine: each transaction sees what `act_for` or `acting_as` lets it see."""
    return async_sessionmaker(engine, expire_on_commit=False, sync_session_class=TenantSession)


def act_for(user_id: int | None) -> None:
    """From here on this task's transactions see the rows of that user; of nobody with None."""
    _place.set(user_id)


@contextmanager
def acting_as(role: str) -> Iterator[None]:
    """Transactions that begin in this block work as IDENTITY_ROLE or OPERATOR_ROLE.

    Raises:
        ValueError: another role.
    """
    if role not in {IDENTITY_ROLE, OPERATOR_ROLE}:
        raise ValueError(f"{role} is no role to take for a while")
    token = _place.set(role)
    try:
        yield
    finally:
        _place.reset(token)


def act_as_operator() -> None:
    """From here on this task's transactions see everybody's rows: its caller is an administrator, or support."""
    _place.set(OPERATOR_ROLE)


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


async def insert_rows(
    session: AsyncSession, table: Table, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert many rows by one statement, a column as one array each: row-level security forbids COPY.

    Joins the transaction. No column may itself be an array.
    """
    if not rows:
        return
    connection = await session.connection()
    raw = await connection.get_raw_connection()
    driver = cast("asyncpg.Connection", raw.driver_connection)
    await driver.execute(_insert_statement(table, tuple(columns)), *map(list, zip(*rows, strict=True)))


@cache
def _insert_statement(table: Table, columns: tuple[str, ...]) -> str:
    dialect = postgresql.dialect()
    arrays = (f"${number}::{table.c[name].type.compile(dialect)}[]" for number, name in enumerate(columns, start=1))
    return f"INSERT INTO {table.name} ({', '.join(columns)}) SELECT * FROM unnest({', '.join(arrays)})"  # noqa: S608 - names of our own  # nosec B608
