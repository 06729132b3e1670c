"""Where `sauda backtest` writes: names that tell backtests apart, and paths that are tried before the work."""

from pathlib import Path

import structlog

from backend.backtest.request import Asked
from contracts.common import Environment
from sauda.backtest_sweep import hash_of

SHARES_NAMED_MAX = 3
DIGITS = 6


def report_name(asked: Asked, market: Environment) -> str:
    """The report's name: readable, and another one for whatever else is asked."""
    shares = asked.universe.split(",")
    universe = "+".join(shares) if len(shares) <= SHARES_NAMED_MAX else f"{len(shares)}-shares"
    what = (
        ["sweep", *asked.sweep] if asked.sweep else ["+".join(dict.fromkeys(t.mode.value for t in asked.spec.traders))]
    )
    digest = hash_of((asked, market.value)).hex()[:DIGITS]
    parts = (*what, universe.replace(":", ""), str(asked.spec.first), str(asked.spec.last), digest)
    return "-".join(parts) + ".html"


def record_fault(error: Exception, log_file: Path) -> None:
    """Add the traceback to a log, as a line of JSON like the others. Raises OSError."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    as_json = (
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    )
    with log_file.open("a", encoding="utf-8") as file:
        logger = structlog.wrap_logger(structlog.WriteLogger(file), as_json, structlog.BoundLogger)
        logger.error("backtest_broke_off", exc_info=error, level="error")


def require_writable(option: str, path: Path) -> None:
    """Make the folder and try the file, which stays as it is, or away.

    Raises:
        OSError: it cannot be written; one line that names the option.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
        with path.open("ab"):
            pass
        if not there:
            path.unlink()
    except OSError as error:
        raise OSError(f"{option} {path} cannot be written ({error.strerror}): give another path") from error
