"""The settings of data_service, read from the environment in the composition root and nowhere else."""

from datetime import date
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.common import Environment
from data_service.providers import bse, kite, kite_ticks, nse, upstox, yahoo

PROVIDERS = ("nse", "bse", "kite", "upstox", "yahoo")


class Settings(BaseSettings):
    """Environment variables carry the fields' names in upper case, without a prefix."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    environment: Environment = Field(
        default=Environment.SIMULATED, description="simulated: the generated market; paper and live: recorded bars."
    )
    data_dir: Path = Field(
        default=Path("data"), description="Folder of everything kept on disk; market data below market/."
    )
    data_service_host: str = Field(default="127.0.0.1", description="Address to listen on.")
    data_service_port: int = Field(default=8002, ge=1, le=65535, description="Port to listen on.")
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")
    sim_seed: int = Field(
        default=7, ge=0, description="Chooses the simulated market; the same seed is the same market."
    )
    sim_speed: float = Field(
        default=60.0, gt=0, le=100_000, allow_inf_nan=False, description="Market seconds per real second in a session."
    )
    sim_start: date = Field(
        default=date(2024, 1, 1), description="The simulated clock begins with the first session on or after this day."
    )
    sim_edge: float = Field(
        default=1.0, ge=0, le=1, allow_inf_nan=False, description="How much predictability is planted: 0 none, 1 all."
    )

    market_providers: str = Field(
        default="",
        description=f"Providers of market data in the order they are asked, of {', '.join(PROVIDERS)}; empty: none, "
        "only what is stored. Not used in the simulated market.",
    )
    provider_timeout_s: float = Field(
        default=2.0, gt=0, le=60, allow_inf_nan=False, description="Deadline for a quote, over all providers."
    )
    quote_age_s_max: float = Field(
        default=60.0, gt=0, allow_inf_nan=False, description="Older quotes of a running session are refused."
    )
    quote_refresh_s: float = Field(
        default=2.0, gt=0, allow_inf_nan=False, description="How long a quote is served before it is asked for again."
    )
    kite_api_key: str = Field(default="", description="Kite Connect key for market data.")
    kite_access_token: SecretStr = Field(default=SecretStr(""), description="Today's Kite session, for market data.")
    upstox_access_token: SecretStr = Field(
        default=SecretStr(""), description="Upstox's Analytics Token, valid for a year, for market data."
    )
    nse_archives_url: str = Field(default=nse.ARCHIVES_URL, description="NSE's end-of-day files.")
    nse_site_url: str = Field(default=nse.SITE_URL, description="NSE's corporate actions.")
    bse_archive_url: str = Field(default=bse.ARCHIVE_URL, description="BSE's end-of-day files.")
    yahoo_url: str = Field(default=yahoo.BASE_URL, description="Yahoo's chart API.")
    kite_url: str = Field(default=kite.BASE_URL, description="Kite Connect's API.")
    kite_ticker_url: str = Field(default=kite_ticks.TICKER_URL, description="Kite Connect's stream of ticks.")
    upstox_url: str = Field(default=upstox.BASE_URL, description="Upstox's API.")
    upstox_files_url: str = Field(default=upstox.FILES_URL, description="Upstox's lists of instruments.")
    influxdb_url: str = Field(default="", description="InfluxDB 2 that keeps the bars; empty: files in DATA_DIR.")
    influxdb_token: SecretStr = Field(default=SecretStr(""), description="Its token, allowed to read and write.")
    influxdb_org: str = Field(default="sauda", description="Its organisation.")
    influxdb_bucket: str = Field(default="sauda", description="Its bucket.")
    redis_url: str = Field(
        default="", description="Redis through which several data_services share quotes; empty: each has its own."
    )
    retention_days_1m: int = Field(
        default=400, ge=0, description="Minute bars older than this are made five-minute bars and dropped; 0: never."
    )

    @field_validator("market_providers")
    @classmethod
    def _known_providers(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",") if name.strip()]
        if unknown := sorted(set(names) - set(PROVIDERS)):
            raise ValueError(f"no such provider: {', '.join(unknown)}")
        if len(set(names)) < len(names):
            raise ValueError("a provider is named twice")
        return ",".join(names)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if "kite" in self.providers and not (self.kite_api_key and self.kite_access_token.get_secret_value()):
            raise ValueError("MARKET_PROVIDERS names kite: set KITE_API_KEY and KITE_ACCESS_TOKEN")
        if "upstox" in self.providers and not self.upstox_access_token.get_secret_value():
            raise ValueError("MARKET_PROVIDERS names upstox: set UPSTOX_ACCESS_TOKEN")
        return self

    @property
    def providers(self) -> tuple[str, ...]:
        """The providers' names, in order."""
        return tuple(filter(None, self.market_providers.split(",")))

    @property
    def simulated_dir(self) -> Path:
        """The simulated market's cache and clock."""
        return self.data_dir / "market" / "simulated"

    @property
    def recorded_dir(self) -> Path:
        """The imported bars."""
        return self.data_dir / "market" / "recorded"
