"""One cycle of 10,000 users × 50 symbols, decided and recorded, against the raw COPY of the same order rows."""

import asyncio
import gc
import statistics
import time
from datetime import datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from backend.brokers.paper import PaperBroker
from backend.db import create_engine, create_sessions
from backend.domain.calendar import IST, standard_calendar
from backend.domain.modes import Mode
from backend.domain.ranking import MarketView, Signal, SignalAction
from backend.domain.risk import QuoteView, RiskLimits
from backend.services.auto_trading_service import decide_all, rank_modes
from backend.services.context import Trading, TradingRules
from backend.services.cycle_service import claim_shard, open_cycle
from backend.services.gather_service import gather_users, market_view
from backend.services.market_calendar import MarketCalendar
from backend.services.record_service import record
from contracts.common import Environment
from sauda.embedded import EmbeddedPostgres, create_database, migrate
from tests.bench import send
from tests.bench.result import Result

USERS = 10_000
SYMBOLS = 50
ROUNDS = 5
SHARDS = 8
NOW = datetime(2024, 3, 20, 10, 0, tzinfo=IST)
MODES = tuple(Mode)


def run(postgres: EmbeddedPostgres) -> list[Result]:
    """Median of five cycles on fresh ticks, each followed by its own reference."""
    url = create_database(postgres, "bench", fresh=True)
    migrate(url)
    return asyncio.run(_run(url))


async def _run(url: str) -> list[Result]:
    engine = create_engine(url, owner=True)  # it makes and empties tables
    application = create_engine(url)
    trading = _trading(application)
    await _populate(engine)
    timings: list[tuple[float, float, float, int]] = []
    for round_ in range(ROUNDS):
        timings.append(await _one_round(engine, trading, NOW + timedelta(minutes=round_)))
        await _clear(engine)
    sends = await send.run(engine, trading, _market, NOW + timedelta(minutes=ROUNDS))
    await application.dispose()
    await engine.dispose()
    gathered, worked, copied, orders = (statistics.median(t[i] for t in timings) for i in range(4))
    name = f"cycle of {USERS:,} users × {SYMBOLS} symbols, {int(orders):,} orders"
    reference = "raw COPY of the same order rows into the indexed table"
    return [
        Result(f"{name}: decide + record", worked, "s", copied, reference, "≤ 5"),
        Result(f"{name}: gather + decide + record", gathered + worked, "s", copied, reference, "–"),
        *sends,
    ]


async def _one_round(engine: AsyncEngine, trading: Trading, now: datetime) -> tuple[float, float, float, int]:
    market = _market(trading, now)
    cycle = await open_cycle(trading, now)
    gc.collect()
    started = time.perf_counter()
    gathered = []
    while claim := await claim_shard(trading, cycle.id):
        gathered.append((claim, await gather_users(trading, claim.shard, claim.shards, market)))
    gather_s = time.perf_counter() - started

    async def work() -> None:
        while gathered:
            claim, users = gathered.pop()
            decisions = decide_all(market, rankings, users, trading.rules.limits)
            await record(trading, claim, now, now, market.today, decisions)

    started = time.perf_counter()
    rankings = rank_modes(market, trading.rules.limits)
    await asyncio.gather(*(work() for _ in range(trading.rules.shards_at_once)))
    work_s = time.perf_counter() - started
    copy_s, orders = await _reference(engine)
    if not orders:
        raise RuntimeError("the cycle decided nothing: it measures nothing")
    return gather_s, work_s, copy_s, orders


async def _reference(engine: AsyncEngine) -> tuple[float, int]:
    """The same order rows, copied raw into a table with the same columns and indexes."""
    sessions = create_sessions(engine)
    async with sessions() as session:
        result = await session.execute(text("SELECT * FROM orders ORDER BY id"))
        columns, rows = list(result.keys()), [tuple(row) for row in result]
    async with sessions.begin() as session:
        await session.execute(text("DROP TABLE IF EXISTS orders_reference"))
        await session.execute(text("CREATE TABLE orders_reference (LIKE orders INCLUDING ALL)"))
    async with sessions.begin() as session:
        started = time.perf_counter()
        raw = await (await session.connection()).get_raw_connection()
        driver = cast("asyncpg.Connection", raw.driver_connection)
        await driver.copy_records_to_table("orders_reference", columns=columns, records=rows)
        await session.commit()
        return time.perf_counter() - started, len(rows)


def _trading(engine: AsyncEngine) -> Trading:
    sessions = create_sessions(engine)
    rules = TradingRules(
        environment=Environment.SIMULATED,
        trader="bench",
        cycle_interval_s=60,
        shards=SHARDS,
        horizon_sessions=10,
        order_rest_s_max=600,
        decisions_kept_days=30,
        limits=RiskLimits(),
    )
    absent = cast("Any", SimpleNamespace())
    paper = PaperBroker(sessions, absent)

    async def clock() -> datetime:
        return NOW

    return Trading(
        sessions=sessions,
        brokers={"paper": paper},
        market_data=absent,
        ml_service=absent,
        calendar=MarketCalendar(standard_calendar()),
        rules=rules,
        clock=clock,
        announce=lambda _: None,
    )


def _market(trading: Trading, now: datetime) -> MarketView:
    """Fifty stocks, a spread of predictions: some pass every mode, some one, many none."""
    signals, quotes = {}, {}
    for i in range(SYMBOLS):
        symbol = f"STOCK{i:02d}"
        last = Decimal(200 + 37 * i)
        quotes[symbol] = QuoteView(
            symbol=symbol,
            as_of=now,
            last=last,
            bid=last - Decimal("0.05"),
            ask=last + Decimal("0.05"),
            lower_band=last * Decimal("0.9"),
            upper_band=last * Decimal("1.1"),
            tick=Decimal("0.05"),
            lot=1,
            freeze_quantity=100_000,
            source="bench",
        )
        signals[symbol] = Signal(
            symbol=symbol,
            action=SignalAction.BUY,
            strategy="bench",
            model_version="bench",
            horizon_sessions=10,
            touch=dict.fromkeys((0.01, 0.015, 0.02, 0.025, 0.03, 0.035), 0.4 + (i * 7 % 50) / 100),
            expected_return_net=(i * 11 % 50) / 2000,
            expected_return_net_lower=(i * 11 % 50) / 4000,
            reference_close=last,
            target=last * Decimal("1.03"),
            stop=last * Decimal("0.94"),
            certified_modes=frozenset(Mode),
        )
    return market_view(trading, now, list(signals), quotes, signals, {})


async def _populate(engine: AsyncEngine) -> None:
    """Users on the four plans with settings, accounts and cash, straight into the tables."""
    symbols = [f"STOCK{i:02d}" for i in range(SYMBOLS)]
    statements = (
        """INSERT INTO users (email, name, role, active)
           SELECT 'u' || i || '@bench.example', '', 'user', true FROM generate_series(1, :n) i""",
        """INSERT INTO broker_accounts (user_id, broker, label, status, is_primary)
           SELECT id, 'paper', 'p', 'ready', true FROM users ORDER BY id""",
        """INSERT INTO subscriptions (user_id, plan_code, status)
           SELECT id, (ARRAY['basic', 'pro', 'enterprise'])[1 + id % 3], 'active' FROM users""",
        """INSERT INTO auto_trade_settings (user_id, enabled, mode, product, symbols)
           SELECT id, true, (ARRAY['conservative', 'moderate', 'aggressive'])[1 + id % 3], 'cnc',
                  CAST(:symbols AS varchar[]) FROM users""",
        """INSERT INTO paper_entries (account_id, asset, kind, amount, balance_after, at)
           SELECT id, 'INR', 'deposit', 20000 + id * 37 % 400000, 20000 + id * 37 % 400000, now()
             FROM broker_accounts""",
        """INSERT INTO paper_balances (account_id, asset, balance)
           SELECT account_id, asset, balance_after FROM paper_entries""",
        """INSERT INTO ledger_balances (account_id, ledger_account, symbol, balance, quantity)
           SELECT account_id, 'cash', '', balance, 0 FROM paper_balances""",
    )
    async with engine.begin() as connection:
        # Without the day's corporate actions nothing would be decided.
        told = text("INSERT INTO corporate_action_days (day, asked_at) VALUES (:day, :asked_at)")
        await connection.execute(told, {"day": NOW.date(), "asked_at": NOW})
        for statement in statements:
            needed = {k: v for k, v in {"n": USERS, "symbols": symbols}.items() if f":{k}" in statement}
            await connection.execute(text(statement), needed)
    async with engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text("VACUUM ANALYZE"))


async def _clear(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("TRUNCATE orders, auto_trades, decisions, daily_usage, cycles CASCADE"))
