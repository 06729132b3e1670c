"""What the gate before the socket must know of an account, read in one statement under the account's lock."""

from decimal import Decimal

from sqlalchemy import func, select, text, true
from sqlalchemy.ext.asyncio import AsyncSession

from backend.brokers.base import Broker
from backend.domain.calendar import IST
from backend.domain.decide import TradeStatus
from backend.domain.gate import AccountFacts, GateLimits, LiveSwitches
from backend.domain.orders import Intent
from backend.domain.trading_states import Cause, Scope, TradingState, held_without_stops, holding_key
from backend.models import (
    CURRENT,
    AutoTrade,
    BrokerAccount,
    Feature,
    LivePermission,
    Order,
    Plan,
    Subscription,
)
from backend.services.compliance_service import record_of
from backend.services.context import TradingRules
from backend.services.trading_state_service import impose, standings
from contracts.common import Environment

SECOND_S = 1.5
"""A second at the broker, and half of one for the way there: commits are counted here, arrivals there."""

# Days and seconds are real ones, as brokers count them. What was sent before a person lifted a halt is forgiven; a
# graver state that replaced one forgives nothing.
_FACTS = text("""
    WITH lifted AS (
             SELECT coalesce(max(ended_at), '-infinity') AS at FROM trading_states
              WHERE (scope = 'platform' OR (scope = 'user' AND key = CAST(CAST(:user_id AS bigint) AS text)))
                AND end_reason NOT LIKE 'replaced: %'),
         sent AS (
             SELECT symbol, state, submitted_at FROM orders
              WHERE account_id = :account_id AND origin <> 'external'
                AND submitted_at > least(
                    date_trunc('day', clock_timestamp() AT TIME ZONE 'Asia/Kolkata') AT TIME ZONE 'Asia/Kolkata',
                    clock_timestamp() - make_interval(secs => :window_s))),
         live AS (
             SELECT symbol, side, state, origin, quantity - filled_quantity AS open, limit_price FROM orders
              WHERE user_id = :user_id AND account_id = :account_id AND id <> :order_id
                AND state IN ('submitted', 'accepted', 'partially_filled', 'cancel_pending', 'unknown'))
    SELECT (SELECT count(*) FROM sent
             WHERE submitted_at > clock_timestamp() - make_interval(secs => :second_s)) AS last_second,
           (SELECT count(*) FROM sent WHERE submitted_at > clock_timestamp() - interval '1 minute') AS last_minute,
           (SELECT count(*) FROM sent) AS today,
           (SELECT count(*) FROM sent, lifted WHERE symbol = :symbol AND submitted_at > lifted.at
               AND submitted_at > clock_timestamp() - make_interval(secs => :window_s)) AS symbol_sent,
           -- a guard waits below the market, and would be met only where a buy had been filled long before
           :origin <> 'guard' AND EXISTS (SELECT FROM live WHERE symbol = :symbol
                      AND side <> :side AND origin <> 'guard'
                      AND coalesce(CASE :side WHEN 'buy' THEN limit_price <= CAST(:limit_price AS numeric)
                                              ELSE limit_price >= CAST(:limit_price AS numeric) END, true)) AS opposite,
           EXISTS (SELECT FROM live WHERE symbol = :symbol AND state = 'unknown') AS unknown,
           EXISTS (SELECT FROM account_actions x JOIN corporate_actions c ON c.id = x.action_id
                    WHERE x.account_id = :account_id
                      AND (x.status = 'pending' OR x.settled_at > CAST(:decided_at AS timestamptz))
                      AND CAST(:symbol AS varchar) IN (c.symbol, c.new_symbol)) AS action_pending,
           coalesce((SELECT sum(open * limit_price) FROM live WHERE side = 'buy'), 0)
               + coalesce((SELECT sum(balance) FROM ledger_balances
                            WHERE account_id = :account_id AND ledger_account = 'positions'), 0) AS open_value,
           coalesce((SELECT quantity FROM ledger_balances
                      WHERE account_id = :account_id AND ledger_account = 'positions' AND symbol = :symbol), 0)
               - coalesce((SELECT sum(open) FROM live WHERE side = 'sell' AND symbol = :symbol), 0) AS shares_free,
           coalesce((SELECT balance FROM ledger_balances
                      WHERE account_id = :account_id AND ledger_account = 'cash' AND symbol = ''), 0) AS cash_free
""")


async def facts_of(
    session: AsyncSession,
    rules: TradingRules,
    order: Order,
    strategy: str | None,
    funds_total: Decimal,
    broker: Broker,
) -> AccountFacts:
    """The account as the gate must see it. Joins the transaction, which has locked order, trade and account.

    Args:
        funds_total: what the account was worth when the order was decided, rupees.
    """
    row = (
        await session.execute(
            _FACTS,
            {
                "user_id": order.user_id,
                "account_id": order.account_id,
                "order_id": order.id,
                "symbol": order.symbol,
                "side": order.side.value,
                "origin": order.origin.value,
                "limit_price": order.limit_price,
                "decided_at": order.decided_at,
                "second_s": SECOND_S,
                "window_s": rules.gate.symbol_window_s,
            },
        )
    ).one()
    return AccountFacts(
        standing=(await standings(session)).effective(
            order.user_id, strategy, broker.name, holding_key(order.account_id, order.symbol)
        ),
        cash_free=row.cash_free,
        funds_total=funds_total,
        open_value=row.open_value,
        shares_free=int(row.shares_free),
        opposite_open=row.opposite,
        sent_last_second=row.last_second,
        sent_last_minute=row.last_minute,
        sent_today=row.today,
        symbol_sent=row.symbol_sent,
        rejections_running=await _rejections_running(session, rules.gate, order),
        live_switches=await _live_switches(session, rules, order, broker),
        unknown_open=row.unknown,
        action_pending=row.action_pending,
    )


async def _live_switches(
    session: AsyncSession, rules: TradingRules, order: Order, broker: Broker
) -> LiveSwitches | None:
    if not broker.real_money:
        return None
    permission = await session.get(LivePermission, order.user_id, populate_existing=True)
    features = await session.scalar(
        select(Plan.features)
        .join(Subscription, Subscription.plan_code == Plan.code)
        .where(Subscription.user_id == order.user_id, Subscription.status.in_(CURRENT))
    )
    # What was bought while all was on keeps its stops: a plan that ended, a record whose days are over and a user who
    # takes no more bar entries. A record that was revoked bars exits, too: then the order itself is no longer lawful.
    leaving = order.intent is Intent.EXIT
    planned = leaving or Feature.LIVE in (features or ())
    today = order.decided_at.astimezone(IST).date()
    record = await record_of(session, order.user_id, today, broker.name, lapsed=leaving)
    return LiveSwitches(
        deployment=rules.live_trading and rules.environment is Environment.LIVE,
        compliance=planned and record is not None,
        user=permission is not None and (leaving or permission.confirmed_at is not None),
    )


async def names_of(session: AsyncSession, order: Order, broker: Broker) -> tuple[str, str]:
    """The algo id and the address of a real order that was admitted, by the compliance record that lets it out.

    Joins the transaction in which the gate looked at that record.
    """
    leaving = order.intent is Intent.EXIT
    today = order.decided_at.astimezone(IST).date()
    record = await record_of(session, order.user_id, today, broker.name, lapsed=leaving)
    return (record.algo_id, record.egress_ip) if record is not None else ("", "")


_REJECTIONS = text("""
    SELECT count(*) FROM (
        SELECT state FROM orders
         WHERE account_id = :account_id AND origin NOT IN ('external', 'guard') AND state <> 'submitted'
           AND submitted_at > (
               SELECT coalesce(max(ended_at), '-infinity') FROM trading_states
                WHERE (scope = 'platform' OR (scope = 'user' AND key = CAST(CAST(:user_id AS bigint) AS text)))
                  AND end_reason NOT LIKE 'replaced: %')
         ORDER BY submitted_at DESC LIMIT :rejections_max) newest
     WHERE state = 'rejected'
""")


async def _rejections_running(session: AsyncSession, limits: GateLimits, order: Order) -> int:
    """How many of the account's newest settled sends, up to the limit, were refused."""
    count = await session.scalar(
        _REJECTIONS,
        {"account_id": order.account_id, "user_id": order.user_id, "rejections_max": limits.rejections_running_max},
    )
    return count or 0


async def halt_after_rejections(session: AsyncSession, limits: GateLimits, order: Order) -> None:
    """HALT the owner of a refused order whose broker has refused the account's last few orders, one and all."""
    running = await _rejections_running(session, limits, order)
    if running >= limits.rejections_running_max:
        broker = await session.scalar(select(BrokerAccount.broker).where(BrokerAccount.id == order.account_id))
        held = await held_unstopped(session, Scope.USER, str(order.user_id))
        # The broker's words come last: they may be long, and what is too long is cut.
        words = [f"{broker} refused {running} orders in a row", held, f"the last refusal: {order.status_message or ''}"]
        detail = "; ".join(part for part in words if part)
        await impose(session, Scope.USER, str(order.user_id), TradingState.HALTED, Cause.REJECTIONS, detail)


async def held_unstopped(session: AsyncSession, scope: Scope, key: str) -> str:
    """How many open trades a halt of this scope leaves without their stops, in words; empty where it leaves none."""
    concerned = {
        Scope.PLATFORM: true(),
        Scope.BROKER: BrokerAccount.broker == key,
        Scope.STRATEGY: AutoTrade.strategy == key,
        Scope.USER: AutoTrade.user_id == (int(key) if scope is Scope.USER else 0),
        Scope.HOLDING: func.concat(AutoTrade.account_id, ":", AutoTrade.symbol) == key,
    }
    held = (
        select(func.count())
        .select_from(AutoTrade)
        .join(BrokerAccount, BrokerAccount.id == AutoTrade.account_id)
        .where(
            AutoTrade.status.in_((TradeStatus.ENTERING, TradeStatus.OPEN, TradeStatus.EXITING)),
            AutoTrade.entry_quantity > AutoTrade.exit_quantity,
            concerned[scope],
        )
    )
    return held_without_stops(await session.scalar(held) or 0)
