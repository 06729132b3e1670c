"""Reconciling orders: bringing each in line with its broker's book, and clearing what was never sent."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from backend.brokers.base import Broker
from backend.db import is_about_data
from backend.domain.orders import LIVE_STATES, Intent, OrderEventKind, OrderState
from backend.domain.reconcile import IN_BOOK_STATES, BookOrder, BookStatus, KnownOrder, LookupRules, settle
from backend.domain.trading_states import Cause, Effective, Scope, TradingState, holding_key, permits
from backend.errors import SaudaError
from backend.models import AutoTrade, BrokerAccount, CycleShard, Fill, Order, OrderOrigin
from backend.services.broker_books import Shown, read_books
from backend.services.context import Trading
from backend.services.cycle_service import fence
from backend.services.order_service import apply_event, lock_order
from backend.services.trading_state_service import impose, standings

log = structlog.get_logger()

_AT_BROKER = LIVE_STATES - {OrderState.PENDING}
_RESTING = frozenset({OrderState.ACCEPTED, OrderState.PARTIALLY_FILLED})
# Ended without all of its shares: a late fill, or an order thought dead that lives, still shows in the book.
_ENDED_SHORT = frozenset({OrderState.CANCELLED, OrderState.EXPIRED, OrderState.REJECTED})
LATE_FILL_WATCH = timedelta(days=1)
"""How long after its send such an order is still looked for: as long in real time as in the market's, whichever is
over first, as a fast market has many days in one."""
_MAY_REST = frozenset({BookStatus.OPEN, BookStatus.UNKNOWN})
CANCEL_TIMEOUT_S = 5.0
CANCELS_AT_ONCE_MAX = 8


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
    """One order that may still move, and what is known of it; its age, and the real seconds for which it has been
    missing, are as of an instant before the book was read."""

    order: Order
    known: KnownOrder
    strategy: str | None
    missing_s: float | None


async def reconcile(trading: Trading, account_ids: Collection[int] | None = None) -> ReconcileReport:
    """One pass over every order that may still move, of some accounts or of all. Doing it twice changes nothing.

    Raises:
        SQLAlchemyError, OSError: the database did not answer; trading must wait for a pass that succeeds.
    """
    market_now = await trading.clock()
    report = ReconcileReport(abandoned=await _abandon_unsent(trading, market_now))
    watched = await _watched(trading, account_ids, market_now)
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


async def look_up(trading: Trading) -> ReconcileReport | None:
    """One pass over accounts with a send that was not answered in time, or with orders whose sender fell silent.

    None where there is none.
    """
    async with trading.sessions() as session:
        age = func.extract("epoch", func.clock_timestamp() - Order.submitted_at)
        unanswered = (Order.state == OrderState.SUBMITTED) & (age >= trading.rules.lookup.from_s)
        waiting = await session.scalars(
            select(Order.account_id)
            .outerjoin(CycleShard, _OF_SHARD)
            .where(or_(unanswered, (Order.state == OrderState.PENDING) & _lapsed()))
            .distinct()
        )
        accounts = waiting.all()
    return await reconcile(trading, accounts) if accounts else None


async def _watched(
    trading: Trading, account_ids: Collection[int] | None, market_now: datetime
) -> Mapping[str, list[Watched]]:
    """Orders by broker. Ages are taken now, before any book is read: absence then proves what it should."""
    async with trading.sessions() as session:
        short = (
            Order.state.in_(_ENDED_SHORT)
            & (Order.filled_quantity < Order.quantity)
            & (Order.submitted_at > func.clock_timestamp() - LATE_FILL_WATCH)
            & (Order.decided_at > market_now - LATE_FILL_WATCH)
            # One refused at the send has no number at the broker; should it stand in the book after all, comparing
            # positions adopts it and halts its user.
            & or_(Order.state != OrderState.REJECTED, Order.broker_order_id.is_not(None))
        )
        age, missing = (
            func.extract("epoch", func.clock_timestamp() - since) for since in (Order.submitted_at, Order.missing_since)
        )
        query = (
            select(BrokerAccount.broker, Order, age, AutoTrade.strategy, missing)
            .join(Order, Order.account_id == BrokerAccount.id)
            .outerjoin(AutoTrade, AutoTrade.id == Order.auto_trade_id)
            .where(or_(Order.state.in_(_AT_BROKER), short))
            .order_by(Order.id)
        )
        if account_ids is not None:
            query = query.where(Order.account_id == func.any(list(account_ids)))
        rows = (await session.execute(query)).all()
        known = await _known_trades(session, [row.Order.id for row in rows])
    by_broker: dict[str, list[Watched]] = defaultdict(list)
    for broker, order, age_s, strategy, missing_s in rows:
        of_order = _known(order, known[order.id], float(age_s or 0))
        missing = None if missing_s is None else float(missing_s)
        by_broker[broker].append(Watched(order, of_order, strategy, missing))
    return by_broker


async def _known_trades(session: AsyncSession, order_ids: list[int]) -> Mapping[int, frozenset[str]]:
    rows = await session.execute(select(Fill.order_id, Fill.trade_id).where(Fill.order_id == func.any(order_ids)))
    trades: dict[int, set[str]] = defaultdict(set)
    for order_id, trade_id in rows:
        trades[order_id].add(trade_id)
    return defaultdict(frozenset, {order_id: frozenset(ids) for order_id, ids in trades.items()})


def _known(order: Order, trade_ids: frozenset[str], age_s: float) -> KnownOrder:
    return KnownOrder(
        order.state,
        order.quantity,
        order.client_order_id,
        trade_ids,
        order.filled_quantity,
        age_s,
        order.lookups,
        order.broker_order_id is not None,
    )


async def _reconcile_broker(
    trading: Trading, broker: Broker, watched: Sequence[Watched], market_now: datetime, report: ReconcileReport
) -> None:
    found = Shown(await read_books(broker, [w.order for w in watched], market_now))
    # A failed report is not an empty one: its account's orders are left as they are.
    report.failed_accounts |= found.failed
    async with trading.sessions() as session:
        standing = await standings(session)
    settled: list[tuple[Watched, Sequence[BookOrder]]] = []
    for w in watched:
        if w.order.account_id in report.failed_accounts:
            continue
        shown = found.of(w.order)
        if len(shown) > 1:
            await _halt_doubled(trading, w.order, shown)
        try:
            report.changed += await _settle_order(trading, w, shown, broker.absence_is_proof_after_s, market_now)
        except (ValueError, ArithmeticError, DBAPIError) as error:
            if isinstance(error, DBAPIError) and not is_about_data(error):
                raise
            # One order that cannot be must not stop the settling of all others.
            log.error("order_unsettled", order=w.order.id, error=str(error).splitlines()[0])
            report.unsettled.append(w.order.id)
            continue
        settled.append((w, shown))

    async def cancel(w: Watched, shown: Sequence[BookOrder]) -> None:
        holding = holding_key(w.order.account_id, w.order.symbol)
        effective = standing.effective(w.order.user_id, w.strategy, broker.name, holding)
        async with at_once:
            await _cancel_what_should_not_rest(trading, broker, w.order, shown, effective, market_now)

    # After all is settled, and side by side: a broker slow to take one cancel delays no other order.
    at_once = asyncio.Semaphore(CANCELS_AT_ONCE_MAX)
    results = await asyncio.gather(*(cancel(w, shown) for w, shown in settled), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def _halt_doubled(trading: Trading, order: Order, shown: Sequence[BookOrder]) -> None:
    """One intent, several orders at the broker: nothing more goes out for this user until a person has looked."""
    ids = [entry.broker_order_id for entry in shown]
    log.error("doubled_at_broker", order=order.id, broker_orders=ids)
    async with trading.sessions.begin() as session:
        detail = f"order {order.id} stands {len(ids)} times in the broker's book: {', '.join(ids)}"
        await impose(session, Scope.USER, str(order.user_id), TradingState.HALTED, Cause.ORDERS_EXCEED_INTENTS, detail)


async def _settle_order(
    trading: Trading,
    watched: Watched,
    shown: Sequence[BookOrder],
    absence_is_proof_after_s: float | None,
    market_now: datetime,
) -> bool:
    """Apply what the book says of one order, in one transaction. Returns whether anything was new."""
    rules, age_s = trading.rules.lookup, watched.known.age_s
    counts = not shown and _counts(rules, watched)
    back = bool(shown) and _sought(watched.order) != _NEVER_SOUGHT
    if not (counts or back or settle(watched.known, shown, absence_is_proof_after_s, rules.count_max).steps):
        return False
    async with trading.sessions.begin() as session:
        order = await lock_order(session, watched.order.id)
        if not shown and (order.state, _sought(order)) != (watched.order.state, _sought(watched.order)):
            # A sender or another pass has heard of it since: that this report lacks it says nothing.
            return False
        if back:
            order.lookups, order.missing_since = _NEVER_SOUGHT
        if counts:
            await _count_lookup(session, order)
        trade_ids = (await _known_trades(session, [order.id]))[order.id]
        # Once more under the lock: a sender or another pass may have been faster.
        known = _known(order, trade_ids, age_s)
        settlement = settle(known, shown, absence_is_proof_after_s, rules.count_max)
        if settlement.broker_order_id is not None:
            order.broker_order_id = settlement.broker_order_id
        for step in settlement.steps:
            at = step.trade.traded_at if step.trade is not None else market_now
            await apply_event(session, order, step.event, step.detail, at, step.trade)
        return bool(settlement.steps)


_NEVER_SOUGHT = (0, None)


def _sought(order: Order) -> tuple[int, datetime | None]:
    return order.lookups, order.missing_since


def _counts(rules: LookupRules, watched: Watched) -> bool:
    """Whether a complete report without the order is its next look-up."""
    order = watched.order
    if order.state in IN_BOOK_STATES:
        # It is looked for as from the first report without it, which counts at once.
        return watched.missing_s is None or rules.is_due(rules.from_s + watched.missing_s, order.lookups)
    return order.state is OrderState.SUBMITTED and rules.is_due(watched.known.age_s, order.lookups)


async def _count_lookup(session: AsyncSession, order: Order) -> None:
    if order.state in IN_BOOK_STATES and order.missing_since is None:
        # What was counted before the broker answered its send says nothing of a book in which it has stood since.
        order.missing_since = await session.scalar(select(func.clock_timestamp()))
        order.lookups = 0
    order.lookups += 1


async def _cancel_what_should_not_rest(
    trading: Trading,
    broker: Broker,
    known: Order,
    shown: Sequence[BookOrder],
    effective: Effective,
    market_now: datetime,
) -> None:
    """Ask for the cancel of an order that rests too long or under a halt, is being cancelled, or was thought dead.

    A cancel that is under way is asked for again: the first request may have died with its process. What the user
    made in the broker's own app is theirs to cancel.
    """
    resting = next((entry for entry in shown if entry.status in _MAY_REST), None)
    if resting is None or known.origin is OrderOrigin.EXTERNAL:
        return
    if known.state in _ENDED_SHORT:
        log.error("dead_order_lives", order=known.id, broker_order=resting.broker_order_id)
    elif known.state is not OrderState.CANCEL_PENDING:
        why = _why_cancel(trading, known, effective, market_now)
        if why is None or not await request_cancel(trading, known.id, why, market_now):
            return
    await ask_cancel(broker, known.account_id, resting.broker_order_id)


def _why_cancel(trading: Trading, order: Order, effective: Effective, market_now: datetime) -> str | None:
    """Why an order that rests should not; None where it may. One made by hand rests until the day's end."""
    if not permits(effective, order.intent):
        return f"trading is {effective.state.value}"
    before = market_now - timedelta(seconds=_rest_s_max(trading, order.intent))
    return "rested too long" if order.origin is OrderOrigin.ENGINE and order.decided_at <= before else None


def _rest_s_max(trading: Trading, intent: Intent) -> int:
    """Market seconds an order may rest. An exit is decided anew at every tick: its price must follow the market."""
    rules = trading.rules
    return rules.order_rest_s_max if intent is Intent.ENTRY else min(rules.order_rest_s_max, rules.cycle_interval_s)


async def request_cancel(trading: Trading, order_id: int, why: str, market_now: datetime) -> bool:
    """Record that a cancel is wanted; False where the order does not rest (any more)."""
    async with trading.sessions.begin() as session:
        order = await lock_order(session, order_id)
        if order.state not in _RESTING:
            return False
        await apply_event(session, order, OrderEventKind.CANCEL_REQUESTED, why, market_now)
        return True


async def ask_cancel(broker: Broker, account_id: int, broker_order_id: str) -> None:
    """Ask the broker; whether it happened, its book tells."""
    try:
        async with asyncio.timeout(CANCEL_TIMEOUT_S):
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


_OF_SHARD = (CycleShard.cycle_id == Order.cycle_id) & (CycleShard.shard == Order.shard)


def _lapsed() -> ColumnElement[bool]:
    """Whether nobody works on a shard any more."""
    return CycleShard.done | (CycleShard.claimed_until < func.clock_timestamp())


async def _abandon_unsent(trading: Trading, market_now: datetime) -> int:
    """Drop orders that were recorded and never sent, after taking the right to send from their shard's last holder.

    The shard is locked before its orders, as a sender does it: two orders of locking would be a deadlock.
    """
    async with trading.sessions.begin() as session:
        shards = (
            await session.execute(
                select(CycleShard.cycle_id, CycleShard.shard)
                .join(Order, _OF_SHARD)
                .where(Order.state == OrderState.PENDING, _lapsed())
                .distinct()
                .order_by(CycleShard.cycle_id, CycleShard.shard)
            )
        ).all()
        abandoned = 0
        for cycle_id, shard in shards:
            await fence(session, cycle_id, shard)
            of_this = (Order.cycle_id == cycle_id) & (Order.shard == shard)
            abandoned += await _abandon(session, of_this, market_now)
        overdue = Order.created_at < func.clock_timestamp() - timedelta(seconds=trading.rules.entry_send_s_max * 2)
        return abandoned + await _abandon(
            session, Order.origin.in_((OrderOrigin.MANUAL, OrderOrigin.GUARD)) & overdue, market_now
        )


async def _abandon(session: AsyncSession, which: ColumnElement[bool], market_now: datetime) -> int:
    unsent = await session.scalars(
        select(Order).where(which, Order.state == OrderState.PENDING).order_by(Order.id).with_for_update()
    )
    orders = unsent.all()
    for order in orders:
        await apply_event(session, order, OrderEventKind.ABANDONED, "recorded but never sent", market_now)
    return len(orders)
