"""`sauda ml evaluate` reads years and shares it has never seen, and says in one line what it cannot read."""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import Result
from quick_training import few_trees
from rich.console import Console
from synthetic_market import business_days, simulate
from typer.testing import CliRunner

from contracts.predictions import HORIZON_SESSIONS_DEFAULT
from ml_service.evaluate import read_daily
from ml_service.labels import EVENTS
from ml_service.model import STRATEGY
from ml_service.strategies import STRATEGIES
from ml_service.walkforward import TrainingError
from sauda.ml import app

runner = CliRunner()
PRICES = ("open", "high", "low", "close")
SESSIONS = 760
DAYS = business_days(date(2031, 1, 1), SESSIONS)
SPLIT_DAY = DAYS[350]
SPLIT, VANISHED, MISSING = "SIM01", "SIM04", "SIM02"
HOLES = [DAYS[300], DAYS[301], DAYS[700]]
FROM, TO = DAYS[640], DAYS[-1]


def market() -> pl.DataFrame:
    """Five shares in years that no recorded file has."""
    bars = simulate(1.0, symbols=5, sessions=SESSIONS, seed=31)
    days = dict(zip(bars["session"].unique().sort(), DAYS, strict=True))
    return bars.with_columns(pl.col("session").replace_strict(days, return_dtype=pl.Date))


def recorded() -> pl.DataFrame:
    """The market as an exchange records it: paise, before a split of one share in two, a share that is delisted, and
    days without a price (−1)."""
    before = pl.when((pl.col("symbol") == SPLIT) & (pl.col("session") < SPLIT_DAY)).then(2.0).otherwise(1.0)
    paise = {f"{name}_p": (pl.col(name) * before * 100).round().cast(pl.Int32) for name in PRICES}
    hole = (pl.col("symbol") == MISSING) & pl.col("date").is_in(HOLES)
    return (
        market()
        .filter((pl.col("symbol") != VANISHED) | (pl.col("session") < DAYS[650]))
        .select("symbol", date="session", **paise, volume=(pl.col("volume") / before).cast(pl.Int64))
        .with_columns(pl.when(hole).then(-1).otherwise("high_p").cast(pl.Int32).alias("high_p"))
        .sort("date", "symbol")
    )


def earlier(sessions: int = 300) -> pl.DataFrame:
    """The years before, in rupees of another scale, of two of the shares and one that is gone; the last one holds a
    flat bar without volume that is no session."""
    bars = simulate(1.0, symbols=3, sessions=sessions, seed=32)
    names = {"SIM00": "SIM00", "SIM01": "GONE", "SIM02": "SIM02"}
    days = dict(zip(bars["session"].unique().sort(), business_days(date(2029, 6, 1), sessions), strict=True))
    return bars.select(
        pl.col("symbol").replace_strict(names),
        date=pl.col("session").replace_strict(days, return_dtype=pl.Date),
        **{name: (pl.col(name) / 7).cast(pl.Float32) for name in PRICES},
        volume=pl.col("volume").cast(pl.Int64),
    ).with_columns(pl.when(pl.col("date") == days[max(days)]).then(0).otherwise("volume").alias("volume"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("recorded")
    paths = {"data": folder / "daily.parquet", "factors": folder / "factors.csv", "history": folder / "before.parquet"}
    recorded().write_parquet(paths["data"])
    earlier().write_parquet(paths["history"])
    paths["factors"].write_text(
        "symbol,exDate,factor,kind\n"
        f"{SPLIT},{SPLIT_DAY},0.5,split 2->1\n"
        "NEVERLISTED,2030-05-06,0.1,split 10->1\n"
        f"{SPLIT},2099-01-04,0.01,not yet\n"
    )
    return paths


def judged(files: dict[str, Path], data_dir: Path, *more: str, **instead: Path | date) -> Result:
    options = {"from": FROM, "to": TO, **{name: path for name, path in files.items() if name != "history"}, **instead}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with few_trees(), pytest.MonkeyPatch.context() as patch:
        # A test runner may have set a narrow terminal before the commands were imported.
        patch.setattr("sauda.ml.console", Console(width=220))
        return runner.invoke(app, ["evaluate", *words, "--data-dir", str(data_dir), *more], env={"COLUMNS": "220"})


@pytest.fixture(scope="module")
def record(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a whole run printed and wrote."""
    folder = tmp_path_factory.mktemp("whole")
    done = judged(files, folder, "--json", str(folder / "record.json"))
    assert done.exit_code == 0, done.output
    left = [path for path in folder.rglob("*") if path.is_file()]
    assert left == [folder / "record.json"], "nothing is registered and no fold is left behind"
    return json.loads((folder / "record.json").read_text()) | {"printed": done.stdout}


def test_a_handful_of_shares_in_later_years_is_judged(record: dict[str, Any]) -> None:
    assert record["symbols"] == 5
    assert record["from"] == FROM.isoformat()
    assert record["horizon_sessions"] == HORIZON_SESSIONS_DEFAULT
    assert set(record["strategies"]) == {one.name for one in STRATEGIES}
    metrics = record["strategies"][STRATEGY]["metrics"]
    assert record["metrics"] == metrics
    assert set(metrics["events"]) == set(EVENTS)
    assert 100 < metrics["rows"] < 5 * 120
    ended = SESSIONS - 640 - HORIZON_SESSIONS_DEFAULT
    assert 0.9 * ended < metrics["sessions"] <= ended, "sessions whose plans are over"
    for event in metrics["events"].values():
        assert 0 < event["base_rate"] < 1
        assert event["brier_skill"] == pytest.approx(1 - event["brier"] / event["base_brier"], abs=1e-6)
        assert sum(one["count"] for one in event["reliability"]) == metrics["rows"]
    assert record["baselines"]["every row"]["trades"] == metrics["rows"]
    assert isinstance(record["baselines"]["buy and hold"]["cagr"], float)
    assert set(record["filters"]) >= {"conservative", "moderate", "aggressive"}


def test_the_record_is_printed(record: dict[str, Any]) -> None:
    printed = record["printed"]
    for word in (*EVENTS, *(one.name for one in STRATEGIES), "conservative", "buy and hold", "rank IC", "verdict"):
        assert word in printed
    assert "No mode is certified" in printed, "six months of five shares prove nothing"
    assert f"{record['metrics']['events']['net_profit']['auc']:.3f}" in printed


def test_history_is_trained_on_and_is_another_record(
    files: dict[str, Path], record: dict[str, Any], tmp_path: Path
) -> None:
    done = judged(files, tmp_path, "--history", str(files["history"]), "--json", str(tmp_path / "record.json"))
    assert done.exit_code == 0, done.output
    longer = json.loads((tmp_path / "record.json").read_text())
    assert longer["metrics"]["rows"] > record["metrics"]["rows"] - 50
    assert longer["metrics"]["events"]["net_profit"]["auc"] != record["metrics"]["events"]["net_profit"]["auc"]


def closes(bars: pl.DataFrame, symbol: str) -> dict[date, float]:
    return dict(bars.filter(symbol=symbol).select("session", "close").iter_rows())


def test_prices_are_adjusted_and_days_without_one_left_out(files: dict[str, Path]) -> None:
    bars = read_daily(files["data"], files["factors"], TO)
    true = market()
    for symbol in ("SIM00", SPLIT, "SIM03"):
        found, wanted = closes(bars, symbol), closes(true, symbol)
        assert found.keys() == wanted.keys()
        assert max(abs(found[day] / wanted[day] - 1) for day in wanted) < 1e-4
    turnover = {
        name: frame.filter(symbol=SPLIT).select(pl.col("close") * pl.col("volume")).to_series().to_numpy()
        for name, frame in (("read", bars), ("true", true))
    }
    np.testing.assert_allclose(turnover["read"], turnover["true"], rtol=1e-4)
    assert closes(true, MISSING).keys() - closes(bars, MISSING).keys() == set(HOLES)
    assert max(closes(bars, VANISHED)) == DAYS[649]
    assert bars.select(pl.min_horizontal(PRICES).min()).item() > 0


def test_nothing_after_the_last_session_read_is_used(files: dict[str, Path]) -> None:
    before_split = read_daily(files["data"], files["factors"], DAYS[349])
    assert before_split["session"].max() == DAYS[349]
    assert closes(before_split, SPLIT)[DAYS[10]] == pytest.approx(2 * closes(market(), SPLIT)[DAYS[10]], rel=1e-4)


def test_history_is_brought_to_the_scale_of_what_follows(files: dict[str, Path]) -> None:
    bars = read_daily(files["data"], files["factors"], TO, files["history"])
    own = bars.filter(symbol="SIM00").sort("session")
    joint = int((own["session"] < DAYS[0]).sum())
    assert joint == 299, "the flat bar without volume is no session"
    assert own["close"][joint - 1] == pytest.approx(own["open"][joint], rel=1e-4)
    moves = own.head(joint)["close"].pct_change().drop_nulls()
    before = earlier().filter((pl.col("symbol") == "SIM00") & (pl.col("volume") > 0)).sort("date")
    np.testing.assert_allclose(moves, before["close"].cast(pl.Float64).pct_change().drop_nulls(), atol=1e-5)
    assert bars.filter(symbol="GONE").height == 299, "a share that did not go on is kept as it was"


def without(column: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: frame.drop(column)


@pytest.mark.parametrize(
    ("changed", "content", "says"),
    [
        ("data", without("low_p"), "low_p"),
        ("data", without("date"), "date"),
        ("data", lambda frame: frame.with_columns(pl.col("date").cast(pl.String)), "layout"),
        ("data", b"symbol,date,open_p\n", "layout"),
        ("factors", b"symbol,day,factor\nSIM00,2031-01-01,0.5\n", "exDate"),
        ("factors", b"symbol,exDate,factor\nSIM00,2031-01-06,half\n", "layout"),
        ("factors", b"", "layout"),
        ("history", without("volume"), "volume"),
        ("history", b"PAR1", "layout"),
    ],
)
def test_a_file_of_another_layout_is_refused_in_one_line(
    files: dict[str, Path],
    tmp_path: Path,
    changed: str,
    content: bytes | Callable[[pl.DataFrame], pl.DataFrame],
    says: str,
) -> None:
    bad = tmp_path / files[changed].name
    if isinstance(content, bytes):
        bad.write_bytes(content)
    else:
        content(pl.read_parquet(files[changed])).write_parquet(bad)
    paths = {"history": files["history"]} if changed == "history" else {}
    refused = judged(files, tmp_path, **{**paths, changed: bad})
    assert refused.exit_code == 1
    assert refused.stderr.startswith("TrainingError: ")
    assert says in refused.stderr
    assert "Traceback" not in refused.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"from": date(2040, 1, 1)}, "no out-of-sample prediction falls into these dates"),
        ({"to": date(2030, 12, 31)}, "holds no bar"),
        ({"to": DAYS[500]}, "usable sessions"),
        ({"to": DAYS[100]}, "0 usable sessions"),
    ],
)
def test_dates_that_hold_nothing_are_refused(
    files: dict[str, Path], tmp_path: Path, options: dict[str, date], says: str
) -> None:
    refused = judged(files, tmp_path, **options)
    assert refused.exit_code == 1
    assert refused.stderr.startswith("TrainingError: ")
    assert says in refused.stderr


def test_a_missing_file_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    refused = judged(files, tmp_path, data=tmp_path / "absent.parquet")
    assert refused.exit_code == 2
    assert "does not exist" in refused.stderr
    with pytest.raises(TrainingError, match="layout"):
        read_daily(files["factors"], files["factors"], TO)
