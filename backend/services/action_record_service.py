"""The record of corporate actions: what is noted, what still waits, and what an account or a trade went through."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import and_, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.corporate_actions import RESCALING, ActionKind, CorporateAction
from backend.models import AccountAction, AccountActionStatus, CorporateActionDay, CorporateActionRecord

LATE_ORDER_DAYS = 7
"""An order decided so long before an ex-date may still turn out to have traded: its account is concerned, too."""


@dataclass(frozen=True, slots=True)
class Scales:
    """What one market day's decisions must know of corporate actions.

    `told`: data_service has said the day's actions; `pending`: (account, symbol) whose record is not on the new scale
    yet; `not_comparable`: symbols that changed today in a way no rule computes.
    """

    told: bool
    pending: frozenset[tuple[int, str]]
    not_comparable: frozenset[str]


def action_of(row: CorporateActionRecord) -> CorporateAction:
    """The domain's action of a record."""
    return CorporateAction(
        row.symbol,
        row.ex_date,
        row.kind,
        row.shares_before,
        row.shares_after,
        row.amount,
        row.new_symbol,
        row.close_before,
    )


async def asked_at(session: AsyncSession, day: date) -> datetime | None:
    """When data_service last told the actions of `day`; None where it has not."""
    return await session.scalar(select(CorporateActionDay.asked_at).where(CorporateActionDay.day == day))


async def last_told_day(session: AsyncSession) -> date | None:
    """The newest day whose actions are known."""
    return await session.scalar(select(func.max(CorporateActionDay.day)))


async def waiting(session: AsyncSession, today: date) -> list[CorporateActionRecord]:
    """Noted actions with an ex-date up to `today` that are not applied everywhere, or not confirmed by the market, in
    the order to apply them."""
    record = CorporateActionRecord
    open_ = or_(record.done_at.is_(None), record.confirmed_at.is_(None))
    rows = (await session.scalars(select(record).where(open_, record.ex_date <= today))).all()
    return in_turn(rows)


def in_turn(rows: Iterable[CorporateActionRecord]) -> list[CorporateActionRecord]:
    """Records in the order in which the actions happened."""
    return sorted(rows, key=lambda row: (row.ex_date, action_of(row).turn, row.id))


# Whoever holds the share, means to, or may turn out to have traded it before the ex-date.
_CONCERNED = text("""
    INSERT INTO account_actions (account_id, action_id, status, shares_before, shares_after, cash)
    SELECT account_id, :action_id, 'pending', 0, 0, 0 FROM (
        SELECT account_id FROM ledger_balances
         WHERE ledger_account = 'positions' AND symbol = ANY(CAST(:names AS text[])) AND quantity <> 0
        UNION SELECT account_id FROM auto_trades
         WHERE symbol = ANY(CAST(:names AS text[])) AND closed_at IS NULL
           AND status IN ('entering', 'open', 'exiting')
        UNION SELECT account_id FROM orders
         WHERE symbol = ANY(CAST(:names AS text[])) AND decided_at < :ex_at AND (decided_at >= :late_from OR state IN
               ('pending', 'submitted', 'accepted', 'partially_filled', 'cancel_pending', 'unknown'))) c
     ORDER BY account_id
        ON CONFLICT DO NOTHING
""")


async def note(
    session: AsyncSession, action: CorporateAction, names: Collection[str], subject: str, source: str, ex_at: datetime
) -> bool:
    """Write down an action and whom it concerns; False where it is known already, with the figures of then.

    Joins the transaction.

    Args:
        names: the symbol, and what the share was called before in renames that are not applied yet.
    """
    action_id = await session.scalar(
        insert(CorporateActionRecord)
        .values(
            symbol=action.symbol,
            ex_date=action.ex_date,
            kind=action.kind,
            shares_before=action.shares_before,
            shares_after=action.shares_after,
            amount=action.amount,
            new_symbol=action.new_symbol,
            close_before=action.close_before,
            subject=subject[:300],
            source=source[:40],
        )
        .on_conflict_do_nothing()
        .returning(CorporateActionRecord.id)
    )
    if action_id is None:
        return False
    late_from = ex_at - timedelta(days=LATE_ORDER_DAYS)
    concerned = {"action_id": action_id, "names": sorted(names), "ex_at": ex_at, "late_from": late_from}
    await session.execute(_CONCERNED, concerned)
    return True


async def noted(session: AsyncSession, from_: date, through: date) -> list[CorporateActionRecord]:
    """What was noted of the ex-dates, both inclusive, in turn."""
    days = CorporateActionRecord.ex_date.between(from_, through)
    return in_turn(await session.scalars(select(CorporateActionRecord).where(days)))


async def contradict(session: AsyncSession, record: CorporateActionRecord, at: datetime) -> bool:
    """Write down that an action is told otherwise than it was noted; False where that is known. Joins the
    transaction."""
    mine = CorporateActionRecord.id == record.id
    first = update(CorporateActionRecord).where(mine, CorporateActionRecord.contradicted_at.is_(None))
    found = first.values(contradicted_at=at).returning(CorporateActionRecord.id)
    return await session.scalar(found.execution_options(synchronize_session=False)) is not None


async def earlier_today(session: AsyncSession, record: CorporateActionRecord) -> list[CorporateAction]:
    """The splits and bonuses of the same share and day that come before an action."""
    row = CorporateActionRecord
    same = select(row).where(row.symbol == record.symbol, row.ex_date == record.ex_date, row.kind.in_(RESCALING))
    actions = [action_of(other) for other in await session.scalars(same)]
    return [action for action in actions if action.turn < action_of(record).turn]


async def accounts_in(session: AsyncSession, action_id: int, status: AccountActionStatus) -> list[int]:
    """Accounts whose part in an action stands so."""
    mine = select(AccountAction.account_id).where(AccountAction.action_id == action_id, AccountAction.status == status)
    return list((await session.scalars(mine.order_by(AccountAction.account_id))).all())


async def has_rescaled(session: AsyncSession, action_id: int) -> bool:
    """Whether an action put anybody's shares on another scale."""
    mine = AccountAction.action_id == action_id, AccountAction.status == AccountActionStatus.APPLIED
    anybody = select(AccountAction.account_id).where(*mine, AccountAction.shares_before != 0).limit(1)
    return await session.scalar(anybody) is not None


async def take_pending(session: AsyncSession, action_id: int, account_id: int) -> AccountAction | None:
    """The account's part in an action, locked; None where it has been settled. The caller has locked the account."""
    mine = select(AccountAction).where(
        AccountAction.action_id == action_id,
        AccountAction.account_id == account_id,
        AccountAction.status == AccountActionStatus.PENDING,
    )
    return (await session.scalars(mine.with_for_update().execution_options(populate_existing=True))).one_or_none()


async def tell_day(session: AsyncSession, day: date, at: datetime) -> None:
    """Write down that the actions of `day` are known as of `at`."""
    told = insert(CorporateActionDay).values(day=day, asked_at=at)
    await session.execute(told.on_conflict_do_update(index_elements=["day"], set_={"asked_at": told.excluded.asked_at}))


async def scales(session: AsyncSession, today: date) -> Scales:
    """What the decisions of `today` must know."""
    told = await asked_at(session, today) is not None
    record, waits = CorporateActionRecord, AccountAction
    pending = await session.execute(
        select(waits.account_id, record.symbol, record.new_symbol)
        .join(record, record.id == waits.action_id)
        .where(
            or_(
                waits.status == AccountActionStatus.PENDING,
                # applied, and the market has not traded since: a price of today may still be of the old scale
                and_(
                    waits.status == AccountActionStatus.APPLIED,
                    waits.shares_before != 0,
                    record.confirmed_at.is_(None),
                    record.kind.in_(RESCALING),
                ),
            )
        )
    )
    names = frozenset((row[0], symbol) for row in pending for symbol in (row[1], row[2]) if symbol)
    changed = await session.scalars(select(record).where(record.ex_date == today, record.kind != ActionKind.OTHER))
    return Scales(told, names, frozenset(row.symbol for row in changed if action_of(row).flagged))


async def is_pending(session: AsyncSession, account_id: int) -> bool:
    """Whether an action waits to be applied to the account: its record and its broker's may differ until then."""
    waiting = select(AccountAction.action_id).where(
        AccountAction.account_id == account_id, AccountAction.status == AccountActionStatus.PENDING
    )
    return await session.scalar(waiting.limit(1)) is not None


async def applied_after(
    session: AsyncSession, account_id: int, traded_on: date
) -> Sequence[tuple[AccountAction, CorporateAction]]:
    """The actions an account's holdings went through after the day `traded_on`, in their order."""
    rows = await session.execute(
        select(AccountAction, CorporateActionRecord)
        .join(CorporateActionRecord, CorporateActionRecord.id == AccountAction.action_id)
        .where(
            AccountAction.account_id == account_id,
            AccountAction.status == AccountActionStatus.APPLIED,
            CorporateActionRecord.ex_date > traded_on,
        )
        .execution_options(populate_existing=True)
    )
    found = [(row, action_of(record)) for row, record in rows]
    return sorted(found, key=lambda pair: (pair[1].ex_date, pair[1].turn, pair[0].action_id))


# The trade's share may have had other names since: one rename after the other is followed back.
_OF_TRADES = text("""
    WITH RECURSIVE named (trade_id, account_id, symbol, decided_on) AS (
        SELECT id, account_id, symbol, CAST(decided_at AT TIME ZONE 'Asia/Kolkata' AS date) FROM auto_trades
         WHERE id = ANY(CAST(:trade_ids AS bigint[]))
        UNION
        SELECT n.trade_id, n.account_id, c.symbol, n.decided_on
          FROM named n
          JOIN corporate_actions c ON c.kind = 'rename' AND c.new_symbol = n.symbol AND c.ex_date >= n.decided_on
          JOIN account_actions a ON a.action_id = c.id AND a.account_id = n.account_id AND a.status = 'applied')
    SELECT n.trade_id, c.id AS action_id
      FROM named n
      JOIN corporate_actions c ON c.symbol = n.symbol AND c.ex_date > n.decided_on
      JOIN account_actions a ON a.action_id = c.id AND a.account_id = n.account_id AND a.status = 'applied'
     WHERE c.kind = ANY(CAST(:kinds AS text[]))
""")
_SHARES_OR_INCOME = [kind.value for kind in (*RESCALING, ActionKind.DIVIDEND)]


async def actions_of_trades(session: AsyncSession, trade_ids: Collection[int]) -> Mapping[int, list[CorporateAction]]:
    """What happened to the share of each trade since it was decided and was applied to its account; empty lists for
    trades to which nothing did."""
    found: dict[int, list[CorporateAction]] = defaultdict(list)
    parameters = {"trade_ids": list(trade_ids), "kinds": _SHARES_OR_INCOME}
    pairs = (await session.execute(_OF_TRADES, parameters)).all()
    if not pairs:
        return found
    ids = {pair.action_id for pair in pairs}
    rows = await session.scalars(select(CorporateActionRecord).where(CorporateActionRecord.id.in_(ids)))
    actions = {row.id: action_of(row) for row in rows}
    for trade_id, action_id in pairs:
        found[trade_id].append(actions[action_id])
    return found


# Trades and adoptions of the ex-date or later: what was held before can then no longer be told from the balance alone.
_MOVED_SINCE = text("""
    SELECT DISTINCT account_id FROM ledger_entries
     WHERE account_id = ANY(CAST(:accounts AS bigint[])) AND ledger_account = 'positions' AND symbol = :symbol
       AND at >= :ex_at AND kind IN ('buy', 'sell', 'adjust') AND quantity <> 0
""")
_HELD_BEFORE = text("""
    SELECT account_id, CAST(sum(quantity) AS int) AS shares FROM ledger_entries
     WHERE account_id = ANY(CAST(:accounts AS bigint[])) AND ledger_account = 'positions' AND symbol = :symbol
       AND at < :ex_at
     GROUP BY account_id HAVING sum(quantity) <> 0
""")


async def moved_since(
    session: AsyncSession, accounts: Sequence[int], symbol: str, ex_at: datetime
) -> tuple[set[int], set[int]]:
    """Accounts that traded the symbol at or after the ex-date: those that held it before, and those that did not."""
    if not accounts:
        return set(), set()
    asked = {"accounts": list(accounts), "symbol": symbol, "ex_at": ex_at}
    moved = set((await session.scalars(_MOVED_SINCE, asked)).all())
    held = await held_before(session, accounts, symbol, ex_at) if moved else {}
    return moved & held.keys(), moved - held.keys()


async def held_before(
    session: AsyncSession, accounts: Sequence[int], symbol: str, ex_at: datetime
) -> Mapping[int, int]:
    """Shares of the symbol at the close before the ex-date, by the entries of then; accounts without any are absent."""
    rows = await session.execute(_HELD_BEFORE, {"accounts": list(accounts), "symbol": symbol, "ex_at": ex_at})
    return {row.account_id: row.shares for row in rows}
