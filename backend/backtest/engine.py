"""The trading cycle over history: the live decision, gate, order states and paper fills, in one process.

Each trader is walked through the sessions on their own, as users do not meet in the market here. Every look is one
cycle of live trading (see services/auto_trading_service.py): settle what rests → see the market → decide → record →
send → settle. Looks at which nothing can happen are left out (screen.py).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal

from backend.backtest.account import EXCHANGE, ZERO, Account, SimOrder
from backend.backtest.curve import curve_of, prices_of
from backend.backtest.desk import BROKER, USER, Desk
from backend.backtest.history import MarketHistory
from backend.backtest.market import Day, Kind, Look, Market
from backend.backtest.records import order_record, trade_record
from backend.backtest.result import BacktestResult, TraderResult
from backend.backtest.screen import Screen
from backend.backtest.signals import Segment, idle_counts, timeline
from backend.backtest.spec import Spec, Trader
from backend.domain.calendar import IST
from backend.domain.charges import round_trip_fraction
from backend.domain.corporate_actions import FLAGGED, RESCALING, CorporateAction, price_told
from backend.domain.day_loss import loss_limit_reached
from backend.domain.decide import TradeStatus, UserDecision, UserState, decide
from backend.domain.market import Product
from backend.domain.orders import Intent
from backend.domain.protections import Block, ClosedTrade, active_blocks
from backend.domain.ranking import MarketView, Ranking, rank
from backend.domain.reasons import Reason
from backend.domain.risk import QuoteView
from backend.domain.trading_states import Cause, Scope, Standing, Standings, TradingState, permits

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is being done)."""

ACCOUNT = 1
DAILY_REST_S = 1
NO_STANDINGS = Standings(())


def no_progress(_done: int, _total: int, _what: str) -> None:
    """Report nothing."""


def never() -> bool:
    """Go on to the end."""
    return False


def run(
    spec: Spec,
    history: MarketHistory,
    progress: Progress = no_progress,
    stopped: Callable[[], bool] = never,
    *,
    every_look: bool = False,
) -> BacktestResult:
    """Trade `history` as each trader of `spec` would have. Deterministic.

    Args:
        stopped: asked before each session in which something may happen; True ends the run there, and the result says
            that it was interrupted.
        every_look: decide also where the screen knows that nothing can happen: the same result, slower.
    """
    market = Market(history)
    total, results, interrupted = len(market.days) * len(spec.traders), [], False
    for number, trader in enumerate(spec.traders):
        simulation, day = Simulation(spec, market, trader, every_look=every_look), 0
        while day < len(market.days) and not interrupted:
            if interrupted := stopped():
                break
            simulation.trade(market.days[day])
            progress(number * len(market.days) + day, total, f"{trader.name}: {market.days[day].date}")
            day = simulation.next_day(day)
        results.append(simulation.result(day))
    progress(total, total, "done")
    return BacktestResult(
        spec=spec,
        environment=history.environment,
        provider=history.provider,
        sessions=len(market.days),
        bars=sum(len(share.history) for share in market.shares.values()),
        traders=tuple(results),
        prices=prices_of(history),
        benchmark=history.benchmark,
        idle=idle_counts(history.predictions),
        notes=history.notes,
        interrupted=interrupted,
    )


class Simulation:
    """One trader's way through the sessions."""

    def __init__(self, spec: Spec, market: Market, trader: Trader, *, every_look: bool = False) -> None:
        self._spec, self._market, self._trader, self._every_look = spec, market, trader, every_look
        history = market.history
        start = market.days[0].look(0).at if market.days else datetime.combine(spec.first, datetime.min.time(), IST)
        self.account = Account(trader.capital, start, spec.fills, spec.proceeds)
        self._desk = Desk(spec, market, self.account)
        self._signals = timeline(history, trader)
        self._screen = Screen(spec, trader, self.account, self._signals, market)
        self._session_days = list(history.session_days)
        self._number = {day: number for number, day in enumerate(self._session_days)}
        self._actions: dict[date, list[CorporateAction]] = {}
        for action in history.actions:
            # One whose ex-date has no session is felt on the next that there is.
            if (day := market.session_from(action.ex_date)) is not None:
                self._actions.setdefault(day, []).append(action)
        self._unknown: dict[str, Reason] = {}
        self._denied: set[tuple[date, str, Reason]] = set()
        self._standings = NO_STANDINGS
        self._day_equity: Decimal | None = None
        self._looked = -1

    def trade(self, day: Day) -> None:
        """One session, from its first look to its close."""
        self._begin(day)
        if self._market.daily:
            self._trade_daily(day)
        else:
            number = self._next(day, -1)
            while number is not None:
                self._cycle(day, day.look(number), number)
                number = self._next(day, number)
        self._finish(day)

    def next_day(self, after: int) -> int:
        """The number of the next session in which something may happen; that of sessions where none is left."""
        return after + 1 if self._every_look else self._screen.next_day(after)

    def _next(self, day: Day, after: int) -> int | None:
        if self._every_look:
            return after + 1 if after + 1 < len(day.seconds) else None
        return self._screen.next_look(day, after)

    def _trade_daily(self, day: Day) -> None:
        """A daily bar: the open, then what its range reaches, then what must be left before the close."""
        if self._every_look or self._screen.wants_open(day):
            self._cycle(day, day.look(0), 0)
        if (touched := self._screen.touches(day)) is not None:
            self._cycle(day, touched, 1)
        for look in self._screen.closes(day):
            self._cycle(day, look, 2)

    def _begin(self, day: Day) -> None:
        """A new day: yesterday's loss bars nothing, and shares are what the morning's actions made of them."""
        kept = tuple(row for row in self._standings.rows if row.cause is not Cause.DAILY_LOSS)
        self._standings = Standings(kept) if kept else NO_STANDINGS
        self._day_equity, self._looked = None, -1
        actions = self._actions.get(day.date)
        if actions and self.account.positions:
            at = datetime.combine(day.date, datetime.min.time(), tzinfo=IST)
            self.account.apply([self._with_close(day, action, actions) for action in actions], at)
            for action in actions:
                if action.kind in RESCALING and action.flagged and action.symbol in self.account.holdings:
                    self._unknown[action.symbol] = Reason.ACTION_PENDING

    def _with_close(self, day: Day, action: CorporateAction, actions: Sequence[CorporateAction]) -> CorporateAction:
        """The action with the close before it, on the scale that earlier actions of the morning left."""
        share = self._market.shares.get(action.symbol)
        row = -1 if share is None else share.first[day.number] - 1
        if share is None or row < 0:
            return action
        mine = (a for a in actions if a.symbol == action.symbol and not a.flagged)
        earlier = [a for a in mine if a.turn < action.turn]
        close = price_told(earlier, Decimal(share.close[row]) / 100)
        return CorporateAction(
            action.symbol,
            action.ex_date,
            action.kind,
            action.shares_before,
            action.shares_after,
            action.amount,
            action.new_symbol,
            close,
        )

    def _finish(self, day: Day) -> None:
        """The close: what rests meets the last bars and ends with its session."""
        account, look = self.account, day.close
        if account.resting:
            account.settle_cancels(look.at)
            self._desk.meet_bars(day, look)
            account.expire(look.at)

    def _settle(self, day: Day, look: Look) -> None:
        """What a reconciliation does: fills and cancels as the broker's book shows them; no order rests too long."""
        account = self.account
        if not account.resting:
            return
        account.settle_cancels(look.at)
        self._desk.meet_bars(day, look)
        standing = self._standings.effective(USER, None, BROKER)
        for order in list(account.resting):
            limit = self._spec.order_rest_s_max
            if order.intent.intent is Intent.EXIT:
                limit = min(limit, self._market.interval_s or DAILY_REST_S)
            elif self._market.daily:
                limit = DAILY_REST_S
            if (order.arrived or order.at) <= look.at - timedelta(seconds=limit):
                account.withdraw(order, "rested too long")
            elif not permits(standing, order.intent.intent):
                account.withdraw(order, f"trading is {standing.state.value}")
        if self._market.daily:  # hours lie between two looks at a daily bar
            account.settle_cancels(look.at)

    def _cycle(self, day: Day, look: Look, number: int) -> None:
        """One tick of live trading."""
        account = self.account
        self._settle(day, look)
        segment = self._signals.at(look.second, day.date)
        if look.kind in {Kind.TOUCH, Kind.CLOSE}:
            segment = segment.without_buys()  # on daily bars it enters at opens only
        if self._every_look:
            concerned = {trade.symbol for trade in account.live_trades}
        else:
            concerned = self._screen.may_end(day, look, segment)
        symbols = sorted(concerned | (segment.symbols & day.members))
        quotes = {symbol: quote for symbol in symbols if (quote := day.quote(symbol, look)) is not None}
        view = self._view(day, look, symbols, segment, quotes)
        worth = self._worth(day, look)
        self._watch_loss(day, look, number, worth)
        user = self._user(day, worth, segment)
        mode, limits = self._trader.mode, self._spec.limits
        ranking = rank(view, mode, limits, (self._trader.product,)) if segment.buys else Ranking(mode, (), {})
        decision = decide(view, ranking, user, limits)
        for outcome in decision.outcomes:
            if outcome.reason is not None:
                self._denied.add((day.date, outcome.symbol, outcome.reason))
        if decision.entries or decision.exits:
            self._send(day, look, quotes, self._record(decision, look.at))
        leaving = {trade.trade_id for trade in decision.entry_cancels}
        for order in [o for o in account.resting if o.trade.number in leaving and o.intent.intent is Intent.ENTRY]:
            account.withdraw(order, "the trade should be left before its entry has filled")
        if decision.entries or decision.exits:
            self._settle(day, look)

    def _view(
        self, day: Day, look: Look, symbols: Sequence[str], segment: Segment, quotes: Mapping[str, QuoteView]
    ) -> MarketView:
        today = day.date

        def charges(price: Decimal, quantity: int, product: Product) -> Decimal:
            return round_trip_fraction(price, quantity, product, EXCHANGE, on=today)

        return MarketView(
            now=look.at,
            today=today,
            continuous={symbol: day.continuous(symbol, look) for symbol in symbols},
            square_off_at={symbol: day.square_off_at(symbol) for symbol in symbols},
            signals=segment.said.signals,
            quotes=quotes,
            exchange=EXCHANGE.value,
            horizon_end=lambda sessions: self._horizon_end(today, sessions),
            round_trip_charges=charges,
            proposals=segment.said.proposals,
        )

    def _horizon_end(self, today: date, sessions: int) -> date:
        return self._session_days[min(self._number[today] + sessions, len(self._session_days) - 1)]

    def _user(self, day: Day, worth: Decimal, segment: Segment) -> UserState:
        """The trader, whose account is worth `worth` rupees, as services/gather_service.py would gather them."""
        account, trader, today = self.account, self._trader, day.date
        holdings, cash = account.holdings, account.cash
        invested = worth - cash
        free = min(account.broker_free(today), account.books_free(today))
        left = trader.entries_per_day_max - account.entries_used.get(today, 0)
        barred = self._protections(today) if segment.buys else ()
        return UserState(
            user_id=USER,
            account_id=ACCOUNT,
            mode=trader.mode,
            product=trader.product,
            symbols=day.members,
            enabled=True,
            cash_free=free,
            funds_total=worth,
            funds_in_use=invested + (cash - free),
            plan_entries_left=left,
            own_entries_left=None,
            entries_cap=trader.entries_per_day_max,
            holdings=holdings,
            open_trades=tuple(t.as_open() for t in account.live_trades if t.status is not TradeStatus.EXITING),
            blocked=self._blocked(today, holdings, barred) if segment.buys else {},
            unscaled=self._unknown,
            paused=next((block.rule for block in barred if block.symbol is None), None),
            broker=BROKER,
            standings=self._standings,
            day_equity=self._day_equity,
            strategies=trader.strategies,
        )

    def _blocked(self, today: date, holdings: Mapping[str, int], barred: Sequence[Block]) -> dict[str, Reason]:
        """Symbols that may not be entered now; the gravest reason wins."""
        account = self.account
        blocked = dict(account.left_on(today))
        blocked |= {block.symbol: block.rule for block in reversed(barred) if block.symbol is not None}
        blocked |= dict.fromkeys(holdings, Reason.ALREADY_HELD)
        blocked |= dict.fromkeys((trade.symbol for trade in account.live_trades), Reason.ALREADY_HELD)
        blocked |= dict.fromkeys((order.intent.symbol for order in account.resting), Reason.ORDER_OPEN)
        changed = (action.symbol for action in self._actions.get(today, ()) if action.kind in FLAGGED)
        return blocked | dict.fromkeys(changed, Reason.ACTION_TODAY) | self._unknown

    def _protections(self, today: date) -> tuple[Block, ...]:
        rules, number = self._trader.protections, self._number[today]
        since = self._session_days[max(number - rules.reach_sessions, 0)]
        closed: list[ClosedTrade] = []
        for trade in reversed(self.account.ended_trades):
            if trade.closed_at is None or trade.closed_at.date() < since:
                break
            if trade.status is TradeStatus.CLOSED and trade.summary is not None and trade.summary.entry_price:
                value = trade.summary.entry_price * trade.summary.entry_quantity
                closed.append(
                    ClosedTrade(trade.symbol, trade.closed_at, trade.exit_reason, trade.summary.realized_pnl, value)
                )
        if not closed:
            return ()
        costs = (
            t.summary.entry_price * t.held for t in self.account.live_trades if t.summary and t.summary.entry_price
        )
        return active_blocks(rules, closed, self.account.cash + sum(costs, ZERO), today, self._session_days)

    def _watch_loss(self, day: Day, look: Look, number: int, worth: Decimal) -> None:
        """Leave only exits once the day has cost too much; on daily bars all entries of a day come before any loss."""
        if self._market.daily:
            return
        if self._day_equity is None:
            self._day_equity = self._worth(day, day.look(0))
        lost = number > 0 and (self._lost_between(day, number) or self._is_lost(worth))
        self._looked = number
        if lost and not self._standings.rows:
            self._impose(TradingState.REDUCING, Cause.DAILY_LOSS, look.at)

    def _is_lost(self, worth: Decimal) -> bool:
        return loss_limit_reached(self._day_equity or ZERO, worth, self._spec.day_loss_fraction_max, 0)

    def _lost_between(self, day: Day, number: int) -> bool:
        """Whether the limit was reached at a look that was left out since the last one: nothing was traded there."""
        skipped = range(max(self._looked + 1, 1), number)
        holdings = self.account.holdings
        if not skipped or not holdings:
            return False
        values = sum(day.closes(symbol)[skipped.start : skipped.stop] * shares for symbol, shares in holdings.items())
        least = int(values.min())  # pyright: ignore[reportAttributeAccessIssue] - an array, as there are holdings
        return self._is_lost(self.account.cash + Decimal(least) / 100)

    def _worth(self, day: Day, look: Look) -> Decimal:
        """Cash and all shares at their last prices, rupees; at the trade's stop where a share never traded."""
        total = 0
        for symbol, shares in self.account.holdings.items():
            last = day.last(symbol, look)
            if last is None:
                stops = [trade.levels.stop for trade in self.account.live_trades if trade.symbol == symbol]
                last = int(stops[0] * 100) if stops else 0
            total += shares * last
        return self.account.cash + Decimal(total) / 100

    def _impose(self, state: TradingState, cause: Cause, at: datetime) -> None:
        row = Standing(Scope.USER, str(USER), state, False, cause, "", at, None)
        self._standings = Standings((*self._standings.rows, row))

    def _record(self, decision: UserDecision, at: datetime) -> list[SimOrder]:
        """The decision's orders as PENDING, exits first."""
        account, funds = self.account, decision.user.funds_total
        numbered = {trade.number: trade for trade in account.live_trades}
        orders: list[SimOrder] = []
        for planned in decision.exits:
            trade = numbered[planned.trade.trade_id]
            trade.status, trade.exit_reason = TradeStatus.EXITING, planned.reason
            orders.append(account.record(trade, planned.approved.order, at, planned.trade.strategy, funds))
        for entry in decision.entries:
            orders.append(account.enter(entry, self._trader.mode.value, at, funds))
        return orders

    def _send(self, day: Day, look: Look, quotes: Mapping[str, QuoteView], orders: Sequence[SimOrder]) -> None:
        for order, refused in self._desk.send(day, look, quotes, orders, self._standings):
            self._denied.add((day.date, order.intent.symbol, refused.reason))
            if refused.impose is not None:
                self._impose(*refused.impose, look.at)

    def result(self, sessions: int) -> TraderResult:
        """What came of it by the end of the first `sessions` sessions."""
        market, account = self._market, self.account
        days = market.days[:sessions]
        curve, equity = curve_of(market, days, account)
        counts = Counter(reason for _, _, reason in self._denied)
        return TraderResult(
            trader=self._trader,
            orders=tuple(order_record(order) for order in account.orders),
            trades=tuple(trade_record(trade, days) for trade in account.trades),
            curve=curve,
            denied=dict(counts),
            cash=account.cash,
            equity=equity,
        )
