"""Triggers that stand for a year: of one leg, or of two of which the first to come ends the other.

Source: kite.trade/docs/connect/v3/gtt. A trigger places a limit order; what becomes of that is the order's own.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import select, update
from starlette.requests import Request

from backend.domain.market import OrderType
from backend.models import GttStatus, SandboxGtt
from backend.sandbox.limits import Group
from backend.sandbox.orders import market_now, place_order, read_order, share_of
from backend.sandbox.words import KiteError, client_id, decimal_of, ist
from backend.sandbox.world import Caller, World, form_of
from contracts.market import Quote

LASTS = timedelta(days=365)
ACTIVE_MAX = 100
PRODUCTS = {"CNC"}
"""Intraday orders do not last until tomorrow."""


async def place(caller: Caller, request: Request) -> Mapping[str, Any]:
    """POST /gtt/triggers: a form of JSON texts."""
    caller.count(Group.ORDER)
    now = await market_now(caller)
    terms = await _terms(caller, await form_of(request))
    async with caller.world.sessions.begin() as session:
        active = SandboxGtt.account_id == caller.account_id, SandboxGtt.status == GttStatus.ACTIVE
        if len((await session.scalars(select(SandboxGtt.id).where(*active))).all()) >= ACTIVE_MAX:
            raise KiteError("InputException", f"At most {ACTIVE_MAX} triggers may be active.")
        row = SandboxGtt(
            account_id=caller.account_id,
            user_id=caller.user_id,
            status=GttStatus.ACTIVE,
            placed_at=now,
            updated_at=now,
            expires_at=now + LASTS,
            **terms,
        )
        session.add(row)
        await session.flush()
        return {"trigger_id": row.id}


async def modify(caller: Caller, request: Request) -> Mapping[str, Any]:
    """PUT /gtt/triggers/{id}: all of it anew."""
    caller.count(Group.ORDER)
    number, terms = _number(request), await _terms(caller, await form_of(request))
    await _change(caller, number, terms | {"updated_at": await market_now(caller)})
    return {"trigger_id": number}


async def remove(caller: Caller, request: Request) -> Mapping[str, Any]:
    """DELETE /gtt/triggers/{id}."""
    caller.count(Group.ORDER)
    number = _number(request)
    await _change(caller, number, {"status": GttStatus.DELETED, "updated_at": await market_now(caller)})
    return {"trigger_id": number}


async def _change(caller: Caller, number: int, values: Mapping[str, Any]) -> None:
    async with caller.world.sessions.begin() as session:
        mine = SandboxGtt.id == number, SandboxGtt.account_id == caller.account_id
        active = SandboxGtt.status == GttStatus.ACTIVE
        changed = await session.scalar(update(SandboxGtt).where(*mine, active).values(values).returning(SandboxGtt.id))
    if changed is None:
        raise KiteError("InputException", f"Trigger {number} is not active.")


async def listed(caller: Caller, _: Request) -> Sequence[Mapping[str, Any]]:
    """GET /gtt/triggers."""
    caller.count(Group.OTHER)
    async with caller.world.sessions() as session:
        mine = SandboxGtt.account_id == caller.account_id, SandboxGtt.status != GttStatus.DELETED
        rows = (await session.scalars(select(SandboxGtt).where(*mine).order_by(SandboxGtt.id))).all()
    tokens = (await caller.world.listed()).tokens
    return [_row(row, tokens.get(row.symbol, 0)) for row in rows]


async def one(caller: Caller, request: Request) -> Mapping[str, Any]:
    """GET /gtt/triggers/{id}."""
    caller.count(Group.OTHER)
    number = _number(request)
    async with caller.world.sessions() as session:
        row = await session.get(SandboxGtt, number)
    if row is None or row.account_id != caller.account_id:
        raise KiteError("InputException", f"There is no trigger {number}.")
    return _row(row, await caller.world.token_of(row.symbol))


def _number(request: Request) -> int:
    text = request.path_params["trigger_id"]
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise KiteError("InputException", "Invalid `trigger_id`.")
    return int(text)


async def _terms(caller: Caller, form: Mapping[str, str]) -> dict[str, Any]:
    """What a form says of a trigger, checked as its orders will be. Raises KiteError."""
    condition, orders = _json(form, "condition", dict), _json(form, "orders", list)
    if form.get("type") not in {"single", "two-leg"}:
        raise KiteError("InputException", "Invalid `type`.")
    legs = 2 if form["type"] == "two-leg" else 1
    share = await share_of(caller, condition)
    values = condition.get("trigger_values")
    if not isinstance(values, list) or len(values) != legs or len(orders) != legs:
        raise KiteError("InputException", f"A {form['type']} trigger has {legs} trigger values and as many orders.")
    triggers = [decimal_of({"trigger_values": str(value)}, "trigger_values") for value in values]
    last = decimal_of({"last_price": str(condition.get("last_price", ""))}, "last_price")
    if last <= 0 or min(triggers) <= 0 or last in triggers:
        raise KiteError("InputException", "Trigger values and the last price are positive, and apart.")
    lower, upper = (triggers[0], triggers[1]) if legs == 2 else (None, None)
    if legs == 1:
        lower, upper = (triggers[0], None) if triggers[0] < last else (None, triggers[0])
    elif not triggers[0] < last < triggers[1]:
        raise KiteError("InputException", "The last price lies between the trigger values of two legs.")
    for order in orders:
        await _require_placeable(caller, share.symbol, order)
    names = ("transaction_type", "quantity", "product", "order_type", "price")
    kept = [
        {n: o[n] for n in names} | {"exchange": "NSE", "tradingsymbol": share.symbol, "result": None} for o in orders
    ]
    return {
        "symbol": share.symbol,
        "exchange": "nse",
        "lower_trigger": lower,
        "upper_trigger": upper,
        "two_legs": legs == 2,
        "last_price": last,
        "orders": kept,
    }


def _json(form: Mapping[str, str], name: str, kind: type) -> Any:
    try:
        value = json.loads(form.get(name, ""))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise KiteError("InputException", f"Invalid `{name}`.")
    return value


async def _require_placeable(caller: Caller, symbol: str, order: Any) -> None:
    if not isinstance(order, dict):
        raise KiteError("InputException", "Invalid `orders`.")
    request, _ = await read_order(caller, _form(symbol, order))
    if request.order_type is not OrderType.LIMIT or order.get("product") not in PRODUCTS:
        raise KiteError("InputException", "A trigger places LIMIT orders of the product CNC.")


def _form(symbol: str, order: Mapping[str, Any]) -> dict[str, str]:
    names = ("transaction_type", "quantity", "product", "order_type", "price")
    said = {name: str(order[name]) for name in names if order.get(name) is not None}
    return said | {"exchange": "NSE", "tradingsymbol": symbol}


def _row(row: SandboxGtt, token: int) -> dict[str, Any]:
    triggers = [float(value) for value in (row.lower_trigger, row.upper_trigger) if value is not None]
    return {
        "id": row.id,
        "user_id": client_id(row.account_id),
        "parent_trigger": None,
        "type": "two-leg" if row.two_legs else "single",
        "created_at": ist(row.placed_at),
        "updated_at": ist(row.updated_at),
        "expires_at": ist(row.expires_at),
        "status": row.status.value,
        "condition": {
            "exchange": row.exchange.upper(),
            "last_price": float(row.last_price),
            "tradingsymbol": row.symbol,
            "trigger_values": triggers,
            "instrument_token": token,
        },
        "orders": row.orders,
        "meta": {},
    }


# ---- firing


async def active_accounts(world: World) -> set[int]:
    """The accounts with a trigger that stands."""
    async with world.sessions() as session:
        active = SandboxGtt.status == GttStatus.ACTIVE
        return set((await session.scalars(select(SandboxGtt.account_id).where(active).distinct())).all())


async def active(world: World) -> Sequence[SandboxGtt]:
    async with world.sessions() as session:
        return (await session.scalars(select(SandboxGtt).where(SandboxGtt.status == GttStatus.ACTIVE))).all()


def leg_of(row: SandboxGtt, last: Decimal) -> int | None:
    """The number of the leg whose trigger the last price has come to; None: none."""
    if row.lower_trigger is not None and last <= row.lower_trigger:
        return 0
    if row.upper_trigger is not None and last >= row.upper_trigger:
        return 1 if row.two_legs else 0
    return None


async def fire(world: World, row: SandboxGtt, quote: Quote | None, now: datetime) -> bool:
    """End a trigger whose time is over, or place the order of the leg whose price has come: whoever gets it places it,
    once. Whether anything happened."""
    if row.expires_at <= now:
        return await _claim(world, row, GttStatus.EXPIRED, now)
    leg = None if quote is None else leg_of(row, quote.last)
    if leg is None or not await _claim(world, row, GttStatus.TRIGGERED, now):
        return False
    caller = Caller(world, "", "", row.account_id, row.user_id)
    order = row.orders[leg]
    result: dict[str, Any] = {"status": "success", "order_id": "", "rejection_reason": ""}
    try:
        asked, _ = await read_order(caller, _form(row.symbol, order))
        result["order_id"] = await place_order(caller, asked)
    except KiteError as error:
        result |= {"status": "failed", "rejection_reason": error.message}
    told = {"account_id": client_id(row.account_id), "order_result": result, "timestamp": ist(now)}
    names = ("exchange", "tradingsymbol", "transaction_type", "quantity", "product", "order_type", "price")
    kept = [dict(each) for each in row.orders]
    kept[leg]["result"] = (
        {name: order[name] for name in names} | told | {"triggered_at": float(quote.last) if quote else 0}
    )
    async with world.sessions.begin() as session:
        await session.execute(update(SandboxGtt).where(SandboxGtt.id == row.id).values(orders=kept))
    return True


async def _claim(world: World, row: SandboxGtt, status: GttStatus, now: datetime) -> bool:
    async with world.sessions.begin() as session:
        same = SandboxGtt.id == row.id, SandboxGtt.status == GttStatus.ACTIVE, SandboxGtt.updated_at == row.updated_at
        claimed = update(SandboxGtt).where(*same).values(status=status, updated_at=now).returning(SandboxGtt.id)
        return await session.scalar(claimed) is not None
