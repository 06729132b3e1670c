"""Sessions: refresh tokens that are good once, cookies for browsers, listing and ending, and proving oneself again."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pyotp.totp import TOTP
from sqlalchemy import func, select, update

from backend.api.refresh_cookie import NAME
from backend.db import IDENTITY_ROLE, acting_as
from backend.errors import NotFoundError
from backend.models import AuditEntry, Credential, LoginSession, RefreshToken
from backend.services import session_service
from backend.services.audit_service import SYSTEM
from backend.services.second_factor_service import context_of
from backend.services.session_service import LEEWAY_S, SESSIONS_PER_USER_MAX, Device, device_name
from backend.vault import Vault
from tests.api.conftest import Gateway
from tests.api.people import OTHER_PASSWORD, PASSWORD, Mailbox, bearer, log_in, newcomer
from tests.api.test_problems import problem_of

OURS = {"Origin": "https://app.example.com"}


async def refresh(gateway: Gateway, tokens: dict[str, Any]) -> httpx.Response:
    return await gateway.client.post("/v1/auth/refresh", json={"refresh_token": tokens["refresh_token"]})


async def me(gateway: Gateway, tokens: dict[str, Any]) -> int:
    return (await gateway.client.get("/v1/auth/me", headers=bearer(tokens))).status_code


async def test_a_refresh_brings_the_next_tokens_of_the_same_login(gateway: Gateway) -> None:
    first = await newcomer(gateway, "fresh@example.com")
    second = (await refresh(gateway, first)).json()
    assert second["session_id"] == first["session_id"]
    assert second["session_expires_at"] == first["session_expires_at"]
    assert second["refresh_token"] != first["refresh_token"]
    assert second["access_token"] != first["access_token"]
    assert await me(gateway, second) == 200
    assert (await refresh(gateway, second)).status_code == 200


async def test_of_twenty_who_refresh_at_once_one_wins(gateway: Gateway) -> None:
    first = await newcomer(gateway, "race@example.com")
    replies = await asyncio.gather(*(refresh(gateway, first) for _ in range(20)))
    won = [reply for reply in replies if reply.status_code == 200]
    assert len(won) == 1
    assert {problem_of(reply).code for reply in replies if reply not in won} == {"refresh_token_raced"}
    async with gateway.sessions() as session:
        count = select(func.count()).where(RefreshToken.session_id == first["session_id"])
        assert await session.scalar(count) == 2
    assert await me(gateway, won[0].json()) == 200
    assert (await refresh(gateway, won[0].json())).status_code == 200


async def test_a_token_used_again_later_ends_the_login_of_thief_and_victim(own_gateway: Gateway) -> None:
    first = await newcomer(own_gateway, "robbed@example.com")
    elsewhere = (await log_in(own_gateway, "robbed@example.com")).json()
    second = (await refresh(own_gateway, first)).json()
    own_gateway.clock.now += timedelta(seconds=LEEWAY_S)
    assert problem_of(await refresh(own_gateway, first)).code == "refresh_token_raced"
    assert await me(own_gateway, second) == 200
    own_gateway.clock.now += timedelta(seconds=1)
    again = problem_of(await refresh(own_gateway, first))
    assert (again.status, again.code) == (401, "refresh_token_reused")
    assert await me(own_gateway, second) == 401
    assert problem_of(await refresh(own_gateway, second)).code == "session_ended"
    assert await me(own_gateway, elsewhere) == 200

    assert problem_of(await refresh(own_gateway, first)).status == 401  # and is not written down twice
    async with own_gateway.sessions() as session:
        found = (await session.scalars(select(AuditEntry).where(AuditEntry.action == "session.revoke"))).all()
        reason = await session.scalar(select(LoginSession.revoked_reason).where(LoginSession.id == first["session_id"]))
    assert [(row.target, row.actor) for row in found] == [(f"session:{first['session_id']}", "system")]
    assert reason == "refresh_token_reused"
    mails = await Mailbox(own_gateway).to("robbed@example.com")
    assert sum("A login was ended" in mail for mail in mails) == 1


async def test_what_is_no_refresh_token(gateway: Gateway) -> None:
    tokens = await newcomer(gateway, "mixed@example.com")
    for wrong in ("x", tokens["access_token"][:128], tokens["refresh_token"] + "="):
        reply = await refresh(gateway, {"refresh_token": wrong})
        assert problem_of(reply).code == "refresh_token_invalid"
    assert problem_of(await gateway.client.post("/v1/auth/refresh")).code == "refresh_token_missing"
    assert await me(gateway, {"access_token": tokens["refresh_token"]}) == 401


@pytest.mark.parametrize(("every_days", "lives_days"), [(6, 30), (7, 7)])
async def test_a_login_ends_by_itself_and_sooner_without_use(
    own_gateway: Gateway, every_days: int, lives_days: int
) -> None:
    tokens = await newcomer(own_gateway, "long@example.com")
    begun = own_gateway.clock.now
    for _ in range(10):
        own_gateway.clock.now += timedelta(days=every_days)
        reply = await refresh(own_gateway, tokens)
        if reply.status_code != 200:
            break
        tokens = reply.json()
    assert problem_of(reply).code == "session_ended"
    assert own_gateway.clock.now == begun + timedelta(days=lives_days)


async def test_no_secret_is_kept_as_it_is(gateway: Gateway) -> None:
    tokens = await newcomer(gateway, "hashed@example.com")
    async with gateway.sessions() as session:
        rows = select(RefreshToken.token_hash).where(RefreshToken.session_id == tokens["session_id"])
        hashes = (await session.scalars(rows)).all()
    assert [len(each) for each in hashes] == [32]
    assert tokens["refresh_token"].encode() not in hashes


async def test_a_browser_keeps_its_refresh_token_in_a_cookie(gateway: Gateway) -> None:
    await newcomer(gateway, "browser@example.com")
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(gateway.app), base_url="https://gateway", headers=OURS
    ) as browser:
        body = {"email": "browser@example.com", "password": PASSWORD, "cookie": True}
        login = await browser.post("/v1/auth/login", json=body)
        assert login.json()["refresh_token"] is None
        given = {part.strip().lower() for part in login.headers["set-cookie"].split(";")[1:]}
        assert given == {"httponly", "secure", "samesite=strict", "path=/", f"max-age={30 * 86400}"}
        assert login.headers["set-cookie"].startswith(f"{NAME}=")
        first = browser.cookies[NAME]
        reply = await browser.post("/v1/auth/refresh")
        assert reply.json()["refresh_token"] is None
        assert browser.cookies[NAME] != first
        own_origin = await browser.post("/v1/auth/refresh", headers={"Origin": "https://gateway"})
        assert own_origin.status_code == 200
        assert (await browser.post("/v1/auth/logout")).status_code == 200
        assert NAME not in browser.cookies
        assert await me(gateway, reply.json()) == 401


@pytest.mark.parametrize("origin", [None, "https://evil.example", "null", "https://app.example.com.evil.example"])
@pytest.mark.parametrize("path", ["refresh", "logout", "login"])
async def test_another_site_cannot_use_the_cookie(gateway: Gateway, path: str, origin: str | None) -> None:
    email = f"{path}{len(origin or '')}@example.com"
    tokens = await newcomer(gateway, email)
    headers = {"Cookie": f"{NAME}={tokens['refresh_token']}"} | ({"Origin": origin} if origin else {})
    body = {"email": email, "password": PASSWORD, "cookie": True} if path == "login" else None
    refused = await gateway.client.post(f"/v1/auth/{path}", headers=headers, json=body)
    assert problem_of(refused).code == "origin_not_allowed"
    assert "set-cookie" not in refused.headers
    assert await me(gateway, tokens) == 200
    assert (await refresh(gateway, tokens)).status_code == 200


@pytest.mark.parametrize("by", ["access", "refresh"])
async def test_logging_out_ends_this_login_at_once(gateway: Gateway, by: str) -> None:
    tokens = await newcomer(gateway, f"out.{by}@example.com")
    other = (await log_in(gateway, f"out.{by}@example.com")).json()
    headers = bearer(tokens) if by == "access" else {}
    body = None if by == "access" else {"refresh_token": tokens["refresh_token"]}
    for again in (200, 401 if by == "access" else 200):
        assert (await gateway.client.post("/v1/auth/logout", headers=headers, json=body)).status_code == again
    assert await me(gateway, tokens) == 401
    assert problem_of(await refresh(gateway, tokens)).code == "session_ended"
    assert await me(gateway, other) == 200


async def test_my_logins_are_listed_and_ended_one_by_one_or_all_others(gateway: Gateway) -> None:
    stranger = await newcomer(gateway, "stranger@example.com")
    await newcomer(gateway, "devices@example.com")
    phone, desk = [
        (
            await gateway.client.post(
                "/v1/auth/login",
                json={"email": "devices@example.com", "password": PASSWORD},
                headers={"User-Agent": agent},
            )
        ).json()
        for agent in ("A phone", "A desk")
    ]
    listed = (await gateway.client.get("/v1/sessions", headers=bearer(desk))).json()["sessions"]
    assert [(row["device"], row["current"]) for row in listed][:2] == [("A desk", True), ("A phone", False)]
    assert stranger["session_id"] not in [row["id"] for row in listed]

    for not_mine in (stranger["session_id"], 2**62):
        gone = await gateway.client.delete(f"/v1/sessions/{not_mine}", headers=bearer(desk))
        assert problem_of(gone).status == 404
    ended = await gateway.client.delete(f"/v1/sessions/{phone['session_id']}", headers=bearer(desk))
    assert ended.status_code == 200
    assert await me(gateway, phone) == 401
    again = await gateway.client.delete(f"/v1/sessions/{phone['session_id']}", headers=bearer(desk))
    assert problem_of(again).status == 404

    others = await gateway.client.delete("/v1/sessions", headers=bearer(desk))
    assert others.json() == {"sessions_ended": 1}
    assert [await me(gateway, tokens) for tokens in (desk, stranger)] == [200, 200]
    left = (await gateway.client.get("/v1/sessions", headers=bearer(desk))).json()["sessions"]
    assert [row["id"] for row in left] == [desk["session_id"]]


async def test_a_role_that_sees_everybody_ends_nobody_elses_login(gateway: Gateway) -> None:
    mine, other = await newcomer(gateway, "mine@example.com"), await newcomer(gateway, "theirs@example.com")
    now = gateway.state.security.now()
    with acting_as(IDENTITY_ROLE):
        async with gateway.state.sessions.begin() as session:
            rows = await session.scalars(select(LoginSession.user_id).where(LoginSession.id == mine["session_id"]))
            with pytest.raises(NotFoundError):
                await session_service.end_session(session, SYSTEM, rows.one(), other["session_id"], now)
    assert await me(gateway, other) == 200


async def test_beyond_the_maximum_the_longest_unused_login_ends(own_gateway: Gateway) -> None:
    first = await newcomer(own_gateway, "many@example.com")
    state = own_gateway.state
    with acting_as(IDENTITY_ROLE):
        async with state.sessions.begin() as session:
            user_id = await session.scalar(select(LoginSession.user_id))
            for _ in range(SESSIONS_PER_USER_MAX):
                own_gateway.clock.now += timedelta(seconds=1)
                await session_service.begin_session(
                    session, state.security, state.logins, user_id or 0, Device("127.0.0.1", "x")
                )
    assert await me(own_gateway, first) == 401
    async with own_gateway.sessions() as session:
        left = await session.scalar(select(func.count()).where(LoginSession.revoked_at.is_(None)))
    assert left == SESSIONS_PER_USER_MAX


async def test_proving_oneself_again(own_gateway: Gateway) -> None:
    tokens = await newcomer(own_gateway, "proof@example.com")
    async with own_gateway.sessions.begin() as session:
        await session.execute(update(LoginSession).values(proved_at=own_gateway.clock.now - timedelta(minutes=11)))

    async def call(path: str, method: str = "POST", **body: Any) -> httpx.Response:
        return await own_gateway.client.request(method, f"/v1/auth/{path}", json=body, headers=bearer(tokens))

    stale = await call("email", "PUT", email="next@example.com")
    assert problem_of(stale).code == "step_up_required"
    assert problem_of(await call("step-up", password=OTHER_PASSWORD)).code == "credentials_invalid"
    assert problem_of(await call("step-up", code="123456")).code == "credentials_invalid"
    for bad in ({}, {"password": PASSWORD, "code": "123456"}):
        assert problem_of(await call("step-up", **bad)).status == 422
    assert (await call("step-up", password=PASSWORD)).status_code == 200
    assert (await call("email", "PUT", email="next@example.com")).status_code == 202
    codes = [problem_of(await call("step-up", password=OTHER_PASSWORD)).code for _ in range(7)]
    assert codes[-1] == "login_delayed"


async def test_a_login_with_a_second_factor_asks_for_its_code_and_takes_each_once(own_gateway: Gateway) -> None:
    email, secret = "factor@example.com", "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
    vault = Vault({"k1": bytes(range(32))})
    own_gateway.app.state.api = replace(own_gateway.state, vault=vault)
    await newcomer(own_gateway, email)
    async with own_gateway.sessions.begin() as session:
        user_id = (await session.scalars(select(LoginSession.user_id))).one()
        sealed = vault.seal_bytes(context_of(user_id), secret.encode())
        values = {"totp_secret": sealed, "totp_confirmed_at": own_gateway.clock.now}
        await session.execute(update(Credential).values(values))
    code = TOTP(secret).at(own_gateway.clock.now)

    assert problem_of(await log_in(own_gateway, email)).code == "second_factor_required"
    assert problem_of(await log_in(own_gateway, email, OTHER_PASSWORD, code=code)).code == "credentials_invalid"
    wrong = f"{(int(code) + 1) % 10**6:06}"
    assert problem_of(await log_in(own_gateway, email, code=wrong)).code == "second_factor_invalid"
    first = await log_in(own_gateway, email, code=code)
    assert first.status_code == 200
    assert problem_of(await log_in(own_gateway, email, code=code)).code == "second_factor_invalid"

    headers = bearer(first.json())
    body = {"code": TOTP(secret).at(own_gateway.clock.now + timedelta(seconds=30))}
    assert (await own_gateway.client.post("/v1/auth/step-up", json=body, headers=headers)).status_code == 200
    again = await own_gateway.client.post("/v1/auth/step-up", json=body, headers=headers)
    assert problem_of(again).code == "credentials_invalid"
    listed = (await own_gateway.client.get("/v1/sessions", headers=headers)).json()["sessions"]
    assert [row["second_factor"] for row in listed] == [True, False]


def test_a_device_is_shown_as_one_printable_line() -> None:
    assert device_name("a\x1b[31m\nb\u202e" + "x" * 300) == "a[31mb" + "x" * 194
