"""Dropping what logins leave behind, in bounded steps: ended sessions, links, delays."""

from datetime import datetime, timedelta

from sqlalchemy import Delete, delete, func, or_, select

from backend.db import OPERATOR_ROLE, Sessions, acting_as
from backend.models import EmailToken, LoginDelay, LoginSession, RefreshToken

ROWS_MAX = 1000
"""Rows of one transaction."""
SESSIONS_KEPT_DAYS = 30
"""Days that an ended session can still be looked at; its tokens go with it."""
USED_TOKENS_KEPT_DAYS = 90
"""Days that a used refresh token of a session is still known for stolen; no session lives longer."""
DELAYS_KEPT_H = 24
LINKS_KEPT_DAYS = 7


def old_rows(now: datetime) -> tuple[Delete, ...]:
    """One statement per table, each over at most ROWS_MAX rows: to be run until it finds fewer."""
    ended = func.coalesce(LoginSession.revoked_at, LoginSession.expires_at)
    sessions = select(LoginSession.id).where(
        ended < now - timedelta(days=SESSIONS_KEPT_DAYS),
        or_(LoginSession.revoked_at.is_not(None), LoginSession.expires_at < now),
    )
    tokens = select(RefreshToken.token_hash).where(RefreshToken.used_at < now - timedelta(days=USED_TOKENS_KEPT_DAYS))
    links = select(EmailToken.token_hash).where(EmailToken.expires_at < now - timedelta(days=LINKS_KEPT_DAYS))
    delays = select(LoginDelay.name).where(LoginDelay.failed_at < now - timedelta(hours=DELAYS_KEPT_H))
    return (
        delete(LoginSession).where(LoginSession.id.in_(sessions.limit(ROWS_MAX))),
        delete(RefreshToken).where(RefreshToken.token_hash.in_(tokens.limit(ROWS_MAX))),
        delete(EmailToken).where(EmailToken.token_hash.in_(links.limit(ROWS_MAX))),
        delete(LoginDelay).where(LoginDelay.name.in_(delays.limit(ROWS_MAX))),
    )


async def clean(sessions: Sessions, now: datetime) -> int:
    """Drop what is kept no longer; how many rows went."""
    total = 0
    with acting_as(OPERATOR_ROLE):
        for statement in old_rows(now):
            purged = ROWS_MAX
            while purged == ROWS_MAX:
                async with sessions.begin() as session:
                    purged = (await (await session.connection()).execute(statement)).rowcount
                total += purged
    return total
