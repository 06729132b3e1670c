"""The end of a replay: what each mode traded and earned after charges, and why it did not trade more."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import select

from backend.domain.decide import TradeStatus
from backend.models import AutoTrade, BrokerAccount, Fill, Order, User
from backend.services.context import Trading


@dataclass(frozen=True, slots=True)
class TradeLine:
    """One trade: shares, rupees per share, rupees; unrealized is at the last quote, after entry charges."""

    mode: str
    symbol: str
    opened_at: datetime | None
    quantity: int
    entry_price: Decimal | None
    exit_price: Decimal | None
    exit_reason: str
    charges: Decimal
    realized: Decimal
    unrealized: Decimal


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a replay found. `problems` counts batches of quotes or predictions that did not come."""

    trades: tuple[TradeLine, ...]
    denied: Mapping[str, int]
    rejected: Mapping[str, int]
    problems: int
    ticks: int
    orders: tuple[Mapping[str, Any], ...] = ()
    cash: Mapping[str, str] | None = None


async def read_orders(trading: Trading) -> tuple[Mapping[str, Any], ...]:
    """Every order with its fills, oldest first, as JSON has them: rupees as text, instants with their offset."""
    async with trading.sessions() as session:
        rows = await session.execute(
            select(Order, User.email)
            .join(BrokerAccount, BrokerAccount.id == Order.account_id)
            .join(User, User.id == BrokerAccount.user_id)
            .order_by(Order.id)
        )
        orders = [(order, email.split("@")[0]) for order, email in rows]
        fills: dict[int, list[dict[str, Any]]] = {order.id: [] for order, _ in orders}
        for fill in await session.scalars(select(Fill).order_by(Fill.id)):
            one = {"at": fill.filled_at.isoformat(), "quantity": fill.quantity}
            fills[fill.order_id].append(one | {"price": str(fill.price), "charges": str(fill.charges)})
    return tuple(
        {
            "user": user,
            "at": order.decided_at.isoformat(),
            "symbol": order.symbol,
            "side": order.side.value,
            "quantity": order.quantity,
            "limit_price": str(order.limit_price),
            "state": order.state.value,
            "fills": fills[order.id],
        }
        for order, user in orders
    )


async def read_cash(trading: Trading) -> dict[str, str]:
    """Rupees of each user's account, as its broker has it."""
    async with trading.sessions() as session:
        rows = await session.execute(
            select(BrokerAccount.id, BrokerAccount.broker, User.email).join(User, User.id == BrokerAccount.user_id)
        )
        accounts = rows.all()
    found: dict[str, str] = {}
    for account_id, broker, email in accounts:
        snapshot = (await trading.brokers[broker].snapshots([account_id]))[account_id]
        found[email.split("@")[0]] = str(getattr(snapshot, "cash", ""))
    return found


def as_json(report: Report) -> dict[str, Any]:
    """The replay for other programs: rupees as text."""
    trades = [
        {
            "mode": line.mode,
            "symbol": line.symbol,
            "opened_at": line.opened_at.isoformat() if line.opened_at else None,
            "quantity": line.quantity,
            "entry_price": _text(line.entry_price),
            "exit_price": _text(line.exit_price),
            "exit_reason": line.exit_reason,
            "charges": str(line.charges),
            "realized_pnl": str(line.realized),
            "unrealized_pnl": str(line.unrealized),
        }
        for line in report.trades
    ]
    counts = {"ticks": report.ticks, "problems": report.problems}
    reasons = {"denied": dict(report.denied), "rejected": dict(report.rejected)}
    return counts | reasons | {"trades": trades, "orders": list(report.orders), "cash": dict(report.cash or {})}


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else str(amount)


async def read_trades(trading: Trading, now: datetime) -> tuple[TradeLine, ...]:
    """Read the trades out of the database and value the open ones at the last quotes."""
    async with trading.sessions() as session:
        trades = (await session.scalars(select(AutoTrade).order_by(AutoTrade.id))).all()
    held = sorted({trade.symbol for trade in trades if trade.status is TradeStatus.OPEN})
    quotes = (await trading.market_data.quotes(held, now)).quotes if held else {}
    lines = []
    for trade in trades:
        open_shares = trade.entry_quantity - trade.exit_quantity
        quote = quotes.get(trade.symbol)
        unrealized = Decimal(0)
        if trade.status is TradeStatus.OPEN and quote is not None and trade.entry_price is not None:
            unrealized = (quote.view.last - trade.entry_price) * open_shares - trade.charges
        lines.append(
            TradeLine(
                mode=trade.mode.value,
                symbol=trade.symbol,
                opened_at=trade.opened_at,
                quantity=trade.entry_quantity,
                entry_price=trade.entry_price,
                exit_price=trade.exit_price,
                exit_reason=trade.exit_reason.value if trade.exit_reason else trade.status.value,
                charges=trade.charges,
                realized=trade.realized_pnl,
                unrealized=unrealized,
            )
        )
    return tuple(lines)


def print_report(report: Report, console: Console) -> None:
    """Trades, totals per mode and denials, as tables."""
    table = Table(title="Trades")
    for heading in ("mode", "symbol", "opened", "shares", "entry ₹", "exit ₹", "exit", "charges ₹", "P&L ₹"):
        table.add_column(heading, justify="right" if "₹" in heading or heading == "shares" else "left")
    for line in report.trades:
        table.add_row(
            line.mode,
            line.symbol,
            f"{line.opened_at:%Y-%m-%d %H:%M}" if line.opened_at else "not filled",
            str(line.quantity),
            _money(line.entry_price),
            _money(line.exit_price),
            line.exit_reason,
            _money(line.charges),
            _money(line.realized + line.unrealized),
        )
    if report.trades:
        console.print(table)
    for mode in sorted({line.mode for line in report.trades}):
        own = [line for line in report.trades if line.mode == mode]
        realized = sum((line.realized for line in own), Decimal(0))
        unrealized = sum((line.unrealized for line in own), Decimal(0))
        charges = sum((line.charges for line in own), Decimal(0))
        console.print(
            f"{mode}: {len(own)} trades, realized ₹{_money(realized)}, unrealized ₹{_money(unrealized)}, "
            f"charges ₹{_money(charges)} (already taken off)",
            highlight=False,
        )
    console.print(f"{report.ticks} ticks, {len(report.trades)} trades", highlight=False)
    if report.denied:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(report.denied.items()))
        console.print(f"Candidates denied, by reason: {reasons}", highlight=False)
    if report.rejected:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(report.rejected.items()))
        console.print(f"Signals no mode took (symbol × mode × tick), by reason: {reasons}", highlight=False)
    if report.problems:
        console.print(f"[red]{report.problems} batches of quotes or predictions did not come[/]")


def _money(amount: Decimal | None) -> str:
    return "" if amount is None else f"{amount:,.2f}"
