"""A command of `sauda admin` is quiet while it works, and leaves the log of its process as it was."""

import contextlib
import io
from pathlib import Path

import structlog

from backend import log
from sauda.admin_tools import run


def test_a_command_leaves_the_log_where_it_was(tmp_path: Path) -> None:
    log.configure("INFO", tmp_path / "log")
    used_within = structlog.get_logger()

    async def work() -> None:
        used_within.info("too small to be shown")
        used_within.error("shown")

    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        run(work())
    stderr.close()
    used_within.info("afterwards")

    written = (tmp_path / "log").read_text()
    assert "afterwards" in written
    assert "shown" not in written
