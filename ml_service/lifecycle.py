"""When a model begins to serve, when another takes its place, and when it must stop: rules first, a person last.

Each rule is pure: it sees how things stand and answers with a change, or with why there is none. `apply` gathers, asks
the rule and records its change, under the registry's lock.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime

from contracts.common import Environment
from ml_service.client import IST
from ml_service.pointers import Change, Entry, Event, PointerError, Slot
from ml_service.predict import Ages, too_old
from ml_service.registry import VERSION_CHARS, Artefact, ArtefactError, Registry

SHADOW_SESSIONS_MIN = 20
SHADOW_SESSIONS_MAX = 60
SHADOW_MATURED_MIN = 100
"""Matured rows (symbol, session) under which a difference in Brier scores says nothing."""
BRIER_MARGIN = 0.002

OPERATOR = "operator"
TRAINING = "training"
RULE_ADMISSION = "rule:admission"
RULE_BRIER = "rule:brier"
RULE_CERTIFICATES = "rule:certificates"
RULE_SHADOW_REFUSED = "rule:shadow_refused"
RULE_MONITOR = "rule:monitor"


@dataclass(frozen=True)
class ShadowRecord:
    """How shadow and current did side by side.

    `sessions`: with frozen predictions of both; `matured`: common rows (symbol, session) whose outcome is known; the
    mean Brier scores are over those rows' events, None where there are none.
    """

    sessions: int
    matured: int
    brier_current: float | None
    brier_shadow: float | None


@dataclass(frozen=True)
class Verdict:
    """What the monitor found against a model. `version` may be the short one; `evidence` names the figures."""

    version: str
    strategy: str
    reason: str
    evidence: Mapping[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """How a plan stands on `day`: its slot, and of its models those that can be used on that day.

    `problems`: version → why it cannot be used. `demoted`: versions whose last change was a demotion → why.
    `stopgap`: the current model serves only because the one after it was demoted.
    """

    day: date
    slot: Slot
    current: Artefact | None = None
    shadow: Artefact | None = None
    previous: Artefact | None = None
    problems: Mapping[str, str] = field(default_factory=dict)
    demoted: Mapping[str, str] = field(default_factory=dict)
    stopgap: bool = False


Rule = Callable[[Standing], Change | str]


def _short(version: str) -> str:
    return version[:VERSION_CHARS]


def vacancy(standing: Standing, held: str | None) -> str | None:
    """Why the plan needs a model at once, or None. `held`: why the monitor holds the current one, if it does."""
    version = standing.slot.current
    if version is None:
        return "no model was current"
    if standing.current is None:
        return f"the current model could not be used: {standing.problems[version]}"
    if held is not None:
        return f"the current model was held: {held}"
    return "the current model only stood in for a demoted one" if standing.stopgap else None


def promotion(standing: Standing, version: str, by: str, reason: str) -> Change | str:
    """Make a version current. A promotion ends the trial of any other shadow; a usable current one can come back."""
    slot = standing.slot
    if version == slot.current:
        return f"{_short(version)} is current already"
    previous = slot.current if standing.current is not None else slot.previous
    return Change(
        Event.PROMOTED, version, by, reason, Slot(version, previous=None if previous == version else previous)
    )


def admission(standing: Standing, new: Artefact, held: str | None) -> Change | str:
    """A newly registered model serves at once where it is needed, and is tried as a shadow where it is not.

    It is neither where it is no newer than what serves, or was demoted before: only a person takes that back.
    """
    slot, short = standing.slot, new.version
    if new.sha256 == slot.current:
        return f"{short} is current already"
    if new.sha256 in standing.demoted:
        return f"{short} was demoted ({standing.demoted[new.sha256]}): `sauda ml promote` takes that back"
    if standing.current is not None and new.trained_through < standing.current.trained_through:
        return f"{short} is registered only: the current model was trained on later sessions"
    if why := vacancy(standing, held):
        return promotion(standing, new.sha256, RULE_ADMISSION, why)
    if new.sha256 == slot.shadow:
        return f"{short} is the shadow already, since {slot.shadow_since}"
    replaced = f"in place of {_short(slot.shadow)}, " if slot.shadow else ""
    reason = f"{replaced}to be tried beside {_short(slot.current or '')}"
    after = replace(slot, shadow=new.sha256, shadow_since=standing.day)
    return Change(Event.SHADOW_STARTED, new.sha256, RULE_ADMISSION, reason, after)


def _dropped(standing: Standing, by: str, reason: str) -> Change:
    after = replace(standing.slot, shadow=None, shadow_since=None)
    return Change(Event.SHADOW_DROPPED, standing.slot.shadow or "", by, reason, after)


def certificates(artefact: Artefact) -> int:
    """How many pairs of strategy and mode its out-of-sample record certifies."""
    return sum(len(artefact.certified(strategy)) for strategy in artefact.models)


def _briers(record: ShadowRecord) -> tuple[float, float] | None:
    """Both scores, current's first, where they carry a judgement."""
    if record.matured < SHADOW_MATURED_MIN or record.brier_current is None or record.brier_shadow is None:
        return None
    pair = (record.brier_current, record.brier_shadow)
    return pair if all(map(math.isfinite, pair)) else None


def trial(standing: Standing, record: ShadowRecord, held: str | None) -> Change | str:
    """What becomes of the shadow: promoted where it did no worse by more than BRIER_MARGIN, dropped where it did,
    left where it is too early. After SHADOW_SESSIONS_MAX without enough outcomes its certificates decide."""
    version = standing.slot.shadow
    if version is None:
        return "there is no shadow"
    if standing.shadow is None:
        return _dropped(standing, RULE_SHADOW_REFUSED, standing.problems[version])
    if standing.current is None or held is not None:
        return promotion(standing, version, RULE_ADMISSION, vacancy(standing, held) or "")
    if record.sessions < SHADOW_SESSIONS_MIN:
        return f"{record.sessions} of {SHADOW_SESSIONS_MIN} sessions have been compared"
    if briers := _briers(record):
        current, shadow = briers
        figures = f"Brier {shadow:.4f} against {current:.4f} over {record.matured} rows, {record.sessions} sessions"
        if shadow <= current + BRIER_MARGIN:
            return promotion(standing, version, RULE_BRIER, figures)
        return _dropped(standing, RULE_BRIER, figures)
    if record.sessions < SHADOW_SESSIONS_MAX:
        return f"only {record.matured} outcomes of {SHADOW_MATURED_MIN} have matured"
    current, shadow = certificates(standing.current), certificates(standing.shadow)
    figures = f"too few outcomes in {record.sessions} sessions; it certifies {shadow} modes against {current}"
    if shadow >= current:
        return promotion(standing, version, RULE_CERTIFICATES, figures)
    return _dropped(standing, RULE_CERTIFICATES, figures)


def demotion(standing: Standing, by: str, reason: str) -> Change | str:
    """Take the current model out of service: the previous one comes back where it can be used, else there is none.

    A shadow's trial begins again: it is compared with another model from now on.
    """
    slot = standing.slot
    if slot.current is None:
        return "no model is current"
    back = standing.previous.sha256 if standing.previous else None
    since = standing.day if slot.shadow else None
    return Change(Event.DEMOTED, slot.current, by, reason, Slot(back, slot.shadow, since))


def demotion_for(standing: Standing, verdict: Verdict) -> Change | str:
    """The demotion that a verdict asks for. One on a model that is no longer current asks for nothing."""
    current = standing.slot.current
    if len(verdict.version) < VERSION_CHARS or current is None or not current.startswith(verdict.version):
        return f"{_short(verdict.version)} is not current"
    figures = ", ".join(f"{name} {value}" for name, value in verdict.evidence.items())
    reason = f"{verdict.strategy}: {verdict.reason}" + (f" ({figures})" if figures else "")
    return demotion(standing, RULE_MONITOR, reason)


def demoted_versions(history: list[Entry], plan: str) -> tuple[dict[str, str], bool]:
    """Versions whose last change of service was a demotion → why; and whether such a change was the plan's last."""
    found: dict[str, str] = {}
    last: Event | None = None
    for entry in history:
        change = entry.change
        if entry.plan != plan or change.event not in {Event.PROMOTED, Event.DEMOTED}:
            continue
        last = change.event
        if last is Event.DEMOTED:
            found[change.version] = change.reason
        else:
            found.pop(change.version, None)
    return found, last is Event.DEMOTED


def gather(
    registry: Registry, environment: Environment, plan: str, slot: Slot, day: date, ages: Ages | None
) -> Standing:
    """How a plan stands. `ages`: the limits on a model's age; None where the day is not the market's."""
    problems: dict[str, str] = {}

    def usable(version: str | None) -> Artefact | None:
        if version is None:
            return None
        try:
            artefact = registry.load_for(version, environment, plan)
        except ArtefactError as error:
            problems[version] = str(error)
            return None
        if ages is not None and too_old(artefact, day, ages):
            problems[version] = f"{artefact.version} is too old (trained through {artefact.trained_through})"
            return None
        return artefact

    demoted, stopgap = demoted_versions(registry.pointers.history(environment), plan)
    current, shadow, previous = usable(slot.current), usable(slot.shadow), usable(slot.previous)
    return Standing(day, slot, current, shadow, previous, problems, demoted, stopgap)


def apply(
    registry: Registry, environment: Environment, plan: str, rule: Rule, *, at: datetime, ages: Ages | None
) -> Change | str:
    """Gather, ask the rule, record its change. Returns the change, or why there is none. Raises ArtefactError."""

    def decide(slot: Slot) -> Change | str:
        return rule(gather(registry, environment, plan, slot, at.astimezone(IST).date(), ages))

    try:
        return registry.pointers.change(environment, plan, at, decide)
    except PointerError as error:
        raise ArtefactError(str(error)) from error


def admit(registry: Registry, artefact: Artefact, *, at: datetime, ages: Ages, held: str | None = None) -> Change | str:
    """By rule: a newly registered model becomes current or shadow, or stays registered. `at` is the market's present.

    Raises ArtefactError.
    """

    def rule(standing: Standing) -> Change | str:
        if too_old(artefact, standing.day, ages):
            return f"{artefact.version} is registered only: it was trained through {artefact.trained_through}"
        return admission(standing, artefact, held)

    return apply(registry, artefact.environment, artefact.plan, rule, at=at, ages=ages)


def promote(registry: Registry, artefact: Artefact, *, at: datetime, by: str, reason: str) -> Change | str:
    """At once, on a person's word or a training's. Raises ArtefactError."""

    def rule(standing: Standing) -> Change | str:
        return promotion(standing, artefact.sha256, by, reason)

    return apply(registry, artefact.environment, artefact.plan, rule, at=at, ages=None)


def judge_shadow(
    registry: Registry,
    environment: Environment,
    plan: str,
    record: ShadowRecord,
    *,
    at: datetime,
    ages: Ages,
    held: str | None = None,
) -> Change | str:
    """By rule: what becomes of the plan's shadow; see `trial`. Raises ArtefactError."""
    return apply(registry, environment, plan, lambda standing: trial(standing, record, held), at=at, ages=ages)


def demote_if(
    registry: Registry, environment: Environment, plan: str, verdict: Verdict | None, *, at: datetime, ages: Ages
) -> Change | str:
    """By rule: what the monitor found takes the current model out of service. Raises ArtefactError."""
    if verdict is None:
        return "nothing was found"
    return apply(registry, environment, plan, lambda standing: demotion_for(standing, verdict), at=at, ages=ages)


def demote(
    registry: Registry, environment: Environment, plan: str, *, at: datetime, by: str, reason: str
) -> Change | str:
    """At once, on a person's word. Raises ArtefactError."""
    return apply(registry, environment, plan, lambda standing: demotion(standing, by, reason), at=at, ages=None)
