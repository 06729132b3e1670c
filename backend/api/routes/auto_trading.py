"""Auto-trading: switching it, what it did and why, and what came of it."""

from typing import Annotated

from fastapi import APIRouter, Query

from backend.api.deps import AutoTrader, CurrentUser, State, TradingUser
from backend.api.documentation import documented
from backend.api.schemas.accounts import AccountRef
from backend.api.schemas.auto_trading import (
    EnableBody,
    Period,
    SettingsBody,
    SettingsReply,
    SettingsView,
    StatusReply,
    TradesQuery,
    TradesReply,
    TradeView,
)
from backend.api.schemas.common import PageQuery, next_cursor
from backend.api.schemas.market import MarketStatusReply
from backend.api.schemas.reports import AnalyticsReply, CycleDecisionView, DecisionsReply
from backend.services import settings_service
from backend.services.analytics_service import analytics_of
from backend.services.decision_query_service import decisions_of
from backend.services.market_calendar import EXCHANGE
from backend.services.plan_service import require_symbols
from backend.services.status_service import auto_trading_status, market_status
from backend.services.strategy_service import require_strategies
from backend.services.trade_query_service import trades_of, valued_trades

router = APIRouter(prefix="/v1/auto-trading", tags=["auto-trading"])


@router.get("/status", **documented("get_auto_trading_status", 401, 503))
async def get_auto_trading_status(user: CurrentUser, state: State) -> StatusReply:
    """Where auto-trading stands: settings, plan, quota, P&L, the market, the last cycle, and what blocks entries."""
    return StatusReply.of(state.environment, await auto_trading_status(state.trading, user.id))


@router.post("/enable", **documented("enable_auto_trading", 401, 403, 404, 409, 503))
async def enable_auto_trading(body: EnableBody, user: AutoTrader, state: State) -> SettingsReply:
    """Let the engine enter trades from the next cycle on. Needs a plan with auto-trading and a ready account."""
    now = await state.trading.clock()
    async with state.sessions.begin() as session:
        settings, account = await settings_service.enable(session, user.id, body.mode, body.account_id, now)
    return SettingsReply(
        environment=state.environment,
        settings=SettingsView.of(settings),
        account=AccountRef.of(account),
        message="Entries may be made from the next cycle on.",
    )


@router.post("/disable", **documented("disable_auto_trading", 401))
async def disable_auto_trading(user: TradingUser, state: State) -> SettingsReply:
    """Stop entering trades at once. Exits go on: targets, stops, horizons and square-off protect what is held."""
    async with state.sessions.begin() as session:
        settings = await settings_service.disable(session, user.id)
    return SettingsReply(
        environment=state.environment,
        settings=SettingsView.of(settings),
        message="No more entries are made. Open trades keep their targets, stops and exits.",
    )


@router.put("/settings", **documented("replace_auto_trading_settings", 401, 403, 503))
async def replace_auto_trading_settings(body: SettingsBody, user: TradingUser, state: State) -> SettingsReply:
    """Replace mode, product, symbols, the own daily limit and, where given, the strategies and the protections.

    Open trades keep the plan they were entered with.
    """
    await settings_service.require_known(state.trading, body.symbols)
    await require_strategies(state.trading.ml_service, body.strategies or [])
    now = await state.trading.clock()
    async with state.sessions.begin() as session:
        await require_symbols(session, user.id, len(body.symbols))
        settings = await settings_service.replace_settings(
            session,
            user.id,
            mode=body.mode,
            product=body.product,
            symbols=body.symbols,
            entries_per_day_max=body.entries_per_day_max,
            protections=body.protections.rules() if body.protections else None,
            strategies=body.strategies,
            market_now=now,
        )
    return SettingsReply(
        environment=state.environment,
        settings=SettingsView.of(settings),
        message="The settings count from the next cycle on.",
    )


@router.get("/trades", **documented("list_auto_trades", 401))
async def list_auto_trades(query: Annotated[TradesQuery, Query()], user: CurrentUser, state: State) -> TradesReply:
    """The user's trades, newest first, with the unrealized P&L of those that hold shares."""
    async with state.sessions() as session:
        trades = await trades_of(session, user.id, query.filter(), query.before_id, query.limit + 1)
    valued = await valued_trades(state.trading, trades[: query.limit])
    return TradesReply(
        environment=state.environment,
        trades=[TradeView.of(v) for v in valued],
        next_cursor=next_cursor([trade.id for trade in trades], query.limit),
    )


@router.get("/analytics", **documented("get_auto_trading_analytics", 401))
async def get_auto_trading_analytics(
    period: Annotated[Period, Query()], user: CurrentUser, state: State
) -> AnalyticsReply:
    """What the trades closed in a period add up to, and how the promised confidence compares with what happened."""
    found = await analytics_of(state.trading, user.id, period.from_, period.to)
    return AnalyticsReply.of(state.environment, period.from_, period.to, found)


@router.get("/decisions", **documented("list_auto_trading_decisions", 401, 503))
async def list_auto_trading_decisions(
    page: Annotated[PageQuery, Query()], user: CurrentUser, state: State
) -> DecisionsReply:
    """Cycle by cycle, why each of the user's symbols was or was not traded, with the numbers that decided it."""
    cycles = await decisions_of(state.trading, user.id, page.before_id, page.limit + 1)
    return DecisionsReply(
        environment=state.environment,
        cycles=[CycleDecisionView.of(cycle) for cycle in cycles[: page.limit]],
        next_cursor=next_cursor([cycle.cycle_id for cycle in cycles], page.limit),
    )


@router.get("/market-status", **documented("get_auto_trading_market_status", 401, 503))
async def get_auto_trading_market_status(user: CurrentUser, state: State) -> MarketStatusReply:  # noqa: ARG001
    """The market's phases now, its windows today, the next open and the square-off times."""
    return MarketStatusReply.of(state.environment, EXCHANGE.value, await market_status(state.trading))
