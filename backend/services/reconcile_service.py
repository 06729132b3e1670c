"""Reconciliation: bringing orders in line with the brokers' books, and clearing what was never sent."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from sqlalchemy import func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from backend.brokers.base import Broker, BrokerError
from backend.domain.orders import LIVE_STATES, IllegalTransitionError, Intent, OrderEventKind, OrderState
from backend.domain.reconcile import BookOrder, BookStatus, KnownOrder, settle
from backend.errors import SaudaError
from backend.models import BrokerAccount, CycleShard, Fill, Order
from backend.services.context import Trading
from backend.services.cycle_service import fence
from backend.services.order_service import apply_event

log = structlog.get_logger()

_AT_BROKER = LIVE_STATES - {OrderState.PENDING}
_RESTING = frozenset({OrderState.ACCEPTED, OrderState.PARTIALLY_FILLED})
# Ended without all of its shares: a late fill, or an order thought dead that lives, still shows in the book.
_ENDED_SHORT = frozenset({OrderState.CANCELLED, OrderState.EXPIRED})
LATE_FILL_WATCH = timedelta(days=1)
BOOK_TIMEOUT_S = 15.0


@dataclass(slots=True)
class ReconcileReport:
    """Orders looked at and changed. Orders of `failed_accounts` gave no report and were left alone; `unsettled` ones
    show what cannot be: they keep their state, and with it the block on their symbol, until a person has looked."""

    orders: int = 0
    changed: int = 0
    abandoned: int = 0
    failed_accounts: set[int] = field(default_factory=set[int])
    unsettled: list[int] = field(default_factory=list[int])


@dataclass(frozen=True, slots=True)
class Watched:
    """One order that may still move, and what is known of it; its age is as of an instant before the book was read."""

    order: Order
    known: KnownOrder


async def reconcile(trading: Trading, account_ids: Collection[int] | None = None) -> ReconcileReport:
    """One pass over every order that may still move, of some accounts or of all. Doing it twice changes nothing.

    Raises:
        SQLAlchemyError, OSError: the database did not answer; trading must wait for a pass that succeeds.
    """
    market_now = await trading.clock()
    report = ReconcileReport(abandoned=await _abandon_unsent(trading, market_now))
    watched = await _watched(trading, account_ids)
    for broker_name, orders in watched.items():
        report.orders += len(orders)
        broker = trading.brokers.get(broker_name)
        if broker is None:
            report.failed_accounts |= {w.order.account_id for w in orders}
            continue
        await _reconcile_broker(trading, broker, orders, market_now, report)
    if report.changed or report.abandoned or report.failed_accounts or report.unsettled:
        log.info(
            "reconciled",
            changed=report.changed,
            abandoned=report.abandoned,
            failed=len(report.failed_accounts),
            unsettled=report.unsettled,
        )
    return report


async def _watched(trading: Trading, account_ids: Collection[int] | None) -> Mapping[str, list[Watched]]:
    """Orders by broker. Ages are taken now, before any book is read: absence then proves what it should."""
    async with trading.sessions() as session:
        short = (
            Order.state.in_(_ENDED_SHORT)
            & (Order.filled_quantity < Order.quantity)
            & (Order.submitted_at > func.clock_timestamp() - LATE_FILL_WATCH)
        )
        age = func.extract("epoch", func.clock_timestamp() - Order.submitted_at)
        query = (
            select(BrokerAccount.broker, Order, age)
            .join(Order, Order.account_id == BrokerAccount.id)
            .where(or_(Order.state.in_(_AT_BROKER), short))
            .order_by(Order.id)
        )
        if account_ids is not None:
            query = query.where(Order.account_id == func.any(list(account_ids)))
        rows = (await session.execute(query)).all()
        known = await _known_trades(session, [row.Order.id for row in rows])
    by_broker: dict[str, list[Watched]] = defaultdict(list)
    for broker, order, age_s in rows:
        by_broker[broker].append(Watched(order, _known(order, known[order.id], float(age_s or 0))))
    return by_broker


async def _known_trades(session: AsyncSession, order_ids: list[int]) -> Mapping[int, frozenset[str]]:
    rows = await session.execute(select(Fill.order_id, Fill.trade_id).where(Fill.order_id == func.any(order_ids)))
    trades: dict[int, set[str]] = defaultdict(set)
    for order_id, trade_id in rows:
        trades[order_id].add(trade_id)
    return defaultdict(frozenset, {order_id: frozenset(ids) for order_id, ids in trades.items()})


def _known(order: Order, trade_ids: frozenset[str], age_s: float) -> KnownOrder:
    return KnownOrder(order.state, order.quantity, order.client_order_id, trade_ids, order.filled_quantity, age_s)


async def _reconcile_broker(
    trading: Trading, broker: Broker, watched: Sequence[Watched], market_now: datetime, report: ReconcileReport
) -> None:
    accounts = sorted({w.order.account_id for w in watched})
    # A day's margin: the book is asked from before the oldest decision that may still move.
    since = min(w.order.decided_at for w in watched) - timedelta(days=1)
    try:
        async with asyncio.timeout(BOOK_TIMEOUT_S):
            books = await broker.books(accounts, since, [w.order.client_order_id for w in watched])
    except (SaudaError, TimeoutError) as silence:
        log.warning("book_unreadable", broker=broker.name, error=repr(silence))
        report.failed_accounts |= set(accounts)
        return
    by_tag: dict[tuple[int, str], list[BookOrder]] = defaultdict(list)
    for account_id, book in books.items():
        if isinstance(book, BrokerError):
            report.failed_accounts.add(account_id)
            continue
        for entry in book:
            by_tag[account_id, entry.tag].append(entry)
    for w in watched:
        if w.order.account_id in report.failed_accounts:
            continue
        shown = by_tag[w.order.account_id, w.order.client_order_id]
        if len(shown) > 1:
            ids = [entry.broker_order_id for entry in shown]
            log.error("doubled_at_broker", order=w.order.id, broker_orders=ids)
        try:
            report.changed += await _settle_order(trading, w, shown, broker.absence_is_proof_after_s, market_now)
        except (IllegalTransitionError, IntegrityError) as error:
            # One order that cannot be must not stop the settling of all others.
            log.error("order_unsettled", order=w.order.id, error=str(error).splitlines()[0])
            report.unsettled.append(w.order.id)
            continue
        await _cancel_what_should_not_rest(trading, broker, w.order, shown, market_now)


async def _settle_order(
    trading: Trading,
    watched: Watched,
    shown: Sequence[BookOrder],
    absence_is_proof_after_s: float | None,
    market_now: datetime,
) -> bool:
    """Apply what the book says of one order, in one transaction. Returns whether anything was new."""
    if not settle(watched.known, shown, absence_is_proof_after_s).steps:
        return False
    async with trading.sessions.begin() as session:
        order = (await session.scalars(select(Order).where(Order.id == watched.order.id).with_for_update())).one()
        trade_ids = (await _known_trades(session, [order.id]))[order.id]
        # Once more under the lock: a sender or another pass may have been faster.
        known = _known(order, trade_ids, watched.known.age_s)
        settlement = settle(known, shown, absence_is_proof_after_s)
        if settlement.broker_order_id is not None:
            order.broker_order_id = settlement.broker_order_id
        for step in settlement.steps:
            at = step.trade.traded_at if step.trade is not None else market_now
            await apply_event(session, order, step.event, step.detail, at, step.trade)
        return bool(settlement.steps)


async def _cancel_what_should_not_rest(
    trading: Trading, broker: Broker, known: Order, shown: Sequence[BookOrder], market_now: datetime
) -> None:
    """Ask for the cancel of an order that rests too long, whose cancel is still under way, or that we thought dead.

    A cancel that is under way is asked for again: the first request may have died with its process.
    """
    resting = next((entry for entry in shown if entry.status is BookStatus.OPEN), None)
    if resting is None:
        return
    if known.state in _ENDED_SHORT:
        log.error("dead_order_lives", order=known.id, broker_order=resting.broker_order_id)
    elif known.state is not OrderState.CANCEL_PENDING:
        before = market_now - timedelta(seconds=_rest_s_max(trading, known.intent))
        if known.decided_at > before or not await request_cancel(trading, known.id, "rested too long", market_now):
            return
    await ask_cancel(broker, known.account_id, resting.broker_order_id)


def _rest_s_max(trading: Trading, intent: Intent) -> int:
    """Market seconds an order may rest. An exit is decided anew at every tick: its price must follow the market."""
    rules = trading.rules
    return rules.order_rest_s_max if intent is Intent.ENTRY else min(rules.order_rest_s_max, rules.cycle_interval_s)


async def request_cancel(trading: Trading, order_id: int, why: str, market_now: datetime) -> bool:
    """Record that a cancel is wanted; False where the order does not rest (any more)."""
    async with trading.sessions.begin() as session:
        order = (await session.scalars(select(Order).where(Order.id == order_id).with_for_update())).one()
        if order.state not in _RESTING:
            return False
        await apply_event(session, order, OrderEventKind.CANCEL_REQUESTED, why, market_now)
        return True


async def ask_cancel(broker: Broker, account_id: int, broker_order_id: str) -> None:
    """Ask the broker; whether it happened, its book tells."""
    try:
        async with asyncio.timeout(BOOK_TIMEOUT_S):
            await broker.cancel(account_id, broker_order_id)
    except (SaudaError, TimeoutError) as refusal:
        log.warning("cancel_not_taken", broker_order=broker_order_id, error=repr(refusal))


async def cancel_entries(trading: Trading, trade_ids: Collection[int], why: str, market_now: datetime) -> None:
    """Cancel the resting entries of trades that should be left: what they filled is then sold at the next tick."""
    async with trading.sessions() as session:
        rows = (
            await session.execute(
                select(Order.id, Order.account_id, Order.broker_order_id, BrokerAccount.broker)
                .join(BrokerAccount, BrokerAccount.id == Order.account_id)
                .where(
                    Order.auto_trade_id == func.any(list(trade_ids)),
                    Order.intent == Intent.ENTRY,
                    Order.state.in_(_RESTING),
                    Order.broker_order_id.is_not(None),
                )
            )
        ).all()
    for row in rows:
        if await request_cancel(trading, row.id, why, market_now):
            await ask_cancel(trading.brokers[row.broker], row.account_id, row.broker_order_id)


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
            if cycle_id is None or shard is None:
                continue  # the join leaves none
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
