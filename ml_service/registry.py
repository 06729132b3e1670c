"""The model registry: content-addressed folders of plain JSON that are proven whole before a byte is parsed.

`models/<version>/` holds model.json, calibration.json, manifest.json and SHA256SUMS; the version is the SHA-256 of
SHA256SUMS, so the folder's name vouches for every byte in it. `models/current.<environment>.json` maps a horizon to
a version. Nothing is pickled.
"""

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from contracts.common import Environment
from ml_service.calibrate import Calibration
from ml_service.features import features_hash
from ml_service.model import LOGIC_VERSION, LinearModel

FILES = ("calibration.json", "manifest.json", "model.json")
SUMS = "SHA256SUMS"
FILE_BYTES_MAX = 4_000_000
VERSION_CHARS = 12
_VERSION = re.compile(r"[0-9a-f]{64}")


class ArtefactError(Exception):
    """A registered model cannot be trusted or used; the message says why."""


@dataclass(frozen=True)
class Artefact:
    """A verified model with its calibration and manifest."""

    sha256: str
    model: LinearModel
    calibration: Calibration
    manifest: dict[str, Any]

    @property
    def version(self) -> str:
        return self.sha256[:VERSION_CHARS]

    @property
    def trained_through(self) -> date:
        return date.fromisoformat(self.manifest["trained_through"])

    @property
    def calibrated_through(self) -> date:
        return date.fromisoformat(self.manifest["calibrated_through"])

    @property
    def horizon_sessions(self) -> int:
        return int(self.manifest["horizon_sessions"])

    @property
    def certified_modes(self) -> list[str]:
        return [name for name, mode in self.manifest["modes"].items() if mode["certified"]]


def canonical_json(data: dict[str, Any]) -> bytes:
    """One byte sequence per value: sorted keys, no NaN."""
    return json.dumps(data, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Registry:
    """The models under one data folder. Safe for one writer and many readers; verified models are kept in memory."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir / "models"
        self._verified: dict[str, Artefact] = {}

    def register(self, model: LinearModel, calibration: Calibration, manifest: dict[str, Any]) -> Artefact:
        """Write the artefact as a whole or not at all; the same content is one version, and mends a damaged one."""
        contents = {
            "model.json": canonical_json(model.to_json()),
            "calibration.json": canonical_json(calibration.to_json()),
            "manifest.json": canonical_json(manifest),
        }
        sums = "".join(f"{_sha256(contents[name])}  {name}\n" for name in FILES).encode()
        version = _sha256(sums)
        try:
            return self.load(version)
        except ArtefactError:  # not there yet, or no longer whole
            self._replace(version, contents | {SUMS: sums})
        return self.load(version)

    def _replace(self, version: str, contents: dict[str, bytes]) -> None:
        draft = self.root / f".draft-{version}-{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        for name, data in contents.items():
            _write(draft / name, data)
        shutil.rmtree(self.root / version, ignore_errors=True)
        draft.rename(self.root / version)
        _fsync_folder(self.root)

    def promote(self, artefact: Artefact) -> None:
        """Make the artefact current for its environment and horizon, atomically."""
        environment = Environment(artefact.manifest["environment"])
        pointer = self._pointer(environment)
        current = self.current(environment) | {artefact.horizon_sessions: artefact.sha256}
        draft = pointer.with_name(f".{pointer.name}-{os.getpid()}")
        _write(draft, canonical_json({str(horizon): sha256 for horizon, sha256 in current.items()}))
        draft.replace(pointer)
        _fsync_folder(self.root)

    def current(self, environment: Environment) -> dict[int, str]:
        """Current version per horizon. Raises ArtefactError where the pointer file is unreadable."""
        try:
            entries = json.loads(self._pointer(environment).read_bytes())
            return {int(horizon): str(sha256) for horizon, sha256 in entries.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, OSError) as error:
            raise ArtefactError(f"{self._pointer(environment).name} is unreadable") from error

    def versions(self) -> list[str]:
        """Full versions of all registered folders, verified or not."""
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if _VERSION.fullmatch(path.name))

    def load(self, sha256: str) -> Artefact:
        """The verified artefact. Raises ArtefactError: missing, incomplete, changed, or of other features or logic.

        A folder is verified when first used; what is in memory afterwards cannot be changed through the disk.
        """
        if sha256 not in self._verified:
            self._verified[sha256] = self._verify(sha256)
        return self._verified[sha256]

    def usable(self) -> list[Artefact]:
        """All artefacts that pass verification, oldest training first."""
        found = []
        for version in self.versions():
            try:
                found.append(self.load(version))
            except ArtefactError:
                continue
        return sorted(found, key=lambda artefact: (artefact.trained_through, artefact.sha256))

    def _pointer(self, environment: Environment) -> Path:
        return self.root / f"current.{environment.value}.json"

    def _verify(self, sha256: str) -> Artefact:
        if not _VERSION.fullmatch(sha256):
            raise ArtefactError("a version is 64 hexadecimal digits")
        contents = self._read_proven(sha256)
        try:
            manifest = json.loads(contents["manifest.json"])
            model = LinearModel.from_json(json.loads(contents["model.json"]))
            calibration = Calibration.from_json(json.loads(contents["calibration.json"]))
            features, logic = manifest["features_hash"], manifest["logic_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise ArtefactError(f"{sha256[:VERSION_CHARS]} is not of this registry's format") from error
        if logic != LOGIC_VERSION:
            raise ArtefactError(
                f"{sha256[:VERSION_CHARS]} was trained under logic {logic}, this is {LOGIC_VERSION}: "
                "train again with `sauda ml train`"
            )
        if features != features_hash():
            raise ArtefactError(f"{sha256[:VERSION_CHARS]} was trained on other features than this code computes")
        return Artefact(sha256, model, calibration, manifest)

    def _read_proven(self, sha256: str) -> dict[str, bytes]:
        folder, short = self.root / sha256, sha256[:VERSION_CHARS]
        try:
            sums = self._read(folder / SUMS)
            if _sha256(sums) != sha256:
                raise ArtefactError(f"{short}: {SUMS} does not match the version")
            listed = dict(line.split("  ", 1)[::-1] for line in sums.decode().splitlines())
            if tuple(sorted(listed)) != FILES:
                raise ArtefactError(f"{short}: {SUMS} lists other files than a model has")
            contents = {name: self._read(folder / name) for name in FILES}
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise ArtefactError(f"{short} is incomplete: {type(error).__name__}") from error
        for name, data in contents.items():
            if _sha256(data) != listed[name]:
                raise ArtefactError(f"{short}: {name} was changed after registration")
        return contents

    @staticmethod
    def _read(path: Path) -> bytes:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ArtefactError(f"{path.name} is larger than {FILE_BYTES_MAX} bytes")
        return path.read_bytes()
