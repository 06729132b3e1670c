"""A user's protections where the database meets the pure rules: settings and closed trades in, what is barred out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import structlog
from sqlalchemy import select

from backend.domain.calendar import IST
from backend.domain.decide import ExitReason, TradeStatus
from backend.domain.protections import DEFAULTS, Block, ClosedTrade, Protections, active_blocks, from_stored
from backend.models import AutoTrade, AutoTradeSettings, BrokerAccount
from backend.services.account_service import with_funds
from backend.services.context import Trading
from backend.services.market_calendar import MarketCalendar
from backend.services.trade_query_service import live_trades_of, midnight_before

log = structlog.get_logger()

DAYS_BEHIND = 100
DAYS_AHEAD = 45
"""Calendar days that hold the longest reach and the longest pause, whatever holidays fall into them."""


def session_days(calendar: MarketCalendar, today: date) -> list[date]:
    """The session days around `today` that a protection may count, ascending."""
    days = (today + timedelta(days=n) for n in range(-DAYS_BEHIND, DAYS_AHEAD))
    return [day for day in days if calendar.session(day) is not None]


def reach_starts(days: Sequence[date], today: date) -> list[datetime]:
    """The first instant of the present session's day, of the session's before it, and so on."""
    return [midnight_before(day) for day in reversed(days) if day <= today]


def rules_of(stored: Mapping[str, Any], user_id: int) -> Protections:
    """A user's protections as stored; the defaults, loudly, where nobody can read what is stored."""
    try:
        return from_stored(stored)
    except ValueError as error:
        log.error("protections_unreadable", user_id=user_id, error=str(error))
        return DEFAULTS


def closed_trade(row: Sequence[Any]) -> ClosedTrade:
    """A closed trade from a row of the shard's query: symbol, instant, exit reason, and rupees as text."""
    symbol, closed_at, exit_reason, realized_pnl, entry_value = row
    return ClosedTrade(
        symbol,
        datetime.fromisoformat(closed_at),
        ExitReason(exit_reason) if exit_reason else None,
        Decimal(realized_pnl),
        Decimal(entry_value),
    )


async def blocks_of(
    trading: Trading, settings: AutoTradeSettings, account: BrokerAccount | None, market_now: datetime
) -> tuple[Block, ...]:
    """What the user's protections bar now, as the next cycle will find it.

    While the broker does not say what the account holds, nothing is said of the drawdown: no cycle trades then either.
    """
    rules = rules_of(settings.protections, settings.user_id)
    today = market_now.astimezone(IST).date()
    days = session_days(trading.calendar, today)
    starts = reach_starts(days, today)
    if account is None or not starts:
        return ()
    since = starts[min(rules.reach_sessions, len(starts) - 1)]
    async with trading.sessions() as session:
        rows = await session.execute(
            select(
                AutoTrade.symbol,
                AutoTrade.closed_at,
                AutoTrade.exit_reason,
                AutoTrade.realized_pnl,
                AutoTrade.entry_price * AutoTrade.entry_quantity,
            ).where(
                AutoTrade.user_id == settings.user_id,
                AutoTrade.closed_at >= since,
                AutoTrade.status == TradeStatus.CLOSED,
            )
        )
        trades = [ClosedTrade(*row) for row in rows]
        live = await live_trades_of(session, settings.user_id)
    if not trades:
        return ()
    (funds,) = await with_funds(trading, [account])
    if funds.snapshot is None:
        return active_blocks(replace(rules, max_drawdown=None), trades, Decimal(0), today, days)
    return active_blocks(rules, trades, funds.snapshot.cash + _at_cost(live), today, days)


def _at_cost(trades: Iterable[AutoTrade]) -> Decimal:
    held = ((t.entry_quantity - t.exit_quantity, t.entry_price) for t in trades)
    return sum((quantity * price for quantity, price in held if price is not None), Decimal(0))
