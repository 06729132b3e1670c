"""Users under an administrator's hand: seen at a glance, switched off and on, given roles, and logged out."""

import asyncio
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import select

from backend.db import OPERATOR_ROLE, create_engine, create_sessions
from backend.domain.orders import OrderState
from backend.errors import ConflictError
from backend.models import (
    ApiKey,
    AuditEntry,
    AutoTrade,
    Credential,
    LivePermission,
    LoginSession,
    OutboxMessage,
    RecoveryCode,
    Role,
    User,
)
from backend.services import cancel_service, user_admin_service
from backend.services.audit_service import SYSTEM
from backend.services.auto_trading_service import run_cycle
from tests.api.conftest import Gateway, Someone
from tests.api.rows import add_cycle, trade
from tests.api.silent_market import without_market
from tests.api.test_problems import problem_of
from tests.support.resting_orders import rest, state_of

WHY = {"reason": "asked for by the user"}
PATH = "/v1/admin/users"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time enough on a busy machine: what becomes of an order counts here, and not how soon."""
    monkeypatch.setattr(cancel_service, "CANCEL_S_MAX", 20)


async def call(gateway: Gateway, who: Someone, method: str, path: str, body: dict | None = None) -> httpx.Response:
    return await gateway.client.request(method, f"{PATH}{path}", json=body, headers=who.headers)


async def be(gateway: Gateway, someone: Someone, role: Role) -> Someone:
    async with gateway.sessions.begin() as session:
        (await session.get_one(User, someone.id)).role = role
    return someone


async def logs_of(gateway: Gateway, subject: Someone) -> list[AuditEntry]:
    async with gateway.sessions() as session:
        query = select(AuditEntry).where(AuditEntry.subject_id == subject.id).order_by(AuditEntry.id)
        return list((await session.scalars(query)).all())


async def with_key(gateway: Gateway, someone: Someone) -> int:
    async with gateway.sessions.begin() as session:
        key = ApiKey(
            user_id=someone.id, name="bot", prefix="sk", key_hash=f"key {someone.id}".encode(), scopes=["read"]
        )
        session.add(key)
        await session.flush()
        return key.id


async def test_users_are_found_by_address_role_plan_and_state(gateway: Gateway) -> None:
    support = await be(gateway, await gateway.someone(), Role.SUPPORT)
    free, pro = await gateway.someone(), await gateway.someone("pro")
    async with gateway.sessions.begin() as session:
        for someone, name in ((free, "Needle_1"), (pro, "needle_2")):
            (await session.get_one(User, someone.id)).email = f"{name}@example.com"
        (await session.get_one(User, free.id)).active = False

    async def found(query: str) -> list[int]:
        reply = await call(gateway, support, "GET", f"?{query}")
        assert reply.status_code == 200
        return [row["id"] for row in reply.json()["users"]]

    assert await found("email=nEEdle_") == [pro.id, free.id]
    assert await found("email=needle_&active=false") == [free.id]
    assert await found("email=needle_&plan=pro") == [pro.id]
    assert await found("email=needle_&plan=free") == [free.id]
    assert await found("email=needle%25") == []  # no pattern: a part of the address
    assert support.id in await found("role=support")
    first = (await call(gateway, support, "GET", "?email=needle_&limit=1")).json()
    assert await found(f"email=needle_&limit=1&cursor={first['next_cursor']}") == [free.id]
    for bad in ("role=king", "active=perhaps", "email=", "nonsense=1", "cursor=x"):
        assert problem_of(await call(gateway, support, "GET", f"?{bad}")).status == 422


async def test_a_user_at_a_glance(gateway: Gateway) -> None:
    support = await be(gateway, await gateway.someone(), Role.SUPPORT)
    user = await gateway.someone("pro", enabled=True)
    await with_key(gateway, user)
    await gateway.client.post("/v1/kill-switch", json={"reason": "too wild"}, headers=user.headers)
    async with gateway.sessions.begin() as session:
        session.add(
            Credential(user_id=user.id, password_hash="a-hash", totp_secret=b"x", totp_confirmed_at=gateway.clock())
        )
    reply = await call(gateway, support, "GET", f"/{user.id}")
    assert reply.status_code == 200
    seen = reply.json()
    assert (seen["user"]["email"], seen["active"], seen["plan"]["code"]) == (user.email, True, "pro")
    assert (seen["subscription"]["status"], seen["pending"]) == ("active", None)
    assert [(a["id"], a["status"], a["is_primary"]) for a in seen["accounts"]] == [(user.account_id, "ready", True)]
    assert seen["settings"]["enabled"] is True
    assert (seen["trading_state"], [s["detail"] for s in seen["standing"]]) == ("halted", ["too wild"])
    assert (seen["quota"]["entries_per_day"], seen["quota"]["entries_used"]) == (50, 0)
    assert (seen["second_factor"], seen["sessions"], seen["api_keys"], seen["open_trades"]) == (True, 1, 1, 0)
    assert seen["last_login_at"] is not None
    assert "a-hash" not in reply.text
    assert problem_of(await call(gateway, support, "GET", "/987654321")).status == 404


async def test_a_user_is_seen_without_the_markets_clock(gateway: Gateway) -> None:
    admin = await gateway.someone(admin=True)
    async with without_market(gateway) as client:
        reply = await client.get(f"{PATH}/{admin.id}", headers=admin.headers)
    assert (reply.status_code, reply.json()["quota"]) == (200, None)


async def test_who_is_switched_off_is_out_and_enters_nothing_while_exits_go_on(own_gateway: Gateway) -> None:
    admin, user = await own_gateway.someone(admin=True), await own_gateway.someone("pro", enabled=True)
    other = await own_gateway.someone("pro", enabled=True)
    key = await with_key(own_gateway, user)
    entry_id = await rest(own_gateway.trading, user.id, own_gateway.market.now, 980, symbol="RELIANCE")
    reply = await call(own_gateway, admin, "POST", f"/{user.id}/deactivate", WHY)
    assert await state_of(own_gateway.trading, entry_id) is OrderState.CANCELLED
    assert (reply.status_code, reply.json()["active"]) == (200, False)
    assert problem_of(await own_gateway.client.get("/v1/auth/me", headers=user.headers)).status == 401
    async with own_gateway.sessions() as session:
        login = (await session.scalars(select(LoginSession).where(LoginSession.user_id == user.id))).one()
        assert (login.revoked_reason, (await session.get_one(ApiKey, key)).revoked_at) == (
            "deactivated",
            own_gateway.clock(),
        )
        mail = (await session.scalars(select(OutboxMessage).where(OutboxMessage.topic == "mail.notice"))).one()
        assert mail.user_id == user.id
    entry = (await logs_of(own_gateway, user))[-1]
    assert (entry.actor, entry.action, entry.reason) == (f"user:{admin.id}", "user.deactivate", WHY["reason"])
    assert entry.after == {"active": False, "sessions_ended": 1, "api_keys_revoked": 1}

    report = await run_cycle(own_gateway.trading, own_gateway.market.now)
    assert report is not None
    async with own_gateway.sessions() as session:
        entered = set((await session.scalars(select(AutoTrade.user_id))).all())
    assert entered == {other.id}

    again = await call(own_gateway, admin, "POST", f"/{user.id}/deactivate", WHY)  # changes nothing
    assert again.status_code == 200
    back = await call(own_gateway, admin, "POST", f"/{user.id}/activate", WHY)
    assert (back.status_code, back.json()["active"]) == (200, True)
    assert [entry.action for entry in await logs_of(own_gateway, user)][-2:] == ["user.deactivate", "user.activate"]
    assert problem_of(await own_gateway.client.get("/v1/auth/me", headers=user.headers)).code == "session_ended"


async def test_an_erased_user_does_not_come_back(gateway: Gateway) -> None:
    admin, user = await gateway.someone(admin=True), await gateway.someone()
    async with gateway.sessions.begin() as session:
        row = await session.get_one(User, user.id)
        row.active, row.erased_at = False, gateway.clock()
    problem = problem_of(await call(gateway, admin, "POST", f"/{user.id}/activate", WHY))
    assert (problem.status, problem.code) == (409, "user_erased")


async def test_a_role_ends_the_logins_of_before(gateway: Gateway) -> None:
    admin, user = await gateway.someone(admin=True), await gateway.someone()
    reply = await call(gateway, admin, "PUT", f"/{user.id}/role", WHY | {"role": "support"})
    assert (reply.status_code, reply.json()["user"]["role"]) == (200, "support")
    assert problem_of(await gateway.client.get("/v1/auth/me", headers=user.headers)).code == "session_ended"
    entry = (await logs_of(gateway, user))[-1]
    assert (entry.action, entry.before, entry.after["role"]) == ("user.role", {"role": "user"}, "support")


async def test_one_active_administrator_always_stays(own_gateway: Gateway) -> None:
    admin, other = await own_gateway.someone(admin=True), await own_gateway.someone(admin=True)
    assert (await call(own_gateway, admin, "POST", f"/{other.id}/deactivate", WHY)).status_code == 200
    for method, what, body in (("PUT", "role", WHY | {"role": "user"}), ("POST", "deactivate", WHY)):
        problem = problem_of(await call(own_gateway, admin, method, f"/{admin.id}/{what}", body))
        assert (problem.status, problem.code) == (409, "last_admin")
    # One who is off may lose the role.
    reply = await call(own_gateway, admin, "PUT", f"/{other.id}/role", WHY | {"role": "user"})
    assert reply.status_code == 200


async def test_of_administrators_who_remove_each_other_one_stays(own_gateway: Gateway, database_url: str) -> None:
    admins = [await own_gateway.someone(admin=True) for _ in range(4)]
    engine = create_engine(database_url, role=OPERATOR_ROLE, pool_size=4)
    sessions = create_sessions(engine)

    async def remove(someone: Someone, off: bool) -> bool:
        try:
            async with sessions.begin() as session:
                if off:
                    await user_admin_service.set_active(session, SYSTEM, someone.id, False, "race", own_gateway.clock())
                else:
                    await user_admin_service.set_role(
                        session, SYSTEM, someone.id, Role.USER, "race", own_gateway.clock()
                    )
        except ConflictError:
            return False
        return True

    done = await asyncio.gather(*(remove(each, n % 2 == 0) for n, each in enumerate(admins)))
    await engine.dispose()
    assert sorted(done) == [False, True, True, True]


async def test_a_lost_second_factor_is_taken_away_with_its_codes_and_logins(gateway: Gateway) -> None:
    admin, user = await gateway.someone(admin=True), await gateway.someone()
    path = f"/{user.id}/second-factor/reset"
    assert problem_of(await call(gateway, admin, "POST", path, WHY)).code == "no_second_factor"
    async with gateway.sessions.begin() as session:
        session.add(
            Credential(user_id=user.id, password_hash="!", totp_secret=b"sealed", totp_confirmed_at=gateway.clock())
        )
        session.add(RecoveryCode(user_id=user.id, code_hash=b"one"))
        session.add(LivePermission(user_id=user.id, confirmed_at=gateway.clock()))
    reply = await call(gateway, admin, "POST", path, WHY)
    assert (reply.status_code, reply.json()) == (200, {"sessions_ended": 1})
    async with gateway.sessions() as session:
        left = await session.get_one(Credential, user.id)
        assert (left.totp_secret, left.totp_confirmed_at) == (None, None)
        assert (await session.get_one(LivePermission, user.id)).confirmed_at is None
        assert (await session.scalars(select(RecoveryCode).where(RecoveryCode.user_id == user.id))).all() == []
        mails = select(OutboxMessage).where(OutboxMessage.user_id == user.id, OutboxMessage.topic == "mail.notice")
        assert "second factor" in (await session.scalars(mails)).one().payload["subject"]
    assert (await logs_of(gateway, user))[-1].action == "second_factor.reset"


async def test_logins_are_seen_and_ended_without_a_step_up(gateway: Gateway) -> None:
    admin, user = await gateway.someone(admin=True), await gateway.someone()
    async with gateway.sessions.begin() as session:
        stale = (await session.scalars(select(LoginSession).where(LoginSession.user_id == admin.id))).one()
        stale.proved_at = gateway.clock() - timedelta(hours=1)
    (login,) = (await call(gateway, admin, "GET", f"/{user.id}/sessions")).json()["sessions"]
    missing = await call(gateway, admin, "DELETE", f"/{admin.id}/sessions/{login['id']}")
    assert problem_of(missing).status == 404  # it is another user's
    ended = await call(gateway, admin, "DELETE", f"/{user.id}/sessions/{login['id']}")
    assert ended.status_code == 200
    assert problem_of(await gateway.client.get("/v1/auth/me", headers=user.headers)).code == "session_ended"
    reply = await call(gateway, admin, "POST", f"/{user.id}/sessions/end", WHY)
    assert (reply.status_code, reply.json()) == (200, {"sessions_ended": 0})
    assert [e.action for e in await logs_of(gateway, user)] == ["session.end", "session.end_all"]
    assert problem_of(await call(gateway, admin, "GET", "/987654321/sessions")).status == 404


FRESH = [
    ("POST", "deactivate", WHY),
    ("POST", "activate", WHY),
    ("PUT", "role", WHY | {"role": "admin"}),
    ("POST", "second-factor/reset", WHY),
]
SAFE = [("POST", "sessions/end", WHY), ("DELETE", "sessions/1", None)]
LOOKS = ["", "/sessions", "/why-no-trade"]


@pytest.mark.parametrize(("method", "what", "body"), FRESH)
async def test_what_concerns_who_somebody_is_asks_for_a_fresh_proof(
    gateway: Gateway, method: str, what: str, body: dict
) -> None:
    admin, user = await gateway.someone(admin=True), await gateway.someone()
    async with gateway.sessions.begin() as session:
        login = (await session.scalars(select(LoginSession).where(LoginSession.user_id == admin.id))).one()
        login.proved_at = gateway.clock() - timedelta(minutes=11)
    problem = problem_of(await call(gateway, admin, method, f"/{user.id}/{what}", body))
    assert (problem.status, problem.code) == (403, "step_up_required")
    assert await logs_of(gateway, user) == []


async def test_support_looks_and_changes_nothing_and_users_see_nothing(gateway: Gateway) -> None:
    user, support = await gateway.someone(), await be(gateway, await gateway.someone(), Role.SUPPORT)
    for method, what, body in FRESH + SAFE:
        assert problem_of(await call(gateway, support, method, f"/{user.id}/{what}", body)).code == "admin_required"
    for look in LOOKS:
        assert (await call(gateway, support, "GET", f"/{user.id}{look}")).status_code == 200
        assert problem_of(await call(gateway, user, "GET", f"/{user.id}{look}")).code == "admin_required"
    assert problem_of(await call(gateway, user, "GET", "")).code == "admin_required"


@pytest.mark.parametrize("body", [None, {}, {"reason": ""}, {"reason": "ok"}, {"reason": "a\nb c"}, WHY | {"more": 1}])
async def test_a_deed_needs_a_reason(gateway: Gateway, body: dict | None) -> None:
    admin, user = await gateway.someone(admin=True), await gateway.someone()
    assert problem_of(await call(gateway, admin, "POST", f"/{user.id}/deactivate", body)).status == 422


async def test_open_trades_are_counted(gateway: Gateway) -> None:
    admin, user = await gateway.someone(admin=True), await gateway.someone("pro", account=True)
    cycle_id = await add_cycle(gateway.sessions, gateway.market.now - timedelta(days=40))
    async with gateway.sessions.begin() as session:
        session.add(trade(user, cycle_id))
    assert (await call(gateway, admin, "GET", f"/{user.id}")).json()["open_trades"] == 1
