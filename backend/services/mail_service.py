"""Mails: written to the outbox in the transaction they tell of, delivered afterwards, and tried again where they fail.

A mail is claimed in a short transaction, sent outside any, and marked in another. A crash in between may send it
twice; it never loses one. A link's token is made with each attempt; how many stand side by side says email_tokens.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Update, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningUpdate

from backend.db import OPERATOR_ROLE, Sessions, acting_as
from backend.models import OutboxMessage, User
from backend.services.email_tokens import is_full, issue_token
from backend.services.login_cleaning import clean
from backend.services.mail_texts import LINKS, MailKind, write
from backend.services.notifiers import NotDeliveredError, Notifier

log = structlog.get_logger()

ATTEMPTS_MAX = 8
FIRST_DELAY_S = 30
DELAY_S_MAX = 6 * 3600
LEASE_S = 120
"""How long a claim outlives a process that died with it; longer than any send may take."""
GAP_S = 60
"""A second mail of the same kind to the same user within this time is dropped: nobody's letter-box is flooded."""
LOOK_BACK = 1000
"""Messages among which it is looked for."""
POLL_S = 1.0
CLEAN_EVERY_S = 3600.0
GAPPED = frozenset({MailKind.VERIFY, MailKind.RESET, MailKind.ADDRESS_TAKEN})


async def post(session: AsyncSession, kind: MailKind, email: str, *, user_id: int | None = None, **facts: Any) -> None:
    """Leave a mail to `email` in the outbox; joins the transaction. Facts must be JSON, and hold no secret.

    MailKind.NOTICE takes `subject` and `text`, for whatever has no kind of its own.
    """
    # Who writes mails need not be able to read them: nothing is returned.
    message = {"topic": kind.value, "user_id": user_id, "payload": {"email": email, **facts}}
    await session.execute(insert(OutboxMessage).inline(), message)


@dataclass(frozen=True, slots=True)
class Post:
    """What delivers: `sessions` that may act as an operator, the `clock` of the real time, and where links lead."""

    sessions: Sessions
    notifier: Notifier
    clock: Callable[[], datetime]
    public_url: str

    async def run(self) -> None:
        """Deliver, and clean up behind logins, until cancelled; trouble is logged and outlasted."""
        cleaned_at: datetime | None = None
        while True:
            try:
                busy = await self.deliver_one()
                now = self.clock()
                if cleaned_at is None or now - cleaned_at >= timedelta(seconds=CLEAN_EVERY_S):
                    cleaned_at = now
                    await clean(self.sessions, now)
            except Exception as error:  # nothing may end the delivery of mails; the error's text may hold one
                log.error("mail_held_up", error=type(error).__name__)
                busy = False
            if not busy:
                await asyncio.sleep(POLL_S)

    async def deliver_all(self) -> int:
        """Deliver what is due; how many messages were looked at."""
        count = 0
        while await self.deliver_one():
            count += 1
        return count

    async def deliver_one(self) -> bool:
        """Take the oldest mail that is due and send it; whether there was one."""
        now = self.clock()
        with acting_as(OPERATOR_ROLE):
            async with self.sessions.begin() as session:
                message = await session.scalar(_claim(now))
                if message is None:
                    return False
                prepared = await _prepare(session, message, now)
            if prepared is None:
                await self._finish(message, now)
                return True
            email, kind, token = prepared
            try:
                await self.notifier.send(write(kind, email, message.payload, self.public_url, token), now)
            except NotDeliveredError as error:
                await self._failed(message, error.detail, now)
            except (KeyError, ValueError) as error:
                log.error("mail_unreadable", id=message.id, topic=message.topic, error=type(error).__name__)
                await self._finish(message, now)
            else:
                await self._finish(message, now)
        return True

    async def _failed(self, message: OutboxMessage, why: str, now: datetime) -> None:
        if message.attempts >= ATTEMPTS_MAX:
            log.error("mail_given_up", id=message.id, topic=message.topic, attempts=message.attempts, error=why)
            await self._finish(message, now)
            return
        wait_s = min(FIRST_DELAY_S * 4 ** (message.attempts - 1), DELAY_S_MAX)
        log.warning("mail_not_delivered", id=message.id, topic=message.topic, error=why, again_in_s=wait_s)
        async with self.sessions.begin() as session:
            await session.execute(_of(message).values(next_attempt_at=now + timedelta(seconds=wait_s)))

    async def _finish(self, message: OutboxMessage, now: datetime) -> None:
        async with self.sessions.begin() as session:
            await session.execute(_of(message).values(delivered_at=now, payload={}))


def _claim(now: datetime) -> ReturningUpdate[OutboxMessage]:
    due = (
        select(OutboxMessage.id)
        .where(
            OutboxMessage.delivered_at.is_(None),
            OutboxMessage.topic.startswith("mail."),
            or_(OutboxMessage.next_attempt_at.is_(None), OutboxMessage.next_attempt_at <= now),
        )
        .order_by(OutboxMessage.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return (
        update(OutboxMessage)
        .where(OutboxMessage.id == due.scalar_subquery())
        .values(attempts=OutboxMessage.attempts + 1, next_attempt_at=now + timedelta(seconds=LEASE_S))
        .returning(OutboxMessage)
        .execution_options(synchronize_session=False)
    )


def _of(message: OutboxMessage) -> Update:
    """Of this attempt: one that was taken over meanwhile is left to its new holder."""
    return update(OutboxMessage).where(OutboxMessage.id == message.id, OutboxMessage.attempts == message.attempts)


async def _prepare(
    session: AsyncSession, message: OutboxMessage, now: datetime
) -> tuple[str, MailKind, str | None] | None:
    """The address, the kind and the token of a fresh link; None where nothing is to be sent."""
    if message.topic not in set(MailKind):
        log.error("mail_unknown", id=message.id, topic=message.topic)
        return None
    kind, email = MailKind(message.topic), str(message.payload.get("email", ""))
    if kind is MailKind.RESET:
        message.user_id = await _user_of(session, email)
        if message.user_id is None:
            return None
    if kind is MailKind.CHANGE and await _user_of(session, email) is not None:
        kind = MailKind.ADDRESS_TAKEN
    if kind in GAPPED and message.attempts == 1 and await _sent_just_now(session, message, now):
        return None
    link = LINKS.get(kind)
    if link is None or message.user_id is None:
        return email, kind, None
    if message.attempts == 1 and await is_full(session, message.user_id, link.purpose, now):
        return None  # the user has links enough; one more would end the first
    life = timedelta(hours=link.hours)
    return email, kind, await issue_token(session, message.user_id, link.purpose, email, now, life)


async def _user_of(session: AsyncSession, email: str) -> int | None:
    return await session.scalar(select(User.id).where(func.lower(User.email) == email.lower(), User.active))


async def _sent_just_now(session: AsyncSession, message: OutboxMessage, now: datetime) -> bool:
    found = await session.scalar(
        select(OutboxMessage.id)
        .where(
            OutboxMessage.id > message.id - LOOK_BACK,
            OutboxMessage.user_id == message.user_id,
            OutboxMessage.topic == message.topic,
            OutboxMessage.id != message.id,
            OutboxMessage.delivered_at > now - timedelta(seconds=GAP_S),
        )
        .limit(1)
    )
    return found is not None
