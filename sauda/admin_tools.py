"""What the commands of `sauda admin` share: the database, who acts, one line for an error, and tables or JSON."""

import asyncio
import logging
import os
import pwd
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any, NoReturn, TypeVar

import orjson
import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from backend.config import Settings
from backend.db import OPERATOR_ROLE, Sessions, create_engine, create_sessions
from backend.errors import SaudaError
from backend.main import Wired, wire
from backend.models import Deployment
from backend.services.audit_service import Actor
from backend.services.context import Trading
from contracts.common import Environment
from sauda.embedded import SERVICE_ROLE

T = TypeVar("T")

EMBEDDED_KEYS = "master.keys"
"""Where `sauda up` keeps its master keys, in the data folder."""
Row = dict[str, Any]

DatabaseUrl = Annotated[
    str | None, typer.Option(help="Database; DATABASE_URL where left out, else the embedded one in data/.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Why = Annotated[str, typer.Option("--reason", help="Why, for the audit log: 3 to 280 characters.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="How many at most, newest first.")]


def doer() -> Actor:
    """Who types the command, as the audit log names them: the user of the operating system."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return Actor(f"cli:{name[:50]}")


def url_of(given: str | None) -> str:
    """The database: `given`, DATABASE_URL, or the embedded one of a running `sauda up`."""
    embedded = f"postgresql://{SERVICE_ROLE}@/sauda?host={(Settings().data_dir / 'postgres').resolve()}"
    return given or os.environ.get("DATABASE_URL") or embedded


def run(work: Awaitable[T]) -> T:
    """Await a command's work. What goes wrong ends it with one line: exit code 1 for a refusal, 2 for the database."""

    async def awaited() -> T:
        return await work

    try:
        with _quiet_log():
            return asyncio.run(awaited())
    except SaudaError as error:
        refuse(error.detail)
    except (OSError, SQLAlchemyError) as error:
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        refuse(f"The database cannot be used ({reason}): start it, or name another with --database-url", 2)


@contextmanager
def _quiet_log() -> Iterator[None]:
    """What a gateway would log is told by the command itself; errors go to stderr, since stdout may be read by a
    program."""
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def on_database(url: str | None, work: Callable[[Sessions], Awaitable[T]]) -> T:
    """Run `work` on the database as the operator; errors as in `run`."""

    async def connected() -> T:
        engine = create_engine(url_of(url), role=OPERATOR_ROLE, pool_size=1)
        try:
            return await work(create_sessions(engine))
        finally:
            await engine.dispose()

    return run(connected())


def refuse(line: str, code: int = 1) -> NoReturn:
    """End the command with one line on stderr."""
    typer.echo(line, err=True)
    raise typer.Exit(code)


def require_reason(reason: str, shortest: int = 3) -> str:
    """The reason, if it can stand in the audit log."""
    reason = reason.strip()
    if not (shortest <= len(reason) <= 280 and reason.isprintable()):
        refuse(f"Say why in one line of {shortest} to 280 characters: --reason …")
    return reason


def show_rows(rows: Sequence[Row], *, as_json: bool, none: str) -> None:
    """Rows with the same keys as a table, or as JSON; `none` is said where there are none."""
    if as_json:
        show_json(list(rows))
    elif not rows:
        typer.echo(none)
    else:
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*(escape(_text(value)) for value in row.values()))
        Console(width=None if sys.stdout.isatty() else 200).print(table)


def show_facts(facts: Row, *, as_json: bool) -> None:
    """One thing, a line for each fact, or as JSON."""
    if as_json:
        show_json(facts)
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        typer.echo(f"{name:<{width}}  {_text(value)}")


def show_json(value: Any) -> None:
    typer.echo(orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode())


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "–"
    return str(value)


@dataclass(frozen=True, slots=True)
class Desk:
    """The trading engine of this deployment, and everybody's rows as the operator sees them."""

    trading: Trading
    seen: Trading
    settings: Settings


def at_desk(url: str | None, work: Callable[[Desk], Awaitable[T]], *, ask_market: bool = True) -> T:
    """Run `work` with the trading world wired as a gateway wires it; errors as in `run`.

    The environment is the database's own. data_service may be silent: what needs the market's clock then says so.
    With `ask_market` False nobody waits for it: a halt must not.
    """

    async def wired() -> T:
        engine = create_engine(url_of(url), role=OPERATOR_ROLE, pool_size=2)
        sessions = create_sessions(engine)
        try:
            async with sessions() as session:
                environment = await session.scalar(select(Deployment.environment))
            here = {"database_url": url_of(url)} | ({"environment": Environment(environment)} if environment else {})
            settings = with_embedded_keys(Settings().model_copy(update=here))
            built = _wired(settings)
            try:
                await built.trading.calendar.refresh(built.trading.sessions)
                if ask_market:
                    await _learn_instruments(built.trading)
                return await work(Desk(built.trading, replace(built.trading, sessions=sessions), settings))
            finally:
                await built.close()
        finally:
            await engine.dispose()

    return run(wired())


def with_embedded_keys(settings: Settings) -> Settings:
    """The settings, with the master keys that `sauda up` keeps in its data folder where none are named: a cancel at a
    real broker needs them."""
    embedded = settings.data_dir / EMBEDDED_KEYS
    if settings.master_key_file is not None or settings.master_keys.get_secret_value() or not embedded.exists():
        return settings
    return settings.model_copy(update={"master_key_file": embedded})


def _wired(settings: Settings) -> Wired:
    try:
        return wire(settings, lambda _: None)
    except ValueError as error:
        refuse(str(error))


async def _learn_instruments(trading: Trading) -> None:
    with suppress(SaudaError):
        trading.calendar.know(await trading.market_data.load_instruments())
