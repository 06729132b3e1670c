"""Broker accounts and their credentials: given once, sealed, never shown, and erased with the account."""

import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import func, select, text, update

from backend.brokers.credential_fields import CREDENTIAL_FIELDS, CredentialField, hint_of
from backend.db import APPLICATION_ROLE, create_engine
from backend.errors import ConflictError
from backend.models import AuditEntry, AutoTrade, BrokerAccount, BrokerCredential, User
from backend.services.broker_credential_service import credentials_of
from backend.services.second_factor_service import NoKeysError
from backend.vault import Vault, VaultError
from tests.api.conftest import MONDAY_10, Gateway, Someone
from tests.api.rows import add_cycle, trade
from tests.api.test_problems import problem_of

VAULT = Vault({"k1": secrets.token_bytes(32)})
GIVEN = {"api_key": "hk3m9d2p4r5tx7q2", "api_secret": "s3cr3t-of-the-app-0123456789"}


@pytest.fixture
async def vaulted(gateway: Gateway) -> AsyncIterator[Gateway]:
    """The shared gateway with a master key."""
    before = gateway.app.state.api
    gateway.app.state.api = replace(before, vault=VAULT)
    yield gateway
    gateway.app.state.api = before


async def verified(gateway: Gateway, plan: str = "basic") -> Someone:
    user = await gateway.someone(plan)
    async with gateway.sessions.begin() as session:
        await session.execute(update(User).where(User.id == user.id).values(email_verified_at=gateway.clock()))
    return user


async def linked(gateway: Gateway, user: Someone, broker: str = "zerodha") -> str:
    """Link an account; its path."""
    body = {"broker": broker, "label": "Real money"}
    reply = await gateway.client.post("/v1/broker-accounts", json=body, headers=user.headers)
    assert reply.status_code == 201, reply.text
    account = reply.json()["account"]
    assert (account["status"], account["is_primary"], account["cash"]) == ("disabled", False, None)
    assert "not connected in this deployment" in account["problem"]
    return f"/v1/broker-accounts/{account['id']}"


async def account_at(gateway: Gateway, path: str) -> BrokerAccount:
    async with gateway.sessions() as session:
        account = await session.get(BrokerAccount, int(path.split("/")[3]))
        assert account is not None
        return account


async def test_credentials_are_kept_sealed_and_shown_to_nobody(vaulted: Gateway) -> None:
    user = await verified(vaulted)
    path = await linked(vaulted, user)
    before = (await vaulted.client.get(f"{path}/credentials", headers=user.headers)).json()
    assert [(f["field"], f["set_at"]) for f in before["fields"]] == [("api_key", None), ("api_secret", None)]
    assert before["complete"] is False
    reply = await vaulted.client.put(f"{path}/credentials", json=GIVEN, headers=user.headers)
    assert reply.status_code == 200
    shown = await vaulted.client.get(f"{path}/credentials", headers=user.headers)
    assert reply.json() == shown.json()
    assert shown.json()["complete"] is True
    assert [f["hint"] for f in shown.json()["fields"]] == ["x7q2", ""]
    assert GIVEN["api_key"] not in shown.text
    assert GIVEN["api_secret"][-4:] not in shown.text
    account = await account_at(vaulted, path)
    async with vaulted.sessions() as session:
        assert await credentials_of(session, VAULT, account) == GIVEN
        stored = "".join(await session.scalars(text("SELECT b::text FROM broker_credentials b")))
        told = "".join(await session.scalars(text("SELECT a::text FROM audit_log a")))
    for secret in GIVEN.values():
        assert secret not in stored + told
        assert secret.encode().hex() not in stored
    assert "broker_credential.set" in told


async def test_new_credentials_take_the_place_of_the_old(vaulted: Gateway) -> None:
    user = await verified(vaulted)
    path = await linked(vaulted, user)
    for key in ("first-key-0001", "second-key-0002"):
        await vaulted.client.put(f"{path}/credentials", json=GIVEN | {"api_key": key}, headers=user.headers)
    account = await account_at(vaulted, path)
    async with vaulted.sessions() as session:
        assert (await credentials_of(session, VAULT, account))[CredentialField.API_KEY] == "second-key-0002"
        count = select(func.count()).where(BrokerCredential.account_id == account.id)
        assert await session.scalar(count) == 2


@pytest.mark.parametrize("broker", [broker for broker, fields in CREDENTIAL_FIELDS.items() if fields])
@pytest.mark.parametrize("wrong", ["one missing", "one too many", "blank", "control", "not ASCII"])
async def test_what_the_broker_does_not_take_is_refused_and_never_repeated(vaulted, broker, wrong) -> None:
    user = await verified(vaulted, "pro")
    path = await linked(vaulted, user, broker)
    good = {field.value: f"canary{field}{broker}" for field in CREDENTIAL_FIELDS[broker]}
    extra = {"client_id": "canary"} if broker != "dhan" else {"password": "canary"}
    bad = {
        "one missing": {k: v for k, v in good.items() if k != "api_secret"},
        "one too many": good | extra,
        "blank": good | {"api_key": "canary key"},
        "control": good | {"api_key": "canary\nkey"},
        "not ASCII": good | {"api_key": "canaryé"},
    }[wrong]
    reply = await vaulted.client.put(f"{path}/credentials", json=bad, headers=user.headers)
    assert problem_of(reply).status == 422
    assert "canary" not in reply.text
    assert (await vaulted.client.put(f"{path}/credentials", json=good, headers=user.headers)).status_code == 200


async def test_a_paper_account_takes_no_credentials(vaulted: Gateway) -> None:
    user = await verified(vaulted)
    body = {"broker": "paper", "label": "p"}
    opened = await vaulted.client.post("/v1/broker-accounts", json=body, headers=user.headers)
    path = f"/v1/broker-accounts/{opened.json()['account']['id']}/credentials"
    problem = problem_of(await vaulted.client.put(path, json=GIVEN, headers=user.headers))
    assert (problem.status, problem.code) == (422, "no_credentials_needed")
    shown = (await vaulted.client.get(path, headers=user.headers)).json()
    assert (shown["fields"], shown["complete"]) == ([], True)


async def test_it_needs_a_fresh_login_a_verified_address_and_a_master_key(own_gateway: Gateway) -> None:
    user = await own_gateway.someone("basic")
    path = f"{await linked(own_gateway, user)}/credentials"

    async def refusal() -> tuple[int, str]:
        problem = problem_of(await own_gateway.client.put(path, json=GIVEN, headers=user.headers))
        return problem.status, problem.code

    assert await refusal() == (403, "email_unverified")
    async with own_gateway.sessions.begin() as session:
        await session.execute(update(User).values(email_verified_at=own_gateway.clock()))
    assert await refusal() == (503, "no_master_key")
    own_gateway.app.state.api = replace(own_gateway.state, vault=VAULT)
    assert (await own_gateway.client.put(path, json=GIVEN, headers=user.headers)).status_code == 200
    own_gateway.clock.now += timedelta(minutes=11)
    user.headers = {"Authorization": f"Bearer {own_gateway.state.security.issue(user.id, user.id)}"}
    assert await refusal() == (403, "step_up_required")


async def test_another_users_account_is_not_there(vaulted: Gateway) -> None:
    owner, stranger = await verified(vaulted), await verified(vaulted)
    path = await linked(vaulted, owner)
    await vaulted.client.put(f"{path}/credentials", json=GIVEN, headers=owner.headers)
    for method, where, body in (
        ("GET", f"{path}/credentials", None),
        ("PUT", f"{path}/credentials", GIVEN),
        ("DELETE", f"{path}/credentials", None),
        ("PATCH", path, {"label": "mine"}),
        ("DELETE", path, None),
    ):
        reply = await vaulted.client.request(method, where, json=body, headers=stranger.headers)
        assert problem_of(reply).status == 404, (method, where)
    account = await account_at(vaulted, path)
    async with vaulted.sessions() as session:
        assert await credentials_of(session, VAULT, account) == GIVEN


async def test_a_sealed_field_opens_only_where_it_was_put(vaulted: Gateway) -> None:
    """Neither another user's, nor another account's of one's own, nor another field's ciphertext is taken."""
    user, other = await verified(vaulted), await verified(vaulted)
    paths = [await linked(vaulted, who) for who in (user, user, other)]
    for path, who in zip(paths, (user, user, other), strict=True):
        assert (await vaulted.client.put(f"{path}/credentials", json=GIVEN, headers=who.headers)).status_code == 200
    mine, second, foreign = [await account_at(vaulted, path) for path in paths]
    swap = """
        UPDATE broker_credentials t SET key_id = s.key_id, wrapped_key = s.wrapped_key, sealed = s.sealed
          FROM broker_credentials s
         WHERE t.account_id = :to AND t.field = 'api_key' AND s.account_id = :source AND s.field = :field
    """
    for source, field in ((second.id, "api_key"), (foreign.id, "api_key"), (mine.id, "api_secret")):
        async with vaulted.sessions() as session:
            await session.execute(text(swap), {"to": mine.id, "source": source, "field": field})
            with pytest.raises(VaultError, match="does not open"):
                await credentials_of(session, VAULT, mine)
            await session.rollback()
    async with vaulted.sessions() as session:
        assert await credentials_of(session, VAULT, mine) == GIVEN
        with pytest.raises(NoKeysError, match="MASTER_KEY_FILE"):
            await credentials_of(session, None, mine)


async def test_the_apis_own_role_cannot_read_what_is_sealed(vaulted: Gateway) -> None:
    engine = create_engine(str(vaulted.state.sessions.kw["bind"].url.render_as_string(False)).replace("+asyncpg", ""))
    async with engine.connect() as connection:
        await connection.execute(text(f"SET ROLE {APPLICATION_ROLE}"))
        may = "SELECT has_column_privilege('broker_credentials', :column, 'SELECT')"
        found = {
            column: await connection.scalar(text(may), {"column": column})
            for column in (each.name for each in BrokerCredential.__table__.columns)
        }
    await engine.dispose()
    assert {column for column, readable in found.items() if not readable} == {"wrapped_key", "sealed"}


async def test_accounts_are_labelled_switched_and_made_primary(vaulted: Gateway) -> None:
    user = await verified(vaulted)

    async def change(account: int, **body: object) -> dict:
        reply = await vaulted.client.patch(f"/v1/broker-accounts/{account}", json=body, headers=user.headers)
        return reply.json() if reply.status_code >= 400 else reply.json()["account"]

    first, second = [
        (
            await vaulted.client.post(
                "/v1/broker-accounts", json={"broker": "paper", "label": label}, headers=user.headers
            )
        ).json()["account"]["id"]
        for label in "ab"
    ]
    assert (await change(second, label="Tries"))["label"] == "Tries"
    assert (await change(second, primary=True))["is_primary"] is True
    assert (await change(second, enabled=False))["status"] == "disabled"
    assert (await change(second, enabled=True))["status"] == "ready"
    await change(first, enabled=False)
    assert (await change(first, primary=True))["code"] == "account_not_ready"
    assert (await change(first, primary=True, enabled=True))["is_primary"] is True
    assert (await change(first, primary=False))["code"] == "validation_failed"
    listed = (await vaulted.client.get("/v1/broker-accounts", headers=user.headers)).json()["accounts"]
    assert [(a["id"], a["is_primary"]) for a in listed] == [(first, True), (second, False)]
    path = await linked(vaulted, user)
    linked_id = int(path.split("/")[3])
    assert (await change(linked_id, enabled=True))["code"] == "broker_not_connected"
    async with vaulted.sessions() as session:
        deeds = await session.scalars(select(AuditEntry.action).where(AuditEntry.subject_id == user.id))
        assert list(deeds).count("broker_account.change") == 6


async def test_a_connected_broker_needs_its_credentials_first(vaulted: Gateway) -> None:
    user = await verified(vaulted)
    path = await linked(vaulted, user)
    api = vaulted.app.state.api
    trading = replace(api.trading, brokers=api.trading.brokers | {"zerodha": api.trading.brokers["paper"]})
    vaulted.app.state.api = replace(api, trading=trading)
    refused = await vaulted.client.patch(path, json={"enabled": True}, headers=user.headers)
    assert problem_of(refused).code == "credentials_missing"
    await vaulted.client.put(f"{path}/credentials", json=GIVEN, headers=user.headers)
    enabled = await vaulted.client.patch(path, json={"enabled": True}, headers=user.headers)
    assert enabled.json()["account"]["status"] == "ready"
    assert enabled.json()["account"]["is_primary"] is True  # the only one that is ready
    await vaulted.client.delete(f"{path}/credentials", headers=user.headers)
    account = await account_at(vaulted, path)
    assert account.status == "disabled"
    async with vaulted.sessions() as session:
        with pytest.raises(ConflictError, match="lacks api_key, api_secret"):
            await credentials_of(session, VAULT, account)


async def test_an_account_in_which_something_is_open_can_be_neither_switched_off_nor_closed(vaulted: Gateway) -> None:
    user = await vaulted.someone("basic", account=True)
    path = f"/v1/broker-accounts/{user.account_id}"
    cycle_id = await add_cycle(vaulted.sessions, MONDAY_10 - timedelta(days=41))
    async with vaulted.sessions.begin() as session:
        session.add(trade(user, cycle_id))
    for method, where, body in (
        ("PATCH", path, {"enabled": False}),
        ("DELETE", path, None),
        ("DELETE", f"{path}/credentials", None),
    ):
        reply = await vaulted.client.request(method, where, json=body, headers=user.headers)
        assert problem_of(reply).code == "account_has_open_trades", (method, where)
    async with vaulted.sessions.begin() as session:
        await session.execute(
            update(AutoTrade).where(AutoTrade.user_id == user.id).values(status="closed", closed_at=MONDAY_10)
        )
    assert (await vaulted.client.delete(path, headers=user.headers)).status_code == 200


async def test_a_closed_account_keeps_its_history_and_no_secret(vaulted: Gateway) -> None:
    user = await verified(vaulted)
    path = await linked(vaulted, user)
    await vaulted.client.put(f"{path}/credentials", json=GIVEN, headers=user.headers)
    closed = await vaulted.client.delete(path, headers=user.headers)
    assert closed.json()["account"]["status"] == "closed"
    account = await account_at(vaulted, path)
    assert (account.status, account.is_primary) == ("closed", False)
    async with vaulted.sessions() as session:
        left = select(func.count()).where(BrokerCredential.account_id == account.id)
        assert await session.scalar(left) == 0
    for method, where, body in (
        ("DELETE", path, None),
        ("PATCH", path, {"enabled": True}),
        ("PUT", f"{path}/credentials", GIVEN),
        ("GET", f"{path}/credentials", None),
    ):
        reply = await vaulted.client.request(method, where, json=body, headers=user.headers)
        assert problem_of(reply).code == "account_closed", (method, where)
    listed = await vaulted.client.get("/v1/broker-accounts", headers=user.headers)
    assert listed.json()["accounts"] == []


def test_hints_tell_little_of_keys_and_nothing_of_secrets() -> None:
    for length in range(60):
        value = "k" * length
        assert len(hint_of(CredentialField.API_KEY, value)) <= min(4, length // 3)
        assert hint_of(CredentialField.API_SECRET, value) == hint_of(CredentialField.CLIENT_ID, value) == ""
