"""`.env.example`, generated from the settings classes of the three services, so that it cannot go stale."""

import textwrap

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from backend.config import Settings as GatewaySettings
from data_service.config import Settings as DataSettings
from ml_service.config import Settings as MlSettings

SERVICES: tuple[tuple[str, type[BaseSettings]], ...] = (
    ("gateway and trader", GatewaySettings),
    ("ml_service", MlSettings),
    ("data_service", DataSettings),
)


def env_example() -> str:
    """Every variable once, under the first service that reads it, with its meaning and its default."""
    lines = ["# Every variable Sauda reads, with its default. Generated: change the settings classes, `make generate`."]
    seen: set[str] = set()
    for service, settings in SERVICES:
        lines += ["", f"# ---- {service} " + "-" * (80 - len(service))]
        for name, field in settings.model_fields.items():
            if name in seen:
                continue
            seen.add(name)
            lines += ["", *(f"# {line}" for line in textwrap.wrap(field.description or "", 110))]
            lines.append(f"{name.upper()}={_text(field.default)}")
    return "\n".join(lines) + "\n"


def _text(default: object) -> str:
    if default is None:
        return ""
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if isinstance(default, list):
        return "[]"
    return str(default)
