"""Notices, each in its present version, and what users answered to them (DPDP Act 2023, sections 5 and 6)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from importlib import resources

from sqlalchemy import insert, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncSession

from backend.errors import ConflictError, NotAllowedError
from backend.models import Consent
from backend.services.audit_service import Actor, record

VERSION_LENGTH = 16
"""Hex digits of a version: the beginning of its text's SHA-256."""


class NoticeName(StrEnum):
    """What users are told, and asked about where the law or the risk asks it."""

    PRIVACY = "privacy"
    RISK_DISCLOSURE = "risk_disclosure"
    TERMS = "terms"


@dataclass(frozen=True, slots=True)
class Notice:
    """One notice: its text is Markdown, its version follows from the text. `needed_for` says what it stands before."""

    name: NoticeName
    title: str
    version: str
    text: str
    needed_for: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The newest answer to a notice. `current`: it was to the present version."""

    notice: NoticeName
    version: str
    given: bool
    current: bool
    at: datetime


_NEEDED_FOR = {NoticeName.RISK_DISCLOSURE: "live trading"}


def _load(name: NoticeName) -> Notice:
    text = (resources.files("backend.services") / "notices" / f"{name.value}.md").read_text(encoding="utf-8")
    title = text.partition("\n")[0].removeprefix("# ")
    version = hashlib.sha256(text.encode()).hexdigest()[:VERSION_LENGTH]
    return Notice(name, title, version, text, _NEEDED_FOR.get(name, ""))


NOTICES: Mapping[NoticeName, Notice] = {name: _load(name) for name in NoticeName}


async def answers_of(session: AsyncSession, user_id: int) -> list[Answer]:
    """The user's newest answer to each notice that was answered."""
    newest = (
        select(Consent)
        .where(Consent.user_id == user_id, Consent.notice.in_([name.value for name in NoticeName]))
        .ext(distinct_on(Consent.notice))
        .order_by(Consent.notice, Consent.id.desc())
    )
    return [_answer(row) for row in await session.scalars(newest)]


def _answer(row: Consent) -> Answer:
    name = NoticeName(row.notice)
    return Answer(name, row.version, row.given, row.version == NOTICES[name].version, row.created_at)


async def missing_of(session: AsyncSession, user_id: int) -> list[Notice]:
    """The notices whose present version the user has not accepted."""
    accepted = {answer.notice for answer in await answers_of(session, user_id) if answer.given and answer.current}
    return [notice for notice in NOTICES.values() if notice.name not in accepted]


async def answer(
    session: AsyncSession, actor: Actor, user_id: int, name: NoticeName, version: str | None, given: bool, now: datetime
) -> list[Answer]:
    """Record a consent, or that it is taken back; all answers then. Joins the transaction.

    Only the present version can be accepted. Taking a consent back needs no version.

    Raises:
        ConflictError: another version than the present one is accepted.
    """
    present = NOTICES[name].version
    if given and version != present:
        raise ConflictError(
            f"The notice {name.value} has the version {present} now: read it at GET /v1/notices, and accept that.",
            code="notice_outdated",
        )
    told = version or present
    values = {"notice": name.value, "version": told, "given": given}
    await session.execute(insert(Consent).inline(), values | {"user_id": user_id, "ip": actor.ip, "created_at": now})
    answers = await answers_of(session, user_id)
    await record(
        session, actor, "consent.give" if given else "consent.withdraw", subject_id=user_id, target=name, after=values
    )
    return answers


async def require_consent(session: AsyncSession, user_id: int, name: NoticeName) -> None:
    """Let pass whoever has accepted the present version of a notice.

    Raises:
        NotAllowedError: it is not accepted; the detail says how to.
    """
    if name in {notice.name for notice in await missing_of(session, user_id)}:
        notice = NOTICES[name]
        raise NotAllowedError(
            f"Read and accept {notice.title!r} first: GET /v1/notices, then POST /v1/consents "
            f'{{"notice": "{name.value}", "version": "{notice.version}", "given": true}}.',
            code="consent_required",
        )
