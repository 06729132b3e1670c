"""The tables. Importing this package registers all of them on `Base.metadata`."""

from backend.models.audit import AuditEntry, AuditHead
from backend.models.auto_trade import AutoTrade, AutoTradeSettings, Decision
from backend.models.backtest import Backtest, BacktestStatus, BacktestUsage
from backend.models.base import Base
from backend.models.billing import BillingDetails, Invoice, InvoiceSeries, Payment, PaymentEvent, PaymentStatus
from backend.models.broker_account import (
    BrokerAccount,
    BrokerAccountStatus,
    BrokerCall,
    BrokerCredential,
    BrokerSession,
)
from backend.models.consent import Consent
from backend.models.corporate_action import (
    AccountAction,
    AccountActionStatus,
    CorporateActionDay,
    CorporateActionRecord,
)
from backend.models.cycle import Cycle, CycleShard, CycleStatus, fencing_token
from backend.models.idempotency import IdempotencyKey
from backend.models.identity import (
    ApiKey,
    Credential,
    EmailPurpose,
    EmailToken,
    LoginDelay,
    LoginSession,
    RecoveryCode,
    RefreshToken,
)
from backend.models.ledger import DayEquity, LedgerBalance, LedgerEntry, journal_number
from backend.models.live_permission import ComplianceKind, ComplianceRecord, LivePermission
from backend.models.order import Fill, Order, OrderEvent, OrderOrigin
from backend.models.paper import (
    PaperAction,
    PaperChange,
    PaperEntry,
    PaperEntryKind,
    PaperOrder,
    PaperPosition,
    PaperTrade,
)
from backend.models.plan import CURRENT, Billing, DailyUsage, Feature, Plan, Subscription, SubscriptionStatus
from backend.models.platform import CalendarOverride, Deployment, OutboxMessage
from backend.models.sandbox import GttStatus, SandboxApp, SandboxGtt, SandboxSession
from backend.models.trading_state import TradingStatePeriod
from backend.models.user import Role, User

__all__ = [
    "CURRENT",
    "AccountAction",
    "AccountActionStatus",
    "ApiKey",
    "AuditEntry",
    "AuditHead",
    "AutoTrade",
    "AutoTradeSettings",
    "Backtest",
    "BacktestStatus",
    "BacktestUsage",
    "Base",
    "Billing",
    "BillingDetails",
    "BrokerAccount",
    "BrokerAccountStatus",
    "BrokerCall",
    "BrokerCredential",
    "BrokerSession",
    "CalendarOverride",
    "ComplianceKind",
    "ComplianceRecord",
    "Consent",
    "CorporateActionDay",
    "CorporateActionRecord",
    "Credential",
    "Cycle",
    "CycleShard",
    "CycleStatus",
    "DailyUsage",
    "DayEquity",
    "Decision",
    "Deployment",
    "EmailPurpose",
    "EmailToken",
    "Feature",
    "Fill",
    "GttStatus",
    "IdempotencyKey",
    "Invoice",
    "InvoiceSeries",
    "LedgerBalance",
    "LedgerEntry",
    "LivePermission",
    "LoginDelay",
    "LoginSession",
    "Order",
    "OrderEvent",
    "OrderOrigin",
    "OutboxMessage",
    "PaperAction",
    "PaperChange",
    "PaperEntry",
    "PaperEntryKind",
    "PaperOrder",
    "PaperPosition",
    "PaperTrade",
    "Payment",
    "PaymentEvent",
    "PaymentStatus",
    "Plan",
    "RecoveryCode",
    "RefreshToken",
    "Role",
    "SandboxApp",
    "SandboxGtt",
    "SandboxSession",
    "Subscription",
    "SubscriptionStatus",
    "TradingStatePeriod",
    "User",
    "fencing_token",
    "journal_number",
]
