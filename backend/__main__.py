"""`python -m backend`: the gateway on its own."""

import sys
from contextlib import suppress

from pydantic import ValidationError

from backend import log
from backend.api.server import GatewayServer
from backend.config import Settings
from backend.main import create_app, log_file

STARTUP_FAILED = 3
"""The exit code that uvicorn itself gives."""


def main() -> None:
    try:
        settings = Settings()
        log.configure(settings.log_level, log_file(settings, "gateway"))
        app = create_app(settings)
    except (ValidationError, ValueError) as error:
        sys.exit(f"The gateway cannot start: {error}")
    server = GatewayServer(app, settings.gateway_host, settings.gateway_port)
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again once it has stopped
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILED)


if __name__ == "__main__":
    main()
