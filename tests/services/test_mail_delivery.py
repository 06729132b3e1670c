"""Mails leave over a real connection, once each, are tried again where refused, and take no secret into a log."""

import asyncio
import email
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from structlog.testing import capture_logs

from backend.db import APPLICATION_ROLE, Sessions, create_engine, create_tenant_sessions
from backend.models import EmailPurpose, EmailToken, LoginDelay, LoginSession, OutboxMessage, RefreshToken, User
from backend.services import outbox_service
from backend.services.login_cleaning import clean
from backend.services.mail_service import ATTEMPTS_MAX, LEASE_S, Post, post
from backend.services.mail_texts import LINKS, Mail, MailKind, write
from backend.services.notifiers import (
    ConsoleNotifier,
    NotDeliveredError,
    SmtpNotifier,
    create_notifier,
    is_loopback,
)
from tests.support.smtp_server import certificate_for, smtp_server

NOW = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)
FROM = "Sauda <sauda@example.com>"
MAIL = Mail("asha@example.com", "Sauda: नमस्ते", "A line.\n.\nAfter a dot.\n")


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


@asynccontextmanager
async def posting(database_url: str, notifier: Any, clock: Clock) -> AsyncIterator[Post]:
    engine = create_engine(database_url, role=APPLICATION_ROLE)
    yield Post(create_tenant_sessions(engine), notifier, clock, "https://app.example.com")
    await engine.dispose()


async def leave(sessions: Sessions, *addresses: str, **facts: Any) -> None:
    async with sessions.begin() as session:
        for address in addresses:
            await post(session, MailKind.NOTICE, address, **({"subject": "S", "text": "T"} | facts))


async def test_a_mail_goes_out_whole() -> None:
    async with smtp_server() as server:
        url = f"smtp://sauda:p%40ss@127.0.0.1:{server.port}"
        await SmtpNotifier(url, FROM).send(MAIL, NOW)
    [raw] = server.mails
    message = email.message_from_string(raw.removesuffix(".\r\n").replace("\r\n..", "\r\n."), policy=default)
    assert (message["To"], message["From"], message["Subject"]) == (MAIL.to, FROM, MAIL.subject)
    assert message["Date"].datetime == NOW
    assert message["Auto-Submitted"] == "auto-generated"
    assert message.get_content().replace("\r\n", "\n") == MAIL.body
    assert "AUTH PLAIN AHNhdWRhAHBAc3M=" in server.said


async def test_no_password_goes_to_a_server_without_tls_unless_it_is_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "10.0.0.1", "mail.example")] == [
        *[True] * 3,
        *[False] * 2,
    ]
    starttls = {url: SmtpNotifier(url, FROM)._starttls for url in ("smtp://mail.example", "smtp://127.0.0.1")}
    assert starttls == {"smtp://mail.example": True, "smtp://127.0.0.1": None}
    async with smtp_server() as server:
        notifier = SmtpNotifier(f"smtp://sauda:secret@127.0.0.1:{server.port}", FROM)
        monkeypatch.setattr(notifier, "_starttls", True)  # as for any other host
        with pytest.raises(NotDeliveredError) as caught:
            await notifier.send(MAIL, NOW)
    assert server.mails == []
    assert not [line for line in server.said if line.startswith("AUTH")]
    assert "secret" not in repr(caught.value)


async def test_starttls_comes_before_the_password_and_the_certificate_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, certificate = certificate_for("localhost", tmp_path, datetime.now(UTC))
    async with smtp_server(context) as server:
        notifier = SmtpNotifier(f"smtp://sauda:secret@localhost:{server.port}", FROM)
        monkeypatch.setattr(notifier, "_starttls", True)
        with pytest.raises(NotDeliveredError):
            await notifier.send(MAIL, NOW)
        assert server.mails == []
        server.said.clear()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        await notifier.send(MAIL, NOW)
    assert len(server.mails) == 1
    verbs = [line.split(" ")[0].upper() for line in server.said]
    assert verbs.index("STARTTLS") < verbs.index("AUTH")


@pytest.mark.parametrize("url", ["http://mail.example", "smtp://", "mail.example:587", "smtp://user:secret@"])
def test_a_url_that_cannot_be_meant_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="SMTP_URL") as caught:
        create_notifier(url, FROM, print)
    assert "secret" not in str(caught.value)


def test_a_sender_that_is_no_address_is_refused_and_no_server_means_the_console() -> None:
    with pytest.raises(ValueError, match="MAIL_FROM"):
        create_notifier("smtp://mail.example", "Sauda", print)
    assert isinstance(create_notifier("", FROM, print), ConsoleNotifier)


async def test_each_mail_goes_once_however_many_deliver(
    sessions: async_sessionmaker[AsyncSession], database_url: str
) -> None:
    await leave(sessions, *(f"u{i}@example.com" for i in range(8)))
    async with smtp_server() as server:
        notifier = SmtpNotifier(f"smtp://127.0.0.1:{server.port}", FROM)
        async with posting(database_url, notifier, Clock()) as one, posting(database_url, notifier, Clock()) as two:
            counts = await asyncio.gather(one.deliver_all(), two.deliver_all(), one.deliver_all())
    assert sum(counts) == 8
    taken = sorted(line for line in server.said if line.startswith("RCPT"))
    assert taken == [f"RCPT TO:<u{i}@example.com>" for i in range(8)]
    async with sessions() as session:
        rows = (await session.scalars(select(OutboxMessage))).all()
    assert all(row.payload == {} and row.delivered_at == NOW for row in rows)


async def test_a_refused_mail_is_tried_again_later_and_later_and_given_up(
    sessions: async_sessionmaker[AsyncSession], database_url: str
) -> None:
    await leave(sessions, "asha@example.com", text="a canary in the text")
    clock = Clock()
    async with smtp_server() as server:
        server.refusal = "450 asha@example.com: a canary in the answer"
        async with posting(database_url, SmtpNotifier(f"smtp://127.0.0.1:{server.port}", FROM), clock) as one:
            waits = []
            with capture_logs() as logs:
                for _ in range(ATTEMPTS_MAX):
                    assert await one.deliver_all() == 1
                    async with sessions() as session:
                        row = (await session.scalars(select(OutboxMessage))).one()
                    waits.append((row.next_attempt_at - clock.now).total_seconds())
                    clock.now = row.next_attempt_at - timedelta(seconds=1)
                    if len(waits) < ATTEMPTS_MAX:
                        assert await one.deliver_all() == 0
                    clock.now = row.next_attempt_at
            assert await one.deliver_all() == 0
    assert waits[:-1] == [30, 120, 480, 1920, 7680, 21600, 21600]
    assert [line["event"] for line in logs] == ["mail_not_delivered"] * 7 + ["mail_given_up"]
    assert "canary" not in repr(logs)
    assert "asha@" not in repr(logs)
    async with sessions() as session:
        row = (await session.scalars(select(OutboxMessage))).one()
    assert (row.payload, row.delivered_at is not None) == ({}, True)
    assert server.mails == []


async def test_a_mail_whose_sender_died_goes_out_when_its_claim_has_run_out(
    sessions: async_sessionmaker[AsyncSession], database_url: str
) -> None:
    await leave(sessions, "asha@example.com")
    clock, lines = Clock(), []

    class Dying:
        async def send(self, mail: Mail, at: datetime) -> None:
            raise KeyboardInterrupt

    async with (
        posting(database_url, Dying(), clock) as one,
        posting(database_url, ConsoleNotifier(lines.append), clock) as two,
    ):
        with pytest.raises(KeyboardInterrupt):
            await one.deliver_one()
        assert await two.deliver_all() == 0
        clock.now += timedelta(seconds=LEASE_S)
        assert await two.deliver_all() == 1
    assert ["mail to asha@example.com" in line for line in lines] == [True]


async def test_mails_and_the_traders_messages_are_delivered_apart(
    trading: Any, sessions: async_sessionmaker[AsyncSession], database_url: str
) -> None:
    await leave(sessions, "asha@example.com")
    async with sessions.begin() as session:
        await session.execute(insert(OutboxMessage).values(topic="other.thing", payload={"message": "m"}))
    assert await outbox_service.deliver(trading) == 1
    lines: list[str] = []
    async with posting(database_url, ConsoleNotifier(lines.append), Clock()) as one:
        assert await one.deliver_all() == 1


async def test_what_no_text_can_be_made_of_stops_nothing_behind_it(
    sessions: async_sessionmaker[AsyncSession], database_url: str
) -> None:
    async with sessions.begin() as session:
        session.add(OutboxMessage(topic="mail.unheard_of", payload={"email": "a@example.com"}))
        session.add(OutboxMessage(topic="mail.notice", payload={}))
        session.add(OutboxMessage(topic="mail.password_reset", payload={"email": 7}))
    await leave(sessions, "asha@example.com")
    lines: list[str] = []
    async with posting(database_url, ConsoleNotifier(lines.append), Clock()) as one:
        with capture_logs():
            assert await one.deliver_all() == 4
    assert len(lines) == 1


@pytest.mark.parametrize("kind", list(MailKind))
def test_each_mail_is_whole_and_only_links_bear_a_token(kind: MailKind) -> None:
    facts = {
        "new_email": "b@example.com",
        "device": "{x} %s",
        "subject": "S",
        "text": "{email} T",
        "ended": "logins",
        "prefix": "p",
    }
    mail = write(kind, "a@example.com", facts, "https://app.example.com/", "tok")
    assert mail.to == "a@example.com"
    assert ("https://app.example.com/" in mail.body and "#token=tok\n" in mail.body) is (kind in LINKS)
    assert ("{" in mail.body) is (kind in {MailKind.SESSION_STOLEN, MailKind.NOTICE})


async def test_the_task_delivers_and_cleans_until_it_is_stopped(
    sessions: async_sessionmaker[AsyncSession], database_url: str
) -> None:
    sent: asyncio.Queue[str] = asyncio.Queue()
    async with sessions.begin() as session:
        session.add(LoginDelay(name=b"old", failures=1, failed_at=NOW - timedelta(days=2), blocked_until=NOW))
    async with posting(database_url, ConsoleNotifier(sent.put_nowait), Clock()) as one:
        await leave(sessions, "first@example.com")
        running = asyncio.create_task(one.run())
        assert "first@example.com" in await asyncio.wait_for(sent.get(), 10)
        await leave(sessions, "second@example.com")
        assert "second@example.com" in await asyncio.wait_for(sent.get(), 10)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(LoginDelay)) == 0


async def test_what_logins_leave_behind_goes_in_time(sessions: async_sessionmaker[AsyncSession]) -> None:
    day = timedelta(days=1)
    async with sessions.begin() as session:
        user = User(email="old@example.com")
        session.add(user)
        await session.flush()
        for ended in (NOW - 31 * day, NOW - 29 * day, NOW + day):
            login = LoginSession(user_id=user.id, expires_at=ended)
            session.add(login)
            await session.flush()
            token = f"{ended}".encode()
            session.add(RefreshToken(token_hash=token, session_id=login.id, user_id=user.id))
        for age in (8, 6):
            session.add(
                EmailToken(
                    token_hash=bytes([age]),
                    user_id=user.id,
                    purpose=EmailPurpose.VERIFY,
                    email=user.email,
                    expires_at=NOW - age * day,
                )
            )
        for hours in (25, 23):
            at = NOW - timedelta(hours=hours)
            session.add(LoginDelay(name=bytes([hours]), failures=1, failed_at=at, blocked_until=at))
    assert await clean(sessions, NOW) == 3
    assert await clean(sessions, NOW) == 0
    async with sessions() as session:
        left = [
            await session.scalar(select(func.count()).select_from(table))
            for table in (LoginSession, RefreshToken, EmailToken, LoginDelay)
        ]
    assert left == [2, 2, 1, 1]
