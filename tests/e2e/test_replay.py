"""`sauda replay` over recorded bars: imported from files, traded twice alike, and blind to what came later."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest

from contracts.market import Interval
from data_service.providers.simulated import SimulatedMarket
from data_service.sessions import Sessions, load_sessions
from data_service.simulator.universe import load_universe
from tests.e2e.conftest import folder_for_postgres
from tests.support.recorded_market import bars_of, first_shares, write_csv

FIRST, LAST = date(2024, 3, 20), date(2024, 3, 21)
SESSIONS_BEFORE, SESSIONS_AFTER = 1000, 10
"""A mode is certified on twenty episodes of ten sessions, after a year to look back on and a year to learn from."""

SHARES, SHARES_TRADED = 10, 8
COMMAND_TIMEOUT_S = 120
ENVIRONMENT = os.environ | {"COLUMNS": "200", "PYTHONUTF8": "1"}


@dataclass(frozen=True)
class Recorded:
    """A data folder with imported bars, the market they are of, and a file of what came after the days to replay."""

    data_dir: Path
    market: SimulatedMarket
    symbols: tuple[str, ...]
    later: Path


@dataclass(frozen=True)
class Trade:
    """A line of the printed trades: rupees per share as text."""

    mode: str
    symbol: str
    opened: str
    shares: int
    entry: str


def sauda(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sauda", *arguments]
    return subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
    )


def replay(recorded: Recorded, symbols: Sequence[str]) -> subprocess.CompletedProcess[str]:
    days = ("--from", FIRST.isoformat(), "--to", LAST.isoformat())
    return sauda("replay", "--symbols", ",".join(symbols), *days, "--data-dir", str(recorded.data_dir))


def import_files(data_dir: Path, *files: Path) -> None:
    done = sauda("data", "import", *map(str, files), "--data-dir", str(data_dir))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def recorded() -> Iterator[Recorded]:
    """Four years of daily bars and two days of five-minute bars of the simulated market, as if they were real ones."""
    calendar = load_sessions()
    start = next(i for i, session in enumerate(calendar.all) if session.day >= FIRST)
    end = next(i for i, session in enumerate(calendar.all) if session.day > LAST)
    days = calendar.all[start - SESSIONS_BEFORE : end + SESSIONS_AFTER]
    universe = first_shares(load_universe(), SHARES)
    traded = universe.symbols[:SHARES_TRADED]
    with folder_for_postgres() as folder:
        market = SimulatedMarket(universe, Sessions(days), seed=7, edge=1.0, folder=folder)
        known, later = days[:-SESSIONS_AFTER], days[-SESSIONS_AFTER:]
        daily, intraday, afterwards = folder / "daily.csv", folder / "five-minute.csv", folder / "afterwards.csv"
        write_csv(daily, market, universe.symbols, Interval.DAY_1, known)
        write_csv(intraday, market, traded, Interval.MIN_5, calendar.all[start:end])
        write_csv(afterwards, market, universe.symbols, Interval.DAY_1, later)
        import_files(folder / "data", daily, intraday)
        yield Recorded(folder / "data", market, traded, afterwards)


def trades_in(output: str) -> list[Trade]:
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line.startswith("│")]
    return [Trade(mode, symbol, opened, int(shares), entry) for mode, symbol, opened, shares, entry, *_ in rows]


def test_two_days_are_traded_twice_alike_whatever_came_later(recorded: Recorded) -> None:
    first = replay(recorded, recorded.symbols)
    assert first.returncode == 0, first.stdout + first.stderr

    trained_through = re.search(r"trained through (\d{4}-\d\d-\d\d)", first.stdout)
    assert trained_through, first.stdout
    assert date.fromisoformat(trained_through[1]) == date(2024, 3, 19)

    trades = trades_in(first.stdout)
    filled = [trade for trade in trades if trade.entry]
    assert filled, first.stdout
    assert f"{len(trades)} trades" in first.stdout
    calendar = load_sessions()
    for trade in filled:
        assert trade.symbol in recorded.symbols
        day = calendar.by_day[date.fromisoformat(trade.opened[:10])]
        assert FIRST <= day.day <= LAST
        bars = bars_of(recorded.market, trade.symbol, Interval.MIN_5, [day])
        entry_paise = round(float(trade.entry.replace(",", "")) * 100)
        assert bars.low.min() <= entry_paise <= bars.high.max()

    import_files(recorded.data_dir, recorded.later)
    again = replay(recorded, recorded.symbols)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout == first.stdout


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    lines = (done.stdout + done.stderr).strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_symbol_without_bars_is_named_with_the_command_that_helps(recorded: Recorded) -> None:
    line = refused(replay(recorded, [recorded.symbols[0], "NOSUCH"]))
    assert "NOSUCH" in line
    assert recorded.symbols[0] not in line
    assert "sauda data import" in line


def test_an_empty_folder_is_refused_with_the_command_that_helps(home: Path) -> None:
    days = ("--from", FIRST.isoformat(), "--to", LAST.isoformat())
    line = refused(sauda("replay", *days, "--data-dir", str(home / "data")))
    assert "sauda data import" in line
