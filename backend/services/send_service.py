"""Sending recorded orders: the gate, SUBMITTED committed, then the socket; what happened is written as it is known."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

import structlog
from sqlalchemy import func, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from backend.brokers.base import Broker, NotPlacedError, OrderRejectedError, OrderRequest
from backend.db import lock_account
from backend.domain.gate import Refused, admit, needed_rupees
from backend.domain.orders import Intent, OrderEventKind, OrderState
from backend.domain.risk import QuoteView
from backend.domain.trading_states import Cause, Scope, TradingState
from backend.errors import SaudaError
from backend.models import AutoTrade, AutoTradeSettings, BrokerAccount, Order, OrderOrigin, User
from backend.services import gate_service, ledger_service
from backend.services.context import Trading
from backend.services.cycle_service import FencedError, ShardClaim, is_newest, share_claim
from backend.services.order_service import apply_event, lock_order
from backend.services.record_service import Recorded
from backend.services.trading_state_service import impose

log = structlog.get_logger()

QUOTES_KEPT_S = 2.0
RATE_WAIT_S = 0.25


class Admission(Enum):
    """What came of asking to send an order: sent it may be, refused it was, or a moment later perhaps."""

    SEND = "send"
    STOP = "stop"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Admitted:
    """What the gate said, and the monotonic instant before it looked at what stands. An order with real money bears
    the names that its compliance record gives it, and no other order any."""

    admission: Admission
    looked_at: float
    algo_id: str = ""
    egress_ip: str = ""


@dataclass(frozen=True, slots=True)
class Sending:
    """One order on its way: the claim under which its shard is worked on (None: made by hand), and its broker."""

    recorded: Recorded
    claim: ShardClaim | None
    broker: Broker
    market_now: datetime


class FreshQuotes:
    """The quotes a batch is sent on, asked for anew once they are QUOTES_KEPT_S old."""

    def __init__(self, trading: Trading, symbols: Sequence[str]) -> None:
        self._trading = trading
        self._symbols = sorted(set(symbols))
        self._lock = asyncio.Lock()
        self._asked_at: tuple[float, datetime] | None = None
        self._views: dict[str, QuoteView] = {}

    async def of(self, symbol: str) -> tuple[QuoteView | None, float]:
        """The symbol's quote, and seconds since it was true: market seconds until it was asked for, real ones since.

        So a market whose clock runs faster than ours makes no quote look older than it is for us.
        """
        async with self._lock:
            if self._asked_at is None or time.monotonic() - self._asked_at[0] > QUOTES_KEPT_S:
                await self._ask()
        view = self._views.get(symbol)
        if view is None or self._asked_at is None:
            return None, 0.0
        began, market_now = self._asked_at
        return view, max(0.0, (market_now - view.as_of).total_seconds()) + time.monotonic() - began

    async def _ask(self) -> None:
        began = time.monotonic()
        try:
            market_now = await self._trading.clock()
            batch = await self._trading.market_data.quotes(self._symbols, market_now)
        except (SaudaError, TimeoutError) as silence:
            # The older quotes stand and grow older: the gate refuses them when they are too old.
            log.warning("no_fresh_quotes", error=repr(silence))
            return
        self._asked_at = began, market_now
        self._views = {symbol: quote.view for symbol, quote in batch.quotes.items()}


async def send(trading: Trading, claim: ShardClaim, recorded: Sequence[Recorded], market_now: datetime) -> None:
    """Send a shard's recorded orders, exits first, a few at a time; each outcome is written as soon as it is known.

    What is not sent stays PENDING and is abandoned by reconciliation: entries whose time is over, and all of it once
    a newer claim has fenced this one.
    """
    if not recorded:
        return
    brokers = await _broker_names(trading, {order.account_id for order in recorded})
    quotes = FreshQuotes(trading, [order.approved.order.symbol for order in recorded])
    until = time.monotonic() + trading.rules.entry_send_s_max
    at_once = asyncio.Semaphore(trading.rules.sends_at_once_max)

    async def one(order: Recorded) -> None:
        sending = Sending(order, claim, trading.brokers[brokers[order.account_id]], market_now)
        await send_one(trading, sending, quotes, until, at_once)

    failures: list[BaseException] = []
    for intent in (Intent.EXIT, Intent.ENTRY):
        batch = [order for order in recorded if order.approved.order.intent is intent]
        results = await asyncio.gather(*(one(order) for order in batch), return_exceptions=True)
        failures += [result for result in results if isinstance(result, BaseException)]
    fenced = [failure for failure in failures if isinstance(failure, FencedError)]
    if fenced:
        log.warning("send_fenced", cycle=claim.cycle_id, shard=claim.shard, unsent=len(fenced))
    for failure in failures:
        if not isinstance(failure, FencedError):
            raise failure


async def send_one(
    trading: Trading, sending: Sending, quotes: FreshQuotes, until: float, at_once: asyncio.Semaphore
) -> None:
    """Admit one order, commit SUBMITTED, and hand it to the broker; a busy second is waited for until `until`.

    Args:
        until: an instant of the monotonic clock.
        at_once: held during each attempt and not while waiting: an account's busy second is nobody else's.

    Raises:
        FencedError: a newer claim on the shard exists; nothing was written or sent.
    """
    while True:
        async with at_once:
            if sending.recorded.approved.order.intent is Intent.ENTRY and time.monotonic() > until:
                log.warning("entry_too_late", order=sending.recorded.order_id)
                return
            quote, age_s = await quotes.of(sending.recorded.approved.order.symbol)
            began = time.monotonic()
            admitted = await _admit(trading, sending, quote, age_s)
            if admitted.admission is Admission.SEND:
                trading.sends.committed(sending.recorded.order_id)
                send_by = min(
                    began + trading.rules.send_timeout_s, admitted.looked_at + trading.rules.halt_unseen_s_max
                )
                await _hand_over(trading, sending, admitted, send_by)
        if admitted.admission is not Admission.WAIT or time.monotonic() > until:
            return
        await asyncio.sleep(RATE_WAIT_S)


async def _admit(trading: Trading, sending: Sending, quote: QuoteView | None, quote_age_s: float) -> Admitted:
    """The gate and what it leads to, in one transaction: SUBMITTED with its money reserved, or DENIED with the reason.

    Locks are taken in one order everywhere: shard, order, trade, account.
    """
    recorded = sending.recorded
    async with trading.sessions.begin() as session:
        order = await _ours_to_send(session, sending)
        if order is None:
            return Admitted(Admission.STOP, time.monotonic())
        trade = select(AutoTrade.strategy).where(AutoTrade.id == order.auto_trade_id).with_for_update()
        strategy = await session.scalar(trade) if order.auto_trade_id is not None else None
        await lock_account(session, order.account_id)
        looked_at = time.monotonic()
        facts = await gate_service.facts_of(
            session, trading.rules, order, strategy, recorded.funds_total, sending.broker
        )
        verdict = admit(recorded.approved.order, quote, quote_age_s, facts, trading.rules.gate, trading.rules.limits)
        if isinstance(verdict, Refused):
            if verdict.wait:
                return Admitted(Admission.WAIT, looked_at)
            await _deny(session, order, verdict, sending.market_now)
            return Admitted(Admission.STOP, looked_at)
        if sending.broker.real_money:
            order.algo_id, order.egress_ip = await gate_service.names_of(session, order, sending.broker)
        order.submitted_at = func.clock_timestamp()
        await apply_event(session, order, OrderEventKind.SUBMITTED, "", sending.market_now)
        if needed := needed_rupees(verdict.order):
            await ledger_service.reserve(session, order, needed, sending.market_now)
    return Admitted(Admission.SEND, looked_at, order.algo_id or "", order.egress_ip or "")


async def _deny(session: AsyncSession, order: Order, refused: Refused, market_now: datetime) -> None:
    order.denied_reason = refused.reason
    await apply_event(session, order, OrderEventKind.DENIED, refused.reason.value, market_now)
    log.warning("send_denied", order=order.id, reason=refused.reason.value)
    if refused.impose is not None:
        state, cause = refused.impose
        held = await gate_service.held_unstopped(session, Scope.USER, str(order.user_id))
        detail = f"the gate refused an order for {order.symbol}: {refused.reason.value}" + (f"; {held}" if held else "")
        await impose(session, Scope.USER, str(order.user_id), state, cause, detail)


async def _hand_over(trading: Trading, sending: Sending, admitted: Admitted, send_by: float) -> None:
    """The socket, until `send_by` of the monotonic clock: who was stopped after the commit, by whatever, must not send,
    as others may already count on the order's absence."""
    recorded, market_now = sending.recorded, sending.market_now
    if not trading.sends.take(recorded.order_id):
        await _halt_for_excess(trading, recorded)
        return
    request = _request(recorded, admitted, send_by)
    try:
        request.require_time()
        async with asyncio.timeout(trading.rules.send_timeout_s):
            broker_order_id = await sending.broker.place(recorded.account_id, request)
    except NotPlacedError as unsent:
        await _answer(trading, recorded.order_id, OrderEventKind.ABANDONED, unsent.detail, None, market_now)
    except OrderRejectedError as refusal:
        await _answer(trading, recorded.order_id, OrderEventKind.REJECTED, refusal.detail, None, market_now)
    except Exception as silence:
        # Nobody knows whether the order exists: it stays SUBMITTED until the broker's book tells. What an adapter did
        # not foresee is no more proof than a timeout, and no other order's trouble.
        foreseen = isinstance(silence, TimeoutError | SaudaError)
        log.warning("send_outcome_unknown", order=recorded.order_id, error=repr(silence), exc_info=not foreseen)
    else:
        detail = f"accepted as {broker_order_id}"
        await _answer(trading, recorded.order_id, OrderEventKind.ACCEPTED, detail, broker_order_id, market_now)


def _request(recorded: Recorded, admitted: Admitted, send_by: float) -> OrderRequest:
    wanted = recorded.approved.order
    return OrderRequest(
        wanted.symbol,
        wanted.exchange,
        wanted.side,
        wanted.product,
        wanted.order_type,
        wanted.quantity,
        wanted.limit_price,
        recorded.client_order_id,
        trigger_price=wanted.trigger_price,
        send_by=send_by,
        algo_id=admitted.algo_id,
        egress_ip=admitted.egress_ip,
    )


async def _answer(
    trading: Trading,
    order_id: int,
    event: OrderEventKind,
    detail: str,
    broker_order_id: str | None,
    market_now: datetime,
) -> None:
    async with trading.sessions.begin() as session:
        order = await lock_order(session, order_id)
        order.broker_order_id = broker_order_id or order.broker_order_id
        if order.state is not OrderState.SUBMITTED:
            # Reconciliation was faster; what it concluded stands until the book, which it keeps reading, says more.
            log.warning("answer_came_late", order=order_id, state=order.state.value, answer=event.value)
            return
        await apply_event(session, order, event, detail, market_now)
        # A guard that is refused is tried twice; it must not be what stops a user's exits.
        if event is OrderEventKind.REJECTED and order.origin is not OrderOrigin.GUARD:
            await gate_service.halt_after_rejections(session, trading.rules.gate, order)


async def _halt_for_excess(trading: Trading, recorded: Recorded) -> None:
    """An order was about to go out that no commit stands for: a defect of ours, and nothing may be sent until it is
    understood."""
    log.error("send_without_commit", order=recorded.order_id)
    async with trading.sessions.begin() as session:
        held = await gate_service.held_unstopped(session, Scope.PLATFORM, "")
        detail = f"order {recorded.order_id} was about to be sent without its own commit" + (
            f"; {held}" if held else ""
        )
        await impose(session, Scope.PLATFORM, "", TradingState.HALTED, Cause.ORDERS_EXCEED_INTENTS, detail)


async def _ours_to_send(session: AsyncSession, sending: Sending) -> Order | None:
    """The order, locked; None where it was dropped or sent, or its user switched off, or was switched off, since then.

    Raises:
        FencedError: a newer claim on the shard exists.
    """
    claim = sending.claim
    if claim is not None:
        await share_claim(session, claim)
    enabled = (
        select(AutoTradeSettings.enabled & User.active)
        .join(User, User.id == AutoTradeSettings.user_id)
        .where(AutoTradeSettings.user_id == Order.user_id)
        .scalar_subquery()
    )
    row = (
        await session.execute(
            select(Order, true() if claim is None else is_newest(claim), enabled)
            .where(Order.id == sending.recorded.order_id)
            .with_for_update(of=Order)
        )
    ).one()
    order, newest, still_enabled = row
    if not newest:
        raise FencedError(f"order {order.id}'s shard has a newer claim")
    withdrawn = order.origin is OrderOrigin.ENGINE and order.intent is Intent.ENTRY and not still_enabled
    return None if withdrawn or order.state is not OrderState.PENDING else order


async def _broker_names(trading: Trading, account_ids: set[int]) -> dict[int, str]:
    async with trading.sessions() as session:
        rows = await session.execute(
            select(BrokerAccount.id, BrokerAccount.broker).where(BrokerAccount.id == func.any(list(account_ids)))
        )
        return {row.id: row.broker for row in rows}
