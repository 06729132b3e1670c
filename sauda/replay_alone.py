"""What a replay does otherwise than a trading day: no real seconds, and nobody there to lift a state."""

import sys
from dataclasses import replace

from backend.db import Sessions
from backend.domain.trading_states import Cause, Scope
from backend.models import User
from backend.services.context import Trading
from backend.services.trading_state_service import lift, standings

DAY_LOSS_LIFTED = "the next day of a replay begins, and nobody is there to lift the loss limit of the last one"

PATIENCE_S = 600.0
"""Real seconds for what takes milliseconds: nobody else is there whom it could keep waiting."""


def without_rates(trading: Trading) -> Trading:
    """The same world without limits in real seconds, so that a busy machine changes nothing in what it does.

    How many orders are refused in a row still counts.
    """
    gate = replace(
        trading.rules.gate,
        # They count real seconds, in which a replay passes days, and spare brokers that a replay does not have.
        symbol_orders_max=sys.maxsize,
        orders_per_second_max=sys.maxsize,
        orders_per_minute_max=sys.maxsize,
        orders_per_day_max=sys.maxsize,
        quote_age_s_max=PATIENCE_S,
    )
    patient = replace(
        trading.rules,
        gate=gate,
        send_timeout_s=PATIENCE_S,
        halt_unseen_s_max=PATIENCE_S,
        entry_send_s_max=PATIENCE_S,
        lease_s=PATIENCE_S,
    )
    return replace(trading, rules=patient)


async def lift_day_losses(sessions: Sessions) -> None:
    """Let users whose last day cost too much enter again, in their own name; every other state stays."""
    async with sessions.begin() as session:
        for row in (await standings(session)).rows:
            if row.cause is Cause.DAILY_LOSS and row.scope is Scope.USER:
                user = await session.get_one(User, int(row.key))
                await lift(session, row.scope, row.key, user, DAY_LOSS_LIFTED)
