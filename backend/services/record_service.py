"""Recording decisions: quota, trades, orders and denials of a shard in one transaction, before anything is sent."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any, cast

import orjson
from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncSession

from backend.db import insert_rows, next_ids
from backend.domain.decide import Outcome, PlannedEntry, PlannedExit, TradeStatus, UserDecision, UserState
from backend.domain.modes import Mode
from backend.domain.orders import Intent, OrderState, client_order_id
from backend.domain.reasons import Reason
from backend.domain.risk import Approved
from backend.models import AutoTrade, Base, Decision, Order, OrderOrigin
from backend.services.context import Trading
from backend.services.cycle_service import ShardClaim, hold


@dataclass(frozen=True, slots=True)
class Recorded:
    """An approved order that stands in the database as PENDING; `funds_total` is what it was sized on, in rupees."""

    order_id: int
    client_order_id: str
    user_id: int
    account_id: int
    approved: Approved
    funds_total: Decimal


_TRADE_COLUMNS = [
    "id",
    "user_id",
    "account_id",
    "cycle_id",
    "symbol",
    "exchange",
    "side",
    "product",
    "mode",
    "status",
    "strategy",
    "model_version",
    "logic_version",
    "cluster",
    "confidence",
    "confidence_kind",
    "expected_return_net",
    "horizon_ends_on",
    "reference_price",
    "target_price",
    "stop_price",
    "quantity",
    "entry_quantity",
    "exit_quantity",
    "charges",
    "realized_pnl",
    "decided_at",
]
_ORDER_COLUMNS = [
    "id",
    "client_order_id",
    "origin",
    "auto_trade_id",
    "cycle_id",
    "shard",
    "user_id",
    "account_id",
    "intent",
    "symbol",
    "exchange",
    "side",
    "product",
    "order_type",
    "quantity",
    "limit_price",
    "state",
    "filled_quantity",
    "environment",
    "decided_at",
]
_DECISION_COLUMNS = ["cycle_id", "user_id", "mode", "skipped_reason", "outcomes"]

# An upsert in user order: no deadlock between racers, no overshoot, and no plan that flips (see the benchmarks).
# `last_claim` is what this very statement was granted.
_CLAIM_QUOTA = text("""
    INSERT INTO daily_usage AS d (user_id, trade_date, entries_used, last_claim, entries_max)
    SELECT w.user_id, :today, LEAST(w.cap, w.wanted), LEAST(w.cap, w.wanted), w.cap
      FROM unnest(CAST(:users AS bigint[]), CAST(:wanted AS int[]), CAST(:caps AS int[])) AS w(user_id, wanted, cap)
     ORDER BY w.user_id
        ON CONFLICT (user_id, trade_date) DO UPDATE
       SET entries_used =
               GREATEST(d.entries_used, LEAST(EXCLUDED.entries_max, d.entries_used + EXCLUDED.entries_used)),
           last_claim =
               GREATEST(0, LEAST(EXCLUDED.entries_max, d.entries_used + EXCLUDED.entries_used) - d.entries_used),
           entries_max = EXCLUDED.entries_max
 RETURNING user_id, last_claim
""")
_REFUND_QUOTA = text("""
    UPDATE daily_usage SET entries_used = entries_used - 1
     WHERE user_id = :user_id AND trade_date = :trade_date AND entries_used > 0
""")


async def claim_quota(session: AsyncSession, today: date, wanted: Sequence[tuple[int, int, int]]) -> Mapping[int, int]:
    """Claim entries: (user, entries wanted, the day's cap) → entries granted. Joins the caller's transaction."""
    if not wanted:
        return {}
    users, counts, caps = zip(*wanted, strict=True)
    rows = await session.execute(
        _CLAIM_QUOTA, {"today": today, "users": list(users), "wanted": list(counts), "caps": list(caps)}
    )
    return {row.user_id: row.last_claim for row in rows}


async def refund_quota(session: AsyncSession, user_id: int, trade_date: date) -> None:
    """Give one entry back, on proof that its order does not exist at the broker."""
    await session.execute(_REFUND_QUOTA, {"user_id": user_id, "trade_date": trade_date})


async def record(
    trading: Trading,
    claim: ShardClaim,
    cycle_at: datetime,
    market_now: datetime,
    today: date,
    decisions: Sequence[UserDecision],
) -> list[Recorded]:
    """Write one shard's decisions; what it returns may be sent.

    Raises:
        FencedError: a newer claim exists; nothing was written.
    """
    async with trading.sessions.begin() as session:
        await hold(session, claim, trading.rules.lease_s)
        await _one_record_at_a_time(session, claim.shard)
        await _drop_overtaken(session, decisions, trading.rules.limits.cluster_positions_max)
        wanted = [(d.user.user_id, len(d.entries), d.user.entries_cap) for d in decisions if d.entries]
        granted = await claim_quota(session, today, wanted)
        for decision in decisions:
            _drop_ungranted(decision, granted.get(decision.user.user_id, 0))
        entries = [(d.user, entry) for d in decisions for entry in d.entries]
        exits = [(d.user, planned) for d in decisions for planned in d.exits]
        trade_ids = await next_ids(session, "auto_trades_id_seq", len(entries))
        order_ids = iter(await next_ids(session, "orders_id_seq", len(entries) + len(exits)))
        recorded: list[Recorded] = []
        trade_rows: list[tuple[Any, ...]] = []
        order_rows: list[tuple[Any, ...]] = []
        head = (claim.cycle_id, claim.shard, trading.rules.environment.value, cycle_at, market_now)
        for user, planned in exits:
            trade_id, strategy = planned.trade.trade_id, planned.trade.strategy
            order_rows.append(_order_row(next(order_ids), trade_id, user, planned.approved, strategy, head))
            recorded.append(_recorded(order_rows[-1], user, planned.approved))
        for (user, entry), trade_id in zip(entries, trade_ids, strict=True):
            trade_rows.append(_trade_row(trade_id, claim.cycle_id, user, entry, market_now))
            strategy = entry.candidate.signal.strategy
            order_rows.append(_order_row(next(order_ids), trade_id, user, entry.approved, strategy, head))
            recorded.append(_recorded(order_rows[-1], user, entry.approved))
        await _mark_exiting(session, [planned for _, planned in exits])
        await insert_rows(session, _table(AutoTrade), _TRADE_COLUMNS, trade_rows)
        await insert_rows(session, _table(Order), _ORDER_COLUMNS, order_rows)
        await insert_rows(session, _table(Decision), _DECISION_COLUMNS, _decision_rows(claim.cycle_id, decisions))
        await session.execute(_RECORDED, {"cycle_id": claim.cycle_id, "shard": claim.shard})
    return recorded


def _table(model: type[Base]) -> Table:
    return cast("Table", model.__table__)


_RECORDED = text("UPDATE cycle_shards SET recorded = true WHERE cycle_id = :cycle_id AND shard = :shard")

_SHARD_LOCK = 0x5AD0
"""Class of the advisory locks that let one cycle at a time record a shard of users."""

_LIVE_NOW = text("""
    SELECT id, account_id, symbol, status, cluster,
           EXISTS (SELECT FROM orders WHERE auto_trade_id = auto_trades.id AND origin = 'guard' AND state IN (
                   'pending', 'submitted', 'accepted', 'partially_filled', 'cancel_pending', 'unknown')) AS guarded
      FROM auto_trades
     WHERE account_id = ANY(CAST(:accounts AS bigint[])) AND closed_at IS NULL
       AND status IN ('entering', 'open', 'exiting')
""")


async def _one_record_at_a_time(session: AsyncSession, shard: int) -> None:
    """Two cycles that overlap decide for the same users: the second must see what the first has recorded."""
    await session.execute(text("SELECT pg_advisory_xact_lock(:class, :shard)"), {"class": _SHARD_LOCK, "shard": shard})


async def _drop_overtaken(session: AsyncSession, decisions: Sequence[UserDecision], cluster_positions_max: int) -> None:
    """Drop entries in symbols that are held or clusters that are full by now, and exits of trades no longer open."""
    accounts = sorted({d.user.account_id for d in decisions if d.entries or d.exits})
    if not accounts:
        return
    rows = (await session.execute(_LIVE_NOW, {"accounts": accounts})).all()
    held = {(row.account_id, row.symbol) for row in rows}
    # With its guard still at the broker, an exit could sell the same shares a second time.
    still_open = {row.id for row in rows if row.status == TradeStatus.OPEN and not row.guarded}
    clusters = Counter((row.account_id, row.cluster) for row in rows if row.status != TradeStatus.EXITING)
    for decision in decisions:
        account_id = decision.user.account_id
        for entry in list(decision.entries):
            symbol, cluster = entry.candidate.signal.symbol, entry.candidate.signal.cluster
            full = cluster is not None and clusters[account_id, cluster] >= cluster_positions_max
            if full or (account_id, symbol) in held:
                overtaken = Reason.ALREADY_HELD if (account_id, symbol) in held else Reason.CLUSTER_FULL
                decision.entries.remove(entry)
                _replace_outcome(decision, symbol, Intent.ENTRY, overtaken)
            elif cluster is not None:
                clusters[account_id, cluster] += 1
        for planned in [e for e in decision.exits if e.trade.trade_id not in still_open]:
            decision.exits.remove(planned)
            _replace_outcome(decision, planned.trade.symbol, Intent.EXIT, Reason.ORDER_OPEN)


def _replace_outcome(decision: UserDecision, symbol: str, intent: Intent, reason: Reason) -> None:
    """Turn what the decision took into a denial."""
    taken = next(
        i for i, o in enumerate(decision.outcomes) if o.symbol == symbol and o.intent is intent and o.reason is None
    )
    outcome = decision.outcomes[taken]
    decision.outcomes[taken] = replace(outcome, reason=reason, quantity=0, limit_price=None, exit_reason=None)


_MARK_EXITING = text("""
    UPDATE auto_trades t SET status = 'exiting', exit_reason = w.reason
      FROM (SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:reasons AS text[])) AS u(id, reason) ORDER BY id) w
     WHERE t.id = w.id
""")


async def _mark_exiting(session: AsyncSession, exits: Sequence[PlannedExit]) -> None:
    if exits:
        ids, reasons = [e.trade.trade_id for e in exits], [e.reason.value for e in exits]
        await session.execute(_MARK_EXITING, {"ids": ids, "reasons": reasons})


def _drop_ungranted(decision: UserDecision, granted: int) -> None:
    """Turn entries beyond the granted quota, the lowest ranked first, into denials."""
    for entry in decision.entries[granted:]:
        _replace_outcome(decision, entry.candidate.signal.symbol, Intent.ENTRY, Reason.PLAN_LIMIT)
    del decision.entries[granted:]


def _trade_row(
    trade_id: int, cycle_id: int, user: UserState, entry: PlannedEntry, market_now: datetime
) -> tuple[Any, ...]:
    order, candidate = entry.approved.order, entry.candidate
    signal = candidate.signal
    return (
        trade_id,
        user.user_id,
        user.account_id,
        cycle_id,
        order.symbol,
        order.exchange,
        order.side.value,
        order.product.value,
        user.mode.value,
        TradeStatus.ENTERING.value,
        signal.strategy,
        signal.model_version,
        signal.logic_version,
        signal.cluster,
        candidate.confidence,
        candidate.confidence_kind,
        candidate.expected_return_net,
        entry.horizon_ends_on,
        candidate.quote.last,
        signal.target,
        signal.stop,
        order.quantity,
        0,
        0,
        0,
        0,
        market_now,
    )


def _order_row(
    order_id: int,
    trade_id: int,
    user: UserState,
    approved: Approved,
    strategy: str,
    head: tuple[int, int, str, datetime, datetime],
) -> tuple[Any, ...]:
    cycle_id, shard, environment, cycle_at, market_now = head
    order = approved.order
    return (
        order_id,
        client_order_id(cycle_at, user.user_id, strategy, order.symbol, order.intent),
        OrderOrigin.ENGINE.value,
        trade_id,
        cycle_id,
        shard,
        user.user_id,
        user.account_id,
        order.intent.value,
        order.symbol,
        order.exchange,
        order.side.value,
        order.product.value,
        order.order_type.value,
        order.quantity,
        order.limit_price,
        OrderState.PENDING.value,
        0,
        environment,
        market_now,
    )


def _recorded(row: tuple[Any, ...], user: UserState, approved: Approved) -> Recorded:
    return Recorded(row[0], row[1], user.user_id, user.account_id, approved, user.funds_total)


def _decision_rows(cycle_id: int, decisions: Sequence[UserDecision]) -> list[tuple[Any, ...]]:
    """One row per user with anything to say; a cycle without candidates for a user leaves none."""
    return [
        (
            cycle_id,
            d.user.user_id,
            Mode(d.user.mode).value,
            d.user.unavailable.value if d.user.unavailable else None,
            orjson.dumps([_outcome(o) for o in d.outcomes]).decode(),
        )
        for d in decisions
        if d.outcomes or d.user.unavailable
    ]


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "symbol": outcome.symbol,
        "intent": outcome.intent.value,
        "reason": outcome.reason.value if outcome.reason else None,
        "quantity": outcome.quantity,
        "limit_price": str(outcome.limit_price) if outcome.limit_price is not None else None,
        "exit_reason": outcome.exit_reason.value if outcome.exit_reason else None,
        "strategy": outcome.strategy,
    }
