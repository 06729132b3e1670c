"""Logging: JSON lines for machines in a file or on stderr, and one readable line per thing that matters on stdout."""

import logging
import sys
from pathlib import Path

import structlog


def configure(level: str, log_file: Path | None) -> None:
    """Send structured logs to `log_file`, or to stderr where it is None. The console stays for `announce`."""
    stream = log_file.open("a", encoding="utf-8", buffering=1) if log_file else sys.stderr
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter('{"level":"%(levelname)s","logger":"%(name)s","event":%(message)r}'))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # These two narrate every tick and every request; their warnings are kept.
    for noisy in ("apscheduler", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def file_in(data_dir: Path, name: str) -> Path | None:
    """Where a process of that name logs: beside the data of a data folder; None, so stderr, where that has no logs."""
    folder = data_dir / "logs"
    return folder / f"{name}.log" if folder.is_dir() else None


def announce(line: str) -> None:
    """Print one line for the person watching."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
