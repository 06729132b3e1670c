"""`sauda sandbox`: a broker that speaks Kite Connect 3 on this machine, with play money and a simulated market."""

import asyncio
import contextlib
import ipaddress
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import httpx
import typer
import uvicorn
from httpx_aiohttp import AiohttpTransport
from rich.console import Console
from sqlalchemy import select

from backend import log
from backend.brokers.paper import PaperBroker, PaperMarket
from backend.brokers.paper_market import BROKER_LIKE
from backend.db import OPERATOR_ROLE, Sessions, create_engine, create_sessions
from backend.domain.calendar import standard_calendar
from backend.main import real_now
from backend.models import BrokerAccount, SandboxApp, User
from backend.sandbox.app import Sandbox, create_sandbox
from backend.sandbox.limits import CallLimits
from backend.sandbox.world import World
from backend.services.audit_service import Actor
from backend.services.market_calendar import MarketCalendar
from backend.services.market_data_client import MarketDataClient
from backend.services.sandbox_key_service import SandboxKey, make_key
from backend.vault import Vault, read_master_key_file
from contracts.common import Environment
from sauda.embedded import DataFolderError, EmbeddedPostgres, create_database, hold_folder, migrate, service_url
from sauda.paper_user import create_paper_user
from sauda.private_services import private_services
from sauda.processes import Service, ServiceFailedError, stop_all
from sauda.up import StartError, master_keys

DATABASE = "sauda_sandbox"
EMAIL = "client@sandbox.sauda.example"
KEY_FILE = "sandbox-key.json"
TIMEOUT_S = 5.0
START_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Options:
    """What the person asked for. `speed`: market seconds per real second; `funds` in rupees."""

    host: str
    port: int
    data_dir: Path
    seed: int
    speed: float
    funds: int
    redirect_url: str
    postback_url: str
    limits: bool


def sandbox(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The sandbox's port.")] = 8010,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    anyone: Annotated[bool, typer.Option(help="Listen beyond this machine: whoever reaches it can log in.")] = False,
    data_dir: Annotated[Path, typer.Option(help="Folder for everything that is kept.")] = Path("data/sandbox"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated market.")] = 7,
    speed: Annotated[float, typer.Option(min=1, max=3600, help="Market seconds per real second.")] = 1.0,
    funds: Annotated[int, typer.Option(min=1000, help="Rupees of the account, when it is made.")] = 1_000_000,
    redirect_url: Annotated[str, typer.Option(help="Where a login returns to.")] = "http://127.0.0.1/",
    postback_url: Annotated[str, typer.Option(help="Told of order updates; empty: nobody is.")] = "",
    limits: Annotated[bool, typer.Option(help="Refuse more calls than Kite takes.")] = True,
) -> None:
    """Trade play money through Kite Connect's API against a simulated market, until Ctrl-C."""
    console = Console()
    options = Options(host, port, data_dir.resolve(), seed, speed, funds, redirect_url, postback_url, limits)
    try:
        require_own_machine(host, anyone=anyone)
        _run(options, console)
    except (StartError, DataFolderError, ServiceFailedError) as error:
        console.print(f"[red]The sandbox cannot start:[/] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


def require_own_machine(host: str, *, anyone: bool) -> None:
    """A login here is one click, without a password.

    Raises:
        StartError: others would reach it, and nobody said that they may.
    """
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return
    if host != "localhost" and not anyone:
        raise StartError(f"on {host} anybody could log in with one click: say --anyone if that is meant")


def _run(options: Options, console: Console) -> None:
    folder = options.data_dir
    settings = {"SIM_SEED": str(options.seed), "SIM_SPEED": str(options.speed)}
    with hold_folder(folder):
        _require_free(options.host, options.port)
        log.configure("INFO", folder / "logs" / "sandbox.log")
        urls, data, _ = private_services(Environment.SIMULATED, folder, folder, folder / "logs", data_settings=settings)
        postgres = EmbeddedPostgres(folder / "postgres")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite end is one, too
        try:
            with console.status("Starting PostgreSQL and the market ..."):
                postgres.start()
                database_url = create_database(postgres, DATABASE)
                migrate(database_url)
                data.start()
                data.wait_healthy(START_TIMEOUT_S)
            asyncio.run(_serve(options, service_url(database_url), urls["DATA_SERVICE_URL"], data, console))
        except KeyboardInterrupt:
            console.print("Stopping ...")
        finally:
            stop_all([data], 7.0)
            postgres.stop()


def _require_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(
                f"port {port} cannot be used on {host} ({error.strerror}): choose another --port"
            ) from None


async def _serve(options: Options, database_url: str, data_url: str, data: Service, console: Console) -> None:
    vault = Vault(read_master_key_file(master_keys(options.data_dir)))
    async with _app(database_url, data_url, vault, limits=options.limits) as (app, world):
        operator = create_engine(database_url, role=OPERATOR_ROLE, pool_size=1)
        key = await ensure_key(create_sessions(operator), world, options)
        await operator.dispose()
        _greet(options, key, console)
        server = uvicorn.Server(uvicorn.Config(app, options.host, options.port, log_level="warning"))
        watching = asyncio.create_task(_watch(data, console))
        try:
            await server.serve()
        finally:
            watching.cancel()


@asynccontextmanager
async def _app(database_url: str, data_url: str, vault: Vault, *, limits: bool) -> AsyncIterator[tuple[Sandbox, World]]:
    engine = create_engine(database_url)
    async with httpx.AsyncClient(transport=AiohttpTransport(), timeout=TIMEOUT_S) as http:
        world = world_of(create_sessions(engine), http, data_url, vault, limits=limits)
        yield create_sandbox(world), world
    await engine.dispose()


def world_of(sessions: Sessions, http: httpx.AsyncClient, data_url: str, vault: Vault, *, limits: bool) -> World:
    """The sandbox over a data_service and a database of its own; a login is one click."""
    market_data, calendar = MarketDataClient(http, data_url, TIMEOUT_S), MarketCalendar(standard_calendar())

    async def clock() -> datetime:
        return (await market_data.clock()).now

    async def quotes(symbols, as_of):
        return (await market_data.quotes(symbols, as_of)).quotes

    market = PaperMarket(clock, quotes, market_data.bars_since, calendar.phase, calendar.session_ended, calendar)
    return World(
        sessions=sessions,
        broker=PaperBroker(sessions, market, rules=BROKER_LIKE),
        market_data=market_data,
        calendar=calendar,
        clock=clock,
        now=real_now,
        vault=vault,
        postbacks=http,
        limits=CallLimits(enforced=limits),
    )


async def ensure_key(operator: Sessions, world: World, options: Options) -> SandboxKey:
    """The account's key: that of the file, or a new one where it is gone, the account is new, or its URLs changed."""
    path = options.data_dir / KEY_FILE
    at = await world.clock()
    async with operator.begin() as session:
        user = await session.scalar(select(User).where(User.email == EMAIL))
        if user is None:
            user = User(email=EMAIL, name="Sandbox Client")
            await create_paper_user(
                session, user, plan="free", mode=None, symbols=[], rupees=Decimal(options.funds), at=at
            )
        account = (await session.scalars(select(BrokerAccount).where(BrokerAccount.user_id == user.id))).one()
        app = await session.scalar(select(SandboxApp).where(SandboxApp.account_id == account.id))
        kept = _kept(path)
        urls = options.redirect_url, options.postback_url
        stands = app is not None and (app.redirect_url, app.postback_url) == urls
        if app is not None and stands and kept is not None and app.api_key == kept.api_key:
            return kept
        key = await make_key(session, world.vault, Actor("sauda sandbox", user.id, ""), user.id, account.id, *urls)
        _keep(path, key)  # before the commit: a key without its secret is of no use
    return key


def _kept(path: Path) -> SandboxKey | None:
    try:
        return SandboxKey(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _keep(path: Path, key: SandboxKey) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(asdict(key), file, indent=1)


def _greet(options: Options, key: SandboxKey, console: Console) -> None:
    url = f"http://{options.host}:{options.port}"
    console.print(
        f"\n[bold]The sandbox runs[/]: Kite Connect 3 at [bold]{url}[/], ticker at ws{url[4:]}/ws", soft_wrap=True
    )
    console.print(f"  api_key     {key.api_key}\n  api_secret  {key.api_secret}", highlight=False)
    console.print(f"  login       {url}/connect/login?v=3&api_key={key.api_key}", highlight=False, soft_wrap=True)
    console.print("No order leaves this machine and no money is real. Ctrl-C stops it.\n")


async def _watch(data: Service, console: Console) -> None:
    while True:
        if news := data.watch():
            console.print(news, highlight=False)
        await asyncio.sleep(0.5)
