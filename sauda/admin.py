"""`sauda admin`: what an operator does before there is anybody to log in as."""

import asyncio
import os
import secrets
from typing import Annotated

import typer
from argon2 import PasswordHasher
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from backend.db import OPERATOR_ROLE, create_engine, create_sessions
from backend.models import Credential, Role, User
from sauda.embedded import SERVICE_ROLE

admin = typer.Typer(no_args_is_help=True)


@admin.callback()
def group() -> None:
    """Operate a deployment (needs DATABASE_URL, or the embedded database of a running `sauda up`)."""


@admin.command("create")
def create_admin(
    email: Annotated[str, typer.Argument(help="E-mail address of the admin.")],
    database_url: Annotated[
        str | None, typer.Option(help="Database; DATABASE_URL where left out, else the embedded one in data/.")
    ] = None,
) -> None:
    """Make a user an admin, creating the user where there is none; a new password is printed once."""
    url = database_url or os.environ.get("DATABASE_URL") or _embedded_url()
    try:
        password = asyncio.run(_make_admin(url, email))
    except (OSError, SQLAlchemyError) as error:
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        typer.echo(f"The database cannot be used ({reason}): start it, or name another with --database-url", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{email} is an admin." + (f" Password: {password}" if password else ""))


def _embedded_url() -> str:
    from backend.config import Settings  # noqa: PLC0415

    settings = Settings()
    return f"postgresql://{SERVICE_ROLE}@/sauda?host={(settings.data_dir / 'postgres').resolve()}"


async def _make_admin(url: str, email: str) -> str | None:
    engine = create_engine(url, role=OPERATOR_ROLE, pool_size=1)
    try:
        async with create_sessions(engine).begin() as session:
            user = await session.scalar(select(User).where(func.lower(User.email) == email.lower()))
            password = None
            if user is None:
                password = secrets.token_urlsafe(12)
                user = User(email=email)
                session.add(user)
                await session.flush()
                session.add(Credential(user_id=user.id, password_hash=PasswordHasher().hash(password)))
            user.role = Role.ADMIN
            return password
    finally:
        await engine.dispose()
