"""Reading a user's trades: filtered and in pages, with what the open ones are worth now."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

import structlog
from sqlalchemy import and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.calendar import IST
from backend.domain.corporate_actions import RESCALING, CorporateAction
from backend.domain.decide import TradeStatus
from backend.domain.market import Side
from backend.domain.modes import Mode
from backend.domain.positions import Execution, Position, position_of
from backend.domain.trades import TradeFill, executed, timeline
from backend.errors import SaudaError
from backend.models import AutoTrade, Fill, Order
from backend.services.action_record_service import actions_of_trades
from backend.services.context import Trading
from backend.services.plan_service import midnight_after
from contracts.common import SYMBOLS_PER_REQUEST_MAX
from contracts.market import Quote

log = structlog.get_logger()

LIVE = (TradeStatus.ENTERING, TradeStatus.OPEN, TradeStatus.EXITING)


@dataclass(frozen=True, slots=True)
class TradeFilter:
    """None means any. `first` and `last` are IST days of the decision, both inclusive."""

    symbol: str | None = None
    status: TradeStatus | None = None
    side: Side | None = None
    mode: Mode | None = None
    first: date | None = None
    last: date | None = None


@dataclass(frozen=True, slots=True)
class ValuedTrade:
    """A trade; while shares are held, the last price and the unrealized P&L net of their entry charges, in rupees.

    Both are None where nothing is held or no quote came.
    """

    trade: AutoTrade
    last_price: Decimal | None
    unrealized_pnl: Decimal | None


@dataclass(frozen=True, slots=True)
class ProfitAndLoss:
    """Rupees net of charges. `realized_today` is of trades closed on the market's present day, `unpriced` symbols
    are held but had no quote, so that `unrealized` leaves them out."""

    open_trades: int
    unrealized: Decimal
    realized_today: Decimal
    realized_total: Decimal
    unpriced: tuple[str, ...]


def midnight_before(day: date) -> datetime:
    """The instant at which `day` begins in India."""
    return datetime.combine(day, datetime.min.time(), tzinfo=IST)


async def trades_of(
    session: AsyncSession, user_id: int, wanted: TradeFilter, before_id: int | None, limit: int
) -> list[AutoTrade]:
    """The user's trades, newest first, below `before_id`."""
    query = select(AutoTrade).where(AutoTrade.user_id == user_id)
    for column, value in (
        (AutoTrade.symbol, wanted.symbol),
        (AutoTrade.status, wanted.status),
        (AutoTrade.side, wanted.side),
        (AutoTrade.mode, wanted.mode),
    ):
        if value is not None:
            query = query.where(column == value)
    if wanted.first is not None:
        query = query.where(AutoTrade.decided_at >= midnight_before(wanted.first))
    if wanted.last is not None:
        query = query.where(AutoTrade.decided_at < midnight_after(wanted.last))
    if before_id is not None:
        query = query.where(AutoTrade.id < before_id)
    return list((await session.scalars(query.order_by(AutoTrade.id.desc()).limit(limit))).all())


async def live_trades_of(session: AsyncSession, user_id: int) -> list[AutoTrade]:
    """The user's trades that are not over, newest first."""
    rows = await session.scalars(
        select(AutoTrade).where(AutoTrade.user_id == user_id, AutoTrade.status.in_(LIVE)).order_by(AutoTrade.id.desc())
    )
    return list(rows.all())


async def positions_of(session: AsyncSession, trades: Iterable[AutoTrade]) -> dict[int, Position]:
    """What each trade still holds, folded from its fills and its share's actions; trades that hold nothing are left
    out."""
    held = [trade.id for trade in trades if trade.entry_quantity > trade.exit_quantity]
    if not held:
        return {}
    rows = await session.execute(
        select(AutoTrade.id, Order.intent, Fill.side, Fill.quantity, Fill.price, Fill.charges, Fill.filled_at)
        .join(Order, Order.id == Fill.order_id)
        .join(AutoTrade, AutoTrade.id == Order.auto_trade_id)
        .where(AutoTrade.id.in_(held))
        .order_by(Fill.filled_at, Fill.id)
    )
    fills: dict[int, list[TradeFill]] = defaultdict(list)
    for trade_id, intent, side, quantity, price, charges, at in rows:
        fills[trade_id].append(TradeFill(intent, Execution(side, quantity, price, charges), at))
    actions = await actions_of_trades(session, held)
    return {trade_id: position_of(executed(timeline(of, actions[trade_id]))) for trade_id, of in fills.items()}


async def last_quotes(trading: Trading, symbols: Iterable[str]) -> Mapping[str, Quote]:
    """The last quote of each symbol; empty where data_service does not answer: a list is better than none."""
    wanted = sorted(set(symbols))[:SYMBOLS_PER_REQUEST_MAX]
    if not wanted:
        return {}
    try:
        batch = await trading.market_data.quotes(wanted, await trading.clock())
    except SaudaError as error:
        log.warning("no_last_quotes", detail=error.detail)
        return {}
    return batch.reply.quotes


async def valued_trades(trading: Trading, trades: Sequence[AutoTrade]) -> list[ValuedTrade]:
    """Value what the trades hold at the last quotes."""
    async with trading.sessions() as session:
        positions = await positions_of(session, trades)
        actions = await actions_of_trades(session, list(positions))
    quotes = await last_quotes(trading, (trade.symbol for trade in trades if trade.id in positions))
    return [
        _valued(trade, positions.get(trade.id), quotes.get(trade.symbol), actions.get(trade.id, ())) for trade in trades
    ]


def _valued(
    trade: AutoTrade, position: Position | None, quote: Quote | None, actions: Sequence[CorporateAction]
) -> ValuedTrade:
    """A price of before the last split or bonus says nothing of the shares held now."""
    since = max((action.ex_date for action in actions if action.kind in RESCALING), default=date.min)
    if position is None or quote is None or quote.as_of.astimezone(IST).date() < since:
        return ValuedTrade(trade, None, None)
    return ValuedTrade(trade, quote.last, position.unrealized(quote.last))


async def profit_and_loss(trading: Trading, user_id: int, market_now: datetime) -> ProfitAndLoss:
    """What the user's auto-trades have earned and stand at."""
    today = market_now.astimezone(IST).date()
    closed_today = and_(AutoTrade.closed_at >= midnight_before(today), AutoTrade.closed_at < midnight_after(today))
    async with trading.sessions() as session:
        row = (
            await session.execute(
                select(
                    func.coalesce(func.sum(AutoTrade.realized_pnl), Decimal(0)),
                    func.coalesce(func.sum(AutoTrade.realized_pnl).filter(closed_today), Decimal(0)),
                ).where(AutoTrade.user_id == user_id)
            )
        ).one()
        live = await live_trades_of(session, user_id)
    valued = await valued_trades(trading, live)
    return ProfitAndLoss(
        open_trades=len(live),
        unrealized=sum((v.unrealized_pnl for v in valued if v.unrealized_pnl is not None), Decimal(0)),
        realized_today=Decimal(row[1]),
        realized_total=Decimal(row[0]),
        unpriced=unpriced(valued),
    )


def unpriced(valued: Iterable[ValuedTrade]) -> tuple[str, ...]:
    """Symbols that are held and had no quote."""
    return tuple(
        sorted(
            {v.trade.symbol for v in valued if v.last_price is None and v.trade.entry_quantity > v.trade.exit_quantity}
        )
    )
