"""`sauda replay`: the whole stack over recorded bars, tick by tick, with the market's clock in hand."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backend import log
from backend.config import Settings
from backend.domain.calendar import IST, Session
from backend.domain.market import StockClass
from backend.domain.modes import Mode
from backend.main import Wired, wire
from backend.services.auto_trading_service import run_cycle
from backend.services.end_of_day_service import end_of_day
from backend.services.outbox_service import deliver
from backend.services.reconcile_service import reconcile
from contracts.common import Environment
from sauda.embedded import DataFolderError, EmbeddedPostgres, create_database, hold_folder, migrate, service_url
from sauda.private_services import private_services
from sauda.processes import ServiceFailedError, stop_all
from sauda.replay_alone import lift_day_losses, without_rates
from sauda.replay_report import Report, as_json, print_report, read_cash, read_orders, read_trades
from sauda.replay_setup import ReplayError, create_users, require_bars, train_before

DATABASE = "sauda_replay"
INTERVAL_S = 300
"""Recorded intraday bars are five minutes long: a tick as each one ends."""

DEFAULT_SYMBOLS = "RELIANCE,TCS,INFY,HDFCBANK,ICICIBANK"


@dataclass(slots=True)
class Tally:
    """What the ticks reported: denials of users and rejected signals by reason, and batches that did not come."""

    ticks: int = 0
    denied: dict[str, int] = field(default_factory=dict[str, int])
    rejected: dict[str, int] = field(default_factory=dict[str, int])
    problems: int = 0


def replay(
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day.")],
    last: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day.")],
    symbols: Annotated[str, typer.Option(help="Symbols, separated by commas.")] = DEFAULT_SYMBOLS,
    speed: Annotated[str, typer.Option(help="Market seconds per real second, or max.")] = "max",
    capital: Annotated[int, typer.Option(min=1000, help="Rupees of each mode's paper account.")] = 500_000,
    data_dir: Annotated[Path, typer.Option(help="Folder of the imported bars.")] = Path("data"),
    verbose: Annotated[bool, typer.Option(help="Print every cycle, not only the trades.")] = False,
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write trades, orders and fills here.")] = None,
) -> None:
    """Trade recorded days as if they were now: one user per mode, models trained only through the day before.

    Exit status 0: every tick ran; 1: some did without quotes or predictions; 2: it could not start.
    """
    console = Console()
    wanted = [symbol.strip().upper() for symbol in symbols.split(",") if symbol.strip()]
    pace = _pace(speed)
    try:
        with (
            hold_folder(data_dir.resolve() / "replay"),
            _stack(data_dir.resolve(), wanted, first.date(), last.date(), console) as (database_url, services),
        ):
            report = asyncio.run(
                walk(database_url, services, wanted, (first.date(), last.date()), capital, pace, verbose, console)
            )
    except (ReplayError, DataFolderError, ServiceFailedError) as error:
        console.print(f"[red]The replay cannot start:[/] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    print_report(report, console)
    if json_out is not None:
        json_out.write_text(json.dumps(as_json(report), indent=1) + "\n", "utf-8")
    raise typer.Exit(1 if report.problems else 0)


def _pace(speed: str) -> float | None:
    """Market seconds per real second; None is as fast as it goes."""
    if speed == "max":
        return None
    try:
        pace = float(speed)
    except ValueError:
        pace = 0.0
    if not 0 < pace < float("inf"):
        raise typer.BadParameter("a positive number or max", param_hint="--speed")
    return pace


@contextmanager
def _stack(
    data_dir: Path, symbols: list[str], first: date, last: date, console: Console
) -> Iterator[tuple[str, dict[str, str]]]:
    """PostgreSQL with a fresh database, data_service on the recorded bars, and ml_service with its own registry."""
    if first > last:
        raise ReplayError("--from is after --to")
    replay_dir = data_dir / "replay"
    postgres = EmbeddedPostgres(replay_dir / "postgres")
    log.configure("INFO", replay_dir / "logs" / "trader.log")
    urls, data, ml = private_services(Environment.PAPER, data_dir, replay_dir, replay_dir / "logs")
    services = [data, ml]
    try:
        with console.status("Starting PostgreSQL and the services ..."):
            postgres.start()
            database_url = create_database(postgres, DATABASE, fresh=True)
            migrate(database_url)
            database_url = service_url(database_url)
            data.start()
            data.wait_healthy(60)
        require_bars(urls["DATA_SERVICE_URL"], symbols, first, last)
        train_before(first, urls["DATA_SERVICE_URL"], replay_dir, console)
        ml.start()
        ml.wait_healthy(30)
        yield database_url, urls
    finally:
        stop_all(services, 7.0)
        postgres.stop()


async def walk(
    database_url: str,
    urls: dict[str, str],
    symbols: list[str],
    days: tuple[date, date],
    capital: int,
    pace: float | None,
    verbose: bool,
    console: Console,
) -> Report:
    """Walk the ticks of every session, then read the result out of the database."""
    settings = Settings(
        environment=Environment.PAPER,
        database_url=database_url,
        data_service_url=urls["DATA_SERVICE_URL"],
        ml_service_url=urls["ML_SERVICE_URL"],
        cycle_interval_s=INTERVAL_S,
        gather_timeout_s=30,
        shards=1,
    )
    present = [datetime.combine(days[0], datetime.min.time(), tzinfo=IST)]

    async def clock() -> datetime:
        return present[0]

    wired = wire(settings, lambda line: console.print(line, highlight=False, soft_wrap=True), clock)
    wired = replace(wired, trading=without_rates(wired.trading))
    try:
        sessions = wired.trading.calendar.sessions_between(*days)
        if not sessions:
            raise ReplayError(f"no session lies between {days[0]} and {days[1]}")
        await create_users(settings.database_url, list(Mode), symbols, Decimal(capital), sessions[0])
        tally = Tally()
        columns = (
            TextColumn("Replaying {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=sum(len(ticks_of(session)) for session in sessions))
            for session in sessions:
                bar.update(task, description=f"{session.day}")
                await lift_day_losses(wired.sessions)
                # Ticks follow the price and the rules of the day that is replayed.
                opens = session.continuous_open(StockClass.NON_CAS)
                wired.trading.calendar.know(await wired.trading.market_data.load_instruments(opens))
                for tick in ticks_of(session):
                    present[0] = tick
                    await _tick(wired, tick, tally, console if verbose else None)
                    bar.advance(task)
                    await _keep_pace(pace)
                present[0] = session.continuous_close(StockClass.NON_CAS)
                await end_of_day(wired.trading, session.day, present[0])
                await deliver(wired.trading)
        trades = await read_trades(wired.trading, present[0])
        orders, cash = await read_orders(wired.trading), await read_cash(wired.trading)
        return Report(trades, tally.denied, tally.rejected, tally.problems, tally.ticks, orders, cash)
    finally:
        await wired.close()


def ticks_of(session: Session) -> list[datetime]:
    """The planned ticks of a session: as each five-minute bar of its continuous windows ends, except the last."""
    ticks: list[datetime] = []
    for window in session.continuous(StockClass.NON_CAS):
        tick = window.start + timedelta(seconds=INTERVAL_S)
        while tick < window.end:
            ticks.append(tick)
            tick += timedelta(seconds=INTERVAL_S)
    return ticks


async def _tick(wired: Wired, now: datetime, tally: Tally, console: Console | None) -> None:
    await reconcile(wired.trading)
    report = await run_cycle(wired.trading, now)
    if report is None:
        return
    tally.ticks += 1
    tally.problems += len(report.problems)
    for counted, seen in ((report.denied, tally.denied), (report.rejected, tally.rejected)):
        for reason, count in counted.items():
            seen[reason] = seen.get(reason, 0) + count
    if console is not None:
        console.print(report.line(), highlight=False, soft_wrap=True)
    await deliver(wired.trading)


async def _keep_pace(pace: float | None) -> None:
    if pace is not None:
        started = time.monotonic()
        await asyncio.sleep(max(0.0, INTERVAL_S / pace - (time.monotonic() - started)))
