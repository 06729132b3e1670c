"""Logging: JSON lines for machines in a file or on stderr, and one readable line per thing that matters on stdout."""

import logging
import re
import sys
from pathlib import Path
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

HIDDEN = "[hidden]"
_SECRET_NAME = re.compile(
    r"password|secret|token|authorization|cookie|credential|api_?key|master_?key|private_?key|otp\b|recovery",
    re.IGNORECASE,
)
"""Names of what is never logged, wherever it stands."""
_SECRET_TEXT = re.compile(
    r"(?i:\b(?:bearer|basic)\s+)[\w.~+/=-]{8,}"  # an Authorization header
    r"|\beyJ[\w-]{8,}\.[\w-]+\.[\w-]+"  # a JSON web token
    r"|\bsauda_\w{4,}_[\w-]{20,}"  # an API key
    r"|(?<=://)[^\s/:@]*:[^\s/@]+(?=@)"  # user and password of a URL
    r"|(?<=[?&])(?:token|code|password|key)=[^&\s\"']+"  # a link's token
)
"""Texts that are secrets by their form, also in the middle of another."""


def hide_secrets(_: WrappedLogger | None, __: str, event: EventDict) -> EventDict:
    """A structlog processor: what is a secret by its name or its form becomes HIDDEN, at any depth."""
    return {name: HIDDEN if _SECRET_NAME.search(name) else _hidden(value) for name, value in event.items()}


def _hidden(value: Any) -> Any:
    if isinstance(value, str):
        return _SECRET_TEXT.sub(HIDDEN, value)
    if isinstance(value, dict):
        return hide_secrets(None, "", value)
    return [_hidden(part) for part in value] if isinstance(value, list | tuple | set) else value


class _HidingFormatter(logging.Formatter):
    """The standard library's records, their texts and tracebacks without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return _SECRET_TEXT.sub(HIDDEN, super().format(record))


def configure(level: str, log_file: Path | None) -> None:
    """Send structured logs to `log_file`, or to stderr where it is None. The console stays for `announce`."""
    stream = log_file.open("a", encoding="utf-8", buffering=1) if log_file else sys.stderr
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            hide_secrets,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_HidingFormatter('{"level":"%(levelname)s","logger":"%(name)s","event":%(message)r}'))
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
