"""Where a user's auto-trading stands, and where the market does: gathered for one answer each."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import select

from backend.domain.calendar import IST, Phase, PhaseWindow, Session, square_off_at
from backend.domain.market import StockClass
from backend.domain.orders import Intent
from backend.domain.protections import Block
from backend.domain.reasons import NEXT_STEP, Reason
from backend.domain.trading_states import WHAT_TO_DO, Effective, held_back, permits
from backend.models import AutoTradeSettings, BrokerAccount, BrokerAccountStatus, Cycle, Decision, Plan
from backend.services.account_service import accounts_of
from backend.services.context import Trading
from backend.services.plan_service import Quota, plan_of, quota_of
from backend.services.protection_service import blocks_of
from backend.services.settings_service import settings_of
from backend.services.strategy_service import StrategyRecord, records_or_note
from backend.services.trade_query_service import ProfitAndLoss, profit_and_loss
from backend.services.trading_state_service import standings


@dataclass(frozen=True, slots=True)
class ClassStatus:
    """One stock class on the market's present day; `square_off_at` is None without a session."""

    stock_class: StockClass
    phase: Phase
    windows: tuple[PhaseWindow, ...]
    square_off_at: datetime | None


@dataclass(frozen=True, slots=True)
class MarketStatus:
    """The exchange's present. `recorded` is False in a year without a published list: then it counts as closed."""

    now: datetime
    speed: float
    day: date
    recorded: bool
    session_kind: str | None
    reason: str
    next_open: datetime | None
    classes: tuple[ClassStatus, ...]


@dataclass(frozen=True, slots=True)
class LastCycle:
    """The newest cycle and what it did for this user: orders approved, and denials by reason."""

    scheduled_at: datetime
    status: str
    entries: int
    exits: int
    denied: dict[str, int]
    skipped: Reason | None


@dataclass(frozen=True, slots=True)
class Blocking:
    """Something that keeps entries from being made, and what can be done about it."""

    code: str
    next_step: str


@dataclass(frozen=True, slots=True)
class AutoTradingStatus:
    """Everything a user sees at a glance: settings, plan, quota, money, the market, and what is in the way."""

    settings: AutoTradeSettings
    plan: Plan
    quota: Quota
    account: BrokerAccount | None
    pnl: ProfitAndLoss
    market_now: datetime
    phase: Phase
    next_open: datetime | None
    last_cycle: LastCycle | None
    blocking: tuple[Blocking, ...]
    protections: tuple[Block, ...]
    strategies: tuple[StrategyRecord, ...]
    strategies_note: str | None


async def market_status(trading: Trading) -> MarketStatus:
    """The market's phases now and its windows today.

    Raises:
        UpstreamError: data_service, whose clock it is, did not answer.
    """
    clock = await trading.market_data.clock()
    now = (await trading.clock()).astimezone(IST)
    session = trading.calendar.session(now.date())
    return MarketStatus(
        now=now,
        speed=clock.speed,
        day=now.date(),
        recorded=trading.calendar.is_recorded(now.date()),
        session_kind=session.kind.value if session else None,
        reason=session.reason if session else "",
        next_open=trading.calendar.next_open(now),
        classes=tuple(_class_status(session, stock_class, now) for stock_class in StockClass),
    )


def _class_status(session: Session | None, stock_class: StockClass, now: datetime) -> ClassStatus:
    if session is None:
        return ClassStatus(stock_class, Phase.CLOSED, (), None)
    return ClassStatus(
        stock_class,
        session.phase_at(now, stock_class),
        session.windows(stock_class),
        square_off_at(stock_class, session),
    )


async def auto_trading_status(trading: Trading, user_id: int) -> AutoTradingStatus:
    """Everything a user wants to know at a glance.

    Raises:
        UpstreamError: the market's clock did not answer.
    """
    now = await trading.clock()
    async with trading.sessions() as session:
        settings = await settings_of(session, user_id)
        plan = await plan_of(session, user_id)
        quota = await quota_of(session, user_id, plan, now)
        account = next((a for a in await accounts_of(session, user_id) if a.is_primary), None)
        cycle = (
            await session.execute(select(Cycle.id, Cycle.scheduled_at, Cycle.status).order_by(Cycle.id.desc()).limit(1))
        ).one_or_none()
        decision = await session.get(Decision, (cycle.id, user_id)) if cycle else None
        standing = (await standings(session)).effective(user_id, None, account.broker if account else None)
    phase = _entry_phase(trading, settings, now)
    protections = await blocks_of(trading, settings, account, now)
    records, note = await records_or_note(trading.ml_service)
    return AutoTradingStatus(
        settings=settings,
        plan=plan,
        quota=quota,
        account=account,
        pnl=await profit_and_loss(trading, user_id, now),
        market_now=now,
        phase=phase,
        next_open=trading.calendar.next_open(now),
        last_cycle=_last_cycle(cycle, decision) if cycle else None,
        blocking=(
            *_held_back(standing),
            *_blocking(settings, plan, quota, account, phase),
            *_pauses(protections),
        ),
        protections=protections,
        strategies=records,
        strategies_note=note,
    )


def _entry_phase(trading: Trading, settings: AutoTradeSettings, now: datetime) -> Phase:
    """The phase of the user's symbols; CONTINUOUS where any of them trades."""
    phases = [trading.calendar.phase(symbol, now) for symbol in settings.symbols]
    return Phase.CONTINUOUS if Phase.CONTINUOUS in phases else phases[0]


def _last_cycle(cycle: Any, decision: Decision | None) -> LastCycle:
    outcomes = decision.outcomes if decision else []
    approved = Counter(o["intent"] for o in outcomes if not o["reason"])
    denied = Counter(o["reason"] for o in outcomes if o["reason"])
    skipped = Reason(decision.skipped_reason) if decision and decision.skipped_reason else None
    return LastCycle(
        cycle.scheduled_at,
        cycle.status.value,
        approved["entry"],
        approved["exit"],
        dict(sorted(denied.items())),
        skipped,
    )


def _held_back(standing: Effective) -> list[Blocking]:
    """The states that hold trading back, the gravest first, each with who can lift it."""
    code = None if permits(standing, Intent.ENTRY) else held_back(standing).value
    return [Blocking(code, f"{row.detail}. {WHAT_TO_DO[row.cause]}") for row in standing.because] if code else []


def _pauses(protections: Iterable[Block]) -> list[Blocking]:
    """The protections that bar every entry; what they say of single symbols keeps no other from being entered."""
    return [Blocking(block.rule.value, block.detail) for block in protections if block.symbol is None]


def _blocking(
    settings: AutoTradeSettings, plan: Plan, quota: Quota, account: BrokerAccount | None, phase: Phase
) -> list[Blocking]:
    """What keeps entries from being made, the most fundamental first."""
    found: list[Blocking] = []
    if quota.entries_per_day == 0:
        step = f"Your plan {plan.name} has no auto-trades: ask for another with POST /v1/subscription."
        found.append(Blocking("plan_required", step))
    if account is None or account.status is not BrokerAccountStatus.READY:
        found.append(Blocking("no_account", "Open a broker account with POST /v1/broker-accounts."))
    reasons: list[Reason] = []
    if not settings.enabled:
        reasons.append(Reason.AUTO_TRADING_DISABLED)
    if 0 < quota.entries_per_day <= quota.used:
        reasons.append(Reason.PLAN_LIMIT)
    elif quota.own_max is not None and quota.used >= quota.own_max:
        reasons.append(Reason.OWN_DAY_LIMIT)
    if phase is not Phase.CONTINUOUS:
        reasons.append(Reason.MARKET_NOT_CONTINUOUS)
    return found + [Blocking(reason.value, NEXT_STEP[reason]) for reason in reasons]
