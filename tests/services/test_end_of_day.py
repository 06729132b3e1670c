"""The day's end drops what is old in small transactions, keeps the rest, and gives its line whatever happens."""

from collections.abc import Iterator
from datetime import date, timedelta

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from backend.models import Cycle, CycleShard, Decision, OutboxMessage, User
from backend.services.end_of_day_service import PURGE_ROWS_MAX, end_of_day

DAY = date(2024, 3, 18)
OLD_CYCLES, USERS = 250, 50
"""12,500 decisions: more than one transaction may purge."""

FILL = f"""
INSERT INTO cycles (id, scheduled_at, trade_date, environment, status, inputs)
SELECT i, '2024-01-01'::timestamptz + i * interval '1 minute',
       CASE WHEN i <= {OLD_CYCLES} THEN CAST(:old AS date) ELSE CAST(:kept AS date) END,
       'simulated', 'done', '{{"quotes": 1}}'
  FROM generate_series(1, {OLD_CYCLES + 2}) i;
INSERT INTO decisions (cycle_id, user_id, mode, outcomes)
SELECT c.id, u.id, 'moderate', '[]' FROM cycles c, users u;
INSERT INTO cycle_shards (cycle_id, shard, recorded, done)
SELECT c.id, s, true, true FROM cycles c, generate_series(0, 1) s;
INSERT INTO outbox (topic, payload, delivered_at)
SELECT 'trade.closed', '{{}}', clock_timestamp() - interval '31 days' FROM generate_series(1, 10001);
INSERT INTO outbox (topic, payload, delivered_at)
VALUES ('trade.closed', '{{}}', clock_timestamp() - interval '29 days'), ('trade.closed', '{{}}', clock_timestamp());
"""


@pytest.fixture
async def filled(sessions, trading) -> None:
    kept = DAY - timedelta(days=trading.rules.decisions_kept_days)
    async with sessions.begin() as session:
        session.add_all(User(email=f"u{i}@example.com") for i in range(USERS))
        await session.flush()
        for statement in FILL.split(";")[:-1]:
            parameters = {"old": kept - timedelta(days=1), "kept": kept} if ":old" in statement else {}
            await session.execute(text(statement), parameters)


@pytest.fixture
def purged(trader_engine: AsyncEngine) -> Iterator[list[list[int]]]:
    """Rows that each transaction deleted or emptied, in order."""
    transactions: list[list[int]] = [[]]

    def executed(_connection, cursor, statement, *_):
        if statement.startswith(("DELETE", "UPDATE cycles SET inputs")):
            transactions[-1].append(cursor.rowcount)

    def committed(_connection):
        transactions.append([])

    event.listen(trader_engine.sync_engine, "after_cursor_execute", executed)
    event.listen(trader_engine.sync_engine, "commit", committed)
    yield transactions
    event.remove(trader_engine.sync_engine, "after_cursor_execute", executed)
    event.remove(trader_engine.sync_engine, "commit", committed)


async def rows(sessions, *tables) -> list[int]:
    async with sessions() as session:
        return [await session.scalar(select(func.count()).select_from(table)) for table in tables]


@pytest.mark.usefixtures("filled")
async def test_what_is_old_goes_in_small_transactions_and_the_rest_stays(trading, market, sessions, purged):
    assert "day over" in await end_of_day(trading, DAY, market.now)
    sizes = [sum(transaction) for transaction in purged if transaction]
    assert max(sizes) == PURGE_ROWS_MAX
    assert sum(sizes) == OLD_CYCLES * USERS + OLD_CYCLES * 2 + OLD_CYCLES + 10_001
    assert await rows(sessions, Decision, CycleShard, OutboxMessage, Cycle) == [100, 4, 2, OLD_CYCLES + 2]
    async with sessions() as session:
        kept = (await session.scalars(select(Cycle.id).where(Cycle.inputs.is_not(None)).order_by(Cycle.id))).all()
    assert kept == [OLD_CYCLES + 1, OLD_CYCLES + 2]


async def test_an_undelivered_message_is_never_dropped(trading, market, sessions):
    async with sessions.begin() as session:
        await session.execute(
            text("INSERT INTO outbox (topic, payload, created_at) VALUES ('t', '{}', now() - interval '1 year')")
        )
    await end_of_day(trading, DAY, market.now)
    assert await rows(sessions, OutboxMessage) == [1]


@pytest.mark.usefixtures("filled")
async def test_a_failed_purge_costs_nothing_but_the_purge(trading, market, sessions, owner):
    refuse = """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'disk full'; END $$;
        CREATE TRIGGER refuse BEFORE DELETE ON decisions EXECUTE FUNCTION refuse()
    """
    async with owner.begin() as connection:
        for statement in refuse.split(";\n"):
            await connection.execute(text(statement))
    with capture_logs() as logs:
        assert "day over" in await end_of_day(trading, DAY, market.now)
    (failure,) = [entry for entry in logs if entry["event"] == "purge_failed"]
    assert "disk full" in failure["error"]
    assert (await rows(sessions, Decision))[0] == (OLD_CYCLES + 2) * USERS
    async with owner.begin() as connection:
        await connection.execute(text("DROP TRIGGER refuse ON decisions"))
    await end_of_day(trading, DAY, market.now)
    assert (await rows(sessions, Decision))[0] == 100
