"""An auto-trade read from its orders and fills: every status, late fills, and the same end whatever came first."""

import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.calendar import IST
from backend.domain.decide import TradeStatus
from backend.domain.market import Side
from backend.domain.orders import LIVE_STATES, Intent, OrderState, Progress, transition
from backend.domain.orders import OrderEventKind as E
from backend.domain.positions import Execution
from backend.domain.trades import TradeFill, TradeSummary, summarize

AT = datetime(2024, 3, 18, 10, 0, tzinfo=IST)
D = Decimal
S, T = OrderState, TradeStatus
ENDED = [state for state in S if state not in LIVE_STATES]


def entry(quantity: int, price: int = 100, second: int = 0, charges: int = 0) -> TradeFill:
    return TradeFill(Intent.ENTRY, Execution(Side.BUY, quantity, D(price), D(charges)), AT + timedelta(seconds=second))


def leave(quantity: int, price: int = 110, second: int = 60, charges: int = 0) -> TradeFill:
    return TradeFill(Intent.EXIT, Execution(Side.SELL, quantity, D(price), D(charges)), AT + timedelta(seconds=second))


def status(fills: Sequence[TradeFill], entry_state: OrderState, *exit_states: OrderState) -> TradeStatus:
    return summarize([(Intent.ENTRY, entry_state), *((Intent.EXIT, state) for state in exit_states)], fills).status


@pytest.mark.parametrize("state", sorted(LIVE_STATES))
def test_an_order_under_way_is_the_trades_status(state: OrderState) -> None:
    assert status([], state) is T.ENTERING
    assert status([entry(4)], state) is T.ENTERING
    assert status([entry(10)], S.FILLED, state) is T.EXITING
    assert status([entry(10), leave(4)], S.FILLED, state) is T.EXITING
    assert status([entry(10)], S.FILLED, S.CANCELLED, state) is T.EXITING


@pytest.mark.parametrize("state", ENDED)
def test_ended_orders_leave_what_was_filled(state: OrderState) -> None:
    assert status([], state) is T.CANCELLED
    assert status([entry(4)], state) is T.OPEN
    assert status([entry(4)], state, S.CANCELLED) is T.OPEN
    assert status([entry(4), leave(3)], state, S.CANCELLED) is T.OPEN
    assert status([entry(4), leave(3), leave(1)], state, S.CANCELLED, S.FILLED) is T.CLOSED
    assert status([entry(4), leave(4)], state, S.FILLED) is T.CLOSED


def test_a_late_fill_reopens_what_seemed_over() -> None:
    assert status([], S.CANCELLED) is T.CANCELLED
    assert status([entry(4)], S.CANCELLED) is T.OPEN
    assert status([entry(4), leave(4)], S.CANCELLED, S.FILLED) is T.CLOSED
    reopened = summarize([(Intent.ENTRY, S.FILLED), (Intent.EXIT, S.FILLED)], [entry(4), leave(4), entry(6, second=90)])
    assert (reopened.status, reopened.closed_at) == (T.OPEN, None)


def test_a_trade_is_told_in_shares_averages_and_rupees_net_of_charges() -> None:
    fills = [entry(10, 100, 0, 2), entry(30, 120, 5, 4), leave(25, 130, 60, 3), leave(15, 110, 70, 1)]
    summary = summarize([(Intent.ENTRY, S.FILLED), (Intent.EXIT, S.CANCELLED), (Intent.EXIT, S.FILLED)], fills)
    assert summary == TradeSummary(
        status=T.CLOSED,
        entry_quantity=40,
        entry_price=D(115),
        exit_quantity=40,
        exit_price=D("122.5"),
        charges=D(10),
        realized_pnl=D(40) * (D("122.5") - 115) - 10,
        opened_at=AT,
        closed_at=AT + timedelta(seconds=70),
    )


def test_a_trade_that_is_partly_left_has_realized_that_part() -> None:
    summary = summarize([(Intent.ENTRY, S.FILLED), (Intent.EXIT, S.CANCELLED)], [entry(10, 100, 0, 10), leave(4, 110)])
    assert (summary.status, summary.realized_pnl, summary.closed_at) == (T.OPEN, D(36), None)
    assert (summary.entry_price, summary.exit_price) == (D(100), D(110))


def test_a_trade_without_a_fill_has_no_prices_and_no_instants() -> None:
    assert summarize([(Intent.ENTRY, S.REJECTED)], []) == TradeSummary(
        T.CANCELLED, 0, None, 0, None, D(0), D(0), None, None
    )


def arrive(facts: Sequence[TradeFill | E], ordered: int) -> tuple[OrderState, list[TradeFill]]:
    """An accepted entry after `facts` in that order: what has filled whole is not cancelled any more."""
    state, fills = S.ACCEPTED, list[TradeFill]()
    for fact in facts:
        if isinstance(fact, TradeFill):
            fills.append(fact)
            filled = sum(f.execution.quantity for f in fills)
            state = transition(state, Progress(filled, ordered).fill_event())
        elif state is not S.FILLED and not (fact is E.CANCEL_REQUESTED and state not in LIVE_STATES):
            state = transition(state, fact)
    return state, sorted(fills, key=lambda fill: fill.at)


@pytest.mark.parametrize(("ordered", "end"), [(10, S.CANCELLED), (9, S.FILLED)])
def test_fills_and_a_cancel_end_the_same_in_every_order_of_arrival(ordered: int, end: OrderState) -> None:
    facts = [entry(4, 100, 1, 3), entry(3, 101, 2, 2), entry(2, 102, 3, 1), E.CANCEL_REQUESTED, E.CANCELLED]
    ends = [_end(arrival, ordered) for arrival in itertools.permutations(facts)]
    assert all(one == ends[0] for one in ends)
    state, summary = ends[0]
    assert (state, summary.status, summary.entry_quantity, summary.charges) == (end, T.OPEN, 9, 6)


def _end(arrival: Sequence[TradeFill | E], ordered: int) -> tuple[OrderState, TradeSummary]:
    state, fills = arrive(arrival, ordered)
    return state, summarize([(Intent.ENTRY, state)], fills)


trade_fills = st.builds(
    TradeFill,
    intent=st.just(Intent.ENTRY),
    execution=st.builds(
        Execution,
        side=st.just(Side.BUY),
        quantity=st.integers(1, 50),
        price=st.decimals(1, 5000, places=2),
        charges=st.decimals(0, 50, places=4),
    ),
    at=st.integers(0, 3600).map(lambda second: AT + timedelta(seconds=second)),
)


@given(st.lists(trade_fills, min_size=1, max_size=6), st.decimals(1, 5000, places=2), st.decimals(0, 50, places=4))
def test_a_closed_trade_has_earned_its_cash_flows(entries: list[TradeFill], price: Decimal, charges: Decimal) -> None:
    held = sum(f.execution.quantity for f in entries)
    exit_fill = TradeFill(Intent.EXIT, Execution(Side.SELL, held, price, charges), AT + timedelta(hours=2))
    summary = summarize([(Intent.ENTRY, S.FILLED), (Intent.EXIT, S.FILLED)], [*entries, exit_fill])
    paid = sum(f.execution.price * f.execution.quantity for f in entries)
    total_charges = sum(f.execution.charges for f in entries) + charges
    assert summary.status is T.CLOSED
    assert summary.charges == total_charges
    assert abs(summary.realized_pnl - (price * held - paid - total_charges)) < D("1e-15")
    assert summary.closed_at == exit_fill.at
