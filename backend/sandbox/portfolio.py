"""Money and shares: margins, positions and their conversion, and holdings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select
from starlette.requests import Request

from backend.brokers.base import AccountSnapshot, BrokerError
from backend.brokers.paper_convert import convert_position
from backend.brokers.paper_ledger import CASH, balances
from backend.brokers.paper_positions import open_position
from backend.domain.calendar import IST, Calendar, YearNotRecorded
from backend.domain.market import Product, Side
from backend.errors import SaudaError
from backend.models.paper import PaperAction, PaperEntry, PaperPosition
from backend.sandbox.limits import Group
from backend.sandbox.orders import market_now, refused, share_of
from backend.sandbox.words import PRODUCTS, SIDES, KiteError, day_start, integer_of, on, one_of
from backend.sandbox.world import Caller, form_of, no_market
from contracts.market import Quote

ZERO = Decimal(0)
INTRADAY_LEVERAGE = Decimal(5)


# ---- funds


async def margins(caller: Caller, request: Request) -> Mapping[str, Any]:
    """GET /user/margins[/segment]. `cash` is the money of the day's start; `net` what is free now."""
    caller.count(Group.OTHER)
    segment = request.path_params.get("segment")
    if segment not in {None, "equity", "commodity"}:
        raise KiteError("InputException", "Invalid segment.")
    free = (await _snapshot(caller)).cash_free
    since = day_start(await market_now(caller))
    async with caller.world.sessions() as session:
        mine = PaperEntry.account_id == caller.account_id, PaperEntry.asset == CASH, PaperEntry.at < since
        opened = Decimal(await session.scalar(select(func.coalesce(func.sum(PaperEntry.amount), 0)).where(*mine)) or 0)
    both = {"equity": _segment(free, opened), "commodity": _segment(ZERO, ZERO)}
    return both if segment is None else both[segment]


async def _snapshot(caller: Caller) -> AccountSnapshot:
    await caller.world.broker.advance([caller.account_id])
    found = (await caller.world.broker.snapshots([caller.account_id]))[caller.account_id]
    if isinstance(found, BrokerError):
        raise KiteError("GeneralException", found.detail)
    return found


def _segment(free: Decimal, opened: Decimal) -> dict[str, Any]:
    debits = opened - free
    names = ("exposure", "m2m_realised", "m2m_unrealised", "option_premium", "payout", "span", "holding_sales")
    more = ("turnover", "liquid_collateral", "stock_collateral", "delivery")
    return {
        "enabled": True,
        "net": float(free),
        "available": {
            "adhoc_margin": 0,
            "cash": float(opened),
            "opening_balance": float(opened),
            "live_balance": float(free),
            "collateral": 0,
            "intraday_payin": float(max(-debits, ZERO)),
        },
        "utilised": {"debits": float(debits)} | dict.fromkeys((*names, *more), 0),
    }


# ---- positions


async def positions(caller: Caller, _: Request) -> Mapping[str, Any]:
    """GET /portfolio/positions: today's trades by share and product. Nothing is carried overnight in a position here:
    what is delivered is a holding the next day."""
    caller.count(Group.OTHER)
    rows = [row for row in await _days(caller) if row.day == (await today_of(caller))]
    quotes = await quotes_of(caller, {row.symbol for row in rows})
    tokens = (await caller.world.listed()).tokens
    shown = [_position(row, quotes.get(row.symbol), tokens.get(row.symbol, 0)) for row in rows]
    return {"net": shown, "day": shown}


def _position(row: PaperPosition, quote: Quote | None, token: int) -> dict[str, Any]:
    held = open_position([row])
    net_value = row.sell_value - row.buy_value
    last = quote.last if quote else ZERO
    pnl = net_value + held.quantity * last
    unrealised = held.quantity * last - held.cost
    bought, sold = _average(row.buy_value, row.buy_quantity), _average(row.sell_value, row.sell_quantity)
    sides = {
        f"{when}{side}_{what}": value
        for when in ("", "day_")
        for side, figures in (
            ("buy", (row.buy_quantity, bought, row.buy_value)),
            ("sell", (row.sell_quantity, sold, row.sell_value)),
        )
        for what, value in zip(("quantity", "price", "value"), map(float, figures), strict=True)
    }
    sides = {name: int(value) if name.endswith("quantity") else value for name, value in sides.items()}
    return {
        "tradingsymbol": row.symbol,
        "exchange": row.exchange.upper(),
        "instrument_token": token,
        "product": row.product.value.upper(),
        "quantity": held.quantity,
        "overnight_quantity": 0,
        "multiplier": 1,
        "average_price": float(held.cost / held.quantity) if held.quantity else 0,
        "close_price": 0,
        "last_price": float(last),
        "value": float(net_value),
        "pnl": float(pnl),
        "m2m": float(pnl),
        "unrealised": float(unrealised),
        "realised": float(pnl - unrealised),
        "buy_m2m": float(row.buy_value),
        "sell_m2m": float(row.sell_value),
        **sides,
    }


def _average(value: Decimal, quantity: int) -> Decimal:
    return round(value / quantity, 4) if quantity else ZERO


async def convert(caller: Caller, request: Request) -> bool:
    """PUT /portfolio/positions: move shares bought today between CNC and MIS."""
    caller.count(Group.OTHER)
    form = await form_of(request)
    instrument = await share_of(caller, form)
    old, new = one_of(form, "old_product", PRODUCTS), one_of(form, "new_product", PRODUCTS)
    side, quantity = one_of(form, "transaction_type", SIDES), integer_of(form, "quantity")
    await caller.world.broker.advance([caller.account_id])
    today = await today_of(caller)
    if old is new or side is not Side.BUY:
        raise KiteError("InputException", "The sandbox converts positions that were bought, between CNC and MIS.")
    try:
        await convert_position(
            caller.world.sessions, caller.account_id, instrument.symbol, today, quantity, old, new, INTRADAY_LEVERAGE
        )
    except BrokerError as error:
        raise refused(error) from None
    return True


async def today_of(caller: Caller) -> date:
    return (await market_now(caller)).astimezone(IST).date()


async def _days(caller: Caller) -> Sequence[PaperPosition]:
    await caller.world.broker.advance([caller.account_id])
    async with caller.world.sessions() as session:
        mine = PaperPosition.account_id == caller.account_id
        order = PaperPosition.day, PaperPosition.symbol, PaperPosition.product
        return (await session.scalars(select(PaperPosition).where(mine).order_by(*order))).all()


# ---- holdings


@dataclass(frozen=True, slots=True)
class Shares:
    """A share in the portfolio at the day's start: `waiting` are bought and not delivered yet; `sold` today."""

    opening: int
    waiting: int
    sold: int
    average_price: Decimal


async def holdings(caller: Caller, _: Request) -> Sequence[Mapping[str, Any]]:
    """GET /portfolio/holdings: what was bought before today, whether it is delivered already or not (T1)."""
    caller.count(Group.OTHER)
    today = await today_of(caller)
    rows = await _days(caller)
    async with caller.world.sessions() as session:
        held = (await balances(session, [caller.account_id])).get(caller.account_id, {})
        mine = PaperAction.account_id == caller.account_id
        actions = (await session.scalars(select(PaperAction).where(mine).order_by(PaperAction.at))).all()
    settled = {row.day: delivered_on(caller.world.calendar.calendar, row.day) for row in rows}
    found: dict[str, Shares] = {}
    for symbol in sorted(asset for asset in held if asset != CASH):
        of = [row for row in rows if row.symbol == symbol]
        shares = shares_of(int(held[symbol]), of, settled, today, [a for a in actions if a.action.startswith(symbol)])
        if shares.opening > 0:
            found[symbol] = shares
    quotes = await quotes_of(caller, set(found))
    listing = await caller.world.listed()
    return [
        _holding(
            symbol, shares, quotes.get(symbol), listing.tokens.get(symbol, 0), _isin(listing.by_symbol, symbol), today
        )
        for symbol, shares in found.items()
    ]


def delivered_on(calendar: Calendar, day: date) -> date:
    """When a day's trades are delivered; the next day where the calendar does not reach so far."""
    try:
        return calendar.settlement_day(day)
    except (YearNotRecorded, ValueError):
        return day + timedelta(days=1)


def _isin(listed: Mapping[str, Any], symbol: str) -> str:
    return (listed[symbol].isin or "") if symbol in listed else ""


def shares_of(
    balance: int,
    rows: Iterable[PaperPosition],
    settled: Mapping[date, date],
    today: date,
    actions: Iterable[PaperAction] = (),
) -> Shares:
    """One share's holding at the start of `today`, out of its days' trades in their order and the balance now.

    Args:
        settled: the day on which each day's trades are delivered.
        actions: splits and the like that changed the number of shares.
    """
    rescaled = sorted(((a.at.astimezone(IST).date(), a) for a in actions if a.shares_before), key=lambda pair: pair[0])
    quantity, cost, waiting = 0, ZERO, 0
    net_today = sold = 0
    for row in rows:
        while rescaled and rescaled[0][0] <= row.day:
            _, action = rescaled.pop(0)
            quantity = quantity * action.shares_after // action.shares_before
            waiting = waiting * action.shares_after // action.shares_before
        net = row.buy_quantity - row.sell_quantity
        if row.day == today:
            net_today += net
            sold += max(-net, 0) if row.product is Product.CNC else 0
            continue
        if net > 0:
            cost += open_position([row]).cost
            waiting += net if settled[row.day] > today else 0
        elif quantity:
            cost -= cost * min(-net, quantity) / quantity
        quantity = max(quantity + net, 0)
    for _, action in rescaled:
        quantity = quantity * action.shares_after // action.shares_before
    opening = max(balance - net_today, 0)
    average = round(cost / quantity, 4) if quantity else ZERO
    return Shares(opening, min(waiting, opening), min(sold, opening), average)


def _holding(symbol: str, shares: Shares, quote: Quote | None, token: int, isin: str, today: date) -> dict[str, Any]:
    last, close = (quote.last, quote.previous_close) if quote else (ZERO, ZERO)
    change = last - close
    settled = shares.opening - shares.waiting
    return {
        "tradingsymbol": symbol,
        "exchange": "NSE",
        "instrument_token": token,
        "isin": isin,
        "product": "CNC",
        "price": 0,
        "quantity": settled,
        "used_quantity": shares.sold,
        "t1_quantity": shares.waiting,
        "realised_quantity": settled,
        "authorised_quantity": 0,
        "authorised_date": on(today),
        "authorisation": {},
        "opening_quantity": shares.opening,
        "short_quantity": 0,
        "collateral_quantity": 0,
        "collateral_type": "",
        "discrepancy": False,
        "average_price": float(shares.average_price),
        "last_price": float(last),
        "close_price": float(close),
        "pnl": float((last - shares.average_price) * shares.opening),
        "day_change": float(change),
        "day_change_percentage": float(change / close * 100) if close else 0,
    }


async def quotes_of(caller: Caller, symbols: set[str]) -> Mapping[str, Quote]:
    """The market's quotes of those shares that have one. Raises KiteError."""
    known = sorted(symbols & set((await caller.world.listed()).by_symbol))
    if not known:
        return {}
    try:
        return (await caller.world.market_data.quotes(known, None)).reply.quotes
    except (SaudaError, TimeoutError) as error:
        raise no_market(error) from error
