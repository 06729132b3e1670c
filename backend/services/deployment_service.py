"""The database's own memory of its environment: simulated positions must never meet real prices."""

import secrets

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from backend.db import Sessions
from backend.errors import ConflictError
from backend.models import Deployment
from contracts.common import Environment

THE_ROW = 1


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
