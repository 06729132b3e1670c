"""Modes are held and released, and models found wanting, by their own record only, at every instant alike."""

import errno
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from frozen_record import OTHER, VERSION, frozen, outcomes
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.common import Environment
from ml_service.background import all_held
from ml_service.drift import DRIFT_SESSIONS, baseline, feature_bins
from ml_service.evidence import MODES
from ml_service.labels import EVENTS
from ml_service.model import STRATEGY
from ml_service.monitor import (
    COOL_DOWN_SESSIONS,
    FEATURE_DRIFT,
    HOLD_EPISODES,
    HOLD_EPISODES_MIN,
    HOLD_SESSIONS,
    RECORD_UNREADABLE,
    State,
    compare,
    demotion,
    held,
    judge_state,
    state_of,
)
from ml_service.registry import Artefact
from ml_service.scoreboard import FEATURES_SEEN, Scoreboard

HORIZON = 10
FIRST = date(2020, 1, 1)
SYMBOLS = ["S0", "S1", "S2"]
ALL_MODES = "conservative moderate aggressive"


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def artefact(**manifest: Any) -> Artefact:
    return Artefact(VERSION + "0" * 52, {}, {}, {"horizon_sessions": HORIZON, "strategies": {}} | manifest)


def write(board: Scoreboard, number: int, known: int, *, good: bool, strategy: str = "momentum", **more: Any) -> None:
    """One session's prediction and, where its horizon ended by session `known`, its outcome."""
    version = more.pop("version", VERSION)
    more.setdefault("certified_modes", ALL_MODES)
    board.frozen.add(day(number), version, frozen(day(number), SYMBOLS, version, strategy=strategy, **more))
    if number + HORIZON > known:
        return
    changes = {} if good else {f"hit_{event}": False for event in EVENTS} | {"net_return": -0.04}
    rows = outcomes(day(number), SYMBOLS, day(number + HORIZON), version, **changes)
    board.outcomes.add(day(number), version, rows)


@pytest.fixture
def board(tmp_path: Path) -> Scoreboard:
    return Scoreboard(tmp_path, Environment.SIMULATED)


def rows_of(hits: list[bool], known: int | None = None, net: list[float] | None = None, **more: Any) -> pl.DataFrame:
    """Rows as Scoreboard.read gives them: every session of `hits` served, with the outcomes known after `known`."""
    known = len(hits) - 1 if known is None else known
    version = more.get("version", VERSION)
    more.setdefault("certified_modes", ALL_MODES)
    asked = pl.concat([frozen(day(n), SYMBOLS, **more) for n in range(len(hits))])
    told = [outcomes(day(0), SYMBOLS, day(0), version).clear()]
    for n, hit in enumerate(hits[: max(0, known - HORIZON + 1)]):
        changes: dict[str, Any] = {f"hit_{event}": hit for event in EVENTS}
        changes["net_return"] = net[n] if net else (0.02 if hit else -0.04)
        told.append(outcomes(day(n), SYMBOLS, day(n + HORIZON), version, **changes))
    joined = asked.join(pl.concat(told), on=["session", "version", "symbol"], how="left", maintain_order="left")
    return joined.with_columns(pl.col("outcome").fill_null("pending"))


def held_at(rows: pl.DataFrame, number: int) -> dict[tuple[str, str], str]:
    so_far = rows.filter(pl.col("session") <= day(number))
    return dict(judge_state(so_far, pl.DataFrame(schema=FEATURES_SEEN), artefact(), day(number)).held)


def test_a_mode_is_held_from_ten_failing_episodes_on() -> None:
    # The good first episode gives the interval a width.
    rows = rows_of([True] * HORIZON + [False] * (HORIZON * HOLD_EPISODES_MIN))
    # The tenth episode opens with session 90, whose outcome is known ten sessions later.
    first = HORIZON * (HOLD_EPISODES_MIN - 1) + HORIZON
    assert held_at(rows, first - 1) == {}
    assert held_at(rows, first) == {
        ("momentum", mode): "hit_rate_below_confidence" for mode in ("conservative", "moderate", "aggressive")
    }
    assert held_at(rows, first + 5).keys() == held_at(rows, first).keys()


def test_a_good_record_is_never_held() -> None:
    rows = rows_of((np.random.default_rng(1).uniform(size=300) < 0.9).tolist())
    assert held_at(rows, 299) == {}


def test_a_mode_that_loses_seldom_is_held_however_long_that_takes() -> None:
    """Two episodes a year, all lost: no stretch of 250 sessions ever has ten."""
    hits = [number < HORIZON for number in range(6 * HOLD_SESSIONS)]
    seldom = [number for number in range(len(hits)) if number % (HOLD_SESSIONS // 2) < 2]
    rows = rows_of(hits).with_columns(
        pl.when(pl.col("session").is_in([day(n) for n in seldom])).then("expected").otherwise(0.0).alias("expected")
    )
    tenth = seldom[2 * (HOLD_EPISODES_MIN - 1)] + HORIZON
    assert held_at(rows, tenth - 1) == {}
    assert set(held_at(rows, tenth).values()) == {"hit_rate_below_confidence"}
    assert held_at(rows, len(hits) - 1).keys() == held_at(rows, tenth).keys()


def test_what_is_older_than_the_last_twenty_episodes_and_250_sessions_is_forgiven() -> None:
    bad = [False] * (HORIZON * HOLD_EPISODES)
    good = [n % 7 > 0 for n in range(HOLD_SESSIONS + HORIZON + COOL_DOWN_SESSIONS)]
    assert held_at(rows_of(bad), len(bad) - 1)
    assert held_at(rows_of([*bad, *good]), len(bad) + len(good) - 1) == {}


def test_a_loss_holds_a_mode_that_hits() -> None:
    rows = rows_of([True] * 150, net=[-0.01 - 0.001 * (n % 7) for n in range(150)])
    assert set(held_at(rows, 149).values()) == {"net_return_below_zero"}


def test_a_hold_ends_when_the_record_is_good_and_the_cool_down_over() -> None:
    bad, good = HORIZON * HOLD_EPISODES_MIN + HORIZON, HOLD_SESSIONS + 40
    rows = rows_of([True] * HORIZON + [False] * (bad - HORIZON) + [True] * good)
    states = [("momentum", "moderate") in held_at(rows, number) for number in range(0, bad + good, 10)]
    changes = [10 * n for n in range(1, len(states)) if states[n] != states[n - 1]]
    assert len(changes) == 2
    assert changes[0] == HORIZON * HOLD_EPISODES_MIN
    assert changes[0] + COOL_DOWN_SESSIONS <= changes[1] < bad + HOLD_SESSIONS


@dataclass
class Failing:
    """A record whose verdict is known for each session number, to see when it is held."""

    at: set[int]
    mode = MODES[0]
    session = np.array([0])
    end = np.array([0])


def spells(at: set[int], monkeypatch: pytest.MonkeyPatch, until: int = 120) -> list[int]:
    monkeypatch.setattr("ml_service.monitor._failing", lambda record, now: "x" if now in record.at else None)
    return [now for now in range(until) if held(Failing(at), now)]  # pyright: ignore[reportArgumentType]


def test_a_hold_lasts_for_its_cool_down_however_good_the_record_becomes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spells(set(), monkeypatch) == []
    assert spells({30}, monkeypatch) == list(range(30, 30 + COOL_DOWN_SESSIONS))
    assert spells(set(range(30, 60)), monkeypatch) == list(range(30, 60))
    # A new failing within a hold does not begin it anew; one after it does.
    assert spells({30, 40}, monkeypatch) == list(range(30, 50))
    assert spells({30, 49, 50, 51}, monkeypatch) == list(range(30, 52))
    assert spells({30, 50}, monkeypatch) == list(range(30, 51))
    assert spells({30, 51}, monkeypatch) == [*range(30, 50), *range(51, 71)]


@given(st.sets(st.integers(0, 99)))
@settings(max_examples=60, deadline=None)
def test_a_hold_is_what_a_walk_from_the_beginning_finds(at: set[int]) -> None:
    """The rule as it reads, without the shortcut that lets it begin late."""
    plain, since, now_held = [], 0, False
    for now in range(120):
        if now in at and not now_held:
            now_held, since = True, now
        elif now not in at and now - since >= COOL_DOWN_SESSIONS:
            now_held = False
        if now_held:
            plain.append(now)
    with pytest.MonkeyPatch.context() as patched:
        assert spells(at, patched) == plain


def test_what_became_known_later_changes_no_earlier_state() -> None:
    hits = [True] * 20 + [False] * 150
    whole = rows_of(hits)
    for number in range(90, 170, 8):
        then = rows_of(hits[: number + 1], number)
        assert held_at(whole, number) == held_at(then, number)


def test_another_horizons_record_and_shadows_hold_nothing(board: Scoreboard) -> None:
    failing = rows_of([False] * 250)
    assert held_at(failing, 249)
    assert held_at(failing.with_columns(horizon=pl.lit(20, dtype=pl.Int64)), 249) == {}
    for number in range(HORIZON * (HOLD_EPISODES_MIN + 1)):
        write(board, number, 999, good=False, shadow=True)
    assert state_of(board, artefact(), day(300)).held == {}


def certifying(*modes: str, version: str = VERSION) -> Artefact:
    certificates = {"modes": {mode: {"certified": True} for mode in modes}}
    manifest = {"horizon_sessions": HORIZON, "strategies": {STRATEGY: certificates}}
    return Artefact(version + "0" * 52, {}, {}, manifest)


def judged(rows: pl.DataFrame, model: Artefact) -> State:
    return judge_state(rows, pl.DataFrame(schema=FEATURES_SEEN), model, day(999))


def test_what_was_served_uncertified_holds_no_other_version() -> None:
    model = certifying("moderate", version=OTHER)
    uncertified = rows_of([False] * 250, strategy=STRATEGY, certified_modes="")
    assert judged(uncertified, model).held == {}
    one = rows_of([False] * 250, strategy=STRATEGY, certified_modes="moderate")
    assert judged(one, model).held.keys() == {(STRATEGY, "moderate")}


def test_a_held_mode_is_judged_by_what_its_version_says_meanwhile() -> None:
    """While it is held, its predictions are frozen without the mode: they are its way back, and count."""
    rows = rows_of([False] * 250, strategy=STRATEGY, certified_modes="")
    assert judged(rows, certifying("moderate")).held.keys() == {(STRATEGY, "moderate")}
    assert judged(rows, certifying()).held == {}


def test_a_hold_inherited_from_another_version_is_not_the_models_own() -> None:
    rows = rows_of([False] * 250, strategy=STRATEGY)
    own, heir = certifying("moderate"), certifying("moderate", version=OTHER)
    assert all_held(own, judged(rows, own)) == "hit_rate_below_confidence"
    assert judged(rows, heir).of(STRATEGY, ["moderate"]) == {"moderate": "hit_rate_below_confidence"}
    assert all_held(heir, judged(rows, heir)) is None


@pytest.mark.parametrize("folder", ["frozen", "outcomes", "features"])
def test_a_damaged_file_holds_everything_until_it_is_restored_or_moved_away(board: Scoreboard, folder: str) -> None:
    for number in range(3):
        write(board, number, 999, good=True)
        board.features.add(day(number), VERSION, next(iter(seen({"f0": 0.0}, 1)[1].values())))
    model = certifying("moderate")
    assert state_of(board, model, day(300)) == State({})
    kept = getattr(board, folder)
    path = kept.root / kept.parts()[1].name
    content = path.read_bytes()
    path.write_bytes(content[:-3] + b"xyz")
    for reader in (board, Scoreboard(board.frozen.root.parents[2], Environment.SIMULATED)):
        state = state_of(reader, model, day(300))
        assert state.of(STRATEGY, ["moderate"]) == {"moderate": RECORD_UNREADABLE}
        assert (state.unreadable, all_held(model, state)) == (True, None)
        assert state_of(reader, model, day(0)) == State({}), "a later file's damage does not reach back"
    path.write_bytes(content)
    assert state_of(board, model, day(300)) == State({})
    path.write_bytes(b"")
    assert state_of(board, model, day(300)).unreadable
    path.rename(path.with_suffix(".damaged"))
    assert state_of(board, model, day(300)) == State({})


def test_a_disk_that_fails_for_a_moment_holds_everything_for_that_moment(
    board: Scoreboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(board, 0, 999, good=True)

    def fail(path: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    model = certifying("moderate")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", fail)
        assert state_of(board, model, day(300)).of(STRATEGY, ["moderate"]) == {"moderate": RECORD_UNREADABLE}
    assert state_of(board, model, day(300)) == State({})
    assert board.read().height == len(SYMBOLS)


def test_a_restart_finds_the_same_state(board: Scoreboard) -> None:
    for number in range(HORIZON * (HOLD_EPISODES_MIN + 1)):
        write(board, number, 999, good=False)
    state = state_of(board, artefact(), day(300))
    assert state.held
    assert state_of(Scoreboard(board.frozen.root.parents[2], Environment.SIMULATED), artefact(), day(300)) == state


def test_an_empty_record_holds_nothing(board: Scoreboard) -> None:
    assert state_of(board, artefact(), day(0)) == state_of(board, artefact(), day(500))
    assert state_of(board, artefact(), day(0)).held == {}


# ---- drift


def seen(shift: dict[str, float], sessions: int = DRIFT_SESSIONS) -> tuple[dict[str, Any], dict[date, pl.DataFrame]]:
    """What training keeps of standard normal features, and bins of served ones with the given means; `flat` is one
    number for all shares."""
    rng = np.random.default_rng(3)
    names, trained = [*shift, "flat"], rng.normal(size=(300 * 20, len(shift) + 1))
    known = baseline(trained, np.repeat(np.arange(300), 20), names)
    found = {}
    for number in range(sessions):
        values = np.column_stack([*(rng.normal(mean, size=50) for mean in shift.values()), np.full(50, 2.5)])
        bins = feature_bins(values, names, known["deciles"])
        found[day(number)] = bins.select(
            pl.lit(day(number)).alias("session"), pl.lit(VERSION).alias("version"), pl.all()
        ).cast(dict(FEATURES_SEEN))
    return known, found


def test_a_shift_of_the_features_holds_every_mode(board: Scoreboard) -> None:
    known, bins = seen({"f0": 1.0, "f1": 0.0, "f2": 0.0})
    for number, rows in enumerate(bins.values()):
        write(board, number, 0, good=True)
        board.features.add(day(number), VERSION, rows)
    model = artefact(strategies={"momentum": {}, STRATEGY: {}}, feature_drift=known)
    state = state_of(board, model, day(DRIFT_SESSIONS))
    assert state.held == {(s, m.name): FEATURE_DRIFT for s in ("momentum", STRATEGY) for m in MODES}
    assert state.of("momentum", ["moderate"]) == {"moderate": FEATURE_DRIFT}
    assert [each.feature for each in state.drift if each.psi > 0.25] == ["f0"]
    assert state_of(board, model, day(DRIFT_SESSIONS - 2)).held == {}
    other = Artefact(OTHER + "0" * 52, {}, {}, model.manifest)
    assert state_of(board, other, day(DRIFT_SESSIONS)).held == {}
    assert state_of(board, artefact(), day(DRIFT_SESSIONS)) == State({})
    as_ever = artefact(feature_drift=known | {"drifted_share_max": 0.5})
    assert state_of(board, as_ever, day(DRIFT_SESSIONS)).held == {}


# ---- verdicts


def test_a_model_worse_than_its_base_rate_beyond_chance_is_found() -> None:
    hits = (np.random.default_rng(4).uniform(size=400) < 0.6).tolist()
    rows = rows_of(hits, strategy=STRATEGY, **{"p_touch_0.02": 0.95})
    verdict = demotion(rows, STRATEGY, VERSION)
    assert verdict is not None
    assert (verdict.version, verdict.strategy) == (VERSION, STRATEGY)
    assert int(verdict.evidence["episodes"]) >= 20
    assert float(verdict.evidence["gain_high"]) < 0
    assert demotion(rows, STRATEGY, OTHER) is None
    assert demotion(rows, "momentum", VERSION) is None
    assert demotion(rows.filter(pl.col("session") < day(150)), STRATEGY, VERSION) is None


def test_a_model_as_good_as_its_base_rate_is_left_alone() -> None:
    hits = (np.random.default_rng(5).uniform(size=400) < 0.6).tolist()
    assert demotion(rows_of(hits, strategy=STRATEGY, **{"p_touch_0.02": 0.62}), STRATEGY, VERSION) is None


def test_a_shadow_is_compared_on_common_rows_only(board: Scoreboard) -> None:
    for number in range(30):
        write(board, number, 29, good=True, strategy=STRATEGY)
        if number >= 5:
            stated = {f"p_{event}": 0.7 for event in EVENTS}
            write(board, number, 29, good=True, strategy=STRATEGY, version=OTHER, shadow=True, **stated)
    record = compare(board.read(shadow=None), STRATEGY, VERSION, OTHER)
    assert (record.sessions, record.matured) == (25, 15 * len(SYMBOLS))
    assert record.brier_current == pytest.approx(0.01)
    assert record.brier_shadow == pytest.approx(0.09)
    nothing = compare(board.read(shadow=None), "squeeze", VERSION, OTHER)
    assert (nothing.sessions, nothing.matured, nothing.brier_current, nothing.brier_shadow) == (0, 0, None, None)
    since = compare(board.read(shadow=None), STRATEGY, VERSION, OTHER, day(12))
    assert (since.sessions, since.matured) == (18, 8 * len(SYMBOLS))
