"""Everything that is kept about one user, as one JSON document, which is put into a file before any of it is sent.

The database itself decides what is the user's (row-level security), as it does for every request of theirs. A client
who reads slowly holds a file, and no connection to the database.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import IO, Any

import orjson
from sqlalchemy import Column, ColumnElement, LargeBinary, Table, and_, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from backend.db import Sessions, act_for
from backend.errors import SaudaError, TooManyRequestsError
from backend.models import AuditEntry, Base, TradingStatePeriod

ROWS_AT_ONCE = 500
GATHERED_AT_ONCE_MAX = 2
"""Exports that read the database at the same time: the pool is for everybody's requests."""
GATHER_S_MAX = 60.0
SENT_AT_ONCE = 1 << 18
"""Bytes."""

EXPORTED = (
    "users",
    "credentials",
    "login_sessions",
    "api_keys",
    "recovery_codes",
    "refresh_tokens",
    "email_tokens",
    "consents",
    "subscriptions",
    "daily_usage",
    "billing_details",
    "payments",
    "invoices",
    "broker_accounts",
    "broker_credentials",
    "broker_sessions",
    "live_permissions",
    "compliance_records",
    "auto_trade_settings",
    "auto_trades",
    "decisions",
    "orders",
    "order_events",
    "fills",
    "ledger_balances",
    "ledger_entries",
    "day_equity",
    "account_actions",
    "paper_actions",
    "paper_balances",
    "paper_changes",
    "paper_entries",
    "paper_orders",
    "paper_positions",
    "paper_trades",
    "sandbox_apps",
    "sandbox_gtts",
    "sandbox_sessions",
    "backtests",
    "backtest_usage",
    "trading_states",
    "idempotency_keys",
    "audit_log",
)
"""The tables with rows of users, in the order of the document."""
LEFT_OUT: Mapping[str, str] = {
    "outbox": "mails on their way to the user; they are emptied as they are delivered",
    "broker_calls": "when a broker was called, kept for a day to stay within its limits",
}
"""Tables with rows of users that are not exported, and why."""
_ONE_SNAPSHOT = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
SECRET = frozenset({("credentials", "password_hash"), ("broker_credentials", "key_id")})
"""Columns that are left out beside everything binary, which is hashes, sealed secrets and copies of answers."""


class ExportTooLongError(SaudaError):
    """The database did not give the export in time."""

    status, code, title = 503, "export_too_long", "Service unavailable"


@dataclass(slots=True)
class Exports:
    """The exports of one process that are under way. Runs on one event loop."""

    gather_s_max: float = GATHER_S_MAX
    _users: set[int] = field(default_factory=set)
    _gathering: int = 0

    @contextmanager
    def held(self, user_id: int) -> Iterator[IO[bytes]]:
        """The user's one place, with the file of the export, for as long as the block runs.

        Raises:
            TooManyRequestsError: the user has an export under way.
        """
        if user_id in self._users:
            raise TooManyRequestsError(
                "Your export is under way: take that one to its end.", code="export_under_way", retry_after_s=10
            )
        self._users.add(user_id)
        try:
            with tempfile.TemporaryFile() as file:
                yield file
        finally:
            self._users.discard(user_id)

    async def gather(self, file: IO[bytes], sessions: Sessions, user_id: int, now: datetime) -> None:
        """Write the document to the file; the transaction has ended when this returns.

        Raises:
            TooManyRequestsError: GATHERED_AT_ONCE_MAX are read just now.
            ExportTooLongError: it took longer than `gather_s_max` seconds.
        """
        if self._gathering >= GATHERED_AT_ONCE_MAX:
            raise TooManyRequestsError(
                "Other exports are being read: try again in a minute.", code="exports_busy", retry_after_s=60
            )
        self._gathering += 1
        try:
            async with asyncio.timeout(self.gather_s_max):
                async for piece in export(sessions, user_id, now):
                    await asyncio.to_thread(file.write, piece)
        except TimeoutError:
            raise ExportTooLongError("Your data could not be read in time: try again later.") from None
        finally:
            self._gathering -= 1


async def sent(file: IO[bytes]) -> AsyncIterator[bytes]:
    """What was written to a file, from its beginning."""
    file.seek(0)
    while piece := await asyncio.to_thread(file.read, SENT_AT_ONCE):
        yield piece


def columns_of(table: Table) -> list[Column[Any]]:
    """What of a table is exported."""
    return [
        column
        for column in table.columns
        if not isinstance(column.type, LargeBinary) and (table.name, column.name) not in SECRET
    ]


def _narrowed(table: Table, user_id: int) -> ColumnElement[bool]:
    """Where users may see more than their own rows."""
    if table.name == TradingStatePeriod.__tablename__:
        # The platform's states are everybody's.
        return and_(table.c.scope == "user", table.c.key == str(user_id)) | (table.c.scope == "holding")
    return true()


async def export(sessions: Sessions, user_id: int, now: datetime) -> AsyncIterator[bytes]:
    """The document, in pieces: `{"exported_at": …, "user_id": …, "tables": {name: [row, …]}, "left_out": {…}}`.

    One snapshot of the database. Instants are ISO-8601 in UTC, money and prices strings.
    """
    act_for(user_id)
    async with sessions() as session:
        await session.connection(execution_options=_ONE_SNAPSHOT)
        head = {"exported_at": now, "user_id": user_id, "left_out": dict(LEFT_OUT)}
        yield orjson.dumps(head, option=orjson.OPT_UTC_Z)[:-1] + b',"tables":{'
        for number, name in enumerate(EXPORTED):
            yield (b"," if number else b"") + orjson.dumps(name) + b":["
            async for piece in _rows(session, Base.metadata.tables[name], user_id):
                yield piece
            yield b"]"
        yield b"}}"


async def _rows(session: AsyncSession, table: Table, user_id: int) -> AsyncIterator[bytes]:
    query = select(*columns_of(table)).where(_narrowed(table, user_id)).order_by(*table.primary_key.columns)
    found = await session.stream(query.execution_options(yield_per=ROWS_AT_ONCE))
    separator = b""
    async for part in found.mappings().partitions():
        rows = [_shown(table, row, user_id) for row in part]
        yield separator + orjson.dumps(rows, default=_plain, option=orjson.OPT_UTC_Z)[1:-1]
        separator = b","


def _shown(table: Table, row: Mapping[Any, Any], user_id: int) -> dict[str, Any]:
    shown = dict(row)
    if table.name == AuditEntry.__tablename__ and shown["actor_id"] != user_id:
        shown["ip"] = ""  # somebody else's
    return shown


def _plain(value: Any) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError(type(value).__name__)
