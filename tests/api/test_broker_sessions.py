"""Logging in at a broker for the day, as a user does it: there and back, the board, and the broker's messages."""

import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sqlalchemy import select, text, update

from backend.brokers.zerodha import Zerodha
from backend.models import AuditEntry, BrokerSession, User
from backend.services.broker_login_service import BrokerLogins
from backend.vault import Vault
from tests.api.conftest import Gateway, Someone
from tests.api.test_problems import problem_of
from tests.brokers.rest_server import Break, RestServer
from tests.support.broker_book import Book
from tests.support.kite_server import API_KEY, API_SECRET, KiteServer, resting

GIVEN = {"api_key": API_KEY, "api_secret": API_SECRET}


@dataclass
class Desk:
    """A gateway that knows Zerodha's double, and what it was told to look at."""

    gateway: Gateway
    kite: KiteServer
    server: RestServer
    hinted: list[int]

    async def linked(self, plan: str = "pro") -> tuple[Someone, str]:
        """A user with an account at Zerodha and its credentials; the account's path."""
        client = self.gateway.client
        user = await self.gateway.someone(plan)
        async with self.gateway.sessions.begin() as session:
            await session.execute(update(User).where(User.id == user.id).values(email_verified_at=self.gateway.clock()))
        body = {"broker": "zerodha", "label": "Real money"}
        reply = await client.post("/v1/broker-accounts", json=body, headers=user.headers)
        path = f"/v1/broker-accounts/{reply.json()['account']['id']}"
        assert (await client.put(f"{path}/credentials", json=GIVEN, headers=user.headers)).status_code == 200
        return user, path

    async def post(self, user: Someone, path: str, body: Any = None) -> httpx.Response:
        return await self.gateway.client.post(path, json=body, headers=user.headers)

    async def readiness(self, user: Someone) -> list[str]:
        reply = await self.gateway.client.get("/v1/broker-accounts/readiness", headers=user.headers)
        return [account["state"] for account in reply.json()["accounts"]]


@pytest.fixture
async def desk(gateway: Gateway) -> AsyncIterator[Desk]:
    before, hinted = gateway.app.state.api, list[int]()
    kite = KiteServer(resting(Book(gateway.clock, time.monotonic)), {})
    vault = Vault({"k1": secrets.token_bytes(32)})
    async with RestServer(kite.handle) as server, httpx.AsyncClient() as http:
        adapter = Zerodha(http=http, now=gateway.clock, url=server.url)
        logins = BrokerLogins({"zerodha": adapter}, http, before.desk.sessions, vault, before.security)
        gateway.app.state.api = replace(before, vault=vault, broker_logins=logins, hint=hinted.append)
        yield Desk(gateway, kite, server, hinted)
    gateway.app.state.api = before
    # One client of the broker's is one account here: each test begins with none.
    async with gateway.sessions.begin() as session:
        await session.execute(text("DELETE FROM broker_sessions"))


def refused(reply: httpx.Response, status: int, code: str) -> None:
    assert (reply.status_code, problem_of(reply).code) == (status, code)


async def test_a_day_begins_with_a_login_at_the_broker(desk: Desk) -> None:
    user, path = await desk.linked()
    assert await desk.readiness(user) == ["login_needed"]
    begun = (await desk.post(user, f"{path}/login")).json()
    asked = parse_qs(urlsplit(begun["login_url"]).query)
    assert (asked["api_key"], asked["v"]) == ([API_KEY], ["3"])
    (state,) = parse_qs(asked["redirect_params"][0])["state"]
    # The user logs in there, and the broker sends the browser back.
    where = urlsplit(begun["redirect_url"]).path
    query = {"request_token": desk.kite.log_in(7), "status": "success", "state": state}
    back = await desk.gateway.client.get(where, params=query)
    assert back.status_code == 200, back.text
    assert "logged in at zerodha until 03 Mar 06:00 IST" in back.text
    assert (back.headers["cache-control"], back.headers["referrer-policy"]) == ("no-store", "no-referrer")
    assert await desk.readiness(user) == ["not_connected"]  # this deployment's orders are simulated
    async with desk.gateway.sessions() as session:
        deed = await session.scalar(select(AuditEntry).where(AuditEntry.action == "broker_session.begin"))
        assert deed is not None
        assert deed.subject_id == user.id
        stored = "".join(await session.scalars(text("SELECT b::text FROM broker_credentials b")))
    assert "accesstoken" not in stored
    again = await desk.gateway.client.get(where, params=query)
    assert again.status_code == 422  # a token is good once


async def test_what_the_broker_returned_can_be_given_by_hand(desk: Desk) -> None:
    user, path = await desk.linked()
    reply = await desk.post(user, f"{path}/session", {"returned": {"request_token": desk.kite.log_in(7)}})
    assert reply.status_code == 200, reply.text
    said = reply.json()
    assert (said["broker"], said["ends_at"]) == ("zerodha", "2026-03-03T06:00:00+05:30")
    out = await desk.gateway.client.delete(f"{path}/session", headers=user.headers)
    assert out.status_code == 200
    assert desk.kite.sessions == {}  # ended at the broker, too
    assert await desk.readiness(user) == ["login_needed"]
    assert (await desk.gateway.client.delete(f"{path}/session", headers=user.headers)).status_code == 200


@pytest.mark.parametrize(
    ("returned", "status"),
    [
        ({"request_token": "made-up"}, 422),
        ({"state": "x"}, 422),
        ({}, 422),
        ({f"k{n}": "v" for n in range(13)}, 422),
        ({"request_token": "x" * 601}, 422),
    ],
)
async def test_what_is_no_login_begins_no_session(desk: Desk, returned: dict[str, str], status: int) -> None:
    user, path = await desk.linked()
    reply = await desk.post(user, f"{path}/session", {"returned": returned})
    assert reply.status_code == status, reply.text
    assert await desk.readiness(user) == ["login_needed"]


async def test_a_redirect_needs_a_state_that_was_made_here_minutes_ago(desk: Desk) -> None:
    user, path = await desk.linked()
    begun = (await desk.post(user, f"{path}/login")).json()
    (state,) = parse_qs(parse_qs(urlsplit(begun["login_url"]).query)["redirect_params"][0])["state"]
    named, _, signature = state.rpartition(".")
    account, rest = named.split(".", 1)
    for forged in ("", "1.2.3.4", f"{int(account) + 1}.{rest}.{signature}", f"{named}.{'0' * 64}", "é.1.2.3"):
        query = {"request_token": desk.kite.log_in(7), "state": forged}
        refused(await desk.gateway.client.get("/v1/broker-login/zerodha", params=query), 422, "state_invalid")
    query = {"request_token": desk.kite.log_in(7), "state": state}
    refused(await desk.gateway.client.get("/v1/broker-login/upstox", params=query), 422, "state_invalid")
    desk.gateway.clock.now += timedelta(minutes=16)
    refused(await desk.gateway.client.get("/v1/broker-login/zerodha", params=query), 422, "state_invalid")
    desk.gateway.clock.now -= timedelta(minutes=16)
    assert await desk.readiness(user) == ["login_needed"]


async def test_a_broker_that_does_not_answer_is_no_error_of_ours(desk: Desk) -> None:
    user, path = await desk.linked()
    desk.server.break_next(Break.BAD_GATEWAY, "POST", "/session/token")
    returned = {"returned": {"request_token": desk.kite.log_in(7)}}
    refused(await desk.post(user, f"{path}/session", returned), 503, "broker_unavailable")


async def test_nobody_logs_another_ones_account_in(desk: Desk) -> None:
    _, path = await desk.linked()
    other = await desk.gateway.someone("pro")
    for method, where, body in (
        ("POST", f"{path}/login", None),
        ("POST", f"{path}/session", {"returned": {"request_token": desk.kite.log_in(7)}}),
        ("DELETE", f"{path}/session", None),
    ):
        reply = await desk.gateway.client.request(method, where, json=body, headers=other.headers)
        assert reply.status_code == 404, where
    assert await desk.readiness(other) == []


async def test_one_client_of_a_broker_is_one_account_here(desk: Desk) -> None:
    user, path = await desk.linked()
    returned = {"returned": {"request_token": desk.kite.log_in(7)}}
    assert (await desk.post(user, f"{path}/session", returned)).status_code == 200
    other, elsewhere = await desk.linked()
    returned = {"returned": {"request_token": desk.kite.log_in(7)}}
    refused(await desk.post(other, f"{elsewhere}/session", returned), 409, "client_linked_elsewhere")
    async with desk.gateway.sessions.begin() as session:
        await session.execute(update(BrokerSession).values(client_id="ZZ9999"))
    returned = {"returned": {"request_token": desk.kite.log_in(7)}}
    refused(await desk.post(user, f"{path}/session", returned), 409, "other_client")


async def test_new_credentials_end_the_session(desk: Desk) -> None:
    user, path = await desk.linked()
    returned = {"returned": {"request_token": desk.kite.log_in(7)}}
    assert (await desk.post(user, f"{path}/session", returned)).status_code == 200
    await desk.gateway.client.put(f"{path}/credentials", json=GIVEN, headers=user.headers)
    assert await desk.readiness(user) == ["login_needed"]


async def test_support_sees_everybodys_readiness(desk: Desk) -> None:
    user, path = await desk.linked()
    admin = await desk.gateway.someone(admin=True)
    reply = await desk.gateway.client.get("/v1/admin/broker-accounts/readiness?limit=1", headers=admin.headers)
    (row,) = reply.json()["accounts"]
    assert (row["user_id"], row["state"]) == (user.id, "login_needed")
    assert row["next_step"] == f"POST {path}/login tells where to log in for today."


# ---- postbacks


def postback(order_id: str = "240318000000001", secret: str = API_SECRET) -> bytes:
    """Kite's message about an order, signed as its documents say."""
    stamp = "2024-03-18 10:00:00"
    signed = hashlib.sha256(f"{order_id}{stamp}{secret}".encode()).hexdigest()
    return json.dumps(
        {"order_id": order_id, "order_timestamp": stamp, "checksum": signed, "status": "COMPLETE"}
    ).encode()


async def test_a_genuine_message_is_a_hint_and_no_other_is(desk: Desk) -> None:
    user, path = await desk.linked()
    where = urlsplit((await desk.post(user, f"{path}/login")).json()["postback_url"]).path
    client, account_id = desk.gateway.client, int(path.rsplit("/", 1)[1])
    good = await client.post(where, content=postback())
    assert (good.status_code, desk.hinted) == (202, [account_id])
    word = where.rsplit("/", 1)[1]
    for path_, body in (
        (where, postback(secret="another one's secret")),
        (where, b"{}"),
        (where, b"not json"),
        (where, b"\xff\xfe"),
        (where.replace(word, "0" * 32), postback()),
        (where.replace(f"/{account_id}/", f"/{account_id + 1}/"), postback()),
        (where.replace("zerodha", "upstox"), postback()),
    ):
        assert (await client.post(path_, content=body)).status_code == 404, (path_, body)
    assert desk.hinted == [account_id]
