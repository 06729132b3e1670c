"""The day's loss limit: remembers what each account began the day with, and leaves only exits once too much is gone."""

from collections.abc import Container, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.day_loss import day_loss_fraction, loss_limit_reached
from backend.domain.decide import UserState
from backend.domain.ranking import MarketView
from backend.domain.trading_states import Cause, Scope, TradingState
from backend.services.context import Trading
from backend.services.trading_state_service import impose, standings

_REMEMBER = text("""
    INSERT INTO day_equity (account_id, trade_date, equity_rupees)
    SELECT * FROM (SELECT unnest(CAST(:accounts AS bigint[])), CAST(:today AS date),
                          unnest(CAST(:equities AS numeric[]))) AS w
        ON CONFLICT DO NOTHING
""")
# A graver state that replaced it, whoever imposed that, did not lift it.
_LIFTED_TODAY = text("""
    SELECT count(*) FROM trading_states t, day_equity d
     WHERE t.scope = 'user' AND t.key = :user_key AND t.cause = 'daily_loss' AND t.ended_by IS NOT NULL
       AND d.account_id = :account_id AND d.trade_date = :today AND t.ended_at > d.created_at
       AND t.end_reason NOT LIKE 'replaced: %'
""")
# An account's entries are written under its lock, so that their numbers and times rise together: each account is read
# from its newest entry back to the day's first look.
_TRANSFERRED = text("""
    SELECT d.account_id, moved.rupees
      FROM day_equity d
     CROSS JOIN LATERAL (
           SELECT -sum(e.amount) AS rupees FROM ledger_entries e
            WHERE e.account_id = d.account_id AND e.ledger_account = 'external' AND e.kind IN ('fund', 'adjust')
              AND e.id > coalesce((SELECT max(b.id) FROM ledger_entries b
                                    WHERE b.account_id = d.account_id AND b.created_at <= d.created_at), 0)) moved
     WHERE d.trade_date = :today AND d.account_id = ANY(CAST(:accounts AS bigint[])) AND moved.rupees <> 0
""")


def without_transfers(start: Decimal, now: Decimal, transferred: Decimal) -> tuple[Decimal, Decimal]:
    """A day's equity then and now in rupees, as if nothing came or went: what came in was there from the beginning,
    and what went out (negative) still is. So no transfer is a loss, hides one, or makes one weigh more."""
    return start + max(transferred, Decimal(0)), now - min(transferred, Decimal(0))


async def watch_day_loss(trading: Trading, users: Sequence[UserState], market: MarketView) -> list[UserState]:
    """Put users whose day has cost too much into REDUCING, and return all as they stand then.

    An account in which anything held has no quote now is left alone: what it is worth is not known. What the market
    does not know at all counts nothing, at the day's beginning as now. Neither is an account judged while shares and
    prices of something held may be on two scales.
    """
    limit = trading.rules.day_loss_fraction_max
    known = trading.market_data.instruments
    valued = [user for user in users if user.unavailable is None and _is_valued(user, market, known)]
    new = [user for user in valued if user.day_equity is None]
    watched = [user for user in valued if user.standing().state is TradingState.ACTIVE and user.day_equity is not None]
    if not new and not watched:
        return list(users)
    async with trading.sessions.begin() as session:
        if new:
            equities = {"accounts": [u.account_id for u in new], "equities": [u.funds_total for u in new]}
            await session.execute(_REMEMBER, {"today": market.today, **equities})
        transferred = await _transferred(session, watched, market.today)
        losers: list[tuple[UserState, Decimal, Decimal]] = []
        for user in watched:
            moved = transferred.get(user.account_id, Decimal(0))
            start, worth = without_transfers(user.day_equity or Decimal(0), user.funds_total, moved)
            if loss_limit_reached(start, worth, limit, 0):
                losers.append((user, start, worth))
        for user, start, worth in losers:
            await _reduce(session, user, start, worth, limit, market.today)
        if not losers:
            return list(users)
        standing = await standings(session)
    return [replace(user, standings=standing) for user in users]


async def _transferred(session: AsyncSession, users: Sequence[UserState], today: date) -> dict[int, Decimal]:
    """Rupees that came into accounts from outside since the day's first look, or left (negative), where any did."""
    if not users:
        return {}
    accounts = [user.account_id for user in users]
    rows = await session.execute(_TRANSFERRED, {"today": today, "accounts": accounts})
    return {row.account_id: row.rupees for row in rows}


async def _reduce(
    session: AsyncSession, user: UserState, start: Decimal, worth: Decimal, limit: Decimal, today: date
) -> None:
    """Leave a loser only exits, unless a person has allowed the day to cost more."""
    parameters = {"user_key": str(user.user_id), "account_id": user.account_id, "today": today}
    lifted = await session.scalar(_LIFTED_TODAY, parameters)
    if loss_limit_reached(start, worth, limit, lifted or 0):
        detail = (
            f"the day has cost {day_loss_fraction(start, worth):.2%} of {start:.2f} rupees; the limit is {limit:.2%}"
        )
        await impose(session, Scope.USER, str(user.user_id), TradingState.REDUCING, Cause.DAILY_LOSS, detail)


def _is_valued(user: UserState, market: MarketView, known: Container[str]) -> bool:
    if any(shares and symbol in user.unscaled for symbol, shares in user.holdings.items()):
        return False
    return all(symbol in market.quotes for symbol, shares in user.holdings.items() if shares and symbol in known)
