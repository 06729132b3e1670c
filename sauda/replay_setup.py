"""What a replay needs before its first tick: recorded bars, a model that knows nothing later, and a user per mode."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from backend.db import OPERATOR_ROLE, create_engine, create_sessions
from backend.domain.calendar import IST, Session
from backend.domain.market import StockClass
from backend.domain.modes import Mode
from backend.models import User
from contracts.market import BarsReply, BarsRequest, Interval
from sauda.paper_user import create_paper_user

PLAN = "enterprise"


class ReplayError(Exception):
    """The replay cannot start; the message is one line that names the fix."""


def require_bars(data_service_url: str, symbols: list[str], first: date, last: date) -> None:
    """Make sure that every symbol has intraday bars in the days to replay.

    Raises:
        ReplayError: some have none.
    """
    end = datetime.combine(last, datetime.max.time(), tzinfo=IST)
    body = BarsRequest(symbols=symbols, interval=Interval.MIN_5, from_=first, through=last, as_of=end, adjusted=False)
    response = httpx.post(
        f"{data_service_url}/v1/bars",
        content=body.model_dump_json(by_alias=True),
        headers={"content-type": "application/json"},
        timeout=60,
    )
    if not response.is_success:
        raise ReplayError(f"data_service refused: {response.json().get('detail', response.status_code)}")
    reply = BarsReply.model_validate_json(response.content)
    lacking = [symbol for symbol in symbols if symbol not in reply.series]
    if lacking:
        raise ReplayError(
            f"no five-minute bars of {', '.join(lacking)} between {first} and {last}: "
            "load them with `sauda data import FILE`"
        )


def train_before(first: date, data_service_url: str, registry_dir: Path, console: Console) -> None:
    """Train a model through the day before `first` in the replay's own registry, unless the same one stands there.

    Raises:
        ReplayError: there is not enough history.
    """
    from ml_service.client import DataServiceError  # noqa: PLC0415 - takes seconds to import
    from ml_service.registry import ArtefactError, Registry  # noqa: PLC0415
    from ml_service.train import TrainingError, train_and_register  # noqa: PLC0415

    columns = (
        TextColumn(f"Training through {first - timedelta(days=1)}"),
        BarColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        try:
            artefact, _ = train_and_register(
                data_service_url=data_service_url,
                registry=Registry(registry_dir),
                through=first - timedelta(days=1),
                progress=lambda done, total, what: bar.update(task, completed=done, total=total, description=what),
                keep_folds=True,  # the same days are often replayed again
            )
        except (TrainingError, DataServiceError, ArtefactError) as error:
            raise ReplayError(f"no model can be trained: {error}; load daily bars with `sauda data import`") from error
    modes = ", ".join(artefact.certified_modes) or "no mode"
    console.print(f"Model {artefact.version}, trained through {artefact.trained_through}, certified for {modes}.")


async def create_users(
    database_url: str, modes: list[Mode], symbols: list[str], capital: Decimal, first: Session
) -> None:
    """One user per mode on the largest plan, each with a paper account of `capital` rupees."""
    opens = first.continuous_open(StockClass.NON_CAS)
    engine = create_engine(database_url, role=OPERATOR_ROLE, pool_size=1)
    async with create_sessions(engine).begin() as session:
        for mode in modes:
            user = User(email=f"{mode}@replay.sauda.example", name=f"Replay {mode}")
            await create_paper_user(session, user, plan=PLAN, mode=mode, symbols=symbols, rupees=capital, at=opens)
    await engine.dispose()
