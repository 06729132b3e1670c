"""What the same money would have come to without a trader: the universe bought and held, and at equal weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR, Decimal

import numpy as np

from backend.backtest.report.panel import Panel
from backend.backtest.report.series import Floats, Ints
from backend.domain.charges import charges_for, dp_charge
from backend.domain.corporate_actions import RESCALING, ActionKind, CorporateAction, entitlement
from backend.domain.market import Exchange, Product, Side
from backend.domain.money import round_paise
from backend.domain.sizing import ENTRY_CHARGES_FRACTION

DRIFT_FRACTION = Decimal("0.20")
"""A holding this near to its equal weight is left alone at a rebalancing: nobody pays a charge to sell one share."""
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Baseline:
    """An account by session: rupees at each close; charges paid and orders in all; share of the money put in on the
    first day (whole shares leave a rest); rupees left over at the end."""

    close: Floats
    charges: Decimal
    orders: int
    invested: float
    cash: Decimal


def buy_and_hold(panel: Panel, capital: Decimal, cost: Decimal) -> Baseline:
    """Equal money in each member of the first day that traded, bought at its open, held to the end.

    `cost`: half the spread and the slippage of an order, a fraction of the price. Charges are those of each day; what
    is held is worth its last close, dividends and splits included.
    """
    return _Account(panel, capital, cost).run(frozenset({0}))


def equal_weight(panel: Panel, capital: Decimal, cost: Decimal) -> Baseline:
    """As `buy_and_hold`, brought back to equal weights over the members of the day at each month's first open."""
    months = [(day.year, day.month) for day in panel.days]
    return _Account(panel, capital, cost).run(
        frozenset(row for row, month in enumerate(months) if row == 0 or month != months[row - 1])
    )


class _Account:
    """Cash in rupees and whole shares per symbol, moved from session to session."""

    def __init__(self, panel: Panel, capital: Decimal, cost: Decimal) -> None:
        self.panel, self.cost, self.cash = panel, cost, capital
        self.shares: Ints = np.zeros(len(panel.symbols), dtype=np.int64)
        self.last: Ints = np.zeros(len(panel.symbols), dtype=np.int64)
        self.column: Mapping[str, int] = {symbol: place for place, symbol in enumerate(panel.symbols)}
        self.charges, self.orders = _ZERO, 0

    def run(self, rebalanced: frozenset[int]) -> Baseline:
        panel, capital = self.panel, self.cash
        close = np.zeros(len(panel.days))
        invested = 0.0
        for row in range(len(panel.days)):
            for action in panel.actions.get(row, ()):
                self._apply(action)
            if row in rebalanced:
                self._rebalance(row)
            self.last = np.where(panel.close[row] > 0, panel.close[row], self.last)
            close[row] = float(self.cash + self._value(self.last))
            if row == 0:
                invested = 1 - float(self.cash / capital)
        return Baseline(close, self.charges, self.orders, invested, self.cash)

    def _value(self, prices: Ints) -> Decimal:
        return Decimal(int((self.shares * prices).sum())) / 100

    def _apply(self, action: CorporateAction) -> None:
        place = self.column.get(action.symbol)
        if place is None or action.flagged:
            return
        if action.kind is ActionKind.RENAME:
            after = self.column.get(action.new_symbol)
            if after is not None and after != place:
                self.shares[after] += self.shares[place]
                self.last[after] = max(self.last[after], self.last[place])
                self.shares[place] = 0
            return
        # The baseline's own last close is at hand where the action does not tell one.
        told = replace(action, close_before=Decimal(int(self.last[place])) / 100)
        becomes = entitlement(told, int(self.shares[place]))
        self.shares[place] = becomes.shares
        self.cash += becomes.cash
        if action.kind in RESCALING:
            self.last[place] = self.last[place] * action.shares_before // action.shares_after

    def _rebalance(self, row: int) -> None:
        """Sell what is too much or no member any more, then buy what is too little, at the session's open."""
        prices = self.panel.open[row]
        trades = prices > 0
        wanted = np.flatnonzero(trades & self.panel.member[row])
        if not len(wanted):
            return
        stuck = self._value(np.where(trades, 0, self.last))
        budget = (self.cash + self._value(np.where(trades, prices, self.last)) - stuck) / len(wanted)
        members = set(wanted.tolist())
        buys: list[tuple[int, int]] = []
        for place in np.flatnonzero(trades & ((self.shares > 0) | self.panel.member[row])).tolist():
            more = self._target(budget, prices[place]) - int(self.shares[place]) if place in members else None
            if more is None:
                self._sell(row, place, int(self.shares[place]))
            elif abs(more) * Decimal(int(prices[place])) / 100 > DRIFT_FRACTION * budget or not self.shares[place]:
                if more < 0:
                    self._sell(row, place, -more)
                elif more > 0:
                    buys.append((place, more))
        for place, more in buys:
            self._buy(row, place, more)

    def _target(self, budget: Decimal, paise: int) -> int:
        price = self._price(paise, Side.BUY)
        return int((budget / (price * (1 + ENTRY_CHARGES_FRACTION))).to_integral_value(ROUND_FLOOR))

    def _price(self, paise: int, side: Side) -> Decimal:
        move = 1 + self.cost if side is Side.BUY else 1 - self.cost
        return round_paise(Decimal(int(paise)) / 100 * move)

    def _buy(self, row: int, place: int, shares: int) -> None:
        price = self._price(self.panel.open[row, place], Side.BUY)
        affordable = int((self.cash / (price * (1 + ENTRY_CHARGES_FRACTION))).to_integral_value(ROUND_FLOOR))
        self._trade(row, place, min(shares, affordable), price, Side.BUY)

    def _sell(self, row: int, place: int, shares: int) -> None:
        self._trade(row, place, shares, self._price(self.panel.open[row, place], Side.SELL), Side.SELL)

    def _trade(self, row: int, place: int, shares: int, price: Decimal, side: Side) -> None:
        if shares <= 0:
            return
        paid = charges_for(side, Product.CNC, Exchange.NSE, shares, price, on=self.panel.days[row]).total
        paid += dp_charge() if side is Side.SELL else _ZERO
        moved = shares if side is Side.BUY else -shares
        self.shares[place] += moved
        self.cash -= moved * price + paid
        self.charges += paid
        self.orders += 1
