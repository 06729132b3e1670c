"""`sauda ml list|promote|demote|history`: what an operator sees and says."""

from pathlib import Path

import pytest
from rich.console import Console
from small_models import AGES, NOW, SIMULATED, folder, registered, reread
from typer.testing import CliRunner, Result

from ml_service import lifecycle
from ml_service.lifecycle import Verdict
from ml_service.model import STRATEGY
from ml_service.pointers import Event, Slot
from ml_service.registry import Artefact, Registry
from ml_service.signing import ensure_key, key_path, public_text
from sauda.ml import app


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


@pytest.fixture
def pair(registry: Registry) -> tuple[Artefact, Artefact]:
    """The current model and its shadow."""
    first, second = registered(registry), registered(registry, trained_through="2024-06-01")
    for artefact in (first, second):
        lifecycle.admit(registry, artefact, at=NOW, ages=AGES)
    return first, second


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that breaks no line: a test runner may have set another width before the commands were imported."""
    monkeypatch.setattr("sauda.ml_registry.console", Console(width=250))


def run(registry: Registry, *words: str, **environment: str) -> Result:
    options = ["--data-dir", str(registry.root.parent)]
    return CliRunner().invoke(app, [*words, *options], env=environment)


def slot(registry: Registry) -> Slot:
    return reread(registry).slots(SIMULATED)["10"]


def line_of(result: Result, version: str) -> str:
    (line,) = [line for line in result.output.splitlines() if version in line]
    return line


def test_the_list_says_what_each_model_is_and_which_key_signs(
    registry: Registry, pair: tuple[Artefact, Artefact]
) -> None:
    first, second = pair
    broken = registered(registry, provider="[broken]")
    (folder(registry, broken) / "manifest.json").write_text("{}")
    live = registered(registry, environment="live")
    listed = run(registry, "list")
    assert listed.exit_code == 0
    assert f"{STRATEGY}: conservative" in line_of(listed, first.version)
    assert "current" in line_of(listed, first.version)
    assert "shadow since 2024-06-03" in line_of(listed, second.version)
    assert "refused" in line_of(listed, broken.version)
    assert "manifest.json was changed" in line_of(listed, broken.version)
    assert "current" not in line_of(listed, live.version)
    assert public_text(ensure_key(registry.root.parent).public_key()) in listed.output


def test_a_serving_host_lists_what_it_trusts(registry: Registry, pair: tuple[Artefact, Artefact]) -> None:
    public = public_text(ensure_key(registry.root.parent).public_key())
    key_path(registry.root.parent).unlink()
    assert "no key is trusted here" in line_of(run(registry, "list"), pair[0].version)
    trusting = run(registry, "list", MODEL_TRUSTED_KEYS=public)
    assert "current" in line_of(trusting, pair[0].version)
    assert "Signing key" not in trusting.output
    wrong = run(registry, "list", MODEL_TRUSTED_KEYS="nonsense")
    assert (wrong.exit_code, "MODEL_TRUSTED_KEYS: key 1" in wrong.stderr) == (1, True)


def test_promote_and_demote_say_what_they_did_and_leave_their_reasons(
    registry: Registry, pair: tuple[Artefact, Artefact]
) -> None:
    first, second = pair
    promoted = run(registry, "promote", second.version, "--reason", "looked [at] it")
    assert (promoted.exit_code, f"Current: {second.version}" in promoted.output) == (0, True)
    assert slot(registry) == Slot(second.sha256, previous=first.sha256)
    again = run(registry, "promote", second.version, "--reason", "twice")
    assert (again.exit_code, "is current already" in again.output) == (0, True)
    assert f"Current: {first.version}" in run(registry, "demote", "--reason", "wrong").output
    assert "Current: no model" in run(registry, "demote", "--plan", "10", "--reason", "also wrong").output
    assert "no model is current" in run(registry, "demote", "--reason", "more").output
    assert slot(registry) == Slot()
    told = run(registry, "history")
    assert told.exit_code == 0
    changes = [line for line in told.output.splitlines() if "operator" in line]
    assert ["looked [at] it" in changes[0], "also wrong" in changes[2], "no model" in changes[2]] == [True] * 3
    assert [entry.change.event for entry in registry.pointers.history(SIMULATED)][-3:] == [
        Event.PROMOTED,
        Event.DEMOTED,
        Event.DEMOTED,
    ]


def test_the_history_shows_the_newest_lines_of_one_environment(
    registry: Registry, pair: tuple[Artefact, Artefact]
) -> None:
    newest = run(registry, "history", "--lines", "1")
    assert (Event.SHADOW_STARTED in newest.output, Event.PROMOTED in newest.output) == (True, False)
    assert Event.PROMOTED not in run(registry, "history", "--environment", "live").output
    assert Event.PROMOTED not in run(registry, "history", ENVIRONMENT="live").output


def test_what_the_monitor_did_is_told_with_its_figures(registry: Registry, pair: tuple[Artefact, Artefact]) -> None:
    verdict = Verdict(pair[0].version, "momentum", "hit rate fell", {"hit_rate": 0.4})
    lifecycle.demote_if(registry, SIMULATED, "10", verdict, at=NOW, ages=AGES)
    assert "momentum: hit rate fell (hit_rate 0.4)" in run(registry, "history").output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("promote", "0" * 12, "--reason", "r"), "0 registered models"),
        (("promote", "", "--reason", "r"), "2 registered models"),
        (("demote", "--plan", "ten", "--reason", "r"), "a plan is"),
        (("card", "0" * 12), "0 registered models"),
    ],
)
def test_what_cannot_be_done_is_said(
    registry: Registry, pair: tuple[Artefact, Artefact], words: tuple[str, ...], said: str
) -> None:
    before = slot(registry)
    failed = run(registry, *words)
    assert (failed.exit_code, said in failed.stderr) == (1, True)
    assert slot(registry) == before


@pytest.mark.parametrize("command", [("promote", "0" * 12), ("demote",)])
def test_a_change_needs_a_reason(registry: Registry, command: tuple[str, ...]) -> None:
    assert run(registry, *command).exit_code == 2


def test_an_unreadable_pointer_is_said(registry: Registry, pair: tuple[Artefact, Artefact]) -> None:
    registry.pointers.path(SIMULATED).write_text("{")
    for words in (("list",), ("promote", pair[1].version, "--reason", "r"), ("demote", "--reason", "r")):
        failed = run(registry, *words)
        assert (failed.exit_code, "current.simulated.json is unreadable" in failed.stderr) == (1, True)
    assert run(registry, "history").exit_code == 0, "the history still tells what was current"
