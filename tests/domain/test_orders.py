"""The state table against an independent account of what can happen to an order, and the order's name."""

import itertools
import string
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from backend.domain.orders import (
    LIVE_STATES,
    TRANSITIONS,
    IllegalTransitionError,
    Intent,
    Progress,
    client_order_id,
    state_table_markdown,
    transition,
)
from backend.domain.orders import OrderEventKind as E
from backend.domain.orders import OrderState as S

AT = datetime(2026, 11, 20, 4, 30, tzinfo=UTC)
ENDED = {S.FILLED, S.REJECTED, S.CANCELLED, S.EXPIRED, S.DENIED}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(S, E)))
def test_a_pair_is_in_the_table_or_refused(state: S, event: E) -> None:
    if (state, event) in TRANSITIONS:
        assert transition(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalTransitionError, match=f"{state} cannot be {event}"):
            transition(state, event)


def test_live_states_are_those_that_have_not_ended() -> None:
    assert set(S) - ENDED == LIVE_STATES


def test_ended_orders_take_late_fills_and_nothing_else() -> None:
    assert {pair: after for pair, after in TRANSITIONS.items() if pair[0] in ENDED} == {
        (S.CANCELLED, E.PARTIALLY_FILLED): S.CANCELLED,
        (S.CANCELLED, E.FILLED): S.FILLED,
        (S.EXPIRED, E.PARTIALLY_FILLED): S.EXPIRED,
        (S.EXPIRED, E.FILLED): S.FILLED,
        (S.REJECTED, E.PARTIALLY_FILLED): S.REJECTED,
        (S.REJECTED, E.FILLED): S.FILLED,
    }


def test_no_path_leads_from_an_ended_order_back_to_a_live_one() -> None:
    reached, frontier = set(ENDED), set(ENDED)
    while frontier:
        frontier = {after for (before, _), after in TRANSITIONS.items() if before in frontier} - reached
        reached |= frontier
    assert reached == ENDED


def test_every_live_order_can_end_and_every_state_but_the_first_is_entered() -> None:
    for state in LIVE_STATES:
        assert any(TRANSITIONS.get((state, event)) in ENDED for event in E)
    assert {after for (before, _), after in TRANSITIONS.items() if after is not before} == set(S) - {S.PENDING}


@pytest.mark.parametrize(
    "arrival",
    [a for a in itertools.permutations(["ask", "cancelled", "part", "rest"]) if a.index("ask") < a.index("cancelled")],
)
def test_a_full_fill_wins_its_race_with_a_cancel(arrival: tuple[str, ...]) -> None:
    """The exchange traded everything before the cancel took effect, in whatever order the reports arrive."""
    state, filled = S.ACCEPTED, 0
    for fact in arrival:
        if fact in {"part", "rest"}:
            filled += 5
            state = transition(state, Progress(filled, 10).fill_event())
        elif state is not S.FILLED:  # what has filled is not asked for again
            state = transition(state, E.CANCEL_REQUESTED if fact == "ask" else E.CANCELLED)
    assert state is S.FILLED


@dataclass
class Facts:
    """What has happened to an order of ten shares, kept as facts and without any state.

    `acknowledged`, `traded` and `cancel_asked` are what is known of it since it last was lost: nothing at first.
    """

    sent: bool = False
    lost: bool = False
    acknowledged: bool = False
    cancel_asked: bool = False
    traded: bool = False
    filled: int = 0
    ending: S | None = None

    @property
    def complete(self) -> bool:
        return self.filled == 10

    @property
    def over(self) -> bool:
        return self.complete or self.ending is not None

    def state(self) -> S:
        """The name of these facts, the most final one first."""
        names = [
            (self.complete, S.FILLED),
            (self.ending is not None, self.ending or S.PENDING),
            (self.lost, S.UNKNOWN),
            (self.cancel_asked, S.CANCEL_PENDING),
            (self.traded, S.PARTIALLY_FILLED),
            (self.acknowledged, S.ACCEPTED),
            (self.sent, S.SUBMITTED),
        ]
        return next((state for holds, state in names if holds), S.PENDING)

    def possible(self, event: E) -> bool:
        """Whether `event` can happen in the world, as the design tells it."""
        untouched = not (self.acknowledged or self.traded or self.cancel_asked or self.over)
        at_broker = self.sent and not self.over
        match event:
            case E.SUBMITTED:
                return not self.sent and not self.over
            case E.ACCEPTED:
                return at_broker and untouched
            case E.PARTIALLY_FILLED | E.FILLED:
                return at_broker or (not self.complete and self.ending in {S.CANCELLED, S.EXPIRED, S.REJECTED})
            case E.REJECTED:
                return at_broker and (not self.traded or self.cancel_asked)
            case E.CANCEL_REQUESTED:
                return at_broker and not untouched and not self.cancel_asked
            case E.CANCELLED | E.EXPIRED:
                return at_broker
            case E.LOST:
                return at_broker and not self.lost
            case E.ABANDONED:
                return untouched
            case E.DENIED:
                return not self.sent and not self.over

    def add(self, event: E, shares: int) -> None:
        endings = {
            E.REJECTED: S.REJECTED,
            E.CANCELLED: S.CANCELLED,
            E.EXPIRED: S.EXPIRED,
            E.ABANDONED: S.EXPIRED,
            E.DENIED: S.DENIED,
        }
        self.sent |= event is E.SUBMITTED
        if event is E.LOST:
            self.acknowledged = self.cancel_asked = self.traded = False
        self.lost = event is E.LOST or (self.lost and event is not E.ACCEPTED and not shares)
        self.acknowledged |= event is E.ACCEPTED
        self.traded |= shares > 0
        self.cancel_asked |= event is E.CANCEL_REQUESTED
        self.ending = endings.get(event, self.ending)
        self.filled += shares


class OrderLife(RuleBasedStateMachine):
    """Any event at any moment: the table and the facts agree on whether it can happen and on what the order is then."""

    @initialize(known=st.lists(st.sampled_from([E.ACCEPTED, E.CANCEL_REQUESTED]), unique=True))
    def record(self, known: list[E]) -> None:
        self.facts, self.state = Facts(), S.PENDING
        for event in [E.SUBMITTED, *sorted(known)] if known else []:
            self.happen(event)

    @rule(event=st.sampled_from([event for event in E if event not in {E.PARTIALLY_FILLED, E.FILLED}]))
    def happen(self, event: E, shares: int = 0) -> None:
        if self.facts.possible(event):
            self.facts.add(event, shares)
            self.state = transition(self.state, event)
            assert self.state is self.facts.state()
        else:
            with pytest.raises(IllegalTransitionError):
                transition(self.state, event)

    @rule(shares=st.integers(1, 10))
    def fill(self, shares: int) -> None:
        shares = min(shares, 10 - self.facts.filled)
        self.happen(Progress(self.facts.filled + shares, 10).fill_event(), shares)


TestOrderLife = OrderLife.TestCase
TestOrderLife.settings = settings(max_examples=300, stateful_step_count=12, deadline=None)


@pytest.mark.parametrize(("filled", "event"), [(1, E.PARTIALLY_FILLED), (9, E.PARTIALLY_FILLED), (10, E.FILLED)])
def test_a_fill_is_partial_until_the_last_share(filled: int, event: E) -> None:
    assert Progress(filled, 10).fill_event() is event


def test_an_orders_name_never_changes() -> None:
    """A restarted process must find its orders in the broker's book by the names an earlier one gave."""
    assert client_order_id(AT, 42, "momentum", "INFY", Intent.ENTRY) == "DD63E48652A6F020BEF1"
    assert client_order_id(AT.astimezone(), 42, "momentum", "INFY", Intent.ENTRY) == "DD63E48652A6F020BEF1"


decisions = st.tuples(
    st.integers(0, 2**30).map(lambda seconds: AT + timedelta(seconds=seconds)),
    st.integers(1, 2**63 - 1),
    st.text(max_size=30),
    st.text(string.ascii_uppercase + string.digits + "&-", min_size=1, max_size=20),
    st.sampled_from(Intent),
)


@given(decisions, decisions)
def test_names_fit_every_broker_and_differ_where_decisions_do(one: tuple, other: tuple) -> None:
    name = client_order_id(*one)
    assert len(name) == 20
    assert set(name) <= set("0123456789ABCDEF")
    assert client_order_id(*one) == name
    assert (client_order_id(*other) == name) == (one == other)


@given(decisions, st.integers(1, 10**6), st.sampled_from(range(5)))
def test_each_part_of_a_decision_makes_another_name(decision: tuple, by: int, part: int) -> None:
    at, user_id, strategy, symbol, intent = decision
    other = [
        (at + timedelta(seconds=by), user_id, strategy, symbol, intent),
        (at, user_id + by, strategy, symbol, intent),
        (at, user_id, f"{strategy}{by}", symbol, intent),
        (at, user_id, strategy, f"{symbol}{by}", intent),
        (at, user_id, strategy, symbol, Intent.EXIT if intent is Intent.ENTRY else Intent.ENTRY),
    ][part]
    assert client_order_id(*other) != client_order_id(*decision)


def test_the_documented_table_is_the_one_in_force() -> None:
    table = state_table_markdown()
    for (state, event), after in TRANSITIONS.items():
        row = next(line for line in table.splitlines() if line.startswith(f"| {state} |"))
        assert f"{event} → **{after}**" in row
    assert table.count("→ **") == len(TRANSITIONS)
    assert table in (Path(__file__).resolve().parents[2] / "docs" / "orders.md").read_text()
