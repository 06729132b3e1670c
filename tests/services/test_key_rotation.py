"""Master keys rotate under whatever runs: nothing is lost, nothing is left, and no needed key can be gone unnoticed."""

import asyncio
import secrets
from collections.abc import Sequence

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from typer.testing import CliRunner

from backend.errors import ConflictError
from backend.models import BrokerAccount, BrokerAccountStatus, BrokerCredential, Credential, User
from backend.services import key_rotation_service, second_factor_service
from backend.services.audit_service import SYSTEM
from backend.services.broker_credential_service import credentials_of, set_credentials
from backend.services.key_rotation_service import Rotated, keys_in_use, rotate
from backend.vault import Vault, VaultError, make_master_key_file, read_master_key_file
from sauda.admin import admin

OLD, NEW = secrets.token_bytes(32), secrets.token_bytes(32)
ONLY_OLD, BOTH, ONLY_NEW = Vault({"old": OLD}), Vault({"new": NEW, "old": OLD}), Vault({"new": NEW})
USERS = 5
Sessions = async_sessionmaker[AsyncSession]


def given(n: int) -> dict:
    return {"api_key": f"key-of-{n:04}-abcdef", "api_secret": f"secret-of-{n}"}


async def sealed_world(sessions: Sessions, vault: Vault, users: int = USERS) -> Sequence[BrokerAccount]:
    """Users with a second factor and an account at a broker each."""
    made: list[BrokerAccount] = []
    async with sessions.begin() as session:
        for n in range(users):
            user = User(email=f"u{n}@example.com")
            session.add(user)
            await session.flush()
            account = BrokerAccount(
                user_id=user.id, broker="zerodha", label="z", status=BrokerAccountStatus.DISABLED, is_primary=False
            )
            session.add(account)
            blob = vault.seal_bytes(second_factor_service.context_of(user.id), f"TOTP{n}".encode())
            await session.execute(insert(Credential).values(user_id=user.id, password_hash="!", totp_secret=blob))
            await session.flush()
            await set_credentials(session, vault, SYSTEM, user.id, account.id, given(n))
            made.append(account)
        session.add(User(email="nobody@example.com"))
    return made


async def require_all_open(sessions: Sessions, vault: Vault, accounts: Sequence[BrokerAccount]) -> None:
    async with sessions() as session:
        for n, account in enumerate(accounts):
            assert await credentials_of(session, vault, account) == given(n)
            blob = await session.scalar(select(Credential.totp_secret).where(Credential.user_id == account.user_id))
            opened = vault.open_bytes(second_factor_service.context_of(account.user_id), blob or b"")
            assert opened == f"TOTP{n}".encode()


async def test_all_secrets_move_to_the_first_key_in_batches_and_only_once(sessions, monkeypatch) -> None:
    monkeypatch.setattr(key_rotation_service, "BATCH_ROWS", 3)
    accounts = await sealed_world(sessions, ONLY_OLD)
    told: list[int] = []
    assert await rotate(sessions, BOTH, SYSTEM, told.append) == Rotated(2 * USERS, USERS)
    assert told == [3, 6, 9, 10, 13, 15]
    assert dict(await keys_in_use(sessions)) == {"new": 3 * USERS}
    await require_all_open(sessions, ONLY_NEW, accounts)
    assert await rotate(sessions, BOTH, SYSTEM) == Rotated(0, 0)
    async with sessions() as session:
        deeds = await session.scalars(text("SELECT after FROM audit_log WHERE action = 'master_key.rotate'"))
        assert deeds.all() == [{"key": "new", "credentials": 2 * USERS, "second_factors": USERS}]


async def test_one_that_was_stopped_goes_on_where_it_was(sessions, monkeypatch) -> None:
    monkeypatch.setattr(key_rotation_service, "BATCH_ROWS", 2)
    accounts = await sealed_world(sessions, ONLY_OLD)

    def stop(done: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await rotate(sessions, BOTH, SYSTEM, stop)
    assert dict(await keys_in_use(sessions)) == {"new": 4, "old": 3 * USERS - 4}
    await require_all_open(sessions, BOTH, accounts)
    assert await rotate(sessions, BOTH, SYSTEM) == Rotated(2 * USERS - 4, USERS)
    await require_all_open(sessions, ONLY_NEW, accounts)


async def test_two_at_once_and_users_who_give_new_credentials_meanwhile_lose_nothing(sessions, monkeypatch) -> None:
    monkeypatch.setattr(key_rotation_service, "BATCH_ROWS", 2)
    accounts = await sealed_world(sessions, ONLY_OLD)

    async def give_again() -> None:
        for n, account in enumerate(accounts):
            async with sessions.begin() as session:
                await set_credentials(session, BOTH, SYSTEM, account.user_id, account.id, given(n))

    await asyncio.gather(rotate(sessions, BOTH, SYSTEM), give_again(), rotate(sessions, BOTH, SYSTEM))
    assert dict(await keys_in_use(sessions)) == {"new": 3 * USERS}
    await require_all_open(sessions, ONLY_NEW, accounts)


async def test_a_key_that_is_gone_and_still_needed_is_named_and_nothing_changed(sessions) -> None:
    accounts = await sealed_world(sessions, ONLY_OLD)
    with pytest.raises(ConflictError, match=r"'old' \(15 secrets\)"):
        await rotate(sessions, ONLY_NEW, SYSTEM)
    assert dict(await keys_in_use(sessions)) == {"old": 3 * USERS}
    await require_all_open(sessions, ONLY_OLD, accounts)


async def test_a_secret_that_was_tampered_with_is_named(sessions) -> None:
    accounts = await sealed_world(sessions, ONLY_OLD)
    async with sessions.begin() as session:
        broken = BrokerCredential.account_id == accounts[2].id, BrokerCredential.field == "api_key"
        await session.execute(BrokerCredential.__table__.update().where(*broken).values(wrapped_key=b"x" * 60))
    with pytest.raises(VaultError, match=f"api_key of broker account {accounts[2].id}: .* does not open"):
        await rotate(sessions, BOTH, SYSTEM)


async def test_the_command_makes_a_key_and_rotates_to_it(sessions, database_url, tmp_path) -> None:
    path = tmp_path / "master.keys"
    make_master_key_file(path, "first")
    before = path.read_text()
    accounts = await sealed_world(sessions, Vault(read_master_key_file(path)), users=2)

    async def run(*arguments: str):
        command = ["rotate-keys", "--key-file", str(path), "--database-url", database_url, *arguments]
        return await asyncio.to_thread(CliRunner().invoke, admin, command)

    done = await run("--new-key", "second")
    assert done.exit_code == 0, done.output
    assert "4 of broker accounts, 2 of second factors" in done.output
    assert "Not needed any more by this database: first" in done.output
    await require_all_open(sessions, Vault(read_master_key_file(path)), accounts)
    path.write_text(path.read_text().removesuffix(before))
    assert (await run()).exit_code == 0
    path.write_text(before)
    for arguments in ((), ("--check",)):
        refused = await run(*arguments)
        assert refused.exit_code == 1
        assert "'second' (6 secrets)" in refused.output
    path.chmod(0o644)
    refused = await run()
    assert (refused.exit_code, "chmod 600" in refused.output) == (1, True)
