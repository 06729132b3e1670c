"""`sauda admin user`: seeing users, switching them off and on, their roles, second factors and logins."""

import typer

users = typer.Typer(no_args_is_help=True)


@users.callback()
def group() -> None:
    """See users, and change what only an administrator may."""
