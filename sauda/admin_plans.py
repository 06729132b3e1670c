"""`sauda admin plan` and `sauda admin subscription`: the catalogue, and plans that are switched on or given."""

import json
from datetime import datetime
from typing import Annotated, Any

import httpx
import typer
from pydantic import ValidationError

from backend.api.schemas.billing import NewPlanBody, PlanBody, PlanView, SubscriptionView
from backend.config import Settings
from backend.db import Sessions
from backend.domain.calendar import IST
from backend.main import create_billing, real_now
from backend.models import Plan, SubscriptionStatus
from backend.services import payment_service, plan_service, subscription_service
from sauda.admin_tools import (
    AsJson,
    DatabaseUrl,
    Limit,
    Why,
    doer,
    on_database,
    refuse,
    require_reason,
    show_facts,
    show_rows,
)

SHOWN = (
    *("code", "name", "price_rupees_per_month", "price_rupees_per_year", "trial_days", "symbols_max"),
    *("auto_trades_per_day", "backtests_per_day", "offered"),
)
"""What of a plan fits a line; `--json` has all of it."""

plans = typer.Typer(no_args_is_help=True)
subscriptions = typer.Typer(no_args_is_help=True)


@plans.callback()
def plan_group() -> None:
    """The catalogue of plans."""


@subscriptions.callback()
def subscription_group() -> None:
    """Users' plans: what waits for payment, switching it on, and giving a plan."""


@plans.command("list")
def list_plans(database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """All plans by rank; prices are rupees before GST."""

    async def read(sessions: Sessions) -> list[dict[str, Any]]:
        async with sessions() as session:
            return [_view(plan) for plan in await plan_service.list_plans(session)]

    rows = on_database(database_url, read)
    if not as_json:
        rows = [{name: row[name] for name in SHOWN} for row in rows]
    show_rows(rows, as_json=as_json, none="There is no plan.")


@plans.command("set")
def set_plan(
    code: Annotated[str, typer.Argument(help="The plan's code; one that is new makes a plan.")],
    values: Annotated[
        list[str],
        typer.Argument(help="NAME=VALUE, as `plan list --json` names them: symbols_max=20 brokers='[\"paper\"]'"),
    ],
    database_url: DatabaseUrl = None,
) -> None:
    """Change values of a plan, or make one: limits count at once, prices from each user's next period."""
    given = dict(map(_pair, values))

    async def change(sessions: Sessions) -> dict[str, Any]:
        async with sessions.begin() as session:
            present = next((p for p in await plan_service.list_plans(session) if p.code == code), None)
            if present is None:
                body = NewPlanBody.model_validate({"code": code, **given})
                return _view(await plan_service.create_plan(session, doer(), body.values()))
            stands = {name: value for name, value in _view(present).items() if name != "code"}
            body = PlanBody.model_validate(stands | given)
            return _view(await plan_service.replace_plan(session, doer(), code, body.values()))

    try:
        show_facts(on_database(database_url, change), as_json=False)
    except ValidationError as error:
        first = error.errors()[0]
        refuse(f"{'.'.join(map(str, first['loc'])) or 'the plan'}: {first['msg']}")


def _pair(text: str) -> tuple[str, Any]:
    name, found, value = text.partition("=")
    if not found:
        refuse(f"{text!r} is not NAME=VALUE: as symbols_max=20")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _view(plan: Plan) -> dict[str, Any]:
    return PlanView.of(plan).model_dump(mode="json")


@subscriptions.command("list")
def list_subscriptions(
    status: Annotated[SubscriptionStatus | None, typer.Option(help="`pending` waits for payment.")] = None,
    limit: Limit = 50,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Subscriptions of all users, newest first."""

    async def read(sessions: Sessions) -> list[dict[str, Any]]:
        async with sessions() as session:
            found = await subscription_service.list_subscriptions(session, status, None, limit)
        return [
            {"user_id": row.user_id, "email": email, **SubscriptionView.of(row).model_dump(mode="json")}
            for row, email in found
        ]

    rows = on_database(database_url, read)
    shown = ("id", "user_id", "email", "plan", "billing", "status", "period_until", "cancel_at_end")
    if not as_json:
        rows = [{name: row[name] for name in shown} for row in rows]
    show_rows(rows, as_json=as_json, none="There is no such subscription.")


@subscriptions.command("activate")
def activate(
    subscription_id: Annotated[int, typer.Argument(min=1, help="The subscription, as `subscription list` shows it.")],
    database_url: DatabaseUrl = None,
) -> None:
    """Take what is asked as paid. Run it with the gateway's settings: without SELLER_NAME no invoice is issued."""

    async def change(sessions: Sessions) -> dict[str, Any]:
        async with httpx.AsyncClient() as http:
            rules = create_billing(Settings(), http)
            async with sessions.begin() as session:
                row = await payment_service.activate(session, rules, doer(), subscription_id, real_now())
                return SubscriptionView.of(row).model_dump(mode="json")

    try:
        show_facts(on_database(database_url, change), as_json=False)
    except ValueError as error:  # the settings of billing
        refuse(str(error))


@subscriptions.command("comp")
def give(
    user_id: Annotated[int, typer.Argument(min=1, help="The user's id.")],
    plan: Annotated[str, typer.Argument(help="The plan's code.")],
    reason: Why,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Until the beginning of that day in India; for good.")
    ] = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Give a user a plan free of charge, at once, in the place of the present one."""
    why = require_reason(reason)
    end = until.replace(tzinfo=IST) if until else None

    async def change(sessions: Sessions) -> dict[str, Any]:
        async with sessions.begin() as session:
            row = await subscription_service.give(session, doer(), user_id, plan, end, why, real_now())
            return SubscriptionView.of(row).model_dump(mode="json")

    show_facts(on_database(database_url, change), as_json=False)
