"""How mails leave: over SMTP, or to the console where no mail server is set."""

import ipaddress
from collections.abc import Callable
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid, parseaddr
from typing import Protocol
from urllib.parse import unquote, urlsplit

import aiosmtplib

from backend.errors import SaudaError
from backend.services.mail_texts import Mail

TIMEOUT_S = 20.0
PORTS = {"smtp": 587, "smtps": 465}


class NotDeliveredError(SaudaError):
    """The mail server did not take the mail."""

    code, title = "mail_not_delivered", "Mail not delivered"


class Notifier(Protocol):
    """Delivers one mail."""

    async def send(self, mail: Mail, at: datetime) -> None:
        """Hand the mail over.

        Raises:
            NotDeliveredError: it was not taken.
        """
        ...


class ConsoleNotifier:
    """Prints mails for the person watching: the default, good for one machine."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        self._announce = announce

    async def send(self, mail: Mail, at: datetime) -> None:  # noqa: ARG002
        lines = [f"mail to {mail.to}: {mail.subject}", *mail.body.splitlines()]
        self._announce("\n".join(f"    @    {line}".rstrip() for line in lines))


class SmtpNotifier:
    """A mail server: `smtps://` speaks TLS from the first byte, `smtp://` by STARTTLS, which only loopback is spared.

    Raises:
        ValueError: the URL or the sender cannot be meant; it never repeats the URL, which holds a password.
    """

    def __init__(self, url: str, sender: str, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in PORTS or not parts.hostname:
            raise ValueError("SMTP_URL must be smtp://USER:PASSWORD@HOST:587 or smtps://USER:PASSWORD@HOST:465")
        if not parseaddr(sender)[1].partition("@")[2]:
            raise ValueError("MAIL_FROM must be an address: NAME <NAME@DOMAIN>")
        self._sender = sender
        self._host = parts.hostname
        self._port = parts.port or PORTS[parts.scheme]
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        self._tls = parts.scheme == "smtps"
        self._starttls = None if self._tls or is_loopback(parts.hostname) else True
        self._timeout_s = timeout_s

    async def send(self, mail: Mail, at: datetime) -> None:
        """One connection, one mail.

        Raises:
            NotDeliveredError: the server cannot be reached, offers no TLS, or refuses.
        """
        try:
            await aiosmtplib.send(
                self._message(mail, at),
                hostname=self._host,
                port=self._port,
                username=self._user,
                password=self._password,
                use_tls=self._tls,
                start_tls=False if self._tls else self._starttls,
                timeout=self._timeout_s,
            )
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            # The server's words may repeat the mail: only their kind is told.
            raise NotDeliveredError(type(error).__name__) from None

    def _message(self, mail: Mail, at: datetime) -> EmailMessage:
        message = EmailMessage()
        message["From"] = self._sender
        message["To"] = mail.to
        message["Subject"] = mail.subject
        message["Date"] = format_datetime(at)
        message["Message-ID"] = make_msgid(domain=parseaddr(self._sender)[1].partition("@")[2])
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.body)
        return message


def is_loopback(host: str) -> bool:
    """Whether the host is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def create_notifier(smtp_url: str, sender: str, announce: Callable[[str], None]) -> Notifier:
    """The notifier that the settings ask for.

    Raises:
        ValueError: as SmtpNotifier.
    """
    return SmtpNotifier(smtp_url, sender) if smtp_url else ConsoleNotifier(announce)
