"""Erasing a user: personal data goes at once, what the law makes us keep stays under the bare id."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from backend.db import OPERATOR_ROLE, Sessions, acting_as, lock_account
from backend.domain.decide import TradeStatus
from backend.domain.orders import LIVE_STATES
from backend.errors import ConflictError
from backend.models import (
    ApiKey,
    AutoTrade,
    AutoTradeSettings,
    Backtest,
    BacktestUsage,
    BillingDetails,
    BrokerAccount,
    BrokerAccountStatus,
    BrokerCall,
    BrokerCredential,
    BrokerSession,
    Credential,
    EmailToken,
    IdempotencyKey,
    LivePermission,
    LoginSession,
    Order,
    OutboxMessage,
    Payment,
    PaymentStatus,
    RecoveryCode,
    RefreshToken,
    Role,
    SandboxApp,
    SandboxGtt,
    SandboxSession,
    Subscription,
    User,
)
from backend.services import subscription_service
from backend.services.account_service import accounts_of, lock_user
from backend.services.audit_service import Actor, record

LIVE_TRADES = (TradeStatus.ENTERING, TradeStatus.OPEN, TradeStatus.EXITING)
ERASED = "erased"


@dataclass(frozen=True, slots=True)
class Hold:
    """What is kept after an erasure: in which tables, for how many years, and why."""

    what: str
    tables: tuple[str, ...]
    years: int
    why: str


HOLDS = (
    Hold(
        "orders, fills, trades, decisions, ledger, and the compliance record behind them",
        (
            *("orders", "order_events", "fills", "auto_trades", "decisions", "daily_usage", "trading_states"),
            *("ledger_entries", "ledger_balances", "day_equity", "account_actions", "compliance_records"),
            *("paper_orders", "paper_changes", "paper_trades", "paper_positions", "paper_entries", "paper_balances"),
            *("paper_actions", "broker_accounts"),
        ),
        5,
        "the audit trail of algorithmic orders (SEBI/HO/MIRSD/MIRSD-PoD/P/CIR/2025/0000013 and the exchanges' "
        "implementation standards)",
    ),
    Hold(
        "invoices and payments, with the buyer they name",
        ("invoices", "payments", "subscriptions"),
        8,
        "books of account (Companies Act 2013, section 128(5)) and of GST (CGST Act 2017, section 36)",
    ),
    Hold(
        "the audit log and your answers to notices, with the addresses they came from",
        ("audit_log", "consents"),
        5,
        "proof of who did what and of consent (DPDP Act 2023, section 6(10); SEBI's audit trail)",
    ),
)
"""The statutory holds; the tables' rows bear the user's id, and no name or address but where it says so."""
ERASED_TABLES = (
    RefreshToken,
    LoginSession,
    RecoveryCode,
    Credential,
    EmailToken,
    ApiKey,
    BrokerSession,
    BrokerCredential,
    SandboxSession,
    SandboxGtt,
    SandboxApp,
    BillingDetails,
    IdempotencyKey,
    LivePermission,
    AutoTradeSettings,
    Backtest,
    BacktestUsage,
)
"""Whose rows go, in an order that foreign keys allow."""


async def erase(
    sessions: Sessions, actor: Actor, user_id: int, now: datetime, *, end_subscription: bool = False
) -> None:
    """Erase a user who has just proved who they are: all or nothing; the login ends with the commit.

    Raises:
        ConflictError: trades or orders are open, a paid plan runs and `end_subscription` is not set, or the user is an
            administrator or in support.
    """
    with acting_as(OPERATOR_ROLE):
        async with sessions.begin() as session:
            await lock_user(session, user_id)
            user = (await session.scalars(select(User).where(User.id == user_id))).one()
            _require_plain(user)
            accounts = await accounts_of(session, user_id)
            for account in sorted(accounts, key=lambda each: each.id):
                await lock_account(session, account.id)
            await _require_nothing_open(session, user_id)
            await _end_plans(session, user_id, now, end_subscription=end_subscription)
            await _erase_rows(session, user)
            user.email, user.name, user.active = f"{ERASED}-{user_id}@invalid", "", False
            user.email_verified_at, user.erased_at = None, now
            await session.flush()
            await record(session, actor, "user.erase", subject_id=user_id)


def _require_plain(user: User) -> None:
    if user.erased_at is not None:
        raise ConflictError("This user is erased already.", code="user_erased")
    if user.role is not Role.USER:
        raise ConflictError(
            f"You are {user.role.value}: let another administrator make you a plain user first.", code="role_held"
        )


async def _require_nothing_open(session: AsyncSession, user_id: int) -> None:
    trades = select(func.count()).where(AutoTrade.user_id == user_id, AutoTrade.status.in_(LIVE_TRADES))
    if count := await session.scalar(trades):
        raise ConflictError(
            f"{count} trades are open: close them first (disable auto-trading, then sell or wait for their exits).",
            code="open_trades",
        )
    orders = select(func.count()).where(Order.user_id == user_id, Order.state.in_(LIVE_STATES))
    if count := await session.scalar(orders):
        raise ConflictError(
            f"{count} orders are open: cancel them first with DELETE /v1/orders/{{id}}.", code="open_orders"
        )


async def _end_plans(session: AsyncSession, user_id: int, now: datetime, *, end_subscription: bool) -> None:
    current = await subscription_service.current_of(session, user_id)
    if current is not None:
        if not end_subscription and await _is_paid(session, current):
            raise ConflictError(
                f"Your plan {current.plan_code} is paid for and would be lost: wait for its end, or send "
                '"end_subscription": true.',
                code="subscription_current",
            )
        await subscription_service.end(session, current, now)
    await subscription_service.withdraw_pending(session, user_id, now)


async def _is_paid(session: AsyncSession, subscription: Subscription) -> bool:
    paid = select(Payment.id).where(Payment.subscription_id == subscription.id, Payment.status == PaymentStatus.PAID)
    return await session.scalar(paid.limit(1)) is not None


async def _erase_rows(session: AsyncSession, user: User) -> None:
    for table in ERASED_TABLES:
        await session.execute(delete(table).where(table.user_id == user.id))
    accounts = select(BrokerAccount.id).where(BrokerAccount.user_id == user.id)
    await session.execute(delete(BrokerCall).where(BrokerCall.account_id.in_(accounts)))
    # A mail that was asked for before it is known whose it is bears the address alone.
    address = func.lower(OutboxMessage.payload["email"].astext) == user.email.lower()
    await session.execute(delete(OutboxMessage).where(or_(OutboxMessage.user_id == user.id, address)))
    await session.execute(
        update(BrokerAccount)
        .where(BrokerAccount.user_id == user.id)
        .values(label=ERASED, status=BrokerAccountStatus.CLOSED, is_primary=False)
        .execution_options(synchronize_session=False)
    )
