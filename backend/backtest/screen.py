"""When something may happen: the loop decides only there, and everything in between is known to change nothing.

Whatever is asked here must be asked more generously than the decision asks it: a look too many costs time, one too few
would change a result. `run(..., every_look=True)` decides at every look; tests hold the two against each other.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import numpy as np
import numpy.typing as npt

from backend.backtest.account import Account, SimTrade
from backend.backtest.market import Day, Kind, Look, Market
from backend.backtest.signals import Segment, Timeline
from backend.backtest.spec import Spec, Trader
from backend.domain.corporate_actions import Levels
from backend.domain.decide import TradeStatus
from backend.domain.market import Product, Side, StockClass
from backend.domain.modes import MODE_RULES
from backend.domain.ranking import Signal
from backend.domain.sizing import FUNDS_IN_USE_FRACTION_MAX

SLACK = 1e-6
Mask = npt.NDArray[np.bool_]


def paise_up(price: Decimal) -> int:
    """The lowest whole paise not below a price in rupees."""
    return int((price * 100).to_integral_value(ROUND_CEILING))


def paise_down(price: Decimal) -> int:
    """The highest whole paise not above a price in rupees."""
    return int((price * 100).to_integral_value(ROUND_FLOOR))


def _next(numbers: Sequence[int], first: int, otherwise: int) -> int:
    """The first of ascending numbers that is not below `first`."""
    place = bisect_left(numbers, first)
    return numbers[place] if place < len(numbers) else otherwise


class Screen:
    """One trader's account against the market's columns."""

    def __init__(self, spec: Spec, trader: Trader, account: Account, signals: Timeline, market: Market) -> None:
        self._trader, self._account, self._signals, self._market = trader, account, signals, market
        self._drift = float(spec.limits.price_drift_fraction_max) + SLACK
        self._fraction = float(MODE_RULES[trader.mode].funds_fraction)
        self._days = [session.day for session in market.history.sessions]
        numbers = {day: number for number, day in enumerate(self._days)}
        self._with_buys = sorted({numbers[part.day] for part in signals.segments if part.buys and part.day in numbers})
        self._with_sells: dict[str, list[int]] = {}
        for part in signals.segments:
            for symbol in part.sells:
                self._with_sells.setdefault(symbol, []).append(numbers[part.day])
        self._with_actions: dict[str, list[int]] = {}
        for action in sorted(market.history.actions, key=lambda a: a.ex_date):
            number = bisect_left(self._days, action.ex_date)
            self._with_actions.setdefault(action.symbol, []).append(number)
        self._touched: dict[int, tuple[Levels, int, int]] = {}
        self._near_key, self._near_found = (-1, -1), list[SimTrade]()

    def next_day(self, after: int) -> int:
        """The first session after session number `after` in which something may happen; their number where none is."""
        soon, best = after + 1, _next(self._with_buys, after + 1, len(self._days))
        for trade in self._account.live_trades:
            if best == soon or not self._market.daily:
                return soon
            symbol, ends_on = trade.symbol, bisect_left(self._days, trade.planned.horizon_ends_on)
            best = min(
                best,
                max(soon, ends_on),
                self._touch(trade, soon),
                _next(self._with_sells.get(symbol, ()), soon, best),
                _next(self._with_actions.get(symbol, ()), soon, best),
            )
        return best

    def _touch(self, trade: SimTrade, soon: int) -> int:
        """The first session from number `soon` on whose range reaches the trade's stop or target."""
        known = self._touched.get(trade.number)
        if known is not None and known[0] is trade.levels and (known[1] >= soon > known[2] or known[1] == soon):
            return known[1]
        share = self._market.shares[trade.symbol]
        if soon >= len(self._days):
            return soon
        first = share.first[soon]
        low, high = share.history.low[first:], share.history.high[first:]
        hit = (low <= paise_up(trade.levels.stop)) | (high >= paise_down(trade.levels.target))
        row = first + int(hit.argmax()) if hit.any() else None
        session = len(self._days) if row is None else bisect_right(share.first, row) - 1
        self._touched[trade.number] = trade.levels, session, soon - 1
        return session

    def next_look(self, day: Day, after: int) -> int | None:
        """The first intraday look after look number `after` (-1: from the first on) at which something may happen."""
        first, end = after + 1, len(day.seconds)
        if first >= end:
            return None
        if self._account.resting or any(trade.status is not TradeStatus.OPEN for trade in self._account.live_trades):
            return first
        best = min((self._first_exit(day, trade, first) for trade in self._account.live_trades), default=end)
        for segment, begins, ends in self._segments(day, first):
            if begins >= best:
                break
            if segment.sells and any(trade.symbol in segment.sells for trade in self._account.live_trades):
                best = begins
                break
            best = min(best, self._first_entry(day, segment, begins, min(ends, best)))
        return best if best < end else None

    def _segments(self, day: Day, first: int) -> list[tuple[Segment, int, int]]:
        """The segments in force from look number `first` on, each with its looks: from, and before which."""
        looks = day.seconds
        here = int(looks[first])
        parts = [self._signals.at(here, day.date), *self._signals.after(here, day.date)]
        begins = [first, *(int(np.searchsorted(looks, part.start, side="left")) for part in parts[1:])]
        ends = [*begins[1:], len(looks)]
        return [(part, a, b) for part, a, b in zip(parts, begins, ends, strict=True) if a < b]

    def _first_exit(self, day: Day, trade: SimTrade, first: int) -> int:
        """The first look at which the trade's price, or the time, may end it; beyond the last where none does."""
        end, today = len(day.seconds), day.date
        ends_on = trade.planned.horizon_ends_on
        if today > ends_on:
            return first
        closes = day.closes(trade.symbol)[first:]
        hit = (closes <= paise_up(trade.levels.stop)) | (closes >= paise_down(trade.levels.target))
        best = first + int(hit.argmax()) if hit.any() else end
        if today == ends_on or trade.planned.approved.order.product is Product.MIS:
            late = int(np.searchsorted(day.seconds, int(day.square_off_at(trade.symbol).timestamp()), side="left"))
            best = min(best, max(late, first))
        return best

    def _first_entry(self, day: Day, segment: Segment, begins: int, ends: int) -> int:
        """The first look among begins..ends at which an entry may come through; `ends` where none does."""
        best = ends
        buys = self._unblocked(day, segment.buys)
        if not buys or begins >= ends:
            return best
        budget = self._budget(day, begins, ends)
        for signal in buys:
            closes = day.closes(signal.symbol)[begins:best]
            reference = float(signal.reference_close) * 100
            near = (np.abs(closes - reference) <= reference * self._drift) & (closes <= budget[: len(closes)])
            if near.any():
                best = begins + int(near.argmax())
        return best

    def _unblocked(self, day: Day, buys: Sequence[Signal]) -> list[Signal]:
        """Signals on which the account's own state allows an entry today."""
        account, today = self._account, day.date
        if not buys or account.entries_used.get(today, 0) >= self._trader.entries_per_day_max:
            return []
        busy = {trade.symbol for trade in account.live_trades}.union(account.holdings, account.left_on(today))
        return [signal for signal in buys if signal.symbol not in busy and signal.symbol in day.members]

    def _budget(self, day: Day, begins: int, ends: int) -> npt.NDArray[np.float64]:
        """The most an entry may cost at each look, in paise, as far as funds bound it (see sizing.budget_rupees)."""
        account = self._account
        free = float(min(account.broker_free(day.date), account.books_free(day.date)))
        cash, invested = float(account.cash), np.zeros(ends - begins)
        for symbol, shares in account.holdings.items():
            invested += day.closes(symbol)[begins:ends] * (shares / 100)
        total = cash + invested
        headroom = float(FUNDS_IN_USE_FRACTION_MAX) * total - invested - (cash - free)
        return (np.minimum(np.minimum(total * self._fraction, headroom), free) * (1 + SLACK) + SLACK) * 100

    def _near(self, number: int) -> list[SimTrade]:
        """Trades that session number `number` may end whatever the signals say: by its range, the time, or as they are
        not simply open."""
        key = number, self._account.changes
        if self._near_key != key:
            day = self._days[number]
            self._near_key, self._near_found = (
                key,
                [
                    trade
                    for trade in self._account.live_trades
                    if trade.status is not TradeStatus.OPEN
                    or day >= trade.planned.horizon_ends_on
                    or trade.planned.approved.order.product is Product.MIS
                    or not self._market.daily
                    or self._touch(trade, number) == number
                ],
            )
        return self._near_found

    def may_end(self, day: Day, look: Look, segment: Segment) -> set[str]:
        """Symbols of trades that a look may end, or whose entry still rests; the others' quotes decide nothing."""
        found: set[str] = set()
        for trade in self._near(day.number):
            ends_on, product = trade.planned.horizon_ends_on, trade.planned.approved.order.product
            if day.date >= ends_on or product is Product.MIS or trade.status is not TradeStatus.OPEN:
                found.add(trade.symbol)
                continue
            last = day.last(trade.symbol, look)
            if last is not None and not paise_up(trade.levels.stop) < last < paise_down(trade.levels.target):
                found.add(trade.symbol)
        if segment.sells:
            found |= {trade.symbol for trade in self._account.live_trades if trade.symbol in segment.sells}
        return found

    def wants_open(self, day: Day) -> bool:
        """Whether something may happen at the open of a daily bar."""
        look = day.look(0)
        segment = self._signals.at(look.second, day.date)
        if self.may_end(day, look, segment):
            return True
        buys = self._unblocked(day, segment.buys)
        budget = self._budget_at(day, look) if buys else 0.0
        for signal in buys:
            last, reference = day.last(signal.symbol, look), float(signal.reference_close) * 100
            if last is not None and last <= budget and abs(last - reference) <= reference * self._drift:
                return True
        return False

    def _budget_at(self, day: Day, look: Look) -> float:
        account = self._account
        free = float(min(account.broker_free(day.date), account.books_free(day.date)))
        cash = float(account.cash)
        held = ((day.last(symbol, look) or 0) * shares / 100 for symbol, shares in account.holdings.items())
        invested = sum(held)
        headroom = float(FUNDS_IN_USE_FRACTION_MAX) * (cash + invested) - invested - (cash - free)
        return (min((cash + invested) * self._fraction, headroom, free) * (1 + SLACK) + SLACK) * 100

    def touches(self, day: Day) -> Look | None:
        """The look at which the day's range reaches stops or targets of open trades; a bar that holds both reached the
        stop first, as nobody can tell."""
        touched: dict[str, int] = {}
        for trade in self._near(day.number):
            if trade.status is not TradeStatus.OPEN or self._touch(trade, day.number) != day.number:
                continue
            share = day.market.shares[trade.symbol]
            row = share.first[day.number]
            tick = share.facts(day.number, row).tick_paise
            low, high = int(share.history.low[row]), int(share.history.high[row])
            stop = paise_down(trade.levels.stop) // tick * tick
            target = -(-paise_up(trade.levels.target) // tick) * tick
            if low <= stop:
                touched[trade.symbol] = max(min(share.open[row], stop), low)
            elif high >= target:
                touched[trade.symbol] = min(max(share.open[row], target), high)
        if not touched:
            return None
        opens, closes = day.look(0).at, day.session.continuous_close(StockClass.CAS)
        at = opens + (closes - opens) / 2
        return Look(at, int(at.timestamp()), Kind.TOUCH, touched)

    def closes(self, day: Day) -> list[Look]:
        """The looks before the end of a daily bar's session, for what must be left by then or could not be left yet."""
        due = [
            trade
            for trade in self._near(day.number)
            if day.date >= trade.planned.horizon_ends_on
            or trade.planned.approved.order.product is Product.MIS
            or (trade.orders[-1].intent.side is Side.SELL and trade.orders[-1].at.date() == day.date)
        ]
        times = sorted({day.square_off_at(trade.symbol) for trade in due if day.traded(trade.symbol)})
        return [Look(at, int(at.timestamp()), Kind.CLOSE) for at in times]
