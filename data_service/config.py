"""The settings of data_service, read from the environment in the composition root and nowhere else."""

from datetime import date
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.common import Environment


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

    @property
    def simulated_dir(self) -> Path:
        """The simulated market's cache and clock."""
        return self.data_dir / "market" / "simulated"

    @property
    def recorded_dir(self) -> Path:
        """The imported bars."""
        return self.data_dir / "market" / "recorded"
