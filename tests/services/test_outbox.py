"""Messages are announced once, in order, whatever they hold."""

import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from backend.models import OutboxMessage
from backend.services.outbox_service import _line, deliver

TOPICS = ("trade.entry_filled", "trade.closed", "trade.cancelled")
WHOLE = {
    "mode": "moderate",
    "strategy": "linear_v1",
    "symbol": "INFY",
    "quantity": 24,
    "price": "1500.40",
    "confidence": 0.85,
    "exit_reason": "target",
    "realized_pnl": "1312.55",
}


def test_a_whole_message_is_a_readable_line() -> None:
    entry, closed, cancelled = (_line(topic, "a@example.com", WHOLE) for topic in TOPICS)
    assert " ".join(entry.split()) == "BUY 24 INFY at ₹1500.40 a@example.com (moderate, linear_v1), confidence 85%"
    assert closed.endswith("target, realized ₹1312.55 after charges")
    assert "not filled, cancelled" in cancelled


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(string.printable),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@given(
    st.sampled_from([*TOPICS, "another.topic"]), st.fixed_dictionaries({}, optional=dict.fromkeys(WHOLE, json_values))
)
def test_no_payload_is_too_odd_for_a_line(topic: str, payload: dict) -> None:
    assert "a@example.com" in _line(topic, "a@example.com", payload)


@pytest.mark.parametrize("missing", sorted(WHOLE))
@pytest.mark.parametrize("topic", TOPICS)
def test_what_is_missing_leaves_the_rest_readable(topic: str, missing: str) -> None:
    without = {name: value for name, value in WHOLE.items() if name != missing}
    assert _line(topic, "a", without) == _line(topic, "a", WHOLE | {missing: None})
    shown = "85%" if missing == "confidence" else str(WHOLE[missing])
    if shown in _line(topic, "a", WHOLE):
        assert shown not in _line(topic, "a", without)
        assert "?" in _line(topic, "a", without)


async def test_an_odd_message_does_not_hold_up_those_behind_it(trading, sessions) -> None:
    odd = {"confidence": "high", "price": None, "quantity": [1]}
    async with sessions.begin() as session:
        for payload in (odd, {}, WHOLE):
            session.add(OutboxMessage(topic="trade.entry_filled", user_id=None, payload=payload))
            await session.flush()
    lines: list[str] = []
    heard = replace(trading, announce=lines.append)
    assert await deliver(heard) == 3
    assert await deliver(heard) == 0
    assert "1500.40" in lines[2]
    async with sessions() as session:
        delivered = (await session.scalars(select(OutboxMessage.delivered_at))).all()
    assert None not in delivered
