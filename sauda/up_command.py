"""`sauda up` on the command line: its options, and one line where it cannot start."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from contracts.common import Environment
from sauda.embedded import DataFolderError
from sauda.up import Options, StartError
from sauda.up import up as run


def up(
    port: Annotated[int, typer.Option(min=1, max=65533, help="The gateway's port.")] = 8000,
    ml_port: Annotated[int | None, typer.Option(help="ml_service's port (default: the gateway's + 1).")] = None,
    data_port: Annotated[int | None, typer.Option(help="data_service's port (default: the gateway's + 2).")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    data_dir: Annotated[Path, typer.Option(help="Folder for everything that is kept.")] = Path("data"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated market.")] = 7,
    speed: Annotated[float, typer.Option(min=1, max=3600, help="Market seconds per real second.")] = 60.0,
    edge: Annotated[float, typer.Option(min=0, max=1, help="Planted predictability: 0 none, 1 all.")] = 1.0,
    environment: Annotated[Environment, typer.Option(help="simulated, or paper on recorded data.")] = (
        Environment.SIMULATED
    ),
) -> None:
    """Start everything on this machine and trade, until Ctrl-C."""
    console = Console()
    options = Options(
        data_dir=data_dir,
        port=port,
        ml_port=ml_port or port + 1,
        data_port=data_port or port + 2,
        host=host,
        seed=seed,
        speed=speed,
        edge=edge,
        environment=environment,
    )
    try:
        run(options, console)
    except (StartError, DataFolderError) as error:
        console.print(f"[red]Sauda cannot start:[/] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
