"""Train the model that is shipped, on the default simulated market: `make default-model`."""

import tempfile
from datetime import date
from pathlib import Path

from rich.console import Console

from ml_service.registry import Artefact, Registry
from ml_service.shipped import FILE, write
from ml_service.train import train_and_register
from ml_service.walkforward import Progress
from tests.evaluation.market import simulated_market

THROUGH = date(2023, 12, 29)
"""The last session before the simulated market's default start."""


def made(path: Path, progress: Progress) -> Artefact:
    """Write the model of a fresh default market to `path`."""
    with tempfile.TemporaryDirectory() as folder, simulated_market() as url:
        artefact, _ = train_and_register(
            data_service_url=url, registry=Registry(Path(folder)), through=THROUGH, progress=progress
        )
        write(artefact, path)
    return artefact


def main() -> None:
    console = Console()
    artefact = made(FILE, lambda done, total, what: console.print(f"{done}/{total} {what}"))
    console.print(f"{FILE.name}: {artefact.version}, certified for {', '.join(artefact.certified_modes) or 'no mode'}")


if __name__ == "__main__":
    main()
