"""Analytics and decisions on the wire."""

from datetime import date
from typing import Literal

from backend.api.schemas.auto_trading import ModeRulesView
from backend.api.schemas.common import MarketReply, Moment, Money, Reply
from backend.domain.modes import Mode
from backend.domain.orders import Intent
from backend.domain.reasons import NEXT_STEP
from backend.services.analytics import TRADES_FOR_EVIDENCE_MIN, DayFigures, Figures
from backend.services.analytics_service import UserAnalytics
from backend.services.decision_query_service import CycleDecision, SymbolDecision
from contracts.common import Environment


class FiguresView(Reply):
    """Of closed trades: rupees net of charges; rates are fractions, null where they have no denominator.

    `dividends`, gross of tax, are income beside the realized P&L, which knows prices only.

    `mean_confidence` is what the model promised, `hit_rate` how often a trade returned at least that much net.
    """

    trades: int
    wins: int
    win_rate: float | None
    profit_factor: float | None
    average_win: Money | None
    average_loss: Money | None
    realized_pnl: Money
    charges: Money
    dividends: Money
    mean_confidence: float | None
    hit_rate: float | None

    @classmethod
    def of(cls, figures: Figures) -> "FiguresView":
        return cls(**{name: getattr(figures, name) for name in cls.model_fields})


class DayView(Reply):
    day: date
    trades: int
    realized_pnl: Money
    cumulative_pnl: Money

    @classmethod
    def of(cls, day: DayFigures) -> "DayView":
        return cls(day=day.day, trades=day.trades, realized_pnl=day.realized_pnl, cumulative_pnl=day.cumulative_pnl)


class AnalyticsReply(MarketReply):
    """`insufficient_evidence`: so few closed trades that their rates say next to nothing."""

    from_day: date | None
    to_day: date | None
    total: FiguresView
    insufficient_evidence: bool
    trades_for_evidence_min: int = TRADES_FOR_EVIDENCE_MIN
    truncated: bool
    open_trades: int
    unrealized_pnl: Money
    unpriced: list[str]
    max_drawdown_rupees: Money
    by_symbol: dict[str, FiguresView]
    by_mode: dict[str, FiguresView]
    by_strategy: dict[str, FiguresView]
    by_exit_reason: dict[str, FiguresView]
    daily: list[DayView]

    @classmethod
    def of(
        cls, environment: Environment, first: date | None, last: date | None, found: UserAnalytics
    ) -> "AnalyticsReply":
        closed = found.closed
        by = {name: {k: FiguresView.of(f) for k, f in groups.items()} for name, groups in closed.by.items()}
        return cls(
            environment=environment,
            from_day=first,
            to_day=last,
            total=FiguresView.of(closed.total),
            insufficient_evidence=closed.insufficient_evidence,
            truncated=found.truncated,
            open_trades=found.open_trades,
            unrealized_pnl=found.unrealized,
            unpriced=list(found.unpriced),
            max_drawdown_rupees=closed.max_drawdown,
            by_symbol=by["symbol"],
            by_mode=by["mode"],
            by_strategy=by["strategy"],
            by_exit_reason=by["exit_reason"],
            daily=[DayView.of(day) for day in closed.daily],
        )


class SymbolDecisionView(Reply):
    """`recorded` false: no order was in question, and the reason is computed again from the cycle's stored inputs.

    `strategy` is whose numbers these are: the one that was taken, or that came nearest to it.
    """

    symbol: str
    intent: Intent
    outcome: Literal["order", "denied"]
    reason: str | None
    next_step: str | None
    recorded: bool
    quantity: int
    limit_price: Money | None
    exit_reason: str | None
    strategy: str | None
    confidence: float | None
    expected_return_net: float | None
    price: Money | None

    @classmethod
    def of(cls, decision: SymbolDecision) -> "SymbolDecisionView":
        reason = decision.reason
        return cls(
            symbol=decision.symbol,
            intent=decision.intent,
            outcome="denied" if reason else "order",
            reason=reason.value if reason else None,
            next_step=NEXT_STEP[reason] if reason else None,
            recorded=decision.recorded,
            quantity=decision.quantity,
            limit_price=decision.limit_price,
            exit_reason=decision.exit_reason,
            strategy=decision.strategy,
            confidence=decision.confidence,
            expected_return_net=decision.expected_return_net,
            price=decision.price,
        )


class CycleDecisionView(Reply):
    """One cycle; `threshold` is what the mode asks of `expected_return_net` and `confidence`."""

    cycle_id: int
    scheduled_at: Moment
    status: str
    mode: Mode
    threshold: ModeRulesView
    skipped_reason: str | None
    next_step: str | None
    model_version: str | None
    problems: dict[str, str]
    symbols: list[SymbolDecisionView]

    @classmethod
    def of(cls, cycle: CycleDecision) -> "CycleDecisionView":
        return cls(
            cycle_id=cycle.cycle_id,
            scheduled_at=cycle.scheduled_at,
            status=cycle.status,
            mode=cycle.mode,
            threshold=ModeRulesView.of(cycle.mode),
            skipped_reason=cycle.skipped.value if cycle.skipped else None,
            next_step=NEXT_STEP[cycle.skipped] if cycle.skipped else None,
            model_version=cycle.model_version,
            problems=dict(cycle.problems),
            symbols=[SymbolDecisionView.of(decision) for decision in cycle.symbols],
        )


class DecisionsReply(MarketReply):
    cycles: list[CycleDecisionView]
    next_cursor: str | None
