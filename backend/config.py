"""Every setting of the gateway and the trader, with its meaning; read from the environment by main.py alone."""

from decimal import Decimal
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from backend.domain.gate import GateLimits
from backend.domain.risk import RiskLimits
from contracts.common import Environment


class Settings(BaseSettings):
    """Environment variables carry the field's name in upper case; a `.env` file beside the process is read too."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    environment: Environment = Field(
        default=Environment.SIMULATED, description="simulated (own market), paper (real data, paper fills) or live."
    )
    data_dir: Path = Field(default=Path("data"), description="Folder for everything a process keeps on disk.")
    database_url: str = Field(
        default="postgresql://postgres@/sauda?host=data/postgres",
        description="PostgreSQL, the only database. `sauda up` sets it to its embedded server.",
    )
    ml_service_url: str = Field(default="http://127.0.0.1:8001", description="Where ml_service listens.")
    data_service_url: str = Field(default="http://127.0.0.1:8002", description="Where data_service listens.")
    gateway_host: str = Field(default="127.0.0.1", description="Address the gateway listens on.")
    gateway_port: int = Field(default=8000, ge=1, le=65535, description="Port of the gateway's REST API.")
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")
    secret_key: SecretStr = Field(
        default=SecretStr(""),
        description="Signs access tokens: at least 32 bytes. `sauda up` makes one in the data folder.",
    )
    secret_key_previous: SecretStr = Field(
        default=SecretStr(""), description="The key before SECRET_KEY: its tokens are taken until they expire."
    )
    access_token_minutes: int = Field(default=10, ge=1, le=10, description="Life of an access token in minutes.")
    session_days: int = Field(default=30, ge=1, le=90, description="Days after which a login ends, used or not.")
    session_idle_days: int = Field(default=7, ge=1, le=90, description="Days without use after which a login ends.")
    master_key_file: Path | None = Field(
        default=None,
        description="File of master keys that seal secrets: a line `name:base64 of 32 bytes` each, the first seals.",
    )
    master_keys: SecretStr = Field(
        default=SecretStr(""), description="The same as MASTER_KEY_FILE in one variable, the keys apart by commas."
    )
    public_url: str = Field(
        default="http://127.0.0.1:8000", description="Where users reach the frontend: the beginning of links in mails."
    )
    smtp_url: SecretStr = Field(
        default=SecretStr(""),
        description="Mail server: smtp://USER:PASSWORD@HOST:587 or smtps://…; empty: mails are printed.",
    )
    mail_from: str = Field(default="Sauda <sauda@localhost>", description="Sender of mails.")
    redis_url: str = Field(
        default="", description="Redis that counts requests for all gateways; empty: each counts its own."
    )
    public_requests_per_minute_max: int = Field(
        default=3000, ge=1, description="Public market data: requests a minute of one address."
    )
    login_requests_per_minute_max: int = Field(
        default=60, ge=1, description="Logging in, registering, resetting: requests a minute of one address."
    )
    read_requests_per_minute_max: int = Field(
        default=600, ge=1, description="Other reading: requests a minute of one address, user or API key."
    )
    write_requests_per_minute_max: int = Field(
        default=240, ge=1, description="Other changing: requests a minute of one address, user or API key."
    )
    order_requests_per_minute_max: int = Field(
        default=600, ge=1, description="Orders by hand: requests a minute of one address, user or API key."
    )
    stream_requests_per_minute_max: int = Field(
        default=120, ge=1, description="Streams opened a minute from one address."
    )
    trusted_proxies: list[str] = Field(
        default=[], description="Addresses or networks of proxies whose X-Forwarded-For is believed, as a JSON list."
    )
    payment_provider: str = Field(default="manual", description="Who collects for plans: manual or razorpay.")
    razorpay_key_id: str = Field(default="", description="Razorpay's API key.")
    razorpay_key_secret: SecretStr = Field(default=SecretStr(""), description="The secret of that key.")
    razorpay_webhook_secret: SecretStr = Field(default=SecretStr(""), description="Signs Razorpay's webhooks.")
    razorpay_url: str = Field(default="https://api.razorpay.com", description="Razorpay's API.")
    billing_grace_days: int = Field(default=7, ge=0, le=60, description="Days an unpaid plan goes on.")
    seller_name: str = Field(default="", description="Who issues invoices; none are issued where empty.")
    seller_address: str = Field(default="", description="The seller's address on invoices.")
    seller_state_code: str = Field(default="", description="The seller's GST state code, two digits.")
    seller_gstin: str = Field(default="", description="The seller's GSTIN; no tax is charged where empty.")
    trader_enabled: bool = Field(
        default=True, description="Run the trading loop inside the gateway; false where a separate trader runs."
    )
    trader_name: str = Field(
        default="", description="Name of this trader in claims and logs; the host's name where empty."
    )
    egress_routes: dict[str, str] = Field(
        default={},
        description="How real orders leave from each approved address, as a JSON object: direct, bind:ADDRESS of this "
        "machine, or a proxy's URL. Those of an address that is not named are refused.",
    )
    zerodha_url: str = Field(default="https://api.kite.trade", description="Kite Connect's API.")
    zerodha_login_url: str = Field(
        default="https://kite.zerodha.com/connect/login", description="Where Zerodha's clients log in."
    )
    zerodha_stream_url: str = Field(
        default="wss://ws.kite.trade", description="Kite Connect's stream, for order updates."
    )
    upstox_url: str = Field(default="https://api.upstox.com", description="Upstox's API.")
    upstox_orders_url: str = Field(default="https://api-hft.upstox.com", description="Upstox's API for orders.")
    dhan_url: str = Field(default="https://api.dhan.co/v2", description="Dhan's API.")
    dhan_stream_url: str = Field(
        default="wss://api-order-update.dhan.co", description="Dhan's stream of order updates."
    )
    dhan_login_url: str = Field(default="https://auth.dhan.co", description="Where Dhan's clients log in.")
    cycle_interval_s: int = Field(
        default=60, ge=5, le=3600, description="Market seconds from one planned tick to the next."
    )
    reconcile_interval_s: float = Field(
        default=5.0, gt=0, description="Real seconds between reconciliations of orders."
    )
    positions_interval_s: float = Field(
        default=45.0, gt=0, description="Real seconds between comparisons of positions and funds with the brokers."
    )
    shards: int = Field(default=4, ge=1, le=256, description="Shares into which a cycle splits its users.")
    horizon_sessions: int = Field(
        default=10, ge=1, le=60, description="Sessions a trade may last; the model must know it."
    )
    order_rest_s_max: int = Field(
        default=600, ge=1, description="Market seconds an order may rest before its remainder is cancelled."
    )
    quote_age_s_max: float = Field(
        default=10.0, gt=0, description="Oldest quote, in market seconds, an order may rely on."
    )
    order_value_rupees_max: int = Field(default=1_000_000, gt=0, description="Largest single entry in rupees.")
    open_value_rupees_max: int = Field(
        default=10_000_000, gt=0, description="Largest value of one account's positions and open orders in rupees."
    )
    day_loss_percent_max: float = Field(
        default=2.0, gt=0, le=100, description="Percent of an account's funds that a day may cost; then exits only."
    )
    cluster_positions_max: int = Field(
        default=3, ge=1, description="Most trades a user may hold in shares that move together."
    )
    live_trading: bool = Field(
        default=False, description="The deployment's switch for real orders, besides ENVIRONMENT=live."
    )
    gather_timeout_s: float = Field(
        default=5.0, gt=0, description="Total deadline for one batch of quotes or predictions."
    )
    paper_deposit_rupees: int = Field(default=500_000, gt=0, description="Play money of a new paper account in rupees.")
    cors_origins: list[str] = Field(
        default=[], description="Origins of web frontends that may call the API, as a JSON list."
    )
    decisions_kept_days: int = Field(
        default=30, ge=1, description="Market days that decisions and cycle inputs are kept."
    )
    backtest_workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Backtests that `python -m backend.backtest` runs at once, each in a process.",
    )
    backtest_memory_mb_max: int = Field(
        default=4096, ge=256, description="Address space of one backtest's process, in MB; it fails beyond."
    )
    backtest_seconds_max: int = Field(
        default=900, ge=10, description="Real seconds that one backtest may take, not counting the wait for models."
    )
    backtests_kept_days: int = Field(default=90, ge=1, description="Real days that a finished backtest is kept.")
    backtests_kept_per_user: int = Field(
        default=200, ge=1, description="Finished backtests kept of one user; older ones are dropped."
    )

    @property
    def risk_limits(self) -> RiskLimits:
        """The limits of every decision, in a backtest as in trading."""
        return RiskLimits(
            quote_age_s_max=self.quote_age_s_max,
            order_value_rupees_max=Decimal(self.order_value_rupees_max),
            cluster_positions_max=self.cluster_positions_max,
        )

    @property
    def gate_limits(self) -> GateLimits:
        """The limits of every send."""
        return GateLimits(open_value_rupees_max=Decimal(self.open_value_rupees_max))

    @property
    def day_loss_fraction_max(self) -> Decimal:
        """What a day may cost of an account's funds."""
        return Decimal(str(self.day_loss_percent_max)) / 100
