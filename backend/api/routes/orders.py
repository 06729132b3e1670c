"""The user's orders, whoever made them: the engine, the user here, or the user in the broker's own app."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from backend.api.deps import CurrentUser, State, TradingUser
from backend.api.documentation import documented
from backend.api.idempotency import IdempotentRoute, RequiredKey
from backend.api.schemas.common import ID_MAX, next_cursor
from backend.api.schemas.orders import OrderBody, OrderRecordReply, OrderReply, OrdersQuery, OrdersReply, OrderView
from backend.domain.market import Side
from backend.models import Feature
from backend.services import order_query_service
from backend.services.manual_order_service import place_manual
from backend.services.plan_service import require_feature

router = APIRouter(prefix="/v1/orders", tags=["orders"], route_class=IdempotentRoute)

OrderId = Annotated[int, Path(ge=1, le=ID_MAX)]


@router.post("", **documented("place_order", 401, 403, 404, 409, 503, status=201))
async def place_order(body: OrderBody, key: RequiredKey, user: TradingUser, state: State) -> OrderReply:
    """Place one order by hand, checked and sent as the engine's own; the answer shows it as it stands then.

    What the gate refuses before anything is recorded is a 422 with the reason as its code; a refusal after that, or by
    the broker, is an order that is `denied` or `rejected`. One key never places two orders. Buying needs a plan with
    orders by hand; what was bought is sold whatever the plan.
    """
    if body.side is Side.BUY:
        async with state.sessions() as session:
            await require_feature(session, user.id, Feature.MANUAL_TRADING)
    order = await place_manual(state.desk, user.id, key, body.order())
    return OrderReply(environment=state.environment, order=OrderView.of(order))


@router.get("", **documented("list_orders", 401, 503))
async def list_orders(query: Annotated[OrdersQuery, Query()], user: CurrentUser, state: State) -> OrdersReply:
    """The user's orders of every origin, newest first."""
    async with state.sessions() as session:
        orders = await order_query_service.orders_of(session, user.id, query.filter(), query.before_id, query.limit + 1)
    return OrdersReply(
        environment=state.environment,
        orders=[OrderView.of(order) for order in orders[: query.limit]],
        next_cursor=next_cursor([order.id for order in orders], query.limit),
    )


@router.get("/{order_id}", **documented("get_order", 401, 404, 503))
async def get_order(order_id: OrderId, user: CurrentUser, state: State) -> OrderRecordReply:
    """One order with everything that happened to it."""
    async with state.sessions() as session:
        record = await order_query_service.order_of(session, user.id, order_id)
    return OrderRecordReply.of(state.environment, record)


@router.delete("/{order_id}", **documented("cancel_order", 401, 404, 409, 503))
async def cancel_order(order_id: OrderId, user: TradingUser, state: State) -> OrderReply:
    """Cancel an open order, whatever the plan and even while trading is halted. A fill may win the race."""
    order = await order_query_service.cancel_own(state.desk, user.id, order_id)
    return OrderReply(environment=state.environment, order=OrderView.of(order))
