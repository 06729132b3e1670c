"""The tables. Importing this package registers all of them on `Base.metadata`."""

from backend.models.auto_trade import AutoTrade, AutoTradeSettings, Decision
from backend.models.backtest import Backtest, BacktestStatus, BacktestUsage
from backend.models.base import Base
from backend.models.broker_account import BrokerAccount, BrokerAccountStatus
from backend.models.corporate_action import (
    AccountAction,
    AccountActionStatus,
    CorporateActionDay,
    CorporateActionRecord,
)
from backend.models.cycle import Cycle, CycleShard, CycleStatus, fencing_token
from backend.models.idempotency import IdempotencyKey
from backend.models.ledger import DayEquity, LedgerBalance, LedgerEntry, journal_number
from backend.models.live_permission import LivePermission
from backend.models.order import Fill, Order, OrderEvent, OrderOrigin
from backend.models.paper import PaperAction, PaperEntry, PaperEntryKind, PaperOrder, PaperTrade
from backend.models.plan import DailyUsage, Plan, Subscription, SubscriptionStatus
from backend.models.platform import CalendarOverride, Deployment, OutboxMessage
from backend.models.trading_state import TradingStatePeriod
from backend.models.user import Role, User

__all__ = [
    "AccountAction",
    "AccountActionStatus",
    "AutoTrade",
    "AutoTradeSettings",
    "Backtest",
    "BacktestStatus",
    "BacktestUsage",
    "Base",
    "BrokerAccount",
    "BrokerAccountStatus",
    "CalendarOverride",
    "CorporateActionDay",
    "CorporateActionRecord",
    "Cycle",
    "CycleShard",
    "CycleStatus",
    "DailyUsage",
    "DayEquity",
    "Decision",
    "Deployment",
    "Fill",
    "IdempotencyKey",
    "LedgerBalance",
    "LedgerEntry",
    "LivePermission",
    "Order",
    "OrderEvent",
    "OrderOrigin",
    "OutboxMessage",
    "PaperAction",
    "PaperEntry",
    "PaperEntryKind",
    "PaperOrder",
    "PaperTrade",
    "Plan",
    "Role",
    "Subscription",
    "SubscriptionStatus",
    "TradingStatePeriod",
    "User",
    "fencing_token",
    "journal_number",
]
