"""Links in mails: verifying an address, changing it, and a new password for who forgot the old one."""

from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update

from backend.errors import NotAllowedError
from backend.models import ApiKey, AuditEntry, Credential, EmailToken, OutboxMessage, RecoveryCode, User
from backend.security import digest
from backend.services.email_service import require_verified
from tests.api.conftest import Gateway
from tests.api.people import OTHER_PASSWORD, PASSWORD, Mailbox, bearer, counted, log_in, newcomer, register
from tests.api.test_problems import problem_of

MINUTE = timedelta(minutes=1)


async def post(gateway: Gateway, path: str, **body: Any) -> httpx.Response:
    return await gateway.client.post(f"/v1/auth/{path}", json=body)


async def user_of(gateway: Gateway, email: str) -> User:
    async with gateway.sessions() as session:
        return (await session.scalars(select(User).where(User.email == email))).one()


async def test_an_address_is_verified_by_the_link_of_its_mail_once(gateway: Gateway) -> None:
    email = "verify@example.com"
    tokens = await newcomer(gateway, email)
    with pytest.raises(NotAllowedError, match="Verify your e-mail"):
        require_verified(await user_of(gateway, email))
    token = await Mailbox(gateway).token_to(email)
    assert (await post(gateway, "email/verify", token=token)).json() == {"email": email}
    require_verified(await user_of(gateway, email))
    assert problem_of(await post(gateway, "email/verify", token=token)).code == "link_invalid"
    me = (await gateway.client.get("/v1/auth/me", headers=bearer(tokens))).json()
    assert me["user"]["email_verified"] is True
    again = await gateway.client.post("/v1/auth/email/verification", headers=bearer(tokens))
    assert problem_of(again).code == "email_verified"


async def test_links_expire_and_a_newer_one_ends_the_older(own_gateway: Gateway) -> None:
    tokens = await newcomer(own_gateway, "links@example.com")
    mailbox = Mailbox(own_gateway)
    first = await mailbox.token_to("links@example.com")
    own_gateway.clock.now += 2 * MINUTE
    assert (await own_gateway.client.post("/v1/auth/email/verification", headers=bearer(tokens))).status_code == 202
    second = await mailbox.token_to("links@example.com")
    assert problem_of(await post(own_gateway, "email/verify", token=first)).code == "link_invalid"
    own_gateway.clock.now += timedelta(hours=24)
    assert problem_of(await post(own_gateway, "email/verify", token=second)).code == "link_invalid"
    own_gateway.clock.now -= MINUTE
    assert (await post(own_gateway, "email/verify", token=second)).status_code == 200


async def test_a_letter_box_is_not_flooded(own_gateway: Gateway) -> None:
    await register(own_gateway, "flooded@example.com")
    mailbox = Mailbox(own_gateway)
    for _ in range(5):
        await register(own_gateway, "flooded@example.com")
        await post(own_gateway, "password-reset", email="flooded@example.com")
    assert len(await mailbox.to("flooded@example.com")) == 3  # one of each kind
    own_gateway.clock.now += 2 * MINUTE
    await post(own_gateway, "password-reset", email="flooded@example.com")
    assert len(await mailbox.to("flooded@example.com")) == 4


async def test_asking_for_a_new_password_tells_nothing(own_gateway: Gateway) -> None:
    await register(own_gateway, "known@example.com")
    hasher = counted(own_gateway)
    replies = [await post(own_gateway, "password-reset", email=email) for email in ("known@example.com", "no@one.in")]
    assert [reply.status_code for reply in replies] == [202, 202]
    assert replies[0].content == replies[1].content
    assert hasher.count == 0
    async with own_gateway.sessions() as session:
        rows = await session.execute(select(OutboxMessage.user_id).where(OutboxMessage.topic == "mail.password_reset"))
        assert rows.scalars().all() == [None, None]
        assert await session.scalar(select(func.count()).select_from(EmailToken)) == 0
    mailbox = Mailbox(own_gateway)
    assert len(await mailbox.to("known@example.com")) == 2
    assert await mailbox.to("no@one.in") == []


async def test_a_forgotten_password_is_replaced_and_all_logins_end(own_gateway: Gateway) -> None:
    email = "forgot@example.com"
    tokens = await newcomer(own_gateway, email)
    for _ in range(6):
        await log_in(own_gateway, email, OTHER_PASSWORD)
    async with own_gateway.sessions.begin() as session:
        user_id = (await user_of(own_gateway, email)).id
        session.add(ApiKey(user_id=user_id, name="k", prefix="sauda_x", key_hash=b"k", scopes=["read"]))
    await post(own_gateway, "password-reset", email=email)
    mailbox = Mailbox(own_gateway)
    token = await mailbox.token_to(email)

    weak = await post(own_gateway, "password-reset/confirm", token=token, password="passwordpassword")
    assert problem_of(weak).code == "password_weak"
    assert (await post(own_gateway, "password-reset/confirm", token=token, password=OTHER_PASSWORD)).status_code == 200
    used = await post(own_gateway, "password-reset/confirm", token=token, password=PASSWORD)
    assert problem_of(used).code == "link_invalid"

    assert (await own_gateway.client.get("/v1/auth/me", headers=bearer(tokens))).status_code == 401
    assert (await log_in(own_gateway, email)).status_code == 401
    assert (await log_in(own_gateway, email, OTHER_PASSWORD)).status_code == 200
    assert (await user_of(own_gateway, email)).email_verified_at is not None
    async with own_gateway.sessions() as session:
        assert await session.scalar(select(ApiKey.revoked_at)) is not None
    assert "Your password has changed" in (await mailbox.to(email))[-1]


async def enrol(gateway: Gateway) -> None:
    """A second factor for the one user there is."""
    async with gateway.sessions.begin() as session:
        confirmed = {"totp_secret": b"sealed", "totp_confirmed_at": gateway.clock.now}
        user_id = await session.scalar(update(Credential).values(confirmed).returning(Credential.user_id))
        session.add(RecoveryCode(user_id=user_id, code_hash=b"r"))


async def test_who_took_somebody_elses_address_does_not_keep_its_holder_out(own_gateway: Gateway) -> None:
    email = "squatted@example.com"
    await newcomer(own_gateway, email)
    await enrol(own_gateway)
    await post(own_gateway, "password-reset", email=email)
    token = await Mailbox(own_gateway).token_to(email)
    reset = await post(own_gateway, "password-reset/confirm", token=token, password=OTHER_PASSWORD)
    assert reset.status_code == 200
    assert (await log_in(own_gateway, email, OTHER_PASSWORD)).status_code == 200
    async with own_gateway.sessions() as session:
        assert (await session.scalars(select(RecoveryCode))).all() == []


async def test_nobody_keeps_a_reset_from_the_holder_by_asking_for_more(own_gateway: Gateway) -> None:
    email = "asked@example.com"
    await register(own_gateway, email)
    mailbox = Mailbox(own_gateway)
    tokens = []
    for _ in range(7):
        own_gateway.clock.now += 2 * MINUTE
        await post(own_gateway, "password-reset", email=email)
        tokens.append(await mailbox.token_to(email))
    assert len(set(tokens)) == 5
    first, *_, last = tokens
    used = await post(own_gateway, "password-reset/confirm", token=first, password=OTHER_PASSWORD)
    assert used.status_code == 200
    other = await post(own_gateway, "password-reset/confirm", token=last, password=PASSWORD)
    assert problem_of(other).code == "link_invalid"


async def test_a_key_is_told_of_by_mail_and_a_reset_ends_all_keys(own_gateway: Gateway) -> None:
    user = await own_gateway.someone("pro")
    async with own_gateway.sessions.begin() as session:
        session.add(Credential(user_id=user.id, password_hash="none", password_changed_at=own_gateway.clock()))
        await session.execute(update(User).where(User.id == user.id).values(email_verified_at=own_gateway.clock()))
    wish = {"name": "reports", "scopes": ["read"]}
    made = (await own_gateway.client.post("/v1/api-keys", json=wish, headers=user.headers)).json()
    mailbox = Mailbox(own_gateway)
    told = (await mailbox.to(user.email))[-1]
    assert made["api_key"]["prefix"] in told
    assert made["key"] not in told
    key = {"Authorization": f"Bearer {made['key']}"}
    assert (await own_gateway.client.get("/v1/auth/me", headers=key)).status_code == 200
    await post(own_gateway, "password-reset", email=user.email)
    token = await mailbox.token_to(user.email)
    reset = await post(own_gateway, "password-reset/confirm", token=token, password=OTHER_PASSWORD)
    assert reset.status_code == 200
    assert problem_of(await own_gateway.client.get("/v1/auth/me", headers=key)).code == "key_revoked"
    assert "all other logins and all API keys were ended" in (await mailbox.to(user.email))[-1]


async def test_a_reset_leaves_the_second_factor_standing(own_gateway: Gateway) -> None:
    email = "both@example.com"
    await newcomer(own_gateway, email)
    verified = await post(own_gateway, "email/verify", token=await Mailbox(own_gateway).token_to(email))
    assert verified.status_code == 200
    await enrol(own_gateway)
    await post(own_gateway, "password-reset", email=email)
    token = await Mailbox(own_gateway).token_to(email)
    short = await post(own_gateway, "password-reset/confirm", token=token, password="gr8 Rivr")
    assert short.status_code == 200
    assert problem_of(await log_in(own_gateway, email, "gr8 Rivr")).code == "second_factor_required"


async def test_a_reset_link_ends_after_half_an_hour_and_verifies_nothing(own_gateway: Gateway) -> None:
    email = "late@example.com"
    await register(own_gateway, email)
    mailbox = Mailbox(own_gateway)
    verifying = await mailbox.token_to(email)
    await post(own_gateway, "password-reset", email=email)
    resetting = await mailbox.token_to(email)
    assert problem_of(await post(own_gateway, "email/verify", token=resetting)).code == "link_invalid"
    crossed = await post(own_gateway, "password-reset/confirm", token=verifying, password=OTHER_PASSWORD)
    assert problem_of(crossed).code == "link_invalid"
    own_gateway.clock.now += 30 * MINUTE
    late = await post(own_gateway, "password-reset/confirm", token=resetting, password=OTHER_PASSWORD)
    assert problem_of(late).code == "link_invalid"


async def test_the_tokens_of_links_are_kept_as_hashes_and_wait_in_no_outbox(own_gateway: Gateway) -> None:
    await register(own_gateway, "kept@example.com")
    async with own_gateway.sessions() as session:
        waiting = (await session.scalars(select(OutboxMessage))).one()
    assert waiting.payload == {"email": "kept@example.com"}
    token = await Mailbox(own_gateway).token_to("kept@example.com")
    async with own_gateway.sessions() as session:
        assert (await session.scalars(select(EmailToken.token_hash))).all() == [digest(token)]
        assert (await session.scalars(select(OutboxMessage.payload))).all() == [{}]


async def test_changing_the_password_ends_other_logins_and_tells(gateway: Gateway) -> None:
    email = "change@example.com"
    other = await newcomer(gateway, email)
    tokens = (await log_in(gateway, email)).json()

    async def change(current: str, new: str) -> httpx.Response:
        body = {"current_password": current, "new_password": new}
        return await gateway.client.put("/v1/auth/password", json=body, headers=bearer(tokens))

    assert problem_of(await change(OTHER_PASSWORD, OTHER_PASSWORD)).code == "credentials_invalid"
    assert problem_of(await change(PASSWORD, "passwordpassword")).code == "password_weak"
    assert problem_of(await change(PASSWORD, PASSWORD)).code == "password_unchanged"
    assert (await change(PASSWORD, OTHER_PASSWORD)).json() == {"sessions_ended": 1}
    assert (await gateway.client.get("/v1/auth/me", headers=bearer(tokens))).status_code == 200
    assert (await gateway.client.get("/v1/auth/me", headers=bearer(other))).status_code == 401
    assert (await log_in(gateway, email)).status_code == 401
    assert (await log_in(gateway, email, OTHER_PASSWORD)).status_code == 200
    assert "Your password has changed" in (await Mailbox(gateway).to(email))[-1]
    user = await user_of(gateway, email)
    async with gateway.sessions() as session:
        rows = await session.scalars(select(AuditEntry.action).where(AuditEntry.subject_id == user.id))
    assert "password.change" in rows.all()


async def test_an_address_changes_when_the_new_one_has_answered(gateway: Gateway) -> None:
    old, new = "old@example.com", "new@example.com"
    tokens = await newcomer(gateway, old)
    reply = await gateway.client.put("/v1/auth/email", json={"email": new}, headers=bearer(tokens))
    assert reply.status_code == 202
    mailbox = Mailbox(gateway)
    token = await mailbox.token_to(new)
    assert "is to have the address new@example.com" in (await mailbox.to(old))[-1]
    assert (await log_in(gateway, new)).status_code == 401
    assert (await post(gateway, "email/verify", token=token)).json() == {"email": new}
    assert (await log_in(gateway, new)).status_code == 200
    assert (await log_in(gateway, old)).status_code == 401
    assert "has the address new@example.com now" in (await mailbox.to(old))[-1]


async def test_changing_to_somebody_elses_address_tells_them_and_not_you(gateway: Gateway) -> None:
    await register(gateway, "holder@example.com")
    tokens = await newcomer(gateway, "taker@example.com")
    body = {"email": "Holder@example.com"}
    assert (await gateway.client.put("/v1/auth/email", json=body, headers=bearer(tokens))).status_code == 202
    mail = (await Mailbox(gateway).to("Holder@example.com"))[-1]
    assert "have an account already" in mail
    assert "token" not in mail


async def test_an_address_taken_between_link_and_click_stays_with_its_holder(gateway: Gateway) -> None:
    tokens = await newcomer(gateway, "slowly@example.com")
    body = {"email": "quick@example.com"}
    await gateway.client.put("/v1/auth/email", json=body, headers=bearer(tokens))
    token = await Mailbox(gateway).token_to("quick@example.com")
    await register(gateway, "quick@example.com", OTHER_PASSWORD)
    assert problem_of(await post(gateway, "email/verify", token=token)).code == "email_taken"
    assert (await log_in(gateway, "quick@example.com", OTHER_PASSWORD)).status_code == 200
    assert (await log_in(gateway, "slowly@example.com")).status_code == 200
