"""`sauda admin audit`: following the chain of the audit log, and looking into it."""

from typing import Annotated

import typer

from backend.db import Sessions
from backend.services.audit_query_service import AuditFilter, entries
from backend.services.audit_verify_service import Anchor, Verdict, read_anchor, verify
from sauda.admin_tools import AsJson, DatabaseUrl, Limit, on_database, refuse, show_rows

audit = typer.Typer(no_args_is_help=True)

COLUMNS = ("id", "at", "actor", "ip", "action", "subject_id", "target", "before", "after", "reason")


@audit.callback()
def group() -> None:
    """The audit log: verify its chain of hashes, or list entries."""


@audit.command("verify")
def verify_chain(
    expect: Annotated[
        str | None, typer.Option(help="An anchor NUMBER:HASH noted earlier, from the log line audit_anchor.")
    ] = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Compute every hash again, from the first entry to the newest; exit 1 names the first that does not hold."""
    expected = _anchor(expect)

    async def work(sessions: Sessions) -> Verdict:
        return await verify(sessions, expected, lambda held: typer.echo(f"{held} entries hold", err=True))

    verdict = on_database(database_url, work)
    if verdict.broken is not None:
        refuse(f"BROKEN after {verdict.entries} entries: {verdict.broken}.")
    typer.echo(f"All {verdict.entries} entries hold. Note this anchor elsewhere: {verdict.head}")
    if expected is None:
        typer.echo("Whoever owns the database could have written them all anew: --expect an earlier anchor shows that.")


def _anchor(given: str | None) -> Anchor | None:
    try:
        return None if given is None else read_anchor(given)
    except ValueError as error:
        refuse(f"--expect: {error}")


@audit.command("list")
def list_entries(
    actor: Annotated[str | None, typer.Option(help="Who: user:ID, key:ID, cli:NAME or system.")] = None,
    subject_id: Annotated[int | None, typer.Option("--user", help="The user it concerns, by id.")] = None,
    action: Annotated[str | None, typer.Option(help="The action, or its beginning: session, plan.change.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """The newest entries."""
    wanted = AuditFilter(actor=actor, subject_id=subject_id, action=action)

    async def work(sessions: Sessions) -> list[dict]:
        async with sessions() as session:
            return [
                {name: getattr(row, name) for name in COLUMNS} for row in await entries(session, wanted, None, limit)
            ]

    show_rows(on_database(database_url, work), as_json=as_json, none="There are no such entries.")
