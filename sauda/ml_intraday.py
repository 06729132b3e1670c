"""`sauda ml train-intraday`: train the opening-range strategy on five-minute bars, or judge it on recorded ones."""

from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from polars.exceptions import PolarsError
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as ProgressBar

from ml_service.client import DataServiceError
from ml_service.config import Settings
from ml_service.intraday.bars import read_minutes
from ml_service.intraday.features import STRATEGY
from ml_service.intraday.train import judged, train_and_register
from ml_service.registry import ArtefactError, Registry
from ml_service.walkforward import TrainingError
from sauda.ml_tables import modes_table, print_record, verdict

app = typer.Typer(no_args_is_help=True)
console = Console()

Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"])]


def _day(value: datetime | None) -> date | None:
    return value.date() if value else None


def _fail(error: Exception) -> typer.Exit:
    Console(stderr=True).print(f"[red]{type(error).__name__}[/red]: {escape(str(error))}")
    return typer.Exit(1)


def _print(manifest: dict[str, Any]) -> None:
    strategies = manifest["strategies"]
    if strategies[STRATEGY]["metrics"] is not None:
        print_record(console, STRATEGY, manifest)
        return
    console.print(f"Not judged: {strategies[STRATEGY]['why']}.")
    console.print(modes_table(strategies))
    console.print(verdict(strategies))


@app.command("train-intraday")
def train_intraday(
    data_service_url: Annotated[str | None, typer.Option(help="Default DATA_SERVICE_URL.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Data folder; default DATA_DIR or ./data.")] = None,
    through: Day = None,
    from_: Annotated[datetime | None, typer.Option("--from", formats=["%Y-%m-%d"])] = None,
    symbols: Annotated[list[str] | None, typer.Option(help="Repeat per symbol; default: the most traded.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(exists=True, help="Only judge on this Parquet: symbol, ts (aware), open … close, volume."),
    ] = None,
) -> None:
    """Train the opening-range strategy on five-minute bars up to and including --through, and let it serve."""
    settings = Settings()  # pyright: ignore[reportCallIssue]
    with ProgressBar(console=console, transient=True) as bar:
        task = bar.add_task("reading")

        def progress(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        try:
            if data is not None:
                manifest, said = judged(read_minutes(data), progress), "Nothing was registered."
            else:
                artefact, became = train_and_register(
                    data_service_url=data_service_url or settings.data_service_url,
                    registry=Registry(data_dir or settings.data_dir, settings.model_trusted_keys),
                    through=_day(through),
                    from_=_day(from_),
                    symbols=symbols,
                    progress=progress,
                )
                manifest = artefact.manifest
                said = (
                    f"Model [bold]{artefact.version}[/bold] for the {manifest['environment']} market, "
                    f"{len(manifest['universe'])} symbols, trained through {manifest['trained_through']}. {became}"
                )
        except (TrainingError, DataServiceError, ArtefactError, PolarsError, OSError) as error:
            raise _fail(error) from error
    _print(manifest)
    console.print(said)
