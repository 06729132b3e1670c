"""The second factor: each code serves once, whoever comes first, and no code of somebody else's serves at all."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from pyotp.totp import TOTP
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from backend.db import IDENTITY_ROLE, create_engine, create_sessions
from backend.models import Credential, RecoveryCode, User
from backend.services.second_factor_service import (
    NoKeysError,
    context_of,
    plain_code,
    recovery_hash,
    step_of,
    verify,
)
from backend.vault import Vault

NOW = datetime(2026, 3, 2, 4, 0, 10, tzinfo=UTC)
STEP = timedelta(seconds=30)
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
VAULT = Vault({"k1": secrets.token_bytes(32)})
Sessions = async_sessionmaker[AsyncSession]


def code_at(moment: datetime, secret: str = SECRET) -> str:
    return TOTP(secret).at(moment)


@pytest.fixture
async def identity(database_url: str) -> AsyncIterator[Sessions]:
    """What logging in works with."""
    engine = create_engine(database_url, role=IDENTITY_ROLE)
    yield create_sessions(engine)
    await engine.dispose()


async def enrolled(sessions: Sessions, name: str = "asha", *, confirmed: bool = True) -> int:
    async with sessions.begin() as session:
        user = User(email=f"{name}@example.com")
        session.add(user)
        await session.flush()
        session.add(
            Credential(
                user_id=user.id,
                password_hash="!",
                totp_secret=VAULT.seal_bytes(context_of(user.id), SECRET.encode()),
                totp_confirmed_at=NOW if confirmed else None,
            )
        )
        return user.id


async def tried(identity: Sessions, user_id: int, code: str, now: datetime = NOW) -> bool:
    async with identity.begin() as session:
        return await verify(session, VAULT, user_id, code, now)


def test_rfc_6238s_own_example() -> None:
    # Appendix B: SHA-1, the secret "12345678901234567890", at 1111111109 s: 07081804, of which 6 digits are taken.
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    assert step_of(secret, "081804", datetime.fromtimestamp(1111111109, UTC)) == 1111111109 // 30


@pytest.mark.parametrize(("steps", "taken"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
async def test_a_clock_may_be_a_step_off(sessions: Sessions, identity: Sessions, steps: int, taken: bool) -> None:
    user_id = await enrolled(sessions)
    assert await tried(identity, user_id, code_at(NOW + steps * STEP)) is taken


async def test_the_same_code_twice_is_refused_and_so_is_an_older_one(sessions: Sessions, identity: Sessions) -> None:
    user_id = await enrolled(sessions)
    code = code_at(NOW)
    assert await tried(identity, user_id, f"{code[:3]} {code[3:]}")
    assert not await tried(identity, user_id, code)
    assert not await tried(identity, user_id, code_at(NOW - STEP))
    assert await tried(identity, user_id, code_at(NOW + STEP), NOW + STEP)


async def test_of_many_who_bring_one_code_one_is_let_in(sessions: Sessions, identity: Sessions) -> None:
    user_id = await enrolled(sessions)
    let_in = await asyncio.gather(*(tried(identity, user_id, code_at(NOW)) for _ in range(10)))
    assert sum(let_in) == 1


async def test_what_is_not_confirmed_or_of_somebody_else_lets_nobody_in(sessions: Sessions, identity: Sessions) -> None:
    user_id, other_id = await enrolled(sessions, confirmed=False), await enrolled(sessions, "ravi")
    assert not await tried(identity, user_id, code_at(NOW))
    assert not await tried(identity, other_id, code_at(NOW, "KRSXG5CTMVRXEZLUKRSXG5CTMVRXEZLU"))
    for nonsense in ("", "000", "      ", "１２３４５６", "x" * 64, "\x00" * 6):
        assert not await tried(identity, other_id, nonsense)


async def test_a_sealed_secret_moved_to_another_user_does_not_open(sessions: Sessions, identity: Sessions) -> None:
    user_id, thief_id = await enrolled(sessions), await enrolled(sessions, "thief")
    async with sessions.begin() as session:
        sealed = await session.scalar(select(Credential.totp_secret).where(Credential.user_id == thief_id))
        await session.execute(update(Credential).where(Credential.user_id == user_id).values(totp_secret=sealed))
    with pytest.raises(NoKeysError, match="MASTER_KEY_FILE"):
        await tried(identity, user_id, code_at(NOW))


async def test_without_a_master_key_nobody_is_let_in(sessions: Sessions, identity: Sessions) -> None:
    user_id = await enrolled(sessions)
    async with identity.begin() as session:
        with pytest.raises(NoKeysError):
            await verify(session, None, user_id, code_at(NOW), NOW)


async def test_a_recovery_code_stands_in_once(sessions: Sessions, identity: Sessions) -> None:
    user_id, other_id = await enrolled(sessions), await enrolled(sessions, "ravi")
    async with sessions.begin() as session:
        session.add(RecoveryCode(user_id=user_id, code_hash=recovery_hash("abcde-fghij-klmno-pqrst")))
    assert not await tried(identity, other_id, "ABCDE-FGHIJ-KLMNO-PQRST")
    results = await asyncio.gather(*(tried(identity, user_id, "ABCDE FGHIJ klmno pqrst") for _ in range(5)))
    assert sum(results) == 1
    assert plain_code("ab-c 1é") == "ABC1"
