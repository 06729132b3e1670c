"""A data_service and an ml_service of one's own, on free ports, for a command that needs a market and no `sauda up`."""

import socket
from collections.abc import Mapping
from pathlib import Path

from contracts.common import Environment
from sauda.processes import Service


def private_services(
    environment: Environment,
    data_dir: Path,
    ml_dir: Path,
    logs: Path,
    *,
    data_settings: Mapping[str, str] | None = None,
) -> tuple[dict[str, str], Service, Service]:
    """The services, not started yet, and the variables that tell where they are.

    Args:
        data_dir, ml_dir: the folder of the market's data, and that of models and what else ml_service keeps.
        data_settings: more variables for data_service.
    """
    data_port, ml_port = free_port(), free_port()
    urls = {
        "ENVIRONMENT": environment.value,
        "DATA_SERVICE_URL": f"http://127.0.0.1:{data_port}",
        "ML_SERVICE_URL": f"http://127.0.0.1:{ml_port}",
    }
    own = {"DATA_DIR": str(data_dir), "DATA_SERVICE_HOST": "127.0.0.1", "DATA_SERVICE_PORT": str(data_port)}
    data = Service(
        "data_service",
        "data_service",
        {**urls, **(data_settings or {}), **own},
        f"{urls['DATA_SERVICE_URL']}/health",
        logs / "data_service.log",
    )
    ml = Service(
        "ml_service",
        "ml_service",
        urls | {"DATA_DIR": str(ml_dir), "ML_SERVICE_HOST": "127.0.0.1", "ML_SERVICE_PORT": str(ml_port)},
        f"{urls['ML_SERVICE_URL']}/health",
        logs / "ml_service.log",
    )
    return urls, data, ml


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
