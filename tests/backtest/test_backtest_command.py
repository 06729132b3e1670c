"""`sauda backtest`: its options are the API's request, and what cannot be done is one line and exit status 2."""

from datetime import date
from decimal import Decimal, DivisionUndefined, InvalidOperation
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from backend.backtest.request import Rules, asked_of
from backend.backtest.spec import Proceeds
from backend.domain.market import Product
from backend.domain.modes import Mode
from contracts.common import Environment
from contracts.market import Interval
from sauda import __main__ as command_line
from sauda import backtest
from sauda.backtest_files import report_name, require_writable
from sauda.backtest_request import body_of, swept
from sauda.backtest_stack import environment_of
from sauda.embedded import hold_folder

DAYS = ("--from", "2023-01-01", "--to", "2023-12-31")


def options(**changes: Any) -> dict[str, Any]:
    given = {
        "modes": [Mode.MODERATE],
        "first": date(2023, 1, 1),
        "last": date(2023, 12, 31),
        "universe": "nifty50",
        "capital": "500000",
        "interval": Interval.DAY_1,
        "product": Product.CNC,
        "strategies": "",
        "slippage_bps": 2.0,
        "participation": "0.1",
        "latency_bars": 0,
        "proceeds": Proceeds.AT_ONCE,
        "model": "walk_forward",
        "sweep": [],
    }
    return given | changes


def test_each_option_reaches_the_engine() -> None:
    body = body_of(
        **options(
            modes=[Mode.MODERATE, Mode.AGGRESSIVE],
            universe="reliance,m&m",
            capital="123456.78",
            interval=Interval.MIN_5,
            product=Product.MIS,
            strategies="momentum, pullback",
            slippage_bps=2.5,
            participation="0.05",
            latency_bars=3,
            proceeds=Proceeds.SETTLED,
            model="2026-02-27",
        )
    )
    asked = asked_of(body.stored(7), Rules())
    spec = asked.spec
    assert [(t.name, t.mode) for t in spec.traders] == [("moderate", Mode.MODERATE), ("aggressive", Mode.AGGRESSIVE)]
    for trader in spec.traders:
        assert (trader.capital, trader.product, trader.entries_per_day_max) == (Decimal("123456.78"), Product.MIS, 7)
        assert trader.strategies == {"momentum", "pullback"}
    assert (spec.first, spec.last, spec.interval) == (date(2023, 1, 1), date(2023, 12, 31), Interval.MIN_5)
    assert (spec.fills.slippage, spec.fills.participation) == (Decimal("0.00025"), Decimal("0.05"))
    assert (spec.latency_bars, spec.proceeds) == (3, Proceeds.SETTLED)
    assert (asked.universe, asked.model) == ("RELIANCE,M&M", "2026-02-27")


def test_a_sweep_is_read_as_the_api_takes_it() -> None:
    texts = [
        "mode=moderate,aggressive",
        "strategies=all,momentum+pullback",
        "latency_bars=0",
        "slippage_fraction=0,0.01",
    ]
    assert swept(texts) == {
        "mode": ["moderate", "aggressive"],
        "strategies": [[], ["momentum", "pullback"]],
        "latency_bars": [0],
        "slippage_fraction": ["0", "0.01"],
    }
    asked = asked_of(body_of(**options(sweep=texts)).stored(7), Rules())
    assert len(list(asked.combinations())) == 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from", "2023-02-01", "--to", "2023-01-01"), "from must not be after to"),
        ((*DAYS, "--capital", "much"), "traders.0.capital"),
        ((*DAYS, "--universe", "top:900"), "1 to 200 shares"),
        ((*DAYS, "--sweep", "funds=1,2"), "there is no such parameter; there are mode, strategies"),
        ((*DAYS, "--sweep", "mode=moderate", "--sweep", "mode=aggressive"), "is given twice"),
        ((*DAYS, "--sweep", "mode"), "give the values as mode=V1,V2"),
        ((*DAYS, "--mode", "moderate", "--mode", "moderate"), "two traders have one name"),
        ((*DAYS, "--latency-bars", "1"), "with daily bars it must be 0"),
        ((*DAYS, "--environment", "live"), "choose paper or simulated"),
        ((*DAYS, "--environment", "paper"), "load them with `sauda data import FILE`"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    reply = CliRunner().invoke(command_line.app, ["backtest", *arguments, "--data-dir", str(tmp_path)])
    assert reply.exit_code == 2, reply.output
    assert said in reply.output
    assert len(reply.output.strip().splitlines()) == 1
    assert reply.output.startswith("The backtest cannot be done: ")


def test_a_folder_in_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with hold_folder(tmp_path / "backtests"):
        reply = CliRunner().invoke(command_line.app, ["backtest", *DAYS, "--data-dir", str(tmp_path)])
    assert reply.exit_code == 2
    assert "another Sauda runs on" in reply.output


@pytest.mark.parametrize("option", ["--out", "--json"])
def test_where_nothing_can_be_written_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "report"):
        reply = CliRunner().invoke(
            command_line.app, ["backtest", *DAYS, option, str(path), "--data-dir", str(tmp_path / "data")]
        )
        assert (reply.exit_code, len(reply.output.strip().splitlines())) == (2, 1), reply.output
        assert f"{option} {path} cannot be written" in reply.output
    assert not (tmp_path / "data").exists()
    both = ["--out", str(tmp_path / "one"), "--json", str(tmp_path / "one")]
    reply = CliRunner().invoke(command_line.app, ["backtest", *DAYS, *both, "--data-dir", str(tmp_path / "data")])
    assert "give two paths" in reply.output


def test_trying_a_path_leaves_it_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "old.html").write_text("kept")
    require_writable("--out", tmp_path / "old.html")
    require_writable("--out", tmp_path / "new" / "one.html")
    assert (tmp_path / "old.html").read_text() == "kept"
    assert list((tmp_path / "new").iterdir()) == []


def test_each_backtest_has_a_report_of_its_own() -> None:
    def name(market: Environment = Environment.PAPER, **changes: Any) -> str:
        return report_name(asked_of(body_of(**options(**changes)).stored(7), Rules()), market)

    assert name().startswith("moderate-nifty50-2023-01-01-2023-12-31-")
    assert name() == name()
    assert name(sweep=["mode=moderate,aggressive"]).startswith("sweep-mode-nifty50-")
    assert name(universe="A,B,C,D").startswith("moderate-4-shares-")
    assert name(universe="top:20").startswith("moderate-top20-")
    others = [
        name(Environment.SIMULATED),
        name(universe="A,B,C,D"),
        name(universe="A,B,C,E"),
        name(capital="1000"),
        name(slippage_bps=3.0),
        name(modes=[Mode.MODERATE, Mode.AGGRESSIVE]),
        name(sweep=["mode=moderate,aggressive"]),
        name(sweep=["mode=moderate,conservative"]),
        name(model="2026-02-27"),
    ]
    assert len({*others, name()}) == len(others) + 1


def test_a_fault_of_its_own_is_one_line_and_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    def broken(*_: Any) -> bool:
        raise InvalidOperation([DivisionUndefined])

    monkeypatch.setattr(backtest, "_backtest", broken)
    reply = CliRunner().invoke(
        command_line.app, ["backtest", *DAYS, "--environment", "simulated", "--data-dir", str(tmp_path)]
    )
    assert (reply.exit_code, len(reply.output.strip().splitlines())) == (2, 1), reply.output
    log_file = tmp_path / "backtests" / "logs" / "backtest.log"
    assert reply.output.startswith("The backtest broke off: InvalidOperation: ")
    assert reply.output.strip().endswith(str(log_file))
    assert "raise InvalidOperation" in log_file.read_text()


def test_recorded_bars_come_before_the_simulated_market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INFLUXDB_URL", raising=False)
    console = Console(record=True, width=200)
    assert environment_of(tmp_path, None, console) is Environment.SIMULATED
    assert "this is the simulated market" in console.export_text()
    bars = tmp_path / "market" / "recorded" / "bars" / "bars-1d-2023.parquet"
    bars.parent.mkdir(parents=True)
    (bars.parent / "actions.parquet").touch()
    assert environment_of(tmp_path, None, console) is Environment.SIMULATED
    console.export_text()
    bars.touch()
    assert environment_of(tmp_path, None, console) is Environment.PAPER
    assert environment_of(tmp_path, Environment.SIMULATED, console) is Environment.SIMULATED
    assert console.export_text() == ""
