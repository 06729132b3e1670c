"""Somebody who registers, logs in and reads mails, as a person would: through the API and the console's mails."""

import re
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
from argon2 import PasswordHasher

from backend.api.state import ApiState
from backend.security import Security
from backend.services.mail_service import Post
from backend.services.notifiers import ConsoleNotifier
from tests.api.conftest import KEY, Gateway

PASSWORD = "correct horse battery"
OTHER_PASSWORD = "a quiet river 4 stones"


@dataclass
class Mailbox:
    """The mails of a gateway, delivered when a test looks."""

    gateway: Gateway
    lines: list[str] = field(default_factory=list)

    async def to(self, email: str) -> list[str]:
        """All mails to that address so far."""
        post = Post(
            self.gateway.state.sessions,
            ConsoleNotifier(self.lines.append),
            self.gateway.clock,
            "https://app.example.com/",
        )
        await post.deliver_all()
        return [mail for mail in self.lines if f"mail to {email}:" in mail]

    async def token_to(self, email: str) -> str:
        """The token of the newest link that address was sent."""
        return re.findall(r"#token=([\w-]{43})$", (await self.to(email))[-1], re.MULTILINE)[0]


async def register(gateway: Gateway, email: str, password: str = PASSWORD) -> httpx.Response:
    return await gateway.client.post("/v1/auth/register", json={"email": email, "password": password})


async def log_in(gateway: Gateway, email: str, password: str = PASSWORD, **more: Any) -> httpx.Response:
    return await gateway.client.post("/v1/auth/login", json={"email": email, "password": password} | more)


async def newcomer(gateway: Gateway, email: str) -> dict[str, Any]:
    """Register and log in; the tokens."""
    assert (await register(gateway, email)).status_code == 202
    reply = await log_in(gateway, email)
    assert reply.status_code == 200
    return reply.json()


def bearer(tokens: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens['access_token']}"}


class CountingHasher(PasswordHasher):
    """Counts what takes the time of a login."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.count = 0

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        self.count += 1
        return super().hash(password, salt=salt)

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # noqa: A002
        self.count += 1
        return super().verify(hash, password)


def counted(gateway: Gateway) -> CountingHasher:
    """Have the gateway's hashes counted from here on."""
    hasher = CountingHasher()
    state: ApiState = replace(gateway.state, security=Security(KEY, 10, gateway.clock, hasher))
    gateway.app.state.api = state
    hasher.count = 0
    return hasher
