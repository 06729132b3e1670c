"""How often one may ask, and what every answer says of it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
from fakeredis import FakeAsyncRedis
from hypothesis import given
from hypothesis import strategies as st
from limits.aio.strategies import FixedWindowRateLimiter
from redis.exceptions import ConnectionError as RedisGoneError

from backend.api.app import create_api
from backend.api.limits import (
    KEYS_MAX,
    PER_MINUTE,
    REDIS_REST_S,
    LocalStorage,
    RateLimits,
    RouteClass,
    address_key,
    class_of,
)
from backend.api.perimeter import Perimeter, networks_of
from contracts.common import Problem
from tests.api.conftest import Gateway


@dataclass
class Seconds:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


Callers = Callable[..., Any]


@pytest.fixture
def behind(gateway: Gateway, seconds: Seconds) -> Callers:
    """A client of the gateway's own state behind limits; `address` is where it calls from."""

    @asynccontextmanager
    async def client(
        per_minute: dict[RouteClass, int], address: str = "192.0.2.1", **perimeter: Any
    ) -> AsyncIterator[httpx.AsyncClient]:
        limits = RateLimits(seconds, per_minute)
        app = create_api(replace(gateway.state, perimeter=Perimeter(limits=limits, **perimeter)))
        transport = httpx.ASGITransport(app, client=(address, 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as made:
            yield made

    return client


async def test_one_address_gets_its_requests_a_minute_and_is_told_how_many_are_left(behind, seconds) -> None:
    async with behind({RouteClass.PUBLIC: 3}) as client:
        for left in (2, 1, 0):
            reply = await client.get("/v1/plans")
            assert reply.status_code == 200
            assert reply.headers["ratelimit-policy"] == '"public-per-address";q=3;w=60'
            assert reply.headers["ratelimit"] == f'"public-per-address";r={left};t=60'
        seconds.now += 20
        reply = await client.get("/v1/plans")
        problem = Problem.model_validate_json(reply.content)
        assert (reply.status_code, problem.code, problem.request_id) == (
            429,
            "too_many_requests",
            reply.headers["x-request-id"],
        )
        assert reply.headers["retry-after"] == "40"
        assert reply.headers["ratelimit"] == '"public-per-address";r=0;t=40'
        seconds.now += 40
        assert (await client.get("/v1/plans")).status_code == 200


async def test_classes_and_addresses_are_counted_apart(behind, gateway) -> None:
    async with behind({RouteClass.PUBLIC: 1, RouteClass.LOGIN: 1}) as client:
        assert (await client.get("/v1/plans")).status_code == 200
        login = {"email": "nobody@example.com", "password": "wrong"}
        assert (await client.post("/v1/auth/login", json=login)).status_code == 401
        assert (await client.post("/v1/auth/login", json=login)).status_code == 429
        transport = httpx.ASGITransport(client._transport.app, client=("192.0.2.2", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as other:
            assert (await other.get("/v1/plans")).status_code == 200


async def test_a_user_is_counted_whatever_the_address(behind, gateway: Gateway) -> None:
    user, other = await gateway.someone(), await gateway.someone()
    async with behind({RouteClass.READ: 2}) as client:
        app = client._transport.app
        codes = []
        for n in range(3):
            transport = httpx.ASGITransport(app, client=(f"192.0.2.{n + 1}", 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as moving:
                reply = await moving.get("/v1/orders", headers=user.headers)
                codes.append(reply.status_code)
        assert codes == [200, 200, 429]
        assert '"read-per-user";r=0' in reply.headers["ratelimit"]
        assert reply.headers["retry-after"] == "60"
        assert (await client.get("/v1/orders", headers=other.headers)).status_code == 200


async def test_a_request_with_an_idempotency_key_counts_once(behind, gateway: Gateway) -> None:
    user = await gateway.someone("pro", account=True)
    headers = user.headers | {"Idempotency-Key": "once"}
    async with behind({RouteClass.ORDER: 10}) as client:
        reply = await client.post("/v1/orders", json={}, headers=headers)
        assert reply.headers["ratelimit"].count("order-per-user") == 1


async def test_health_is_never_refused_and_halting_has_a_count_of_its_own(behind, gateway: Gateway) -> None:
    user = await gateway.someone()
    async with behind(dict.fromkeys(RouteClass, 1) | {RouteClass.SAFETY: 5}) as client:
        for _ in range(3):
            reply = await client.get("/health")
            assert (reply.status_code, "ratelimit" in reply.headers) == (200, False)
            assert (await client.post("/v1/kill-switch", headers=user.headers)).status_code == 200


async def test_whoever_floods_from_the_same_address_bars_no_halt(behind, gateway: Gateway) -> None:
    user, other = await gateway.someone(), await gateway.someone()
    async with behind({RouteClass.SAFETY: 1}) as client:
        for _ in range(3):
            assert (await client.post("/v1/kill-switch")).status_code == 401
        for someone in (user, other):
            reply = await client.post("/v1/kill-switch", headers=someone.headers)
            assert (reply.status_code, reply.headers["ratelimit"]) == (200, '"safety-per-user";r=0;t=60')
        assert (await client.post("/v1/kill-switch", headers=user.headers)).status_code == 429


async def test_whoever_tries_passwords_keeps_nobody_logged_out_and_no_payment_unheard(behind) -> None:
    async with behind({RouteClass.LOGIN: 1}) as client:
        codes = [(await client.post("/v1/auth/login", json={})).status_code for _ in range(2)]
        assert codes == [422, 429]
        for path in ("/v1/auth/refresh", "/v1/auth/logout", "/v1/webhooks/razorpay"):
            assert (await client.post(path)).status_code != 429


async def test_every_route_but_health_is_counted(gateway: Gateway, behind) -> None:
    """Also those that answer from memory before any routing, and paths that do not exist; a halt by its user alone."""
    async with behind({}) as client:
        paths = client._transport.app.openapi()["paths"]
        for path, operations in [*paths.items(), ("/nowhere", {"get": {}}), ("/docs", {"get": {}})]:
            if path.startswith("/v1/stream/") or path.endswith("/events"):
                continue  # they go on
            for method in operations:
                reply = await client.request(method, path.replace("{", "").replace("}", ""))
                uncounted = path.endswith("/health") or class_of(method.upper(), path) is RouteClass.SAFETY
                assert ("ratelimit" in reply.headers) is not uncounted, (method, path)


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("GET", "/v1/market/quotes", RouteClass.PUBLIC),
        ("HEAD", "/v1/market/quotes", RouteClass.PUBLIC),
        ("GET", "/v1/stream/quotes", RouteClass.STREAM),
        ("GET", "/v1/orders", RouteClass.READ),
        ("POST", "/v1/orders", RouteClass.ORDER),
        ("DELETE", "/v1/orders/7", RouteClass.SAFETY),
        ("POST", "/v1/kill-switch", RouteClass.SAFETY),
        ("POST", "/v1/admin/kill-switch", RouteClass.SAFETY),
        ("POST", "/v1/auto-trading/disable", RouteClass.SAFETY),
        ("POST", "/v1/auth/login", RouteClass.LOGIN),
        ("POST", "/v1/auth/register", RouteClass.LOGIN),
        ("POST", "/v1/auth/refresh", RouteClass.RENEWAL),
        ("POST", "/v1/auth/logout", RouteClass.RENEWAL),
        ("POST", "/v1/webhooks/razorpay", RouteClass.WEBHOOK),
        ("PUT", "/v1/auto-trading/settings", RouteClass.WRITE),
    ],
)
def test_the_class_of_a_request(method, path, kind) -> None:
    assert class_of(method, path) is kind


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("testclient", "testclient"),
    ],
)
def test_one_customer_is_one_key(address, key) -> None:
    assert address_key(address) == key


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 50)), max_size=40))
async def test_a_window_never_lets_more_through_than_its_limit(steps) -> None:
    seconds = Seconds()
    limits = RateLimits(seconds, {RouteClass.READ: 3})
    passed: dict[str, list[float]] = {"a": [], "b": []}
    for name, wait in steps:
        seconds.now += wait
        window = await limits.count(RouteClass.READ, "address", name)
        began = seconds.now - 60 + window.reset_s
        if window.passed:
            passed[name].append(seconds.now)
        assert sum(at >= began - 1 for at in passed[name]) <= 3 + (began < seconds.now - 59)
        assert 0 <= window.remaining < 3


async def test_what_is_over_is_forgotten_and_a_flood_of_names_is_bounded(seconds) -> None:
    storage = LocalStorage(seconds)
    limiter = FixedWindowRateLimiter(storage)
    await storage.incr("old", 60)
    seconds.now += 61
    await storage.incr("new", 60)
    assert (await storage.get("old"), await storage.get("new"), len(storage._counts)) == (0, 1, 1)
    seconds.now += 59.5
    await storage.incr("other", 60)  # what is over is thrown out now and then only
    seconds.now += 1
    assert await storage.incr("new", 60) == 1
    storage._counts |= {str(n): (1, seconds.now + 60) for n in range(KEYS_MAX + 1)}
    await storage.incr("new", 60)
    assert len(storage._counts) == 1
    assert await storage.check()
    assert limiter is not None


async def test_gateways_count_together_in_redis_and_alone_without_it(seconds, monkeypatch) -> None:
    redis = FakeAsyncRedis()
    first, second = (RateLimits(seconds, {RouteClass.READ: 3}, "redis://127.0.0.1:1/0") for _ in range(2))
    answers: list[int] = []

    class Shared(LocalStorage):
        """Redis itself, by the one command that counts."""

        async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
            if answers:
                raise RedisGoneError("gone")
            return int(await redis.incrby(key, amount))

        async def get(self, key: str) -> int:
            return int(await redis.get(key) or 0)

    for limits in (first, second):
        limits._shared = FixedWindowRateLimiter(Shared(seconds))
    left = [(await limits.count(RouteClass.READ, "user", "7")).remaining for limits in (first, second, first)]
    assert left == [2, 1, 0]
    assert not (await second.count(RouteClass.READ, "user", "7")).passed
    answers.append(0)  # from here on Redis is gone
    assert (await second.count(RouteClass.READ, "user", "7")).remaining == 2
    answers.clear()
    assert (await second.count(RouteClass.READ, "user", "7")).remaining == 1  # it is left alone for a while
    seconds.now += REDIS_REST_S
    assert not (await second.count(RouteClass.READ, "user", "7")).passed


async def test_a_redis_that_is_not_there_costs_no_request(behind, seconds) -> None:
    limits = RateLimits(seconds, {}, "redis://127.0.0.1:1/0")
    assert (await limits.count(RouteClass.READ, "user", "7")).remaining == PER_MINUTE[RouteClass.READ] - 1


def test_trusted_proxies_are_networks() -> None:
    assert len(networks_of(["10.0.0.0/8", "127.0.0.1", "2001:db8::/32"])) == 3
    with pytest.raises(ValueError, match="TRUSTED_PROXIES: 'proxy'"):
        networks_of(["proxy"])
