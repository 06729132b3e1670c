"""`sauda check`: what a linter cannot see: migrations match the models, generated files match their source."""

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from backend.db import create_engine
from backend.domain.calendar import sessions_csv
from backend.domain.orders import state_table_markdown
from backend.models import Base
from sauda.embedded import ROOT, EmbeddedPostgres, create_database, migrate
from sauda.env_example import env_example


def check(
    write: Annotated[
        bool, typer.Option("--write", help="Write the generated files instead of comparing them.")
    ] = False,
) -> None:
    """Check generated files and migrations; exit status 1 and the differences where something is out of step."""
    if write:
        for name, content in _generated().items():
            (ROOT / name).write_text(content)
        return
    problems = [*_stale_files(), *_migrations()]
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo("Migrations match the models; .env.example, sessions.csv and docs/orders.md match their sources.")


def _generated() -> dict[str, str]:
    return {
        ".env.example": env_example(),
        "data_service/reference/sessions.csv": sessions_csv(),
        "docs/orders.md": _with_block((ROOT / "docs/orders.md").read_text(), state_table_markdown()),
    }


def _with_block(text: str, block: str) -> str:
    """`text` with what stands between the block's own first and last lines replaced by the block."""
    first, *_, last = block.splitlines()
    before, _, rest = text.partition(first)
    return before + block + rest.partition(last)[2]


def _stale_files() -> list[str]:
    return [
        f"{name} is out of step with its source: run `make generate`"
        for name, content in _generated().items()
        if not (ROOT / name).exists() or (ROOT / name).read_text() != content
    ]


def _migrations() -> list[str]:
    with tempfile.TemporaryDirectory(prefix="sauda-check-") as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres")
        postgres.start()
        try:
            url = create_database(postgres, "check")
            migrate(url)
            lacking = [f"the migrations lack: {difference}" for difference in asyncio.run(_differences(url))]
            made = create_database(postgres, "made")
            asyncio.run(_create_all(made))
            return lacking + asyncio.run(_constraint_differences(url, made))
        finally:
            postgres.stop()


async def _differences(url: str) -> list[str]:
    engine = create_engine(url, pool_size=1, owner=True)

    def compare(connection: Connection) -> list[str]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return [str(difference) for difference in compare_metadata(context, Base.metadata)]

    async with engine.connect() as connection:
        differences = await connection.run_sync(compare)
    await engine.dispose()
    return differences


async def _create_all(url: str) -> None:
    engine = create_engine(url, pool_size=1, owner=True)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()


async def _constraint_differences(migrated: str, made: str) -> list[str]:
    """Constraints, CHECKs above all, which Alembic's own comparison does not see."""
    ours, models = await _constraints(migrated), await _constraints(made)
    return [
        *(f"the migrations lack or differ in: {constraint}" for constraint in sorted(models - ours)),
        *(f"the models lack or differ in: {constraint}" for constraint in sorted(ours - models)),
    ]


async def _constraints(url: str) -> set[str]:
    engine = create_engine(url, pool_size=1, owner=True)
    query = text(
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conrelid <> 0 AND connamespace = 'public'::regnamespace"
        " AND conrelid <> coalesce(to_regclass('alembic_version'), 0)"
    )
    async with engine.connect() as connection:
        found = {" ".join(row) for row in await connection.execute(query)}
    await engine.dispose()
    return found
