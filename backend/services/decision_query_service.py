"""Why it did or did not trade: each cycle's recorded outcomes, and for the other symbols the same pure answer again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import text

from backend.domain.modes import MODE_RULES, Mode, ModeRules
from backend.domain.orders import Intent
from backend.domain.ranking import MarketView, Ranking, Signal, rank
from backend.domain.reasons import Reason
from backend.domain.risk import QuoteView
from backend.models import AutoTradeSettings
from backend.services.context import Trading
from backend.services.gather_service import market_view, up_to_date
from backend.services.ml_service_client import signal_batch
from backend.services.settings_service import settings_of
from contracts.market import Quote
from contracts.predictions import PredictionsReply


@dataclass(frozen=True, slots=True)
class SymbolDecision:
    """One symbol in one cycle. `reason` is None where an order was approved; prices in rupees, the rest fractions.

    `strategy` is whose numbers these are: the one that was taken, or came nearest to it.

    `recorded` tells what the cycle wrote down from what is computed again from its inputs under today's settings.
    """

    symbol: str
    intent: Intent
    reason: Reason | None
    recorded: bool
    quantity: int
    limit_price: Decimal | None
    exit_reason: str | None
    strategy: str | None
    confidence: float | None
    expected_return_net: float | None
    price: Decimal | None


@dataclass(frozen=True, slots=True)
class CycleDecision:
    """One cycle for one user; `skipped` is why the user as a whole was passed over."""

    cycle_id: int
    scheduled_at: datetime
    status: str
    mode: Mode
    rules: ModeRules
    skipped: Reason | None
    model_version: str | None
    problems: Mapping[str, str]
    symbols: tuple[SymbolDecision, ...]


# Of the inputs, which hold every symbol anybody trades, only the user's symbols leave the database.
_CYCLES = text("""
    SELECT c.id, c.scheduled_at, c.status, d.mode, d.skipped_reason, d.outcomes,
           c.inputs ->> 'now' AS market_now, c.inputs -> 'problems' AS problems,
           c.inputs -> 'predictions' ->> 'model_version' AS model_version,
           CASE jsonb_typeof(c.inputs -> 'predictions') WHEN 'object'
                THEN (c.inputs -> 'predictions') - 'predictions' - 'candidates' END AS reply,
           (SELECT jsonb_object_agg(key, value) FROM jsonb_each(c.inputs -> 'quotes' -> 'quotes')
             WHERE key = ANY(:symbols)) AS quotes,
           (SELECT jsonb_object_agg(key, value) FROM jsonb_each(c.inputs -> 'predictions' -> 'predictions')
             WHERE key = ANY(:symbols)) AS predictions,
           (SELECT jsonb_object_agg(key, value) FROM jsonb_each(c.inputs -> 'predictions' -> 'candidates')
             WHERE key = ANY(:symbols)) AS candidates,
           (SELECT jsonb_object_agg(o.symbol || ' ' || o.intent, o.denied_reason) FROM orders o
             WHERE o.user_id = :user_id AND o.cycle_id = c.id AND o.denied_reason IS NOT NULL) AS denied
      FROM cycles c
      LEFT JOIN decisions d ON d.cycle_id = c.id AND d.user_id = :user_id
     WHERE c.id < :before_id
       AND (d.user_id IS NOT NULL OR c.scheduled_at >= CAST(:enabled_since AS timestamptz))
     ORDER BY c.id DESC LIMIT :limit
""")
_ID_MAX = 2**63 - 1


async def decisions_of(trading: Trading, user_id: int, before_id: int | None, limit: int) -> list[CycleDecision]:
    """The user's cycles below `before_id`, newest first: those on record, and since enabling all others too."""
    if not trading.market_data.instruments:
        await trading.market_data.load_instruments()
    async with trading.sessions() as session:
        settings = await settings_of(session, user_id)
        rows = (
            await session.execute(
                _CYCLES,
                {
                    "user_id": user_id,
                    "before_id": _ID_MAX if before_id is None else before_id,
                    "enabled_since": settings.enabled_at if settings.enabled else None,
                    "symbols": list(settings.symbols),
                    "limit": limit,
                },
            )
        ).all()
    return [_cycle_decision(trading, row, settings) for row in rows]


def _cycle_decision(trading: Trading, row: Any, settings: AutoTradeSettings) -> CycleDecision:
    mode = Mode(row.mode) if row.mode else settings.mode
    rules = MODE_RULES[mode]
    skipped = Reason(row.skipped_reason) if row.skipped_reason else None
    view = stored_view(trading, row, settings.symbols) if row.market_now else None
    recorded = [_recorded(outcome, row.denied or {}, view, rules) for outcome in row.outcomes or []]
    taken = {decision.symbol for decision in recorded}
    rest = [symbol for symbol in settings.symbols if symbol not in taken] if view is not None else []
    ranking = rank(view, mode, trading.rules.limits) if view is not None else None
    computed = [_computed(symbol, view, ranking, rules, skipped) for symbol in rest]
    return CycleDecision(
        cycle_id=row.id,
        scheduled_at=row.scheduled_at,
        status=row.status,
        mode=mode,
        rules=rules,
        skipped=skipped,
        model_version=row.model_version,
        problems=row.problems or {},
        symbols=(*recorded, *computed),
    )


def stored_view(trading: Trading, row: Any, symbols: Sequence[str]) -> MarketView:
    """The market as the cycle saw it, rebuilt from what it stored, for `symbols` only."""
    market_data = trading.market_data
    quotes = {
        # Cycles of before quotes told their age stored none.
        symbol: market_data.paper_quote(Quote.model_validate({"age_s": 0.0} | quote)).view
        for symbol, quote in (row.quotes or {}).items()
        if symbol in market_data.instruments
    }
    now = datetime.fromisoformat(row.market_now)
    if not row.reply:
        return market_view(trading, now, symbols, quotes, {}, {})
    parts = {"predictions": row.predictions or {}, "candidates": row.candidates or {}}
    batch = up_to_date(signal_batch(PredictionsReply.model_validate(row.reply | parts)), trading, now)
    return market_view(trading, now, symbols, quotes, batch.signals, batch.proposals)


def _recorded(
    outcome: Mapping[str, Any], denied: Mapping[str, str], view: MarketView | None, rules: ModeRules
) -> SymbolDecision:
    """What was decided for a symbol, or the reason with which the gate refused the order before it was sent."""
    symbol = outcome["symbol"]
    reason = outcome["reason"] or denied.get(f"{symbol} {outcome['intent']}")
    quote = view.quotes.get(symbol) if view else None
    # Decisions of before there were several strategies name none: theirs was the machine-learned one.
    signal = _signal(view, symbol, outcome.get("strategy"))
    confidence, expected = _numbers(signal, quote, rules)
    return SymbolDecision(
        symbol=symbol,
        intent=Intent(outcome["intent"]),
        reason=Reason(reason) if reason else None,
        recorded=True,
        quantity=outcome["quantity"],
        limit_price=Decimal(outcome["limit_price"]) if outcome["limit_price"] else None,
        exit_reason=outcome["exit_reason"],
        strategy=outcome.get("strategy") or (signal.strategy if signal else None),
        confidence=confidence,
        expected_return_net=expected,
        price=quote.last if quote else None,
    )


def _computed(
    symbol: str, view: MarketView | None, ranking: Ranking | None, rules: ModeRules, skipped: Reason | None
) -> SymbolDecision:
    quote = view.quotes.get(symbol) if view else None
    rejected = ranking.rejected.get(symbol) if ranking else None
    strategy = rejected.strategy if rejected else None
    confidence, expected = _numbers(_signal(view, symbol, strategy), quote, rules)
    return SymbolDecision(
        symbol=symbol,
        intent=Intent.ENTRY,
        # A candidate without a record was not among the user's symbols when the cycle ran.
        reason=skipped or (rejected.reason if rejected else Reason.SYMBOL_NOT_SELECTED),
        recorded=skipped is not None,
        quantity=0,
        limit_price=None,
        exit_reason=None,
        strategy=strategy,
        confidence=confidence,
        expected_return_net=expected,
        price=quote.last if quote else None,
    )


def _signal(view: MarketView | None, symbol: str, strategy: str | None) -> Signal | None:
    """The signal of a strategy, where it is known; else the machine-learned one's."""
    found = view.signals_of(symbol) if view else ()
    return next((signal for signal in found if signal.strategy == strategy), found[0] if found else None)


def _numbers(signal: Signal | None, quote: QuoteView | None, rules: ModeRules) -> tuple[float | None, float | None]:
    """(confidence, expected net return at the quote's price) as the ranking computes them; None where there is none."""
    if signal is None or signal.abstained:
        return None, None
    confidence = signal.touch.get(rules.return_net_min, 0.0)
    if quote is None or quote.last <= 0:
        return confidence, None
    moved = float(signal.reference_close / quote.last)
    return confidence, (1 + signal.expected_return_net) * moved - 1
