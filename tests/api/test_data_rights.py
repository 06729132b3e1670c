"""One's own data: all of it in the export, and none of it left after an erasure but what the law holds."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Enum, LargeBinary, String, Table, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncEngine

from backend.domain.decide import TradeStatus
from backend.domain.orders import OrderState
from backend.models import (
    AuditEntry,
    Base,
    BrokerAccount,
    BrokerAccountStatus,
    LoginSession,
    Payment,
    PaymentStatus,
    Role,
    Subscription,
    SubscriptionStatus,
    User,
)
from backend.services.erasure_service import HOLDS
from backend.services.export_service import EXPORTED, LEFT_OUT, Exports, columns_of
from tests.api.conftest import Gateway
from tests.api.people import PASSWORD, Mailbox, bearer, log_in, newcomer
from tests.api.test_problems import problem_of
from tests.services.test_tenancy import PLATFORM, TENANT, insert, row_of

MARK, OTHER = "zubeida", "ravindra"
EMAIL = f"{MARK}@example.com"
HELD = {table for hold in HOLDS for table in hold.tables}
MADE_BY_REGISTERING = {"users", "credentials"}
LABELLED_ONLY = "broker_accounts"
"""What stays of an account names its broker; its label is the user's own words."""


def personal(table: Table, user_id: int, mark: str) -> dict[str, Any]:
    """A row of the user's with `mark` in every column that takes text."""
    row = row_of(table, user_id)
    for column in table.columns:
        kind = column.type
        if (table.name, column.name) in {("trading_states", "key"), ("backtests", "claim"), ("backtests", "error")}:
            continue
        if table.name == LABELLED_ONLY and column.name != "label":
            continue
        if isinstance(kind, JSONB):
            row[column.name] = json.dumps({"text": mark})
        elif isinstance(kind, ARRAY) and isinstance(kind.item_type, String):
            row[column.name] = [mark]
        elif isinstance(kind, String) and not isinstance(kind, Enum) and (kind.length or 99) >= len(mark):
            row[column.name] = mark
    closed = {"auto_trades": {"status": TradeStatus.CLOSED.value}, "orders": {"state": OrderState.FILLED.value}}
    return row | closed.get(table.name, {})


async def plant(owner: AsyncEngine, user_id: int, mark: str) -> None:
    """A row of the user's in every table that may have one."""
    async with owner.begin() as connection:
        await connection.execute(text("SET LOCAL session_replication_role = replica"))  # no foreign keys, no chain
        for name in sorted(set(TENANT) - MADE_BY_REGISTERING):
            row = personal(Base.metadata.tables[name], user_id, mark)
            if "id" in row and name not in {"broker_accounts", "orders"}:  # other rows name those two
                row["id"] = 1000 + user_id
            await insert(connection, Base.metadata.tables[name], row)


async def holding(owner: AsyncEngine, mark: str) -> set[str]:
    """The tables, of all there are, in which a row has `mark` anywhere."""
    found = set()
    async with owner.connect() as connection:
        for name in Base.metadata.tables:
            query = text(f"SELECT count(*) FROM {name} t WHERE t::text ILIKE :mark")
            if await connection.scalar(query, {"mark": f"%{mark}%"}):
                found.add(name)
    return found


async def erase(gateway: Gateway, tokens: dict[str, Any], **body: Any) -> httpx.Response:
    asked = {"password": PASSWORD} | body
    return await gateway.client.post("/v1/me/erasure", json=asked, headers=bearer(tokens))


async def person(gateway: Gateway, email: str = EMAIL) -> tuple[int, dict[str, Any]]:
    tokens = await newcomer(gateway, email)
    async with gateway.sessions() as session:
        return (await session.scalars(select(User.id).where(User.email == email))).one(), tokens


# ---- export


def test_no_table_with_rows_of_users_is_forgotten() -> None:
    assert sorted([*EXPORTED, *LEFT_OUT]) == TENANT
    assert not {*EXPORTED, *LEFT_OUT} & PLATFORM


def test_no_column_with_a_secret_is_exported() -> None:
    exported = {(name, column.name) for name in EXPORTED for column in columns_of(Base.metadata.tables[name])}
    assert not [each for each in exported if any(word in each[1] for word in ("hash", "secret", "sealed", "wrapped"))]
    binary = {
        (t.name, c.name) for t in Base.metadata.tables.values() for c in t.columns if isinstance(c.type, LargeBinary)
    }
    assert not exported & binary


async def test_the_export_has_all_of_mine_and_nothing_of_others(own_gateway: Gateway, owner: AsyncEngine) -> None:
    user_id, tokens = await person(own_gateway)
    other_id, _ = await person(own_gateway, f"{OTHER}@example.com")
    await plant(owner, user_id, MARK)
    await plant(owner, other_id, OTHER)
    reply = await own_gateway.client.get("/v1/me/export", headers=bearer(tokens))
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert f"sauda-{user_id}-20260302.json" in reply.headers["content-disposition"]
    document = reply.json()
    assert (document["user_id"], document["exported_at"]) == (user_id, "2026-03-02T04:00:00Z")
    assert tuple(document["tables"]) == EXPORTED
    assert [name for name, rows in document["tables"].items() if not rows] == []
    assert OTHER not in reply.text
    assert "argon2" not in reply.text
    audit = document["tables"]["audit_log"]
    assert {entry["ip"] for entry in audit if entry["actor_id"] == user_id} == {"127.0.0.1"}
    assert {entry["ip"] for entry in audit if entry["actor_id"] is None} == {""}
    assert "data.export" in {entry["action"] for entry in audit}


async def test_the_export_needs_a_login_proved_minutes_ago(own_gateway: Gateway) -> None:
    _, tokens = await person(own_gateway)
    async with own_gateway.sessions.begin() as session:
        await session.execute(update(LoginSession).values(proved_at=own_gateway.clock() - timedelta(minutes=11)))
    for method, path in (("GET", "/v1/me/export"), ("POST", "/v1/me/erasure")):
        body = {"password": PASSWORD} if method == "POST" else None
        refused = await own_gateway.client.request(method, path, json=body, headers=bearer(tokens))
        assert problem_of(refused).code == "step_up_required"


async def test_a_slow_reader_holds_no_connection_and_has_one_export(own_gateway: Gateway) -> None:
    _, tokens = await person(own_gateway)
    _, others = await person(own_gateway, f"{OTHER}@example.com")
    started, released = asyncio.Event(), asyncio.Event()
    head = [(name.lower().encode(), value.encode()) for name, value in bearer(tokens).items()]
    scope = {"type": "http", "method": "GET", "path": "/v1/me/export", "raw_path": b"/v1/me/export", "headers": head}
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1), "root_path": ""}

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body" and not started.is_set():
            started.set()
            await released.wait()

    slow = asyncio.create_task(own_gateway.app(scope, receive, send))
    await started.wait()
    assert own_gateway.state.sessions.kw["bind"].pool.checkedout() == 0
    second = problem_of(await own_gateway.client.get("/v1/me/export", headers=bearer(tokens)))
    assert (second.status, second.code) == (429, "export_under_way")
    assert (await own_gateway.client.get("/v1/me/export", headers=bearer(others))).status_code == 200
    released.set()
    await slow
    assert (await own_gateway.client.get("/v1/me/export", headers=bearer(tokens))).status_code == 200


async def test_two_exports_are_read_at_once_and_none_without_end(own_gateway: Gateway, owner: AsyncEngine) -> None:
    own_gateway.app.state.api = replace(own_gateway.state, exports=Exports(gather_s_max=1))
    tokens = [(await person(own_gateway, f"p{number}@example.com"))[1] for number in range(3)]
    async with owner.begin() as connection:
        await connection.execute(text("LOCK TABLE idempotency_keys IN ACCESS EXCLUSIVE MODE"))
        asked = (own_gateway.client.get("/v1/me/export", headers=bearer(each)) for each in tokens)
        refused = [problem_of(reply) for reply in await asyncio.gather(*asked)]
    assert sorted((p.status, p.code) for p in refused) == [(429, "exports_busy"), *[(503, "export_too_long")] * 2]
    for each in tokens:
        assert (await own_gateway.client.get("/v1/me/export", headers=bearer(each))).status_code == 200


# ---- erasure


async def test_nothing_personal_is_left_outside_the_holds(own_gateway: Gateway, owner: AsyncEngine) -> None:
    user_id, tokens = await person(own_gateway)
    other_id, others = await person(own_gateway, f"{OTHER}@example.com")
    await plant(owner, user_id, MARK)
    await plant(owner, other_id, OTHER)
    everywhere = await holding(owner, MARK)
    assert {"users", "api_keys", "login_sessions", "outbox", "billing_details", "orders", "consents"} <= everywhere
    others_before = await holding(owner, OTHER)
    erased = await erase(own_gateway, tokens)
    assert erased.status_code == 200
    assert [kept["years"] for kept in erased.json()["kept"]] == [5, 8, 5]
    assert await holding(owner, MARK) <= HELD - {LABELLED_ONLY}
    assert await holding(owner, OTHER) == others_before
    async with own_gateway.sessions() as session:
        user = await session.get_one(User, user_id)
        assert (user.email, user.name, user.active) == (f"erased-{user_id}@invalid", "", False)
        assert (user.erased_at, user.email_verified_at) == (own_gateway.clock(), None)
        account = (await session.scalars(select(BrokerAccount).where(BrokerAccount.user_id == user_id))).one()
        assert (account.status, account.is_primary) == (BrokerAccountStatus.CLOSED, False)
    assert (await own_gateway.client.get("/v1/auth/me", headers=bearer(others))).status_code == 200


async def test_the_audit_log_names_what_changed_and_keeps_no_words_of_the_users(
    own_gateway: Gateway, owner: AsyncEngine
) -> None:
    user_id, tokens = await person(own_gateway)
    async with own_gateway.sessions.begin() as session:
        session.add(Subscription(user_id=user_id, plan_code="pro", status=SubscriptionStatus.ACTIVE))

    async def done(method: str, path: str, **body: Any) -> dict[str, Any]:
        reply = await own_gateway.client.request(method, f"/v1{path}", json=body or None, headers=bearer(tokens))
        assert reply.status_code in {200, 201}, reply.text
        return reply.json()

    details = {"name": MARK, "address": f"12 {MARK} Road", "state_code": "27", "gstin": None}
    await done("PUT", "/billing/details", **details)
    await done("PUT", "/billing/details", **details | {"address": f"13 {MARK} Road", "state_code": "29"})
    opened = (await done("POST", "/broker-accounts", broker="paper", label=f"{MARK} one"))["account"]
    await done("PATCH", f"/broker-accounts/{opened['id']}", label=f"{MARK} two")
    await done("DELETE", f"/broker-accounts/{opened['id']}")
    assert (await erase(own_gateway, tokens)).status_code == 200
    assert await holding(owner, MARK) == set()
    async with own_gateway.sessions() as session:
        entries = (await session.scalars(select(AuditEntry).where(AuditEntry.subject_id == user_id))).all()
    billing = [(e.before, e.after) for e in entries if e.action == "billing_details.change"]
    assert billing[1] == ({"state_code": "27"}, {"state_code": "29", "changed": ["address", "state_code"]})
    changed = next(e.after for e in entries if e.action == "broker_account.change")
    assert (changed or {})["label_changed"] is True


async def test_the_login_ends_and_the_address_is_free_again(own_gateway: Gateway) -> None:
    user_id, tokens = await person(own_gateway)
    token = await Mailbox(own_gateway).token_to(EMAIL)
    await own_gateway.client.put("/v1/auth/email", json={"email": f"{MARK}.new@example.com"}, headers=bearer(tokens))
    verified = await own_gateway.client.post("/v1/auth/email/verify", json={"token": token})
    assert verified.status_code == 200
    await own_gateway.client.post("/v1/auth/password-reset", json={"email": EMAIL.upper()})
    assert (await erase(own_gateway, tokens)).status_code == 200
    async with own_gateway.sessions() as session:
        entries = (await session.scalars(select(AuditEntry).where(AuditEntry.subject_id == user_id))).all()
    assert {"user.register", "email.change_asked", "email.verify", "user.erase"} <= {e.action for e in entries}
    assert MARK not in str([(e.before, e.after, e.target, e.reason) for e in entries])
    assert (await own_gateway.client.get("/v1/auth/me", headers=bearer(tokens))).status_code == 401
    refreshed = await own_gateway.client.post("/v1/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    assert refreshed.status_code == 401
    assert problem_of(await log_in(own_gateway, EMAIL)).code == "credentials_invalid"
    again_id, _ = await person(own_gateway)
    assert again_id != user_id


async def test_it_needs_the_password_and_is_done_once(own_gateway: Gateway) -> None:
    _, tokens = await person(own_gateway)
    wrong = problem_of(await erase(own_gateway, tokens, password="not this one"))
    assert (wrong.status, wrong.code) == (401, "credentials_invalid")
    replies = await asyncio.gather(*(erase(own_gateway, tokens) for _ in range(4)))
    statuses = [reply.status_code for reply in replies]
    assert (statuses.count(200), set(statuses) <= {200, 401, 409}) == (1, True)


@pytest.mark.parametrize("paid", [True, False])
async def test_a_paid_plan_is_lost_by_ones_own_word_alone_and_a_gift_just_ends(
    own_gateway: Gateway, paid: bool
) -> None:
    user_id, tokens = await person(own_gateway)
    async with own_gateway.sessions.begin() as session:
        plan = Subscription(user_id=user_id, plan_code="pro", status=SubscriptionStatus.ACTIVE)
        session.add(plan)
        await session.flush()
        if paid:
            facts = {"provider": "manual", "provider_ref": "p1", "price": 0, "credit": 0, "tax": {}, "amount": 0}
            session.add(Payment(user_id=user_id, subscription_id=plan.id, status=PaymentStatus.PAID, **facts))
    if paid:
        assert problem_of(await erase(own_gateway, tokens)).code == "subscription_current"
    assert (await erase(own_gateway, tokens, end_subscription=paid)).status_code == 200
    async with own_gateway.sessions() as session:
        ended = (await session.scalars(select(Subscription).where(Subscription.user_id == user_id))).one()
        assert (ended.status, ended.ended_at) == (SubscriptionStatus.CANCELLED, own_gateway.clock())


@pytest.mark.parametrize(
    ("table", "column", "value", "code"),
    [
        ("auto_trades", "status", TradeStatus.OPEN, "open_trades"),
        ("auto_trades", "status", TradeStatus.ENTERING, "open_trades"),
        ("orders", "state", OrderState.ACCEPTED, "open_orders"),
        ("orders", "state", OrderState.UNKNOWN, "open_orders"),
        ("users", "role", Role.ADMIN, "role_held"),
        ("users", "role", Role.SUPPORT, "role_held"),
    ],
)
async def test_what_is_open_bars_it_and_nothing_is_lost(
    own_gateway: Gateway, owner: AsyncEngine, table: str, column: str, value: str, code: str
) -> None:
    user_id, tokens = await person(own_gateway)
    await plant(owner, user_id, MARK)
    before = await holding(owner, MARK)
    async with owner.begin() as connection:
        await connection.execute(text("SET LOCAL session_replication_role = replica"))
        await connection.execute(text(f"UPDATE {table} SET {column} = :value"), {"value": value.value})
    refused = problem_of(await erase(own_gateway, tokens))
    assert (refused.status, refused.code) == (409, code)
    assert await holding(owner, MARK) == before
