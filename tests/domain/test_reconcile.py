"""Settling with the broker's book: once is enough, order does not matter, and every step is one the state table has."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from backend.domain.calendar import IST
from backend.domain.market import Product, Side
from backend.domain.orders import LIVE_STATES, OrderState, transition
from backend.domain.orders import OrderEventKind as E
from backend.domain.reconcile import (
    IN_BOOK_STATES,
    BookOrder,
    BookStatus,
    BookTrade,
    KnownOrder,
    LookupRules,
    Settlement,
    settle,
)

AT = datetime(2024, 3, 18, 10, 0, tzinfo=IST)
TAG = "UIYI3YWOAZYX7VNL32UE"


def known(state: OrderState = OrderState.SUBMITTED, fills: tuple[int, ...] = (), **changes: Any) -> KnownOrder:
    """An order of ten shares, with the fills t1, t2, ... already taken in."""
    order = KnownOrder(state, 10, TAG, frozenset(f"t{i + 1}" for i in range(len(fills))), sum(fills), age_s=1.0)
    return replace(order, **changes)


def book(status: BookStatus, *fills: int, message: str = "the broker's words") -> list[BookOrder]:
    trades = tuple(
        BookTrade(f"t{i + 1}", shares, Decimal(100), Decimal(1), AT + timedelta(seconds=i))
        for i, shares in enumerate(fills)
    )
    return [shown_order(status, trades, message)]


def shown_order(status: BookStatus, trades: tuple[BookTrade, ...], message: str = "") -> BookOrder:
    return BookOrder("b1", TAG, "TCS", "nse", Side.BUY, Product.CNC, 10, Decimal(100), AT, status, message, trades)


def apply(order: KnownOrder, settlement: Settlement) -> KnownOrder:
    """The order after a settlement; raises where a step is not in the state table."""
    for step in settlement.steps:
        order = replace(order, state=transition(order.state, step.event))
        if step.trade is not None:
            order = replace(
                order,
                known_trade_ids=order.known_trade_ids | {step.trade.trade_id},
                filled_quantity=order.filled_quantity + step.trade.quantity,
            )
    return order


S, B = OrderState, BookStatus


@pytest.mark.parametrize(
    ("order", "shown", "events", "after"),
    [
        # what became of a send whose answer never came
        (known(), book(B.OPEN), [E.ACCEPTED], S.ACCEPTED),
        (known(), book(B.REJECTED), [E.REJECTED], S.REJECTED),
        (known(), book(B.OPEN, 4), [E.ACCEPTED, E.PARTIALLY_FILLED], S.PARTIALLY_FILLED),
        (known(), book(B.COMPLETE, 4, 6), [E.ACCEPTED, E.PARTIALLY_FILLED, E.FILLED], S.FILLED),
        (known(), book(B.CANCELLED), [E.ACCEPTED, E.CANCELLED], S.CANCELLED),
        (known(), book(B.EXPIRED), [E.ACCEPTED, E.EXPIRED], S.EXPIRED),
        # the same for one that was given up as unknown
        (known(S.UNKNOWN), book(B.OPEN), [E.ACCEPTED], S.ACCEPTED),
        (known(S.UNKNOWN), book(B.REJECTED), [E.REJECTED], S.REJECTED),
        (known(S.UNKNOWN), book(B.COMPLETE, 10), [E.ACCEPTED, E.FILLED], S.FILLED),
        # nothing new
        (known(S.ACCEPTED), book(B.OPEN), [], S.ACCEPTED),
        (known(S.PARTIALLY_FILLED, (4,)), book(B.OPEN, 4), [], S.PARTIALLY_FILLED),
        (known(S.FILLED, (4, 6)), book(B.COMPLETE, 4, 6), [], S.FILLED),
        (known(S.CANCELLED, (4,)), book(B.CANCELLED, 4), [], S.CANCELLED),
        (known(S.REJECTED), book(B.REJECTED), [], S.REJECTED),
        # only what is new, and its ending
        (known(S.PARTIALLY_FILLED, (4,)), book(B.OPEN, 4, 3), [E.PARTIALLY_FILLED], S.PARTIALLY_FILLED),
        (known(S.PARTIALLY_FILLED, (4,)), book(B.COMPLETE, 4, 6), [E.FILLED], S.FILLED),
        (known(S.ACCEPTED), book(B.CANCELLED, 4), [E.PARTIALLY_FILLED, E.CANCELLED], S.CANCELLED),
        (known(S.ACCEPTED), book(B.REJECTED), [E.REJECTED], S.REJECTED),
        # a broker that says complete before it lists the trades is waited for
        (known(S.ACCEPTED), book(B.COMPLETE), [], S.ACCEPTED),
        (known(S.ACCEPTED), book(B.COMPLETE, 4), [E.PARTIALLY_FILLED], S.PARTIALLY_FILLED),
        # a cancel that raced with fills
        (known(S.CANCEL_PENDING), book(B.OPEN), [], S.CANCEL_PENDING),
        (known(S.CANCEL_PENDING), book(B.OPEN, 4), [E.PARTIALLY_FILLED], S.CANCEL_PENDING),
        (known(S.CANCEL_PENDING), book(B.CANCELLED, 4, 6), [E.PARTIALLY_FILLED, E.FILLED], S.FILLED),
        (known(S.CANCEL_PENDING, (4,)), book(B.CANCELLED, 4), [E.CANCELLED], S.CANCELLED),
        # late fills
        (known(S.CANCELLED), book(B.CANCELLED, 4), [E.PARTIALLY_FILLED], S.CANCELLED),
        (known(S.CANCELLED, (4,)), book(B.CANCELLED, 4, 6), [E.FILLED], S.FILLED),
        (known(S.EXPIRED), book(B.EXPIRED, 4, 6), [E.PARTIALLY_FILLED, E.FILLED], S.FILLED),
        (known(S.REJECTED), book(B.REJECTED, 4), [E.PARTIALLY_FILLED], S.REJECTED),
        (known(S.REJECTED), book(B.COMPLETE, 4, 6), [E.PARTIALLY_FILLED, E.FILLED], S.FILLED),
        # one that had traded before it was lost
        (known(S.UNKNOWN, (4,)), book(B.OPEN, 4), [E.PARTIALLY_FILLED], S.PARTIALLY_FILLED),
        (known(S.UNKNOWN, (4,)), book(B.COMPLETE, 4, 6), [E.PARTIALLY_FILLED, E.FILLED], S.FILLED),
        (known(S.UNKNOWN, (4,)), book(B.REJECTED, 4), [E.CANCELLED], S.CANCELLED),
        # a refusal after fills ended only the rest
        (known(), book(B.REJECTED, 4), [E.PARTIALLY_FILLED, E.CANCELLED], S.CANCELLED),
        (known(S.PARTIALLY_FILLED, (4,)), book(B.REJECTED, 4), [E.CANCELLED], S.CANCELLED),
        (known(S.CANCEL_PENDING, (4,)), book(B.REJECTED, 4), [E.CANCELLED], S.CANCELLED),
    ],
)
def test_what_the_book_says(order: KnownOrder, shown: list[BookOrder], events: list[E], after: OrderState) -> None:
    settlement = settle(order, shown, None)
    assert [step.event for step in settlement.steps] == events
    assert settlement.broker_order_id == "b1"
    settled = apply(order, settlement)
    assert settled.state is after
    assert settled.filled_quantity == max(order.filled_quantity, sum(trade.quantity for trade in shown[0].trades))


def test_an_execution_shown_twice_is_one() -> None:
    once = book(B.OPEN, 4)[0]
    twice = replace(once, trades=once.trades * 2)
    assert settle(known(S.ACCEPTED), [twice], None) == settle(known(S.ACCEPTED), [once], None)


def test_a_fill_and_an_ending_carry_what_the_broker_said() -> None:
    settlement = settle(known(), book(B.CANCELLED, 4, message="cancelled by the exchange"), None)
    fill, ending = settlement.steps[1:]
    assert fill.trade == book(B.CANCELLED, 4)[0].trades[0]
    assert "t1" in fill.detail
    assert (ending.detail, ending.trade) == ("cancelled by the exchange", None)


@pytest.mark.parametrize(
    ("state", "age_s", "lookups", "proof_after_s", "event_kind"),
    [
        (S.SUBMITTED, 13, 4, None, None),
        (S.SUBMITTED, 13, 5, None, E.LOST),
        (S.SUBMITTED, 86_400, 0, None, None),
        (S.UNKNOWN, 86_400, 99, None, None),
        (S.SUBMITTED, 9.99, 3, 10, None),
        (S.SUBMITTED, 10, 3, 10, E.ABANDONED),
        (S.UNKNOWN, 9.99, 5, 10, None),
        (S.UNKNOWN, 10, 5, 10, E.ABANDONED),
        (S.SUBMITTED, 16, 5, 20, E.LOST),
        *((state, 86_400, 4, None, None) for state in sorted(IN_BOOK_STATES)),
        *((state, 13, 5, None, E.LOST) for state in sorted(IN_BOOK_STATES)),
        *((state, 9.99, 0, 10, None) for state in sorted(IN_BOOK_STATES)),
        *((state, 10, 0, 10, E.LOST) for state in sorted(IN_BOOK_STATES)),
        *((state, 86_400, 99, 10, None) for state in S if state not in {S.SUBMITTED, S.UNKNOWN, *IN_BOOK_STATES}),
    ],
)
def test_absence_is_judged_by_lookups_and_by_the_brokers_word(
    state: OrderState, age_s: float, lookups: int, proof_after_s: float | None, event_kind: E | None
) -> None:
    settlement = settle(known(state, age_s=age_s, lookups=lookups), [], proof_after_s)
    assert [step.event for step in settlement.steps] == ([] if event_kind is None else [event_kind])
    assert settlement.broker_order_id is None
    apply(known(state), settlement)


@pytest.mark.parametrize(("state", "events"), [(S.SUBMITTED, [E.LOST]), (S.UNKNOWN, [])])
def test_what_the_broker_once_numbered_is_never_held_for_one_that_never_arrived(
    state: OrderState, events: list[E]
) -> None:
    settlement = settle(known(state, age_s=86_400, has_broker_id=True), [], 10)
    assert [step.event for step in settlement.steps] == events


@st.composite
def reports(draw: st.DrawFn) -> list[list[BookOrder]]:
    """What a broker may say of one order of ten shares over time: fills come to light in any portions and any order.

    The last report is complete; its status is one that its fills allow.
    """
    sizes = draw(st.lists(st.integers(1, 10), max_size=5).filter(lambda sizes: sum(sizes) <= 10))
    trades = draw(st.permutations(book(B.OPEN, *sizes)[0].trades))
    full = sum(sizes) == 10
    ending = B.COMPLETE if full else draw(st.sampled_from([B.OPEN, B.REJECTED, B.CANCELLED, B.EXPIRED]))
    seen = sorted(draw(st.lists(st.integers(0, len(trades)), max_size=4)))
    ended_from = draw(st.integers(0, len(seen)))
    statuses = [B.OPEN if i < ended_from or ending is B.REJECTED else ending for i in range(len(seen))]
    return [
        [shown_order(status, tuple(trades[:count]))]
        for count, status in [*zip(seen, statuses, strict=True), (len(trades), ending)]
    ]


@given(reports(), st.sampled_from([S.SUBMITTED, S.UNKNOWN, S.ACCEPTED, S.CANCEL_PENDING]))
def test_settling_is_legal_complete_and_done_once(story: list[list[BookOrder]], state: OrderState) -> None:
    order = known(state)
    for shown in story:
        order = apply(order, settle(order, shown, None))
        assert settle(order, shown, None).steps == ()
    final = story[-1][0]
    event(f"{final.status}, {len(final.trades)} trades")
    assert order.known_trade_ids == {trade.trade_id for trade in final.trades}
    assert order.filled_quantity == sum(trade.quantity for trade in final.trades)
    assert (order.state in LIVE_STATES) == (final.status is B.OPEN)
    assert (order.state is S.FILLED) == (order.filled_quantity == 10)
    assert (order.state is S.REJECTED) == (final.status is B.REJECTED and order.filled_quantity == 0)


@given(reports(), st.sampled_from([S.SUBMITTED, S.UNKNOWN, S.ACCEPTED]))
def test_missed_reports_change_nothing_in_the_end(story: list[list[BookOrder]], state: OrderState) -> None:
    step_by_step = known(state)
    for shown in story:
        step_by_step = apply(step_by_step, settle(step_by_step, shown, None))
    assert apply(known(state), settle(known(state), story[-1], None)) == step_by_step


@pytest.mark.parametrize(
    ("age_s", "lookups", "due"),
    [(4.99, 0, False), (5, 0, True), (6.99, 1, False), (7, 1, True), (12.99, 4, False), (13, 4, True), (60, 4, True)],
)
def test_lookups_count_from_five_seconds_on_and_two_seconds_apart(age_s: float, lookups: int, due: bool) -> None:
    assert LookupRules().is_due(age_s, lookups) is due
