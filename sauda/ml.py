"""`sauda ml`: train models and judge them; what is registered is in ml_registry.py."""

import json
from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress as ProgressBar

from contracts.predictions import HORIZON_SESSIONS_DEFAULT
from ml_service.checkpoint import FolderCheckpoint
from ml_service.client import DataServiceError
from ml_service.config import Settings
from ml_service.evaluate import evaluate as evaluate_bars
from ml_service.evaluate import read_daily
from ml_service.predict import Ages
from ml_service.registry import ArtefactError, Registry
from ml_service.train import TRAIN_FROM_DEFAULT, run_key, train_and_register
from ml_service.walkforward import TrainingError
from sauda import ml_intraday, ml_registry
from sauda.ml_tables import print_record

app = typer.Typer(no_args_is_help=True, help="Train, judge and inspect prediction models.")
console = Console()

Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"])]
DataDir = Annotated[Path | None, typer.Option(help="Data folder; default DATA_DIR or ./data.")]


def _settings() -> Settings:
    return Settings()  # pyright: ignore[reportCallIssue]


def _day(value: datetime | None) -> date | None:
    return value.date() if value else None


def _fail(error: Exception) -> typer.Exit:
    Console(stderr=True).print(f"[red]{type(error).__name__}[/red]: {error}")
    return typer.Exit(1)


@app.command()
def train(
    data_service_url: Annotated[str | None, typer.Option(help="Default DATA_SERVICE_URL.")] = None,
    data_dir: DataDir = None,
    through: Day = None,
    from_: Annotated[datetime | None, typer.Option("--from", formats=["%Y-%m-%d"])] = None,
    symbols: Annotated[list[str] | None, typer.Option(help="Repeat per symbol; default: the most traded.")] = None,
    horizon: Annotated[int, typer.Option(min=1, max=60, help="Sessions until the time exit.")] = (
        HORIZON_SESSIONS_DEFAULT
    ),
    promote: Annotated[
        bool,
        typer.Option("--promote", help="Serve the model at once, without the rules' trial beside the current one."),
    ] = False,
) -> None:
    """Train on bars up to and including --through (default: the day before the market's present) and register."""
    settings = _settings()
    with ProgressBar(console=console, transient=True) as bar:
        task = bar.add_task("training")
        try:
            artefact, became = train_and_register(
                data_service_url=data_service_url or settings.data_service_url,
                registry=Registry(data_dir or settings.data_dir, settings.model_trusted_keys),
                ages=None if promote else Ages(settings.model_age_days_max, settings.calibration_age_days_max),
                through=_day(through),
                from_=_day(from_) or TRAIN_FROM_DEFAULT,
                symbols=symbols,
                horizon=horizon,
                progress=lambda done, total, what: bar.update(task, completed=done, total=total, description=what),
            )
        except (TrainingError, DataServiceError, ArtefactError) as error:
            raise _fail(error) from error
    manifest = artefact.manifest
    print_record(console, manifest["strategy"], manifest)
    console.print(
        f"Model [bold]{artefact.version}[/bold] for the {manifest['environment']} market, "
        f"{len(manifest['universe'])} symbols, trained through {manifest['trained_through']}. {became}"
    )


@app.command()
def evaluate(
    data: Annotated[Path, typer.Option(exists=True, help="Parquet: symbol, date, open_p … close_p (paise), volume.")],
    factors: Annotated[Path, typer.Option(exists=True, help="CSV: symbol, exDate, factor.")],
    from_: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First signal judged.")],
    to: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="Last session read.")],
    history: Annotated[
        Path | None,
        typer.Option(exists=True, help="Earlier years to train on (Parquet: symbol, date, open … close, volume)."),
    ] = None,
    horizon: Annotated[int, typer.Option(min=1, max=60)] = HORIZON_SESSIONS_DEFAULT,
    json_: Annotated[Path | None, typer.Option("--json", help="Also write the record here.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Walk the strategies forward over recorded daily bars and print how they did; nothing is registered.

    Bars before --from only train. A run that was stopped continues from its last finished fold.
    """
    try:
        with ProgressBar(console=console, transient=True) as bar:
            task = bar.add_task("reading")
            bars = read_daily(data, factors, to.date(), history)
            kept = FolderCheckpoint(
                (data_dir or _settings().data_dir) / "models" / f".evaluating-{run_key(bars, horizon)}"
            )
            record = evaluate_bars(
                bars,
                from_.date(),
                horizon,
                lambda done, total, what: bar.update(task, completed=done, total=total, description=what),
                kept,
            )
    except TrainingError as error:
        raise _fail(error) from error
    kept.clear()
    print_record(console, record["strategy"], record)
    if json_:
        json_.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


app.add_typer(ml_registry.app)
app.add_typer(ml_intraday.app)
