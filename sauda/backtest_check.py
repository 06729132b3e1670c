"""`sauda backtest --check`: whether features, predictions, market data or the engine know of days that are to come."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import httpx
import polars as pl
from httpx_aiohttp import AiohttpTransport
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backend.backtest.check import INPUTS, CheckReport, Finding, Make, check, renamed
from backend.backtest.history import MarketHistory
from backend.backtest.inputs import BEFORE_THE_OPEN, NAMED, TOP, Wanted, fetch
from backend.backtest.request import Asked, World
from backend.backtest.study import CALL_TIMEOUT_S, known_at
from backend.domain.calendar import IST, Calendar
from backend.services.market_data_client import MarketDataClient
from backend.services.ml_service_client import MlServiceClient
from contracts.market import ActionKind, CorporateAction
from contracts.predictions import WALK_FORWARD
from ml_service.client import DataServiceClient, DataServiceError
from ml_service.look_ahead import RESCALED, SHIFTED, SHORTER, first_changes
from ml_service.present import spread
from ml_service.train import TRAIN_FROM_DEFAULT, fetch_bars
from ml_service.walkforward import TrainingError

Tell = Callable[[int, int, str], None]

MEMBERS = 12
"""Of the shares whose features are looked at, as many are members at a time: who is one may not know the future."""
NEXT_SESSION_DAYS_MAX = 15
FEATURE_CHECKS = {
    "truncated": "features, later bars cut off",
    "repriced": "features, later bars changed",
    "delisted": "features, shares delisted later",
    "listed": "features, shares listed later",
    "promoted": "features, shares that grow later",
    SHORTER: "features of a shorter history",
    RESCALED: "features after another split",
    SHIFTED: "features moved by a session differ",
}
SLOW = (
    "The models are trained anew as of each cut, as that is the question: each takes about as long as the first "
    "backtest of this market did, minutes where it has many shares. A registered --model VERSION is quick."
)


@dataclass(frozen=True, slots=True)
class Checked:
    """What was looked at and found: of features first, then of the backtest."""

    features: tuple[Finding, ...]
    backtest: CheckReport

    @property
    def passed(self) -> bool:
        return self.backtest.passed and all(finding.changed is None for finding in self.features)


def checked(asked: Asked, world: World, tell: Tell, console: Console) -> Checked:
    """Ask the services of `world` as of now and as of two earlier days, and compare.

    Raises:
        SaudaError: a service did not answer, or has no such market. ValueError: too little was predicted to compare,
            or a sweep is asked for.
    """
    if asked.sweep:
        raise ValueError("--check looks at one backtest: leave out --sweep")
    if asked.model == WALK_FORWARD:
        console.print(SLOW, highlight=False)
    report, bars = asyncio.run(_asked(asked, world, tell))
    features: list[Finding] = []
    for cut in (finding.cut for finding in report.findings if finding.check == INPUTS):
        changes = first_changes(bars, cut, symbols_max=MEMBERS, progress=tell)
        features += [Finding(FEATURE_CHECKS[kind], cut, changed) for kind, changed in changes.items()]
    return Checked(tuple(features), report)


async def _asked(asked: Asked, world: World, tell: Tell) -> tuple[CheckReport, pl.DataFrame]:
    """The backtest's check, and daily bars for that of the features."""
    async with httpx.AsyncClient(transport=AiohttpTransport(), timeout=CALL_TIMEOUT_S) as http:
        market_data = MarketDataClient(http, world.data_service_url, CALL_TIMEOUT_S)
        ml_service = MlServiceClient(http, world.ml_service_url, CALL_TIMEOUT_S)
        as_of = known_at(asked.spec.last, await market_data.clock())
        make = await make_of(asked, as_of, market_data, ml_service, world.calendar, tell)
        report = await check(make, asked.spec, progress=tell)
    return report, await _bars(world.data_service_url, as_of, tell)


async def make_of(
    asked: Asked,
    as_of: datetime,
    market_data: MarketDataClient,
    ml_service: MlServiceClient,
    calendar: Calendar,
    tell: Tell,
) -> Make:
    """The market as it is known at `as_of`, or was on the morning after a day: every service is asked as of then, and
    shares that were renamed since are told under their later names."""
    told = (await market_data.actions(asked.spec.first, as_of.astimezone(IST).date(), as_of)).actions
    renames = sorted((each for each in told if each.kind is ActionKind.RENAME), key=lambda each: each.ex_date)

    async def make(day: date | None) -> MarketHistory:
        if day is None:
            wanted = Wanted(asked.universe, as_of, asked.model, asked.horizon_sessions)
            return await fetch(asked.spec, wanted, market_data, ml_service, calendar, tell)

        def of_then(done: int, total: int, what: str) -> None:
            tell(done, total, f"as of {day}: {what}")

        morning = _next_session(calendar, day)
        since = [each for each in renames if each.ex_date > morning]
        universe = _universe_of_then(asked.universe, since)
        wanted = Wanted(universe, datetime.combine(morning, BEFORE_THE_OPEN, IST), asked.model, asked.horizon_sessions)
        history = await fetch(asked.spec, wanted, market_data, ml_service, calendar, of_then)
        return renamed(history, {symbol: _after(symbol, since) for symbol in _symbols(history)})

    return make


def _next_session(calendar: Calendar, day: date) -> date:
    return calendar.sessions_between(day + timedelta(days=1), day + timedelta(days=NEXT_SESSION_DAYS_MAX))[0]


def _symbols(history: MarketHistory) -> set[str]:
    return set(history.shares).union(*history.members.values())


def _after(symbol: str, renames: Iterable[CorporateAction]) -> str:
    """A share's name after renames, oldest first."""
    for each in renames:
        if each.symbol == symbol and each.new_symbol:
            symbol = each.new_symbol
    return symbol


def _before(symbol: str, renames: Sequence[CorporateAction]) -> str:
    """A share's name before renames, oldest first."""
    for each in reversed(renames):
        if each.new_symbol == symbol:
            symbol = each.symbol
    return symbol


def _universe_of_then(universe: str, renames: Sequence[CorporateAction]) -> str:
    """Listed symbols under their names of before `renames`; a universe by name is one."""
    if universe.lower() in NAMED or universe.lower().startswith(TOP):
        return universe
    return ",".join(_before(symbol.strip().upper(), renames) for symbol in universe.split(","))


async def _bars(data_service_url: str, as_of: datetime, tell: Tell) -> pl.DataFrame:
    """Daily bars of a few shares of all kinds, as models are trained on them. Raises ValueError without."""
    through = as_of.astimezone(IST).date() - timedelta(days=1)
    try:
        async with DataServiceClient(data_service_url, CALL_TIMEOUT_S) as client:
            listed = sorted(each.symbol for each in (await client.instruments(as_of)).instruments)
            history = await fetch_bars(client, spread(listed), TRAIN_FROM_DEFAULT, through, tell, as_of=as_of)
    except (DataServiceError, TrainingError) as error:
        raise ValueError(f"the features cannot be checked: {error}") from error
    return history.bars


def print_checked(found: Checked, console: Console) -> None:
    """A row per check and cut, then what a delay makes of the profit, then the answer."""
    table = Table(title="Does anything know of later days?")
    table.add_column("check")
    table.add_column("cut", no_wrap=True)
    table.add_column("first change", overflow="fold")
    for finding in (*found.features, *found.backtest.findings):
        words = "[green]nothing changed[/]" if finding.changed is None else f"[red]{escape(finding.changed)}[/]"
        table.add_row(finding.check, str(finding.cut), words)
    console.print(table)
    for note in dict.fromkeys(finding.note for finding in found.backtest.findings if finding.note):
        console.print(f"Note: {note}", highlight=False, markup=False, soft_wrap=True)
    for delay in found.backtest.delays:
        numbers = (
            f"{delay.trades} trades, {delay.net_return:+.2%} net; acted on one session later: "
            f"{delay.trades_late} trades, {delay.net_return_late:+.2%}."
        )
        console.print(f"{delay.trader}: {numbers} {delay.verdict}", highlight=False, markup=False, soft_wrap=True)
    console.print(found.backtest.compared, highlight=False, markup=False, soft_wrap=True)
    console.print(answer(found), highlight=False, soft_wrap=True)


def answer(found: Checked) -> str:
    """The outcome in a sentence."""
    every = (*found.features, *found.backtest.findings)
    changed = sum(finding.changed is not None for finding in every)
    if not changed:
        return f"[green]{len(every)} checks: nothing changed.[/]"
    return f"[red]{changed} of {len(every)} checks changed: what they name knew of later days.[/]"
