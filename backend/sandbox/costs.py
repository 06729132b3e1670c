"""What orders would cost: their margins, those of a basket, and the virtual contract note."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from starlette.requests import Request

from backend.domain.charges import Charges, charges_on_turnover, rates_on
from backend.domain.market import Exchange, Product, Side
from backend.sandbox.limits import Group
from backend.sandbox.orders import share_of
from backend.sandbox.portfolio import INTRADAY_LEVERAGE, ZERO, quotes_of, today_of
from backend.sandbox.words import PRODUCTS, SIDES, KiteError, decimal_of, integer_of, one_of
from backend.sandbox.world import Caller

BASKET_MAX = 100


async def order_margins(caller: Caller, request: Request) -> Sequence[Mapping[str, Any]]:
    """POST /margins/orders, of a JSON list: each order by itself."""
    caller.count(Group.OTHER)
    return [await _margin(caller, asked) for asked in await _asked(request)]


async def basket_margins(caller: Caller, request: Request) -> Mapping[str, Any]:
    """POST /margins/basket: the orders together; a sale of what the basket buys needs nothing more."""
    caller.count(Group.OTHER)
    asked = await _asked(request)
    each = [await _margin(caller, order) for order in asked]
    needed = defaultdict[str, float](float)
    for order, margin in zip(asked, each, strict=True):
        sign = 1 if order.get("transaction_type") == "BUY" else -1
        needed[str(order.get("tradingsymbol"))] += sign * margin["total"]
    total = sum(map(abs, needed.values()))
    both = {"initial": _summed(sum(m["total"] for m in each)), "final": _summed(total)}
    if request.query_params.get("mode") == "compact":
        return both | {"orders": []}
    return both | {"orders": each}


async def charges(caller: Caller, request: Request) -> Sequence[Mapping[str, Any]]:
    """POST /charges/orders: the virtual contract note of orders at their `average_price`."""
    caller.count(Group.OTHER)
    today = await today_of(caller)
    found: list[Mapping[str, Any]] = []
    for asked in await _asked(request):
        instrument, side, product, quantity = await _order(caller, asked)
        price = _number(asked, "average_price")
        if not price:
            raise KiteError("InputException", "Missing or empty field `average_price`")
        names = ("transaction_type", "exchange", "variety", "product", "order_type")
        said = {name: asked.get(name, "") for name in names} | {"tradingsymbol": instrument}
        note = _charges(_note(side, product, quantity * price, today))
        found.append(said | {"quantity": quantity, "price": float(price), "charges": note})
    return found


async def _asked(request: Request) -> list[dict[str, Any]]:
    try:
        asked = await request.json()
    except ValueError:
        asked = None
    if not isinstance(asked, list) or not asked or not all(isinstance(order, dict) for order in asked):
        raise KiteError("InputException", "A JSON list of orders is expected.")
    if len(asked) > BASKET_MAX:
        raise KiteError("InputException", f"At most {BASKET_MAX} orders are taken at once.")
    return asked


async def _order(caller: Caller, asked: Mapping[str, Any]) -> tuple[str, Side, Product, int]:
    form = {name: str(asked[name]) for name in ("transaction_type", "product", "quantity") if name in asked}
    if form.get("quantity", "").endswith(".0"):
        form["quantity"] = form["quantity"][:-2]
    instrument = await share_of(caller, asked)
    return (
        instrument.symbol,
        one_of(form, "transaction_type", SIDES),
        one_of(form, "product", PRODUCTS),
        integer_of(form, "quantity"),
    )


def _number(asked: Mapping[str, Any], name: str) -> Decimal:
    return decimal_of({name: str(asked.get(name) or 0)}, name)


async def _margin(caller: Caller, asked: Mapping[str, Any]) -> dict[str, Any]:
    symbol, side, product, quantity = await _order(caller, asked)
    price = _number(asked, "price")
    if not price:
        quotes = await quotes_of(caller, {symbol})
        if symbol not in quotes:
            raise KiteError("OrderException", f"No market in {symbol} now.")
        price = quotes[symbol].last
    leverage = INTRADAY_LEVERAGE if product is Product.MIS else Decimal(1)
    sells_holding = side is Side.SELL and product is Product.CNC
    needed = ZERO if sells_holding else quantity * price / leverage
    note = _charges(_note(side, product, quantity * price, await today_of(caller))) if quantity else {}
    return _summed(float(needed)) | {
        "type": "equity",
        "tradingsymbol": symbol,
        "exchange": "NSE",
        "var": float(needed),
        "leverage": int(leverage),
        "charges": note,
    }


def _summed(total: float) -> dict[str, Any]:
    none = dict.fromkeys(("span", "exposure", "option_premium", "additional", "bo", "cash", "var"), 0)
    pnl = {"realised": 0, "unrealised": 0}
    return {"type": "", "tradingsymbol": "", "exchange": "", **none, "pnl": pnl, "leverage": 0, "total": total}


def _note(side: Side, product: Product, turnover: Decimal, day: date) -> Charges:
    return charges_on_turnover(rates_on(product, Exchange.NSE, day), side, turnover)


def _charges(note: Charges) -> dict[str, Any]:
    return {
        "transaction_tax": float(note.stt),
        "transaction_tax_type": "stt",
        "exchange_turnover_charge": float(note.exchange_transaction),
        "sebi_turnover_charge": float(note.sebi),
        "brokerage": float(note.brokerage),
        "stamp_duty": float(note.stamp_duty),
        "gst": {"igst": float(note.gst), "cgst": 0, "sgst": 0, "total": float(note.gst)},
        "total": float(note.total),
    }
