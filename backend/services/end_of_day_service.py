"""The end of a trading day: settle what is left, close ticks nobody ran, drop what is kept no longer."""

from datetime import date, datetime, timedelta
from decimal import Decimal

import structlog
from sqlalchemy import Delete, Update, delete, func, null, select, tuple_, update
from sqlalchemy.exc import SQLAlchemyError

from backend.domain.calendar import IST
from backend.domain.decide import TradeStatus
from backend.models import AutoTrade, BrokerCall, Cycle, CycleShard, Decision, OutboxMessage
from backend.services.backtest_service import old_backtests
from backend.services.context import Trading
from backend.services.cycle_service import mark_missed
from backend.services.idempotency_service import expired_keys
from backend.services.reconcile_service import reconcile

log = structlog.get_logger()

PURGE_ROWS_MAX = 10_000
"""Rows of one purging transaction: its locks are held for moments, and what is done stays done."""


async def end_of_day(trading: Trading, day: date, now: datetime) -> str:
    """Run once after the close of `day`; doing it again changes nothing. Returns the day's line for the console."""
    await reconcile(trading)
    missed = await mark_missed(trading.sessions, now)
    try:
        await _purge(trading, day)
    except (SQLAlchemyError, OSError) as error:
        # Old rows harm nobody for a day: the next day's end tries again.
        log.warning("purge_failed", day=day.isoformat(), error=repr(error))
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


def _old_rows(day: date, kept: timedelta) -> tuple[Delete | Update, ...]:
    """One statement per table, each over at most PURGE_ROWS_MAX rows: to be run until it finds fewer."""
    old_cycles = select(Cycle.id).where(Cycle.trade_date < day - kept)
    decisions = select(Decision.cycle_id, Decision.user_id).where(Decision.cycle_id.in_(old_cycles))
    shards = select(CycleShard.cycle_id, CycleShard.shard).where(CycleShard.cycle_id.in_(old_cycles))
    inputs = old_cycles.where(Cycle.inputs.is_not(None))
    # Messages are dated by the database's clock, which need not be the market's.
    messages = select(OutboxMessage.id).where(OutboxMessage.delivered_at < func.clock_timestamp() - kept)
    calls = select(BrokerCall.id).where(BrokerCall.at < func.clock_timestamp() - timedelta(days=1))
    return (
        delete(Decision).where(tuple_(Decision.cycle_id, Decision.user_id).in_(decisions.limit(PURGE_ROWS_MAX))),
        delete(CycleShard).where(tuple_(CycleShard.cycle_id, CycleShard.shard).in_(shards.limit(PURGE_ROWS_MAX))),
        update(Cycle).where(Cycle.id.in_(inputs.limit(PURGE_ROWS_MAX))).values(inputs=null()),
        delete(OutboxMessage).where(OutboxMessage.id.in_(messages.limit(PURGE_ROWS_MAX))),
        delete(BrokerCall).where(BrokerCall.id.in_(calls.limit(PURGE_ROWS_MAX))),
        expired_keys(PURGE_ROWS_MAX),
    )


async def _purge(trading: Trading, day: date) -> None:
    rules = trading.rules
    backtests = old_backtests(rules.backtests_kept_days, rules.backtests_kept_per_user, PURGE_ROWS_MAX)
    for statement in (*_old_rows(day, timedelta(days=rules.decisions_kept_days)), *backtests):
        purged = PURGE_ROWS_MAX
        while purged == PURGE_ROWS_MAX:
            async with trading.sessions.begin() as session:
                purged = (await (await session.connection()).execute(statement)).rowcount
