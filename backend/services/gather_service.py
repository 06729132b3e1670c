"""Gathering what a cycle decides on: the market once for everybody, then each shard's users in one query."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any, cast

import structlog
from sqlalchemy import text

from backend.brokers.base import AccountSnapshot, BrokerError, BrokerUnavailableError, SessionExpiredError
from backend.domain.calendar import IST, Phase
from backend.domain.charges import round_trip_fraction
from backend.domain.decide import OpenTrade, UserState
from backend.domain.market import Product
from backend.domain.modes import Mode
from backend.domain.protections import DEFAULTS, Block, active_blocks
from backend.domain.ranking import MarketView, Signal
from backend.domain.reasons import Reason
from backend.domain.risk import QuoteView
from backend.errors import SaudaError
from backend.services.action_record_service import Scales, scales
from backend.services.context import Trading
from backend.services.market_calendar import EXCHANGE
from backend.services.ml_service_client import SignalBatch
from backend.services.protection_service import closed_trade, reach_starts, rules_of, session_days
from backend.services.trading_state_service import standings
from contracts.market import QuotesReply
from contracts.predictions import PredictionsReply

log = structlog.get_logger()

SNAPSHOTS_S_MAX = 15.0
"""For the reports of all of a shard's accounts at one broker; it counts as unavailable after that."""

STALE_BARS = "stale_bars"


@dataclass(frozen=True, slots=True)
class MarketInputs:
    """The market as one cycle saw it. `problems` says which batch did not come and why."""

    view: MarketView
    problems: Mapping[str, str] = field(default_factory=dict[str, str])
    quotes: QuotesReply | None = None
    predictions: PredictionsReply | None = None

    def stored(self) -> dict[str, Any]:
        """The inputs as the cycle's row keeps them."""
        return {
            "now": self.view.now.isoformat(),
            "quotes": self.quotes.model_dump(mode="json") if self.quotes else None,
            # What was not told stays untold: a default that is written down reads as something told.
            "predictions": self.predictions.model_dump(mode="json", exclude_unset=True) if self.predictions else None,
            "problems": dict(self.problems),
        }


_SYMBOLS = text("""
    SELECT unnest(symbols) AS symbol FROM auto_trade_settings WHERE enabled
    UNION SELECT symbol FROM auto_trades WHERE closed_at IS NULL AND status IN ('entering', 'open', 'exiting')
    ORDER BY symbol
""")
# What accounts hold besides, for what an account is worth: an unvalued holding would switch the day's loss limit off.
_HELD = text("SELECT DISTINCT symbol FROM ledger_balances WHERE ledger_account = 'positions' AND quantity <> 0")


async def gather_market(trading: Trading, now: datetime) -> MarketInputs:
    """One batch of quotes and one of predictions for every symbol anybody needs, side by side, outside a transaction.

    A batch that does not come leaves its part empty: exits need no prediction, and nothing is traded without a quote.
    """
    async with trading.sessions() as session:
        symbols = list((await session.scalars(_SYMBOLS)).all())
        held = (await session.scalars(_HELD)).all()
    if not symbols:
        return MarketInputs(market_view(trading, now, (), {}, {}, {}))
    quotes, predictions = await asyncio.gather(
        trading.market_data.quotes(sorted({*symbols, *(trading.market_data.instruments.keys() & held)}), now),
        trading.ml_service.predictions(symbols, now, trading.rules.horizon_sessions, trading.rules.environment),
        return_exceptions=True,
    )
    problems: dict[str, str] = {}
    for name, batch in (("quotes", quotes), ("predictions", predictions)):
        if isinstance(batch, SaudaError):
            problems[name] = batch.detail
            log.warning("gather_failed", batch=name, detail=batch.detail)
        elif isinstance(batch, Exception):
            # Exits need neither batch in full: whatever went wrong with one is that batch's problem.
            problems[name] = type(batch).__name__
            log.error("gather_crashed", batch=name, error=repr(batch))
        elif isinstance(batch, BaseException):
            raise batch
    signal_batch = up_to_date(predictions, trading, now) if isinstance(predictions, SignalBatch) else None
    quote_batch = None if isinstance(quotes, BaseException) else quotes
    view = market_view(
        trading,
        now,
        symbols,
        {symbol: quote.view for symbol, quote in quote_batch.quotes.items()} if quote_batch else {},
        signal_batch.signals if signal_batch else {},
        signal_batch.proposals if signal_batch else {},
    )
    return MarketInputs(
        view,
        problems,
        quote_batch.reply if quote_batch else None,
        signal_batch.reply if signal_batch else None,
    )


def up_to_date(predictions: SignalBatch, trading: Trading, now: datetime) -> SignalBatch:
    """The batch; abstaining where the last session it knows is not the one that the calendar says finished last."""
    finished, through = trading.calendar.last_finished(now), predictions.reply.features_through
    return predictions if finished is not None and through == finished else predictions.abstaining(STALE_BARS)


def market_view(
    trading: Trading,
    now: datetime,
    symbols: Iterable[str],
    quotes: Mapping[str, QuoteView],
    signals: Mapping[str, Signal],
    proposals: Mapping[str, Sequence[Signal]],
) -> MarketView:
    """The pure decision's view of the market, from the calendar and the two batches."""
    calendar = trading.calendar
    today = now.astimezone(IST).date()
    continuous: dict[str, bool] = {}
    square_off: dict[str, datetime] = {}
    for symbol in symbols:
        continuous[symbol] = calendar.phase(symbol, now) is Phase.CONTINUOUS
        at = calendar.square_off_at(symbol, today)
        if at is not None:
            square_off[symbol] = at
    horizon_ends: dict[int, date] = {}

    def horizon_end(sessions: int) -> date:
        if sessions not in horizon_ends:
            horizon_ends[sessions] = calendar.horizon_end(today, sessions)
        return horizon_ends[sessions]

    def charges(price: Decimal, quantity: int, product: Product) -> Decimal:
        return round_trip_fraction(price, quantity, product, EXCHANGE, on=today)

    return MarketView(
        now=now,
        today=today,
        continuous=continuous,
        square_off_at=square_off,
        signals=signals,
        quotes=quotes,
        exchange=EXCHANGE.value,
        horizon_end=horizon_end,
        round_trip_charges=charges,
        proposals=proposals,
    )


# One row per user: settings, limits, quota left, open trades and orders. Money travels in JSON as text: it stays exact.
# Lateral joins probe an index per user, whatever the planner believes of the tables' sizes.
_USERS = text("""
    SELECT s.user_id, s.enabled AND users.active AND coalesce(a.status = 'ready', true) AS enabled,
           s.mode, s.product, s.symbols, s.entries_per_day_max,
           a.id AS account_id, a.broker, p.symbols_max, coalesce(u.entries_used, 0) AS entries_used,
           CASE WHEN 'auto_trading' = ANY (p.features) THEN p.auto_trades_per_day ELSE 0 END AS auto_trades_per_day,
           s.protections, s.strategies, t.trades, o.orders, e.ended, c.closed,
           l.balance AS ledger_cash, d.equity_rupees AS day_equity,
           h.account_id IS NULL OR h.reconciled_at IS NOT NULL AS reconciled,
           CASE WHEN h.account_id IS NOT NULL THEN (
                SELECT sum(balance) FROM ledger_balances r
                 WHERE r.account_id = a.id AND r.ledger_account = 'reserved') END AS ledger_reserved
      FROM auto_trade_settings s
      JOIN users ON users.id = s.user_id
      LEFT JOIN broker_accounts a ON a.user_id = s.user_id AND a.is_primary
       -- a trade that slipped in as its account was switched off still gets its exits
       AND (a.status = 'ready' OR EXISTS (
            SELECT FROM auto_trades WHERE account_id = a.id AND closed_at IS NULL
               AND status IN ('entering', 'open', 'exiting')))
      LEFT JOIN broker_sessions h ON h.account_id = a.id
      LEFT JOIN subscriptions b ON b.user_id = s.user_id AND b.status IN ('trialing', 'active', 'past_due')
      JOIN plans p ON p.code = coalesce(b.plan_code, 'free')
      LEFT JOIN ledger_balances l ON l.account_id = a.id AND l.ledger_account = 'cash' AND l.symbol = ''
      LEFT JOIN day_equity d ON d.account_id = a.id AND d.trade_date = :today
      LEFT JOIN daily_usage u ON u.user_id = s.user_id AND u.trade_date = :today
      LEFT JOIN LATERAL (
           SELECT json_agg(json_build_object(
                      'id', id, 'symbol', symbol, 'status', status, 'product', product, 'strategy', strategy,
                      'held', entry_quantity - exit_quantity, 'target', target_price::text, 'stop', stop_price::text,
                      'cost', (entry_price * (entry_quantity - exit_quantity))::text,
                      'ends', horizon_ends_on, 'cluster', cluster) ORDER BY id) AS trades
             FROM auto_trades
            WHERE user_id = s.user_id AND closed_at IS NULL AND status IN ('entering', 'open', 'exiting')) t ON true
      LEFT JOIN LATERAL (
           SELECT json_agg(json_build_array(symbol, state) ORDER BY id) AS orders FROM orders
            WHERE user_id = s.user_id
              AND state IN ('pending', 'submitted', 'accepted', 'partially_filled', 'cancel_pending', 'unknown')) o
        ON true
      LEFT JOIN LATERAL (
           SELECT json_agg(json_build_array(symbol, status) ORDER BY id) AS ended FROM auto_trades
            WHERE user_id = s.user_id AND closed_at >= :day_start
              AND (status = 'closed'
                   OR EXISTS (SELECT 1 FROM orders o
                               WHERE o.auto_trade_id = auto_trades.id AND o.submitted_at IS NOT NULL))) e ON true
      -- as far back as the user's protections count, none of which counts for exits
      LEFT JOIN LATERAL (
           SELECT json_agg(json_build_array(symbol, closed_at, exit_reason, realized_pnl::text,
                                            (entry_price * entry_quantity)::text)) AS closed
             FROM auto_trades
            WHERE s.enabled AND user_id = s.user_id AND status = 'closed'
              AND closed_at >= (CAST(:reach_starts AS timestamptz[]))[1 + least(
                  cardinality(CAST(:reach_starts AS timestamptz[])) - 1,
                  greatest(:reach_default,
                           (SELECT max(coalesce((rule ->> 'lookback_sessions')::int - 1, 0)
                                       + (rule ->> 'pause_sessions')::int)
                              FROM jsonb_each(s.protections) AS r (name, rule))))]) c ON true
     WHERE mod(s.user_id, :shards) = :shard AND (s.enabled OR t.trades IS NOT NULL)
     ORDER BY s.user_id
""")


async def gather_users(trading: Trading, shard: int, shards: int, market: MarketView) -> list[UserState]:
    """Every user of a shard who trades or holds something: one query, then funds and holdings from the brokers."""
    day_start = datetime.combine(market.today, datetime.min.time(), tzinfo=IST)
    days = session_days(trading.calendar, market.today)
    parameters = {
        "today": market.today,
        "day_start": day_start,
        "shards": shards,
        "shard": shard,
        "reach_starts": reach_starts(days, market.today),
        "reach_default": DEFAULTS.reach_sessions,
    }
    async with trading.sessions() as session:
        rows = (await session.execute(_USERS, parameters)).all()
        standing = await standings(session)
        of_today = await scales(session, market.today)
    snapshots = await _snapshots(trading, rows)
    users = [_user_state(row, snapshots.get(row.account_id), market, days, of_today) for row in rows]
    return [replace(user, standings=standing) for user in users] if standing.rows else users


async def _snapshots(trading: Trading, rows: Sequence[Any]) -> Mapping[int, AccountSnapshot | BrokerError]:
    by_broker: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        if row.account_id is not None:
            by_broker[row.broker].append(row.account_id)
    names = [name for name in by_broker if name in trading.brokers]

    async def reported(name: str) -> Mapping[int, AccountSnapshot | BrokerError]:
        # One broker that hangs must not keep the users of the others from their exits.
        async with asyncio.timeout(SNAPSHOTS_S_MAX):
            return await trading.brokers[name].snapshots(by_broker[name])

    replies = await asyncio.gather(*(reported(name) for name in names), return_exceptions=True)
    merged: dict[int, AccountSnapshot | BrokerError] = {}
    for name, reply in zip(names, replies, strict=True):
        if isinstance(reply, BrokerError | TimeoutError):
            failed = BrokerUnavailableError(f"{name} did not report funds: {reply}")
            merged |= dict.fromkeys(by_broker[name], failed)
        elif isinstance(reply, BaseException):
            raise reply
        else:
            merged |= reply
    return merged


def _user_state(
    row: Any,
    snapshot: AccountSnapshot | BrokerError | None,
    market: MarketView,
    days: Sequence[date],
    of_today: Scales,
) -> UserState:
    trades = cast("list[dict[str, Any]]", row.trades or [])
    usable = isinstance(snapshot, AccountSnapshot)
    # Real brokers tell what is free and not what open orders hold back: that our own books know.
    unseen = usable and snapshot.cash == snapshot.cash_free
    cash = (snapshot.cash if usable else Decimal(0)) + ((row.ledger_reserved or 0) if unseen else 0)
    # Our own books hold back what is under way, the broker's what it has seen of it: the smaller figure is free.
    cash_free = min(snapshot.cash_free, row.ledger_cash or Decimal(0)) if usable else Decimal(0)
    holdings = snapshot.holdings if usable else {}
    invested = _value(holdings, market, trades)
    own_max = row.entries_per_day_max
    barred = _protections(row, cash, trades, market, days)
    unscaled = _unscaled(of_today, row.account_id, market)
    return UserState(
        user_id=row.user_id,
        account_id=row.account_id or 0,
        mode=Mode(row.mode),
        product=Product(row.product),
        symbols=frozenset(row.symbols),
        enabled=row.enabled,
        cash_free=cash_free,
        funds_total=cash + invested,
        funds_in_use=invested + (cash - cash_free),
        plan_entries_left=row.auto_trades_per_day - row.entries_used,
        own_entries_left=None if own_max is None else own_max - row.entries_used,
        entries_cap=row.auto_trades_per_day if own_max is None else min(row.auto_trades_per_day, own_max),
        holdings=holdings,
        open_trades=tuple(_open_trade(t) for t in trades if t["status"] in {"open", "entering"}),
        blocked=_beyond_plan(row)
        | _blocked(holdings, trades, row.orders or [], row.ended or [], barred)
        | dict.fromkeys(of_today.not_comparable, Reason.ACTION_TODAY)
        | unscaled,
        unscaled=unscaled,
        paused=next((block.rule for block in barred if block.symbol is None), None),
        unavailable=_unavailable(row, snapshot),
        broker=row.broker or "",
        day_equity=row.day_equity,
        strategies=frozenset(row.strategies),
    )


def _unavailable(row: Any, snapshot: AccountSnapshot | BrokerError | None) -> Reason | None:
    """Why nothing can be decided for an account now. One that has just been logged in is read in full first."""
    if isinstance(snapshot, SessionExpiredError):
        return Reason.BROKER_LOGIN_NEEDED
    if not isinstance(snapshot, AccountSnapshot):
        return Reason.BROKER_UNAVAILABLE
    return None if row.reconciled else Reason.BROKER_NOT_RECONCILED


def _beyond_plan(row: Any) -> dict[str, Reason]:
    """Symbols that the user's plan does not reach: the first of the settings count, for entries only."""
    reached = row.symbols_max if row.auto_trades_per_day else len(row.symbols)
    return dict.fromkeys(row.symbols[reached:], Reason.PLAN_SYMBOLS)


def _unscaled(of_today: Scales, account_id: int | None, market: MarketView) -> dict[str, Reason]:
    """Symbols in which nothing may be decided for an account now, and why."""
    unknown = {} if of_today.told else dict.fromkeys(market.continuous, Reason.ACTIONS_UNKNOWN)
    pending = (symbol for account, symbol in of_today.pending if account == account_id)
    return unknown | dict.fromkeys(pending, Reason.ACTION_PENDING)


def _value(holdings: Mapping[str, int], market: MarketView, trades: Sequence[dict[str, Any]]) -> Decimal:
    """Holdings in rupees at the last price; at the trade's stop, a cautious stand-in, where there is no quote now."""
    stops = {trade["symbol"]: Decimal(trade["stop"]) for trade in trades}
    total = Decimal(0)
    for symbol, shares in holdings.items():
        quote = market.quotes.get(symbol)
        total += shares * (quote.last if quote is not None else stops.get(symbol, Decimal(0)))
    return total


def _protections(
    row: Any, cash: Decimal, trades: Sequence[dict[str, Any]], market: MarketView, days: Sequence[date]
) -> tuple[Block, ...]:
    """What the user's closed trades bar today; funds are what is there at cost, so that no price moves them."""
    if not row.closed:
        return ()
    funds = cash + sum((Decimal(trade["cost"]) for trade in trades if trade["cost"]), Decimal(0))
    closed = map(closed_trade, row.closed)
    return active_blocks(rules_of(row.protections, row.user_id), closed, funds, market.today, days)


def _open_trade(trade: Mapping[str, Any]) -> OpenTrade:
    return OpenTrade(
        trade_id=trade["id"],
        symbol=trade["symbol"],
        product=Product(trade["product"]),
        strategy=trade["strategy"],
        held=trade["held"],
        target=Decimal(trade["target"]),
        stop=Decimal(trade["stop"]),
        horizon_ends_on=date.fromisoformat(trade["ends"]),
        entering=trade["status"] == "entering",
        cluster=trade["cluster"],
    )


def _blocked(
    holdings: Mapping[str, int],
    trades: Sequence[Mapping[str, Any]],
    orders: Sequence[Sequence[str]],
    ended: Sequence[Sequence[str]],
    barred: Sequence[Block],
) -> dict[str, Reason]:
    """Symbols this user may not enter now; the gravest reason wins."""
    blocked: dict[str, Reason] = {}
    for symbol, status in ended:
        blocked[symbol] = Reason.EXITED_TODAY if status == "closed" else Reason.ENTRY_FAILED_TODAY
    blocked |= {block.symbol: block.rule for block in reversed(barred) if block.symbol is not None}
    blocked |= dict.fromkeys((symbol for symbol, shares in holdings.items() if shares), Reason.ALREADY_HELD)
    blocked |= dict.fromkeys((trade["symbol"] for trade in trades), Reason.ALREADY_HELD)
    for symbol, state in orders:
        if blocked.get(symbol) is not Reason.ORDER_UNKNOWN:
            blocked[symbol] = Reason.ORDER_UNKNOWN if state == "unknown" else Reason.ORDER_OPEN
    return blocked
