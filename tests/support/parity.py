"""A replay and a backtest of the same days: the whole stack tick by tick on PostgreSQL, and the engine in one process.

Both read the same data_service and the same planted predictions. What they did is brought to one form and compared.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from httpx_aiohttp import AiohttpTransport
from rich.console import Console

from backend.backtest.engine import run
from backend.backtest.inputs import Wanted, fetch
from backend.backtest.result import BacktestResult, OrderRecord
from backend.backtest.spec import Spec, Trader
from backend.domain.calendar import IST, standard_calendar
from backend.domain.modes import Mode
from backend.services.market_data_client import MarketDataClient
from backend.services.ml_service_client import MlServiceClient
from contracts.common import Environment
from contracts.market import BarsReply, BarsRequest, Interval
from sauda.embedded import EmbeddedPostgres, create_database, migrate
from sauda.private_services import private_services
from sauda.processes import stop_all
from sauda.replay import walk
from tests.support.planted_model import VERSION, planted_server

PAISA = Decimal("0.01")
CAPITAL = 500_000
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Order:
    """An order with its fills, as either side tells it; money to the paisa."""

    user: str
    at: datetime
    symbol: str
    side: str
    quantity: int
    limit_price: Decimal
    state: str
    fills: tuple[tuple[datetime, int, Decimal, Decimal], ...]


@dataclass(frozen=True, slots=True)
class Both:
    """The same days traded twice; rupees of cash at the end by user."""

    replayed: list[Order]
    backtested: list[Order]
    replayed_cash: Mapping[str, Decimal]
    backtested_cash: Mapping[str, Decimal]
    result: BacktestResult
    ticks: int


def _paise(amount: Decimal) -> Decimal:
    return amount.quantize(PAISA)


def _of_replay(row: Mapping[str, Any]) -> Order:
    fills = (
        (datetime.fromisoformat(f["at"]), f["quantity"], _paise(Decimal(f["price"])), _paise(Decimal(f["charges"])))
        for f in row["fills"]
    )
    at, limit = datetime.fromisoformat(row["at"]), _paise(Decimal(row["limit_price"]))
    return Order(row["user"], at, row["symbol"], row["side"], row["quantity"], limit, row["state"], tuple(fills))


def _of_backtest(user: str, order: OrderRecord) -> Order:
    fills = tuple((f.at, f.quantity, _paise(f.price), _paise(f.charges)) for f in order.fills)
    limit, state = _paise(order.limit_price), order.state.value
    return Order(user, order.at, order.symbol, order.side.value, order.quantity, limit, state, fills)


def _key(order: Order) -> tuple[str, datetime, str, str]:
    return order.user, order.at, order.side, order.symbol


@contextmanager
def _data_service(data_dir: Path, own: Path) -> Iterator[dict[str, str]]:
    urls, data, _ = private_services(Environment.PAPER, data_dir, own, own / "logs")
    try:
        data.start()
        data.wait_healthy(60)
        yield urls
    finally:
        stop_all([data], 7.0)


def daily_closes(url: str, symbols: Sequence[str], first: date, last: date) -> dict[str, dict[date, Decimal]]:
    """Unadjusted closes by symbol and session."""
    as_of = datetime.combine(last, time(23, 59), tzinfo=IST)
    asked = BarsRequest(
        symbols=list(symbols), interval=Interval.DAY_1, from_=first, through=last, as_of=as_of, adjusted=False
    )
    headers = {"content-type": "application/json"}
    reply = httpx.post(
        f"{url}/v1/bars", content=asked.model_dump_json(by_alias=True), headers=headers, timeout=TIMEOUT_S
    )
    bars = BarsReply.model_validate_json(reply.raise_for_status().content)
    return {
        symbol: {start.astimezone(IST).date(): close for start, close in zip(columns.start, columns.close, strict=True)}
        for symbol, columns in bars.series.items()
    }


def trade_both(
    postgres: EmbeddedPostgres, data_dir: Path, own: Path, symbols: Sequence[str], first: date, last: date
) -> Both:
    """Replay and backtest `first`..`last` over the bars imported in `data_dir`; `own` is a folder for logs."""
    (own / "logs").mkdir(parents=True, exist_ok=True)
    with _data_service(data_dir, own) as urls:
        before = standard_calendar().previous_session_day(first)
        closes = daily_closes(urls["DATA_SERVICE_URL"], symbols, before, last)
        with planted_server(closes) as model:
            urls["ML_SERVICE_URL"] = model
            database_url = create_database(postgres, "parity", fresh=True)
            migrate(database_url)
            quiet = Console(quiet=True)
            report = asyncio.run(walk(database_url, urls, list(symbols), (first, last), CAPITAL, None, False, quiet))
            result = asyncio.run(_backtest(urls, symbols, first, last))
    replayed = sorted((_of_replay(row) for row in report.orders), key=_key)
    backtested = [_of_backtest(t.trader.name, order) for t in result.traders for order in t.orders]
    return Both(
        replayed,
        sorted(backtested, key=_key),
        {user: _paise(Decimal(cash)) for user, cash in (report.cash or {}).items()},
        {t.trader.name: _paise(t.cash) for t in result.traders},
        result,
        report.ticks,
    )


async def _backtest(urls: Mapping[str, str], symbols: Sequence[str], first: date, last: date) -> BacktestResult:
    traders = tuple(Trader(mode.value, mode, Decimal(CAPITAL)) for mode in Mode)
    spec = Spec(first, last, traders, Interval.MIN_5)
    async with httpx.AsyncClient(transport=AiohttpTransport(), timeout=TIMEOUT_S) as http:
        market_data = MarketDataClient(http, urls["DATA_SERVICE_URL"], TIMEOUT_S)
        ml_service = MlServiceClient(http, urls["ML_SERVICE_URL"], TIMEOUT_S)
        wanted = Wanted(",".join(symbols), None, VERSION)
        history = await fetch(spec, wanted, market_data, ml_service, standard_calendar(), lambda *_: None)
    return run(spec, history)
