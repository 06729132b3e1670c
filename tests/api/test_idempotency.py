"""Idempotency-Key: the first answer comes again, byte for byte, and nothing is done twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import OperationalError

from backend.api.app import ROUTERS, access_of
from backend.api.idempotency import KEY_LENGTH_MAX, IdempotentRoute
from backend.db import create_engine
from backend.models import BrokerAccount, IdempotencyKey, Subscription, SubscriptionStatus
from backend.services import account_service, idempotency_service
from backend.services.idempotency_service import expired_keys
from tests.api.conftest import Gateway, Someone
from tests.api.test_problems import problem_of

PATH = "/v1/broker-accounts"
BODY = {"broker": "paper", "label": "Play money"}
NEITHER = {
    *("register", "login", "enable_auto_trading", "disable_auto_trading", "pull_kill_switch", "reactivate_trading"),
    *("correct_calendar", "pull_admin_kill_switch", "lift_trading_state"),
    "settle_unknown_order",
    *("refresh", "logout", "step_up", "ask_password_reset", "reset_password", "send_verification", "verify_email"),
    *("hear_razorpay", "confirm_live", "withdraw_live", "record_compliance", "revoke_compliance"),
    *("begin_second_factor", "confirm_second_factor", "renew_recovery_codes", "create_api_key"),
    *("answer_notice", "erase_me"),
    *("activate_user", "deactivate_user", "end_user_sessions", "reset_second_factor"),
    *("pause_trading", "force_reconcile"),
    *("begin_broker_login", "finish_broker_login", "hear_broker"),
}
"""POSTs that create no order and move no money, or may be repeated as they are."""

POSTS = [
    route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute) and "POST" in route.methods
]


async def post(gateway: Gateway, user: Someone, key: str | None, body: object = BODY, path: str = PATH):
    headers = user.headers | ({"Idempotency-Key": key} if key is not None else {})
    return await gateway.client.post(path, json=body, headers=headers)


async def accounts(gateway: Gateway, user: Someone) -> int:
    async with gateway.sessions() as session:
        query = select(func.count()).where(BrokerAccount.user_id == user.id)
        return await session.scalar(query) or 0


async def keys(gateway: Gateway, user: Someone) -> list[IdempotencyKey]:
    async with gateway.sessions() as session:
        rows = await session.scalars(select(IdempotencyKey).where(IdempotencyKey.user_id == user.id))
        return list(rows.all())


async def age(gateway: Gateway, user: Someone, seconds: float) -> None:
    """Let time pass for what the database timed by its own clock."""
    async with gateway.sessions.begin() as session:
        await session.execute(
            text("UPDATE idempotency_keys SET claimed_at = claimed_at - make_interval(secs => :s) WHERE user_id = :id"),
            {"s": seconds, "id": user.id},
        )


# ---- which routes have it


def test_whatever_creates_an_order_or_moves_money_has_it() -> None:
    """A new POST is either idempotent by its route's class, or listed here by someone who thought about it."""
    without = {route.operation_id for route in POSTS if not isinstance(route, IdempotentRoute)}
    assert without == NEITHER
    assert {"open_broker_account", "subscribe", "place_order"} <= {route.operation_id for route in POSTS} - without
    assert not [route for route in POSTS if route.operation_id not in NEITHER and access_of(route) == "public"]


async def test_it_is_documented_on_each_of_them(gateway: Gateway) -> None:
    document = (await gateway.client.get("/openapi.json")).json()
    for route in POSTS:
        parameters = document["paths"][route.path]["post"].get("parameters", [])
        documented = any(parameter["name"] == "Idempotency-Key" for parameter in parameters)
        assert documented is isinstance(route, IdempotentRoute)


# ---- the first answer, again


async def test_the_first_answer_is_replayed_byte_for_byte(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    first, second = await post(gateway, user, "key-1"), await post(gateway, user, "key-1")
    assert first.status_code == second.status_code == 201
    assert first.content == second.content
    assert first.headers["content-type"] == second.headers["content-type"] == "application/json"
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert await accounts(gateway, user) == 1


async def test_without_a_key_each_request_is_its_own(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    for _ in range(2):
        assert (await post(gateway, user, None)).status_code == 201
    assert (await accounts(gateway, user), await keys(gateway, user)) == (2, [])


async def test_fifty_at_once_are_one(own_gateway: Gateway) -> None:
    user = await own_gateway.someone("pro")

    async def until_answered() -> httpx.Response:
        async with asyncio.timeout(30):
            while (reply := await post(own_gateway, user, "the same")).status_code == 409:
                assert problem_of(reply).code == "idempotency_in_flight"
                assert reply.headers["retry-after"] == "1"
        return reply

    replies = await asyncio.gather(*(until_answered() for _ in range(50)))
    assert {reply.status_code for reply in replies} == {201}
    assert len({reply.content for reply in replies}) == 1
    assert sum("idempotent-replayed" not in reply.headers for reply in replies) == 1
    assert (await accounts(own_gateway, user), len(await keys(own_gateway, user))) == (1, 1)


async def test_a_refusal_that_came_of_the_work_is_an_answer_too(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    subscribe = {"plan": "pro"}
    replies = [await post(gateway, user, "k", subscribe, "/v1/subscription") for _ in range(2)]
    assert [problem_of(replies[0]).code, replies[0].status_code] == ["already_on_plan", 409]
    assert replies[0].content == replies[1].content
    assert replies[1].headers["content-type"] == "application/problem+json"


REFUSE = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused at commit'; END $$"
REFUSE_AT_COMMIT = """
    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON subscriptions DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION refuse()
"""


async def test_an_answer_is_kept_only_once_it_is_committed(own_gateway: Gateway, database_url: str) -> None:
    """The transaction of the route ends before the key's answer is written, or a lost commit would look done."""
    user = await own_gateway.someone()
    owner = create_engine(database_url, owner=True)
    async with owner.begin() as connection:
        for statement in (REFUSE, REFUSE_AT_COMMIT):
            await connection.execute(text(statement))
    await owner.dispose()
    reply = await post(own_gateway, user, "k", {"plan": "pro"}, "/v1/subscription")
    assert problem_of(reply).status == 500
    assert await keys(own_gateway, user) == []
    async with own_gateway.sessions() as session:
        assert await session.scalar(select(func.count()).where(Subscription.user_id == user.id)) == 0


# ---- what a key stands for


async def test_the_same_key_with_another_body_is_refused(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    await post(gateway, user, "k")
    problem = problem_of(await post(gateway, user, "k", BODY | {"label": "Other"}))
    assert (problem.status, problem.code) == (422, "idempotency_key_reused")
    assert await accounts(gateway, user) == 1


async def test_a_key_belongs_to_its_user_and_its_route(gateway: Gateway) -> None:
    user, other = await gateway.someone("pro"), await gateway.someone("pro")
    for someone in (user, other):
        assert "idempotent-replayed" not in (await post(gateway, someone, "k")).headers
        assert await accounts(gateway, someone) == 1
    reply = await post(gateway, user, "k", {"plan": "basic"}, "/v1/subscription")
    assert (reply.status_code, "idempotent-replayed" in reply.headers) == (201, False)


async def test_a_key_of_one_path_is_refused_on_another(gateway: Gateway) -> None:
    admin = await gateway.someone(admin=True)
    users = [await gateway.someone() for _ in range(2)]
    asked = [(await post(gateway, user, None, {"plan": "pro"}, "/v1/subscription")).json() for user in users]
    paths = [f"/v1/admin/subscriptions/{each['subscription']['id']}/activate" for each in asked]
    assert (await post(gateway, admin, "k", None, paths[0])).status_code == 200
    problem = problem_of(await post(gateway, admin, "k", None, paths[1]))
    assert (problem.status, problem.code) == (422, "idempotency_key_reused")
    assert (await post(gateway, admin, "other", None, paths[1])).json()["id"] == asked[1]["subscription"]["id"]


async def test_an_answer_comes_again_only_to_who_may_still_ask(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    assert (await post(gateway, user, "k", {"plan": "basic"}, "/v1/subscription")).status_code == 201
    assert (await post(gateway, user, "k-1")).status_code == 201
    async with gateway.sessions.begin() as session:
        mine = Subscription.user_id == user.id
        await session.execute(update(Subscription).where(mine).values(status=SubscriptionStatus.CANCELLED))
    reply = await post(gateway, user, "k-1")
    assert (problem_of(reply).code, "idempotent-replayed" in reply.headers) == ("plan_required", False)
    assert "idempotent-replayed" in (await post(gateway, user, "k", {"plan": "basic"}, "/v1/subscription")).headers


def test_each_asks_for_its_access_before_it_looks_at_the_key() -> None:
    keyed = [route for route in POSTS if isinstance(route, IdempotentRoute)]
    assert [access_of(route._door) for route in keyed] == [access_of(route) for route in keyed]


@pytest.mark.parametrize("key", ["a", "~" * KEY_LENGTH_MAX, "with a space", '"quoted"'])
async def test_a_key_is_printable_ascii(gateway: Gateway, key: str) -> None:
    user = await gateway.someone("pro")
    assert (await post(gateway, user, key)).status_code == 201
    assert [row.key for row in await keys(gateway, user)] == [key]


@pytest.mark.parametrize("key", ["", "x" * (KEY_LENGTH_MAX + 1), "tab\there", b"\xe9t\xe9"])
async def test_a_malformed_key_is_refused_and_nothing_done(gateway: Gateway, key: str | bytes) -> None:
    user = await gateway.someone("pro")
    raw = key if isinstance(key, bytes) else key.encode()
    headers = [(b"authorization", user.headers["Authorization"].encode()), (b"idempotency-key", raw)]
    problem = problem_of(await gateway.client.post(PATH, json=BODY, headers=headers))
    assert (problem.status, problem.code) == (422, "validation_failed")
    assert {(error["in"], error["pointer"]) for error in problem.errors} == {("header", "#/Idempotency-Key")}
    assert (await accounts(gateway, user), await keys(gateway, user)) == (0, [])


async def test_a_key_without_login_claims_nothing(gateway: Gateway) -> None:
    reply = await gateway.client.post(PATH, json=BODY, headers={"Idempotency-Key": "k-nobody"})
    assert problem_of(reply).status == 401
    async with gateway.sessions() as session:
        assert await session.scalar(select(func.count()).where(IdempotencyKey.key == "k-nobody")) == 0


# ---- what releases a key


async def test_who_was_refused_at_the_door_may_ask_again(gateway: Gateway) -> None:
    user = await gateway.someone("free")
    assert problem_of(await post(gateway, user, "k")).code == "plan_required"
    async with gateway.sessions.begin() as session:
        session.add(Subscription(user_id=user.id, plan_code="pro", status="active"))
    assert (await post(gateway, user, "k")).status_code == 201


@pytest.mark.parametrize("failure", [OperationalError("", None, Exception()), ZeroDivisionError(), TimeoutError()])
async def test_a_failure_releases_the_key(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    user = await gateway.someone("pro")

    async def failing(*_: object) -> None:
        raise failure

    with monkeypatch.context() as broken:
        broken.setattr(account_service, "open_account", failing)
        assert problem_of(await post(gateway, user, "k")).status in {500, 503}
    assert await keys(gateway, user) == []
    assert (await post(gateway, user, "k")).status_code == 201


@asynccontextmanager
async def under_way(gateway: Gateway, user: Someone, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Event]:
    """A request with the key k whose work is held up until the event is set."""
    started, go = asyncio.Event(), asyncio.Event()
    real = account_service.open_account

    async def held_up(*args):
        started.set()
        await go.wait()
        return await real(*args)

    with monkeypatch.context() as slow:
        slow.setattr(account_service, "open_account", held_up)
        first = asyncio.create_task(post(gateway, user, "k"))
        await started.wait()
    yield go
    go.set()
    assert (await first).status_code == 201


async def test_what_is_under_way_is_neither_repeated_nor_waited_for(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await gateway.someone("pro")
    async with under_way(gateway, user, monkeypatch):
        reply = await post(gateway, user, "k")
        assert (problem_of(reply).code, reply.headers["retry-after"]) == ("idempotency_in_flight", "1")
        assert problem_of(await post(gateway, user, "k", BODY | {"label": "x"})).code == "idempotency_key_reused"
        await age(gateway, user, 25)
        assert problem_of(await post(gateway, user, "k")).code == "idempotency_in_flight"
        await age(gateway, user, -25)
    assert (await post(gateway, user, "k")).headers["idempotent-replayed"] == "true"
    assert await accounts(gateway, user) == 1


async def test_what_died_is_taken_over_and_the_first_cannot_answer_any_more(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await gateway.someone("pro")
    async with under_way(gateway, user, monkeypatch) as go:
        await age(gateway, user, 31)
        assert problem_of(await post(gateway, user, "k", BODY | {"label": "x"})).code == "idempotency_key_reused"
        taken = await post(gateway, user, "k")
        assert (taken.status_code, "idempotent-replayed" in taken.headers) == (201, False)
        go.set()
    replayed = await post(gateway, user, "k")
    assert replayed.content == taken.content


async def test_an_answer_that_cannot_be_kept_is_given_all_the_same(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await gateway.someone("pro")
    with monkeypatch.context() as broken:
        broken.setattr(idempotency_service, "_FINISH", text("SELECT 1 / 0"))
        assert (await post(gateway, user, "k")).status_code == 201
    assert problem_of(await post(gateway, user, "k")).code == "idempotency_in_flight"
    assert await accounts(gateway, user) == 1


# ---- a day


async def test_a_key_is_kept_for_a_day(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    await post(gateway, user, "k")
    await age(gateway, user, 24 * 3600 - 5)
    assert "idempotent-replayed" in (await post(gateway, user, "k", BODY)).headers
    await age(gateway, user, 10)
    later = await post(gateway, user, "k", BODY | {"label": "A new day"})
    assert (later.status_code, "idempotent-replayed" in later.headers) == (201, False)
    assert await accounts(gateway, user) == 2


async def test_the_purge_drops_what_is_over_and_no_more_than_asked(own_gateway: Gateway) -> None:
    old, new = await own_gateway.someone("pro"), await own_gateway.someone("pro")
    for key in ("a", "b", "c"):
        await post(own_gateway, old, key)
    await age(own_gateway, old, 24 * 3600 + 1)
    await post(own_gateway, new, "a")
    for left in (1, 0, 0):
        async with own_gateway.sessions.begin() as session:
            await session.execute(expired_keys(2))
        assert len(await keys(own_gateway, old)) == left
    assert len(await keys(own_gateway, new)) == 1
