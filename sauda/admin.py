"""`sauda admin`: what operators do from the machine itself, before there is anybody to log in as, or beside the API."""

from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from backend.api.schemas.logins import Email
from backend.db import Sessions
from backend.main import real_now
from backend.services import user_admin_service
from sauda.admin_audit import audit
from sauda.admin_keys import rotate_keys
from sauda.admin_plans import plans, subscriptions
from sauda.admin_tools import DatabaseUrl, doer, on_database, refuse
from sauda.admin_trading import calendar, orders, trading
from sauda.admin_users import users

admin = typer.Typer(no_args_is_help=True)
admin.add_typer(users, name="user")
admin.add_typer(audit, name="audit")
admin.add_typer(plans, name="plan")
admin.add_typer(subscriptions, name="subscription")
admin.add_typer(trading)
admin.add_typer(orders, name="unknown-order")
admin.add_typer(calendar, name="calendar")
admin.command("rotate-keys")(rotate_keys)


@admin.callback()
def group() -> None:
    """Operate a deployment (needs DATABASE_URL, or the embedded database of a running `sauda up`)."""


@admin.command("create")
def create_admin(
    email: Annotated[str, typer.Argument(help="E-mail address of the admin.")],
    database_url: DatabaseUrl = None,
) -> None:
    """Make a user an admin, creating the user where there is none; a new password is printed once."""
    try:
        TypeAdapter(Email).validate_python(email)
    except ValidationError:
        refuse(f"{email!r} is no e-mail address: give one like asha@example.com")

    async def make(sessions: Sessions) -> str | None:
        async with sessions.begin() as session:
            _, password = await user_admin_service.create_admin(session, doer(), email, real_now())
            return password

    password = on_database(database_url, make)
    typer.echo(f"{email} is an admin." + (f" Password: {password}" if password else " Log in again."))
    typer.echo("Now log in and set up a second factor: an admin's password alone is worth stealing.")
