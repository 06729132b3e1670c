"""Overnight adjustment: what companies did to their shares reaches every holding and trade once, before trading."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal

import structlog
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from backend.brokers.base import KeepsBook
from backend.db import is_about_data, lock_account
from backend.domain import ledger
from backend.domain.calendar import IST
from backend.domain.corporate_actions import (
    RESCALING,
    ActionKind,
    CorporateAction,
    Entitlement,
    Levels,
    entitlement,
    levels_after,
    merged,
    price_told,
)
from backend.domain.decide import ExitReason, TradeStatus
from backend.errors import SaudaError
from backend.models import (
    AccountAction,
    AccountActionStatus,
    AutoTrade,
    CorporateActionRecord,
)
from backend.services import action_record_service as records
from backend.services import ledger_service
from backend.services.action_doubt_service import compare, confirm, hold, names_before, tell
from backend.services.context import Trading
from backend.services.order_service import update_trade
from contracts.market import CorporateAction as ToldAction

log = structlog.get_logger()

LOOK_BACK_DAYS = 14
"""Actions that became known late are asked for so many days back."""
ASK_AGAIN_AFTER = timedelta(minutes=15)
"""Market time after which the day's actions are asked for again: one may have become known meanwhile."""
LIVE = (TradeStatus.ENTERING, TradeStatus.OPEN, TradeStatus.EXITING)


async def settle_actions(trading: Trading, now: datetime) -> bool:
    """Ask for the actions up to the market's day and apply what is not applied yet. Doing it twice changes nothing.

    Returns whether the actions of the day are known; where they are not, no order may be decided. What cannot be
    applied now stays pending, and bars its symbol in its account.

    Raises:
        SQLAlchemyError, OSError: the database did not answer.
    """
    today = now.astimezone(IST).date()
    async with trading.sessions() as session:
        asked = await records.asked_at(session, today)
        waiting = await records.waiting(session, today)
    if asked is None or now - asked >= ASK_AGAIN_AFTER:
        asked = await _ask(trading, today, now) or asked
        async with trading.sessions() as session:
            waiting = await records.waiting(session, today)
    stuck: dict[str, set[int]] = defaultdict(set)
    for record in waiting:
        if record.done_at is None:
            left = await _settle(trading, record, stuck[record.symbol], now)
            stuck[record.new_symbol or record.symbol] |= left
            stuck[record.symbol] |= left
    if waiting:
        await confirm(trading, today, now)
    return asked is not None


def ex_instant(ex_date: date) -> datetime:
    """When an ex-date begins: what was traded before it takes part in the action."""
    return datetime.combine(ex_date, time(), tzinfo=IST)


def action_told(told: ToldAction) -> CorporateAction:
    """The domain's action; figures that the source does not give leave it `flagged`, a dividend without any `other`."""
    kind = ActionKind(told.kind.value)
    if kind is ActionKind.DIVIDEND and told.amount is None:
        kind = ActionKind.OTHER
    if kind in RESCALING:
        return CorporateAction(told.symbol, told.ex_date, kind, told.shares_before or 0, told.shares_after or 0)
    amount = told.amount if kind is ActionKind.DIVIDEND and told.amount is not None else Decimal(0)
    new_symbol = told.new_symbol or "" if kind is ActionKind.RENAME else ""
    return CorporateAction(told.symbol, told.ex_date, kind, amount=amount, new_symbol=new_symbol)


async def _ask(trading: Trading, today: date, now: datetime) -> datetime | None:
    """Note what data_service tells of the days up to `today`; None where it does not answer."""
    async with trading.sessions() as session:
        last = await records.last_told_day(session)
    from_ = min(today - timedelta(days=LOOK_BACK_DAYS), last or today)
    try:
        reply = await trading.market_data.actions(from_, today, now)
    except SaudaError as silence:
        log.warning("corporate_actions_unknown", day=today.isoformat(), error=silence.detail)
        return None
    wires = {(action := action_told(wire)).key: wire for wire in reply.actions}
    told: dict[tuple[date, str], list[CorporateAction]] = defaultdict(list)
    for action in merged((wire.source, action_told(wire)) for wire in reply.actions):
        if action.kind is not ActionKind.OTHER:
            told[action.ex_date, action.symbol].append(action)
    everything = [action for actions in told.values() for action in actions]
    async with trading.sessions.begin() as session:
        noted: dict[tuple[date, str], list[CorporateActionRecord]] = defaultdict(list)
        for record in await records.noted(session, from_, today):
            noted[record.ex_date, record.symbol].append(record)
        for day, symbol in sorted(told.keys() | noted.keys()):
            known, actions = noted[day, symbol], told[day, symbol]
            await compare(session, actions, known, now)
            names = names_before(symbol, day, everything)
            for action in _news(actions, known):
                wire = wires.get(action.key)
                subject, source = (wire.subject, wire.source) if wire is not None else ("", "")
                if await records.note(session, action, names, subject, source, ex_instant(day)):
                    log.info("corporate_action_noted", action=action.key, subject=subject)
        await records.tell_day(session, today, now)
    return now


def _news(told: Sequence[CorporateAction], known: Sequence[CorporateActionRecord]) -> list[CorporateAction]:
    """What is not noted of one share and ex-date: its scale is told once, by whatever kinds of actions."""
    kinds = {record.kind for record in known}
    scaled = bool(kinds & RESCALING)
    return [a for a in told if a.kind not in kinds and not (scaled and a.kind in RESCALING)]


async def _settle(trading: Trading, record: CorporateActionRecord, stuck: Collection[int], now: datetime) -> set[int]:
    """Apply one action to the books of brokers that are ours to keep, then to each account concerned but those `stuck`
    in an earlier action of the share. Returns the accounts in which it waits."""
    ex_at = ex_instant(record.ex_date)
    async with trading.sessions() as session:
        pending = await records.accounts_in(session, record.id, AccountActionStatus.PENDING)
        accounts = [account_id for account_id in pending if account_id not in stuck]
        mixed, new = await records.moved_since(session, accounts, record.symbol, ex_at)
    action = records.action_of(record)
    if action.kind not in RESCALING:
        mixed, new = set[int](), set[int]()
    if accounts:
        action = await _with_close(trading, record, now)
    doubtful = action.flagged or record.contradicted_at is not None
    flagged = set(accounts) if doubtful else mixed
    failed = set[int]() if doubtful else await _adjust_books(trading, record, action, stuck, now)
    for account_id in accounts:
        if account_id in flagged or account_id not in failed:
            part = _Part(record.id, account_id, flagged=account_id in flagged, new=account_id in new)
            await _settle_account(trading, part, action, now)
    async with trading.sessions.begin() as session:
        left = set(await records.accounts_in(session, record.id, AccountActionStatus.PENDING))
        # A flagged account's book is a person's to bring in line.
        left |= failed - set(await records.accounts_in(session, record.id, AccountActionStatus.FLAGGED))
        if not left:
            await _finish(session, record.id, action, now)
    return left


@dataclass(frozen=True, slots=True)
class _Part:
    """One account in one action. `flagged`: for a person to look at; `new`: holds the share since the ex-date only."""

    action_id: int
    account_id: int
    flagged: bool
    new: bool


async def _adjust_books(
    trading: Trading, record: CorporateActionRecord, action: CorporateAction, stuck: Collection[int], now: datetime
) -> set[int]:
    """Adjust the books that are ours to keep; the accounts in which it could not be done."""
    failed: set[int] = set()
    for broker in trading.brokers.values():
        if isinstance(broker, KeepsBook):
            failed |= await broker.apply_action(action, now, stuck)
    if failed:
        log.warning("book_not_adjusted", action=action.key, accounts=sorted(failed)[:20])
        await _with_close(trading, record, now)
    return failed


async def _with_close(trading: Trading, record: CorporateActionRecord, now: datetime) -> CorporateAction:
    """The action with the last price before it, as far as it needs one and it is told: written down once for all."""
    action = records.action_of(record)
    if action.flagged or action.close_before is not None or action.kind is ActionKind.RENAME:
        return action
    try:
        close = await trading.market_data.close_before(record.symbol, record.ex_date, now)
    except SaudaError as silence:
        log.warning("close_before_unknown", symbol=record.symbol, error=silence.detail)
        return action
    async with trading.sessions.begin() as session:
        if close is not None:
            # It is on the scale of the day before: earlier actions of the same morning come first.
            close = price_told(await records.earlier_today(session, record), close)
        mine = CorporateActionRecord.id == record.id
        await session.execute(
            update(CorporateActionRecord)
            .where(mine, CorporateActionRecord.close_before.is_(None))
            .values(close_before=close)
        )
        known = select(CorporateActionRecord).where(mine).execution_options(populate_existing=True)
        return records.action_of((await session.scalars(known)).one())


async def _settle_account(trading: Trading, part: _Part, action: CorporateAction, now: datetime) -> None:
    """One account's part, in one transaction. What cannot be is that account's trouble: it waits, and its symbol."""
    try:
        async with trading.sessions.begin() as session:
            # Locks as everywhere: trades before the account.
            trades = await _live_trades(session, part.account_id, action)
            await lock_account(session, part.account_id)
            row = await records.take_pending(session, part.action_id, part.account_id)
            if row is None:
                return
            row.settled_at = now
            if part.flagged or await _name_is_taken(session, part.account_id, action):
                await _flag(session, row, action, trades)
            else:
                shares = 0 if part.new else await _shares(session, part.account_id, action)
                await _apply(session, row, action, shares, trades, now)
    except (ValueError, ArithmeticError, DBAPIError) as error:
        if isinstance(error, DBAPIError) and not is_about_data(error):
            raise
        log.error("action_not_applied", action=action.key, account=part.account_id, error=str(error).splitlines()[0])


async def _live_trades(session: AsyncSession, account_id: int, action: CorporateAction) -> Sequence[AutoTrade]:
    """The account's trades in the share that are not over, locked: those decided since are on the new scale already."""
    mine = [AutoTrade.account_id == account_id, AutoTrade.symbol == action.symbol, AutoTrade.status.in_(LIVE)]
    if action.kind is not ActionKind.RENAME:
        mine.append(AutoTrade.decided_at < ex_instant(action.ex_date))
    return (await session.scalars(select(AutoTrade).where(*mine).order_by(AutoTrade.id).with_for_update())).all()


async def _name_is_taken(session: AsyncSession, account_id: int, action: CorporateAction) -> bool:
    """Whether a trade of the account bears the new name already: two companies became one, or a name was used twice."""
    if action.kind is not ActionKind.RENAME:
        return False
    taken = select(AutoTrade.id).where(
        AutoTrade.account_id == account_id, AutoTrade.symbol == action.new_symbol, AutoTrade.status.in_(LIVE)
    )
    return await session.scalar(taken.limit(1)) is not None


async def _apply(
    session: AsyncSession,
    row: AccountAction,
    action: CorporateAction,
    shares: int,
    trades: Sequence[AutoTrade],
    now: datetime,
) -> None:
    """Books, then the row that lets the trades' sums know of it, then the trades. The caller holds all locks."""
    due = entitlement(action, shares)
    at = ex_instant(action.ex_date)
    if due.cash and action.kind is ActionKind.DIVIDEND:
        await ledger_service.post(session, row.account_id, ledger.dividend(action.symbol, due.cash), at)
    elif shares and action.kind is not ActionKind.DIVIDEND:
        _, cost = await ledger_service.position(session, row.account_id, action.symbol)
        journal = ledger.rescale(action.symbol, shares, cost, due, action.symbol_after)
        await ledger_service.post(session, row.account_id, journal, at)
    row.status = AccountActionStatus.APPLIED
    row.shares_before, row.shares_after, row.cash = shares, due.shares, due.cash
    await session.flush()
    for trade in trades:
        await _replan(session, trade, action, now)
    if shares:
        await tell(session, row.account_id, "holding.adjusted", action, _what_became(action, shares, due))


async def _shares(session: AsyncSession, account_id: int, action: CorporateAction) -> int:
    """Shares that take part: of a dividend those at the close before, whatever was traded since."""
    if action.kind is ActionKind.DIVIDEND:
        held = await records.held_before(session, [account_id], action.symbol, ex_instant(action.ex_date))
        return held.get(account_id, 0)
    return (await ledger_service.position(session, account_id, action.symbol))[0]


async def _replan(session: AsyncSession, trade: AutoTrade, action: CorporateAction, now: datetime) -> None:
    """A trade's plan on the new scale, and its figures as its fills and actions now say."""
    due = await _on_todays_scale(session, trade.account_id, action)
    levels = levels_after(due, Levels(trade.quantity, trade.reference_price, trade.target_price, trade.stop_price))
    trade.quantity, trade.reference_price = levels.quantity, levels.reference
    trade.target_price, trade.stop_price = levels.target, levels.stop
    trade.symbol = action.symbol_after
    await session.flush()
    await update_trade(session, trade.id, now, announced=False)
    if trade.status is TradeStatus.CLOSED and trade.exit_reason is None:
        trade.exit_reason = ExitReason.EXTERNAL


async def _on_todays_scale(session: AsyncSession, account_id: int, action: CorporateAction) -> CorporateAction:
    """A dividend per share of now, where it became known after a split that came later than it."""
    if action.kind is not ActionKind.DIVIDEND:
        return action
    applied = await records.applied_after(session, account_id, action.ex_date - timedelta(days=1))
    place = action.ex_date, action.turn
    later = [a for _, a in applied if a.symbol == action.symbol and (a.ex_date, a.turn) > place and a.kind in RESCALING]
    close = action.close_before
    close = None if close is None else price_told(later, close)
    return replace(action, amount=price_told(later, action.amount), close_before=close)


async def _flag(
    session: AsyncSession, row: AccountAction, action: CorporateAction, trades: Sequence[AutoTrade]
) -> None:
    """Hold the symbol in this account for a person: its prices before and after cannot be compared."""
    row.status = AccountActionStatus.FLAGGED
    shares, _ = await ledger_service.position(session, row.account_id, action.symbol)
    row.shares_before = row.shares_after = shares
    if not shares and not trades:
        return
    why = f"{action.symbol}: {action.kind.replace('_', ' ')} on {action.ex_date}; its stop and target are not acted on"
    await hold(session, row.account_id, action.symbol, action, why)


def _what_became(action: CorporateAction, shares: int, due: Entitlement) -> str:
    if action.kind is ActionKind.DIVIDEND:
        return f"{action.symbol} paid ₹{action.amount} on each of {shares} shares: ₹{due.cash} before tax."
    if action.kind is ActionKind.RENAME:
        return f"{action.symbol} is called {action.new_symbol} now."
    paid = f" and ₹{due.cash} for the fraction of a share" if due.fraction else ""
    ratio = f"{action.shares_after} for {action.shares_before}"
    return f"{action.symbol} {action.kind}, {ratio}: {shares} shares became {due.shares}{paid}."


# Who chose the share goes on with it under its new name, once.
_RENAME = text("""
    UPDATE auto_trade_settings
       SET symbols = CASE WHEN CAST(:new AS varchar) = ANY(symbols) THEN array_remove(symbols, CAST(:old AS varchar))
                          ELSE array_replace(symbols, CAST(:old AS varchar), CAST(:new AS varchar)) END
     WHERE CAST(:old AS varchar) = ANY(symbols)
""")


async def _finish(session: AsyncSession, action_id: int, action: CorporateAction, now: datetime) -> None:
    if action.kind is ActionKind.RENAME and action.new_symbol:
        await session.execute(_RENAME, {"old": action.symbol, "new": action.new_symbol})
    undone = CorporateActionRecord.id == action_id, CorporateActionRecord.done_at.is_(None)
    await session.execute(update(CorporateActionRecord).where(*undone).values(done_at=now))
    if action.kind not in RESCALING or action.flagged or not await records.has_rescaled(session, action_id):
        mine = CorporateActionRecord.id == action_id, CorporateActionRecord.confirmed_at.is_(None)
        await session.execute(update(CorporateActionRecord).where(*mine).values(confirmed_at=now))
