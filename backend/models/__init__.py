"""The tables. Importing this package registers all of them on `Base.metadata`."""

from backend.models.auto_trade import AutoTrade, AutoTradeSettings, Decision
from backend.models.base import Base
from backend.models.broker_account import BrokerAccount, BrokerAccountStatus
from backend.models.cycle import Cycle, CycleShard, CycleStatus, fencing_token
from backend.models.order import Fill, Order, OrderEvent
from backend.models.paper import PaperEntry, PaperEntryKind, PaperOrder, PaperTrade
from backend.models.plan import DailyUsage, Plan, Subscription, SubscriptionStatus
from backend.models.platform import CalendarOverride, Deployment, OutboxMessage
from backend.models.user import Role, User

__all__ = [
    "AutoTrade",
    "AutoTradeSettings",
    "Base",
    "BrokerAccount",
    "BrokerAccountStatus",
    "CalendarOverride",
    "Cycle",
    "CycleShard",
    "CycleStatus",
    "DailyUsage",
    "Decision",
    "Deployment",
    "Fill",
    "Order",
    "OrderEvent",
    "OutboxMessage",
    "PaperEntry",
    "PaperEntryKind",
    "PaperOrder",
    "PaperTrade",
    "Plan",
    "Role",
    "Subscription",
    "SubscriptionStatus",
    "User",
    "fencing_token",
]
