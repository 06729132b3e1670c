"""Reading a user's orders, whoever made them, and cancelling one on the user's word."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.orders import LIVE_STATES, OrderEventKind, OrderState
from backend.errors import ConflictError, NotFoundError
from backend.models import Fill, Order, OrderEvent, OrderOrigin
from backend.services.audit_service import SYSTEM, Actor, record
from backend.services.cancel_service import cancel_orders, open_orders
from backend.services.context import Trading
from backend.services.order_service import apply_event


@dataclass(frozen=True, slots=True)
class OrderFilter:
    """None means any."""

    state: OrderState | None = None
    origin: OrderOrigin | None = None
    symbol: str | None = None


@dataclass(frozen=True, slots=True)
class OrderRecord:
    """An order with everything that happened to it, oldest first."""

    order: Order
    events: tuple[OrderEvent, ...]
    fills: tuple[Fill, ...]


async def orders_of(
    session: AsyncSession, user_id: int, wanted: OrderFilter, before_id: int | None, limit: int
) -> list[Order]:
    """The user's orders, newest first, below `before_id`."""
    query = select(Order).where(Order.user_id == user_id)
    for column, value in ((Order.state, wanted.state), (Order.origin, wanted.origin), (Order.symbol, wanted.symbol)):
        if value is not None:
            query = query.where(column == value)
    if before_id is not None:
        query = query.where(Order.id < before_id)
    return list((await session.scalars(query.order_by(Order.id.desc()).limit(limit))).all())


async def order_of(session: AsyncSession, user_id: int, order_id: int) -> OrderRecord:
    """One of the user's orders with its record.

    Raises:
        NotFoundError: no such order of this user.
    """
    order = await _own(session, user_id, order_id)
    events = await session.scalars(select(OrderEvent).where(OrderEvent.order_id == order_id).order_by(OrderEvent.id))
    fills = await session.scalars(select(Fill).where(Fill.order_id == order_id).order_by(Fill.filled_at, Fill.id))
    return OrderRecord(order, tuple(events.all()), tuple(fills.all()))


async def cancel_own(trading: Trading, user_id: int, order_id: int) -> Order:
    """Cancel an order at its broker, and return it as it stands then: cancelled, or its cancel under way.

    A fill may win the race; cancelling what is cancelled changes nothing.

    Raises:
        NotFoundError: no such order of this user.
        ConflictError: it is over, or its outcome at the broker is not known yet.
    """
    async with trading.sessions() as session:
        _require_cancellable(await _own(session, user_id, order_id))
        orders = await open_orders(session, Order.id == order_id)
    await cancel_orders(trading, orders, "cancelled by the user")
    async with trading.sessions() as session:
        return await _own(session, user_id, order_id)


def _require_cancellable(order: Order) -> None:
    if order.state not in LIVE_STATES | {OrderState.CANCELLED}:
        raise ConflictError(f"The order is {order.state}: there is nothing left to cancel.", code="order_ended")
    if order.state in {OrderState.PENDING, OrderState.SUBMITTED, OrderState.UNKNOWN}:
        raise ConflictError(
            f"The order is {order.state}: whether the broker has it is not known yet. Try again in a few seconds, "
            "or stop everything with POST /v1/kill-switch.",
            code="order_in_flight",
        )


async def _own(session: AsyncSession, user_id: int, order_id: int) -> Order:
    order = await session.scalar(select(Order).where(Order.id == order_id, Order.user_id == user_id))
    if order is None:
        raise NotFoundError(f"You have no order {order_id}.")
    return order


async def unknown_orders(session: AsyncSession, before_id: int | None, limit: int) -> list[Order]:
    """Every user's orders whose outcome nobody knows, newest first: each blocks its account and symbol."""
    query = select(Order).where(Order.state == OrderState.UNKNOWN)
    if before_id is not None:
        query = query.where(Order.id < before_id)
    return list((await session.scalars(query.order_by(Order.id.desc()).limit(limit))).all())


async def resolve_unknown(
    session: AsyncSession,
    order_id: int,
    outcome: OrderEventKind,
    admin_id: int | None,
    reason: str,
    actor: Actor = SYSTEM,
) -> Order:
    """Settle an order on the word of a person who has asked the broker. Joins the transaction.

    `admin_id` None is the operator's command line; `actor` is whom the audit log names.

    For a day from its send the order is still looked for in the broker's book, and a fill it shows counts all the same.
    What an older one traded, only the account's cash and shares tell, as positions are compared.

    Raises:
        NotFoundError: no such order.
        ConflictError: its outcome is known.
    """
    order = await session.get(Order, order_id, with_for_update=True)
    if order is None:
        raise NotFoundError(f"There is no order {order_id}.")
    if order.state is not OrderState.UNKNOWN:
        raise ConflictError(f"The order is {order.state}: there is nothing to settle.", code="order_not_unknown")
    who = "the operator" if admin_id is None else f"user {admin_id}"
    await apply_event(session, order, outcome, f"settled by {who}: {reason}", order.decided_at)
    await session.flush()
    await record(
        session,
        actor,
        "order.settle",
        subject_id=order.user_id,
        target=f"order:{order.id}",
        before={"state": OrderState.UNKNOWN.value},
        after={"state": order.state.value},
        reason=reason,
    )
    return order
