"""API keys: what a program may do with one, from where, until when, and what no key may ever do."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from backend.api.app import ROUTERS, access_of
from backend.api.limits import RateLimits, RouteClass
from backend.errors import InvalidRequestError
from backend.models import ApiKey, AuditEntry, Subscription, SubscriptionStatus, User
from backend.security import digest
from backend.services.api_key_service import KEYS_MAX, is_within, networks_of
from contracts.common import Environment
from tests.api.conftest import Gateway, Someone
from tests.api.test_problems import problem_of

PATH = "/v1/api-keys"
WISH = {"name": "nightly report", "scopes": ["read"]}


async def ask(gateway: Gateway, user: Someone, **wish: Any) -> httpx.Response:
    return await gateway.client.post(PATH, json=WISH | wish, headers=user.headers)


async def key_for(gateway: Gateway, user: Someone, **wish: Any) -> dict[str, Any]:
    """A new key: `key`, its id, and the headers that send it."""
    reply = await ask(gateway, user, **wish)
    assert reply.status_code == 201, reply.text
    made = reply.json()
    return {"key": made["key"], "id": made["api_key"]["id"], "headers": {"Authorization": f"Bearer {made['key']}"}}


async def get(gateway: Gateway, key: dict[str, Any], path: str = "/v1/auth/me") -> httpx.Response:
    return await gateway.client.get(path, headers=key["headers"])


@pytest.fixture
def kept(gateway: Gateway) -> Iterator[None]:
    """The shared gateway's clock and state, put back afterwards."""
    now, state = gateway.clock.now, gateway.app.state.api
    yield
    gateway.clock.now, gateway.app.state.api = now, state


async def test_a_key_is_shown_once_and_kept_as_a_hash(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    reply = await ask(gateway, user, networks=["203.0.113.0/24"], paper_only=True, expires_in_days=30)
    assert (reply.status_code, reply.headers["cache-control"]) == (201, "no-store")
    text, shown = reply.json()["key"], reply.json()["api_key"]
    name, prefix, secret = text.split("_", 2)
    assert (name, f"sauda_{prefix}", len(secret)) == ("sauda", shown["prefix"], 43)
    assert (shown["paper_only"], shown["networks"], shown["scopes"]) == (True, ["203.0.113.0/24"], ["read"])
    listed = await gateway.client.get(PATH, headers=user.headers)
    assert listed.json()["api_keys"] == [shown]
    async with gateway.sessions() as session:
        row = await session.get_one(ApiKey, shown["id"])
        assert (row.key_hash, row.expires_at) == (digest(text), gateway.clock() + timedelta(days=30))
        entries = (await session.scalars(select(AuditEntry).where(AuditEntry.subject_id == user.id))).all()
    assert [entry.action for entry in entries] == ["api_key.create"]
    assert secret not in str(entries[0].after)


async def test_it_acts_for_its_user_and_notes_its_use_once_a_minute(gateway: Gateway, kept: None) -> None:
    user, other = await gateway.someone("pro"), await gateway.someone("pro")
    key = await key_for(gateway, user)

    async def used_at() -> Any:
        async with gateway.sessions() as session:
            return await session.scalar(select(ApiKey.last_used_at).where(ApiKey.id == key["id"]))

    assert await used_at() is None
    me = await get(gateway, key)
    assert me.json()["user"]["id"] == user.id != other.id
    first = gateway.clock()
    assert await used_at() == first
    gateway.clock.now += timedelta(seconds=59)
    await get(gateway, key)
    assert await used_at() == first
    gateway.clock.now += timedelta(seconds=1)
    await get(gateway, key)
    assert await used_at() == first + timedelta(seconds=60)
    async with gateway.sessions() as session:
        assert await session.scalar(select(ApiKey.last_used_ip).where(ApiKey.id == key["id"])) == "127.0.0.1"


async def test_a_key_that_is_no_good_is_refused_for_its_reason(gateway: Gateway, kept: None) -> None:
    user, other = await gateway.someone("pro"), await gateway.someone("pro")
    revoked, elsewhere = await key_for(gateway, user), await key_for(gateway, user, networks=["203.0.113.0/24"])
    good, short, others = (
        await key_for(gateway, user),
        await key_for(gateway, user, expires_in_days=1),
        await key_for(gateway, other),
    )
    foreign = await gateway.client.delete(f"{PATH}/{revoked['id']}", headers=other.headers)
    assert foreign.status_code == 404
    for status in (200, 404):
        gone = await gateway.client.delete(f"{PATH}/{revoked['id']}", headers=user.headers)
        assert gone.status_code == status
    gateway.clock.now += timedelta(days=1)
    forged = {"headers": {"Authorization": f"Bearer {good['key'][:-1]}!"}}
    expected = ((good, 200, ""), (revoked, 401, "key_revoked"), (short, 401, "key_expired"))
    expected += ((elsewhere, 403, "key_address_refused"), (forged, 401, "key_invalid"))
    for key, status, code in expected:
        reply = await get(gateway, key)
        assert reply.status_code == status
        assert status == 200 or problem_of(reply).code == code
    async with gateway.sessions.begin() as session:
        mine = Subscription.user_id == user.id
        await session.execute(update(Subscription).where(mine).values(status=SubscriptionStatus.CANCELLED))
        await session.execute(update(User).where(User.id == other.id).values(active=False))
    assert problem_of(await get(gateway, good)).code == "plan_required"
    assert problem_of(await get(gateway, others)).code == "user_inactive"


async def test_a_key_does_what_its_scopes_say(gateway: Gateway, kept: None) -> None:
    user = await gateway.someone("pro", account=True)
    read, trade = await key_for(gateway, user), await key_for(gateway, user, scopes=["trade"], paper_only=True)

    async def disable(key: dict[str, Any]) -> httpx.Response:
        return await gateway.client.post("/v1/auto-trading/disable", headers=key["headers"])

    assert problem_of(await disable(read)).code == "scope_missing"
    assert problem_of(await get(gateway, trade)).code == "scope_missing"
    assert (await disable(trade)).status_code == 200
    gateway.app.state.api = replace(gateway.state, environment=Environment.LIVE)
    reply = await gateway.client.post("/v1/live/withdraw", headers=trade["headers"])
    assert problem_of(reply).code == "paper_only"


async def test_a_key_stops_trading_whatever_the_plan_and_for_paper_in_live_too(gateway: Gateway, kept: None) -> None:
    user = await gateway.someone("pro", account=True)
    read = await key_for(gateway, user)
    trade = await key_for(gateway, user, scopes=["trade"], paper_only=True)
    async with gateway.sessions.begin() as session:
        mine = Subscription.user_id == user.id
        await session.execute(update(Subscription).where(mine).values(status=SubscriptionStatus.CANCELLED))
    for environment in (Environment.SIMULATED, Environment.LIVE):
        gateway.app.state.api = replace(gateway.state, environment=environment)
        for path in ("/v1/kill-switch", "/v1/auto-trading/disable"):
            stopped = await gateway.client.post(path, headers=trade["headers"])
            assert stopped.status_code == 200, stopped.text
            assert problem_of(await gateway.client.post(path, headers=read["headers"])).code == "scope_missing"
        cancelled = await gateway.client.delete("/v1/orders/1000000", headers=trade["headers"])
        assert cancelled.status_code == 404
    assert problem_of(await gateway.client.get("/v1/orders", headers=trade["headers"])).code == "plan_required"


async def test_the_scope_admin_is_for_administrators_as_long_as_they_are(gateway: Gateway) -> None:
    user, admin = await gateway.someone("pro"), await gateway.someone("pro", admin=True)
    refused = problem_of(await ask(gateway, user, scopes=["admin"]))
    assert (refused.status, refused.code) == (403, "admin_required")
    key, plain = await key_for(gateway, admin, scopes=["read", "admin"]), await key_for(gateway, admin)
    assert (await get(gateway, key, "/v1/admin/users")).status_code == 200
    assert problem_of(await get(gateway, plain, "/v1/admin/users")).code == "scope_missing"
    async with gateway.sessions.begin() as session:
        await session.execute(update(User).where(User.id == admin.id).values(role="user"))
    assert problem_of(await get(gateway, key, "/v1/admin/users")).code == "admin_required"


LOGINS_ONLY = [
    (method, route.path)
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute) and access_of(route) in {"account_holder", "fresh_holder", "fresh_admin"}
    for method in sorted(route.methods)
]


async def test_no_key_reaches_what_needs_a_login(gateway: Gateway) -> None:
    admin = await gateway.someone("pro", admin=True)
    key = await key_for(gateway, admin, scopes=["read", "trade", "admin"])
    assert ("POST", PATH) in LOGINS_ONLY
    for method, path in LOGINS_ONLY:
        reply = await gateway.client.request(
            method, path.replace("{", "").replace("}", ""), headers=key["headers"], json={}
        )
        # Where the body or path is refused, nothing was done either: who calls is asked first.
        assert (reply.status_code, problem_of(reply).code) == (403, "login_required"), (method, path)


async def test_there_are_twenty_at_most_and_only_with_a_plan(gateway: Gateway) -> None:
    free, user = await gateway.someone(), await gateway.someone("pro")
    assert problem_of(await ask(gateway, free)).code == "plan_required"
    keys = [await key_for(gateway, user) for _ in range(KEYS_MAX)]
    assert problem_of(await ask(gateway, user)).code == "too_many_keys"
    await gateway.client.delete(f"{PATH}/{keys[0]['id']}", headers=user.headers)
    assert (await ask(gateway, user)).status_code == 201


@pytest.mark.parametrize(
    "wish",
    [
        {"scopes": []},
        {"scopes": ["write"]},
        {"expires_in_days": 0},
        {"expires_in_days": 366},
        {"networks": ["everywhere"]},
        {"networks": ["203.0.113.7/24"]},
        {"networks": ["300.1.1.1"]},
        {"name": ""},
        {"name": "a\x00b"},
    ],
)
async def test_what_cannot_be_meant_is_refused(gateway: Gateway, wish: dict[str, Any]) -> None:
    assert (await ask(gateway, await gateway.someone("pro"), **wish)).status_code == 422


async def test_a_key_and_its_user_are_both_counted(gateway: Gateway, kept: None) -> None:
    user = await gateway.someone("pro")
    key, other = await key_for(gateway, user), await key_for(gateway, user)
    limits = RateLimits(lambda: 0.0, dict.fromkeys(RouteClass, 3))
    gateway.app.state.api = replace(gateway.state, perimeter=replace(gateway.state.perimeter, limits=limits))
    counted: list[tuple[str, str]] = []
    count = limits.count

    async def watched(kind: RouteClass, caller: str, name: str) -> Any:
        counted.append((caller, name))
        return await count(kind, caller, name)

    limits.count = watched
    for each in (key, other):
        await get(gateway, each)
    mine = ("user", str(user.id))
    assert counted == [mine, ("key", str(key["id"])), mine, ("key", str(other["id"]))]


@given(st.ip_addresses(), st.integers(0, 128))
def test_an_address_is_within_its_own_networks(address: Any, bits: int) -> None:
    mapped = getattr(address, "ipv4_mapped", None) or address
    length = min(bits, mapped.max_prefixlen)
    network = f"{mapped}/{length}"
    try:
        networks = networks_of([network])
    except InvalidRequestError:
        assert int(mapped) & ((1 << (mapped.max_prefixlen - length)) - 1)  # host bits are set
        networks = networks_of([str(mapped)])
    assert is_within(str(address), networks)
    assert is_within(str(address), [])
    assert not is_within("nowhere", networks)


def test_an_ipv4_address_in_ipv6_form_is_the_same_address() -> None:
    assert is_within("::ffff:203.0.113.9", ["203.0.113.0/24"])
    assert not is_within("203.0.114.9", ["203.0.113.0/24"])
    assert networks_of(["203.0.113.7", "203.0.113.7/32"]) == ["203.0.113.7/32"]
