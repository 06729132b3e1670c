"""`python -m backend`: the gateway on its own."""

import sys
from pathlib import Path

import uvicorn
from pydantic import ValidationError

from backend import log
from backend.config import Settings
from backend.main import create_app


def log_file(settings: Settings, name: str) -> Path | None:
    """A process started in a data folder logs beside its data; anywhere else, to stderr."""
    folder = settings.data_dir / "logs"
    return folder / f"{name}.log" if folder.is_dir() else None


def main() -> None:
    try:
        settings = Settings()
        log.configure(settings.log_level, log_file(settings, "gateway"))
        app = create_app(settings)
    except (ValidationError, ValueError) as error:
        sys.exit(f"The gateway cannot start: {error}")
    uvicorn.run(app, host=settings.gateway_host, port=settings.gateway_port, log_config=None, access_log=False)


if __name__ == "__main__":
    main()
