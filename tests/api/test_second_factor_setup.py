"""Setting up a second factor, using it, and taking it away, as its user does it."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from pyotp.totp import TOTP
from sqlalchemy import select

from backend.models import AuditEntry, Credential, LivePermission, RecoveryCode
from backend.services.second_factor_service import recovery_hash
from backend.services.second_factor_setup import RECOVERY_CODES, new_recovery_code
from backend.vault import Vault
from tests.api.conftest import Gateway, later
from tests.api.people import PASSWORD, Mailbox, bearer, log_in, newcomer
from tests.api.test_problems import problem_of

PATH = "/v1/auth/second-factor"
VAULT = Vault({"k1": bytes(range(32))})


@pytest.fixture
async def vaulted(own_gateway: Gateway) -> Gateway:
    """A gateway that can seal, whose clock the test may move."""
    own_gateway.app.state.api = own_gateway.state = replace(own_gateway.state, vault=VAULT)
    return own_gateway


@dataclass
class Person:
    """Somebody with an authenticator."""

    gateway: Gateway
    email: str
    tokens: dict[str, Any]
    secret: str = ""
    recovery_codes: list[str] = field(default_factory=list)

    async def ask(self, method: str, path: str = "", body: object = None) -> httpx.Response:
        return await self.gateway.client.request(method, PATH + path, json=body, headers=bearer(self.tokens))

    def code(self) -> str:
        return TOTP(self.secret).at(self.gateway.clock())

    def next_code(self) -> str:
        self.gateway.clock.now = later(self.gateway.clock(), 30)
        return self.code()

    async def begin(self) -> httpx.Response:
        reply = await self.ask("POST")
        self.secret = reply.json().get("secret", self.secret)
        return reply

    async def confirm(self) -> httpx.Response:
        reply = await self.ask("POST", "/confirm", {"code": self.code()})
        self.recovery_codes = reply.json().get("recovery_codes", [])
        return reply


async def person(gateway: Gateway, *, enrolled: bool = True, email: str = "asha@example.com") -> Person:
    made = Person(gateway, email, await newcomer(gateway, email))
    if enrolled:
        assert (await made.begin()).status_code == 201
        assert (await made.confirm()).status_code == 200
    return made


async def test_it_counts_from_the_first_code_on_and_other_logins_end(vaulted: Gateway) -> None:
    asha = await person(vaulted, enrolled=False)
    other = (await log_in(vaulted, asha.email)).json()
    begun = await asha.begin()
    assert (begun.status_code, begun.headers["cache-control"]) == (201, "no-store")
    uri = urlsplit(begun.json()["otpauth_uri"])
    assert (uri.scheme, uri.netloc, uri.path) == ("otpauth", "totp", "/Sauda:asha%40example.com")
    assert parse_qs(uri.query) == {"secret": [asha.secret], "issuer": ["Sauda"]}
    assert len(asha.secret) * 5 == 160
    assert (await log_in(vaulted, asha.email)).status_code == 200  # not yet
    wrong = problem_of(await asha.ask("POST", "/confirm", {"code": "000000"}))
    assert (wrong.status, wrong.code) == (422, "second_factor_invalid")
    confirmed = await asha.confirm()
    assert (confirmed.status_code, confirmed.json()["sessions_ended"]) == (200, 2)
    assert (await vaulted.client.get("/v1/auth/me", headers=bearer(other))).status_code == 401
    state = (await asha.ask("GET")).json()
    assert (state["confirmed_at"] is not None, state["recovery_codes_left"]) == (True, RECOVERY_CODES)
    assert problem_of(await log_in(vaulted, asha.email)).code == "second_factor_required"
    assert problem_of(await log_in(vaulted, asha.email, code=asha.code())).code == "second_factor_invalid"  # served
    assert (await log_in(vaulted, asha.email, code=asha.next_code())).status_code == 200
    mails = await Mailbox(vaulted).to(asha.email)
    assert sum("Your second factor is on" in mail for mail in mails) == 1
    assert not [mail for mail in mails if asha.secret in mail or asha.recovery_codes[0] in mail]


async def test_nothing_of_it_is_kept_in_the_open(vaulted: Gateway) -> None:
    asha = await person(vaulted)
    async with vaulted.sessions() as session:
        credential = (await session.scalars(select(Credential))).one()
        assert asha.secret.encode() not in (credential.totp_secret or b"")
        hashes = set((await session.scalars(select(RecoveryCode.code_hash))).all())
        assert hashes == {recovery_hash(code) for code in asha.recovery_codes}
        entries = (await session.scalars(select(AuditEntry))).all()
    assert {"second_factor.begin", "second_factor.confirm"} <= {entry.action for entry in entries}
    assert asha.secret not in str([(entry.before, entry.after) for entry in entries])


async def test_of_twenty_logins_with_one_code_one_is_let_in(vaulted: Gateway) -> None:
    asha = await person(vaulted)
    code = asha.next_code()
    replies = await asyncio.gather(*(log_in(vaulted, asha.email, code=code) for _ in range(20)))
    assert [reply.status_code for reply in replies].count(200) == 1
    assert {problem_of(reply).status for reply in replies if reply.status_code != 200} <= {401, 429}


async def test_of_many_who_confirm_at_once_one_gets_recovery_codes(vaulted: Gateway) -> None:
    asha = await person(vaulted, enrolled=False)
    await asha.begin()
    body = {"code": asha.code()}
    replies = await asyncio.gather(*(asha.ask("POST", "/confirm", body) for _ in range(5)))
    assert sorted(reply.status_code for reply in replies) == [200, 409, 409, 409, 409]
    assert problem_of(await asha.begin()).code == "second_factor_on"


async def test_guessing_codes_is_slowed_down_whatever_password_is_given(vaulted: Gateway) -> None:
    asha = await person(vaulted)
    asha.next_code()

    async def proved(**secret: str) -> httpx.Response:
        return await vaulted.client.post("/v1/auth/step-up", json=secret, headers=bearer(asha.tokens))

    for number in range(6):  # with a right password after each
        assert problem_of(await proved(code=f"{number:06}")).code == "credentials_invalid"
        assert (await proved(password=PASSWORD)).status_code == 200
    assert problem_of(await proved(code=asha.code())).code == "login_delayed"
    assert problem_of(await log_in(vaulted, asha.email, code=asha.code())).code == "login_delayed"
    vaulted.clock.now = later(vaulted.clock(), 1)
    assert (await proved(code=asha.code())).status_code == 200  # and takes the count back
    for number in range(5):
        assert problem_of(await proved(code=f"{number:06}")).code == "credentials_invalid"
    assert (await proved(code=asha.next_code())).status_code == 200


async def test_a_recovery_code_logs_in_once(vaulted: Gateway) -> None:
    asha = await person(vaulted)
    code = asha.recovery_codes[0].lower()
    assert (await log_in(vaulted, asha.email, code=code)).status_code == 200
    assert problem_of(await log_in(vaulted, asha.email, code=code)).code == "second_factor_invalid"
    assert (await asha.ask("GET")).json()["recovery_codes_left"] == RECOVERY_CODES - 1


async def test_new_recovery_codes_end_the_old_ones(vaulted: Gateway) -> None:
    asha = await person(vaulted)
    old = asha.recovery_codes
    refused = problem_of(await asha.ask("POST", "/recovery-codes", {"code": "000000"}))
    assert (refused.status, refused.code) == (401, "credentials_invalid")
    renewed = (await asha.ask("POST", "/recovery-codes", {"code": old[0]})).json()["recovery_codes"]
    assert len({*renewed, *old}) == 2 * RECOVERY_CODES
    assert (await log_in(vaulted, asha.email, code=old[1])).status_code == 401
    assert (await log_in(vaulted, asha.email, code=renewed[0])).status_code == 200


async def test_it_is_taken_away_by_a_code_and_live_trading_goes_off_with_it(vaulted: Gateway) -> None:
    asha = await person(vaulted)
    async with vaulted.sessions.begin() as session:
        user_id = (await session.scalars(select(Credential.user_id))).one()
        session.add(LivePermission(user_id=user_id, confirmed_at=vaulted.clock()))
    assert problem_of(await asha.ask("DELETE", "", {"code": asha.code()})).code == "credentials_invalid"  # served
    removed = await asha.ask("DELETE", "", {"code": asha.next_code()})
    assert (removed.status_code, removed.json()) == (200, {"sessions_ended": 0})
    assert (await asha.ask("GET")).json() == {"confirmed_at": None, "recovery_codes_left": 0}
    assert (await log_in(vaulted, asha.email)).status_code == 200
    assert problem_of(await asha.ask("DELETE", "", {"code": asha.next_code()})).code == "no_second_factor"
    async with vaulted.sessions() as session:
        permission = await session.get_one(LivePermission, user_id)
        assert permission.confirmed_at is None
        assert (await session.scalars(select(RecoveryCode))).all() == []
    assert any("Your second factor is off" in mail for mail in await Mailbox(vaulted).to(asha.email))


async def test_it_needs_a_login_proved_minutes_ago_and_a_master_key(vaulted: Gateway) -> None:
    asha = await person(vaulted, enrolled=False)
    assert problem_of(await asha.ask("POST", "/confirm", {"code": "123456"})).code == "second_factor_not_begun"
    vaulted.app.state.api = replace(vaulted.state, vault=None)
    assert problem_of(await asha.begin()).code == "no_master_key"
    vaulted.app.state.api = vaulted.state
    vaulted.clock.now = later(vaulted.clock(), 601)
    asha.tokens = (
        await vaulted.client.post("/v1/auth/refresh", json={"refresh_token": asha.tokens["refresh_token"]})
    ).json()
    assert problem_of(await asha.begin()).code == "step_up_required"
    assert problem_of(await asha.ask("POST", "/confirm", {"code": "123456"})).code == "step_up_required"


async def test_a_shorter_password_is_enough_with_one(vaulted: Gateway) -> None:
    asha = await person(vaulted, enrolled=False)
    body = {"current_password": "correct horse battery", "new_password": "gR7-pl0mx"}

    async def change() -> httpx.Response:
        return await vaulted.client.put("/v1/auth/password", json=body, headers=bearer(asha.tokens))

    assert problem_of(await change()).code == "password_weak"
    await asha.begin()
    await asha.confirm()
    assert (await change()).status_code == 200


def test_recovery_codes_are_long_and_easy_to_type() -> None:
    codes = {new_recovery_code() for _ in range(100)}
    assert len(codes) == 100
    assert all(set(code) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567-") and len(code) == 29 for code in codes)
