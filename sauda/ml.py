"""`sauda ml`: train models and judge them; what is registered is in ml_registry.py."""

import json
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress as ProgressBar
from rich.table import Table

from contracts.predictions import HORIZON_SESSIONS_DEFAULT
from ml_service.client import DataServiceError
from ml_service.config import Settings
from ml_service.evaluate import evaluate as evaluate_bars
from ml_service.evaluate import read_daily
from ml_service.train import TRAIN_FROM_DEFAULT, UNIVERSE_SYMBOLS_MAX, train_and_register
from ml_service.walkforward import TrainingError
from sauda import ml_registry

app = typer.Typer(no_args_is_help=True, help="Train, judge and inspect prediction models.")
console = Console()

Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"])]
DataDir = Annotated[Path | None, typer.Option(help="Data folder; default DATA_DIR or ./data.")]


def _settings() -> Settings:
    return Settings()  # pyright: ignore[reportCallIssue]


def _day(value: datetime | None) -> date | None:
    return value.date() if value else None


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _interval(value: dict[str, float | None] | None) -> str:
    if value is None:
        return "–"
    return f"{_percent(value['mean'])} [{_percent(value['low'])}, {_percent(value['high'])}]"


def events_table(metrics: dict[str, Any]) -> Table:
    """Scores per event over the out-of-sample rows."""
    title = f"Out of sample: {metrics['rows']} rows, {metrics['sessions']} sessions, rank IC {metrics['rank_ic']:.3f}"
    table = Table("event", "base rate", "AUC", "Brier", "skill vs trailing base rate", "ECE raw → Platt", title=title)
    for name, event in metrics["events"].items():
        table.add_row(
            name,
            _percent(event["base_rate"]),
            f"{event['auc']:.3f}",
            f"{event['brier']:.4f}",
            f"{event['brier_skill']:+.4f}",
            f"{event['ece_raw']:.3f} → {event['ece']:.3f}",
        )
    return table


def modes_table(modes: dict[str, dict[str, Any]]) -> Table:
    """What each mode would have taken out of sample, and whether that is evidence enough."""
    table = Table("mode", "candidates", "episodes", "stated", "hit rate [95 %]", "net per trade [95 %]", "verdict")
    for name, mode in modes.items():
        table.add_row(
            name,
            str(mode["candidates"]),
            str(mode["episodes"]),
            _percent(mode.get("stated")),
            _interval(mode.get("hit_rate")),
            _interval(mode.get("net")),
            mode["verdict"],
        )
    return table


def rules_table(rules: dict[str, dict[str, Any]]) -> Table:
    """How the plan ended after each rule fired, whatever the model said."""
    table = Table("rule", "candidates", "episodes", "profitable [95 %]", "net per trade [95 %]")
    for name, rule in rules.items():
        profitable, net = _interval(rule.get("profitable")), _interval(rule.get("net"))
        table.add_row(name, str(rule["candidates"]), str(rule["episodes"]), profitable, net)
    return table


def verdict(modes: dict[str, dict[str, Any]]) -> str:
    """One honest sentence."""
    certified = [name for name, mode in modes.items() if mode["certified"]]
    if not certified:
        return "No mode is certified: predictions will say insufficient_evidence and nothing will be bought."
    return f"Certified for {', '.join(certified)}. Past results; the next market may be another."


def _print_record(record: dict[str, Any]) -> None:
    for table in (events_table(record["metrics"]), modes_table(record["modes"]), rules_table(record["rules"])):
        console.print(table)
    console.print(verdict(record["modes"]))


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
    promote: Annotated[bool, typer.Option(help="Make the model current.")] = True,
) -> None:
    """Train on bars up to and including --through (default: the day before the market's present) and register."""
    settings = _settings()
    with ProgressBar(console=console, transient=True) as bar:
        task = bar.add_task("training")
        try:
            artefact = train_and_register(
                data_service_url=data_service_url or settings.data_service_url,
                data_dir=data_dir or settings.data_dir,
                through=_day(through),
                from_=_day(from_) or TRAIN_FROM_DEFAULT,
                symbols=symbols,
                horizon=horizon,
                promote=promote,
                progress=lambda done, total, what: bar.update(task, completed=done, total=total, description=what),
            )
        except (TrainingError, DataServiceError) as error:
            raise _fail(error) from error
    manifest = artefact.manifest
    _print_record(manifest)
    state = "current" if promote else "registered, not current"
    console.print(
        f"Model [bold]{artefact.version}[/bold] ({state}) for the {manifest['environment']} market, "
        f"{len(manifest['universe'])} symbols, trained through {manifest['trained_through']}."
    )


@app.command()
def evaluate(
    data: Annotated[Path, typer.Option(exists=True, help="Parquet: symbol, date, open_p … close_p (paise), volume.")],
    factors: Annotated[Path, typer.Option(exists=True, help="CSV: symbol, exDate, factor.")],
    from_: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First signal judged.")],
    to: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="Last session read.")],
    horizon: Annotated[int, typer.Option(min=1, max=60)] = HORIZON_SESSIONS_DEFAULT,
    symbols_max: Annotated[int, typer.Option(min=5, max=UNIVERSE_SYMBOLS_MAX)] = UNIVERSE_SYMBOLS_MAX,
    json_: Annotated[Path | None, typer.Option("--json", help="Also write the record here.")] = None,
) -> None:
    """Walk the model's logic forward over recorded daily bars and print how it did; nothing is registered."""
    try:
        with ProgressBar(console=console, transient=True) as bar:
            task = bar.add_task("walking forward")
            record = evaluate_bars(
                read_daily(data, factors, to.date(), symbols_max),
                from_.date(),
                horizon,
                lambda done, total, what: bar.update(task, completed=done, total=total, description=what),
            )
    except TrainingError as error:
        raise _fail(error) from error
    _print_record(record)
    if json_:
        json_.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


app.add_typer(ml_registry.app)
