"""Kite Connect 3's reports in Sauda's words: the day's book, portfolio, funds, charges and the list of instruments.

Sources: kite.trade/docs/connect/v3 (orders, portfolio, user, margins, market-quotes); zerodha/kiteconnect-mocks.
Every function raises MalformedError for a report that is malformed in any row that concerns it.
"""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from typing import Any, cast

from backend.brokers.adapter import Funds, Holding, Instrument, Position
from backend.brokers.kite_wire import EXCHANGES, PRODUCTS, SIDES
from backend.brokers.wire_fields import (
    Fields,
    MalformedError,
    fields,
    identifier,
    instant,
    message,
    one_of,
    price,
    rows,
    rupees,
    shares,
    text,
    words,
)
from backend.domain.calendar import IST
from backend.domain.charges import Charges
from backend.domain.reconcile import BookOrder, BookStatus, BookTrade

PRODUCT_OF = {word: product for product, word in PRODUCTS.items()}
SIDE_OF = {word: side for side, word in SIDES.items()}
EXCHANGE_OF = {word: exchange for exchange, word in EXCHANGES.items()}

STATUSES: Mapping[str, BookStatus] = {
    "PUT ORDER REQ RECEIVED": BookStatus.OPEN,
    "PUT ORDER REQUEST RECEIVED": BookStatus.OPEN,
    "AMO REQ RECEIVED": BookStatus.OPEN,
    "MODIFY AMO REQ RECEIVED": BookStatus.OPEN,
    "VALIDATION PENDING": BookStatus.OPEN,
    "OPEN PENDING": BookStatus.OPEN,
    "OPEN": BookStatus.OPEN,
    "TRIGGER PENDING": BookStatus.OPEN,
    "MODIFY VALIDATION PENDING": BookStatus.OPEN,
    "MODIFY PENDING": BookStatus.OPEN,
    "MODIFIED": BookStatus.OPEN,
    "CANCEL PENDING": BookStatus.OPEN,
    "COMPLETE": BookStatus.COMPLETE,
    "CANCELLED": BookStatus.CANCELLED,
    "CANCELLED AMO": BookStatus.CANCELLED,
    "REJECTED": BookStatus.REJECTED,
}
"""The documents' list and the mock order_info.json; those of after-market orders beside AMO REQ RECEIVED from memory.
An order that the exchange lets lapse at the end of the session is CANCELLED, too."""

PROTECTION_TAG = "mktp"
PAISA = Decimal("0.01")
ENDED = frozenset({BookStatus.CANCELLED, BookStatus.REJECTED})
MARKET_TYPES = frozenset({"MARKET", "SL-M"})
SERIES = re.compile(r"-(BE|BZ)$")
"""NSE's shares outside series EQ carry their series behind the symbol; these are the ones traded one by one. Others
(SM, ST, bonds) keep their whole name, as no symbol of theirs is free of it."""
INSTRUMENT_COLUMNS = frozenset(
    {"exchange_token", "tradingsymbol", "tick_size", "lot_size", "instrument_type", "segment", "exchange"}
)


def book_orders(orders: Any, trades: Any) -> list[BookOrder]:
    """The day's orders in cash equity with their executions, charges not computed yet.

    `trades` were read after `orders`: an execution whose order is not shown belongs to a later report. Orders in
    derivatives and of products that Sauda does not trade (MTF, cover orders) are left out.
    """
    ours = [row for row in rows(orders, "orders") if _concerns(row)]
    by_order: dict[str, dict[str, BookTrade]] = defaultdict(dict)
    for row in rows(trades, "trades"):
        if _concerns(row):
            order_id = identifier(row, "order_id")
            trade = _trade(row, order_id)
            by_order[order_id][trade.trade_id] = trade
    return [_order(row, by_order[identifier(row, "order_id")].values()) for row in ours]


def unknown_statuses(orders: Any) -> set[str]:
    """Words for a status that have no meaning here."""
    return {status for row in rows(orders, "orders") if (status := text(row, "status")) not in STATUSES}


def _concerns(row: Fields) -> bool:
    return text(row, "exchange") in EXCHANGE_OF and text(row, "product") in PRODUCT_OF


def _order(row: Fields, trades: Iterable[BookTrade]) -> BookOrder:
    executed = tuple(sorted(trades, key=lambda trade: (trade.traded_at, trade.trade_id)))
    status = STATUSES.get(text(row, "status"), BookStatus.UNKNOWN)
    shown = sum(trade.quantity for trade in executed)
    if status in ENDED and shown < shares(row, "filled_quantity", default=0):
        # Its last executions are not in the list of trades yet: it has not ended without them.
        status = BookStatus.OPEN
    at_market = text(row, "order_type") in MARKET_TYPES
    return BookOrder(
        broker_order_id=identifier(row, "order_id"),
        tag=_tag(row),
        symbol=symbol_of(text(row, "tradingsymbol"), text(row, "exchange")),
        exchange=one_of(row, "exchange", EXCHANGE_OF),
        side=one_of(row, "transaction_type", SIDE_OF),
        product=one_of(row, "product", PRODUCT_OF),
        quantity=shares(row, "quantity"),
        limit_price=None if at_market else rupees(row, "price"),
        placed_at=_placed_at(row),
        status=status,
        message=message(row, "status_message", "status_message_raw"),
        trades=executed,
    )


def _tag(row: Fields) -> str:
    """The tag it was placed with. Kite sets tags of its own beside it on protected orders: mktp, mktp:2.00 (forum
    comment 52371); where one of them stands in its place, it is looked for among the `tags`."""
    tags = row.get("tags")
    told = [row.get("tag"), *(cast("list[Any]", tags) if isinstance(tags, list) else [])]
    own = (words(tag) for tag in told if isinstance(tag, str) and tag and not tag.startswith(PROTECTION_TAG))
    return next(own, "")


def _placed_at(row: Fields) -> datetime:
    """The earliest instant it tells of: order_timestamp moves with each change and cancel (mock orders.json)."""
    told = [instant(row, "order_timestamp", IST)]
    if row.get("exchange_timestamp"):
        told.append(instant(row, "exchange_timestamp", IST))
    return min(told)


def _trade(row: Fields, order_id: str) -> BookTrade:
    """An execution. Its number counts per exchange, so that its order's stands before it; its order_timestamp may be a
    time of day alone and is not read."""
    when = "fill_timestamp" if row.get("fill_timestamp") else "exchange_timestamp"
    trade_id = f"{order_id}-{identifier(row, 'trade_id')}"
    quantity = shares(row, "quantity")
    if len(trade_id) > 40 or not quantity:
        raise MalformedError("a trade without a number or shares")
    return BookTrade(trade_id, quantity, price(row, "average_price"), Decimal(0), instant(row, when, IST))


def symbol_of(tradingsymbol: str, exchange: str) -> str:
    """Sauda's symbol of a share: without the series that NSE's others than EQ carry in their name at Kite."""
    return SERIES.sub("", tradingsymbol) if exchange == "NSE" else tradingsymbol


def positions_of(data: Any) -> list[Position]:
    """The net positions in cash equity that are not flat; those in other products and segments are left out."""
    net = rows(fields(data, "positions").get("net"), "net positions")
    found = [_position(row) for row in net if _concerns(row)]
    return [position for position in found if position.quantity]


def _position(row: Fields) -> Position:
    return Position(
        symbol=symbol_of(text(row, "tradingsymbol"), text(row, "exchange")),
        exchange=one_of(row, "exchange", EXCHANGE_OF),
        product=one_of(row, "product", PRODUCT_OF),
        quantity=shares(row, "quantity", short=True),
        average_price=rupees(row, "average_price"),
    )


def holdings_of(data: Any, positions: Sequence[Position]) -> list[Holding]:
    """What is held of last night's shares, less what is sold of them today.

    `opening_quantity` is what was carried over the night, t1_quantity the part of it that is not delivered yet (mock
    holdings.json: they add up). How `quantity` and `used_quantity` move with today's sales is said in two ways
    (documents: "net quantity (T+1 + realised)"; mocks: without T+1), so that the sales are taken from the positions,
    where what is sold out of the holdings is short in product CNC.
    """
    sold: dict[str, int] = defaultdict(int)
    for position in positions:
        if PRODUCTS[position.product] == "CNC":
            sold[position.symbol] -= position.quantity
    left = {symbol: max(0, quantity) for symbol, quantity in sold.items()}
    return [_holding(row, left) for row in rows(data, "holdings") if text(row, "exchange") in EXCHANGE_OF]


def _holding(row: Fields, sold: dict[str, int]) -> Holding:
    """One row; `sold` shares are taken from those delivered first, and counted down."""
    symbol = symbol_of(text(row, "tradingsymbol"), text(row, "exchange"))
    t1 = shares(row, "t1_quantity", default=0)
    carried = shares(row, "opening_quantity", default=shares(row, "quantity") + t1)
    taken = min(sold.get(symbol, 0), carried)
    sold[symbol] = sold.get(symbol, 0) - taken
    left = carried - taken
    waiting = min(t1, left)
    return Holding(
        symbol=symbol,
        exchange=one_of(row, "exchange", EXCHANGE_OF),
        isin=text(row, "isin", default=""),
        quantity=left - waiting,
        t1_quantity=waiting,
        average_price=rupees(row, "average_price"),
    )


def funds_of(data: Any) -> Funds:
    """The equity segment's money in rupees: the smaller of `net` and `available.live_balance`.

    `net` counts pledged shares (collateral) as money, `live_balance` does not; `available.cash` stands still over the
    day, as `utilised` grows. Kite does not tell what open orders hold back apart from what was bought, so that both
    figures are the same: `cash` is the account's whole money only while no order is open. Kite computes in binary
    floats; what is behind the paisa is their noise.
    """
    equity = fields(data, "margins")
    free = min(rupees(equity, "net"), rupees(fields(equity.get("available"), "available"), "live_balance"))
    free = free.quantize(PAISA, ROUND_DOWN)
    return Funds(cash=free, cash_free=free)


def charges_of(data: Any, asked: Sequence[BookOrder]) -> list[Charges]:
    """Each order's charges in the order asked for, as the virtual contract note has them: not rounded, GST in one."""
    told = rows(data, "charges")
    if [symbol_of(text(row, "tradingsymbol"), text(row, "exchange")) for row in told] != [o.symbol for o in asked]:
        raise MalformedError("the charges are not those of the orders asked for")
    return [_charges(fields(row.get("charges"), "charges")) for row in told]


def _charges(said: Fields) -> Charges:
    return Charges(
        brokerage=rupees(said, "brokerage"),
        stt=rupees(said, "transaction_tax"),
        exchange_transaction=rupees(said, "exchange_turnover_charge"),
        sebi=rupees(said, "sebi_turnover_charge"),
        stamp_duty=rupees(said, "stamp_duty"),
        gst=rupees(fields(said.get("gst"), "gst"), "total"),
    )


def instruments_of(content: bytes, exchange: str) -> dict[str, Instrument]:
    """An exchange's shares ("nse", "bse") by symbol, from its dump in CSV; `key` is Kite's trading symbol.

    Where a symbol is listed in several series, EQ stands for it. What has no tick or lot is not for trading.
    """
    try:
        listed = csv.DictReader(io.StringIO(content.decode(), newline=""), strict=True)
        if missing := INSTRUMENT_COLUMNS - set(listed.fieldnames or ()):
            raise MalformedError(f"the list of instruments has no {', '.join(sorted(missing))}")
        word = EXCHANGES[exchange]
        shares_only = [row for row in listed if row["segment"] == word and row["instrument_type"] == "EQ"]
        found = [_instrument(row, exchange) for row in shares_only]
    except (UnicodeDecodeError, csv.Error) as error:
        raise MalformedError("no list of instruments") from error
    tradable = [instrument for instrument in found if instrument.tick > 0 and instrument.lot > 0]
    by_series = sorted(tradable, key=lambda instrument: instrument.key != instrument.symbol, reverse=True)
    if not by_series:
        raise MalformedError("an empty list of instruments")
    return {instrument.symbol: instrument for instrument in by_series}


def _instrument(row: Mapping[str, str | None], exchange: str) -> Instrument:
    try:
        name, tick, lot = row["tradingsymbol"] or "", Decimal(row["tick_size"] or "0"), int(row["lot_size"] or "0")
    except (InvalidOperation, ValueError):
        raise MalformedError("an instrument's tick or lot is no number") from None
    if not name or len(name) > 64 or not tick.is_finite():
        raise MalformedError("an instrument without a name or tick")
    return Instrument(symbol_of(name, EXCHANGES[exchange]), exchange, name, tick, lot)
