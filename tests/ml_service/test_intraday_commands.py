"""`sauda ml train-intraday` and the callable behind it, over real HTTP."""

import asyncio
from collections.abc import Iterator
from datetime import datetime, time, timedelta
from pathlib import Path

import polars as pl
import pytest
from bar_server import IST, BarServer, serving
from minute_server import MinuteServer
from synthetic_market import simulate
from synthetic_minutes import planted, planted_model, simulate_minutes
from typer.testing import CliRunner

from contracts.common import Environment
from ml_service.client import DataServiceError
from ml_service.intraday import train as training
from ml_service.intraday.bars import MinuteClient
from ml_service.intraday.features import STRATEGY
from ml_service.intraday.train import train_and_register
from ml_service.pointers import INTRADAY
from ml_service.registry import Registry
from ml_service.walkforward import TrainingError
from sauda.ml import app

runner = CliRunner()


@pytest.fixture(scope="module")
def server() -> Iterator[MinuteServer]:
    with serving(MinuteServer(planted())) as running:
        assert isinstance(running, MinuteServer)
        yield running


def test_bars_that_came_page_by_page_train_the_same_model_and_it_serves(server: MinuteServer, tmp_path: Path) -> None:
    through = planted_model().manifest["trained_through"]
    arguments = ["train-intraday", "--data-service-url", server.url, "--data-dir", str(tmp_path)]
    result = runner.invoke(app, [*arguments, "--from", "2021-01-04", "--through", through])
    assert result.exit_code == 0, result.output
    registry = Registry(tmp_path)
    artefact = registry.load(registry.current(Environment.SIMULATED)[INTRADAY])
    ours = {"environment", "provider", "git_commit"}
    assert {k: v for k, v in artefact.manifest.items() if k not in ours} == planted_model().manifest
    assert artefact.models[STRATEGY].to_json() == planted_model().models[STRATEGY].to_json()
    assert artefact.version in result.output
    assert "Certified: " in result.output
    assert len(server.calls) > 15
    assert all(call.as_of.date().isoformat() == through for call in server.calls)


def test_by_default_it_learns_up_to_the_day_before_the_present(server: MinuteServer, tmp_path: Path) -> None:
    server.calls.clear()
    artefact, became = train_and_register(data_service_url=server.url, registry=Registry(tmp_path))
    today = server.bars["session"].max()
    assert max(call.through for call in server.calls) == today - timedelta(days=1)
    assert artefact.trained_through < today
    assert became.startswith("promoted")


def test_a_second_training_takes_the_place_of_the_first(server: MinuteServer, tmp_path: Path) -> None:
    registry, days = Registry(tmp_path), planted()["session"].unique().sort()
    first, _ = train_and_register(data_service_url=server.url, registry=registry, through=days[-10])
    second, _ = train_and_register(data_service_url=server.url, registry=registry, through=days[-5])
    slot = registry.slots(Environment.SIMULATED)[INTRADAY]
    assert (slot.current, slot.previous, slot.shadow) == (second.sha256, first.sha256, None)


def test_what_cannot_be_learned_from_registers_nothing(server: MinuteServer, tmp_path: Path) -> None:
    registry, day = Registry(tmp_path), planted()["session"].min()
    with pytest.raises(TrainingError, match="usable sessions"):
        train_and_register(data_service_url=server.url, registry=registry, from_=day, through=day + timedelta(days=60))
    with pytest.raises(TrainingError, match="no bars"):
        train_and_register(data_service_url=server.url, registry=registry, symbols=["OTHER"])
    with pytest.raises(DataServiceError):
        train_and_register(data_service_url="http://127.0.0.1:9", registry=registry)
    assert registry.versions() == []


def test_recorded_bars_are_judged_and_nothing_is_registered(tmp_path: Path) -> None:
    bars = simulate_minutes(0.03, symbols=4, sessions=30)
    opening = pl.col("session").cast(pl.Datetime("us")) + pl.duration(hours=9, minutes=15)
    file = tmp_path / "bars.parquet"
    stamped = bars.with_columns(ts=(opening + pl.duration(minutes="minute")).dt.replace_time_zone(IST.key))
    stamped.drop("session", "minute").write_parquet(file)
    result = runner.invoke(app, ["train-intraday", "--data", str(file), "--data-dir", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "Not judged: " in result.output
    assert "No mode is certified" in result.output
    assert Registry(tmp_path).versions() == []
    file.write_text("no table")
    assert runner.invoke(app, ["train-intraday", "--data", str(file)]).exit_code == 1


def test_the_universe_is_chosen_by_the_first_days_only(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = simulate(0.0, symbols=4, sessions=200)
    days = bars["session"].unique().sort()
    early = pl.col("session") < days[100]
    large = ((pl.col("symbol") == "SIM01") & early) | ((pl.col("symbol") == "SIM02") & ~early)
    volume = pl.when(large).then(pl.col("volume") * 1000).otherwise(pl.col("volume"))
    bars = bars.with_columns(volume)
    monkeypatch.setattr(training, "UNIVERSE_SYMBOLS_MAX", 1)
    as_of = datetime.combine(days[-1], time(23, 59), IST)

    async def chosen(url: str) -> list[str]:
        async with MinuteClient(url, 5.0) as client:
            assert isinstance(client, MinuteClient)
            return await training._universe(client, days[0], as_of)

    with serving(BarServer(bars)) as daily:
        assert asyncio.run(chosen(daily.url)) == ["SIM01"]
