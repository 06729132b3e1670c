"""What `sauda backtest` starts: data_service and ml_service of its own, and no database."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path

from rich.console import Console

from backend.backtest.request import Asked
from backend.domain.calendar import standard_calendar
from contracts.common import Environment
from contracts.predictions import WALK_FORWARD
from sauda.embedded import hold_folder
from sauda.private_services import private_services
from sauda.processes import stop_all

SIM_SPEED_SLOW = "1"
STOP_TIMEOUT_S = 7.0


def environment_of(data_dir: Path, wanted: Environment | None, console: Console) -> Environment:
    """The market to look at: the imported bars where there are any, unless another is wanted; says so when not."""
    if wanted is Environment.LIVE:
        raise ValueError("--environment live: a backtest reads recorded bars, choose paper or simulated")
    recorded = data_dir / "market" / "recorded"
    imported = bool(os.environ.get("INFLUXDB_URL")) or any(recorded.rglob("bars-*.parquet"))
    if wanted is Environment.PAPER and not imported:
        raise ValueError(f"no bars are imported in {data_dir}: load them with `sauda data import FILE`")
    if wanted is not None:
        return wanted
    if not imported:
        console.print(f"No bars are imported in {data_dir}: this is the [bold]simulated[/] market.", highlight=False)
    return Environment.PAPER if imported else Environment.SIMULATED


@contextmanager
def backtest_stack(
    data_dir: Path, environment: Environment, asked: Asked, console: Console
) -> Iterator[tuple[dict[str, str], Path]]:
    """Both services while the block runs: where they are, and the folder of what backtests keep.

    A registered model lives in the data folder itself, which must then be free.

    Raises:
        DataFolderError, ServiceFailedError: something stands in the way.
    """
    own = data_dir / "backtests"
    simulated = environment is Environment.SIMULATED
    with ExitStack() as held:
        held.enter_context(hold_folder(own))
        if asked.model != WALK_FORWARD:
            held.enter_context(hold_folder(data_dir))
        if simulated:
            # The clock is this command's alone and begins where it is asked to, whatever an earlier run asked for.
            (own / "market" / "simulated" / "clock.json").unlink(missing_ok=True)
        # Not right after the last day: backtests of one year then share the models that were trained for it.
        start = min(date(asked.spec.last.year + 1, 1, 1), date(max(standard_calendar().years), 12, 1))
        urls, data, ml = private_services(
            environment,
            own if simulated else data_dir,
            own if asked.model == WALK_FORWARD else data_dir,
            own / "logs",
            data_settings={"SIM_START": start.isoformat(), "SIM_SPEED": SIM_SPEED_SLOW} if simulated else None,
        )
        try:
            with console.status("Starting data_service and ml_service ..."):
                data.start()
                data.wait_healthy(60)
                ml.start()
                ml.wait_healthy(30)
            yield urls, own
        finally:
            stop_all([data, ml], STOP_TIMEOUT_S)
