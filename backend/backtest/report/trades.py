"""What the trades came to, each and by group, and how sure one can be of their average."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.backtest.report.bootstrap import CLUSTERS_LEAST, Estimate, cluster_counts, estimate
from backend.backtest.report.metrics import finite
from backend.backtest.report.series import Floats
from backend.backtest.result import OrderRecord, TradeRecord, TraderResult
from backend.domain.calendar import IST
from backend.domain.decide import TradeStatus
from backend.domain.market import Side

CHARGE_KINDS = ("brokerage", "stt", "exchange_transaction", "sebi", "stamp_duty", "gst")
ZERO = Decimal(0)


def net_pnl(trade: TradeRecord) -> Decimal:
    """Rupees a trade earned after all charges, dividends and what is still held included."""
    return trade.realized_pnl + trade.unrealized_pnl + trade.dividends


def entry_value(trade: TradeRecord) -> Decimal:
    """Rupees put into a trade, charges apart."""
    return trade.entry_quantity * (trade.entry_price or ZERO)


def net_return(trade: TradeRecord) -> float:
    """Net P&L as a fraction of the entry value."""
    value = entry_value(trade)
    return float(net_pnl(trade) / value) if value > 0 else 0.0


def entered(trades: Iterable[TradeRecord]) -> list[TradeRecord]:
    """The trades that bought at least one share."""
    return [trade for trade in trades if trade.entry_quantity > 0 and trade.entry_price]


def closed(trades: Iterable[TradeRecord]) -> list[TradeRecord]:
    """The entered trades that are over."""
    return [trade for trade in entered(trades) if trade.status is TradeStatus.CLOSED]


def entry_day(trade: TradeRecord) -> date:
    """The IST day on which its first share was bought (or decided on, where that is not told)."""
    return (trade.opened_at or trade.decided_at).astimezone(IST).date()


def exit_day(trade: TradeRecord) -> date | None:
    return trade.closed_at.astimezone(IST).date() if trade.closed_at else None


def episodes(trades: Sequence[TradeRecord]) -> int:
    """How many separate stretches of the market the trades saw: one opens with an entry and takes in all entries up to
    that trade's horizon, of whatever share, as their outcomes overlap in time."""
    count, until = 0, date.min
    for day, ends_on in sorted((entry_day(trade), trade.horizon_ends_on) for trade in trades):
        if day > until:
            count, until = count + 1, max(day, ends_on)
    return count


@dataclass(frozen=True, slots=True)
class _Columns:
    pnl: Floats
    returns: Floats
    sessions: Floats

    def sums(self, cluster: npt.NDArray[np.intp], clusters: int) -> Floats:
        """Per cluster: trades, gains, losses, their sums in rupees, returns, all P&L, sessions held."""
        won, lost = (self.pnl > 0).astype(np.float64), (self.pnl <= 0).astype(np.float64)
        weights = (
            np.ones(len(self.pnl)), won, lost, self.pnl * won, -self.pnl * lost, self.returns, self.pnl, self.sessions,
        )  # fmt: skip
        return np.stack([np.bincount(cluster, weight, clusters).astype(np.float64) for weight in weights], axis=-1)


def _figures(sums: Floats) -> dict[str, Floats]:
    """Figures from sums over trades, shape (..., 8); NaN for one that does not exist."""
    count, wins, losses, gained, lost, returns, pnl, sessions = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "hit_rate": wins / count,
            "expectancy_rupees": pnl / count,
            "expectancy_return": returns / count,
            "profit_factor": np.where(lost > 0, gained / lost, np.nan),
            "payoff": np.where((wins > 0) & (lost > 0), (gained / wins) / (lost / losses), np.nan),
            "holding_sessions": sessions / count,
        }


TRADE_FIGURES = ("hit_rate", "expectancy_rupees", "expectancy_return", "profit_factor", "payoff", "holding_sessions")


def trade_estimates(trades: Sequence[TradeRecord], days: Sequence[date], *, seed: int) -> dict[str, Estimate]:
    """Figures of the closed `trades`, each with an interval that takes the entry days, not the trades, for independent:
    whole days are resampled, as trades of one day share one market (a cluster bootstrap).

    hit_rate: share with a net gain. expectancy: mean net P&L in rupees, and as a fraction of the entry value.
    profit_factor: gains / losses, both net, summed; None without a loss. payoff: mean gain / mean loss.
    holding_sessions: sessions from entry to exit, both counted.
    """
    if not trades:
        return {name: Estimate(None) for name in TRADE_FIGURES}
    held = [sessions_held(trade, days) for trade in trades]
    columns = _Columns(
        np.array([float(net_pnl(trade)) for trade in trades]),
        np.array([net_return(trade) for trade in trades]),
        np.array(held, dtype=np.float64),
    )
    _, cluster = np.unique([entry_day(trade).toordinal() for trade in trades], return_inverse=True)
    sums = columns.sums(cluster, int(cluster.max()) + 1)
    values = _figures(sums.sum(axis=0))
    if len(sums) < CLUSTERS_LEAST:
        return {name: Estimate(finite(value)) for name, value in values.items()}
    drawn = _figures(cluster_counts(len(sums), seed=seed) @ sums)
    return {name: estimate(value, drawn[name]) for name, value in values.items()}


def sessions_held(trade: TradeRecord, days: Sequence[date]) -> int:
    """Sessions from the entry's to the exit's, both counted; to the last one where it is still held."""
    if not days:
        return 0
    ends = exit_day(trade) or days[-1]
    return max(bisect_right(days, ends) - bisect_left(days, entry_day(trade)), 0)


def costs_by_kind(orders: Iterable[OrderRecord]) -> dict[str, Decimal]:
    """Rupees paid by kind of charge, the depository's as `dp`."""
    paid: dict[str, Decimal] = dict.fromkeys((*CHARGE_KINDS, "dp"), ZERO)
    for order in orders:
        paid["dp"] += order.dp_charge
        if order.charges is not None:
            for kind in CHARGE_KINDS:
                paid[kind] += getattr(order.charges, kind)
    return paid


def traded_value(orders: Iterable[OrderRecord]) -> dict[Side, Decimal]:
    """Rupees bought and sold."""
    found = {Side.BUY: ZERO, Side.SELL: ZERO}
    for order in orders:
        found[order.side] += sum((fill.quantity * fill.price for fill in order.fills), ZERO)
    return found


@dataclass(frozen=True, slots=True)
class Group:
    """Entered trades of one symbol, strategy or exit reason: how many, how many gained, rupees net and in charges."""

    name: str
    trades: int
    won: int
    pnl: Decimal
    charges: Decimal


def grouped(trades: Iterable[TradeRecord], name: Callable[[TradeRecord], str]) -> list[Group]:
    """The trades by `name`, most rupees first."""
    members: dict[str, list[TradeRecord]] = defaultdict(list)
    for trade in trades:
        members[name(trade)].append(trade)
    groups = [
        Group(
            key,
            len(of),
            sum(net_pnl(trade) > 0 for trade in of),
            sum((net_pnl(trade) for trade in of), ZERO),
            sum((trade.charges for trade in of), ZERO),
        )
        for key, of in members.items()
    ]
    return sorted(groups, key=lambda group: (-group.pnl, group.name))


def exit_name(trade: TradeRecord) -> str:
    """Why a trade was left, `open` where it was not."""
    if trade.exit_reason is not None and trade.status is TradeStatus.CLOSED:
        return trade.exit_reason.value
    return "open" if trade.status is not TradeStatus.CLOSED else "other"


def reconciliation(found: TraderResult) -> dict[str, Decimal]:
    """How the account's change of equity is made up, in rupees. `other`: what no trade explains (fractions of shares
    paid out at a split, charges of trades that are told elsewhere); a reader should see that it is next to nothing."""
    of = entered(found.trades)
    realized = sum((trade.realized_pnl for trade in of), ZERO)
    unrealized = sum((trade.unrealized_pnl for trade in of), ZERO)
    dividends = sum((trade.dividends for trade in of), ZERO)
    change = found.equity - found.trader.capital
    return {
        "realized": realized,
        "unrealized": unrealized,
        "dividends": dividends,
        "other": change - realized - unrealized - dividends,
        "change": change,
    }


def rupee_text(amount: Decimal) -> str:
    """Rupees on the wire: to the paisa, as a string."""
    return f"{amount:.2f}"


def groups_told(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """Groups as JSON-ready rows."""
    return [
        {"name": g.name, "trades": g.trades, "won": g.won, "pnl": rupee_text(g.pnl), "charges": rupee_text(g.charges)}
        for g in groups
    ]
