"""Train the model that is shipped, on the default simulated market: `make default-model`."""

import tempfile
from datetime import date
from pathlib import Path

from rich.console import Console

from ml_service.registry import Registry
from ml_service.shipped import FILE, write
from ml_service.train import train_and_register
from tests.evaluation.market import simulated_market

THROUGH = date(2023, 12, 29)
"""The last session before the simulated market's default start."""


def main() -> None:
    console = Console()
    with tempfile.TemporaryDirectory() as folder, simulated_market() as url:
        artefact, _ = train_and_register(
            data_service_url=url,
            registry=Registry(Path(folder)),
            through=THROUGH,
            progress=lambda done, total, what: console.print(f"{done}/{total} {what}"),
        )
        write(artefact)
    console.print(f"{FILE.name}: {artefact.version}, certified for {', '.join(artefact.certified_modes) or 'no mode'}")


if __name__ == "__main__":
    main()
