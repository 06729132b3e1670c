"""Orders a user makes by hand through Sauda: checked, recorded and sent as the engine's own are."""

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from backend.brokers.base import AccountSnapshot
from backend.domain.calendar import Phase
from backend.domain.market import OrderType, Product, Side, round_to_tick
from backend.domain.orders import Intent, OrderState, manual_order_id
from backend.domain.reasons import NEXT_STEP, Reason
from backend.domain.risk import Approved, Denied, OrderIntent, QuoteView, RiskLimits, check
from backend.errors import ConflictError, InvalidRequestError, UpstreamError
from backend.models import BrokerAccount, Order, OrderOrigin
from backend.services.account_service import account_of, with_funds
from backend.services.context import Trading
from backend.services.corporate_action_service import settle_actions
from backend.services.market_calendar import EXCHANGE
from backend.services.reconcile_service import reconcile
from backend.services.record_service import Recorded
from backend.services.send_service import FreshQuotes, Sending, send_one
from backend.services.settings_service import require_known


@dataclass(frozen=True, slots=True)
class ManualOrder:
    """What the user asks for: shares, and rupees per share; without a limit, one close to the market is set."""

    symbol: str
    side: Side
    quantity: int
    product: Product
    limit_price: Decimal | None = None
    account_id: int | None = None


async def place_manual(trading: Trading, user_id: int, key: str, wanted: ManualOrder) -> Order:
    """Place one order, and return it as it stands after the broker's answer; the same `key` never places a second.

    Raises:
        InvalidRequestError: an unknown symbol, or what the gate refuses before anything is recorded (code: the reason).
        ConflictError: no such account that is ready, or the market is not in continuous trading.
        UpstreamError: the broker or data_service does not answer, or does not tell the day's corporate actions.
    """
    client_id = manual_order_id(user_id, key)
    if (earlier := await _order_named(trading, client_id)) is not None:
        return _same(earlier, wanted)
    await require_known(trading, [wanted.symbol])
    now = await trading.clock()
    if trading.calendar.phase(wanted.symbol, now) is not Phase.CONTINUOUS:
        raise ConflictError(NEXT_STEP[Reason.MARKET_NOT_CONTINUOUS], code=Reason.MARKET_NOT_CONTINUOUS.value)
    if not await settle_actions(trading, now):
        raise UpstreamError(NEXT_STEP[Reason.ACTIONS_UNKNOWN], code=Reason.ACTIONS_UNKNOWN.value)
    async with trading.sessions() as session:
        account = await account_of(session, user_id, wanted.account_id)
    (funds,) = await with_funds(trading, [account])
    if funds.snapshot is None:
        raise UpstreamError(funds.problem or "The broker does not answer.", code="broker_unavailable")
    held = [symbol for symbol in funds.snapshot.holdings if symbol in trading.market_data.instruments]
    quotes = FreshQuotes(trading, [wanted.symbol, *held])
    quote, _ = await quotes.of(wanted.symbol)
    approved = _approve(wanted, quote, now, funds.snapshot, trading.rules.limits)
    recorded = await _record(trading, account, client_id, approved, await _worth(funds.snapshot, quotes), now)
    if recorded is not None:
        sending = Sending(recorded, None, trading.brokers[account.broker], now)
        until = time.monotonic() + trading.rules.entry_send_s_max
        await send_one(trading, sending, quotes, until, asyncio.Semaphore(1))
        await reconcile(trading, [account.id])
    order = await _order_named(trading, client_id)
    if order is None:
        raise LookupError(f"the order {client_id} was recorded and is gone")
    return _same(order, wanted)


def _same(order: Order, wanted: ManualOrder) -> Order:
    """The order, if it is what is asked for: the key's memory ends after a day, the order's name does not."""
    same = (order.symbol, order.side, order.quantity, order.product) == (
        wanted.symbol,
        wanted.side,
        wanted.quantity,
        wanted.product,
    )
    if same and wanted.limit_price in {None, order.limit_price}:
        return order
    raise InvalidRequestError(
        f"This Idempotency-Key was used for another order ({order.id}): choose a new one.",
        code="idempotency_key_reused",
    )


def _approve(
    wanted: ManualOrder, quote: QuoteView | None, now: datetime, snapshot: AccountSnapshot, limits: RiskLimits
) -> Approved:
    if quote is None:
        raise UpstreamError(NEXT_STEP[Reason.NO_QUOTE], code=Reason.NO_QUOTE.value)
    buys = wanted.side is Side.BUY
    order = OrderIntent(
        wanted.symbol,
        EXCHANGE.value,
        wanted.side,
        wanted.product,
        OrderType.LIMIT,
        wanted.quantity,
        wanted.limit_price or protected_price(quote, wanted.side, limits),
        Intent.ENTRY if buys else Intent.EXIT,
    )
    held = snapshot.holdings.get(wanted.symbol, 0)
    # The gate asks for the quote's age at the send; here the quote has just been fetched.
    verdict = check(order, quote, max(now, quote.as_of), cash_free=snapshot.cash_free, held=held, limits=limits)
    if isinstance(verdict, Denied):
        raise InvalidRequestError(NEXT_STEP[verdict.reason], code=verdict.reason.value)
    return verdict


def protected_price(quote: QuoteView, side: Side, limits: RiskLimits) -> Decimal:
    """The limit that stands for "at the market": a little beyond the last price, on the tick and inside the band."""
    fraction = limits.entry_protection_fraction if side is Side.BUY else -limits.exit_protection_fraction
    price = round_to_tick(quote.last * (1 + fraction), quote.tick, side)
    if side is Side.BUY:
        return min(price, round_to_tick(quote.upper_band, quote.tick, Side.BUY))
    return max(price, round_to_tick(quote.lower_band, quote.tick, Side.SELL))


async def _worth(snapshot: AccountSnapshot, quotes: FreshQuotes) -> Decimal:
    """Cash and holdings in rupees; a holding without a quote counts nothing, which only makes the limits tighter."""
    total = snapshot.cash
    for symbol, shares in snapshot.holdings.items():
        quote, _ = await quotes.of(symbol)
        total += shares * quote.last if quote is not None else Decimal(0)
    return total


async def _record(
    trading: Trading,
    account: BrokerAccount,
    client_id: str,
    approved: Approved,
    funds_total: Decimal,
    market_now: datetime,
) -> Recorded | None:
    """The order as PENDING; None where another request with the same key was faster."""
    order = approved.order
    async with trading.sessions.begin() as session:
        order_id = await session.scalar(
            insert(Order)
            .values(
                client_order_id=client_id,
                origin=OrderOrigin.MANUAL,
                user_id=account.user_id,
                account_id=account.id,
                intent=order.intent,
                symbol=order.symbol,
                exchange=order.exchange,
                side=order.side,
                product=order.product,
                order_type=order.order_type,
                quantity=order.quantity,
                limit_price=order.limit_price,
                state=OrderState.PENDING,
                filled_quantity=0,
                environment=trading.rules.environment.value,
                decided_at=market_now,
            )
            .on_conflict_do_nothing(index_elements=[Order.client_order_id])
            .returning(Order.id)
        )
    if order_id is None:
        return None
    return Recorded(order_id, client_id, account.user_id, account.id, approved, funds_total)


async def _order_named(trading: Trading, client_id: str) -> Order | None:
    async with trading.sessions() as session:
        return await session.scalar(select(Order).where(Order.client_order_id == client_id))
