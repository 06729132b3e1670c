"""The shipped model made again from the same market: the same bytes, whoever makes it."""

import gzip
import json
import tempfile
from pathlib import Path

from ml_service import shipped
from ml_service.walkforward import Progress
from tests.evaluation.claims import Claim, nothing
from tests.evaluation.ship import made


def differences(one: Path, other: Path) -> list[str]:
    """The parts of two model files that are not the same. Versions of libraries are told, and decide nothing."""
    first, second = (json.loads(gzip.decompress(path.read_bytes())) for path in (one, other))
    parts = [part for part in ("models", "calibrations") if first[part] != second[part]]
    told, again = (content["manifest"] | {"versions": None} for content in (first, second))
    return parts + [f"manifest: {key}" for key in sorted(told.keys() | again.keys()) if told.get(key) != again.get(key)]


def claims(progress: Progress) -> list[Claim]:
    """Every number of the file, and the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json.gz"
        made(path, progress)
        same = path.read_bytes() == shipped.FILE.read_bytes()
        return [
            nothing("differences of the shipped model, made again", differences(shipped.FILE, path)),
            Claim(
                "the file's bytes", "the same" if same else "others", "the same, by the same versions", same, aim=True
            ),
        ]
