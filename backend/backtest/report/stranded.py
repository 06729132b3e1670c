"""What an account still holds of shares that stopped trading: nobody could have sold it, and its price is a memory."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np

from backend.backtest.report import formats
from backend.backtest.report.trades import closed, entered, rupee_text
from backend.backtest.result import Prices, TraderResult

NAMED_MAX = 10


@dataclass(frozen=True, slots=True)
class Stranded:
    """Shares held at the end of a share that traded for the last time on `priced_on`, before the last session; rupees
    at its close of that day."""

    symbol: str
    shares: int
    value: Decimal
    priced_on: date

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "symbol": self.symbol,
            "shares": self.shares,
            "value": rupee_text(self.value),
            "priced_on": self.priced_on.isoformat(),
        }


def stranded_of(found: TraderResult, prices: Prices, days: Sequence[date]) -> list[Stranded]:
    """By symbol, what the account holds after its sessions `days` and could not have sold: there is no close of the
    share on the last of them or later. Empty where every share held was still traded."""
    if not days:
        return []
    over = {trade.number for trade in closed(found.trades)}
    held: Counter[str] = Counter()
    for trade in entered(found.trades):
        if trade.number not in over:
            held[trade.symbol] += trade.entry_quantity - trade.exit_quantity
    column = {symbol: place for place, symbol in enumerate(prices.symbols)}
    left: list[Stranded] = []
    for symbol, shares in sorted(held.items()):
        if shares <= 0 or symbol not in column:
            continue
        close = prices.close[:, column[symbol]]
        known = np.flatnonzero(np.isfinite(close))
        if len(known) and prices.days[known[-1]] < days[-1]:
            last = int(known[-1])
            value = shares * Decimal(str(round(float(close[last]), 2)))
            left.append(Stranded(symbol, shares, value, prices.days[last]))
    return left


def stranded_notes(traders: Sequence[Mapping[str, Any]]) -> list[str]:
    """A note on each such holding of the traders' summaries, the trader named where there are several."""
    notes: list[str] = []
    for one in traders:
        whose = f"{one['name']}: " if len(traders) > 1 else ""
        for held in one["stranded"][:NAMED_MAX]:
            what = f"{formats.count(held['shares'], 'share')} of {held['symbol']}"
            price = f"{formats.rupees(held['value'])} at its last price of {held['priced_on']}"
            notes.append(f"{whose}{what}, {price}, could not be sold: the share stopped trading.")
        more = len(one["stranded"]) - NAMED_MAX
        if more > 0:
            notes.append(f"{whose}{formats.count(more, 'share')} more stopped trading and could not be sold.")
    return notes
