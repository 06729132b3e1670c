"""Users and trades of before there were several strategies keep trading as they did, and can go back."""

from sqlalchemy import Connection, text

from alembic import command
from sauda.embedded import alembic_config

ADDED = text("""
    SELECT table_name, column_name FROM information_schema.columns
     WHERE column_name IN ('strategies', 'logic_version', 'cluster') AND table_name LIKE 'auto_trade%' ORDER BY 1, 2
""")


def moved(connection: Connection, revision: str) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    (command.downgrade if revision == "0003" else command.upgrade)(config, revision)


async def test_settings_of_before_enable_every_strategy(owner, trading, make_user):
    user = await make_user()
    async with owner.begin() as connection:
        await connection.run_sync(moved, "0003")
        assert (await connection.execute(ADDED)).all() == []
        await connection.run_sync(moved, "0004")
        assert [tuple(row) for row in (await connection.execute(ADDED)).all()] == [
            ("auto_trade_settings", "strategies"),
            ("auto_trades", "cluster"),
            ("auto_trades", "logic_version"),
        ]
        row = (await connection.execute(text("SELECT user_id, enabled, strategies FROM auto_trade_settings"))).one()
        assert tuple(row) == (user, True, [])
