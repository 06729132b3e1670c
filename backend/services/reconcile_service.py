"""Reconciliation: bringing live orders in line with the brokers' books, and clearing what was never sent."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import func, select

from backend.brokers.base import BrokerError
from backend.domain.orders import LIVE_STATES, OrderEventKind, OrderState
from backend.domain.reconcile import BookOrder, KnownOrder, settle
from backend.models import BrokerAccount, CycleShard, Fill, Order
from backend.services.context import Trading
from backend.services.cycle_service import fence
from backend.services.order_service import apply_event

log = structlog.get_logger()

_AT_BROKER = LIVE_STATES - {OrderState.PENDING}


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """Orders looked at and changed; `failed` accounts gave no report, and their orders were left alone."""

    orders: int = 0
    changed: int = 0
    abandoned: int = 0
    failed_accounts: tuple[int, ...] = ()


async def reconcile(trading: Trading) -> ReconcileReport:
    """One pass over every live order. Applying it twice changes nothing.

    Raises:
        SQLAlchemyError, OSError: the database did not answer; trading must wait for a pass that succeeds.
    """
    market_now = await trading.clock()
    abandoned = await _abandon_unsent(trading, market_now)
    live = await _live_orders(trading)
    changed, failed = 0, []
    for broker_name, orders in live.items():
        broker = trading.brokers.get(broker_name)
        if broker is None:
            failed.extend(sorted({order.account_id for order in orders}))
            continue
        accounts = sorted({order.account_id for order in orders})
        # A day's margin: a book is asked from before the oldest decision that is still open.
        since = min(order.decided_at for order in orders) - timedelta(days=1)
        books = await broker.books(accounts, since)
        for order in orders:
            book = books[order.account_id]
            if isinstance(book, BrokerError):
                failed.append(order.account_id)
                continue
            changed += await _settle_order(trading, order.id, book, broker.absence_is_proof_after_s, market_now)
        await _cancel_overdue(trading, broker_name, [o.id for o in orders], market_now)
    report = ReconcileReport(sum(map(len, live.values())), changed, abandoned, tuple(sorted(set(failed))))
    if report.changed or report.abandoned or report.failed_accounts:
        log.info("reconciled", changed=changed, abandoned=abandoned, failed=len(report.failed_accounts))
    return report


async def _live_orders(trading: Trading) -> Mapping[str, Sequence[Order]]:
    async with trading.sessions() as session:
        rows = await session.execute(
            select(BrokerAccount.broker, Order)
            .join(Order, Order.account_id == BrokerAccount.id)
            .where(Order.state.in_(_AT_BROKER))
            .order_by(Order.id)
        )
        by_broker: dict[str, list[Order]] = defaultdict(list)
        for broker, order in rows:
            by_broker[broker].append(order)
    return by_broker


async def _settle_order(
    trading: Trading, order_id: int, book: Sequence[BookOrder], absence_s: float | None, market_now: datetime
) -> bool:
    """Apply what the book says of one order, in one transaction. Returns whether anything was new."""
    async with trading.sessions.begin() as session:
        order, age_s = (
            await session.execute(
                select(Order, func.extract("epoch", func.clock_timestamp() - Order.submitted_at))
                .where(Order.id == order_id)
                .with_for_update()
            )
        ).one()
        known = frozenset(await session.scalars(select(Fill.trade_id).where(Fill.order_id == order_id)))
        shown = [entry for entry in book if entry.tag == order.client_order_id]
        if len(shown) > 1:
            log.error("doubled_at_broker", order=order_id, broker_orders=[entry.broker_order_id for entry in shown])
        settlement = settle(
            KnownOrder(
                order.state, order.quantity, order.client_order_id, known, order.filled_quantity, float(age_s or 0)
            ),
            shown,
            absence_s,
        )
        if settlement.broker_order_id is not None:
            order.broker_order_id = settlement.broker_order_id
        for step in settlement.steps:
            at = step.trade.traded_at if step.trade is not None else market_now
            await apply_event(session, order, step.event, step.detail, at, step.trade)
        return bool(settlement.steps)


async def _abandon_unsent(trading: Trading, market_now: datetime) -> int:
    """Drop orders that were recorded and never sent, after taking the right to send from their shard's last holder.

    The shard is locked before its orders, as a sender does it: two orders of locking would be a deadlock.
    """
    async with trading.sessions.begin() as session:
        of_shard = (CycleShard.cycle_id == Order.cycle_id) & (CycleShard.shard == Order.shard)
        lapsed = CycleShard.done | (CycleShard.claimed_until < func.clock_timestamp())
        shards = (
            await session.execute(
                select(Order.cycle_id, Order.shard)
                .join(CycleShard, of_shard)
                .where(Order.state == OrderState.PENDING, lapsed)
                .distinct()
                .order_by(Order.cycle_id, Order.shard)
            )
        ).all()
        abandoned = 0
        for cycle_id, shard in shards:
            await fence(session, cycle_id, shard)
            unsent = await session.scalars(
                select(Order)
                .where(Order.cycle_id == cycle_id, Order.shard == shard, Order.state == OrderState.PENDING)
                .order_by(Order.id)
                .with_for_update()
            )
            for order in unsent.all():
                await apply_event(session, order, OrderEventKind.ABANDONED, "recorded but never sent", market_now)
                abandoned += 1
    return abandoned


async def _cancel_overdue(trading: Trading, broker_name: str, order_ids: Sequence[int], market_now: datetime) -> None:
    """Ask for a cancel of what has rested too long: the next cycle decides afresh at the next price.

    A cancel that is still under way is asked for again: the first request may have died with its process.
    """
    before = market_now - timedelta(seconds=trading.rules.order_rest_s_max)
    for order_id in order_ids:
        async with trading.sessions.begin() as session:
            order = (await session.scalars(select(Order).where(Order.id == order_id).with_for_update())).one()
            asked = order.state is OrderState.CANCEL_PENDING
            resting = order.state in {OrderState.ACCEPTED, OrderState.PARTIALLY_FILLED}
            if order.broker_order_id is None or not (asked or (resting and order.decided_at <= before)):
                continue
            if not asked:
                await apply_event(session, order, OrderEventKind.CANCEL_REQUESTED, "rested too long", market_now)
            account_id, broker_order_id = order.account_id, order.broker_order_id
        try:
            await trading.brokers[broker_name].cancel(account_id, broker_order_id)
        except BrokerError as refusal:
            log.warning("cancel_refused", order=order_id, detail=refusal.detail)
