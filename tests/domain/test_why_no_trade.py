"""The most likely cause of a day without an entry: one table of days, and what must hold of any of them."""

from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.reasons import NEXT_STEP, Reason
from backend.domain.why_no_trade import DayFacts, verdict

DAY = date(2024, 3, 18)
ORDINARY = DayFacts(
    day=DAY,
    today=DAY,
    session=True,
    user_active=True,
    entries_sent=0,
    entries_filled=0,
    auto_trades_per_day=10,
    account_ready=True,
    enabled=True,
    cycles_done=10,
)
HALTED = (("plan_limit", "wait"), ("trading_halted", "An administrator lifts it."))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, "no_candidates"),
        ({"entries_sent": 2, "entries_filled": 1}, "traded"),
        ({"entries_filled": 1, "entries_sent": 1, "user_active": False}, "traded"),
        ({"day": DAY + timedelta(days=1)}, "day_to_come"),
        ({"session": False, "user_active": False}, "market_closed"),
        ({"entries_sent": 2, "enabled": False}, "not_filled"),
        ({"user_active": False, "auto_trades_per_day": 0}, "user_inactive"),
        ({"auto_trades_per_day": 0, "account_ready": False}, "plan_required"),
        ({"account_ready": False, "enabled": False}, "no_account"),
        ({"enabled": False, "cycles_done": 0}, "auto_trading_disabled"),
        ({"blocking": HALTED, "cycles_done": 0}, "trading_halted"),
        ({"blocking": HALTED, "day": DAY - timedelta(days=1)}, "no_candidates"),
        ({"cycles_done": 0}, "no_cycles"),
        ({"cycles_done": 0, "cycles_missed": 3, "denied": {"plan_limit": 9}}, "cycles_missed"),
        ({"skipped": {"broker_unavailable": 5}, "problems": {"quotes": 9}}, "broker_unavailable"),
        ({"skipped": {"broker_unavailable": 4}, "problems": {"quotes": 5}, "denied": {"plan_limit": 9}}, "no_quotes"),
        ({"skipped": {"broker_unavailable": 4}, "problems": {"quotes": 4}, "denied": {"plan_limit": 9}}, "plan_limit"),
        ({"skipped": {"broker_unavailable": 4}, "last_cycle": {"not_a_buy": 9}}, "broker_unavailable"),
        ({"last_cycle": {"not_a_buy": 3, "confidence_below_mode": 4}}, "confidence_below_mode"),
        ({"denied": {"plan_limit": 3, "already_held": 3}}, "already_held"),
    ],
)
def test_the_most_likely_cause(changes: dict, code: str) -> None:
    assert verdict(replace(ORDINARY, **changes)).code == code


@pytest.mark.parametrize("reason", list(Reason))
def test_a_recorded_reason_brings_its_own_next_step(reason: Reason) -> None:
    found = verdict(replace(ORDINARY, denied={reason.value: 7}))
    assert (found.code, found.next_step) == (reason.value, NEXT_STEP[reason])
    assert "7 times" in found.cause


COUNTS = st.dictionaries(st.sampled_from([*Reason, "a_reason_of_before"]).map(str), st.integers(1, 500), max_size=4)
FACTS = st.builds(
    DayFacts,
    day=st.dates(DAY, DAY + timedelta(days=2)),
    today=st.just(DAY + timedelta(days=1)),
    session=st.booleans(),
    user_active=st.booleans(),
    entries_sent=st.integers(0, 3),
    entries_filled=st.integers(0, 3),
    auto_trades_per_day=st.integers(0, 10),
    account_ready=st.booleans(),
    enabled=st.booleans(),
    cycles_done=st.integers(0, 400),
    cycles_missed=st.integers(0, 400),
    denied=COUNTS,
    skipped=COUNTS,
    last_cycle=COUNTS,
    problems=st.dictionaries(st.sampled_from(["quotes", "predictions"]), st.integers(1, 400)),
)


@given(FACTS)
def test_every_day_has_one_sentence_and_a_next_step(facts: DayFacts) -> None:
    found = verdict(facts)
    assert found.cause.endswith(".")
    assert found.next_step.endswith(".")
    if not facts.entries_filled and facts.session and facts.day <= facts.today and not facts.entries_sent:
        assert (found.code == "user_inactive") == (not facts.user_active)
