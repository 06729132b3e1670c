"""`python -m backend`: the gateway on its own."""

import sys

import uvicorn
from pydantic import ValidationError

from backend import log
from backend.config import Settings
from backend.main import create_app, log_file


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
