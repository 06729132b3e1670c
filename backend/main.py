"""The composition root: the only place that reads the environment and the real clock, and wires everything once."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import httpx
import structlog
from fastapi import FastAPI
from httpx_aiohttp import AiohttpTransport
from sqlalchemy.ext.asyncio import AsyncEngine

from backend import log
from backend.api.app import create_api
from backend.api.limits import RateLimits, RouteClass
from backend.api.perimeter import Perimeter, networks_of
from backend.api.state import ApiState
from backend.brokers.paper import PaperBroker
from backend.brokers.paper_market import PaperMarket
from backend.config import Settings
from backend.db import APPLICATION_ROLE, Sessions, create_engine, create_sessions, create_tenant_sessions
from backend.domain.calendar import standard_calendar
from backend.errors import SaudaError
from backend.payments.base import PaymentProvider
from backend.payments.manual import ManualProvider
from backend.payments.razorpay import Razorpay
from backend.real_brokers import RealBrokers, wire_real_brokers
from backend.sandbox.mounted import mounted_sandbox
from backend.security import Security
from backend.services.audit_verify_service import keep_anchoring
from backend.services.billing_rules import BillingRules, Seller
from backend.services.broker_login_service import BrokerLogins
from backend.services.context import Trading, TradingRules
from backend.services.deployment_service import begin, note_orders
from backend.services.mail_service import Post
from backend.services.market_calendar import MarketCalendar
from backend.services.market_data_client import MarketDataClient
from backend.services.ml_service_client import MlServiceClient
from backend.services.notifiers import create_notifier
from backend.services.order_listen_service import OrderListeners
from backend.services.postback_service import OrderHints
from backend.services.quote_board import QuoteBoard
from backend.services.rollover_service import keep_rolling
from backend.services.session_service import LoginRules
from backend.services.streams import create_streams
from backend.trading_loop import TradingLoop
from backend.vault import Vault, VaultError, read_master_key_file, read_master_keys
from contracts.common import Environment

CLOCK_RETRY_S = 2.0

Clock = Callable[[], Awaitable[datetime]]


@dataclass(frozen=True, slots=True)
class Wired:
    """One process's engine, HTTP client and trading world; `speed` is market seconds per real second, once known."""

    engine: AsyncEngine
    sessions: Sessions
    http: httpx.AsyncClient
    trading: Trading
    real: RealBrokers
    paper_market: PaperMarket
    speed: float | None = None

    async def close(self) -> None:
        await self.real.close()
        await self.http.aclose()
        await self.engine.dispose()


def log_file(settings: Settings, name: str) -> Path | None:
    """A process started in a data folder logs beside its data; anywhere else, to stderr."""
    return log.file_in(settings.data_dir, name)


def real_now() -> datetime:
    return datetime.now(UTC)


def wire(settings: Settings, announce: Callable[[str], None], clock: Clock | None = None) -> Wired:
    """Build the trading world. `clock` replaces the market's own (a replay brings one).

    Raises:
        ValueError: EGRESS_ROUTES or the master keys cannot be meant.
    """
    vault = create_vault(settings)
    engine = create_engine(settings.database_url)
    sessions = create_sessions(engine)
    http = httpx.AsyncClient(transport=AiohttpTransport(), timeout=settings.gather_timeout_s)
    market_data = MarketDataClient(http, settings.data_service_url, settings.gather_timeout_s)
    calendar = MarketCalendar(standard_calendar())

    async def market_now() -> datetime:
        if settings.environment is Environment.SIMULATED:
            return (await market_data.clock()).now
        return real_now()

    now = clock or market_now

    async def quotes(symbols, as_of):
        return (await market_data.quotes(symbols, as_of)).quotes

    real = wire_real_brokers(settings, sessions, vault, real_now)
    market = PaperMarket(now, quotes, market_data.bars_since, calendar.phase, calendar.session_ended, calendar)
    trading = Trading(
        sessions=sessions,
        brokers={PaperBroker.name: PaperBroker(sessions, market), **real.brokers},
        market_data=market_data,
        ml_service=MlServiceClient(http, settings.ml_service_url, settings.gather_timeout_s),
        calendar=calendar,
        rules=rules_of(settings),
        clock=now,
        announce=announce,
    )
    return Wired(engine, sessions, http, trading, real, market)


def rules_of(settings: Settings) -> TradingRules:
    """The deployment's trading rules out of its settings."""
    return TradingRules(
        environment=settings.environment,
        trader=settings.trader_name or f"{socket.gethostname()}-{secrets.token_hex(3)}",
        cycle_interval_s=settings.cycle_interval_s,
        shards=settings.shards,
        horizon_sessions=settings.horizon_sessions,
        order_rest_s_max=settings.order_rest_s_max,
        decisions_kept_days=settings.decisions_kept_days,
        limits=settings.risk_limits,
        gate=settings.gate_limits,
        live_trading=settings.live_trading,
        day_loss_fraction_max=settings.day_loss_fraction_max,
        backtests_kept_days=settings.backtests_kept_days,
        backtests_kept_per_user=settings.backtests_kept_per_user,
    )


async def start_loop(settings: Settings, wired: Wired) -> TradingLoop:
    """Start the trader's clockwork, once data_service has told how fast the market's clock runs.

    Raises:
        ConflictError: the database belongs to another environment.
    """
    await begin_here(settings, wired)
    paced = await at_market_speed(settings, wired)

    async def noted() -> None:
        await note_orders(wired.sessions, settings.data_dir)

    loop = TradingLoop(
        paced.trading,
        speed=paced.speed or 1.0,
        reconcile_interval_s=settings.reconcile_interval_s,
        positions_interval_s=settings.positions_interval_s,
        after_orders=noted,
    )
    await loop.start()
    return loop


async def follow_orders(wired: Wired, hints: OrderHints, *, listen: bool) -> None:
    """Read books when brokers say so: by their postbacks and, where the trading loop runs, by their streams."""
    real = wired.real
    sockets = {name: real.sockets[name] for name in real.brokers} if listen else {}
    listeners = OrderListeners(wired.sessions, real.accesses, sockets, hints.add)
    await asyncio.gather(hints.run(), *([listeners.run()] if sockets else []))


def require_keys(settings: Settings) -> Vault | None:
    """As `create_vault`, but nobody trades live who could not open an account; whoever only halts needs no keys.

    Raises:
        ValueError: the environment is live and has no master key.
    """
    vault = create_vault(settings)
    if settings.environment is Environment.LIVE and vault is None:
        raise ValueError("ENVIRONMENT=live opens accounts at brokers: set MASTER_KEY_FILE or MASTER_KEYS")
    return vault


async def begin_here(settings: Settings, wired: Wired) -> None:
    """Start on the database, and say so where it is not as it was: only who finds it first is told.

    Raises:
        ConflictError: the database belongs to another environment.
    """
    why = await begin(wired.sessions, settings.environment, settings.data_dir)
    if why is not None:
        wired.trading.announce(f"    !    trading is HALTED until an administrator has looked: {why}")


async def at_market_speed(settings: Settings, wired: Wired) -> Wired:
    """The same wiring, its gate's symbol window as long on the market's clock as in a real market; waits for the speed.

    The gate counts real seconds: 300 of them at sixty times the speed would be five hours of a healthy market.
    """
    if wired.speed is not None:
        return wired
    speed = await _market_speed(settings, wired)
    rules = wired.trading.rules
    gate = replace(rules.gate, symbol_window_s=rules.gate.symbol_window_s / speed)
    return replace(wired, trading=replace(wired.trading, rules=replace(rules, gate=gate)), speed=speed)


async def _market_speed(settings: Settings, wired: Wired) -> float:
    if settings.environment is not Environment.SIMULATED:
        return 1.0
    while True:
        try:
            return (await wired.trading.market_data.clock()).speed
        except SaudaError as error:
            wired.trading.announce(f"    !    waiting for data_service: {error.detail}")
            await asyncio.sleep(CLOCK_RETRY_S)


def create_security(settings: Settings) -> Security:
    """Who signs tokens.

    Raises:
        ValueError: a key is too short.
    """
    return Security(
        settings.secret_key.get_secret_value(),
        settings.access_token_minutes,
        real_now,
        previous_key=settings.secret_key_previous.get_secret_value(),
    )


def create_vault(settings: Settings) -> Vault | None:
    """What seals secrets; None where no master key is set.

    Raises:
        ValueError: the keys cannot be meant.
    """

    def read() -> dict[str, bytes]:
        keys = read_master_keys(settings.master_keys.get_secret_value())
        return keys if settings.master_key_file is None else read_master_key_file(settings.master_key_file) | keys

    try:
        keys = read()
        return Vault(keys, read) if keys else None
    except VaultError as error:
        raise ValueError(str(error)) from None


def create_perimeter(settings: Settings) -> Perimeter:
    """Whom to believe, and how often one may ask.

    Raises:
        ValueError: TRUSTED_PROXIES cannot be meant.
    """
    per_minute = {
        RouteClass.PUBLIC: settings.public_requests_per_minute_max,
        RouteClass.LOGIN: settings.login_requests_per_minute_max,
        RouteClass.READ: settings.read_requests_per_minute_max,
        RouteClass.WRITE: settings.write_requests_per_minute_max,
        RouteClass.ORDER: settings.order_requests_per_minute_max,
        RouteClass.STREAM: settings.stream_requests_per_minute_max,
    }
    return Perimeter(
        networks_of(settings.trusted_proxies),
        tls=settings.public_url.startswith("https://"),
        limits=RateLimits(lambda: real_now().timestamp(), per_minute, settings.redis_url),
    )


def create_post(settings: Settings, sessions: Sessions) -> Post:
    """Who delivers mails: over SMTP where a server is set, else to the console.

    Raises:
        ValueError: SMTP_URL or MAIL_FROM cannot be meant.
    """
    notifier = create_notifier(settings.smtp_url.get_secret_value(), settings.mail_from, log.announce)
    return Post(sessions, notifier, real_now, settings.public_url)


def create_billing(settings: Settings, http: httpx.AsyncClient) -> BillingRules:
    """Who collects for plans and issues the invoices.

    Raises:
        ValueError: PAYMENT_PROVIDER, Razorpay's keys or the seller's details cannot be meant.
    """
    provider: PaymentProvider = ManualProvider()
    if settings.payment_provider == Razorpay.name:
        provider = Razorpay(
            http,
            url=settings.razorpay_url,
            key_id=settings.razorpay_key_id,
            key_secret=settings.razorpay_key_secret.get_secret_value(),
            webhook_secret=settings.razorpay_webhook_secret.get_secret_value(),
        )
    elif settings.payment_provider != ManualProvider.name:
        raise ValueError(f"PAYMENT_PROVIDER={settings.payment_provider!r} is unknown: manual or razorpay")
    seller = None
    if settings.seller_name:
        seller = Seller(
            settings.seller_name, settings.seller_address, settings.seller_state_code, settings.seller_gstin
        )
    return BillingRules(provider, seller, timedelta(days=settings.billing_grace_days))


def create_app(settings: Settings | None = None) -> FastAPI:
    """The gateway: the REST API, and the trading loop inside it unless a separate trader runs."""
    settings = settings or Settings()
    wired = wire(settings, log.announce)
    api_engine = create_engine(settings.database_url, role=APPLICATION_ROLE)
    api_sessions = create_tenant_sessions(api_engine)
    board = QuoteBoard(wired.trading.market_data, settings.environment)
    post = create_post(settings, api_sessions)
    billing = create_billing(settings, wired.http)

    loops: list[TradingLoop] = []

    async def trade(app: FastAPI) -> None:
        try:
            paced = await at_market_speed(settings, wired)
            # Orders by hand pass the same gate as the trader's.
            app.state.api = replace(state, desk=paced.trading, trading=replace(paced.trading, sessions=api_sessions))
            if settings.trader_enabled:
                loops.append(await start_loop(settings, paced))
        except Exception:
            structlog.get_logger().exception("trading_loop_failed_to_start")
            raise

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await begin_here(settings, wired)
        starting = asyncio.create_task(trade(app))
        working = [
            asyncio.create_task(post.run()),
            asyncio.create_task(keep_rolling(api_sessions, billing, real_now)),
            asyncio.create_task(keep_anchoring(api_sessions)),
            asyncio.create_task(follow_orders(wired, hints, listen=settings.trader_enabled)),
        ]
        async with board.running(), sandbox.running() if sandbox is not None else nullcontext():
            yield
            await state.streams.close()
        _ = [task.cancel() for task in (starting, *working)]
        await asyncio.gather(*working, return_exceptions=True)
        for loop in loops:
            loop.stop()
        await wired.close()
        await api_engine.dispose()

    def trouble() -> str:
        if settings.trader_enabled and not loops:
            return "the trading loop is starting"
        return "; ".join(loop.complaint for loop in loops if loop.complaint)

    security, vault = create_security(settings), require_keys(settings)
    hints = OrderHints(wired.trading)
    sandbox = mounted_sandbox(wired.trading, wired.paper_market, api_sessions, security, vault, real_now)
    state = ApiState(
        sessions=api_sessions,
        trading=replace(wired.trading, sessions=api_sessions),
        desk=wired.trading,
        security=security,
        vault=vault,
        perimeter=create_perimeter(settings),
        logins=LoginRules(settings.session_days, settings.session_idle_days, settings.public_url),
        quote_board=board,
        streams=create_streams(board, wired.trading.market_data, wired.trading.calendar, settings.environment),
        paper_deposit_rupees=Decimal(settings.paper_deposit_rupees),
        cors_origins=tuple(settings.cors_origins),
        billing=billing,
        environment=settings.environment,
        trouble=trouble,
        broker_logins=BrokerLogins(wired.real.adapters, wired.real.logins, wired.sessions, vault, security),
        hint=hints.add,
    )
    return create_api(state, lifespan, sandbox)
