"""`sauda admin halt|pause|lift|states|reconcile|cycle`, unknown orders and the calendar: trading under a hand."""

from datetime import datetime, time
from typing import Annotated, Any

import typer

from backend.api.schemas.admin import LastCycleReply, OverrideView, ReconcileReply
from backend.api.schemas.orders import UnknownOrderView
from backend.api.schemas.trading_state import KillSwitchReply, PeriodView
from backend.db import Sessions
from backend.domain.calendar import OverrideKind
from backend.domain.market import Exchange
from backend.domain.orders import OrderEventKind
from backend.domain.trading_states import Cause, Scope, TradingState
from backend.services import admin_service, order_query_service, trading_state_service
from backend.services.admin_service import CalendarCorrection
from backend.services.kill_switch_service import Halt, kill_switch
from backend.services.trading_state_service import REASON_LENGTH_MIN
from sauda.admin_tools import (
    AsJson,
    DatabaseUrl,
    Desk,
    Limit,
    Why,
    at_desk,
    doer,
    on_database,
    refuse,
    require_reason,
    show_facts,
    show_rows,
)

trading = typer.Typer()
orders = typer.Typer(no_args_is_help=True)
calendar = typer.Typer(no_args_is_help=True)

Where = Annotated[Scope, typer.Argument(help="What it concerns.")]
Key = Annotated[str, typer.Argument(help="The broker, the strategy or the user's id; nothing for the platform.")]
OUTCOMES = (OrderEventKind.ABANDONED, OrderEventKind.CANCELLED, OrderEventKind.EXPIRED)


@trading.command("halt")
def halt(
    scope: Where,
    reason: Why,
    key: Key = "",
    flatten: Annotated[bool, typer.Option(help="Sell open auto-trades at the next tick.")] = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Send nothing more, and cancel open orders. Without --flatten open trades are held without their stops."""
    wanted = Halt(scope, key, Cause.ADMIN, require_reason(reason), flatten)
    _hold_back(wanted, database_url)


@trading.command("pause")
def pause(scope: Where, reason: Why, key: Key = "", database_url: DatabaseUrl = None) -> None:
    """Enter nothing more; open trades keep their targets, stops and exits."""
    _hold_back(Halt(scope, key, Cause.ADMIN, require_reason(reason), state=TradingState.REDUCING), database_url)


def _hold_back(wanted: Halt, database_url: str | None) -> None:
    async def change(desk: Desk) -> KillSwitchReply:
        report = await kill_switch(desk.trading, wanted, None, actor=doer())
        return KillSwitchReply.of(desk.settings.environment, wanted.scope, wanted.key, report)

    told = at_desk(database_url, change, ask_market=False)
    name = f"{told.scope} {told.key}".strip()
    typer.echo(f"{name}: {told.state}{'' if told.changed else ' (as before)'}. {told.message}")
    if told.cancels.open:
        typer.echo(f"{told.cancels.open} open orders, {told.cancels.unconfirmed} not known to be cancelled yet.")


@trading.command("states")
def states(
    over: Annotated[bool, typer.Option("--all", help="Also what is over.")] = False,
    limit: Limit = 50,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """What holds trading back, newest first."""

    async def read(sessions: Sessions) -> list[dict[str, Any]]:
        async with sessions() as session:
            rows = await trading_state_service.periods(session, None, limit, standing_only=not over)
        return [PeriodView.of(row).model_dump(mode="json") for row in rows]

    rows = on_database(database_url, read)
    shown = ("id", "scope", "key", "state", "flatten", "cause", "detail", "set_at", "ended_at")
    if not as_json:
        rows = [{name: row[name] for name in shown} for row in rows]
    show_rows(rows, as_json=as_json, none="Nothing holds trading back.")


@trading.command("lift")
def lift(
    period_id: Annotated[int, typer.Argument(min=1, help="The state's id, as `sauda admin states` shows it.")],
    reason: Why,
    database_url: DatabaseUrl = None,
) -> None:
    """Lift what stands: sends that it forbade go out from the next tick on."""
    why = require_reason(reason, REASON_LENGTH_MIN)

    async def change(sessions: Sessions) -> PeriodView:
        async with sessions.begin() as session:
            return PeriodView.of(await trading_state_service.lift_period(session, period_id, None, why, doer()))

    lifted = on_database(database_url, change)
    typer.echo(f"{lifted.scope} {lifted.key}".strip() + " is active again.")


@trading.command("reconcile")
def reconcile(
    account_id: Annotated[int | None, typer.Option("--account", min=1, help="That account alone.")] = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Bring orders in line with the brokers' books now, from this process: it needs data_service, as a trader does."""

    async def change(desk: Desk) -> dict[str, Any]:
        report = await admin_service.force_reconcile(desk.trading, doer(), account_id)
        return ReconcileReply.of(desk.settings.environment, report).model_dump(mode="json")

    show_facts(at_desk(database_url, change), as_json=as_json)


@trading.command("cycle")
def last_cycle(database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """The newest cycle: its shards, how old its inputs were, and what did not come."""

    async def read(desk: Desk) -> dict[str, Any]:
        async with desk.seen.sessions() as session:
            last = await admin_service.last_cycle(session)
        return LastCycleReply.of(desk.settings.environment, last).model_dump(mode="json")

    facts = at_desk(database_url, read)
    if not as_json:
        cycle, shards = facts.pop("cycle"), facts.pop("shards")
        done = f"{sum(shard['done'] for shard in shards)} of {len(shards)}"
        facts = cycle | {"shards_done": done} | facts
    show_facts(facts, as_json=as_json)


@orders.callback()
def orders_group() -> None:
    """Orders whose outcome nobody knows: each blocks its account and symbol until it is settled."""


@orders.command("list")
def list_unknown(limit: Limit = 50, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Such orders, newest first."""

    async def read(sessions: Sessions) -> list[dict[str, Any]]:
        async with sessions() as session:
            rows = await order_query_service.unknown_orders(session, None, limit)
        return [UnknownOrderView.of(row).model_dump(mode="json") for row in rows]

    rows = on_database(database_url, read)
    if not as_json:
        shown = ("id", "user_id", "account_id", "symbol", "side", "quantity", "intent", "submitted_at")
        rows = [{name: row[name] for name in shown} for row in rows]
    show_rows(rows, as_json=as_json, none="Every order's outcome is known.")


@orders.command("settle")
def settle(
    order_id: Annotated[int, typer.Argument(min=1, help="The order.")],
    outcome: Annotated[
        str, typer.Argument(help=f"What the broker said: {', '.join(each.value for each in OUTCOMES)}.")
    ],
    reason: Why,
    database_url: DatabaseUrl = None,
) -> None:
    """Settle an order, once the broker has told what became of it. A fill found later still counts."""
    chosen = next((each for each in OUTCOMES if each.value == outcome), None)
    if chosen is None:
        refuse(f"The outcome is one of {', '.join(each.value for each in OUTCOMES)}, not {outcome!r}.")
    why = require_reason(reason, 10)[:240]

    async def change(sessions: Sessions) -> str:
        async with sessions.begin() as session:
            order = await order_query_service.resolve_unknown(session, order_id, chosen, None, why, doer())
            return order.state.value

    typer.echo(f"Order {order_id} is {on_database(database_url, change)}.")


@calendar.callback()
def calendar_group() -> None:
    """The market's calendar: days that were added or corrected."""


@calendar.command("list")
def list_corrections(limit: Limit = 50, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """The corrections made so far, newest first; the newest of a day counts."""

    async def read(sessions: Sessions) -> list[dict[str, Any]]:
        async with sessions() as session:
            rows = await admin_service.list_corrections(session, None, limit)
        return [OverrideView.of(row).model_dump(mode="json") for row in rows]

    show_rows(on_database(database_url, read), as_json=as_json, none="No day has been corrected.")


@calendar.command("add")
def add_correction(
    day: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="The day.")],
    kind: Annotated[OverrideKind, typer.Argument(help="What it is.")],
    reason: Why,
    open_at: Annotated[
        str | None, typer.Option("--open", help="HH:MM in India; the standard day where left out.")
    ] = None,
    close_at: Annotated[str | None, typer.Option("--close", help="HH:MM in India.")] = None,
    exchange: Annotated[Exchange | None, typer.Option(help="That exchange alone; both.")] = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Add or correct a day; every trader sees it within a minute."""
    why = require_reason(reason)
    correction = CalendarCorrection(day.date(), exchange, kind, _clock(open_at), _clock(close_at), why)

    async def change(sessions: Sessions) -> dict[str, Any]:
        async with sessions.begin() as session:
            return OverrideView.of(await admin_service.add_correction(session, doer(), correction)).model_dump(
                mode="json"
            )

    show_facts(on_database(database_url, change), as_json=False)


def _clock(text: str | None) -> time | None:
    if text is None:
        return None
    try:
        clock = time.fromisoformat(text)
    except ValueError:
        refuse(f"{text!r} is no time of the day: as 18:00")
    if clock.tzinfo is not None or clock.microsecond:
        refuse(f"{text!r}: times are India's, as HH:MM without an offset")
    return clock
