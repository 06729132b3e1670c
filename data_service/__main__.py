"""Starts data_service by hand: `python -m data_service`."""

import sys

import uvicorn
from pydantic import ValidationError

from data_service.config import Settings
from data_service.errors import ConfigError
from data_service.main import create_app, real_clock
from data_service.sessions import SessionsFileError


def _settings_trouble(error: ValidationError) -> str:
    return "; ".join(f"{str(item['loc'][0]).upper()}: {item['msg']}" for item in error.errors())


def main() -> int:
    """Serve until stopped. Returns 2 with one line on stderr where settings or files do not allow a start."""
    try:
        settings = Settings()
        app = create_app(settings, real_clock)
    except ValidationError as error:
        sys.stderr.write(f"data_service cannot start: {_settings_trouble(error)}\n")
        return 2
    except (ConfigError, SessionsFileError, OSError) as error:
        sys.stderr.write(f"data_service cannot start: {error}\n")
        return 2
    uvicorn.run(
        app,
        host=settings.data_service_host,
        port=settings.data_service_port,
        log_level=settings.log_level.lower(),
        access_log=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
