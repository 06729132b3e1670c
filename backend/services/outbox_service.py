"""Delivering what transactions left in the outbox to the console, one readable line each; mails: mail_service."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select

from backend.models import OutboxMessage, User
from backend.services.context import Trading

BATCH_MAX = 200


async def deliver(trading: Trading) -> int:
    """Announce undelivered messages, oldest first. A crash in between may repeat a line; it never loses one."""
    async with trading.sessions.begin() as session:
        rows = (
            await session.execute(
                select(OutboxMessage, User.email)
                .outerjoin(User, User.id == OutboxMessage.user_id)
                .where(OutboxMessage.delivered_at.is_(None), ~OutboxMessage.topic.startswith("mail."))
                .order_by(OutboxMessage.id)
                .limit(BATCH_MAX)
                .with_for_update(of=OutboxMessage, skip_locked=True)
            )
        ).all()
        for message, email in rows:
            trading.announce(_line(message.topic, email or "platform", message.payload))
            message.delivered_at = func.clock_timestamp()
    return len(rows)


def _shown(value: object, spec: str = "") -> str:
    """`value` formatted by `spec`, or a question mark: no message may stop those behind it."""
    try:
        return "?" if value is None else format(value, spec)
    except (TypeError, ValueError, OverflowError):
        return "?"


def _line(topic: str, email: str, payload: Mapping[str, Any]) -> str:
    def p(name: str, spec: str = "") -> str:
        return _shown(payload.get(name), spec)

    who = f"{email} ({p('mode')}, {p('strategy')})"
    what = f"{p('quantity'):>5} {p('symbol'):<12}"
    if topic == "trade.entry_filled":
        return f"    BUY  {what} at ₹{p('price'):<10} {who}, confidence {p('confidence', '.0%')}"
    if topic == "trade.closed":
        result = f"{p('exit_reason')}, realized ₹{p('realized_pnl')} after charges"
        return f"    SELL {what} at ₹{p('price'):<10} {who}, {result}"
    if topic == "trade.cancelled":
        return f"    ---- {what} not filled, cancelled  {who}"
    if topic == "trading_state.changed":
        whom = " ".join(part for part in (p("scope"), p("key")) if part not in {"", "?"})
        return f"    !    trading is {p('state').upper()} for {whom} ({p('cause')}): {p('detail')}"
    return f"    !    {topic} for {email}: {p('message')}"
