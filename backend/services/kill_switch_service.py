"""The kill switch, and the pause: first the state, which alone stops every further send, then the brokers' cancels."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, String, cast, func, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.orders import Intent
from backend.domain.trading_states import Cause, Effective, Scope, Standings, TradingState, gravest, permits
from backend.errors import InvalidRequestError, NotFoundError
from backend.models import AutoTrade, BrokerAccount, Order, OrderOrigin, User
from backend.services.audit_service import Actor, record
from backend.services.cancel_service import CancelCounts, cancel_orders, open_orders
from backend.services.context import Trading
from backend.services.gate_service import held_unstopped
from backend.services.trading_state_service import impose, standings


@dataclass(frozen=True, slots=True)
class Halt:
    """Whom to halt and why. `flatten` sells open auto-trades at the next tick and leaves exits that rest alone.

    Shares of no auto-trade are not sold: Sauda has no part in them. With the state REDUCING it is a pause: entries
    stop, exits go on.
    """

    scope: Scope
    key: str
    cause: Cause
    reason: str
    flatten: bool = False
    state: TradingState = TradingState.HALTED


@dataclass(frozen=True, slots=True)
class KillSwitchReport:
    """What stands now for the scope, whether that is new, and what became of the open orders.

    `unstopped` says how many open trades are held without their stops; empty where none is.
    """

    effective: Effective
    changed: bool
    cancels: CancelCounts
    unstopped: str = ""


async def kill_switch(trading: Trading, halt: Halt, by: User | None, *, actor: Actor | None = None) -> KillSwitchReport:
    """Halt, and cancel the open orders of the scope within `cancel_service.CANCEL_S_MAX`. Needs no other service.

    Orders the user made in the broker's own app are left alone, and so are exits where what stands permits them. Doing
    it twice asks the brokers again. `by` None is the operator's command line; `actor` is whom the audit log names:
    an administrator, while a user's own switch is on record as the period itself. The record comes last, in a
    transaction of its own: whatever holds up the audit log holds up no halt.

    Raises:
        InvalidRequestError, NotFoundError: there is no such scope to halt.
        SQLAlchemyError, OSError: the database did not answer; the halt stands only if its commit came through. It may
            stand and not be on record: then do it again.
    """
    async with trading.sessions.begin() as session:
        await _require_target(trading, session, halt)
        changed = await impose(
            session,
            halt.scope,
            halt.key,
            halt.state,
            halt.cause,
            halt.reason,
            flatten=halt.flatten,
            by=by.id if by else None,
        )
    try:
        return await _cancelled(trading, halt, changed)
    finally:
        if actor is not None:
            async with trading.sessions.begin() as session:
                await _record(session, actor, halt, changed)


async def _cancelled(trading: Trading, halt: Halt, changed: bool) -> KillSwitchReport:
    """Cancel what is open under a halt that stands."""
    async with trading.sessions() as session:
        effective = _of_scope(await standings(session), halt)
        exits = permits(effective, Intent.EXIT)
        unstopped = "" if exits else await held_unstopped(session, halt.scope, halt.key)
        kept = Order.intent == Intent.ENTRY if exits else true()
        orders = await open_orders(session, Order.origin != OrderOrigin.EXTERNAL, _concerned(halt), kept)
    cancels = await cancel_orders(trading, orders, f"kill switch: {halt.reason}")
    return KillSwitchReport(effective, changed, cancels, unstopped)


async def _record(session: AsyncSession, actor: Actor, halt: Halt, changed: bool) -> None:
    await record(
        session,
        actor,
        "trading.pause" if halt.state is TradingState.REDUCING else "trading.halt",
        subject_id=int(halt.key) if halt.scope is Scope.USER else None,
        target=f"{halt.scope}:{halt.key}",
        after={"state": halt.state.value, "flatten": halt.flatten, "changed": changed},
        reason=halt.reason,
    )


def _of_scope(standing: Standings, halt: Halt) -> Effective:
    """What holds for the scope as a whole: its own state and the platform's."""
    own = {(Scope.PLATFORM, ""), (halt.scope, halt.key)}
    return gravest(row for row in standing.rows if (row.scope, row.key) in own)


def _concerned(halt: Halt) -> ColumnElement[bool]:
    match halt.scope:
        case Scope.PLATFORM:
            return true()
        case Scope.BROKER:
            return BrokerAccount.broker == halt.key
        case Scope.STRATEGY:
            return AutoTrade.strategy == halt.key
        case Scope.USER:
            return Order.user_id == int(halt.key)
        case Scope.HOLDING:
            return func.concat(Order.account_id, ":", Order.symbol) == halt.key


async def _require_target(trading: Trading, session: AsyncSession, halt: Halt) -> None:
    """A typing error must not look like a halt. Strategies are the models' own: any name may be halted beforehand."""
    if (halt.scope is Scope.PLATFORM) != (halt.key == ""):
        raise InvalidRequestError("The platform has no key, and every other scope has one.", code="invalid_scope_key")
    if halt.scope is Scope.BROKER and halt.key not in trading.brokers:
        raise NotFoundError(f"There is no broker {halt.key}; there are: {', '.join(sorted(trading.brokers))}.")
    if halt.scope is Scope.HOLDING:
        raise InvalidRequestError("Single holdings are halted by Sauda itself only.", code="invalid_scope")
    if halt.scope is Scope.USER:
        # As the send's gate compares it: 7 is a user, 07 would halt nobody.
        known = await session.scalar(select(User.id).where(cast(User.id, String) == halt.key))
        if known is None:
            raise NotFoundError(f"There is no user {halt.key}.")
