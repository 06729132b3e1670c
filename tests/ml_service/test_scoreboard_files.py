"""The record keeps what was first written, notices every change, and survives crashes, races and restarts."""

import multiprocessing
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from frozen_record import OTHER, VERSION, frozen, outcomes
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.common import Environment
from ml_service.scoreboard import Scoreboard
from ml_service.write_once import PARTS_MAX, Part

DAY = date(2024, 1, 2)


@pytest.fixture
def damaged() -> list[str]:
    return []


@pytest.fixture
def board(tmp_path: Path, damaged: list[str]) -> Scoreboard:
    return Scoreboard(tmp_path, Environment.SIMULATED, damaged.append)


def expected_by_symbol(board: Scoreboard) -> dict[str, float]:
    return dict(board.read().select("symbol", "expected").iter_rows())


def test_the_first_answer_stays_and_later_ones_are_added(board: Scoreboard, tmp_path: Path) -> None:
    assert board.frozen.add(DAY, VERSION, frozen(DAY, ["TCS", "INFY"], expected=0.01)) == 2
    first = board.frozen.root / board.frozen.parts()[0].name
    before = first.read_bytes()
    assert board.frozen.add(DAY, VERSION, frozen(DAY, ["TCS", "INFY"], expected=0.09)) == 0
    assert board.frozen.add(DAY, VERSION, frozen(DAY, ["TCS", "WIPRO", "WIPRO"], expected=0.09)) == 1
    assert board.frozen.add(DAY, VERSION, frozen(DAY, ["TCS"], expected=0.05, strategy="squeeze")) == 1
    assert first.read_bytes() == before
    again = Scoreboard(tmp_path, Environment.SIMULATED)
    assert again.read().select("strategy", "symbol", "expected").rows() == [
        ("momentum", "TCS", 0.01),
        ("momentum", "INFY", 0.01),
        ("momentum", "WIPRO", 0.09),
        ("squeeze", "TCS", 0.05),
    ]
    assert [part.number for part in again.frozen.parts()] == [0, 1, 2]


def test_environments_and_versions_are_apart(board: Scoreboard, tmp_path: Path) -> None:
    board.frozen.add(DAY, VERSION, frozen(DAY, ["TCS"]))
    assert board.frozen.add(DAY, OTHER, frozen(DAY, ["TCS"], OTHER, shadow=True)) == 1
    assert board.read()["version"].to_list() == [VERSION]
    assert board.read(shadow=True)["version"].to_list() == [OTHER]
    assert board.read(shadow=None).height == 2
    assert Scoreboard(tmp_path, Environment.PAPER).read(shadow=None).is_empty()


def test_outcomes_stand_beside_their_prediction(board: Scoreboard) -> None:
    board.frozen.add(DAY, VERSION, frozen(DAY, ["TCS", "INFY"]))
    board.outcomes.add(DAY, VERSION, outcomes(DAY, ["INFY"], DAY + timedelta(days=14), net_return=-0.05))
    assert board.read().select("symbol", "outcome", "net_return").rows() == [
        ("TCS", "pending", None),
        ("INFY", "matured", -0.05),
    ]
    assert board.pending()["symbol"].to_list() == ["TCS"]
    board.outcomes.add(DAY, VERSION, outcomes(DAY, ["TCS", "INFY"], DAY, net_return=9.0))
    assert board.read()["net_return"].to_list() == [9.0, -0.05]
    assert board.pending().is_empty()


def test_a_finished_session_is_not_looked_at_again(board: Scoreboard, monkeypatch: pytest.MonkeyPatch) -> None:
    later = DAY + timedelta(days=1)
    for day in (DAY, later):
        board.frozen.add(day, VERSION, frozen(day, ["TCS"]))
    board.outcomes.add(DAY, VERSION, outcomes(DAY, ["TCS"], later))
    assert board.pending()["session"].to_list() == [later]
    read: list[list[Part]] = []
    scan = board.frozen.scan

    def noting(parts: list[Part]) -> pl.LazyFrame:
        read.append(parts)
        return scan(parts)

    monkeypatch.setattr(board.frozen, "scan", noting)
    assert board.pending()["session"].to_list() == [later]
    assert [[part.session for part in parts] for parts in read] == [[later]]
    board.outcomes.add(later, VERSION, outcomes(later, ["TCS"], later))
    assert board.pending().is_empty()
    board.frozen.add(later, VERSION, frozen(later, ["INFY"]))
    assert board.pending()["symbol"].to_list() == ["INFY"]


@given(position=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_any_changed_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, position: float, mask: int) -> None:
    damaged: list[str] = []
    board = Scoreboard(tmp_path_factory.mktemp("flip"), Environment.SIMULATED, damaged.append)
    board.frozen.add(DAY, VERSION, frozen(DAY, ["TCS"]))
    path = board.frozen.root / board.frozen.parts()[0].name
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= mask
    path.write_bytes(content)
    assert board.read().is_empty()
    assert board.read().is_empty()
    assert damaged == [f"frozen/{path.name}"]
    assert path.read_bytes() == content
    assert board.frozen.add(DAY, VERSION, frozen(DAY, ["TCS"], expected=0.5)) == 0
    shutil.rmtree(board.frozen.root)


def test_a_file_changed_after_it_was_read_is_noticed(board: Scoreboard, damaged: list[str]) -> None:
    board.frozen.add(DAY, VERSION, frozen(DAY, ["TCS"]))
    assert board.read().height == 1
    path = board.frozen.root / board.frozen.parts()[0].name
    path.write_bytes(path.read_bytes()[:-1])
    assert board.read().is_empty()
    assert len(damaged) == 1


def test_a_renamed_file_is_noticed(board: Scoreboard, damaged: list[str]) -> None:
    board.frozen.add(DAY, VERSION, frozen(DAY, ["TCS"]))
    part = board.frozen.parts()[0]
    moved = Part(DAY - timedelta(days=30), part.version, part.number, part.digest)
    (board.frozen.root / part.name).rename(board.frozen.root / moved.name)
    assert board.read().is_empty()
    assert damaged == [f"frozen/{moved.name}"]


def test_what_is_no_record_is_left_alone(board: Scoreboard, damaged: list[str], tmp_path: Path) -> None:
    board.frozen.add(DAY, VERSION, frozen(DAY, ["TCS"]))
    part = board.frozen.parts()[0]
    outside = tmp_path / "elsewhere"
    (board.frozen.root / part.name).rename(outside)
    (board.frozen.root / part.name).symlink_to(outside)
    for name in ("notes.txt", f"2024-02-31-{VERSION}.0.{'0' * 32}.parquet", f"{DAY}-{VERSION}.00.{'0' * 32}.parquet"):
        (board.frozen.root / name).write_text("x")
    assert board.frozen.parts() == [part]
    assert board.read().is_empty()
    assert damaged == [f"frozen/{part.name}"]


def test_damaged_outcomes_are_never_written_anew(board: Scoreboard, damaged: list[str]) -> None:
    board.frozen.add(DAY, VERSION, frozen(DAY, ["TCS"]))
    board.outcomes.add(DAY, VERSION, outcomes(DAY, ["TCS"], DAY))
    path = board.outcomes.root / board.outcomes.parts()[0].name
    path.write_bytes(b"not a table")
    assert board.pending().is_empty()
    assert board.outcomes.add(DAY, VERSION, outcomes(DAY, ["TCS"], DAY)) == 0
    assert board.read()["outcome"].to_list() == ["pending"]
    assert damaged == [f"outcomes/{path.name}"]


def test_a_crash_before_the_rename_leaves_nothing(board: Scoreboard, monkeypatch: pytest.MonkeyPatch) -> None:
    class CrashError(BaseException):
        pass

    def crash(*_: object) -> None:
        raise CrashError

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", crash)
        with pytest.raises(CrashError):
            board.frozen.add(DAY, VERSION, frozen(DAY, ["TCS"]))
    drafts = list(board.frozen.root.glob(".draft-*"))
    assert len(drafts) == 1
    assert board.read().is_empty()
    assert board.frozen.add(DAY, VERSION, frozen(DAY, ["INFY"])) == 1
    assert not list(board.frozen.root.glob(".draft-*"))
    assert board.read()["symbol"].to_list() == ["INFY"]


def test_files_per_session_are_bounded(board: Scoreboard) -> None:
    added = [board.frozen.add(DAY, VERSION, frozen(DAY, [f"S{n}"])) for n in range(PARTS_MAX + 2)]
    assert added == [1] * PARTS_MAX + [0, 0]


def _race(
    root: Path, number: int, go: "multiprocessing.synchronize.Event", counts: "multiprocessing.Queue[int]"
) -> None:
    board = Scoreboard(root, Environment.SIMULATED)
    go.wait()
    rows = pl.concat([frozen(DAY, [f"S{n}" for n in range(40)], expected=float(number)), frozen(DAY, [f"OWN{number}"])])
    counts.put(board.frozen.add(DAY, VERSION, rows))


def test_processes_that_race_freeze_each_symbol_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    go, counts = context.Event(), context.Queue()
    processes = [context.Process(target=_race, args=(tmp_path, n, go, counts)) for n in range(3)]
    for process in processes:
        process.start()
    go.set()
    for process in processes:
        process.join(60)
    assert sorted(counts.get() for _ in processes) == [1, 1, 41]
    rows = Scoreboard(tmp_path, Environment.SIMULATED).read()
    assert rows["symbol"].n_unique() == rows.height == 43
    assert rows.filter(pl.col("symbol").str.starts_with("S"))["expected"].n_unique() == 1


def test_a_writer_waits_for_the_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (Scoreboard(tmp_path, Environment.SIMULATED).frozen for _ in range(2))
    writing, let_go = threading.Event(), threading.Event()
    write = first._write

    def slowly(*arguments: Any) -> None:
        writing.set()
        assert let_go.wait(30)
        write(*arguments)

    monkeypatch.setattr(first, "_write", slowly)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first.add, DAY, VERSION, frozen(DAY, ["TCS"], expected=0.01))
        assert writing.wait(30)
        two = pool.submit(second.add, DAY, VERSION, frozen(DAY, ["TCS"], expected=0.02))
        done, _ = wait([two], timeout=0.3)
        let_go.set()
        assert not done
        assert (one.result(30), two.result(30)) == (1, 0)
    assert second.read(second.parts())["expected"].to_list() == [0.01]


def test_columns_that_older_code_did_not_know_read_as_null(board: Scoreboard) -> None:
    board.frozen.add(DAY, VERSION, frozen(DAY, ["TCS"]).drop("p_net_profit"))
    board.frozen.add(DAY, OTHER, frozen(DAY, ["TCS"], OTHER).with_columns(p_longer_ago=pl.lit(0.5)))
    assert board.read().sort("version")["p_net_profit"].to_list() == [None, 0.9]
