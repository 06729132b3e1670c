"""No user sees or moves another one's rows, on any route, by any id: two tenants, of whom one has a row in every
table, with a mark in every text of it."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from fastapi.routing import APIRoute
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from backend.api.examples import REQUESTS
from backend.db import create_engine
from backend.models import Credential, LoginSession, User
from sauda.embedded import EmbeddedPostgres
from tests.api.access import NOBODY, ROUTES, callers_of, declared
from tests.api.conftest import Gateway, _new_database, gateway_over
from tests.api.test_data_rights import plant
from tests.services.test_tenancy import TENANT, key_of

MARK, ID = "zubeida", 7_700_000
EMAIL = f"{MARK}@example.com"
SEEN = {
    "export_my_data",
    "get_auto_trading_status",
    "get_billing_details",
    "get_broker_credentials",
    "get_me",
    "get_order",
    "get_readiness",
    "get_subscription",
    "get_trading_state",
    "list_auto_trades",
    "list_broker_accounts",
    "list_orders",
    "list_own_audit",
    "list_payments",
}
"""Where she meets herself; her other rows are too old, or too odd, to be shown."""
HER_IDS = re.compile(r"\b770[01]\d{3}\b")
STAFF = {"support_user", "admin_user", "fresh_admin"}
NEVER_ENDING = {"stream_quotes", "stream_backtest"}
"""Public quotes, which have no user, and one's own backtest as it goes."""


@dataclass
class Tenants:
    """A gateway, and the user who has a row in every table; `hers` are her headers."""

    gateway: Gateway
    owner: AsyncEngine
    hers: dict[str, str]

    async def rows(self) -> dict[str, str]:
        """All that is hers, by table."""
        each = " UNION ALL ".join(
            f"SELECT '{name}', coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '') FROM {name} t "
            f"WHERE {key_of(name)}::text = '{ID}'"
            for name in TENANT
        )
        async with self.owner.connect() as connection:
            return dict((await connection.execute(text(each))).tuples().all())


@pytest.fixture(scope="module")
async def tenants(postgres: EmbeddedPostgres) -> AsyncIterator[Tenants]:
    url = await _new_database(postgres, "api_tenants")
    owner = create_engine(url, pool_size=1, owner=True)
    async with gateway_over(url) as gateway:
        now = gateway.clock()
        login = LoginSession(id=1, user_id=ID, proved_at=now, last_used_at=now, expires_at=now + timedelta(days=1))
        async with gateway.sessions.begin() as session:
            session.add(User(id=ID, email=EMAIL, name=MARK))
            await session.flush()
            session.add_all((Credential(user_id=ID, password_hash=MARK), login))
        await plant(owner, ID, MARK)
        async with owner.begin() as connection:
            await connection.execute(text("SELECT setval('login_sessions_id_seq', 1)"))
        hers = {"Authorization": f"Bearer {gateway.state.security.issue(ID, 1)}"}
        yield Tenants(gateway, owner, hers)
    await owner.dispose()


def of_hers(body: Any) -> Any:
    """A body in which every id is hers."""
    if isinstance(body, dict):
        return {name: ID if name.endswith("_id") and isinstance(v, int) else of_hers(v) for name, v in body.items()}
    return body


def paths_to_hers(route: APIRoute) -> list[str]:
    """The route's path with each of the ids that rows of hers have."""
    found = {route.path}
    for name in route.param_convertors:
        values = (ID, ID + 1000) if name.endswith("_id") else ("INFY",)
        found = {path.replace(f"{{{name}}}", str(value)) for path in found for value in values}
    return sorted(found)


@pytest.mark.parametrize(
    "route", [r for r in ROUTES if r.operation_id != "stream_quotes"], ids=lambda r: r.operation_id
)
async def test_a_route_shows_and_changes_nothing_of_anothers(tenants: Tenants, route: APIRoute) -> None:
    gateway, access, before = tenants.gateway, declared(route), await tenants.rows()
    assert all(before.values())
    who = {"public": (NOBODY,), "current_user": ("paid", "read_key")}.get(access, ("paid",))
    callers = await callers_of(gateway, *who)
    (method,) = route.methods
    for name in who:
        for path in paths_to_hers(route):
            body = of_hers(REQUESTS.get(str(route.operation_id)))
            headers = callers[name] | {"Idempotency-Key": "of the stranger's"}
            reply = await gateway.client.request(method, path, json=body, headers=headers)
            assert reply.status_code < 500 or reply.status_code == 503, reply.text
            assert MARK not in reply.text
            if reply.is_success:
                assert not HER_IDS.search(reply.text)
                assert access == "public" or f"{ID}" not in path + str(body)
            elif access not in STAFF and path != route.path:
                assert reply.status_code in {404, 422}, reply.text
            if access in STAFF:
                assert (reply.status_code, reply.json()["code"]) == (403, "admin_required")
    after = await tenants.rows()
    assert {name for name in TENANT if after[name] != before[name]} == set()


async def test_she_does_see_them(tenants: Tenants) -> None:
    """What the strangers did not see is there to be seen."""
    shown = set()
    for route in ROUTES:
        if route.methods == {"GET"} and route.operation_id not in NEVER_ENDING and declared(route) != "public":
            for path in paths_to_hers(route):
                reply = await tenants.gateway.client.get(path, headers=tenants.hers)
                if reply.is_success and (MARK in reply.text or HER_IDS.search(reply.text)):
                    shown.add(route.operation_id)
    assert shown == SEEN
