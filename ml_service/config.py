"""What ml_service reads from the environment, and nothing else does."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.common import Environment


class Settings(BaseSettings):
    """Settings of the prediction service; each is an environment variable of the same name, upper case."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    environment: Environment = Field(Environment.SIMULATED, description="simulated, paper or live.")
    data_dir: Path = Field(Path("./data"), description="Folder that holds `models/`, the model registry.")
    data_service_url: str = Field("http://127.0.0.1:8002", description="Where data_service answers.")
    ml_service_host: str = Field("127.0.0.1", description="Address to listen on.")
    ml_service_port: int = Field(8001, ge=1, le=65535, description="Port to listen on.")
    model_trusted_keys: str = Field(
        "",
        description="Public keys whose models are served, base64, comma-separated, beside this data folder's own key.",
    )
    log_level: str = Field("info", description="critical, error, warning, info or debug.")
    data_timeout_s: float = Field(
        10.0, gt=0, description="Total time one prediction may spend on asking data_service, however many requests."
    )
    cache_age_s_max: float = Field(
        600.0, gt=0, description="Real seconds after which computed predictions are refreshed (late or corrected bars)."
    )
    model_age_days_max: int = Field(400, ge=1, description="Days after `trained_through` at which a model abstains.")
    calibration_age_days_max: int = Field(
        120, ge=1, description="Days after the last calibrating outcome at which a model abstains."
    )
    scoreboard_interval_s: float = Field(
        60.0, gt=0, description="Real seconds between looks at whether predictions have matured."
    )
