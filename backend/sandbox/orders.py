"""Orders: placing, changing and cancelling them, the day's book, an order's history, and executions."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import select
from starlette.requests import Request

from backend.brokers.base import BrokerError, OrderChange, OrderRejectedError, OrderRequest, OutcomeUnknownError
from backend.brokers.paper_ledger import any_id
from backend.domain.market import OrderType, Side, round_to_tick
from backend.errors import SaudaError
from backend.models.paper import PaperChange, PaperOrder, PaperTrade
from backend.sandbox.limits import MODIFICATIONS_MAX, Group
from backend.sandbox.words import (
    ORDER_TYPES,
    PRODUCTS,
    SIDES,
    VALIDITIES,
    KiteError,
    day_start,
    decimal_of,
    history_rows,
    integer_of,
    one_of,
    order_id,
    order_row,
    row_id,
    trade_row,
)
from backend.sandbox.world import Caller, form_of, no_market
from contracts.market import Instrument

TAG_LENGTH_MAX = 20
SLICES_MAX = 10
AUTO_PROTECTION = ((Decimal(100), Decimal(2)), (Decimal(500), Decimal(1)))
"""Kite's own protection (market_protection -1) in per cent of prices below; 0.5 above (Zerodha's support pages, from
memory)."""
AUTO_PROTECTION_ABOVE = Decimal("0.5")
TYPES = ORDER_TYPES | {"SL-M": OrderType.MARKET}


async def place(caller: Caller, request: Request) -> Mapping[str, Any]:
    """POST /orders/{variety}. Source: kite.trade/docs/connect/v3/orders."""
    caller.count(Group.ORDER)
    _require_regular(request)
    form = await form_of(request)
    order, instrument = await read_order(caller, form)
    if form.get("autoslice", "").lower() == "true" and order.quantity > instrument.freeze_quantity:
        return await _place_slices(caller, order, instrument.freeze_quantity)
    if order.quantity > instrument.freeze_quantity:
        raise KiteError("InputException", f"Quantity is above the freeze limit of {instrument.freeze_quantity}.")
    return {"order_id": await place_order(caller, order)}


async def place_order(caller: Caller, order: OrderRequest) -> str:
    """Place one order at the paper broker; its number at Kite. Raises KiteError."""
    try:
        number = int(await caller.world.broker.place(caller.account_id, order))
    except BrokerError as error:
        raise refused(error) from None
    async with caller.world.sessions() as session:
        placed_at = (await session.scalars(select(PaperOrder.placed_at).where(PaperOrder.id == number))).one()
    return order_id(number, placed_at)


async def _place_slices(caller: Caller, order: OrderRequest, most: int) -> Mapping[str, Any]:
    """Several orders below the freeze quantity: each is placed or refused by itself (mock autoslice_response.json)."""
    sizes = [most] * (order.quantity // most) + ([order.quantity % most] if order.quantity % most else [])
    if len(sizes) > SLICES_MAX:
        raise KiteError("InputException", f"An order is sliced into {SLICES_MAX} at most.")
    children: list[dict[str, Any]] = []
    for size in sizes:
        try:
            children.append({"order_id": await place_order(caller, _sized(order, size))})
        except KiteError as error:
            said = {"code": error.status, "error_type": error.error_type, "message": error.message, "data": None}
            children.append({"error": said})
    first = next((child["order_id"] for child in children if "order_id" in child), "")
    return {"order_id": first, "children": children}


def _sized(order: OrderRequest, quantity: int) -> OrderRequest:
    return OrderRequest(
        order.symbol,
        order.exchange,
        order.side,
        order.product,
        order.order_type,
        quantity,
        order.limit_price,
        order.tag,
        order.trigger_price,
        validity=order.validity,
        protection_percent=order.protection_percent,
        algo_id=order.algo_id,
    )


async def modify(caller: Caller, request: Request) -> Mapping[str, Any]:
    """PUT /orders/{variety}/{order_id}: what the form leaves out stays."""
    caller.count(Group.ORDER)
    _require_regular(request)
    kite_id, form = request.path_params["order_id"], await form_of(request)
    row = await own_order(caller, kite_id)
    if row.modifications >= MODIFICATIONS_MAX:
        raise KiteError("OrderException", "Maximum allowed order modifications exceeded.")
    kind = one_of(form, "order_type", ORDER_TYPES, default="SL" if row.order_type is OrderType.STOP_LIMIT else "LIMIT")
    limit, trigger = decimal_of(form, "price"), decimal_of(form, "trigger_price")
    if kind is OrderType.MARKET:
        instrument = (await caller.world.listed()).by_symbol[row.symbol]
        limit, kind = await collar(
            caller, instrument, row.side, _protection(form, await _last(caller, row.symbol)), None
        )
    change = OrderChange(
        order_type=kind,
        quantity=integer_of(form, "quantity") if form.get("quantity") else row.quantity,
        limit_price=limit or row.limit_price,
        trigger_price=(trigger or row.trigger_price) if kind is OrderType.STOP_LIMIT else None,
        validity=one_of(form, "validity", VALIDITIES, default=row.validity.value.upper()),
    )
    try:
        await caller.world.broker.modify(caller.account_id, str(row.id), change)
    except BrokerError as error:
        raise refused(error) from None
    return {"order_id": kite_id}


async def cancel(caller: Caller, request: Request) -> Mapping[str, Any]:
    """DELETE /orders/{variety}/{order_id}."""
    caller.count(Group.ORDER)
    _require_regular(request)
    kite_id = request.path_params["order_id"]
    await caller.world.broker.advance([caller.account_id])
    row = await own_order(caller, kite_id)
    if row.ended_at is not None:
        raise KiteError("OrderException", f"Order cannot be cancelled as it is {row.status.value}.")
    try:
        await caller.world.broker.cancel(caller.account_id, str(row.id))
    except BrokerError as error:
        raise refused(error) from None
    return {"order_id": kite_id}


async def book(caller: Caller, _: Request) -> Sequence[Mapping[str, Any]]:
    """GET /orders: the day's orders, oldest first."""
    caller.count(Group.OTHER)
    tokens = (await caller.world.listed()).tokens
    return [order_row(order, tokens.get(order.symbol, 0)) for order in await todays_orders(caller)]


async def history(caller: Caller, request: Request) -> Sequence[Mapping[str, Any]]:
    """GET /orders/{order_id}."""
    caller.count(Group.OTHER)
    await caller.world.broker.advance([caller.account_id])
    row = await own_order(caller, request.path_params["order_id"])
    async with caller.world.sessions() as session:
        of = PaperChange.order_id == row.id
        changes = (await session.scalars(select(PaperChange).where(of).order_by(PaperChange.id))).all()
    return history_rows(row, changes, await caller.world.token_of(row.symbol))


async def trades(caller: Caller, _: Request) -> Sequence[Mapping[str, Any]]:
    """GET /trades: the day's executions."""
    caller.count(Group.OTHER)
    return await _trade_rows(caller, await todays_orders(caller))


async def order_trades(caller: Caller, request: Request) -> Sequence[Mapping[str, Any]]:
    """GET /orders/{order_id}/trades."""
    caller.count(Group.OTHER)
    await caller.world.broker.advance([caller.account_id])
    return await _trade_rows(caller, [await own_order(caller, request.path_params["order_id"])])


async def _trade_rows(caller: Caller, orders: Sequence[PaperOrder]) -> list[Mapping[str, Any]]:
    by_id = {order.id: order for order in orders}
    tokens = (await caller.world.listed()).tokens
    async with caller.world.sessions() as session:
        of = PaperTrade.order_id == any_id(list(by_id))
        found = (await session.scalars(select(PaperTrade).where(of).order_by(PaperTrade.id))).all()
    rows = defaultdict[int, list[Mapping[str, Any]]](list)
    for trade in found:
        order = by_id[trade.order_id]
        rows[order.id].append(trade_row(trade, order, tokens.get(order.symbol, 0)))
    return [row for order in orders for row in rows[order.id]]


async def todays_orders(caller: Caller) -> Sequence[PaperOrder]:
    """The account's orders of the market's day, brought up to its present."""
    world = caller.world
    await world.broker.advance([caller.account_id])
    since = day_start(await market_now(caller))
    async with world.sessions() as session:
        mine = PaperOrder.account_id == caller.account_id, PaperOrder.placed_at >= since
        return (await session.scalars(select(PaperOrder).where(*mine).order_by(PaperOrder.id))).all()


async def own_order(caller: Caller, kite_id: str) -> PaperOrder:
    """An order of the caller's. Raises KiteError."""
    async with caller.world.sessions() as session:
        row = await session.get(PaperOrder, row_id(kite_id))
    if row is None or row.account_id != caller.account_id or order_id(row.id, row.placed_at) != kite_id:
        raise KiteError("OrderException", "Couldn't find that `order_id`.")
    return row


async def market_now(caller: Caller) -> datetime:
    try:
        return await caller.world.clock()
    except (SaudaError, TimeoutError) as error:
        raise no_market(error) from error


# ---- reading an order


async def read_order(caller: Caller, form: Mapping[str, str]) -> tuple[OrderRequest, Instrument]:
    """The order that a form asks for, and its share. Raises KiteError for what Kite's own checks refuse."""
    instrument = await share_of(caller, form)
    word = form.get("order_type", "")
    kind = one_of(form, "order_type", TYPES)
    side, quantity = one_of(form, "transaction_type", SIDES), integer_of(form, "quantity")
    limit, trigger = decimal_of(form, "price"), decimal_of(form, "trigger_price")
    tag = form.get("tag", "")
    if len(tag) > TAG_LENGTH_MAX:
        raise KiteError("InputException", f"Invalid `tag`. Tag can only be {TAG_LENGTH_MAX} characters long.")
    if word in {"SL", "SL-M"} and trigger <= 0:
        raise KiteError("InputException", "Missing or empty field `trigger_price`")
    if word in {"LIMIT", "SL"} and limit <= 0:
        raise KiteError("InputException", "Missing or empty field `price`")
    percent = None
    if kind is OrderType.MARKET:
        percent = _protection(form, trigger or await _last(caller, instrument.symbol))
        if word == "SL-M":
            limit, kind = await collar(caller, instrument, side, percent, trigger)
    order = OrderRequest(
        instrument.symbol,
        "nse",
        side,
        one_of(form, "product", PRODUCTS),
        kind,
        quantity,
        limit,
        tag,
        trigger if kind is OrderType.STOP_LIMIT else None,
        validity=one_of(form, "validity", VALIDITIES, default="DAY"),
        protection_percent=percent if kind is OrderType.MARKET else None,
        algo_id=form.get("algo_id", "")[:40],
    )
    return order, instrument


async def share_of(caller: Caller, form: Mapping[str, Any]) -> Instrument:
    """The share that a form or a JSON object names. Raises KiteError."""
    if form.get("exchange") != "NSE":
        raise KiteError("InputException", "The sandbox trades on the exchange NSE alone.")
    instrument = (await caller.world.listed()).by_symbol.get(str(form.get("tradingsymbol", "")))
    if instrument is None:
        raise KiteError("InputException", "There is no such instrument: it expired or never was.")
    return instrument


def _protection(form: Mapping[str, str], price: Decimal) -> Decimal:
    """Per cent from the last price. Kite takes no market order without since 2026-04 (kite.trade forum 15912)."""
    asked = decimal_of(form, "market_protection")
    if asked == -1:
        return next((percent for below, percent in AUTO_PROTECTION if price < below), AUTO_PROTECTION_ABOVE)
    if not 0 < asked <= 100:
        raise KiteError("InputException", "Market orders without market protection are not allowed via API.")
    return asked


async def collar(
    caller: Caller, instrument: Instrument, side: Side, percent: Decimal, trigger: Decimal | None
) -> tuple[Decimal, OrderType]:
    """The limit that protects a market order at once, or one that waits for its trigger; and its type then."""
    around = trigger or await _last(caller, instrument.symbol)
    away = around * percent / 100
    limit = around + away if side is Side.BUY else around - away
    tick = instrument.tick_size_rupees
    kind = OrderType.LIMIT if trigger is None else OrderType.STOP_LIMIT
    return round_to_tick(max(limit, tick), tick, side), kind


async def _last(caller: Caller, symbol: str) -> Decimal:
    try:
        quotes = (await caller.world.market_data.quotes([symbol], None)).reply.quotes
    except (SaudaError, TimeoutError) as error:
        raise no_market(error) from error
    if symbol not in quotes:
        raise KiteError("OrderException", f"No market in {symbol} now.")
    return quotes[symbol].last


def _require_regular(request: Request) -> None:
    if request.path_params["variety"] != "regular":
        raise KiteError("InputException", "The sandbox takes orders of the variety `regular` alone.")


def refused(error: BrokerError) -> KiteError:
    """The paper broker's refusal as Kite words it; what nobody knows is a NetworkException (504 at a gateway)."""
    words = error.detail
    if isinstance(error, OutcomeUnknownError):
        return KiteError("NetworkException", words)
    kinds = {"Insufficient funds": "MarginException", "Insufficient holdings": "HoldingException"}
    for start, kind in kinds.items():
        if words.startswith(start):
            return KiteError(kind, words)
    bad_input = isinstance(error, OrderRejectedError) and words.startswith(
        ("Price", "Quantity", "Trigger", "A stop order")
    )
    return KiteError("InputException" if bad_input else "OrderException", words)
