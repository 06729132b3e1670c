"""The audit log's chain: whole under any number of writers, closed to every role, and telling of whoever owns it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from structlog.testing import capture_logs
from typer.testing import CliRunner

from backend.db import (
    APPLICATION_ROLE,
    IDENTITY_ROLE,
    OPERATOR_ROLE,
    TRADER_ROLE,
    act_for,
    create_engine,
    create_sessions,
    create_tenant_sessions,
)
from backend.services import audit_verify_service
from backend.services.audit_service import SYSTEM, Actor, record
from backend.services.audit_verify_service import GENESIS, Anchor, head_of, keep_anchoring, read_anchor, verify
from sauda.admin import admin

ROLES = (APPLICATION_ROLE, IDENTITY_ROLE, OPERATOR_ROLE, TRADER_ROLE)
Sessions = async_sessionmaker[AsyncSession]
ODD: tuple[dict[str, Any], ...] = (
    {"after": {"price": 1.50, "big": 12345678901234567890, "tiny": 1e-9, "nested": [{"b": 1, "a": [None, True]}]}},
    {"before": {}, "after": {"text": 'quotes " and \\ and \n lines, ₹ and 🙂'}},
    {"reason": 'a "reason" with \\ and ’', "target": "x:1"},
    {"subject_id": 7},
)


async def write(sessions: Sessions, count: int) -> None:
    for n in range(count):
        async with sessions.begin() as session:
            await record(session, Actor("user:7", 7, "203.0.113.7"), f"noun.verb{n}", **ODD[n % len(ODD)])


@pytest.fixture
async def ten(sessions: Sessions, monkeypatch) -> Sessions:
    """Ten entries, and batches of three."""
    monkeypatch.setattr(audit_verify_service, "BATCH_ROWS", 3)
    await write(sessions, 10)
    return sessions


async def test_what_was_written_holds_whatever_it_says(ten: Sessions) -> None:
    told: list[int] = []
    verdict = await verify(ten, None, told.append)
    assert (verdict.entries, verdict.broken, told) == (10, None, [3, 6, 9, 10])
    assert verdict.head == await head_of(ten) == read_anchor(str(verdict.head))
    assert (await verify(ten, verdict.head)).broken is None


async def test_an_empty_log_holds(sessions: Sessions) -> None:
    verdict = await verify(sessions)
    assert (verdict.entries, verdict.broken, verdict.head) == (0, None, Anchor(0, GENESIS))


async def test_many_writers_in_every_role_keep_the_chain_whole(sessions: Sessions, database_url: str) -> None:
    engines = [create_engine(database_url, role=role, pool_size=2) for role in ROLES]

    async def one(engine: AsyncEngine, n: int) -> None:
        act_for(7)  # each task has a place of its own
        async with create_tenant_sessions(engine)() as session, session.begin():
            await record(session, Actor("user:7", 7), f"race.{n}", subject_id=7)
            if n % 5 == 0:
                await session.rollback()

    await asyncio.gather(*(one(engine, n) for engine in engines for n in range(10)))
    verdict = await verify(sessions)
    assert (verdict.entries, verdict.broken) == (32, None)
    for engine in engines:
        await engine.dispose()


@pytest.mark.parametrize("role", ROLES)
async def test_no_role_changes_removes_or_numbers_an_entry(ten: Sessions, database_url: str, role: str) -> None:
    engine = create_engine(database_url, role=role, pool_size=1)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT set_config('sauda.user_id', '7', false)"))
        await connection.commit()
        for statement in (
            "UPDATE audit_log SET reason = 'x'",
            "DELETE FROM audit_log",
            "TRUNCATE audit_log",
            "UPDATE audit_head SET entry_id = 0",
            "DELETE FROM audit_head",
            "ALTER TABLE audit_log DISABLE TRIGGER audit_chain",
            "DROP TRIGGER audit_chain ON audit_log",
            "SET session_replication_role = replica",
        ):
            with pytest.raises(DBAPIError, match=r"permission denied|must be owner"):
                await connection.execute(text(statement))
            await connection.rollback()
        await connection.execute(
            text("""
                INSERT INTO audit_log
                    (id, actor, actor_id, ip, action, subject_id, target, reason, at, previous_hash, hash)
                VALUES (99, 'user:7', 7, '', 'forged.entry', 7, '', '', '2020-01-01', '\\x00', '\\x00')
            """)
        )
        await connection.commit()
    await engine.dispose()
    async with ten() as session:
        newest = (
            await session.execute(text("SELECT id, at > '2026-01-01' FROM audit_log ORDER BY id DESC LIMIT 1"))
        ).one()
    assert newest == (11, True)
    assert (await verify(ten)).broken is None


FORGED = """
    INSERT INTO audit_log (id, at, actor, ip, action, target, reason, previous_hash, hash)
    VALUES ({id}, now(), 'system', '', 'forged.entry', '', '', '', '')
"""


@pytest.mark.parametrize(
    ("statement", "entries", "broken"),
    [
        ("UPDATE audit_log SET reason = 'harmless' WHERE id = 4", 3, "entry 4 was changed"),
        ("UPDATE audit_log SET actor = 'system' WHERE id = 1", 0, "entry 1 was changed"),
        ("UPDATE audit_log SET ip = '' WHERE id = 10", 9, "entry 10 was changed"),
        ("UPDATE audit_log SET at = at - interval '1 microsecond' WHERE id = 5", 4, "entry 5 was changed"),
        ("UPDATE audit_log SET after = '{}' WHERE id = 2", 1, "entry 2 was changed"),
        ("UPDATE audit_log SET before = NULL WHERE id = 6", 5, "entry 6 was changed"),
        ("UPDATE audit_log SET subject_id = 8 WHERE id = 4", 3, "entry 4 was changed"),
        ("UPDATE audit_log SET hash = sha256('x') WHERE id = 7", 6, "entry 7 was changed"),
        ("UPDATE audit_log SET previous_hash = sha256('x') WHERE id = 7", 6, "entry 7 does not follow"),
        ("DELETE FROM audit_log WHERE id = 1", 0, "entry 1 is missing"),
        ("DELETE FROM audit_log WHERE id = 5", 4, "entry 5 is missing"),
        ("DELETE FROM audit_log WHERE id > 8", 8, "entry 9 is missing, and all after it: the head is 10"),
        ("DELETE FROM audit_log", 0, "entry 1 is missing"),
        ("UPDATE audit_log SET id = id + 1 WHERE id = 10", 0, "entry 11 stands beyond the head"),
        ("UPDATE audit_head SET hash = sha256('x')", 10, "entry 10 is not the one that the head tells of"),
        ("DELETE FROM audit_head", 0, "the head is gone"),
        (FORGED.format(id=0), 0, "entry 0 stands before the first"),
        (FORGED.format(id=11), 0, "entry 11 stands beyond the head"),
    ],
)
async def test_what_the_owner_does_to_it_is_found(ten, owner, statement, entries, broken) -> None:
    await as_owner(owner, statement)
    verdict = await verify(ten)
    assert verdict.broken is not None
    assert (verdict.entries, verdict.broken.startswith(broken)) == (entries, True), verdict.broken


async def as_owner(owner: AsyncEngine, statement: str) -> None:
    async with owner.begin() as connection:
        await connection.execute(text("SET LOCAL session_replication_role = replica"))
        await connection.execute(text(statement))


REWRITE = """
    DO $$ DECLARE entry audit_log; last bytea := sha256('sauda'); BEGIN
        UPDATE audit_log SET reason = 'rewritten' WHERE id = 4;
        FOR entry IN SELECT * FROM audit_log ORDER BY id LOOP
            UPDATE audit_log SET previous_hash = last, hash = sha256(last || convert_to(json_build_array(
                id, extract(epoch FROM at), actor, actor_id, ip, action, subject_id,
                target, before, after, reason)::text, 'UTF8')) WHERE id = entry.id RETURNING hash INTO last;
        END LOOP;
        UPDATE audit_head SET hash = last;
    END $$
"""
CUT = """
    WITH gone AS (DELETE FROM audit_log WHERE id > 8)
    UPDATE audit_head SET (entry_id, hash) = (SELECT id, hash FROM audit_log WHERE id = 8)
"""


@pytest.mark.parametrize(
    ("statement", "broken"),
    [(REWRITE, "entry 10 is not what was noted of it"), (CUT, "entry 10 was noted and is missing: the log ends at 8")],
)
async def test_a_chain_written_anew_is_found_by_an_anchor_alone(ten, owner, statement, broken) -> None:
    anchor = await head_of(ten)
    await as_owner(owner, statement)
    assert (await verify(ten)).broken is None
    assert (await verify(ten, anchor)).broken == broken


async def test_entries_that_come_in_meanwhile_do_no_harm(ten: Sessions) -> None:
    anchor = await head_of(ten)
    verdicts, _ = await asyncio.gather(
        asyncio.gather(*(verify(ten, anchor) for _ in range(4))),
        asyncio.gather(*(write(ten, 5) for _ in range(3))),
    )
    assert {verdict.broken for verdict in verdicts} == {None}
    assert (await verify(ten, anchor)).entries == 25


@pytest.mark.parametrize("given", ["", "1", "1:", ":" + "0" * 64, "-1:" + "0" * 64, "1:" + "g" * 64, "1:" + "0" * 63])
def test_an_anchor_is_a_number_and_a_hash(given: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal"):
        read_anchor(given)


async def test_the_head_is_logged_once_a_day(ten: Sessions, monkeypatch) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            raise asyncio.CancelledError

    monkeypatch.setattr(audit_verify_service, "asyncio", SimpleNamespace(sleep=pause))
    away = create_engine("postgresql://nobody@/none?host=/nowhere", pool_size=1)
    for sessions, seconds in ((ten, 86_400.0), (create_sessions(away), 60.0)):
        pauses.clear()
        with capture_logs() as logged, pytest.raises(asyncio.CancelledError):
            await keep_anchoring(sessions)
        assert pauses == [seconds, seconds]
        if sessions is ten:
            assert [line["anchor"] for line in logged] == [str(await head_of(ten))] * 2
        else:
            assert {line["event"] for line in logged} == {"audit_anchor_failed"}
    await away.dispose()


async def test_the_command_says_what_holds_and_exits_1_where_it_does_not(ten, owner, database_url) -> None:
    async def run(*arguments: str):
        command = ["audit", *arguments, "--database-url", database_url]
        return await asyncio.to_thread(CliRunner().invoke, admin, command)

    anchor = str(await head_of(ten))
    holds = await run("verify", "--expect", anchor)
    assert (holds.exit_code, f"All 10 entries hold. Note this anchor elsewhere: {anchor}" in holds.output) == (0, True)
    assert (await run("verify", "--expect", "1:2")).exit_code == 1
    listed = await run("list", "--user", "7", "--json")
    assert listed.output.count('"subject_id": 7') == 2
    await as_owner(owner, "UPDATE audit_log SET reason = 'x' WHERE id = 3")
    broken = await run("verify")
    assert (broken.exit_code, "BROKEN after 2 entries: entry 3 was changed." in broken.output) == (1, True)


async def test_a_deed_that_is_undone_leaves_no_entry_and_no_gap(ten: Sessions) -> None:
    async with ten() as session:
        await record(session, SYSTEM, "undone.deed")
        await session.rollback()
    await write(ten, 1)
    verdict = await verify(ten)
    assert (verdict.entries, verdict.broken) == (11, None)
