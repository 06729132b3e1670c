"""Actions that the market or their own source does not bear out: what they were applied to waits for a person."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal

import structlog
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.calendar import IST
from backend.domain.corporate_actions import RESCALING, ActionKind, CorporateAction, bears_out, price_told, ratio_of
from backend.domain.trading_states import Cause, Scope, TradingState, holding_key
from backend.errors import SaudaError
from backend.models import AccountAction, AccountActionStatus, BrokerAccount, CorporateActionRecord, OutboxMessage
from backend.services import action_record_service as records
from backend.services.context import Trading
from backend.services.trading_state_service import impose

log = structlog.get_logger()

ADVICE = (
    "Compare the holding with your broker, then lift it with POST /v1/trading-state/reactivate, or sell after that."
)


async def hold(session: AsyncSession, account_id: int, symbol: str, action: CorporateAction, why: str) -> None:
    """Halt one symbol in one account and ask its owner to look. Joins the transaction."""
    key = holding_key(account_id, symbol)
    await impose(session, Scope.HOLDING, key, TradingState.HALTED, Cause.CORPORATE_ACTION, why)
    await tell(session, account_id, "holding.needs_you", action, f"{why}. {ADVICE}")


async def tell(session: AsyncSession, account_id: int, topic: str, action: CorporateAction, message: str) -> None:
    """Leave the owner a message in the transaction it tells of."""
    user_id = await session.scalar(select(BrokerAccount.user_id).where(BrokerAccount.id == account_id))
    payload = {"account_id": account_id, "symbol": action.symbol, "action": action.key, "message": message}
    session.add(OutboxMessage(topic=topic, user_id=user_id, payload=payload))
    log.info("action_settled", account=account_id, action=action.key, message=message)


async def compare(
    session: AsyncSession, told: Sequence[CorporateAction], noted: Sequence[CorporateActionRecord], now: datetime
) -> None:
    """Say once where one share's actions of one ex-date are told otherwise than they were noted, or no longer: what was
    applied stands, and holdings that it put on another scale wait for a person. Joins the transaction."""
    before = [records.action_of(record) for record in noted]
    scaled, scales = ratio_of(before), ratio_of(told)
    others = {action.kind: action for action in told if action.kind not in RESCALING}
    for record, action in zip(noted, before, strict=True):
        if action.flagged:
            continue
        again = others.get(action.kind)
        same = scaled == scales if action.kind in RESCALING else again is None or _alike(action, again)
        if same or not await records.contradict(session, record, now):
            continue
        log.error("corporate_action_told_otherwise", action=action.key, noted=str(action), told=str(list(told)))
        if action.kind in RESCALING:
            await _hold_all(session, record, "its source tells it otherwise now")


def _alike(one: CorporateAction, other: CorporateAction) -> bool:
    return (one.amount, one.new_symbol, one.flagged) == (other.amount, other.new_symbol, other.flagged)


async def confirm(trading: Trading, today: date, now: datetime) -> None:
    """Compare the first price after each split and bonus with the one it told; where they are too far apart, the
    holdings it was applied to wait for a person. Until there is such a price, nothing is decided on it."""
    if not trading.calendar.any_continuous(now):
        return
    by_name: dict[str, list[CorporateActionRecord]] = defaultdict(list)
    async with trading.sessions() as session:
        for record in await records.waiting(session, today):
            if record.done_at is not None:
                by_name[await _todays_name(session, record)].append(record)
    if not by_name:
        return
    try:
        quotes = (await trading.market_data.quotes(sorted(by_name), now)).quotes
    except SaudaError as silence:
        log.warning("actions_unconfirmed", symbols=sorted(by_name), error=silence.detail)
        return
    for name, group in by_name.items():
        quote = quotes.get(name)
        if quote is not None and quote.view.as_of.astimezone(IST).date() >= group[-1].ex_date:
            await _judge(trading, group, quote.view.last, now)


async def _judge(trading: Trading, group: Sequence[CorporateActionRecord], price: Decimal, now: datetime) -> None:
    """One share's actions, in turn, by the price of now in rupees."""
    close = group[0].close_before
    told = price_told([records.action_of(record) for record in group], close) if close is not None else price
    async with trading.sessions.begin() as session:
        for record in group:
            if await _confirmed(session, record, now) and not bears_out(price, told):
                await _hold_all(session, record, f"its price of ₹{price} is far from the ₹{told:.2f} told by it")


async def _confirmed(session: AsyncSession, record: CorporateActionRecord, now: datetime) -> bool:
    """Whether this transaction is the first to have looked."""
    open_ = CorporateActionRecord.id == record.id, CorporateActionRecord.confirmed_at.is_(None)
    first = update(CorporateActionRecord).where(*open_).values(confirmed_at=now).returning(CorporateActionRecord.id)
    return await session.scalar(first.execution_options(synchronize_session=False)) is not None


async def _hold_all(session: AsyncSession, record: CorporateActionRecord, why: str) -> None:
    """Hold the share in every account that the action put on another scale."""
    applied = select(AccountAction.account_id).where(
        AccountAction.action_id == record.id,
        AccountAction.status == AccountActionStatus.APPLIED,
        AccountAction.shares_before != 0,
    )
    action, name = records.action_of(record), await _todays_name(session, record)
    said = f"{name}: the {action.kind} of {action.ex_date} was applied, and {why}"
    for account_id in (await session.scalars(applied.order_by(AccountAction.account_id))).all():
        await hold(session, account_id, name, action, said)


async def _todays_name(session: AsyncSession, record: CorporateActionRecord) -> str:
    """What the share of an action is called since."""
    row = CorporateActionRecord
    renames = select(row.symbol, row.new_symbol).where(
        row.kind == ActionKind.RENAME, row.ex_date >= record.ex_date, row.new_symbol != "", row.done_at.is_not(None)
    )
    name = record.symbol
    for old, new in await session.execute(renames.order_by(row.ex_date, row.id)):
        name = new if old == name else name
    return name


def names_before(symbol: str, ex_date: date, actions: Iterable[CorporateAction]) -> set[str]:
    """The names under which a share may still be held that is called `symbol` on an ex-date: renames of the days before
    may have become known together with its action."""
    names = {symbol}
    renames = [a for a in actions if a.kind is ActionKind.RENAME and a.ex_date < ex_date]
    for rename in sorted(renames, key=lambda a: a.ex_date, reverse=True):
        if rename.new_symbol in names:
            names.add(rename.symbol)
    return names
