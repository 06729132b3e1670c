"""Gathering a user's closed and open trades for their analytics."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.calendar import IST
from backend.domain.decide import TradeStatus
from backend.models import AutoTrade
from backend.services.analytics import Analytics, ClosedTrade, analyse
from backend.services.context import Trading
from backend.services.plan_service import midnight_after
from backend.services.trade_query_service import live_trades_of, midnight_before, unpriced, valued_trades

TRADES_MAX = 50_000


@dataclass(frozen=True, slots=True)
class UserAnalytics:
    """Closed trades of the period, and what is open now. `truncated`: older trades than TRADES_MAX were left out."""

    closed: Analytics
    truncated: bool
    open_trades: int
    unrealized: Decimal
    unpriced: tuple[str, ...]


async def analytics_of(trading: Trading, user_id: int, first: date | None, last: date | None) -> UserAnalytics:
    """The user's figures over trades closed on the IST days `first`..`last`, both inclusive; None is open-ended."""
    async with trading.sessions() as session:
        closed = await _closed_trades(session, user_id, first, last)
        live = await live_trades_of(session, user_id)
    valued = await valued_trades(trading, live)
    return UserAnalytics(
        closed=analyse(closed[:TRADES_MAX]),
        truncated=len(closed) > TRADES_MAX,
        open_trades=len(live),
        unrealized=sum((v.unrealized_pnl for v in valued if v.unrealized_pnl is not None), Decimal(0)),
        unpriced=unpriced(valued),
    )


async def _closed_trades(
    session: AsyncSession, user_id: int, first: date | None, last: date | None
) -> list[ClosedTrade]:
    query = select(
        AutoTrade.symbol,
        AutoTrade.mode,
        AutoTrade.strategy,
        AutoTrade.exit_reason,
        AutoTrade.confidence,
        AutoTrade.confidence_kind,
        (AutoTrade.entry_quantity * AutoTrade.entry_price).label("entry_value"),
        AutoTrade.realized_pnl,
        AutoTrade.charges,
        AutoTrade.closed_at,
        AutoTrade.dividends,
    ).where(AutoTrade.user_id == user_id, AutoTrade.status == TradeStatus.CLOSED, AutoTrade.closed_at.is_not(None))
    if first is not None:
        query = query.where(AutoTrade.closed_at >= midnight_before(first))
    if last is not None:
        query = query.where(AutoTrade.closed_at < midnight_after(last))
    rows = await session.execute(query.order_by(AutoTrade.closed_at.desc(), AutoTrade.id.desc()).limit(TRADES_MAX + 1))
    return [
        ClosedTrade(
            symbol=row.symbol,
            mode=row.mode.value,
            strategy=row.strategy,
            exit_reason=row.exit_reason.value if row.exit_reason else "unknown",
            confidence=row.confidence,
            confidence_kind=row.confidence_kind,
            entry_value=Decimal(row.entry_value or 0),
            realized_pnl=row.realized_pnl,
            charges=row.charges,
            closed_on=row.closed_at.astimezone(IST).date(),
            dividends=row.dividends,
        )
        for row in rows
        if row.closed_at is not None
    ]
