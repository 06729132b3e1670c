"""The model that comes with Sauda: trained on the simulated market, and used on that very market only.

One file, `shipped_model.json.gz`, made by `make default-model`. It is adopted only where data_service's bars are,
to the last bit, those it was trained on: another seed, another edge or other prices are another market, and need a
training.
"""

import asyncio
import gzip
import json
import zlib
from datetime import date, datetime
from pathlib import Path

from ml_service.calibrate import Calibration
from ml_service.client import IST, DataServiceClient
from ml_service.features import features_hash
from ml_service.lifecycle import TRAINING, promote
from ml_service.model import LOGIC_VERSION, model_from_json
from ml_service.predict import Ages, too_old
from ml_service.registry import Artefact, ArtefactError, Registry, canonical_json
from ml_service.train import TRAIN_CALL_TIMEOUT_S, Trained, data_hash, fetch_bars, no_progress

FILE = Path(__file__).parent / "shipped_model.json.gz"
FILE_BYTES_MAX = 16_000_000


def write(artefact: Artefact, path: Path = FILE) -> None:
    """Write a registered model as the one to ship; the same model gives the same bytes."""
    content = {
        "models": {name: model.to_json() for name, model in artefact.models.items()},
        "calibrations": {name: one.to_json() for name, one in artefact.calibrations.items()},
        "manifest": artefact.manifest | {"git_commit": None},
    }
    path.write_bytes(gzip.compress(canonical_json(content), 9, mtime=0))


def read(path: Path = FILE) -> Trained | None:
    """The shipped model, or None where there is none or it is of other features or another logic than this code's.

    Raises ArtefactError where the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with gzip.open(path) as file:
            content = json.loads(file.read(FILE_BYTES_MAX))
        manifest = content["manifest"]
        if (manifest["features_hash"], manifest["logic_version"]) != (features_hash(), LOGIC_VERSION):
            return None
        models = {name: model_from_json(data) for name, data in content["models"].items()}
        calibrations = {name: Calibration.from_json(data) for name, data in content["calibrations"].items()}
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(f"{path.name} is damaged: restore it, or make it with `make default-model`") from error
    return Trained(models, calibrations, manifest)


def adopt(data_service_url: str, registry: Registry, ages: Ages, path: Path = FILE) -> Artefact | None:
    """Register the shipped model and make it serve, or None where it does not fit the market or its day.

    Runs its own event loop: call it from a plain thread. Raises DataServiceError, ArtefactError.
    """
    trained = read(path)
    if trained is None:
        return None
    manifest = trained.manifest
    first, through = date.fromisoformat(manifest["train_from"]), date.fromisoformat(manifest["trained_through"])

    async def look() -> tuple[datetime, tuple[str, str]]:
        async with DataServiceClient(data_service_url, TRAIN_CALL_TIMEOUT_S) as client:
            now = (await client.clock()).now
            found = await fetch_bars(client, None, first, through, no_progress)
            environment = found.source.environment.value if found.source else ""
            return now, (environment, data_hash(found.bars))

    now, market = asyncio.run(look())
    today = now.astimezone(IST).date()
    if market != (manifest["environment"], manifest["data_hash"]):
        return None
    if today <= through or too_old(Artefact("", trained.models, trained.calibrations, manifest), today, ages):
        return None
    artefact = registry.register(trained.models, trained.calibrations, manifest)
    promote(registry, artefact, at=now, by=TRAINING, reason="shipped with this version, for this very market")
    return artefact
