"""The sandbox at the gateway: its keys over the API, and logins with the gateway's own password and second factor."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlsplit

import httpx
import pyotp
import pytest
from sqlalchemy import update

from backend.brokers.paper_market import PaperMarket
from backend.models import Credential, User
from backend.sandbox.mounted import mounted_sandbox
from backend.services.second_factor_service import context_of
from backend.vault import Vault
from tests.api.conftest import Gateway, Someone, gateway_over
from tests.api.people import PASSWORD

VAULT = Vault({"k1": bytes(range(32))})


@dataclass
class Mounted:
    gateway: Gateway
    user: Someone
    key: dict[str, str]

    async def log_in(self, password: str = PASSWORD, code: str = "") -> httpx.Response:
        path = f"/connect/login?v=3&api_key={self.key['api_key']}"
        return await self.gateway.client.post(path, data={"password": password, "code": code})

    async def token(self, **given: str) -> str:
        """A whole login; the access token."""
        sent_to = (await self.log_in(**given)).headers["location"]
        (request_token,) = parse_qs(urlsplit(sent_to).query)["request_token"]
        proof = hashlib.sha256(f"{self.key['api_key']}{request_token}{self.key['api_secret']}".encode()).hexdigest()
        form = {"api_key": self.key["api_key"], "request_token": request_token, "checksum": proof}
        reply = await self.gateway.client.post("/session/token", data=form)
        return reply.json()["data"]["access_token"]

    async def get(self, path: str, token: str) -> httpx.Response:
        headers = {"Authorization": f"token {self.key['api_key']}:{token}"}
        return await self.gateway.client.get(path, headers=headers)


@pytest.fixture
async def mounted(database_url: str) -> AsyncIterator[Mounted]:
    async with gateway_over(database_url) as gateway:
        state, trading = gateway.state, gateway.trading

        async def quotes(symbols, as_of):
            return (await trading.market_data.quotes(symbols, as_of)).quotes

        calendar = trading.calendar
        bars = trading.market_data.bars_since
        market = PaperMarket(trading.clock, quotes, bars, calendar.phase, calendar.session_ended, calendar)
        gateway.app.state.api = replace(state, vault=VAULT)
        gateway.app.neighbour = mounted_sandbox(trading, market, state.sessions, state.security, VAULT, gateway.clock)
        user = await gateway.someone("pro", account=True)
        hashed = await state.security.hash_password(PASSWORD)
        async with gateway.sessions.begin() as session:
            session.add(Credential(user_id=user.id, password_hash=hashed))
        path = f"/v1/broker-accounts/{user.account_id}/sandbox-key"
        reply = await gateway.client.put(path, json={}, headers=user.headers)
        assert reply.status_code == 200, reply.text
        yield Mounted(gateway, user, reply.json())


async def test_a_key_opens_its_owners_paper_account(mounted: Mounted) -> None:
    token = await mounted.token()
    margins = (await mounted.get("/user/margins/equity", token)).json()
    assert (margins["status"], margins["data"]["net"]) == ("success", 500_000)
    assert (await mounted.get("/user/profile", token)).json()["data"]["email"] == mounted.user.email
    path = f"/v1/broker-accounts/{mounted.user.account_id}/sandbox-key"
    assert (await mounted.gateway.client.delete(path, headers=mounted.user.headers)).status_code == 200
    assert (await mounted.get("/user/profile", token)).status_code == 403


async def test_a_wrong_password_opens_nothing_and_is_counted_as_at_the_gateway(mounted: Mounted) -> None:
    statuses = [(await mounted.log_in("a wrong password")).status_code for _ in range(12)]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert (await mounted.log_in()).status_code == 429


async def test_who_has_a_second_factor_is_asked_for_it(mounted: Mounted) -> None:
    secret = pyotp.random_base32(32)
    sealed = VAULT.seal_bytes(context_of(mounted.user.id), secret.encode())
    async with mounted.gateway.sessions.begin() as session:
        values = {"totp_secret": sealed, "totp_confirmed_at": mounted.gateway.clock()}
        await session.execute(update(Credential).where(Credential.user_id == mounted.user.id).values(values))
    assert (await mounted.log_in()).status_code == 401
    code = pyotp.TOTP(secret).at(mounted.gateway.clock())
    assert await mounted.token(code=code)


async def test_a_user_who_is_switched_off_is_not_let_in(mounted: Mounted) -> None:
    async with mounted.gateway.sessions.begin() as session:
        await session.execute(update(User).where(User.id == mounted.user.id).values(active=False))
    assert (await mounted.log_in()).status_code == 401


async def test_only_kites_own_paths_are_the_sandboxs(mounted: Mounted) -> None:
    client = mounted.gateway.client
    assert (await client.get("/orders")).json()["error_type"] == "TokenException"
    for path in ("/", "/order", "/v1/orders/x", "/v2/quote", "/sandbox/orders"):
        reply = await client.get(path)
        assert reply.headers["content-type"] == "application/problem+json", path
    document = (await client.get("/openapi.json")).json()
    assert not [path for path in document["paths"] if not path.startswith(("/v1/", "/health"))]


async def test_only_a_paper_account_of_ones_own_has_a_key(mounted: Mounted) -> None:
    client, other = mounted.gateway.client, await mounted.gateway.someone("pro")
    path = f"/v1/broker-accounts/{mounted.user.account_id}/sandbox-key"
    assert (await client.put(path, json={}, headers=other.headers)).status_code == 404
    assert (await client.delete(path, headers=other.headers)).status_code == 404
    bad = {"redirect_url": "javascript:alert(1)"}
    assert (await client.put(path, json=bad, headers=mounted.user.headers)).status_code == 422


def test_without_a_master_key_there_is_no_sandbox() -> None:
    assert mounted_sandbox(None, None, None, None, None, None) is None  # pyright: ignore
