"""The day's loss limit: remembers what each account began the day with, and leaves only exits once too much is gone."""

from collections.abc import Container, Sequence
from dataclasses import replace

from sqlalchemy import text

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


async def watch_day_loss(trading: Trading, users: Sequence[UserState], market: MarketView) -> list[UserState]:
    """Put users whose day has cost too much into REDUCING, and return all as they stand then.

    An account in which anything held has no quote now is left alone: what it is worth is not known. What the market
    does not know at all counts nothing, at the day's beginning as now.
    """
    limit = trading.rules.day_loss_fraction_max
    known = trading.market_data.instruments
    valued = [user for user in users if user.unavailable is None and _is_valued(user, market, known)]
    new = [user for user in valued if user.day_equity is None]
    losers = [
        user
        for user in valued
        if user.day_equity is not None
        and user.standing().state is TradingState.ACTIVE
        and loss_limit_reached(user.day_equity, user.funds_total, limit, 0)
    ]
    if not new and not losers:
        return list(users)
    async with trading.sessions.begin() as session:
        if new:
            equities = {"accounts": [u.account_id for u in new], "equities": [u.funds_total for u in new]}
            await session.execute(_REMEMBER, {"today": market.today, **equities})
        for user in losers:
            start = user.day_equity or user.funds_total
            lifted = await session.scalar(
                _LIFTED_TODAY, {"user_key": str(user.user_id), "account_id": user.account_id, "today": market.today}
            )
            if not loss_limit_reached(start, user.funds_total, limit, lifted or 0):
                continue
            lost = day_loss_fraction(start, user.funds_total)
            detail = f"the day has cost {lost:.2%} of {start:.2f} rupees; the limit is {limit:.2%}"
            await impose(session, Scope.USER, str(user.user_id), TradingState.REDUCING, Cause.DAILY_LOSS, detail)
        standing = await standings(session)
    return [replace(user, standings=standing) for user in users]


def _is_valued(user: UserState, market: MarketView, known: Container[str]) -> bool:
    return all(symbol in market.quotes for symbol, shares in user.holdings.items() if shares and symbol in known)
