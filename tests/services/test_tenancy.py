"""Row-level security: the API's role sees and writes one user's rows; no table of a user's is without it."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Boolean, Date, DateTime, Enum, Float, Integer, LargeBinary, Numeric, String, Table, Time, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from backend.db import (
    APPLICATION_ROLE,
    IDENTITY_ROLE,
    OPERATOR_ROLE,
    TRADER_ROLE,
    Sessions,
    act_for,
    acting_as,
    create_engine,
    create_tenant_sessions,
)
from backend.models import Base

PLATFORM = {
    "audit_head",
    "calendar_overrides",
    "corporate_action_days",
    "corporate_actions",
    "cycle_shards",
    "cycles",
    "deployment",
    "invoice_series",
    "login_delays",
    "payment_events",
    "plans",
}
"""Tables without a row that is one user's: everything else has policies."""
TENANT = sorted(set(Base.metadata.tables) - PLATFORM)
ROLES = (APPLICATION_ROLE, IDENTITY_ROLE, OPERATOR_ROLE, TRADER_ROLE)
A, B = 101, 102
OWN_KEY = {"users": "id", "audit_log": "subject_id"}


async def unprotected(connection: AsyncConnection) -> set[str]:
    """Tables outside PLATFORM that row-level security does not cover in full."""
    rows = await connection.execute(
        text("""
            SELECT c.relname,
                   c.relrowsecurity AND c.relforcerowsecurity
                   AND (SELECT count(*) = 1 FROM pg_policies p
                         WHERE p.tablename = c.relname AND p.roles = '{sauda_app}' AND p.cmd = 'ALL'
                           AND p.qual LIKE '%sauda_user_id()%' AND p.with_check LIKE '%sauda_user_id()%')
                   AND NOT EXISTS (SELECT FROM pg_policies p
                         WHERE p.tablename = c.relname AND p.roles && '{public,sauda_app}' AND p.policyname <> 'own')
              FROM pg_class c
             WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace
               AND c.relname <> 'alembic_version'
        """)
    )
    return {name for name, covered in rows if not covered} - PLATFORM


async def test_no_table_with_a_users_rows_is_without_its_policies(owner: AsyncEngine) -> None:
    async with owner.connect() as connection:
        assert await unprotected(connection) == set()
        for breach in (
            "CREATE TABLE secrets_of_users (user_id bigint)",
            "ALTER TABLE orders NO FORCE ROW LEVEL SECURITY",
            "ALTER TABLE orders DISABLE ROW LEVEL SECURITY",
            "DROP POLICY own ON orders",
            "CREATE POLICY more ON orders TO sauda_app USING (true)",
            "CREATE POLICY more ON orders USING (true)",
            "ALTER POLICY own ON orders WITH CHECK (true)",
        ):
            await connection.execute(text(breach))
            assert len(await unprotected(connection)) == 1, breach
            await connection.rollback()


async def test_no_role_owns_anything_or_stands_above_the_policies(owner: AsyncEngine) -> None:
    async with owner.connect() as connection:
        rows = await connection.execute(
            text("""
                SELECT rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb,
                       EXISTS (SELECT FROM pg_class WHERE relowner = r.oid)
                  FROM pg_roles r WHERE rolname LIKE 'sauda\\_%'
            """)
        )
        found = {name: any(rights) for name, *rights in rows}
        inherits = await connection.scalar(text("SELECT rolinherit FROM pg_roles WHERE rolname = 'sauda_service'"))
    assert found == dict.fromkeys([*ROLES, "sauda_service"], False)
    assert inherits is False


async def test_the_login_user_may_do_nothing_until_it_takes_a_role(database_url: str) -> None:
    engine = create_engine(database_url.replace("//postgres@", "//sauda_service@"), owner=True, pool_size=1)
    async with engine.connect() as connection:
        for statement, refusal in (
            ("SELECT * FROM users", "permission denied for table users"),
            ("SET ROLE postgres", 'permission denied to set role "postgres"'),
            ("ALTER TABLE orders DISABLE ROW LEVEL SECURITY", "must be owner"),
        ):
            with pytest.raises(DBAPIError, match=refusal):
                await connection.execute(text(statement))
            await connection.rollback()
        for role in ROLES:
            await connection.execute(text(f"SET ROLE {role}"))
    await engine.dispose()


# ---- two users with one row in every table


def value_of(column: Any, user_id: int) -> Any:
    """Something that a NOT NULL column takes, of the user's own where it may have to be unique."""
    kind = column.type
    match kind:
        case Enum():
            return kind.enums[0]
        case ARRAY():
            return []
        case JSONB():
            return "{}"
        case Boolean():
            return False
        case Integer():
            return 1
        case Float():
            return 1.0
        case Numeric():
            return Decimal(1) if column.name == "price" else Decimal(0)
        case DateTime():
            return datetime(2026, 1, 1, tzinfo=UTC)
        case Date():
            return date(2026, 1, 1)
        case Time():
            return time(9, 15)
        case LargeBinary():
            return str(user_id).encode()
        case String():
            return str(user_id)[: kind.length]
    raise AssertionError(f"no value for {column}")


SPECIAL: Mapping[str, Mapping[str, Any]] = {
    "invoices": {"price": Decimal(0)},
    "orders": {"origin": "manual", "limit_price": Decimal(1)},
    "ledger_entries": {"quantity": 0},
    "trading_states": {"scope": "user"},
}


def row_of(table: Table, user_id: int) -> dict[str, Any]:
    """A row of the user's: ids of things are the user's own, so that one account and one order of theirs is meant."""
    row = {c.name: value_of(c, user_id) for c in table.columns if not c.nullable}
    row |= SPECIAL.get(table.name, {})
    row |= {
        c.name: user_id for c in table.columns if c.name in {"user_id", "account_id", "order_id", "id", "subject_id"}
    }
    if table.name == "trading_states":
        row["key"] = str(user_id)
    return row


async def insert(connection: AsyncConnection, table: Table, row: Mapping[str, Any]) -> None:
    names = ", ".join(f'"{name}"' for name in row)
    values = ", ".join(f"CAST(:{name} AS {table.c[name].type.compile(connection.dialect)})" for name in row)
    await connection.execute(text(f"INSERT INTO {table.name} ({names}) VALUES ({values})"), row)


@pytest.fixture
async def tenants(owner: AsyncEngine, database_url: str) -> AsyncIterator[Sessions]:
    """The API's sessions on a database in which two users have a row in every table."""
    async with owner.begin() as connection:
        await connection.execute(text("SET LOCAL session_replication_role = replica"))  # no foreign keys, no chain
        for name in TENANT:
            for user_id in (A, B):
                table = Base.metadata.tables[name]
                await insert(connection, table, row_of(table, user_id))
    engine = create_engine(database_url, role=APPLICATION_ROLE, pool_size=2)
    yield create_tenant_sessions(engine)
    act_for(None)
    await engine.dispose()


def key_of(table: str) -> str:
    """The column that tells whose a row is."""
    columns = Base.metadata.tables[table].columns
    if table == "trading_states":
        return "key"
    return OWN_KEY.get(table) or next(name for name in ("user_id", "account_id", "order_id") if name in columns)


async def seen(sessions: Sessions, table: str) -> set[str]:
    async with sessions() as session:
        try:
            found = await session.scalars(text(f"SELECT {key_of(table)}::text FROM {table}"))
        except DBAPIError as error:
            if "permission denied" in str(error):
                return set()
            raise
        return set(found)


async def test_each_sees_ones_own_rows_and_nobody_sees_any_without_a_name(tenants: Sessions) -> None:
    mine: dict[str, set[str]] = {}
    for table in TENANT:
        act_for(None)
        nobodys = await seen(tenants, table)
        act_for(A)
        mine[table] = await seen(tenants, table)
        assert nobodys == set(), table
        assert mine[table] <= {str(A)}, table
    unread = {table for table, keys in mine.items() if not keys}
    assert unread == {"outbox", "broker_calls"}  # the API writes messages and reads none, and counts no calls


async def test_who_may_see_everybody_does(tenants: Sessions) -> None:
    with acting_as(OPERATOR_ROLE):
        assert [table for table in TENANT if len(await seen(tenants, table)) != 2] == []
    with acting_as(IDENTITY_ROLE):
        assert await seen(tenants, "users") == await seen(tenants, "credentials") == {str(A), str(B)}
        assert await seen(tenants, "orders") == await seen(tenants, "broker_credentials") == set()


async def touched(connection: AsyncConnection, statement: str) -> int:
    """How many rows a statement would change: none where the role may not run it at all."""
    async with connection.begin_nested() as savepoint:
        try:
            return (await connection.execute(text(statement))).rowcount
        except DBAPIError as error:
            if "permission denied" in str(error):
                return 0
            raise
        finally:
            await savepoint.rollback()


async def test_nobody_changes_or_makes_rows_of_another(tenants: Sessions) -> None:
    """Whatever the role may write at all, it may not write of B's while it acts for A."""
    act_for(A)
    for name in TENANT:
        table = Base.metadata.tables[name]
        key = key_of(name)
        async with tenants() as session:
            connection = await session.connection()
            for statement in (f"DELETE FROM {name} WHERE {key}::text = '{B}'", f"UPDATE {name} SET {key} = {key}"):
                assert await touched(connection, statement) <= (0 if statement.startswith("DELETE") else 1), statement
            row = row_of(table, B) | {"id": 999} if "id" in table.columns and name != "users" else row_of(table, B)
            with pytest.raises(DBAPIError, match=r"permission denied|row-level security"):
                await insert(connection, table, row)


async def test_a_role_is_left_with_its_transaction(tenants: Sessions) -> None:
    async def role() -> str:
        async with tenants() as session:
            return (
                await session.scalar(text("SELECT current_user || ' ' || coalesce(sauda_user_id()::text, '-')")) or ""
            )

    act_for(A)
    with acting_as(OPERATOR_ROLE):
        assert await role() == f"{OPERATOR_ROLE} -"
    assert await role() == f"{APPLICATION_ROLE} {A}"
    act_for(None)
    assert await role() == f"{APPLICATION_ROLE} -"
    with pytest.raises(ValueError, match="no role to take"), acting_as("postgres"):
        pass
