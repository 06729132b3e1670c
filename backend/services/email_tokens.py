"""The secrets of links in mails: 256 bits, kept as SHA-256, good once and for a while, only the newest of a kind.

Links that reset a password stand side by side, STANDING of them: a stranger who asks for more ends none of the user's.
"""

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from backend.errors import InvalidRequestError
from backend.models import EmailPurpose, EmailToken
from backend.security import digest, new_secret

STANDING = {EmailPurpose.VERIFY: 1, EmailPurpose.CHANGE: 1, EmailPurpose.RESET: 5}
"""How many tokens of a purpose a user may have that can be used."""


async def issue_token(
    session: AsyncSession, user_id: int, purpose: EmailPurpose, email: str, now: datetime, life: timedelta
) -> str:
    """A new token for `email`; the user's oldest beyond STANDING of that purpose end. Joins the transaction."""
    of_kind = EmailToken.user_id == user_id, EmailToken.purpose == purpose
    newest = select(EmailToken.token_hash).where(*of_kind, *_usable(now)).order_by(EmailToken.created_at.desc())
    staying = (await session.scalars(newest.limit(STANDING[purpose] - 1))).all()
    await session.execute(delete(EmailToken).where(*of_kind, EmailToken.token_hash.not_in(staying)))
    token = new_secret()
    session.add(
        EmailToken(
            token_hash=digest(token),
            user_id=user_id,
            purpose=purpose,
            email=email,
            created_at=now,
            expires_at=now + life,
        )
    )
    await session.flush()
    return token


async def is_full(session: AsyncSession, user_id: int, purpose: EmailPurpose, now: datetime) -> bool:
    """Whether another token would end one that somebody may be about to use; for purposes with several."""
    standing = select(func.count()).where(EmailToken.user_id == user_id, EmailToken.purpose == purpose, *_usable(now))
    return STANDING[purpose] > 1 and (await session.scalar(standing) or 0) >= STANDING[purpose]


def _usable(now: datetime) -> tuple[ColumnElement[bool], ...]:
    return EmailToken.used_at.is_(None), EmailToken.expires_at > now


async def end_tokens(session: AsyncSession, user_id: int, purposes: Collection[EmailPurpose]) -> None:
    """End the user's tokens of those purposes. Joins the transaction."""
    await session.execute(delete(EmailToken).where(EmailToken.user_id == user_id, EmailToken.purpose.in_(purposes)))


async def use_token(session: AsyncSession, token: str, purposes: Collection[EmailPurpose], now: datetime) -> EmailToken:
    """What the token stands for; from here on it is used up. Joins the transaction.

    Raises:
        InvalidRequestError: no such token, used, expired, or a newer one was sent; it does not say which.
    """
    found = await session.scalar(
        update(EmailToken)
        .where(
            EmailToken.token_hash == digest(token),
            EmailToken.purpose.in_(purposes),
            *_usable(now),
        )
        .values(used_at=now)
        .returning(EmailToken)
        .execution_options(synchronize_session=False)
    )
    if found is None:
        raise InvalidRequestError(
            "This link has been used, has expired, or a newer one was sent: ask for another mail.",
            code="link_invalid",
        )
    return found
