"""A database that is not as it was when it ran here last does not trade: restored, recovered, exchanged, or other."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from backend.db import create_sessions
from backend.domain.trading_states import Cause, TradingState
from backend.errors import ConflictError
from backend.services.auto_trading_service import run_cycle
from backend.services.deployment_service import WITNESS, begin, note_orders, read_witness
from backend.services.trading_state_service import standings
from contracts.common import Environment

SIMULATED = Environment.SIMULATED


async def standing(trader_sessions):
    async with trader_sessions() as session:
        return (await standings(session)).effective(1, None, None)


async def test_a_restart_is_no_news(trader_sessions, tmp_path: Path) -> None:
    for starts in (1, 2, 3):
        assert await begin(trader_sessions, SIMULATED, tmp_path / "data") is None
        assert read_witness(tmp_path / "data").starts == starts
    assert (await standing(trader_sessions)).state is TradingState.ACTIVE


async def test_another_environment_is_refused(trader_sessions, tmp_path: Path) -> None:
    await begin(trader_sessions, SIMULATED, tmp_path)
    with pytest.raises(ConflictError, match="belongs to the simulated environment"):
        await begin(trader_sessions, Environment.PAPER, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE deployment SET cluster = '1'", "another PostgreSQL server"),
        ("UPDATE deployment SET timeline = timeline + 1", "recovered from an archive"),
        ("UPDATE deployment SET starts = 1", "older than when it ran here last"),
    ],
)
async def test_a_restored_backup_halts_the_platform_until_an_admin_lifts_it(
    trader_sessions, tmp_path, change, words
) -> None:
    await begin(trader_sessions, SIMULATED, tmp_path)
    await begin(trader_sessions, SIMULATED, tmp_path)
    async with trader_sessions.begin() as session:
        await session.execute(text(change))
    assert words in (await begin(trader_sessions, SIMULATED, tmp_path) or "")
    effective = await standing(trader_sessions)
    assert (effective.state, effective.because[0].cause) == (TradingState.HALTED, Cause.BACKUP_RESTORED)
    assert await begin(trader_sessions, SIMULATED, tmp_path) is None  # said once
    assert (await standing(trader_sessions)).state is TradingState.HALTED  # and standing all the same


async def test_a_backup_from_before_todays_orders_sends_nothing(
    trading, market, make_user, trader_sessions, tmp_path
) -> None:
    """No restart lies between the backup and the loss: only the orders tell."""
    await begin(trader_sessions, SIMULATED, tmp_path)
    await make_user(symbols=("INFY",))
    await run_cycle(trading, market.now)
    await note_orders(trader_sessions, tmp_path)
    witness = read_witness(tmp_path)
    (tmp_path / WITNESS).write_text(
        (tmp_path / WITNESS)
        .read_text()
        .replace(f'"orders_through": {witness.orders_through}', f'"orders_through": {witness.orders_through + 3}')
    )
    assert "order 1 of 4" in (await begin(trader_sessions, SIMULATED, tmp_path) or "")
    await make_user("ravi", symbols=("TCS",))
    market.now = market.now.replace(minute=5)
    report = await run_cycle(trading, market.now)
    assert (report.entries, report.denied) == (0, {"trading_halted": 2})


async def test_a_folder_of_another_database_halts_one_that_has_orders(
    trading, market, make_user, trader_sessions, tmp_path
):
    await begin(trader_sessions, SIMULATED, tmp_path)
    other = replace(read_witness(tmp_path), name="another")
    text_ = (tmp_path / WITNESS).read_text().replace(read_witness(tmp_path).name, other.name)
    (tmp_path / WITNESS).write_text(text_)
    assert await begin(trader_sessions, SIMULATED, tmp_path) is None  # an empty database has nothing to forget
    await make_user(symbols=("INFY",))
    await run_cycle(trading, market.now)
    (tmp_path / WITNESS).write_text(text_)
    assert "another database" in (await begin(trader_sessions, SIMULATED, tmp_path) or "")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": 1}'])
async def test_a_broken_witness_costs_nothing(trader_sessions, tmp_path, content) -> None:
    (tmp_path / WITNESS).write_text(content)
    assert await begin(trader_sessions, SIMULATED, tmp_path) is None
    assert read_witness(tmp_path).starts == 1


async def test_connections_under_another_role_are_refused(owner, trader_sessions, tmp_path) -> None:
    """As behind a pooler that drops the setting: the books' protection would be off."""
    await begin(trader_sessions, SIMULATED, tmp_path)
    with pytest.raises(ConflictError, match="not under sauda_trader"):
        await begin(create_sessions(owner), SIMULATED, tmp_path)
