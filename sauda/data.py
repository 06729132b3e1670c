"""`sauda data`: brings bars into the store and says what is in it; works on the files, no service need run."""

from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import polars as pl
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from contracts.market import ADJUSTING_KINDS, Interval
from data_service.config import Settings
from data_service.errors import DataServiceError
from data_service.imports.formats import FACTORS, KINDS
from data_service.imports.load import Imported, import_file
from data_service.ingest import Ingested
from data_service.main import real_clock
from data_service.sessions import Sessions, floor_s, load_sessions
from data_service.store.stores import Stores
from data_service.wiring import open_stores
from sauda import data_fetch

BAD_ROWS_SHOWN_MAX = 20

app = typer.Typer(help="Import or fetch market data, check it, and see what is stored.", no_args_is_help=True)

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="The data folder; DATA_DIR or ./data where it is left out.")
]


def settings_of(data_dir: Path | None) -> Settings:
    """The settings of data_service, with another data folder where one is given."""
    try:
        return Settings(data_dir=data_dir) if data_dir else Settings()
    except ValidationError as error:
        raise typer.BadParameter(
            "; ".join(str(item["msg"]).removeprefix("Value error, ") for item in error.errors())
        ) from error


def _stores(data_dir: Path | None) -> Stores:
    return open_stores(settings_of(data_dir))


def now_s() -> int:
    """The present in seconds since the epoch."""
    return floor_s(real_clock())


def _kind(value: str | None) -> str | None:
    if value is not None and value not in KINDS:
        raise typer.BadParameter(f"one of {', '.join(KINDS)}")
    return value


def _summary(name: str, result: Imported) -> list[str]:
    what = f"{result.kind}{f' {result.interval}' if result.interval else ''}"
    counts = result.result.counts
    lines: list[str] = []
    if result.imported:
        left_out = f", {len(result.bad)} bad rows left out" if result.bad else ""
        lines.append(
            f"{name} ({what}): {counts.new} new, {counts.changed} changed, {counts.unchanged} unchanged{left_out}"
        )
        lines += findings_lines(result.result)
    else:
        lines.append(f"{name} ({what}): nothing imported, {len(result.bad)} bad rows")
    lines += [f"  line {row.line}: {row.reason}" for row in result.bad[:BAD_ROWS_SHOWN_MAX]]
    if len(result.bad) > BAD_ROWS_SHOWN_MAX:
        lines.append(f"  ... and {len(result.bad) - BAD_ROWS_SHOWN_MAX} more")
    if not result.imported:
        lines.append("  Mend the file, or import its good rows with --skip-bad-rows.")
    return lines + [f"  note: {note}" for note in result.notes]


def findings_lines(result: Ingested) -> list[str]:
    """What the quality gate had to say, in lines for a person."""
    lines: list[str] = []
    if result.quarantined:
        lines.append(f"  quarantined: {result.quarantined} bars that are not to be believed")
    if result.counts.outranked:
        lines.append(f"  {result.counts.outranked} bars left as a more trusted source tells them")
    return lines + [f"  found: {count} x {reason}" for reason, count in result.reasons.items()]


def _import_one(
    stores: Stores,
    sessions: Sessions,
    path: Path,
    kind: str | None,
    interval: Interval | None,
    day: date | None,
    skip: bool,
) -> tuple[bool, list[str]]:
    try:
        result = import_file(
            stores, sessions, path, now_s=now_s(), kind=kind, interval=interval, said_on=day, skip_bad_rows=skip
        )
    except (DataServiceError, OSError) as error:
        return False, [f"{path.name}: nothing imported: {error}"]
    return result.imported, _summary(path.name, result)


@app.command("import")
def import_command(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Bars, bhavcopies, corporate actions or instruments: CSV or Parquet, plain, .gz or .zip."),
    ] = None,
    factors: Annotated[
        list[Path] | None, typer.Option("--factors", help="Splits and bonuses: symbol, exDate, factor.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(callback=_kind, help=f"Layout, else seen from the content: {', '.join(KINDS)}.")
    ] = None,
    interval: Annotated[Interval | None, typer.Option(help="Bar length, else seen from the content.")] = None,
    day: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Day of a list of instruments; today where left out.")
    ] = None,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Import the good rows of a bad file.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Import files into the store. Importing again changes nothing; later values replace earlier ones."""
    work = [(path, kind) for path in files or []] + [(path, FACTORS) for path in factors or []]
    if not work:
        raise typer.BadParameter("name at least one file")
    console = Console(highlight=False)
    stores, sessions = _stores(data_dir), load_sessions()
    failed = False
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("Importing", total=len(work))
        for path, layout in work:
            progress.update(task, description=escape(path.name))
            done, lines = _import_one(
                stores, sessions, path, layout, interval, day.date() if day else None, skip_bad_rows
            )
            failed = failed or not done
            progress.console.print("\n".join(lines), markup=False, soft_wrap=True)
            progress.advance(task)
    if failed:
        raise typer.Exit(1)


@app.command()
def status(data_dir: DataDir = None) -> None:
    """What is stored: per interval the symbols, days, rows and size."""
    console = Console(highlight=False)
    stores = _stores(data_dir)
    try:
        held, actions = stores.bars.status(), stores.facts.actions()
    except DataServiceError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    if not held and actions.is_empty():
        console.print(f"Nothing is stored in {stores.facts.folder}: use `sauda data import FILE`.", soft_wrap=True)
        return
    table = Table("interval", "symbols", "from", "through", "rows", "MB")
    for row in held:
        size = "" if row.size_bytes is None else f"{row.size_bytes / 1e6:.1f}"
        table.add_row(row.interval, str(row.symbols), str(row.from_), str(row.through), f"{row.rows:,}", size)
    console.print(table)
    adjusting = actions.filter(pl.col("kind").is_in(ADJUSTING_KINDS))
    console.print(
        f"{len(actions)} corporate actions of {actions['symbol'].n_unique()} symbols, "
        f"{len(adjusting)} of them splits and bonuses"
    )


@app.command()
def backfill(
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First session day.")],
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last session day; today where left out.")
    ] = None,
    symbols: Annotated[
        str, typer.Option(help="Symbols with commas, or a universe: default, nifty50, listed.")
    ] = "default",
    interval: Annotated[Interval, typer.Option(help="Bar length.")] = Interval.DAY_1,
    data_dir: DataDir = None,
) -> None:
    """Fetch what is lacking from the configured providers. Stop it any time: the next run goes on where it was."""
    settings, console = settings_of(data_dir), Console(highlight=False)
    try:
        complete = data_fetch.run_backfill(
            settings, console, symbols, interval, first.date(), last.date() if last else None
        )
    except (DataServiceError, OSError) as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    if not complete:
        raise typer.Exit(1)


@app.command()
def verify(
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Take out of the store what is not to be believed.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Judge everything that is stored again: by today's calendar, corporate actions and rules."""
    console = Console(highlight=False)
    try:
        sound = data_fetch.run_verify(_stores(data_dir), console, now_s(), quarantine=quarantine)
    except (DataServiceError, OSError) as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    if not sound:
        raise typer.Exit(1)
