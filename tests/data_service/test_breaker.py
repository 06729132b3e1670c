"""The circuit breaker: pure transitions on a clock that the test moves."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from data_service.breaker import Breaker, BreakerLimits, Breakers, Circuit, State, admits, asked, failed, succeeded
from data_service.metrics import Metrics
from data_service.providers.base import Kind

LIMITS = BreakerLimits(
    failures_in_row_max=3, window_s=100, window_calls_min=6, failure_share_max=0.5, open_s=10, open_s_max=35
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def a_breaker(limits: BreakerLimits = LIMITS):
    clock, seen = Clock(), []
    return Breaker(limits, clock, seen.append), clock, seen


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        permit = breaker.ask()
        assert permit is not None
        breaker.failed(permit)


def succeed(breaker: Breaker) -> None:
    permit = breaker.ask()
    assert permit is not None
    breaker.succeeded(permit)


def test_failures_in_a_row_open_it_and_a_success_between_does_not():
    breaker, _, seen = a_breaker()
    fail(breaker, 2)
    succeed(breaker)
    fail(breaker, 2)
    assert breaker.state is State.CLOSED
    fail(breaker)
    assert breaker.state is State.OPEN
    assert breaker.ask() is None
    assert seen == [State.CLOSED, State.OPEN]


def test_a_share_of_failures_in_the_window_opens_it():
    breaker, clock, _ = a_breaker()
    for failing in (True, True, False, True, False):
        fail(breaker) if failing else succeed(breaker)
    assert breaker.state is State.CLOSED, "five calls are too few to judge"
    fail(breaker)
    assert breaker.state is State.OPEN
    breaker, clock, _ = a_breaker()
    for failing in (True, True, False, True, False):
        fail(breaker) if failing else succeed(breaker)
    clock.now_s += 101
    fail(breaker)
    assert breaker.state is State.CLOSED, "what is older than the window does not count"


def test_one_probe_after_its_time_closes_it_again():
    breaker, clock, seen = a_breaker()
    fail(breaker, 3)
    clock.now_s += 9.9
    assert breaker.ask() is None
    assert round(breaker.retry_in_s, 3) == 0.1
    clock.now_s += 0.1
    probe = breaker.ask()
    assert probe is not None
    assert breaker.state is State.HALF_OPEN
    assert breaker.ask() is None, "one probe at a time"
    breaker.succeeded(probe)
    assert seen == [State.CLOSED, State.OPEN, State.HALF_OPEN, State.CLOSED]
    fail(breaker, 2)
    assert breaker.state is State.CLOSED, "a closed breaker starts counting anew"


def test_each_failed_probe_doubles_the_wait_up_to_its_limit():
    breaker, clock, _ = a_breaker()
    fail(breaker, 3)
    for wait_s in (10, 20, 35, 35):
        assert breaker.retry_in_s == wait_s
        clock.now_s += wait_s
        fail(breaker)
    clock.now_s += 35
    succeed(breaker)
    fail(breaker, 3)
    assert breaker.retry_in_s == 10


def test_a_wish_to_be_left_alone_is_heeded_from_every_state():
    breaker, clock, _ = a_breaker()
    breaker.limited(50)
    assert (breaker.state, breaker.retry_in_s) == (State.OPEN, 50)
    breaker.limited(5)
    assert breaker.retry_in_s == 50, "a shorter wish does not cut a longer one"
    clock.now_s += 50
    assert breaker.ask() is not None
    breaker.limited(70)
    assert (breaker.state, breaker.retry_in_s) == (State.OPEN, 70)


def test_a_late_answer_changes_nothing():
    breaker, clock, _ = a_breaker()
    early = breaker.ask()
    assert early is not None
    fail(breaker, 3)
    breaker.succeeded(early)
    assert breaker.state is State.OPEN
    clock.now_s += 10
    probe = breaker.ask()
    assert probe is not None
    breaker.failed(early)
    breaker.succeeded(early)
    assert breaker.state is State.HALF_OPEN
    breaker.succeeded(probe)
    breaker.failed(probe)
    breaker.failed(early)
    fail(breaker, 2)
    assert breaker.state is State.CLOSED


def test_an_abandoned_probe_gives_its_place_to_the_next():
    breaker, clock, _ = a_breaker()
    fail(breaker, 3)
    clock.now_s += 10
    probe = breaker.ask()
    assert probe is not None
    breaker.abandoned(probe)
    assert breaker.state is State.OPEN
    succeed(breaker)
    assert breaker.state is State.CLOSED
    permit = breaker.ask()
    assert permit is not None
    breaker.abandoned(permit)
    assert breaker.state is State.CLOSED


OUTCOMES = st.sampled_from(["succeeded", "failed", "limited", "abandoned"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 40)),
        st.tuples(OUTCOMES, st.integers(0, 20)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_whatever_happens_it_is_never_stuck_and_never_lets_two_probes_out(steps):
    breaker, clock, seen = a_breaker()
    under_way: list[int] = []
    probes: set[int] = set()
    for what, number in steps:
        if what == "wait":
            clock.now_s += number
        elif what == "ask":
            before, waiting_s = breaker.state, breaker.retry_in_s
            permit = breaker.ask()
            assert (permit is not None) == (before is State.CLOSED or (before is State.OPEN and waiting_s == 0))
            if permit is not None:
                under_way.append(permit)
                if before is State.OPEN:
                    assert not probes, "a second probe while one is under way"
                    probes.add(permit)
        elif under_way:
            permit = under_way.pop(number % len(under_way))
            before = breaker.state
            breaker.limited(number) if what == "limited" else getattr(breaker, what)(permit)
            if permit in probes:
                assert breaker.state is not State.HALF_OPEN
            elif what != "limited":
                assert before is breaker.state or (before, what) == (State.CLOSED, "failed")
            probes = probes if breaker.state is State.HALF_OPEN else set()
        assert 0 <= breaker.retry_in_s <= LIMITS.open_s_max
    for permit in probes:
        breaker.failed(permit)
    clock.now_s += LIMITS.open_s_max
    succeed(breaker)
    assert breaker.state is State.CLOSED
    assert all(first is not second for first, second in pairwise(seen))


@given(st.lists(st.booleans(), max_size=40))
def test_a_closed_circuit_opens_exactly_when_a_rule_says_so(outcomes):
    circuit, history = Circuit(), []
    for number, failing in enumerate(outcomes):
        circuit, permit = asked(circuit, float(number))
        assert permit is not None
        circuit = (failed if failing else succeeded)(circuit, LIMITS, permit, float(number))
        history.append(failing)
        in_row = history[-3:] == [True] * 3
        too_many = failing and len(history) >= 6 and sum(history) / len(history) > 0.5
        assert (circuit.state is State.OPEN) == (in_row or too_many)
        if circuit.state is State.OPEN:
            break


def test_the_window_is_bounded():
    limits = replace(LIMITS, failures_in_row_max=10**9, window_s=1e9, failure_share_max=1.0)
    circuit = Circuit()
    for number in range(3000):
        circuit = failed(circuit, limits, 0, float(number))
    assert len(circuit.calls) == 1000
    assert admits(circuit, 3000.0)


def test_each_provider_and_kind_has_its_own_and_the_metrics_show_it():
    metrics = Metrics()
    breakers = Breakers(Clock(), metrics.breaker, LIMITS)
    yahoo, kite = breakers.of("yahoo", Kind.QUOTES), breakers.of("kite", Kind.QUOTES)
    assert breakers.of("yahoo", Kind.QUOTES) is yahoo
    fail(yahoo, 3)
    assert (yahoo.state, kite.state) == (State.OPEN, State.CLOSED)
    assert breakers.of("yahoo", Kind.DAILY_BARS).state is State.CLOSED
    text = metrics.render().decode()
    for provider, state, value in (("yahoo", "open", 1), ("yahoo", "closed", 0), ("kite", "closed", 1)):
        line = f'sauda_data_breaker_state{{kind="quotes",provider="{provider}",state="{state}"}} {value}.0'
        assert line in text
