"""A model serves because a rule or a person said so, and stops when one of them says that."""

import threading
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_models import AGES, NOW, SIMULATED, TODAY, folder, registered, reread

from ml_service import lifecycle
from ml_service.lifecycle import (
    BRIER_MARGIN,
    SHADOW_MATURED_MIN,
    SHADOW_SESSIONS_MAX,
    SHADOW_SESSIONS_MIN,
    ShadowRecord,
    Standing,
    Verdict,
    trial,
)
from ml_service.model import STRATEGY
from ml_service.pointers import Change, Entry, Event, Slot
from ml_service.predict import Abstention
from ml_service.registry import Artefact, ArtefactError, Registry
from ml_service.service import Chosen, choose

ENOUGH = ShadowRecord(SHADOW_SESSIONS_MIN, SHADOW_MATURED_MIN, 0.24, 0.23)
LATER = NOW + timedelta(days=1)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def slot(registry: Registry, plan: str = "10") -> Slot:
    return reread(registry).slots(SIMULATED).get(plan, Slot())


def admit(registry: Registry, at: datetime = NOW, held: str | None = None, **manifest: Any) -> Artefact:
    """Register a model and let the rule say what it becomes."""
    artefact = registered(registry, **manifest)
    lifecycle.admit(registry, artefact, at=at, ages=AGES, held=held)
    return artefact


def judge(registry: Registry, record: ShadowRecord, held: str | None = None) -> Change | str:
    return lifecycle.judge_shadow(reread(registry), SIMULATED, "10", record, at=LATER, ages=AGES, held=held)


def found_against(artefact: Artefact) -> Verdict:
    return Verdict(artefact.version, STRATEGY, "the hit rate fell", {"hit_rate": 0.41, "episodes": 23})


def monitor(registry: Registry, verdict: Verdict | None) -> Change | str:
    return lifecycle.demote_if(reread(registry), SIMULATED, "10", verdict, at=LATER, ages=AGES)


def events(registry: Registry) -> list[Event]:
    return [entry.change.event for entry in registry.pointers.history(SIMULATED)]


# ---- a new model


def test_the_first_model_serves_at_once_and_the_next_is_tried_beside_it(registry: Registry) -> None:
    first = admit(registry)
    assert slot(registry) == Slot(current=first.sha256)
    second = admit(registry, trained_through="2024-06-01")
    assert slot(registry) == Slot(first.sha256, second.sha256, TODAY)
    third = admit(registry, at=LATER, trained_through="2024-06-02")
    assert slot(registry) == Slot(first.sha256, third.sha256, TODAY + timedelta(days=1))
    assert events(registry) == [Event.PROMOTED, Event.SHADOW_STARTED, Event.SHADOW_STARTED]
    last = registry.pointers.history(SIMULATED)[-1].change
    assert (last.by, second.version in last.reason, first.version in last.reason) == ("rule:admission", True, True)


def test_the_same_model_again_changes_nothing(registry: Registry) -> None:
    admit(registry)
    admit(registry, trained_through="2024-06-01")
    before = slot(registry)
    admit(registry, at=LATER)
    admit(registry, at=LATER, trained_through="2024-06-01")
    assert slot(registry) == before
    assert len(events(registry)) == 2


def test_each_plan_has_a_model_of_its_own(registry: Registry) -> None:
    ten, five = admit(registry), admit(registry, horizon_sessions=5)
    minutes = admit(registry, plan="15")
    assert registry.current(SIMULATED) == {"10": ten.sha256, "5": five.sha256, "15": minutes.sha256}


@pytest.mark.parametrize("damage", ["tampered", "gone", "unsigned"])
def test_a_refused_model_is_replaced_at_once(registry: Registry, damage: str) -> None:
    place = folder(registry, admit(registry))
    if damage == "gone":
        place.rename(place.with_name("gone"))
    else:
        (place / {"tampered": "models.json", "unsigned": "SIGNATURE"}[damage]).write_text("{}")
    registry = reread(registry)
    second = admit(registry, trained_through="2024-06-01")
    assert slot(registry) == Slot(current=second.sha256)


@pytest.mark.parametrize(
    "old", [{"trained_through": "2023-04-01"}, {"calibrated_through": "2024-02-01"}], ids=["model", "calibration"]
)
def test_a_model_past_its_age_is_replaced_at_once(registry: Registry, old: dict[str, str]) -> None:
    first = registered(registry, **old)
    lifecycle.promote(registry, first, at=NOW, by="operator", reason="for the test")
    assert slot(registry).current == first.sha256
    second = admit(registry)
    assert slot(registry).current == second.sha256


def test_a_new_model_past_its_age_stays_registered(registry: Registry) -> None:
    admit(registry, trained_through="2023-04-01", calibrated_through="2023-03-01")
    assert slot(registry) == Slot()


def test_a_held_model_is_replaced_at_once(registry: Registry) -> None:
    first = admit(registry)
    second = admit(registry, trained_through="2024-06-01", held="conservative: hit rate under its bound")
    assert slot(registry) == Slot(second.sha256, previous=first.sha256)
    assert "hit rate under its bound" in registry.pointers.history(SIMULATED)[-1].change.reason


def test_a_model_that_stands_in_for_a_demoted_one_is_replaced_at_once(registry: Registry) -> None:
    first = admit(registry)
    second = admit(registry, trained_through="2024-06-01", held="held")
    monitor(registry, found_against(second))
    assert slot(registry).current == first.sha256
    third = admit(registry, trained_through="2024-06-02")
    assert slot(registry).current == third.sha256
    assert slot(registry).shadow is None


def test_a_demoted_model_never_comes_back_by_rule(registry: Registry) -> None:
    first = admit(registry)
    monitor(registry, found_against(first))
    assert slot(registry) == Slot()
    answer = lifecycle.admit(reread(registry), registered(registry), at=LATER, ages=AGES)
    assert isinstance(answer, str)
    assert "the hit rate fell" in answer
    assert "sauda ml promote" in answer
    assert slot(registry) == Slot()
    lifecycle.promote(registry, first, at=LATER, by="operator", reason="the data were wrong")
    assert slot(registry).current == first.sha256


def test_only_a_persons_promotion_of_this_plan_forgives_a_demotion() -> None:
    a, b = "a" * 64, "b" * 64

    def entry(event: Event, version: str, plan: str = "10") -> Entry:
        return Entry(NOW, plan, Change(event, version, "operator", "why", Slot()), Slot())

    demoted = [entry(Event.PROMOTED, a), entry(Event.DEMOTED, a)]
    assert lifecycle.demoted_versions(demoted, "10") == ({a: "why"}, True)
    assert lifecycle.demoted_versions(demoted, "5") == ({}, False)
    shadowed = [*demoted, entry(Event.SHADOW_STARTED, a), entry(Event.PROMOTED, a, "5")]
    assert lifecycle.demoted_versions(shadowed, "10") == ({a: "why"}, True)
    assert lifecycle.demoted_versions([*demoted, entry(Event.PROMOTED, b)], "10") == ({a: "why"}, False)
    assert lifecycle.demoted_versions([*demoted, entry(Event.PROMOTED, a)], "10") == ({}, False)


def test_a_model_of_earlier_sessions_stays_registered(registry: Registry) -> None:
    first = admit(registry)
    admit(registry, trained_through="2024-05-30", held="held or not")
    assert slot(registry) == Slot(current=first.sha256)


# ---- a shadow's trial


@pytest.fixture
def pair(registry: Registry) -> tuple[Artefact, Artefact]:
    """A current model that certifies one mode and its shadow that certifies two."""
    return admit(registry), admit(registry, trained_through="2024-06-01", certified=2)


@pytest.mark.parametrize(
    ("record", "event"),
    [
        (replace(ENOUGH, sessions=SHADOW_SESSIONS_MIN - 1), None),
        (ENOUGH, Event.PROMOTED),
        (replace(ENOUGH, brier_shadow=0.24 + BRIER_MARGIN - 1e-6), Event.PROMOTED),
        (replace(ENOUGH, brier_shadow=0.24 + BRIER_MARGIN + 1e-6), Event.SHADOW_DROPPED),
        (replace(ENOUGH, matured=SHADOW_MATURED_MIN - 1), None),
        (replace(ENOUGH, matured=SHADOW_MATURED_MIN - 1, brier_shadow=0.9), None),
        (replace(ENOUGH, brier_shadow=None), None),
        (replace(ENOUGH, brier_current=None), None),
        (replace(ENOUGH, brier_shadow=float("nan")), None),
        (replace(ENOUGH, brier_current=float("inf")), None),
        (ShadowRecord(SHADOW_SESSIONS_MAX - 1, 0, None, None), None),
        (ShadowRecord(SHADOW_SESSIONS_MAX, 0, None, None), Event.PROMOTED),
    ],
)
def test_a_shadow_waits_is_promoted_or_dropped(
    registry: Registry, pair: tuple[Artefact, Artefact], record: ShadowRecord, event: Event | None
) -> None:
    first, second = pair
    before = slot(registry)
    answer = judge(registry, record)
    assert (answer.event if isinstance(answer, Change) else None) == event
    expected = {
        None: before,
        Event.PROMOTED: Slot(second.sha256, previous=first.sha256),
        Event.SHADOW_DROPPED: Slot(first.sha256),
    }
    assert slot(registry) == expected[event]


def test_the_figures_stand_in_the_history(registry: Registry, pair: tuple[Artefact, Artefact]) -> None:
    judge(registry, ENOUGH)
    change = registry.pointers.history(SIMULATED)[-1].change
    assert change.by == "rule:brier"
    assert change.reason == "Brier 0.2300 against 0.2400 over 100 rows, 20 sessions"


def test_without_outcomes_a_shadow_of_fewer_certificates_is_dropped(registry: Registry) -> None:
    first = admit(registry, certified=2)
    admit(registry, trained_through="2024-06-01", certified=1)
    answer = judge(registry, ShadowRecord(SHADOW_SESSIONS_MAX, 5, 0.2, 0.1))
    assert isinstance(answer, Change)
    assert (answer.event, answer.by) == (Event.SHADOW_DROPPED, "rule:certificates")
    assert slot(registry) == Slot(first.sha256)


def test_certificates_of_every_strategy_count(registry: Registry) -> None:
    rule = {"modes": {"aggressive": {"certified": True}}}
    learned = {"modes": {"aggressive": {"certified": True}, "moderate": {"certified": False}}}
    artefact = registered(registry, strategies={STRATEGY: learned, "momentum": rule, "not_a_model": rule})
    assert lifecycle.certificates(artefact) == 2


def test_a_tampered_shadow_is_dropped(registry: Registry, pair: tuple[Artefact, Artefact]) -> None:
    (folder(registry, pair[1]) / "calibration.json").write_text("{}")
    answer = judge(registry, ShadowRecord(0, 0, None, None))
    assert isinstance(answer, Change)
    assert answer.event is Event.SHADOW_DROPPED
    assert "calibration.json was changed" in answer.reason


def test_a_shadow_takes_the_place_of_a_refused_or_held_model_at_once(
    registry: Registry, pair: tuple[Artefact, Artefact]
) -> None:
    first, second = pair
    nothing = ShadowRecord(0, 0, None, None)
    assert isinstance(judge(registry, nothing), str)
    judge(registry, nothing, held="drift")
    assert slot(registry) == Slot(second.sha256, previous=first.sha256)
    third = admit(registry, trained_through="2024-06-02")
    (folder(registry, second) / "SIGNATURE").unlink()
    judge(registry, nothing)
    assert slot(registry) == Slot(third.sha256, previous=first.sha256), "what was refused is not kept to come back"


def test_without_a_shadow_there_is_no_trial(registry: Registry) -> None:
    admit(registry)
    assert judge(registry, ENOUGH) == "there is no shadow"


@given(
    sessions=st.integers(0, 100),
    matured=st.integers(0, 1000),
    current=st.none() | st.floats(0, 1),
    shadow=st.none() | st.floats(0, 1),
)
def test_no_record_promotes_a_clearly_worse_shadow_or_one_without_its_sessions(
    trial_standing: Standing, sessions: int, matured: int, current: float | None, shadow: float | None
) -> None:
    answer = trial(trial_standing, ShadowRecord(sessions, matured, current, shadow), None)
    if sessions < SHADOW_SESSIONS_MIN:
        assert isinstance(answer, str)
    judged = sessions >= SHADOW_SESSIONS_MIN and matured >= SHADOW_MATURED_MIN
    if judged and current is not None and shadow is not None:
        assert isinstance(answer, Change)
        assert (answer.event is Event.PROMOTED) == (shadow <= current + BRIER_MARGIN)
    if isinstance(answer, str):
        assert sessions < SHADOW_SESSIONS_MAX, "no trial lasts for ever"


@pytest.fixture(scope="module")
def trial_standing(tmp_path_factory: pytest.TempPathFactory) -> Standing:
    registry = Registry(tmp_path_factory.mktemp("trial"))
    current, shadow = registered(registry), registered(registry, provider="another")
    return Standing(TODAY, Slot(current.sha256, shadow.sha256, date(2024, 5, 1)), current, shadow)


# ---- demotion


def test_what_the_monitor_finds_brings_the_previous_model_back(registry: Registry) -> None:
    first = admit(registry)
    second = admit(registry, trained_through="2024-06-01", held="held")
    answer = monitor(registry, found_against(second))
    assert isinstance(answer, Change)
    assert (answer.event, answer.by, answer.version) == (Event.DEMOTED, "rule:monitor", second.sha256)
    assert answer.reason == f"{STRATEGY}: the hit rate fell (hit_rate 0.41, episodes 23)"
    assert slot(registry) == Slot(current=first.sha256)
    monitor(registry, found_against(first))
    assert slot(registry) == Slot()
    assert monitor(registry, found_against(first)) == f"{first.version} is not current"
    assert reread(registry).current(SIMULATED) == {}


@pytest.mark.parametrize("damage", ["tampered", "too old"])
def test_a_previous_model_that_cannot_be_used_does_not_come_back(registry: Registry, damage: str) -> None:
    changed = {"calibrated_through": "2024-02-01"} if damage == "too old" else {}
    first = admit(registry, at=NOW - timedelta(days=10), **changed)
    assert slot(registry).current == first.sha256
    second = admit(registry, at=NOW - timedelta(days=10), trained_through="2024-06-01", held="held")
    if damage == "tampered":
        (folder(registry, first) / "SHA256SUMS").write_text("")
    monitor(registry, found_against(second))
    assert slot(registry) == Slot()


def test_a_verdict_on_another_version_or_none_changes_nothing(registry: Registry) -> None:
    first = admit(registry)
    other = registered(registry, provider="another")
    assert monitor(registry, None) == "nothing was found"
    for version in (other.version, "", first.sha256[:3], "0" * 12):
        assert "is not current" in str(monitor(registry, replace(found_against(first), version=version)))
    assert slot(registry).current == first.sha256


def test_a_demotion_begins_the_shadows_trial_again(registry: Registry, pair: tuple[Artefact, Artefact]) -> None:
    monitor(registry, found_against(pair[0]))
    assert slot(registry) == Slot(None, pair[1].sha256, TODAY + timedelta(days=1))
    judge(registry, ShadowRecord(0, 0, None, None))
    assert slot(registry) == Slot(current=pair[1].sha256)


def test_what_is_asked_follows_what_serves(registry: Registry) -> None:
    assert choose(registry, SIMULATED, 10, TODAY) == Chosen(None, Abstention.NO_MODEL)
    first = admit(registry)
    assert choose(registry, SIMULATED, 10, TODAY) == Chosen(first, None)
    assert choose(registry, SIMULATED, 5, TODAY) == Chosen(None, Abstention.HORIZON_NOT_TRAINED)
    admit(registry, horizon_sessions=5)
    monitor(registry, found_against(first))
    assert choose(registry, SIMULATED, 10, TODAY) == Chosen(None, Abstention.NO_MODEL)


# ---- a person's word


def test_an_operator_promotes_and_demotes_at_once(registry: Registry, pair: tuple[Artefact, Artefact]) -> None:
    first, second = pair
    lifecycle.promote(registry, second, at=NOW, by="operator", reason="looked at it")
    assert slot(registry) == Slot(second.sha256, previous=first.sha256)
    lifecycle.demote(registry, SIMULATED, "10", at=NOW, by="operator", reason="looked again")
    assert slot(registry) == Slot(first.sha256)
    lifecycle.demote(registry, SIMULATED, "10", at=NOW, by="operator", reason="and again")
    assert slot(registry) == Slot()
    again = lifecycle.demote(registry, SIMULATED, "10", at=NOW, by="operator", reason="and again")
    assert again == "no model is current"
    last = registry.pointers.history(SIMULATED)[-1].change
    assert (last.by, last.reason) == ("operator", "and again")


def test_a_previous_model_that_is_promoted_again_is_not_its_own_way_back(
    registry: Registry, pair: tuple[Artefact, Artefact]
) -> None:
    first, second = pair
    lifecycle.promote(registry, second, at=NOW, by="operator", reason="looked at it")
    (folder(registry, second) / "SIGNATURE").unlink()
    registry = reread(registry)
    lifecycle.promote(registry, registry.load(first.sha256), at=NOW, by="operator", reason="the other is refused")
    assert slot(registry) == Slot(first.sha256)


def test_a_refused_model_can_be_demoted(registry: Registry) -> None:
    first = admit(registry)
    (folder(registry, first) / "SIGNATURE").unlink()
    lifecycle.demote(reread(registry), SIMULATED, "10", at=NOW, by="operator", reason="refused")
    assert slot(registry) == Slot()


def test_an_unreadable_pointer_is_said_and_not_overwritten(registry: Registry) -> None:
    artefact = admit(registry)
    registry.pointers.path(SIMULATED).write_text("{")
    with pytest.raises(ArtefactError, match="unreadable"):
        lifecycle.promote(registry, artefact, at=NOW, by="operator", reason="r")
    assert registry.pointers.path(SIMULATED).read_text() == "{"


def test_of_two_promotions_at_once_neither_is_lost(registry: Registry) -> None:
    artefacts = [registered(registry, provider=str(number)) for number in range(4)]

    def promote(artefact: Artefact) -> None:
        lifecycle.promote(reread(registry), artefact, at=NOW, by="operator", reason=artefact.manifest["provider"])

    threads = [threading.Thread(target=promote, args=(artefact,)) for artefact in artefacts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = registry.pointers.history(SIMULATED)
    assert {entry.change.version for entry in history} == {artefact.sha256 for artefact in artefacts}
    assert [entry.before for entry in history[1:]] == [entry.change.slot for entry in history[:-1]]
    assert slot(registry) == Slot(history[-1].change.version, previous=history[-2].change.version)
