"""A user who paper-trades, ready to go: account, play money, plan and settings, for the demo and for replays."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncSession

from backend.brokers.paper import PaperBroker
from backend.domain.market import Product
from backend.domain.modes import Mode
from backend.models import (
    AutoTradeSettings,
    BrokerAccount,
    BrokerAccountStatus,
    Credential,
    Subscription,
    SubscriptionStatus,
    User,
)
from backend.services.account_service import deposit_play_money


async def create_paper_user(
    session: AsyncSession,
    user: User,
    *,
    password_hash: str | None = None,
    plan: str,
    mode: Mode | None,
    symbols: list[str],
    rupees: Decimal,
    at: datetime,
) -> None:
    """Add `user` with a primary paper account of `rupees`; with a mode, also the active plan and enabled auto-trading.

    Without a `password_hash` nobody can log in as this user.

    Joins the caller's transaction.
    """
    session.add(user)
    await session.flush()
    if password_hash is not None:
        session.add(Credential(user_id=user.id, password_hash=password_hash))
    account = BrokerAccount(
        user_id=user.id,
        broker=PaperBroker.name,
        label="Paper account",
        status=BrokerAccountStatus.READY,
        is_primary=True,
    )
    session.add(account)
    await session.flush()
    await deposit_play_money(session, account.id, rupees, at)
    if mode is None:
        return
    session.add(Subscription(user_id=user.id, plan_code=plan, status=SubscriptionStatus.ACTIVE, activated_at=at))
    session.add(
        AutoTradeSettings(user_id=user.id, enabled=True, mode=mode, product=Product.CNC, symbols=symbols, enabled_at=at)
    )
