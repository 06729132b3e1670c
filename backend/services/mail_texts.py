"""What mails say. Pure: an event and its facts to a subject and a body; plain text, one link at most."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from backend.models import EmailPurpose


class MailKind(StrEnum):
    """Topics of the outbox that go out by e-mail."""

    VERIFY = "mail.verify"
    RESET = "mail.password_reset"
    CHANGE = "mail.email_change"
    ADDRESS_TAKEN = "mail.address_taken"
    EMAIL_CHANGING = "mail.email_changing"
    EMAIL_CHANGED = "mail.email_changed"
    PASSWORD_CHANGED = "mail.password_changed"  # noqa: S105
    SESSION_STOLEN = "mail.session_stolen"
    KEY_MADE = "mail.key_made"
    NOTICE = "mail.notice"


@dataclass(frozen=True, slots=True)
class Link:
    """What a mail's link does: its purpose, the page of the frontend, the route, and hours until it expires."""

    purpose: EmailPurpose
    page: str
    route: str
    hours: float


LINKS = {
    MailKind.VERIFY: Link(EmailPurpose.VERIFY, "verify-email", "POST /v1/auth/email/verify", 24),
    MailKind.CHANGE: Link(EmailPurpose.CHANGE, "verify-email", "POST /v1/auth/email/verify", 24),
    MailKind.RESET: Link(EmailPurpose.RESET, "reset-password", "POST /v1/auth/password-reset/confirm", 0.5),
}
"""The mails that bear a link. It is made when the mail is, so that no secret waits in the outbox."""

_NOT_YOU = "If that was not you, ask for a new password at once: POST /v1/auth/password-reset."

_TEXTS = {
    MailKind.VERIFY: (
        "Is this your address?",
        "Please confirm that {email} is your e-mail address. If you did not ask for a Sauda account, do nothing.",
    ),
    MailKind.CHANGE: (
        "Is this your new address?",
        "Please confirm that {email} is the new address of your Sauda account. If you did not ask for it, do nothing.",
    ),
    MailKind.RESET: (
        "A new password",
        "Somebody asked for a new password for {email}. If that was not you, do nothing: the old one stays.",
    ),
    MailKind.ADDRESS_TAKEN: (
        "You have an account already",
        "Somebody tried to use {email} for an account, and it has one. If it was you, log in or reset the password.",
    ),
    MailKind.EMAIL_CHANGING: (
        "Your address is to change",
        "Your Sauda account is to have the address {new_email} as soon as that is confirmed. " + _NOT_YOU,
    ),
    MailKind.EMAIL_CHANGED: (
        "Your address has changed",
        "Your Sauda account has the address {new_email} now. If that was not you, write to who runs this deployment.",
    ),
    MailKind.PASSWORD_CHANGED: (
        "Your password has changed",
        "The password of {email} was changed, and all other {ended} were ended. " + _NOT_YOU,
    ),
    MailKind.SESSION_STOLEN: (
        "A login was ended",
        "The login from {device} was ended, because a key of it was used a second time: it may have been copied. "
        "Log in again. " + _NOT_YOU,
    ),
    MailKind.KEY_MADE: (
        "A new API key",
        "An API key, {prefix}..., was made for the Sauda account of {email}. " + _NOT_YOU + " That ends all keys.",
    ),
    MailKind.NOTICE: ("{subject}", "{text}"),
}


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail ready to go."""

    to: str
    subject: str
    body: str


def write(kind: MailKind, email: str, facts: Mapping[str, Any], public_url: str, token: str | None = None) -> Mail:
    """The mail of that kind to `email`; `token` is the secret of its link, where it bears one.

    The token stands behind a `#`, which browsers keep from servers, their logs and other pages.

    Raises:
        KeyError: a fact that the text needs is missing.
    """
    subject, body = (text.format_map({**facts, "email": email}) for text in _TEXTS[kind])
    link = LINKS.get(kind)
    if link is not None and token is not None:
        body = (
            f"{body}\n\n{public_url.rstrip('/')}/{link.page}#token={token}\n\n"
            f"Without a frontend, send the token by {link.route}. It works once, for {_span(link.hours)}."
        )
    return Mail(email, f"Sauda: {subject}", body + "\n")


def _span(hours: float) -> str:
    return f"{hours:g} hours" if hours >= 1 else f"{hours * 60:g} minutes"
