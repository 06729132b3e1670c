"""What this database is: its environment, and whether it is still the one that ran here last.

Simulated positions must never meet real prices, and a restored backup must not trade on what it has forgotten: orders
sent after the backup was made stand at the broker and not on record.
"""

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog
from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from backend.db import TRADER_ROLE, Sessions
from backend.domain.trading_states import Cause, Scope, TradingState
from backend.errors import ConflictError
from backend.models import Deployment, Order
from backend.services.trading_state_service import impose
from contracts.common import Environment

log = structlog.get_logger()

THE_ROW = 1
WITNESS = "deployment.json"


@dataclass(frozen=True, slots=True)
class Witness:
    """What a process last saw of its database, kept in a file beside it: name, starts counted, newest order."""

    name: str
    starts: int
    orders_through: int


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What PostgreSQL says of the server the data lies on; a restored dump or archive lies on another one."""

    cluster: str
    timeline: int


async def claim_environment(sessions: Sessions, environment: Environment) -> None:
    """Bind a fresh database to `environment`, or make sure that it is bound to it.

    Raises:
        ConflictError: it belongs to another environment.
    """
    async with sessions.begin() as session:
        await session.execute(
            insert(Deployment)
            .values(
                id=THE_ROW, environment=environment.value, name=secrets.token_hex(16), cluster="", timeline=0, starts=0
            )
            .on_conflict_do_nothing()
        )
        bound = await session.scalar(select(Deployment.environment).where(Deployment.id == THE_ROW))
    if bound != environment.value:
        raise ConflictError(
            f"this database belongs to the {bound} environment, not to {environment.value}: "
            "its positions were made at other prices; use another database or data folder",
            code="environment_mismatch",
        )


async def begin(sessions: Sessions, environment: Environment, folder: Path) -> str | None:
    """Start on a database: claim it, and HALT the platform where it is not as this process left it.

    Args:
        folder: where the witness file is kept; it is made if absent.

    Returns:
        Why trading was halted; None where all is as it was.

    Raises:
        ConflictError: the database belongs to another environment, or the connection works under another role.
    """
    await claim_environment(sessions, environment)
    async with sessions.begin() as session:
        row = (await session.scalars(select(Deployment).where(Deployment.id == THE_ROW).with_for_update())).one()
        await _require_role(session)
        present = await _fingerprint(session) or Fingerprint(row.cluster, row.timeline)
        newest = await _newest_order(session)
        why = restored(row, present, read_witness(folder), newest)
        if why is not None:
            log.error("database_is_not_as_it_was", why=why)
            await impose(session, Scope.PLATFORM, "", TradingState.HALTED, Cause.BACKUP_RESTORED, why)
        row.cluster, row.timeline = present.cluster, present.timeline
        row.starts += 1
        seen = Witness(row.name, row.starts, newest)
    _write_witness(folder, seen)
    return why


def restored(row: Deployment, present: Fingerprint, witness: Witness | None, newest_order: int) -> str | None:
    """What shows that the database was restored or exchanged; None where nothing does."""
    if row.cluster and row.cluster != present.cluster:
        return "the database was restored into another PostgreSQL server"
    if row.cluster and row.timeline != present.timeline:
        return "PostgreSQL was recovered from an archive: its timeline has changed"
    if witness is None or (witness.name != row.name and newest_order == 0):
        return None
    if witness.name != row.name:
        return "this data folder was used with another database"
    if witness.starts > row.starts or witness.orders_through > newest_order:
        return (
            f"the database is older than when it ran here last: start {row.starts} of {witness.starts}, "
            f"order {newest_order} of {witness.orders_through}"
        )
    return None


async def note_orders(sessions: Sessions, folder: Path) -> None:
    """Keep the newest order's number in the witness file: a backup from before it is then noticed."""
    witness = read_witness(folder)
    if witness is None:
        return
    async with sessions() as session:
        newest = await _newest_order(session)
    if newest > witness.orders_through:
        _write_witness(folder, Witness(witness.name, witness.starts, newest))


def read_witness(folder: Path) -> Witness | None:
    """The witness file; None where there is none, or nobody can read it (said in the log)."""
    path = folder / WITNESS
    try:
        return Witness(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        log.warning("witness_unreadable", path=str(path), error=repr(error))
        return None


def _write_witness(folder: Path, witness: Witness) -> None:
    """Whole or not at all; a folder that cannot be written costs the witness, not the start."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A name of one's own: gateway and trader may write at the same time.
        temporary = folder / f"{WITNESS}.{os.getpid()}"
        temporary.write_text(json.dumps(asdict(witness)))
        temporary.replace(folder / WITNESS)
    except OSError as error:
        log.warning("witness_unwritable", folder=str(folder), error=repr(error))


async def _require_role(session: AsyncSession) -> None:
    """A pooler that drops the connection's settings would let the books be changed without anybody noticing."""
    role = await session.scalar(text("SELECT current_user"))
    if role != TRADER_ROLE:
        raise ConflictError(
            f"the database's connections work under {role} and not under {TRADER_ROLE}: "
            "connect without a pooler, or with one that passes the setting `role` on",
            code="wrong_database_role",
        )


async def _newest_order(session: AsyncSession) -> int:
    return await session.scalar(select(func.max(Order.id))) or 0


async def _fingerprint(session: AsyncSession) -> Fingerprint | None:
    """None where the server does not tell: managed services keep it to their superuser."""
    if not await session.scalar(text("SELECT has_function_privilege('pg_control_system()', 'execute')")):
        return None
    row = (
        await session.execute(
            text(
                "SELECT (SELECT system_identifier FROM pg_control_system()) AS cluster, "
                "(SELECT timeline_id FROM pg_control_checkpoint()) AS timeline"
            )
        )
    ).one()
    return Fingerprint(str(row.cluster), row.timeline)
