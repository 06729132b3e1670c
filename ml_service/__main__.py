"""`python -m ml_service`: serve predictions, the only place that reads the environment and the real clock."""

import logging
from datetime import UTC, datetime

import structlog
import uvicorn

from ml_service.config import Settings
from ml_service.main import create_app


def main() -> None:
    """Read the settings and serve until stopped."""
    settings = Settings()  # pyright: ignore[reportCallIssue]
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    app = create_app(settings, lambda: datetime.now(UTC))
    uvicorn.run(
        app,
        host=settings.ml_service_host,
        port=settings.ml_service_port,
        log_level=settings.log_level.lower(),
        access_log=False,
    )


if __name__ == "__main__":
    main()
