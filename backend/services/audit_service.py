"""The audit log: recording a deed in the transaction that does it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, null
from sqlalchemy.ext.asyncio import AsyncSession

from backend.models import AuditEntry

REASON_MAX = 300


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something: `name` is user:ID, key:ID, cli:NAME or system, `id` the user behind it, `ip` from where."""

    name: str
    id: int | None = None
    ip: str = ""


SYSTEM = Actor("system")


async def record(
    session: AsyncSession,
    actor: Actor,
    action: str,
    *,
    subject_id: int | None = None,
    target: str = "",
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str = "",
) -> None:
    """Write down a deed; joins the transaction, so what is undone was not done. Call it last: writers stand in a line.

    `action` is noun.verb (`api_key.create`), `subject_id` the user it concerns, `target` what of theirs. Never hand a
    secret in, and no name or address: `before` and `after` are kept for five years, whoever is erased meanwhile, and
    shown to the user.
    """
    await session.execute(
        insert(AuditEntry).inline(),
        {
            "id": 0,  # the database numbers and chains (migration 0006)
            "actor": actor.name,
            "actor_id": actor.id,
            "ip": actor.ip,
            "action": action,
            "subject_id": subject_id,
            "target": target,
            "before": null() if before is None else dict(before),
            "after": null() if after is None else dict(after),
            "reason": reason[:REASON_MAX],
            "previous_hash": b"",
            "hash": b"",
        },
    )
