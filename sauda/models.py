"""The first model: trained on the simulated market when no usable one is current, with a progress bar."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from contracts.common import Environment
from contracts.predictions import HORIZON_SESSIONS_DEFAULT
from sauda.embedded import DataFolderError
from sauda.processes import ServiceFailedError


def ensure_model(data_dir: Path, data_service_url: str, console: Console) -> None:
    """Train and register a model unless the current one is whole and of this code's features and logic.

    Raises:
        ServiceFailedError: there is not enough data, or data_service did not answer.
        DataFolderError: which model is current cannot be read, or the signing key cannot be used.
    """
    # Imported here: polars and scikit-learn take seconds, and only a first start needs them.
    from ml_service.client import DataServiceError  # noqa: PLC0415
    from ml_service.config import Settings  # noqa: PLC0415
    from ml_service.predict import Ages  # noqa: PLC0415
    from ml_service.registry import ArtefactError, Registry  # noqa: PLC0415
    from ml_service.shipped import adopt  # noqa: PLC0415
    from ml_service.train import TrainingError, train_and_register  # noqa: PLC0415

    registry = Registry(data_dir)
    try:
        current = registry.current(Environment.SIMULATED).get(str(HORIZON_SESSIONS_DEFAULT))
    except ArtefactError as error:
        raise DataFolderError(f"{error}: remove it from {registry.root}, and a model is trained anew") from error
    try:
        if current is not None:
            registry.load(current)
            return
    except ArtefactError as error:
        console.print(f"The current model is not used: {error}", highlight=False)
    settings = Settings()  # pyright: ignore[reportCallIssue]
    ages = Ages(settings.model_age_days_max, settings.calibration_age_days_max)
    try:
        if (shipped := adopt(data_service_url, registry, ages)) is not None:
            modes = ", ".join(shipped.certified_modes) or "no mode"
            console.print(f"Using the shipped model {shipped.version} of this very market; certified for {modes}.")
            return
    except ArtefactError as error:
        raise DataFolderError(str(error)) from error
    except (TrainingError, DataServiceError) as error:
        raise ServiceFailedError(f"the market's history could not be read: {error}") from error
    columns = (TextColumn("Training a model"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("fetching bars", total=None)

        def progress(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        try:
            artefact, _ = train_and_register(data_service_url=data_service_url, registry=registry, progress=progress)
        except ArtefactError as error:
            raise DataFolderError(str(error)) from error
        except (TrainingError, DataServiceError) as error:
            raise ServiceFailedError(f"the first model could not be trained: {error}") from error
    modes = ", ".join(artefact.certified_modes) or "no mode"
    console.print(
        f"Trained model {artefact.version} on sessions through {artefact.trained_through}; certified for {modes}."
    )
