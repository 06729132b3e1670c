"""Notices and consents on the wire."""

from typing import Annotated, Self

from pydantic import StringConstraints

from backend.api.schemas.common import Body, Flag, Moment, Reply
from backend.services.consent_service import Answer, Notice, NoticeName


class NoticeView(Reply):
    """`text` is Markdown; `version` follows from it. `needed_for` says what cannot be done without accepting it."""

    notice: NoticeName
    title: str
    version: str
    needed_for: str
    text: str

    @classmethod
    def of(cls, notice: Notice) -> Self:
        return cls(
            notice=notice.name,
            title=notice.title,
            version=notice.version,
            needed_for=notice.needed_for,
            text=notice.text,
        )


class NoticesReply(Reply):
    notices: list[NoticeView]


class ConsentBody(Body):
    """`version` is that of the notice which was read; it may be left out to take a consent back."""

    notice: NoticeName
    version: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")] | None = None
    given: Flag


class ConsentView(Reply):
    """The newest answer to a notice; `current` says whether it was to the present version."""

    notice: NoticeName
    version: str
    given: bool
    current: bool
    at: Moment

    @classmethod
    def of(cls, answer: Answer) -> Self:
        return cls(
            notice=answer.notice, version=answer.version, given=answer.given, current=answer.current, at=answer.at
        )


class ConsentsReply(Reply):
    """The newest answer to each notice that was answered."""

    consents: list[ConsentView]


class MissingConsent(Reply):
    """A notice whose present version is not accepted; without `needed_for` everything works all the same."""

    notice: NoticeName
    version: str
    needed_for: str

    @classmethod
    def of(cls, notice: Notice) -> Self:
        return cls(notice=notice.name, version=notice.version, needed_for=notice.needed_for)
