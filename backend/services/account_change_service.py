"""Changing a broker account: its label, whether it executes, whether it is switched on, and closing it."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.orders import LIVE_STATES
from backend.errors import ConflictError
from backend.models import BrokerAccount, BrokerAccountStatus, Order
from backend.services.account_service import (
    accounts_of,
    lock_user,
    locked_account,
    ready_account,
    require_no_live_trades,
)
from backend.services.audit_service import Actor, record
from backend.services.broker_credential_service import FieldState, erase_credentials, states_of
from backend.services.plan_service import require_broker


async def change_account(
    session: AsyncSession,
    connected: Collection[str],
    actor: Actor,
    user_id: int,
    account_id: int,
    *,
    label: str | None = None,
    enabled: bool | None = None,
    primary: bool = False,
) -> BrokerAccount:
    """Change what is given, nothing where anything of it is refused; `connected` are the brokers of this deployment.

    Raises:
        NotFoundError: no such account of this user.
        ConflictError: it is closed, or not ready for what is asked, or trades or orders are open in it.
        NotAllowedError: the user's plan has no accounts at this broker (any more).
    """
    await lock_user(session, user_id)
    account = await locked_account(session, user_id, account_id)
    before, label_before = _stored(account), account.label
    if label is not None:
        account.label = label
    if enabled is True:
        await _enable(session, connected, account)
    elif enabled is False and account.status is BrokerAccountStatus.READY:
        await _require_nothing_open(session, account_id)
        account.status = BrokerAccountStatus.DISABLED
    await session.flush()
    if primary:
        await require_broker(session, user_id, account.broker)
        if account.status is not BrokerAccountStatus.READY:
            raise ConflictError(f"The account {account_id} is switched off: enable it first.", code="account_not_ready")
        account = await ready_account(session, user_id, account_id)
    after = _stored(account)
    if account.label != label_before:
        after["label_changed"] = True
    if after != before:
        target = f"broker_account:{account_id}"
        await record(
            session, actor, "broker_account.change", subject_id=user_id, target=target, before=before, after=after
        )
    return account


async def _enable(session: AsyncSession, connected: Collection[str], account: BrokerAccount) -> None:
    if account.status is BrokerAccountStatus.READY:
        return
    await require_broker(session, account.user_id, account.broker)
    if account.broker not in connected:
        raise ConflictError(
            f"The broker {account.broker} is not connected in this deployment: the account stays linked.",
            code="broker_not_connected",
        )
    missing = [state.field for state in await states_of(session, account) if state.set_at is None]
    if missing:
        raise ConflictError(
            f"{', '.join(missing)} missing: PUT /v1/broker-accounts/{account.id}/credentials first.",
            code="credentials_missing",
        )
    account.status = BrokerAccountStatus.READY
    if not any(other.is_primary for other in await accounts_of(session, account.user_id)):
        account.is_primary = True


async def close_account(session: AsyncSession, actor: Actor, user_id: int, account_id: int) -> BrokerAccount:
    """Close an account for good: its credentials are erased, its history stays. Joins the transaction.

    Raises:
        NotFoundError: no such account of this user.
        ConflictError: it is closed already, or trades or orders are open in it.
    """
    await lock_user(session, user_id)
    account = await locked_account(session, user_id, account_id)
    await _require_nothing_open(session, account_id)
    before = _stored(account)
    await erase_credentials(session, actor, account)
    account.status, account.is_primary = BrokerAccountStatus.CLOSED, False
    await session.flush()
    target = f"broker_account:{account_id}"
    after = _stored(account)
    await record(session, actor, "broker_account.close", subject_id=user_id, target=target, before=before, after=after)
    return account


async def withdraw_credentials(session: AsyncSession, actor: Actor, user_id: int, account_id: int) -> list[FieldState]:
    """Erase an account's credentials, and switch it off with them. Joins the transaction.

    Raises:
        NotFoundError: no such account of this user.
        ConflictError: it is closed, or trades or orders are open in it: without credentials nothing would end them.
    """
    await lock_user(session, user_id)
    account = await locked_account(session, user_id, account_id)
    await _require_nothing_open(session, account_id)
    if states_needed := await states_of(session, account):
        account.status = BrokerAccountStatus.DISABLED
        await session.flush()
        await erase_credentials(session, actor, account)
        states_needed = await states_of(session, account)
    return states_needed


async def _require_nothing_open(session: AsyncSession, account_id: int) -> None:
    await require_no_live_trades(session, account_id)
    live = await session.scalar(
        select(func.count()).where(Order.account_id == account_id, Order.state.in_(LIVE_STATES))
    )
    if live:
        raise ConflictError(
            f"{live} orders are still open in the account {account_id}: cancel them first (DELETE /v1/orders/{{id}}).",
            code="account_has_open_orders",
        )


def _stored(account: BrokerAccount) -> dict[str, Any]:
    """What the audit log is told: not the label, the user's own words, for the log outlives an erasure."""
    return {"status": account.status.value, "is_primary": account.is_primary}
