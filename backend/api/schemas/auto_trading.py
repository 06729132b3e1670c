"""Auto-trading on the wire: settings, status and trades."""

from datetime import date
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from backend.api.schemas.accounts import AccountRef, PlanView, QuotaView
from backend.api.schemas.common import Body, Day, Id, MarketReply, Moment, Money, PageQuery, Reply, Symbol
from backend.api.schemas.protections import ActiveProtection, ProtectionRules
from backend.api.schemas.signals import StrategyName, StrategyView
from backend.domain.decide import ExitReason, TradeStatus
from backend.domain.market import Product, Side
from backend.domain.modes import MODE_RULES, Mode
from backend.domain.reasons import NEXT_STEP
from backend.models import AutoTradeSettings
from backend.services.protection_service import rules_of
from backend.services.status_service import AutoTradingStatus, LastCycle
from backend.services.trade_query_service import ProfitAndLoss, TradeFilter, ValuedTrade
from contracts.common import Environment

SYMBOLS_PER_USER_MAX = 50
STRATEGIES_PER_USER_MAX = 20


def _distinct(names: list[str]) -> list[str]:
    if len(set(names)) != len(names):
        raise ValueError("something is listed twice")
    return names


class EnableBody(Body):
    """Both may be left out: the mode stays, and the primary account is used."""

    mode: Mode | None = None
    account_id: Id | None = None


class SettingsBody(Body):
    mode: Mode
    product: Product
    symbols: Annotated[list[Symbol], Field(min_length=1, max_length=SYMBOLS_PER_USER_MAX), AfterValidator(_distinct)]
    entries_per_day_max: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = Field(
        default=None, description="May only lower the plan's limit; null is the plan's limit."
    )
    strategies: (
        Annotated[list[StrategyName], Field(max_length=STRATEGIES_PER_USER_MAX), AfterValidator(_distinct)] | None
    ) = Field(
        default=None,
        description="Those that may enter trades; empty is every one that is certified. Left out or null, they stay.",
    )
    protections: ProtectionRules | None = Field(
        default=None, description="Left out or null, the protections stay as they are: no old client switches them."
    )


class ModeRulesView(Reply):
    """Fractions: a trade is taken from this expected net return and this probability of reaching it on."""

    return_net_min: float
    confidence_min: float
    funds_fraction_per_trade: float

    @classmethod
    def of(cls, mode: Mode) -> "ModeRulesView":
        rules = MODE_RULES[mode]
        return cls(
            return_net_min=rules.return_net_min,
            confidence_min=rules.confidence_min,
            funds_fraction_per_trade=float(rules.funds_fraction),
        )


class SettingsView(Reply):
    enabled: bool
    enabled_at: Moment | None
    mode: Mode
    mode_rules: ModeRulesView
    product: Product
    symbols: list[str]
    entries_per_day_max: int | None
    strategies: list[str]
    protections: ProtectionRules

    @classmethod
    def of(cls, row: AutoTradeSettings) -> "SettingsView":
        return cls(
            enabled=row.enabled,
            enabled_at=row.enabled_at,
            mode=row.mode,
            mode_rules=ModeRulesView.of(row.mode),
            product=row.product,
            symbols=row.symbols,
            entries_per_day_max=row.entries_per_day_max,
            strategies=row.strategies,
            protections=ProtectionRules.of(rules_of(row.protections, row.user_id)),
        )


class SettingsReply(MarketReply):
    """`message` says what follows from the change."""

    settings: SettingsView
    account: AccountRef | None = None
    message: str


class PnlView(Reply):
    """Net of charges. `unpriced` symbols are held but had no quote, so that `unrealized` leaves them out."""

    unrealized: Money
    realized_today: Money
    realized_total: Money
    unpriced: list[str]

    @classmethod
    def of(cls, pnl: ProfitAndLoss) -> "PnlView":
        return cls(
            unrealized=pnl.unrealized,
            realized_today=pnl.realized_today,
            realized_total=pnl.realized_total,
            unpriced=list(pnl.unpriced),
        )


class LastCycleView(Reply):
    scheduled_at: Moment
    status: str
    entries: int
    exits: int
    denied: dict[str, int]
    skipped_reason: str | None
    next_step: str | None

    @classmethod
    def of(cls, cycle: LastCycle) -> "LastCycleView":
        return cls(
            scheduled_at=cycle.scheduled_at,
            status=cycle.status,
            entries=cycle.entries,
            exits=cycle.exits,
            denied=cycle.denied,
            skipped_reason=cycle.skipped.value if cycle.skipped else None,
            next_step=NEXT_STEP[cycle.skipped] if cycle.skipped else None,
        )


class BlockingView(Reply):
    reason: str
    next_step: str


class StatusReply(MarketReply):
    """`blocking` is empty where the next cycle may enter trades, but for the symbols that `protections` bar.

    `strategies` says of each how often each mode would have traded on it in the past, and how that ended; it is empty,
    with a `strategies_note`, where that cannot be told now.
    """

    settings: SettingsView
    plan: PlanView
    quota: QuotaView
    account: AccountRef | None
    open_trades: int
    pnl: PnlView
    market_now: Moment
    market_phase: str
    next_open: Moment | None
    last_cycle: LastCycleView | None
    blocking: list[BlockingView]
    protections: list[ActiveProtection]
    strategies: list[StrategyView]
    strategies_note: str | None

    @classmethod
    def of(cls, environment: Environment, status: AutoTradingStatus) -> "StatusReply":
        return cls(
            environment=environment,
            settings=SettingsView.of(status.settings),
            plan=PlanView.of(status.plan),
            quota=QuotaView.of(status.quota),
            account=AccountRef.of(status.account) if status.account else None,
            open_trades=status.pnl.open_trades,
            pnl=PnlView.of(status.pnl),
            market_now=status.market_now,
            market_phase=status.phase.value,
            next_open=status.next_open,
            last_cycle=LastCycleView.of(status.last_cycle) if status.last_cycle else None,
            blocking=[BlockingView(reason=b.code, next_step=b.next_step) for b in status.blocking],
            protections=[ActiveProtection.of(block) for block in status.protections],
            strategies=[StrategyView.of(record) for record in status.strategies],
            strategies_note=status.strategies_note,
        )


class Period(Body):
    """IST days, both inclusive; open-ended where left out."""

    from_: Day | None = Field(default=None, alias="from")
    to: Day | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "Period":
        if self.from_ is not None and self.to is not None and self.from_ > self.to:
            raise ValueError("from must not be after to")
        # The day after the last one must exist, and so must both days in every time zone.
        if any(day is not None and not 1970 <= day.year <= 9000 for day in (self.from_, self.to)):
            raise ValueError("days lie between 1970 and 9000")
        return self


class TradesQuery(PageQuery, Period):
    """Filters; `from` and `to` are days of the decision."""

    symbol: Symbol | None = None
    status: TradeStatus | None = None
    side: Side | None = None
    mode: Mode | None = None

    def filter(self) -> TradeFilter:
        return TradeFilter(self.symbol, self.status, self.side, self.mode, self.from_, self.to)


class TradeView(Reply):
    """Quantities are shares, prices rupees per share, returns and confidences fractions, P&L net of charges.

    Shares and prices are on the scale after the share's last split or bonus; `dividends`, gross of tax, are income
    beside the P&L. `last_price` and `unrealized_pnl` are null where nothing is held or no quote came.
    """

    id: int
    cycle_id: int
    account_id: int
    symbol: str
    exchange: str
    side: Side
    product: Product
    mode: Mode
    status: TradeStatus
    strategy: str
    model_version: str | None
    logic_version: str | None
    cluster: str | None
    confidence: float
    confidence_kind: str
    expected_return_net: float
    horizon_ends_on: date
    reference_price: Money
    target_price: Money
    stop_price: Money
    quantity: int
    entry_quantity: int
    entry_price: Money | None
    exit_quantity: int
    exit_price: Money | None
    exit_reason: ExitReason | None
    charges: Money
    realized_pnl: Money
    dividends: Money
    last_price: Money | None
    unrealized_pnl: Money | None
    decided_at: Moment
    opened_at: Moment | None
    closed_at: Moment | None

    @classmethod
    def of(cls, valued: ValuedTrade) -> "TradeView":
        trade = valued.trade
        own = {name: getattr(trade, name) for name in cls.model_fields if name not in {"last_price", "unrealized_pnl"}}
        return cls(**own, last_price=valued.last_price, unrealized_pnl=valued.unrealized_pnl)


class TradesReply(MarketReply):
    trades: list[TradeView]
    next_cursor: str | None
