"""The end of a trading day: settle what is left, close ticks nobody ran, drop what is kept no longer."""

from datetime import date, datetime, timedelta
from decimal import Decimal

from sqlalchemy import delete, func, select, update

from backend.domain.calendar import IST
from backend.domain.decide import TradeStatus
from backend.models import AutoTrade, Cycle, Decision
from backend.services.context import Trading
from backend.services.cycle_service import mark_missed
from backend.services.reconcile_service import reconcile


async def end_of_day(trading: Trading, day: date, now: datetime) -> str:
    """Run once after the close of `day`; doing it again changes nothing. Returns the day's line for the console."""
    await reconcile(trading)
    missed = await mark_missed(trading.sessions, now)
    await _purge(trading, day - timedelta(days=trading.rules.decisions_kept_days))
    start = datetime.combine(day, datetime.min.time(), tzinfo=IST)
    async with trading.sessions() as session:
        opened = await session.scalar(select(func.count()).where(AutoTrade.opened_at >= start))
        closed, realized = (
            await session.execute(
                select(func.count(), func.coalesce(func.sum(AutoTrade.realized_pnl), 0)).where(
                    AutoTrade.status == TradeStatus.CLOSED, AutoTrade.closed_at >= start
                )
            )
        ).one()
        held = await session.scalar(select(func.count()).where(AutoTrade.status == TradeStatus.OPEN))
    line = (
        f"{day:%a %d %b %Y}  day over: {opened} trades opened, {closed} closed for ₹{Decimal(realized):,.2f} "
        f"after charges, {held} held overnight"
    )
    return line + (f", {missed} ticks missed" if missed else "")


async def _purge(trading: Trading, before: date) -> None:
    async with trading.sessions.begin() as session:
        old = select(Cycle.id).where(Cycle.trade_date < before)
        await session.execute(delete(Decision).where(Decision.cycle_id.in_(old)))
        await session.execute(
            update(Cycle).where(Cycle.trade_date < before, Cycle.inputs.is_not(None)).values(inputs=None)
        )
