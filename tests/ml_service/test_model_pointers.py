"""Which model serves is changed as a whole, by one at a time, and never without a line in the history."""

import errno
import json
import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import NOW, SIMULATED, TODAY

from contracts.common import Environment
from ml_service import files, pointers
from ml_service.pointers import Change, Event, PointerError, Pointers, Slot

A, B, C = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture
def found(tmp_path: Path) -> Pointers:
    return Pointers(tmp_path / "models")


def set_slot(found: Pointers, plan: str, slot: Slot, reason: str = "because") -> Change:
    """Put a slot in its place."""
    change = Change(Event.PROMOTED, slot.current or A, "operator", reason, slot)
    assert found.change(SIMULATED, plan, NOW, lambda _: change) == change
    return change


def test_plans_and_environments_stand_apart(found: Pointers) -> None:
    assert found.slots(SIMULATED) == {}
    daily, intraday = Slot(A, B, TODAY, C), Slot(current=B)
    set_slot(found, "10", daily)
    set_slot(found, "intraday", intraday)
    assert found.slots(SIMULATED) == {"10": daily, "intraday": intraday}
    assert found.slots(Environment.LIVE) == {}
    assert json.loads(found.path(SIMULATED).read_text())["10"] == {
        "current": A,
        "shadow": B,
        "shadow_since": "2024-06-03",
        "previous": C,
    }


def test_every_change_is_a_line_with_who_when_why_and_both_slots(found: Pointers) -> None:
    first = set_slot(found, "10", Slot(A), "the first")
    second = set_slot(found, "10", Slot(B, previous=A), "a better\none")
    one, two = found.history(SIMULATED)
    assert (one.at, one.plan, one.change, one.before) == (NOW, "10", first, Slot())
    assert (two.change, two.before) == (second, Slot(A))
    assert found.history_path(SIMULATED).read_bytes().count(b"\n") == 2


def test_a_rule_that_wants_nothing_writes_nothing(found: Pointers) -> None:
    assert found.change(SIMULATED, "10", NOW, lambda slot: f"{slot.current} stays") == "None stays"
    assert not found.path(SIMULATED).exists()
    assert found.history(SIMULATED) == []


@pytest.mark.parametrize("plan", ["0", "100", "-1", "ten", "", "../x", "intraday "])
def test_a_plan_is_a_horizon_or_intraday(found: Pointers, plan: str) -> None:
    with pytest.raises(ValueError, match="a plan is"):
        found.change(SIMULATED, plan, NOW, lambda _: "never asked")


def test_an_instant_has_a_zone(found: Pointers) -> None:
    with pytest.raises(ValueError, match="zone"):
        found.change(SIMULATED, "10", NOW.replace(tzinfo=None), lambda _: "never asked")


def test_a_long_reason_is_cut(found: Pointers) -> None:
    change = Change(Event.PROMOTED, A, "operator", "x" * 10_000, Slot(A))
    found.change(SIMULATED, "10", NOW, lambda _: change)
    assert len(found.history(SIMULATED)[0].change.reason) == pointers.REASON_CHARS_MAX


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "null",
        '{"10": 3}',
        '{"10": {"current": "abc"}}',
        '{"10": {"current": 3}}',
        '{"10": {"other": null}}',
        '{"10": {"shadow_since": 3}}',
        '{"10": {"shadow_since": "soon"}}',
        '{"ten": {}}',
        "\udc80",
        "[" * 5000,
        " " * 70_000,
    ],
)
def test_an_unreadable_pointer_is_an_error_and_not_an_empty_one(found: Pointers, content: str) -> None:
    set_slot(found, "10", Slot(A))
    found.path(SIMULATED).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(PointerError, match=r"current.simulated.json is unreadable"):
        found.slots(SIMULATED)
    with pytest.raises(PointerError, match="unreadable"):
        set_slot(found, "10", Slot(B))
    assert found.path(SIMULATED).read_bytes() == content.encode(errors="surrogateescape"), "nothing is overwritten"


def test_a_pointer_of_an_earlier_release_is_read(found: Pointers) -> None:
    found.root.mkdir()
    found.path(SIMULATED).write_text(json.dumps({"10": A}))
    assert found.slots(SIMULATED) == {"10": Slot(current=A)}


def test_a_linked_pointer_is_not_followed(found: Pointers, tmp_path: Path) -> None:
    set_slot(found, "10", Slot(A))
    found.path(SIMULATED).rename(tmp_path / "elsewhere")
    found.path(SIMULATED).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PointerError):
        found.slots(SIMULATED)


def killed_at(owner: object, name: str, work: Callable[[], object], *, write: bool = False) -> None:
    """Run `work` in a process that dies where it calls `owner.name`; with `write`, after a part of its data."""

    def die(path: Path, data: object) -> None:
        if write and isinstance(data, bytes):
            with path.open("ab") as file:
                file.write(data[:30])
        os._exit(9)

    def run() -> None:
        setattr(owner, name, die)
        work()

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join(30)
    assert child.exitcode == 9


def test_killed_before_the_pointer_is_replaced_the_old_one_is_whole(found: Pointers) -> None:
    set_slot(found, "10", Slot(A))
    killed_at(Path, "replace", lambda: set_slot(found, "10", Slot(B)))
    assert found.slots(SIMULATED) == {"10": Slot(A)}
    assert [entry.change.version for entry in found.history(SIMULATED)] == [A, B], "no change is ever unrecorded"
    set_slot(found, "10", Slot(C))
    assert found.slots(SIMULATED) == {"10": Slot(C)}, "neither the draft nor the lock is in anybody's way"


def test_killed_in_the_history_nothing_has_changed(found: Pointers) -> None:
    set_slot(found, "10", Slot(A))
    killed_at(pointers, "append_line", lambda: set_slot(found, "10", Slot(B)), write=True)
    assert found.slots(SIMULATED) == {"10": Slot(A)}
    set_slot(found, "10", Slot(C))
    assert [entry.change.version for entry in found.history(SIMULATED)] == [A, C]


def test_a_full_disk_is_an_error(found: Pointers, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pointers, "replace_file", fail)
    with pytest.raises(PointerError, match=r"cannot be changed.*No space"):
        set_slot(found, "10", Slot(B))


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(1, 400), garbage=st.binary(max_size=30))
def test_a_torn_history_line_is_left_out_and_never_glued_to_the_next(
    tmp_path_factory: pytest.TempPathFactory, cut: int, garbage: bytes
) -> None:
    found = Pointers(tmp_path_factory.mktemp("torn") / "models")
    for version in (A, B):
        set_slot(found, "10", Slot(version))
    path = found.history_path(SIMULATED)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][: min(cut, len(lines[1]) - 2)] + garbage)
    assert [entry.change.version for entry in found.history(SIMULATED)] == [A]
    set_slot(found, "10", Slot(C))
    assert [entry.change.version for entry in found.history(SIMULATED)] == [A, C]


def test_of_a_huge_history_the_end_is_read(found: Pointers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pointers, "HISTORY_BYTES_MAX", 2000)
    for number in range(20):
        set_slot(found, "10", Slot(A), f"number {number}")
    reasons = [entry.change.reason for entry in found.history(SIMULATED)]
    assert 1 < len(reasons) < 20
    assert reasons[-1] == "number 19"


def test_a_history_that_is_a_link_is_an_error(found: Pointers, tmp_path: Path) -> None:
    set_slot(found, "10", Slot(A))
    found.history_path(SIMULATED).rename(tmp_path / "elsewhere")
    found.history_path(SIMULATED).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PointerError):
        found.history(SIMULATED)
    with pytest.raises(PointerError):
        set_slot(found, "10", Slot(B))
    assert found.slots(SIMULATED) == {"10": Slot(A)}


def _push(root: Path, writer: int, times: int) -> None:
    """Each writer changes its own plan, and moves one plan's versions along a shared chain."""
    mine = Pointers(root)
    for number in range(times):
        version = f"{writer:02x}{number:02x}".ljust(64, "0")
        set_slot(mine, str(writer + 1), Slot(version))

        def chain(slot: Slot, version: str = version) -> Change:
            return Change(Event.PROMOTED, version, "operator", "chain", Slot(version, previous=slot.current))

        mine.change(SIMULATED, "99", NOW, chain)


def check_nothing_was_lost(found: Pointers, writers: int, times: int) -> None:
    slots = found.slots(SIMULATED)
    for writer in range(writers):
        assert slots[str(writer + 1)].current == f"{writer:02x}{times - 1:02x}".ljust(64, "0")
    chain = [entry for entry in found.history(SIMULATED) if entry.plan == "99"]
    assert len(chain) == writers * times
    for before, after in pairwise(chain):
        assert after.before == before.change.slot, "each writer saw the change before its own"
    assert slots["99"] == chain[-1].change.slot


def test_writers_in_threads_lose_nothing_of_one_another(found: Pointers) -> None:
    threads = [threading.Thread(target=_push, args=(found.root, writer, 5)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_nothing_was_lost(found, 4, 5)


def test_writers_in_processes_lose_nothing_of_one_another(found: Pointers) -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_push, args=(found.root, writer, 5)) for writer in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0, 0]
    check_nothing_was_lost(found, 3, 5)


def test_a_lock_that_is_never_let_go_ends_in_an_error(found: Pointers, monkeypatch: pytest.MonkeyPatch) -> None:
    set_slot(found, "10", Slot(A))
    with (
        files.locked(found.root / ".lock"),
        pytest.raises(TimeoutError, match="another process has held"),
        files.locked(found.root / ".lock", timeout_s=0.0),
    ):
        pytest.fail("the lock was given twice")


def test_what_a_decision_raises_goes_through_and_frees_the_lock(found: Pointers) -> None:
    def fail(_: Slot) -> str:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        found.change(SIMULATED, "10", NOW, fail)
    assert set_slot(found, "10", replace(Slot(), current=A)).version == A
