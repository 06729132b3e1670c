"""An account bar by bar, made again from its postings alone; and the closes a report draws."""

from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from backend.backtest.account import Account
from backend.backtest.history import Ints, MarketHistory
from backend.backtest.market import Day, Market
from backend.backtest.result import Curve, Floats, Prices
from backend.domain.corporate_actions import RESCALING

PAISE = 100


def curve_of(market: Market, days: Sequence[Day], account: Account) -> tuple[Curve, Decimal]:
    """The account's curve, and its exact equity at the end in rupees.

    Cash and shares are running sums of the postings up to each bar's end; shares count at the last close known there.
    """
    at = _instants(days)
    posted = np.array([int(p.at.timestamp()) for p in account.postings], dtype=np.int64)
    # As running sums of Decimals, so that no rounding adds up over thousands of postings.
    running, total = [], Decimal(0)
    for posting in account.postings:
        total += posting.cash
        running.append(float(total))
    place = np.searchsorted(posted, at, side="right") - 1
    cash = np.where(place >= 0, np.array(running)[np.maximum(place, 0)], 0.0)
    positions = np.zeros(len(at))
    for symbol in sorted({p.symbol for p in account.postings if p.shares}):
        own = [p for p in account.postings if p.symbol == symbol and p.shares]
        held = np.concatenate([[0], np.cumsum([p.shares for p in own])])
        when = np.array([int(p.at.timestamp()) for p in own], dtype=np.int64)
        shares = held[np.searchsorted(when, at, side="right")]
        positions += shares * _closes(market, symbol, at) / PAISE
    equity = account.cash
    for symbol, shares in account.holdings.items():
        last = days[-1].last(symbol, days[-1].close) if days else None
        equity += Decimal((last or 0) * shares) / PAISE
    return Curve(at, cash, positions, cash + positions), equity


def _instants(days: Sequence[Day]) -> Ints:
    """The start, then each bar's end: every intraday look and each close."""
    if not days:
        return np.zeros(0, dtype=np.int64)
    parts = [np.array([days[0].look(0).second])]
    for day in days:
        if not day.market.daily:
            parts.append(day.seconds)
        parts.append(np.array([day.close.second]))
    return np.concatenate(parts)


def _closes(market: Market, symbol: str, at: Ints) -> Floats:
    """The last close in paise known at each instant; a daily bar's counts for its session's close, however late the
    exchange makes it official."""
    share = market.shares[symbol]
    history = share.history
    rows = np.searchsorted(history.start if market.daily else history.end, at, side="right") - 1
    closes = np.where(rows >= 0, history.close[np.maximum(rows, 0)], 0).astype(np.float64)
    for second, factor in share.splits:
        stale = (at >= second) & (rows >= 0) & (history.end[np.maximum(rows, 0)] < second)
        closes[stale] *= factor
    return closes


def prices_of(history: MarketHistory) -> Prices:
    """Each session's last close of every share in rupees, on the scale of the last session."""
    symbols = tuple(sorted(history.shares))
    days = tuple(session.day for session in history.sessions)
    closes = np.full((len(days), len(symbols)), np.nan)
    ends = np.array([int(s.windows_non_cas[-1].end.timestamp()) for s in history.sessions], dtype=np.int64)
    starts = np.array([int(s.windows_non_cas[0].start.timestamp()) for s in history.sessions], dtype=np.int64)
    for column, symbol in enumerate(symbols):
        share = history.shares[symbol]
        rows = np.searchsorted(share.start, ends, side="right") - 1
        traded = (rows >= 0) & (share.start[np.maximum(rows, 0)] >= starts)
        closes[traded, column] = share.close[rows[traded]] / PAISE
    number = {symbol: column for column, symbol in enumerate(symbols)}
    for action in history.actions:
        if action.kind in RESCALING and not action.flagged and action.symbol in number:
            before = np.array([day < action.ex_date for day in days])
            closes[before, number[action.symbol]] *= action.shares_before / action.shares_after
    return Prices(days, symbols, closes)
