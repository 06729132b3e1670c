"""`sauda admin user`: seeing users, switching them off and on, their roles, second factors and logins."""

from datetime import datetime
from typing import Annotated, Any

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from backend.api.schemas.admin_users import LoginView, UserGlanceReply, UserRowView, WhyNoTradeReply
from backend.config import Settings
from backend.db import Sessions
from backend.main import real_now
from backend.models import Role
from backend.services import session_service, user_admin_service, user_glance_service, why_no_trade_service
from backend.services.session_service import LoginRules
from backend.services.user_glance_service import UserFilter
from sauda.admin_tools import (
    AsJson,
    DatabaseUrl,
    Desk,
    Limit,
    Why,
    at_desk,
    doer,
    on_database,
    require_reason,
    show_facts,
    show_rows,
)

users = typer.Typer(no_args_is_help=True)

UserId = Annotated[int, typer.Argument(min=1, help="The user's id: `sauda admin user list --email PART` finds it.")]


@users.callback()
def group() -> None:
    """See users, and change what only an administrator may."""


@users.command("list")
def list_users(
    email: Annotated[str | None, typer.Option(help="A part of the address.")] = None,
    role: Annotated[Role | None, typer.Option(help="Users of this role.")] = None,
    plan: Annotated[str | None, typer.Option(help="Users on this plan, by its code.")] = None,
    active: Annotated[bool | None, typer.Option("--active/--inactive", help="Switched on, or off.")] = None,
    limit: Limit = 50,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Users, newest first."""
    wanted = UserFilter(email, role, plan, active)

    async def read(sessions: Sessions) -> list[dict[str, Any]]:
        async with sessions() as session:
            rows = await user_glance_service.list_users(session, wanted, None, limit)
        return [UserRowView.from_row(row).model_dump(mode="json") for row in rows]

    rows = on_database(database_url, read)
    shown = ("id", "email", "role", "plan", "active", "email_verified", "last_login_at")
    if not as_json:
        rows = [{name: row[name] for name in shown} for row in rows]
    show_rows(rows, as_json=as_json, none="No user is like that.")


@users.command("show")
def show_user(user_id: UserId, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """One user at a glance."""

    async def read(desk: Desk) -> dict[str, Any]:
        seen = await user_glance_service.glance(desk.seen, _rules(desk.settings), user_id, real_now())
        return UserGlanceReply.of(desk.settings.environment, seen).model_dump(mode="json")

    facts = at_desk(database_url, read)
    show_facts(facts if as_json else _short(facts), as_json=as_json)


@users.command("why")
def why_no_trade(
    user_id: UserId,
    day: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The market's day; today.")] = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Why nothing was entered for a user on a day."""

    async def read(desk: Desk) -> dict[str, Any]:
        on = day.date() if day else None
        why = await why_no_trade_service.why_no_trade(desk.seen, user_id, on, real_now())
        return WhyNoTradeReply.of(desk.settings.environment, why).model_dump(mode="json")

    facts = at_desk(database_url, read)
    if not as_json:
        typer.echo(f"{facts['verdict']['cause']} {facts['verdict']['next_step']}")
    show_facts(facts if as_json else _short(facts), as_json=as_json)


@users.command("deactivate")
def deactivate(user_id: UserId, reason: Why, database_url: DatabaseUrl = None) -> None:
    """Switch a user off: logins and API keys end, nothing more is entered, open trades keep their exits."""
    why = require_reason(reason)

    async def change(desk: Desk) -> None:
        async with desk.seen.sessions.begin() as session:
            await user_admin_service.set_active(session, doer(), user_id, False, why, real_now())
        await user_admin_service.cancel_entries(desk.trading, user_id)

    at_desk(database_url, change, ask_market=False)
    typer.echo(f"User {user_id} is off: nothing more is entered, open trades keep their exits.")


@users.command("activate")
def activate(user_id: UserId, reason: Why, database_url: DatabaseUrl = None) -> None:
    """Switch a user on again; API keys from before stay dead."""
    why = require_reason(reason)

    async def change(sessions: Sessions) -> None:
        async with sessions.begin() as session:
            await user_admin_service.set_active(session, doer(), user_id, True, why, real_now())

    on_database(database_url, change)
    typer.echo(f"User {user_id} is on. Auto-trading goes on as it was set.")


@users.command("role")
def set_role(user_id: UserId, role: Role, reason: Why, database_url: DatabaseUrl = None) -> None:
    """Give a user another role; their logins end. The last active administrator stays one."""
    why = require_reason(reason)

    async def change(sessions: Sessions) -> None:
        async with sessions.begin() as session:
            await user_admin_service.set_role(session, doer(), user_id, role, why, real_now())

    on_database(database_url, change)
    typer.echo(f"User {user_id} is {role.value} now, and logs in again.")


@users.command("reset-second-factor")
def reset_second_factor(user_id: UserId, reason: Why, database_url: DatabaseUrl = None) -> None:
    """Remove a lost second factor; logins end, and a mail tells. Make sure beforehand who asks for it."""
    why = require_reason(reason)

    async def change(sessions: Sessions) -> int:
        async with sessions.begin() as session:
            return await user_admin_service.reset_second_factor(session, doer(), user_id, why, real_now())

    ended = on_database(database_url, change)
    typer.echo(f"User {user_id} has no second factor any more; {ended} logins ended.")


@users.command("sessions")
def list_sessions(user_id: UserId, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """A user's logins that can still be used."""

    async def read(sessions: Sessions) -> list[dict[str, Any]]:
        async with sessions() as session:
            await user_admin_service.require_user(session, user_id)
            rows = await session_service.sessions_of(session, user_id, _rules(Settings()), real_now())
        return [LoginView.of(row).model_dump(mode="json") for row in rows]

    show_rows(on_database(database_url, read), as_json=as_json, none=f"User {user_id} has no login.")


@users.command("end-sessions")
def end_sessions(
    user_id: UserId,
    reason: Why,
    session_id: Annotated[int | None, typer.Option("--session", min=1, help="That login alone.")] = None,
    database_url: DatabaseUrl = None,
) -> None:
    """End a user's logins at once, all or one; API keys stay."""
    why = require_reason(reason)

    async def change(session: AsyncSession) -> int:
        if session_id is None:
            return await user_admin_service.end_logins(session, doer(), user_id, why, real_now())
        await user_admin_service.end_login(session, doer(), user_id, session_id, real_now())
        return 1

    async def begin(sessions: Sessions) -> int:
        async with sessions.begin() as session:
            return await change(session)

    typer.echo(f"{on_database(database_url, begin)} logins of user {user_id} ended.")


def _rules(settings: Settings) -> LoginRules:
    return LoginRules(settings.session_days, settings.session_idle_days)


def _short(facts: dict[str, Any]) -> dict[str, Any]:
    """What fits a terminal: nested things by what names them."""
    short = dict(facts)
    for name in ("user", "plan", "settings", "account", "subscription", "pending"):
        value = short.get(name)
        if isinstance(value, dict):
            short[name] = {key: value[key] for key in _NAMING if key in value}
    for name in ("verdict", "classes"):
        short.pop(name, None)
    return short


_NAMING = ("id", "email", "role", "code", "enabled", "mode", "broker", "label", "plan", "status", "period_until")
