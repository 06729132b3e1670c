"""What chance would have earned: the trader's entries at another time and in random shares, with its exits."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import numpy as np

from backend.backtest.report.panel import Adjusted, Flags, Panel
from backend.backtest.report.series import Floats, Ints
from backend.backtest.report.trades import entered, entry_day, entry_value, net_pnl, net_return
from backend.backtest.result import TradeRecord
from backend.domain.charges import dp_charge, rates_on
from backend.domain.market import Exchange, Product, Side

DRAWS = 200
_ENTRIES_AT_ONCE = 200_000
_PRODUCTS = (Product.CNC, Product.MIS)


@dataclass(frozen=True, slots=True)
class Plans:
    """Trades to imitate, one per row: target and stop as fractions of the entry price, last session counted from the
    entry's, rupees put in, and whether it was intraday."""

    target: Floats
    stop: Floats
    horizon: Ints
    value: Floats
    intraday: Ints


@dataclass(frozen=True, slots=True)
class RandomEntries:
    """One figure per draw (a whole portfolio): mean net return per trade and total net rupees; the trader's own, and
    how likely chance does at least as well: (1 + draws that did) / (1 + draws)."""

    mean_return: Floats
    total_rupees: Floats
    own_mean_return: float
    own_total_rupees: float
    p_mean_return: float
    p_total: float
    entries: int


def plans_of(trades: Sequence[TradeRecord], session_days: Sequence[date]) -> Plans:
    """The plans of the trades whose stop, entry and target stand in this order."""
    usable = [trade for trade in trades if trade.entry_price and trade.stop < trade.entry_price < trade.target]
    prices = [trade.entry_price or Decimal(1) for trade in usable]
    return Plans(
        np.array([float(t.target / p - 1) for t, p in zip(usable, prices, strict=True)]),
        np.array([float(1 - t.stop / p) for t, p in zip(usable, prices, strict=True)]),
        np.array([_horizon(trade, session_days) for trade in usable], dtype=np.int64),
        np.array([float(entry_value(trade)) for trade in usable]),
        np.array([int(trade.product is Product.MIS) for trade in usable], dtype=np.int64),
    )


def _horizon(trade: TradeRecord, session_days: Sequence[date]) -> int:
    """Sessions from the entry's to the horizon's last; weekdays where that lies after the last known session."""
    if trade.product is Product.MIS:
        return 0
    if not session_days or trade.horizon_ends_on > session_days[-1]:
        return max(int(np.busday_count(entry_day(trade), trade.horizon_ends_on)), 0)
    return max(bisect_left(session_days, trade.horizon_ends_on) - bisect_left(session_days, entry_day(trade)), 0)


def random_entries(
    trades: Sequence[TradeRecord],
    panel: Panel,
    prices: Adjusted,
    session_days: Sequence[date],
    cost: float,
    *,
    seed: int,
    draws: int = DRAWS,
) -> RandomEntries | None:
    """Draw whole portfolios of as many entries as the trader's, each at the open of its session in a random member
    share that traded then, with target, stop, horizon, product and size of one of its trades.

    A portfolio's sessions are the trader's own, all moved by one random number of sessions, round the end: entries that
    met one market together still do. Independent sessions would even that market out, and a trader whose entries come
    in bursts would look better than chance far too often.

    What is held at the end is worth its last close, as the trader's is. Funds are not asked for: a portfolio may hold
    more at once than the account had. None where the trader entered nothing or no share could be entered.
    """
    own = entered(trades)
    plans = plans_of(own, session_days)
    open_to = np.isfinite(prices.open) & panel.member
    if not len(plans.target) or not open_to.any():
        return None
    rng = np.random.default_rng(seed)
    shape = (draws, len(own))
    which = rng.integers(0, len(plans.target), shape)
    rows = _moved(own, panel.days, rng.integers(0, len(panel.days), draws))
    rows, columns = _shares(open_to, rows, rng.random(shape))
    returns, earned = np.empty(shape), np.empty(shape)
    at_once = max(_ENTRIES_AT_ONCE // len(own), 1)
    charges = ChargeTable(panel.days)
    for begun in range(0, draws, at_once):
        part = slice(begun, begun + at_once)
        plan = which[part].ravel()
        found = simulate(plans, plan, rows[part].ravel(), columns[part].ravel(), prices, charges, cost)
        returns[part] = found.reshape(-1, len(own))
        earned[part] = returns[part] * plans.value[which[part]]
    mean, total = returns.mean(axis=1), earned.sum(axis=1)
    own_mean = float(np.mean([net_return(trade) for trade in own]))
    own_total = float(sum((net_pnl(trade) for trade in own), Decimal(0)))
    return RandomEntries(mean, total, own_mean, own_total, _chance(mean, own_mean), _chance(total, own_total), len(own))


def _moved(own: Sequence[TradeRecord], days: Sequence[date], by: Ints) -> Ints:
    """The sessions of the trader's entries moved `by` so many, shape (draws, entries)."""
    rows = np.array([bisect_left(days, entry_day(trade)) for trade in own], dtype=np.int64)
    return (rows + by[:, None]) % len(days)


def _shares(open_to: Flags, rows: Ints, luck: Floats) -> tuple[Ints, Ints]:
    """One of the shares that could be entered in each session, by `luck` in 0..1; where there was none, in the next
    session that had one."""
    count = open_to.sum(axis=1)
    known = np.flatnonzero(count)
    rows = known[np.searchsorted(known, rows) % len(known)]
    columns = np.nonzero(open_to)[1]
    begins = np.concatenate(([0], np.cumsum(count)))
    return rows, columns[begins[rows] + (luck * count[rows]).astype(np.int64)]


def _chance(drawn: Floats, own: float) -> float:
    """P(chance does at least as well), one-sided, never 0 (Davison and Hinkley 1997, 4.11)."""
    return float((1 + (drawn >= own).sum()) / (1 + len(drawn)))


def simulate(
    plans: Plans, plan: Ints, row: Ints, column: Ints, prices: Adjusted, charges: "ChargeTable", cost: float
) -> Floats:
    """Net return of each entry, a fraction of its value: entered at the open of session `row` in share `column`.

    A stop fills at its price or at an open beyond it, a target likewise; the stop first where a bar holds both; else
    the close of the horizon's session, or, where the share did not trade then, the next open. What never trades again
    is never sold. Each side pays `cost`, charges are those of the day.
    """
    sessions = len(prices.open)
    bought = prices.open[row, column] * (1 + cost)
    stop, target = bought * (1 - plans.stop[plan]), bought * (1 + plans.target[plan])
    last = row + plans.horizon[plan]
    left, sold = np.full(len(row), sessions - 1), prices.held[sessions - 1, column]
    still = np.ones(len(row), dtype=np.bool_)
    active, session = np.arange(len(row)), 0
    while len(active):
        day = row[active] + session
        active, day = active[day < sessions], day[day < sessions]
        price = _left_at(prices, day, column[active], stop[active], target[active])
        # After its horizon it is left at once, at the open; a session without a trade has neither price.
        price = np.where(
            last[active] == day, np.where(np.isnan(price), prices.close[day, column[active]], price), price
        )
        price = np.where(last[active] < day, prices.open[day, column[active]], price)
        done = np.isfinite(price)
        left[active[done]], sold[active[done]], still[active[done]] = day[done], price[done] * (1 - cost), False
        active = active[~done]
        session += 1
    dividends = prices.dividends[left, column] - prices.dividends[row, column]
    value, intraday = plans.value[plan], plans.intraday[plan]
    ended = value * sold / bought
    paid = charges.of(Side.BUY, intraday, row, value) + np.where(still, 0, charges.of(Side.SELL, intraday, left, ended))
    return (sold + dividends) / bought - 1 - paid / value


def _left_at(prices: Adjusted, day: Ints, column: Ints, stop: Floats, target: Floats) -> Floats:
    """The price at which a session's bar leaves each position; NaN where it does not, or did not trade."""
    opened, high, low = prices.open[day, column], prices.high[day, column], prices.low[day, column]
    inside = np.where(low <= stop, np.fmin(stop, opened), np.where(high >= target, target, np.nan))
    return np.where(opened >= target, opened, inside)


class ChargeTable:
    """The charges of backend.domain.charges for many orders at once, in rupees as floats: for statistics only."""

    def __init__(self, days: Sequence[date], exchange: Exchange = Exchange.NSE) -> None:
        rates = [[rates_on(product, exchange, day) for day in days] for product in _PRODUCTS]
        self._brokerage = _table(rates, "brokerage")
        self._cap = _table(rates, "brokerage_rupees_max")
        self._stt = {Side.BUY: _table(rates, "stt_buy"), Side.SELL: _table(rates, "stt_sell")}
        self._fees = _table(rates, "exchange_transaction") + _table(rates, "sebi")
        self._stamp = _table(rates, "stamp_duty_buy")
        self._gst = _table(rates, "gst")
        self._dp = np.array([float(dp_charge()), 0.0])

    def of(self, side: Side, intraday: Ints, day: Ints, turnover: Floats) -> Floats:
        """Charges of orders of `turnover` rupees on the days of index `day`, the depository's included; `intraday` is 1
        for MIS."""
        at = (intraday, day)
        brokerage = np.minimum(turnover * self._brokerage[at], self._cap[at])
        taxed = brokerage + turnover * self._fees[at]
        flat = self._stamp[at] * turnover if side is Side.BUY else self._dp[intraday]
        return taxed * (1 + self._gst[at]) + turnover * self._stt[side][at] + flat


def _table(rates: Sequence[Sequence[object]], name: str) -> Floats:
    """One rate by (product, day)."""
    return np.array([[float(getattr(one, name)) for one in of_product] for of_product in rates])
