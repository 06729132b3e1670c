"""Every route x every kind of caller: who is let in and who is refused, for which reason."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from backend.api import deps
from tests.api.access import (
    ALL_ROUTES,
    EXPECTED,
    NOBODY,
    PLAN,
    REFUSALS,
    ROUTES,
    callers_of,
    declared,
)
from tests.api.conftest import Gateway
from tests.api.test_documentation import ACCESS

Callers = dict[str, dict[str, str]]

OPEN_ENDED = {"stream_quotes": {"symbols": "!"}}
"""A stream would not end: it is asked for what it has not."""


async def knock(gateway: Gateway, route: APIRoute, headers: dict[str, str]) -> httpx.Response:
    """Ask in a way that is refused as malformed behind the door, wherever there is anything to be malformed: what
    stands at the door is to be seen, and nothing is to happen behind it."""
    (method,) = route.methods
    path = route.path
    for name in route.param_convertors:
        path = path.replace(f"{{{name}}}", "!")
    body: Any = [] if route.body_field else None
    query = OPEN_ENDED.get(str(route.operation_id))
    return await gateway.client.request(method, path, json=body, params=query, headers=headers)


def refusal_of(route: APIRoute, reply: httpx.Response) -> str | None:
    """The code by which the door refused; None for who was let in."""
    if reply.status_code not in {401, 403}:
        return None
    code = reply.json()["code"]
    behind = code == PLAN and not declared(route).startswith("paid_")
    return code if code in REFUSALS and not behind else None


async def found_at(gateway: Gateway, route: APIRoute, callers: Callers) -> dict[str, str | None]:
    """What each kind of caller met at the door."""
    found = {}
    for name, headers in callers.items():
        reply = await knock(gateway, route, headers)
        assert reply.status_code < 500 or reply.status_code == 503, (name, reply.text)
        found[name] = refusal_of(route, reply)
        if found[name] is not None:
            assert reply.status_code == REFUSALS[found[name]]
            assert set(reply.json()) == {"type", "title", "status", "detail", "code", "request_id", "errors"}
    return found


def test_every_route_is_in_the_table() -> None:
    listed = {operation for operations in ACCESS.values() for operation in operations} | {"stream_bars"}
    assert {getattr(route, "operation_id", None) or route.name for route in ALL_ROUTES} == listed
    assert set(EXPECTED) == {access.__name__ for access in deps.ACCESSES}
    assert {declared(route) for route in ALL_ROUTES} == set(EXPECTED)


@pytest.fixture(scope="module")
async def callers(gateway: Gateway) -> Callers:
    """One caller of each kind."""
    return await callers_of(gateway)


def happens(route: APIRoute) -> bool:
    """Whether whoever is let in changes something, as there is nothing to be malformed."""
    return not (route.methods == {"GET"} or route.body_field or route.param_convertors)


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.operation_id)
async def test_each_kind_of_caller_meets_what_the_route_declares(
    gateway: Gateway, callers: Callers, route: APIRoute
) -> None:
    access, who = declared(route), await callers_of(gateway) if happens(route) else callers
    if access == "public":  # which asks nobody who they are
        who = {name: who[name] for name in (NOBODY, "free", "read_key")}
    assert await found_at(gateway, route, who) == {name: EXPECTED[access][name] for name in who}


GUARDS: dict[Callable[..., Any], str] = {
    deps.current_user: "trade_key",
    deps.trading_user: "read_key",
    deps.paid_portfolio: "free",
    deps.paid_auto_trading: "free",
    deps.account_holder: "read_key",
    deps.fresh_holder: "stale",
    deps.support_user: "paid",
    deps.admin_user: "support",
    deps.fresh_admin: "stale_admin",
}
"""Each guard, and somebody whom it alone keeps out."""


@pytest.mark.parametrize("guard", GUARDS, ids=lambda g: g.__name__)
async def test_a_guard_that_is_gone_is_missed(gateway: Gateway, callers: Callers, guard: Callable[..., Any]) -> None:
    """Without its guard a route answers otherwise than the table says: the table can fail."""
    route = next(r for r in ROUTES if declared(r) == guard.__name__ and (r.body_field or r.param_convertors))
    caller = GUARDS[guard]
    who = {caller: callers[caller]}
    assert (await found_at(gateway, route, who))[caller] is not None
    # A fresh administrator is asked by two: the proof is the first one's.
    gone = deps.fresh_holder if guard is deps.fresh_admin else guard
    gateway.app.dependency_overrides[gone] = lambda: None
    try:
        assert (await found_at(gateway, route, who))[caller] is None
    finally:
        del gateway.app.dependency_overrides[gone]


async def test_without_the_guards_nobody_would_be_let_in(gateway: Gateway) -> None:
    route = next(r for r in ROUTES if declared(r) == "admin_user")
    gateway.app.dependency_overrides[deps.authenticated] = lambda: None
    gateway.app.dependency_overrides[deps.admin_user] = lambda: None
    try:
        assert await found_at(gateway, route, {NOBODY: {}}) == {NOBODY: None}
    finally:
        gateway.app.dependency_overrides.clear()
