"""What `sauda data backfill` and `sauda data verify` do, with a progress bar and a summary."""

import asyncio
from datetime import date, timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from contracts.market import Interval
from data_service import universe
from data_service.backfill import fill, plan
from data_service.chain import Chain, NoAnswerError
from data_service.config import Settings
from data_service.errors import ConfigError
from data_service.fresh_facts import fetch_actions
from data_service.ingest import Gate, Ingested
from data_service.instruments import load_reference
from data_service.main import real_clock
from data_service.metrics import Metrics
from data_service.providers.base import Kind
from data_service.sessions import Sessions, floor_s, ist_date, load_sessions
from data_service.store.stores import Stores
from data_service.verify import verify
from data_service.wiring import open_stores, open_upstream

FACTS_DEADLINE_S = 60.0
ACTIONS_AHEAD = timedelta(days=60)
"""Actions are announced weeks before their ex-date."""


def run_backfill(
    settings: Settings, console: Console, symbols: str, interval: Interval, first: date, last: date | None
) -> bool:
    """Fetch what is lacking; True where nothing had to be left for another run.

    Raises ConfigError (no provider), StoreError, OSError.
    """
    if not settings.providers:
        raise ConfigError("no provider is configured: set MARKET_PROVIDERS, for example to nse,yahoo")
    return asyncio.run(_backfill(settings, console, symbols, interval, first, last))


async def _backfill(
    settings: Settings, console: Console, wanted: str, interval: Interval, first: date, last: date | None
) -> bool:
    sessions, stores, now = load_sessions(), open_stores(settings), real_clock()
    through = last or ist_date(now)
    if first > through:
        raise ConfigError(f"--from {first} is after --to {through}")
    async with open_upstream(settings, stores, sessions, real_clock, Metrics()) as upstream:
        chain = upstream.chain
        if (Kind.DAILY_BARS if interval is Interval.DAY_1 else Kind.INTRADAY_BARS) not in upstream.kinds:
            raise ConfigError(f"none of the configured providers ({', '.join(settings.providers)}) has {interval} bars")
        # Prices of any day are adjusted for what came since, so all of it is fetched.
        await _facts(chain, stores, console, first, max(through, ist_date(now)))
        names = symbols_of(wanted, stores, through)
        gate = Gate(stores, sessions, load_reference())
        return await _bars(chain, gate, stores, sessions, console, interval, names, first, through)


async def _facts(chain: Chain, stores: Stores, console: Console, first: date, through: date) -> None:
    """Actions and instruments first: the gate judges bars by them. Without them bars are fetched all the same."""
    try:
        name, actions = await chain.actions(first, through + ACTIONS_AHEAD, FACTS_DEADLINE_S)
        counts = stores.facts.upsert_actions(actions)
        _, news = await fetch_actions(chain, stores, real_clock())
        counts += news
        console.print(f"Corporate actions ({name}): {counts.new} new, {counts.changed} changed", markup=False)
    except NoAnswerError as error:
        console.print(f"No corporate actions: {error}", style="yellow", markup=False, soft_wrap=True)
    try:
        name, instruments = await chain.instruments(FACTS_DEADLINE_S)
        counts = stores.facts.upsert_instruments(instruments)
        console.print(f"Instruments ({name}): {counts.new + counts.changed} news", markup=False)
    except NoAnswerError as error:
        console.print(f"No instruments: {error}", style="yellow", markup=False, soft_wrap=True)


def symbols_of(wanted: str, stores: Stores, on: date) -> list[str]:
    """The symbols of a universe's name, or those named with commas. Raises ConfigError."""
    if wanted == "listed":
        listed = stores.facts.instruments().filter(series="EQ")["symbol"].unique().sort().to_list()
        if not listed:
            raise ConfigError("no instruments are known: name symbols, or a universe of fixed members")
        return listed
    if wanted == "default":
        return list(universe.default().symbols)
    if wanted == "nifty50":
        return list(universe.nifty50(on).symbols)
    return [symbol.strip().upper() for symbol in wanted.split(",") if symbol.strip()]


async def _bars(
    chain: Chain,
    gate: Gate,
    stores: Stores,
    sessions: Sessions,
    console: Console,
    interval: Interval,
    symbols: list[str],
    first: date,
    through: date,
) -> bool:
    now_s = floor_s(real_clock())
    steps = plan(stores, sessions, interval, symbols, first, through, now_s, official_wanted=True)
    total, lacking, failures = Ingested(), 0, dict[str, str]()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("Fetching", total=sum(step.size for step in steps))
        async for step, report in fill(chain, gate, stores, interval, steps, now_s=now_s):
            total, lacking = total + report.ingested, lacking + report.lacking
            failures |= report.failures
            progress.update(task, description=f"{step.days[0]} to {step.days[1]}", advance=step.size)
    counts = total.counts
    console.print(
        f"{len(symbols)} symbols, {interval}: {counts.new} new, {counts.changed} changed, "
        f"{total.quarantined} quarantined; {lacking} sessions of a symbol nobody had",
        markup=False,
        soft_wrap=True,
    )
    for reason, count in total.reasons.items():
        console.print(f"  found: {count} x {reason}", markup=False)
    for name, failure in failures.items():
        console.print(f"  {name}: {failure}", style="yellow", markup=False, soft_wrap=True)
    if failures and lacking:
        console.print(
            "Not complete: run the same command again later; it asks only for what is lacking.", soft_wrap=True
        )
    return not (failures and lacking)


def run_verify(stores: Stores, console: Console, now_s: int, *, quarantine: bool) -> bool:
    """Check every bar, stored or kept out; True where none is stored that should not be. Raises StoreError."""
    gate = Gate(stores, load_sessions(), load_reference())
    table, left = Table("interval", "year", "bars", "found", "taken out", "let in"), 0
    parts = len(stores.bars.stamps())
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console) as progress:
        task = progress.add_task("Checking", total=parts)
        for part in verify(stores, gate, now_s, quarantine=quarantine):
            left += part.doubted - part.removed
            found = ", ".join(
                f"{n} {reason}" for reason, n in part.findings["reason"].value_counts(sort=True).iter_rows()
            )
            changed = str(part.removed), str(part.released)
            table.add_row(part.interval, str(part.year), f"{part.bars:,}", found or "nothing", *changed)
            progress.advance(task)
    console.print(table if parts else "Nothing is stored.")
    if left:
        console.print(f"{left} stored bars are not to be believed: `sauda data verify --quarantine` takes them out.")
    return not left
