"""Who may send what: the gravest state wins, nothing weakens a halt, and flattening never lets an entry through."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.orders import Intent
from backend.domain.trading_states import (
    ADMIN_LIFTS,
    DEFECTS,
    DETAIL_LENGTH_MAX,
    WHAT_TO_DO,
    Cause,
    Effective,
    Scope,
    Standing,
    Standings,
    TradingState,
    gravest,
    gravity,
    imposed,
    permits,
)

NOW = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)
ACTIVE, REDUCING, HALTED = TradingState
PERSON = Cause.USER_KILL_SWITCH


def standing(
    state: TradingState = HALTED,
    flatten: bool = False,
    cause: Cause = PERSON,
    scope: Scope = Scope.USER,
    key: str = "7",
    detail: str = "why",
) -> Standing:
    return Standing(scope, key, state, flatten, cause, detail, NOW, None)


def allowed(effective: Effective) -> set[Intent]:
    return {intent for intent in Intent if permits(effective, intent)}


# What stands has one of these forms: an ACTIVE row is never kept, and only a halt flattens.
FORMS = [(REDUCING, False), (HALTED, True), (HALTED, False)]
rows = st.builds(
    lambda form, cause, place: standing(*form, cause, *place),
    st.sampled_from(FORMS),
    st.sampled_from(Cause),
    st.sampled_from([(Scope.PLATFORM, ""), (Scope.BROKER, "paper"), (Scope.STRATEGY, "pooled"), (Scope.USER, "7")]),
)
requests = st.builds(lambda row: replace(row, scope=Scope.USER, key="7"), rows)


@pytest.mark.parametrize(
    ("state", "flatten", "may"),
    [
        (ACTIVE, False, {Intent.ENTRY, Intent.EXIT}),
        (REDUCING, False, {Intent.EXIT}),
        (HALTED, False, set()),
        (HALTED, True, {Intent.EXIT}),
    ],
)
def test_what_each_state_lets_through(state: TradingState, flatten: bool, may: set[Intent]) -> None:
    assert allowed(Effective(state, flatten, ())) == may


def test_the_states_have_an_order() -> None:
    ranks = [gravity(ACTIVE, False), gravity(REDUCING, False), gravity(HALTED, True), gravity(HALTED, False)]
    assert ranks == sorted(set(ranks))


@pytest.mark.parametrize(("one", "other"), [*product([(ACTIVE, False), *FORMS], repeat=2)])
def test_the_gravest_of_two_wins(one: tuple[TradingState, bool], other: tuple[TradingState, bool]) -> None:
    platform, user = standing(*one, scope=Scope.PLATFORM, key=""), standing(*other)
    effective = Standings((platform, user)).effective(7, "pooled", "paper")
    assert (effective.state, effective.flatten) == max(one, other, key=lambda form: gravity(*form))
    assert set(effective.because) == {platform, user}


@pytest.mark.parametrize(
    ("scope", "key", "concerned", "others"),
    [
        (Scope.PLATFORM, "", (8, "other", "zerodha"), None),
        (Scope.BROKER, "paper", (8, "other", "paper"), (7, "pooled", "zerodha")),
        (Scope.STRATEGY, "pooled", (8, "pooled", "zerodha"), (7, "other", "paper")),
        (Scope.USER, "7", (7, "other", "zerodha"), (8, "pooled", "paper")),
        (Scope.USER, "7", (7, None, None), (77, None, None)),
    ],
)
def test_a_state_concerns_its_own_scope_only(scope: Scope, key: str, concerned: tuple, others: tuple | None) -> None:
    standings = Standings((standing(scope=scope, key=key),))
    assert standings.effective(*concerned).state is HALTED
    if others is not None:
        assert standings.effective(*others) == Effective(ACTIVE, False, ())


def test_an_order_without_a_strategy_is_held_back_by_none() -> None:
    standings = Standings((standing(scope=Scope.STRATEGY, key="pooled"), standing(scope=Scope.STRATEGY, key="")))
    assert standings.effective(7, None, "paper").state is ACTIVE


@given(st.lists(rows, max_size=6), rows)
def test_one_more_standing_never_permits_more(standings: list[Standing], another: Standing) -> None:
    before, after = gravest(standings), gravest([*standings, another])
    assert allowed(after) <= allowed(before)
    assert gravity(after.state, after.flatten) >= gravity(before.state, before.flatten)


@given(st.lists(rows, max_size=4))
def test_the_order_of_the_standings_does_not_matter(standings: list[Standing]) -> None:
    found = {(gravest(p).state, gravest(p).flatten) for p in permutations(standings)}
    assert len(found) == 1


@given(st.lists(rows, min_size=1, max_size=6))
def test_no_flattening_lets_an_entry_through(standings: list[Standing]) -> None:
    assert not permits(gravest(standings), Intent.ENTRY)


@given(st.lists(rows, max_size=6))
def test_a_plain_halt_lets_nothing_through_whatever_flattens(standings: list[Standing]) -> None:
    assert not allowed(gravest([*standings, standing(HALTED, False)]))


IMPOSED = [
    # what stands                      what is wanted                             what stands then; None: no change
    ((REDUCING, False, PERSON), (HALTED, False, PERSON), (HALTED, False, PERSON)),
    ((REDUCING, False, PERSON), (HALTED, True, PERSON), (HALTED, True, PERSON)),
    ((HALTED, False, PERSON), (REDUCING, False, Cause.DAILY_LOSS), None),
    ((HALTED, True, PERSON), (REDUCING, False, Cause.DAILY_LOSS), None),
    ((HALTED, False, PERSON), (HALTED, False, PERSON), None),
    ((HALTED, False, PERSON), (HALTED, True, PERSON), (HALTED, True, PERSON)),
    ((HALTED, True, PERSON), (HALTED, False, PERSON), None),
    ((HALTED, True, PERSON), (HALTED, False, Cause.REJECTIONS), None),
    # A cause that only an admin may lift stays, whatever a user adds to it.
    ((REDUCING, False, Cause.ADMIN), (HALTED, False, PERSON), (HALTED, False, Cause.ADMIN)),
    ((REDUCING, False, Cause.ADMIN), (HALTED, True, PERSON), (HALTED, True, Cause.ADMIN)),
    ((HALTED, False, Cause.ADMIN), (HALTED, False, PERSON), None),
    ((HALTED, False, PERSON), (HALTED, False, Cause.ADMIN), (HALTED, False, Cause.ADMIN)),
    ((HALTED, False, PERSON), (REDUCING, False, Cause.ADMIN), (HALTED, False, Cause.ADMIN)),
    ((HALTED, True, PERSON), (REDUCING, False, Cause.ADMIN), (HALTED, True, Cause.ADMIN)),
    # Only who may lift a halt may loosen it.
    ((HALTED, False, Cause.UNKNOWN_OWN_ORDER), (HALTED, True, PERSON), None),
    ((HALTED, False, Cause.UNKNOWN_OWN_ORDER), (HALTED, True, Cause.ADMIN), (HALTED, True, Cause.UNKNOWN_OWN_ORDER)),
    # A defect ends a flattening: what is held may not be what Sauda believes.
    ((HALTED, True, PERSON), (HALTED, False, Cause.ORDER_RATE), (HALTED, False, Cause.ORDER_RATE)),
    ((HALTED, True, Cause.ADMIN), (HALTED, False, Cause.ORDER_RATE), (HALTED, False, Cause.ORDER_RATE)),
    ((HALTED, True, PERSON), (HALTED, False, Cause.ADMIN), (HALTED, True, Cause.ADMIN)),
    # Nothing is lifted by imposing.
    ((HALTED, False, PERSON), (ACTIVE, False, Cause.ADMIN), None),
]


@pytest.mark.parametrize(("stands", "wanted", "then"), IMPOSED)
def test_what_stands_once_something_is_imposed(stands: tuple, wanted: tuple, then: tuple | None) -> None:
    found = imposed(standing(*stands), standing(*wanted))
    assert (found and (found.state, found.flatten, found.cause)) == then


def test_the_first_state_is_as_wanted() -> None:
    wanted = standing(REDUCING)
    assert imposed(None, wanted) == wanted
    assert imposed(None, standing(ACTIVE)) is None


def test_a_kept_cause_keeps_its_detail_beside_the_new_one() -> None:
    found = imposed(standing(REDUCING, cause=Cause.ADMIN, detail="audit"), standing(HALTED, detail="enough"))
    assert found is not None
    assert found.detail == "audit; user_kill_switch: enough"
    long = imposed(standing(REDUCING, cause=Cause.ADMIN, detail="x" * 300), standing(HALTED, detail="y"))
    assert long is not None
    assert len(long.detail) == DETAIL_LENGTH_MAX


@given(requests, requests)
def test_imposing_never_permits_an_order_of_a_graver_state(stands: Standing, wanted: Standing) -> None:
    then = imposed(stands, wanted) or stands
    assert gravity(then.state, False) == max(gravity(stands.state, False), gravity(wanted.state, False))
    assert (then.cause in ADMIN_LIFTS) == (stands.cause in ADMIN_LIFTS or wanted.cause in ADMIN_LIFTS)
    loosened = allowed(gravest([then])) - allowed(gravest([stands]))
    if loosened:
        assert (loosened, wanted.flatten) == ({Intent.EXIT}, True)
        assert stands.cause not in ADMIN_LIFTS or wanted.cause in ADMIN_LIFTS


@given(requests, requests)
def test_imposing_twice_changes_nothing_more(stands: Standing, wanted: Standing) -> None:
    then = imposed(stands, wanted) or stands
    assert imposed(then, wanted) is None


def test_every_cause_says_what_to_do_and_who_does_it() -> None:
    assert set(WHAT_TO_DO) == set(Cause)
    for cause, sentence in WHAT_TO_DO.items():
        assert ("administrator" in sentence) == (cause in ADMIN_LIFTS)
        assert ("/reactivate" in sentence) == (cause not in ADMIN_LIFTS)
    assert DEFECTS < ADMIN_LIFTS
