"""A sweep over processes: the same results as one by one, kept, taken up again, and never mixed with another's."""

import os
import pickle
import random
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from market_columns import market, random_predictions, sessions, share, walk

from backend.backtest.engine import run
from backend.backtest.history import MarketHistory
from backend.backtest.request import with_values
from backend.backtest.spec import Spec, Trader
from backend.domain.modes import Mode
from sauda import backtest_sweep as sweeps
from sauda.backtest_sweep import FOLDERS_KEPT, SweepError, file_of, folder_of, hash_of, save, saved, sweep

COMBINATIONS = [{"mode": mode.value, "slippage_fraction": s} for mode in Mode for s in ("0", "0.001")]


@pytest.fixture(scope="module")
def history() -> MarketHistory:
    rng = np.random.default_rng(7)
    found = sessions(date(2023, 1, 2), 20)
    bars = {symbol: walk(rng, 20) for symbol in ("AAA", "BBB")}
    shares = {symbol: share(symbol, columns, found) for symbol, columns in bars.items()}
    return market(bars, found, random_predictions(rng, shares, found, rate=0.3))


@pytest.fixture(scope="module")
def spec(history: MarketHistory) -> Spec:
    return Spec(history.sessions[0].day, history.sessions[-1].day, (Trader("one", Mode.MODERATE),))


def swept(spec: Spec, history: MarketHistory, base: Path, **changes: Any) -> list[sweeps.Run]:
    settings = {"jobs": 2, "progress": lambda done, total: None, "stopped": lambda: False} | changes
    return sweep(spec, settings.pop("combinations", COMBINATIONS), history, base, **settings)


def equities(runs: list[sweeps.Run]) -> list[tuple[str, ...]]:
    return [(*map(str, values.values()), str(result.traders[0].equity)) for values, result in runs]


def test_the_combinations_over_processes_are_those_one_by_one(
    spec: Spec, history: MarketHistory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    runs = swept(spec, history, tmp_path, progress=lambda done, total: told.append((done, total)))
    alone = [(values, run(with_values(spec, values), history)) for values in COMBINATIONS]
    assert equities(runs) == equities(alone)
    assert len({equity for *_, equity in equities(runs)}) > 1
    assert told == [(n, 6) for n in range(7)]

    # Given again, nothing is run again; a damaged file and a new combination are, and nothing else.
    with monkeypatch.context() as patched:
        patched.setattr(sweeps, "ProcessPoolExecutor", None)
        assert equities(swept(spec, history, tmp_path)) == equities(alone)
    files = sorted(folder_of(tmp_path, history).glob("*.result"))
    files[0].write_bytes(files[0].read_bytes()[:-1] + b"?")
    new = {"mode": "moderate", "slippage_fraction": "0.002"}
    told.clear()
    more = swept(
        spec, history, tmp_path, jobs=1, combinations=[*COMBINATIONS, new], progress=lambda *step: told.append(step)
    )
    assert equities(more)[:6] == equities(alone)
    assert told == [(5, 7), (6, 7), (7, 7)]


def test_who_stops_keeps_what_is_done(spec: Spec, history: MarketHistory, tmp_path: Path) -> None:
    steps: list[int] = []
    runs = swept(
        spec,
        history,
        tmp_path,
        jobs=1,
        progress=lambda done, total: steps.append(done),
        stopped=lambda: bool(steps) and steps[-1] >= 2,
    )
    assert 2 <= len(runs) < len(COMBINATIONS)
    assert all(values in COMBINATIONS for values, _ in runs)
    steps.clear()
    swept(spec, history, tmp_path, jobs=1, progress=lambda done, total: steps.append(done), stopped=lambda: True)
    assert steps[0] >= len(runs)


def test_a_process_that_is_killed_is_said_in_one_line(
    spec: Spec, history: MarketHistory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "_one", _killed)
    with pytest.raises(SweepError, match="give --jobs a smaller number and run the same command again"):
        swept(spec, history, tmp_path, jobs=1)


def _killed(path: str, values: str) -> Path:
    os.kill(os.getpid(), 9)
    return Path(path)


def test_the_folder_is_that_of_this_market_and_this_code(
    history: MarketHistory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = folder_of(tmp_path, history)
    first = next(iter(history.shares.values()))
    volume = first.volume.copy()
    volume[-1] += 1
    day = next(day for day, said in history.predictions.items() if said.signals)
    said = history.predictions[day]
    symbol, one = next(iter(said.signals.items()))
    nudged = replace(said, signals={**said.signals, symbol: replace(one, expected_return_net=0.0400001)})
    others = (
        replace(history, shares={**history.shares, first.symbol: replace(first, volume=volume)}),
        replace(history, predictions={**history.predictions, day: nudged}),
        replace(history, half_spread_bp=1.26),
        replace(history, members={}),
    )
    assert len({here, *(folder_of(tmp_path, other) for other in others)}) == 1 + len(others)
    assert folder_of(tmp_path, pickle.loads(pickle.dumps(history))) == here
    monkeypatch.setattr(sweeps, "_code", lambda: b"another version")
    assert folder_of(tmp_path, history) != here


def test_the_hash_is_the_same_in_every_process(spec: Spec, history: MarketHistory, tmp_path: Path) -> None:
    """Sets and hashes of text differ from process to process."""
    (tmp_path / "history").write_bytes(pickle.dumps((spec, history)))
    script = (
        "import pickle, sys; from pathlib import Path; from sauda.backtest_sweep import hash_of;"
        "print(hash_of(pickle.loads(Path(sys.argv[1]).read_bytes())).hex())"
    )
    environment = os.environ | {"PYTHONHASHSEED": str(random.randrange(1, 1000))}
    command = [sys.executable, "-c", script, str(tmp_path / "history")]
    there = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert there.stdout.strip() == hash_of((spec, history)).hex()


def test_files_differ_where_anything_asked_differs(spec: Spec, tmp_path: Path) -> None:
    others = [
        spec,
        replace(spec, last=spec.first),
        replace(spec, day_loss_fraction_max=spec.day_loss_fraction_max * 2),
        with_values(spec, {"mode": "aggressive"}),
        with_values(spec, {"strategies": ["momentum", "pullback"]}),
        with_values(spec, {"cluster_positions_max": 4}),
        with_values(spec, {"entry_protection_fraction": "0.002"}),
    ]
    assert len({file_of(tmp_path, other) for other in others}) == len(others)
    same = with_values(spec, {"strategies": ["pullback", "momentum"]})
    assert file_of(tmp_path, same) == file_of(tmp_path, others[4])


def test_what_is_kept_comes_back_whole_or_not_at_all(spec: Spec, history: MarketHistory, tmp_path: Path) -> None:
    path = tmp_path / "one.result"
    assert saved(path) is None
    result = run(spec, history)
    save(path, result)
    back = saved(path)
    assert back is not None
    assert (back.traders[0].orders, back.traders[0].equity) == (result.traders[0].orders, result.traders[0].equity)
    content = path.read_bytes()
    for damaged in (b"", content[:10], content[:-1], content[:-5] + b"00000"):
        path.write_bytes(damaged)
        assert saved(path) is None


def test_the_last_few_sweeps_are_kept(spec: Spec, history: MarketHistory, tmp_path: Path) -> None:
    for number in range(FOLDERS_KEPT + 3):
        (tmp_path / str(number)).mkdir()
        os.utime(tmp_path / str(number), (number, number))
    swept(spec, history, tmp_path, stopped=lambda: True)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {folder_of(tmp_path, history).name, *map(str, range(4, FOLDERS_KEPT + 3))}
