"""A queue of hundreds of recorded orders, and the processes around it: proxies, the trader that sends, the next one."""

import asyncio
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import text

from backend.db import OPERATOR_ROLE, create_engine, create_sessions
from backend.domain.market import Product
from backend.domain.modes import Mode as TradingMode
from backend.models import (
    AutoTradeSettings,
    BrokerAccount,
    BrokerAccountStatus,
    LoginSession,
    Role,
    Subscription,
    SubscriptionStatus,
    User,
)
from backend.services import auto_trading_service
from backend.services.auto_trading_service import run_cycle
from backend.services.context import Trading
from backend.services.cycle_service import ShardClaim
from backend.services.ledger_service import open_books
from backend.services.reconcile_service import reconcile
from backend.services.record_service import Recorded
from backend.services.send_service import send
from backend.services.trading_state_service import standings
from backend.trading_loop import PASSING_ERRORS
from tests.crash.children import Say
from tests.crash.gateway import NEVER, Wires, wired
from tests.crash.world import EMPTY, FIRST_TICK, TICK, Hall, Stage
from tests.support.broker_book import FIRST_CASH
from tests.support.fault_proxy import FaultProxy, Faults
from tests.support.http_broker import HttpBroker

TEMPLATE = "halt_queue"
SYMBOLS = ("ASHOKLEY", "INFY", "ITC", "SBIN", "TCS")
USERS = 42
QUEUE = USERS * len(SYMBOLS)
"""Five orders in each of 42 accounts: every account stays below its eight orders a second, whatever the queue does."""
LATENCY_S = 0.1
"""Each way between trader and broker: with eight sends at a time, the queue takes more than five seconds."""
LEASE_S = 2.0
LOOK_S = 0.005
GIVE_UP_S = 30.0
SOCKET = ".s.PGSQL.5432"


def lay_out(place: Hall, say: Say) -> None:
    """The template: an administrator, and everybody with an account at the broker.

    It says three ids: the administrator's, and the user's and the account's of somebody early in the queue.
    """
    stage = Stage(place, TEMPLATE, EMPTY)

    async def run() -> tuple[int, int, int]:
        await copy_database(stage)
        engine = create_engine(stage.database_url, role=OPERATOR_ROLE)
        async with create_sessions(engine).begin() as session:
            admin = User(email="admin@example.com", role=Role.ADMIN)
            users = [User(email=f"user{i}@example.com") for i in range(USERS)]
            session.add_all([admin, *users])
            await session.flush()
            ready, active = BrokerAccountStatus.READY, SubscriptionStatus.ACTIVE
            accounts = [
                BrokerAccount(user_id=user.id, broker=HttpBroker.name, label="p", status=ready, is_primary=True)
                for user in users
            ]
            session.add_all(accounts)
            session.add_all([Subscription(user_id=user.id, plan_code="enterprise", status=active) for user in users])
            session.add_all([_settings(user.id) for user in users])
            session.add_all([LoginSession(id=who.id, user_id=who.id, expires_at=NEVER) for who in (admin, *users)])
            await session.flush()
            for account in accounts:
                await open_books(session, account.id, FIRST_CASH, FIRST_TICK)
        await engine.dispose()
        return admin.id, users[USERS // 3].id, accounts[USERS // 3].id

    say(asyncio.run(run()))


def _settings(user_id: int) -> AutoTradeSettings:
    return AutoTradeSettings(
        user_id=user_id, enabled=True, mode=TradingMode.CONSERVATIVE, product=Product.CNC, symbols=list(SYMBOLS)
    )


async def copy_database(stage: Stage) -> None:
    """A database of a stage's own, as its template is."""
    engine = create_engine(stage.hall.postgres.url("postgres"), pool_size=1, owner=True)
    async with engine.connect() as connection:
        admin = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await admin.execute(text(f'CREATE DATABASE "{stage.name}" TEMPLATE "{stage.template}" STRATEGY FILE_COPY'))
    await engine.dispose()


def network(stage: Stage, folder: Path, cut_after_the_commit: bool, say: Say) -> None:
    """Proxies before the broker and the database. SIGUSR1 slows the broker down, SIGUSR2 cuts the database off."""

    async def run() -> None:
        broker = urlsplit(stage.broker_url)
        socket_folder = Path(stage.database_url.partition("?host=")[2])
        postgres = FaultProxy(socket_folder / SOCKET, folder / SOCKET)
        async with FaultProxy((broker.hostname or "", broker.port or 0)) as slow, postgres:
            cut = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGUSR1, slow.switch, Faults(latency_s=LATENCY_S))
            loop.add_signal_handler(signal.SIGUSR2, cut.set)
            host, port = slow.address  # type: ignore[misc]
            say(f"http://{host}:{port}/{stage.name}")
            await (_halted(stage) if cut_after_the_commit else cut.wait())
            postgres.switch(Faults(reset_new=True))
            postgres.reset_existing()
            say("cut")
            await asyncio.Event().wait()

    asyncio.run(run())


async def _halted(stage: Stage) -> None:
    """Wait until a halt is committed."""
    engine = create_engine(stage.database_url, pool_size=1)
    async with engine.connect() as connection:
        ask = await connection.execution_options(isolation_level="AUTOCOMMIT")
        halts = 0
        while not halts:
            await asyncio.sleep(LOOK_S)
            halts = await ask.scalar(text("SELECT count(*) FROM trading_states"))
    await engine.dispose()


def trader(wires: Wires, say: Say) -> None:
    """Run the first tick; what it has recorded is sent from SIGUSR1 on."""

    async def run() -> None:
        go = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, go.set)

        async def held_up(trading: Trading, claim: ShardClaim, recorded: list[Recorded], now: Any) -> None:
            say(len(recorded))
            await go.wait()
            await send(trading, claim, recorded, now)

        auto_trading_service.send = held_up  # type: ignore[assignment]
        async with wired(wires, "trader", LEASE_S) as trading:
            with suppress(*PASSING_ERRORS):
                await run_cycle(trading, FIRST_TICK)
            say("ended")
            await asyncio.Event().wait()

    asyncio.run(run())


def next_trader(wires: Wires, say: Say) -> None:
    """A fresh process after the SIGKILL: two ticks; it says what stands, and for how many users it decided."""

    async def run() -> None:
        users, began = 0, time.monotonic()
        async with wired(wires, "next", LEASE_S) as trading:
            while users < USERS and time.monotonic() - began < GIVE_UP_S:
                with suppress(*PASSING_ERRORS):
                    await reconcile(trading)
                    report = await run_cycle(trading, FIRST_TICK + TICK)
                    users = report.users if report else 0
                await asyncio.sleep(LOOK_S)
            async with trading.sessions() as session:
                standing = [f"{row.scope} {row.state}" for row in (await standings(session)).rows]
        say({"standing": standing, "users": users})

    asyncio.run(run())
