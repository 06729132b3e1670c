"""Why no trade: everything on record of one user's day, in the order in which it stands in the way of an entry."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.calendar import IST, PhaseWindow
from backend.domain.market import StockClass
from backend.domain.orders import Intent
from backend.domain.why_no_trade import DayFacts, Verdict, verdict
from backend.errors import SaudaError
from backend.models import (
    AutoTradeSettings,
    BrokerAccount,
    BrokerAccountStatus,
    Cycle,
    CycleStatus,
    DailyUsage,
    Order,
    Plan,
    User,
)
from backend.services.account_service import accounts_of
from backend.services.context import Trading
from backend.services.decision_query_service import decisions_of
from backend.services.plan_service import plan_of, quota_of
from backend.services.settings_service import settings_of
from backend.services.status_service import Blocking, auto_trading_status
from backend.services.user_admin_service import require_user


@dataclass(frozen=True, slots=True)
class WhyNoTrade:
    """One user's day. `blocking` is what stands in the way now, and `unknown` why that could not be told.

    `windows` are the phases of the day by class of stock, empty without a session. `cycles` counts the day's by
    status, `candidates` those of the user's mode over all of them; `denied` and `skipped` count recorded refusals,
    `last_cycle` the reasons of the user's symbols in the day's last cycle, `problems` the cycles that lacked a batch.
    """

    user: User
    day: date
    today: date
    blocking: tuple[Blocking, ...]
    unknown: str
    plan: Plan
    entries_per_day: int
    entries_used: int
    account: BrokerAccount | None
    settings: AutoTradeSettings
    windows: Mapping[StockClass, tuple[PhaseWindow, ...]]
    cycles: Mapping[str, int]
    candidates: int
    denied: Mapping[str, int]
    skipped: Mapping[str, int]
    last_cycle: Mapping[str, int]
    problems: Mapping[str, int]
    entries_sent: int
    entries_filled: int
    verdict: Verdict


_PROBLEMS = text("""
    SELECT name, count(*) FROM cycles, jsonb_object_keys(summary -> 'problems') AS name
     WHERE trade_date = :day AND jsonb_typeof(summary -> 'problems') = 'object' GROUP BY name
""")
_CANDIDATES = text("""
    SELECT coalesce(sum((summary -> 'candidates' ->> :mode)::int), 0) FROM cycles WHERE trade_date = :day
""")
_DENIED = text("""
    SELECT outcome ->> 'reason' AS reason, count(*)
      FROM decisions d JOIN cycles c ON c.id = d.cycle_id, jsonb_array_elements(d.outcomes) AS outcome
     WHERE d.user_id = :user_id AND c.trade_date = :day
       AND outcome ->> 'intent' = 'entry' AND outcome ->> 'reason' IS NOT NULL
     GROUP BY 1
""")
_REFUSED = text("""
    SELECT o.denied_reason, count(*) FROM orders o JOIN cycles c ON c.id = o.cycle_id
     WHERE o.user_id = :user_id AND c.trade_date = :day AND o.intent = 'entry' AND o.denied_reason IS NOT NULL
     GROUP BY 1
""")
_SKIPPED = text("""
    SELECT d.skipped_reason, count(*) FROM decisions d JOIN cycles c ON c.id = d.cycle_id
     WHERE d.user_id = :user_id AND c.trade_date = :day AND d.skipped_reason IS NOT NULL GROUP BY 1
""")


async def why_no_trade(trading: Trading, user_id: int, day: date | None, real_now: datetime) -> WhyNoTrade:
    """What kept a user from being entered on `day`, the market's present one where it is None.

    Needs the database alone: without the market's clock, today is that of `real_now`, and what blocks now is unknown.

    Raises:
        NotFoundError: no such user.
    """
    async with trading.sessions() as session:
        user = await require_user(session, user_id)
    blocking, now, unknown = await _present(trading, user_id, real_now)
    today = now.astimezone(IST).date()
    day = day or today
    async with trading.sessions() as session:
        found = await _day(session, user_id, day)
        plan = await plan_of(session, user_id)
        quota = await quota_of(session, user_id, plan, now)
        settings = await settings_of(session, user_id)
        account = next((a for a in await accounts_of(session, user_id) if a.is_primary), None)
        candidates = await session.scalar(_CANDIDATES, {"day": day, "mode": settings.mode.value})
    on = trading.calendar.session(day)
    last_cycle = await _last_reasons(trading, user_id, found.last_id)
    facts = DayFacts(
        day=day,
        today=today,
        session=on is not None,
        user_active=user.active,
        entries_sent=found.sent,
        entries_filled=found.filled,
        auto_trades_per_day=quota.entries_per_day,
        account_ready=account is not None and account.status is BrokerAccountStatus.READY,
        enabled=settings.enabled,
        blocking=tuple((block.code, block.next_step) for block in blocking),
        cycles_done=found.cycles.get(CycleStatus.DONE, 0),
        cycles_missed=found.cycles.get(CycleStatus.MISSED, 0),
        denied=found.denied,
        skipped=found.skipped,
        last_cycle=last_cycle,
        problems=found.problems,
    )
    return WhyNoTrade(
        user=user,
        day=day,
        today=today,
        blocking=blocking,
        unknown=unknown,
        plan=plan,
        entries_per_day=quota.entries_per_day,
        entries_used=found.used,
        account=account,
        settings=settings,
        windows={} if on is None else {each: on.windows(each) for each in StockClass},
        cycles=found.cycles,
        candidates=candidates or 0,
        denied=found.denied,
        skipped=found.skipped,
        last_cycle=last_cycle,
        problems=found.problems,
        entries_sent=found.sent,
        entries_filled=found.filled,
        verdict=verdict(facts),
    )


async def _present(trading: Trading, user_id: int, real_now: datetime) -> tuple[tuple[Blocking, ...], datetime, str]:
    """What blocks now, the market's present, and why that is not known where it is not."""
    try:
        status = await auto_trading_status(trading, user_id)
    except SaudaError as error:
        return (), real_now, error.detail
    return status.blocking, status.market_now, ""


@dataclass(frozen=True, slots=True)
class _Day:
    cycles: dict[str, int]
    last_id: int | None
    problems: dict[str, int]
    denied: dict[str, int]
    skipped: dict[str, int]
    sent: int
    filled: int
    used: int


async def _day(session: AsyncSession, user_id: int, day: date) -> _Day:
    """What the day's cycles wrote down. Orders refused at the gate count beside those refused before."""
    of_day = {"day": day, "user_id": user_id}
    statuses = await session.execute(
        select(Cycle.status, func.count(), func.max(Cycle.id)).where(Cycle.trade_date == day).group_by(Cycle.status)
    )
    counted = [(row[0], row[1], row[2]) for row in statuses]
    entries = (
        select(func.count(), func.count().filter(Order.filled_quantity > 0))
        .join(Cycle, Cycle.id == Order.cycle_id)
        .where(
            Order.user_id == user_id,
            Cycle.trade_date == day,
            Order.intent == Intent.ENTRY,
            Order.submitted_at.is_not(None),
        )
    )
    sent, filled = (await session.execute(entries)).one()
    used = await session.scalar(
        select(DailyUsage.entries_used).where(DailyUsage.user_id == user_id, DailyUsage.trade_date == day)
    )
    denied = Counter(await _counts(session, _DENIED, of_day)) + Counter(await _counts(session, _REFUSED, of_day))
    return _Day(
        cycles={status.value: count for status, count, _ in counted},
        last_id=max((last for status, _, last in counted if status is CycleStatus.DONE), default=None),
        problems=await _counts(session, _PROBLEMS, {"day": day}),
        denied=dict(denied.most_common()),
        skipped=await _counts(session, _SKIPPED, of_day),
        sent=sent,
        filled=filled,
        used=used or 0,
    )


async def _counts(session: AsyncSession, query: Any, values: Mapping[str, Any]) -> dict[str, int]:
    """Rows of (name, count), the most frequent first."""
    found: list[Any] = list(await session.execute(query, dict(values)))
    rows = [(row[0], row[1]) for row in found]
    return dict(sorted(rows, key=lambda row: (-row[1], row[0])))


async def _last_reasons(trading: Trading, user_id: int, cycle_id: int | None) -> dict[str, int]:
    """Why no symbol of the user's was entered in the day's last cycle; empty where that cannot be told."""
    if cycle_id is None:
        return {}
    try:
        newest = await decisions_of(trading, user_id, cycle_id + 1, 1)
    except SaudaError:
        return {}
    of_cycle = [symbol for cycle in newest if cycle.cycle_id == cycle_id for symbol in cycle.symbols]
    return dict(Counter(s.reason.value for s in of_cycle if s.reason and s.intent is Intent.ENTRY).most_common())
