"""Registering, logging in, and being known afterwards; nobody learns who has an account."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from backend.models import AuditEntry, Credential, LoginSession, User
from tests.api.conftest import Gateway, later
from tests.api.people import OTHER_PASSWORD, PASSWORD, Mailbox, bearer, counted, log_in, newcomer, register
from tests.api.test_problems import problem_of
from tests.api.test_security import HOSTILE


async def test_register_log_in_and_ask_who_i_am(gateway: Gateway) -> None:
    body = {"email": "Asha@Example.com", "password": PASSWORD, "name": "Asha"}
    created = await gateway.client.post("/v1/auth/register", json=body)
    assert created.status_code == 202
    assert list(created.json()) == ["message"]

    login = await log_in(gateway, "asha@example.com")
    assert login.status_code == 200
    assert login.headers["Cache-Control"] == "no-store"
    assert "set-cookie" not in login.headers
    tokens = login.json()
    assert (tokens["token_type"], tokens["expires_in_s"]) == ("bearer", 600)

    me = (await gateway.client.get("/v1/auth/me", headers=bearer(tokens))).json()
    assert me["user"].pop("id") > 0
    assert me["user"].pop("created_at")
    assert me["user"] == {"email": "Asha@Example.com", "name": "Asha", "role": "user", "email_verified": False}
    assert me["plan"]["code"] == "free"
    assert me["quota"]["entries_left"] == 0


async def test_a_taken_address_gets_the_same_answer_and_its_holder_a_mail(gateway: Gateway) -> None:
    first = await register(gateway, "once@example.com")
    again = await register(gateway, "ONCE@example.COM", OTHER_PASSWORD)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert (await log_in(gateway, "once@example.com", OTHER_PASSWORD)).status_code == 401
    assert (await log_in(gateway, "once@example.com")).status_code == 200
    mailbox = Mailbox(gateway)
    assert ["have an account already" in mail for mail in await mailbox.to("ONCE@example.COM")] == [True]


async def test_registering_costs_the_same_for_a_taken_address(own_gateway: Gateway) -> None:
    hasher = counted(own_gateway)
    counts = []
    for _ in range(2):
        await register(own_gateway, "twice@example.com")
        counts.append(hasher.count)
    assert counts == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"email": "nobody"},
        {"email": "a b@example.com"},
        {"email": "a@example.com\nbcc: b@example.com"},
        {"email": "a" * 250 + "@b.in"},
        {"password": "7 chars"},
        {"password": "x" * 129},
        {"password": "nul\0in a long password"},
        {"password": "\ud800 a lone surrogate"},
        {"role": "admin"},
        {"name": "x" * 101},
    ],
    ids=ascii,
)
async def test_what_cannot_be_registered(gateway: Gateway, change: dict[str, str]) -> None:
    import json

    body = {"email": "refused@example.com", "password": PASSWORD} | change
    headers = {"Content-Type": "application/json"}
    problem = problem_of(await gateway.client.post("/v1/auth/register", content=json.dumps(body), headers=headers))
    assert problem.status == 422
    if "\ud800" not in body["password"]:
        assert [e["pointer"] for e in problem.errors] == [f"#/{next(iter(change))}"]


@pytest.mark.parametrize("weak", ["fourteen chars", "passwordpassword", "weak.name@example", "123456789012345"])
async def test_a_weak_password_is_refused_with_the_reason(gateway: Gateway, weak: str) -> None:
    problem = problem_of(await register(gateway, "weak.name@example.com", weak))
    assert (problem.status, problem.code) == (422, "password_weak")
    assert (await log_in(gateway, "weak.name@example.com", weak)).status_code == 401


async def test_who_cannot_log_in_gets_one_answer_at_one_price(own_gateway: Gateway) -> None:
    for email in ("known@example.com", "off@example.com"):
        await register(own_gateway, email)
    async with own_gateway.sessions.begin() as session:
        await session.execute(update(User).where(User.email == "off@example.com").values(active=False))
    hasher = counted(own_gateway)
    answers = []
    for email, password in (
        ("known@example.com", OTHER_PASSWORD),
        ("nobody@example.com", PASSWORD),
        ("off@example.com", PASSWORD),
    ):
        reply = await log_in(own_gateway, email, password)
        problem = reply.json()
        del problem["request_id"]
        headers = {name: value for name, value in reply.headers.items() if name != "x-request-id"}
        answers.append((reply.status_code, problem, headers, hasher.count))
        hasher.count = 0
    assert answers[0][0] == 401
    assert answers[0][3] == 1
    assert answers[0] == answers[1] == answers[2]


async def test_a_user_who_is_switched_off_is_not_known_any_more(gateway: Gateway) -> None:
    tokens = await newcomer(gateway, "leaver@example.com")
    assert (await gateway.client.get("/v1/auth/me", headers=bearer(tokens))).status_code == 200
    async with gateway.sessions.begin() as session:
        await session.execute(update(User).where(User.email == "leaver@example.com").values(active=False))
    assert problem_of(await gateway.client.get("/v1/auth/me", headers=bearer(tokens))).status == 401
    body = {"refresh_token": tokens["refresh_token"]}
    assert problem_of(await gateway.client.post("/v1/auth/refresh", json=body)).code == "session_ended"


async def test_an_expired_token_says_so(own_gateway: Gateway) -> None:
    user = await own_gateway.someone()
    own_gateway.clock.now = later(own_gateway.clock.now, 600)
    problem = problem_of(await own_gateway.client.get("/v1/auth/me", headers=user.headers))
    assert (problem.status, problem.code) == (401, "token_expired")


async def test_a_token_of_nobody_or_of_somebody_elses_login(gateway: Gateway) -> None:
    user, other = await gateway.someone(), await gateway.someone()
    async with gateway.sessions() as session:
        others = await session.scalar(select(LoginSession.id).where(LoginSession.user_id == other.id))
    for user_id, session_id in ((2**62, 1), (user.id, 2**62), (user.id, others)):
        token = gateway.state.security.issue(user_id, session_id)
        reply = await gateway.client.get("/v1/auth/me", headers={"Authorization": f"Bearer {token}"})
        assert problem_of(reply).status == 401


async def test_no_hostile_token_passes_the_door(gateway: Gateway) -> None:
    assert len(HOSTILE) > 30
    for token in HOSTILE.values():
        for scheme in ("Bearer", "bearer", "Basic"):
            header = f"{scheme} {token()}".encode()
            reply = await gateway.client.get("/v1/auth/me", headers={"Authorization": header})
            assert problem_of(reply).status == 401


async def test_guessing_is_slowed_down_and_nobody_is_locked_out(own_gateway: Gateway) -> None:
    await register(own_gateway, "slow@example.com")
    for email in ("slow@example.com", "nobody@example.com"):
        codes = [problem_of(await log_in(own_gateway, email, OTHER_PASSWORD)).code for _ in range(6)]
        assert codes == ["credentials_invalid"] * 6
        refused = await log_in(own_gateway, email)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        problem = problem_of(refused)
        assert (problem.code, problem.detail) == (
            "login_delayed",
            "Too many attempts to log in: try again in 1 s.",
        )
    own_gateway.clock.now += timedelta(seconds=1)
    for _ in range(3):  # the first from anywhere, the others from where the user has been before
        assert (await log_in(own_gateway, "slow@example.com")).status_code == 200
        codes = [problem_of(await log_in(own_gateway, "slow@example.com", OTHER_PASSWORD)).code for _ in range(4)]
        assert codes == ["credentials_invalid"] * 4


async def test_a_stranger_keeps_nobody_from_logging_in_where_they_have_before(own_gateway: Gateway) -> None:
    await newcomer(own_gateway, "home@example.com")
    away = {"ip": "203.0.113.9"}
    async with own_gateway.sessions.begin() as session:
        await session.execute(update(LoginSession).values(away))
    for _ in range(7):
        stranger = await log_in(own_gateway, "home@example.com", OTHER_PASSWORD)
    assert stranger.status_code == 429
    async with own_gateway.sessions.begin() as session:
        await session.execute(update(LoginSession).values(ip="127.0.0.1"))
    assert (await log_in(own_gateway, "home@example.com")).status_code == 200


async def test_a_password_that_changes_while_it_is_checked_lets_nobody_in(
    own_gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = await newcomer(own_gateway, "meanwhile@example.com")
    verify = own_gateway.state.security.verify_password
    hash_now = own_gateway.state.security.hash_password

    async def change_meanwhile() -> None:
        values = {"password_hash": await hash_now("something else " + OTHER_PASSWORD)}
        async with own_gateway.sessions.begin() as session:
            await session.execute(update(Credential).values(values))

    async def slow_verify(password_hash: str | None, password: str) -> bool:
        fits = await verify(password_hash, password)
        await change_meanwhile()
        return fits

    monkeypatch.setattr(own_gateway.state.security, "verify_password", slow_verify)
    assert problem_of(await log_in(own_gateway, "meanwhile@example.com")).code == "credentials_invalid"
    body = {"current_password": "something else " + OTHER_PASSWORD, "new_password": OTHER_PASSWORD}
    raced = await own_gateway.client.put("/v1/auth/password", json=body, headers=bearer(tokens))
    assert problem_of(raced).code == "password_raced"


async def test_logins_are_recorded_and_failed_ones_of_known_users(own_gateway: Gateway) -> None:
    await newcomer(own_gateway, "seen@example.com")
    await log_in(own_gateway, "seen@example.com", OTHER_PASSWORD)
    await log_in(own_gateway, "unseen@example.com", OTHER_PASSWORD)
    async with own_gateway.sessions() as session:
        rows = (await session.scalars(select(AuditEntry).order_by(AuditEntry.id))).all()
        user_id = await session.scalar(select(User.id).where(func.lower(User.email) == "seen@example.com"))
    assert [row.action for row in rows] == ["user.register", "session.begin", "session.fail"]
    assert {row.subject_id for row in rows} == {user_id}
    assert [row.actor for row in rows] == [f"user:{user_id}", f"user:{user_id}", "system"]
    assert PASSWORD not in repr([(row.before, row.after, row.reason) for row in rows])
