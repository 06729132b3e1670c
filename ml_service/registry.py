"""The model registry: signed, content-addressed folders of plain JSON that are proven whole before a byte is parsed.

`models/<version>/` holds models.json and calibration.json (one entry per strategy), manifest.json, SHA256SUMS and
SIGNATURE. The version is the SHA-256 of SHA256SUMS, so the folder's name vouches for every byte in it, and the
signature for who made it. Nothing is pickled. Which version serves is in pointers.py.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from contracts.common import Environment
from ml_service.calibrate import Calibration
from ml_service.features import features_hash
from ml_service.files import fsync_folder, locked, open_folder, read_bounded, write_new
from ml_service.intraday import features as opening_range
from ml_service.labels import BRACKET, COST_FRACTION
from ml_service.model import LOGIC_VERSION, STRATEGY, Model, model_from_json
from ml_service.pointers import INTRADAY, VERSION, PointerError, Pointers, Slot
from ml_service.signing import (
    SIGNATURE_BYTES_MAX,
    SigningError,
    ensure_key,
    key_id,
    load_key,
    sign,
    trusted_keys,
    verify,
)

FILES = ("calibration.json", "manifest.json", "models.json")
SUMS = "SHA256SUMS"
SIGNATURE = "SIGNATURE"
FILE_BYTES_MAX = 32_000_000
SUMS_BYTES_MAX = 1_000
VERSION_CHARS = 12
PLAN = {"bracket": BRACKET, "cost_fraction": COST_FRACTION}
"""What a daily model's certificates are of."""
DRAFT = ".draft-"


class ArtefactError(Exception):
    """A registered model cannot be trusted or used; the message says why and what to do."""


@dataclass(frozen=True)
class Artefact:
    """A verified model version: per strategy a model and its calibration, and the manifest that tells their record."""

    sha256: str
    models: dict[str, Model]
    calibrations: dict[str, Calibration]
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
    def environment(self) -> Environment:
        return Environment(self.manifest["environment"])

    @property
    def plan(self) -> str:
        """The plan it answers for: the horizon in sessions, unless the manifest names another."""
        return str(self.manifest.get("plan", self.horizon_sessions))

    def certified(self, strategy: str) -> list[str]:
        """The modes that may trade on a strategy, by its out-of-sample record."""
        modes = self.manifest["strategies"].get(strategy, {}).get("modes", {})
        return [name for name, mode in modes.items() if mode["certified"]]

    @property
    def certified_modes(self) -> list[str]:
        """The modes that may trade on the machine-learned strategy."""
        return self.certified(STRATEGY)


def canonical_json(data: Mapping[str, Any]) -> bytes:
    """One byte sequence per value: sorted keys, no NaN."""
    return json.dumps(data, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def code_of(plan: str) -> tuple[str, str, str]:
    """What this code answers a plan with: the strategy that is always there, its logic, and its features' hash."""
    if plan == INTRADAY:
        return opening_range.STRATEGY, opening_range.LOGIC_VERSION, opening_range.features_hash()
    return STRATEGY, LOGIC_VERSION, features_hash()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Registry:
    """The models under one data folder, for any number of readers and writers. Verified models stay in memory.

    A model is believed where its signature is by the folder's own key or by one of `trusted_keys_text`, the setting
    MODEL_TRUSTED_KEYS. Raises ArtefactError where that is no list of keys.
    """

    def __init__(self, data_dir: Path, trusted_keys_text: str = "") -> None:
        self.root = data_dir / "models"
        self.pointers = Pointers(self.root)
        self._data_dir = data_dir
        self._verified: dict[str, Artefact] = {}
        try:
            self._trusted = trusted_keys(trusted_keys_text)
        except SigningError as error:
            raise ArtefactError(str(error)) from error

    def register(
        self, models: Mapping[str, Model], calibrations: Mapping[str, Calibration], manifest: dict[str, Any]
    ) -> Artefact:
        """Sign and write the artefact as a whole or not at all; the same content is one version and mends a broken one.

        It serves nobody yet (ml_service.lifecycle). Raises ArtefactError: the key cannot be used, the disk refused, or
        the content is not what this code would load.
        """
        contents = {
            "models.json": canonical_json({name: model.to_json() for name, model in models.items()}),
            "calibration.json": canonical_json({name: fitted.to_json() for name, fitted in calibrations.items()}),
            "manifest.json": canonical_json(manifest),
        }
        sums = "".join(f"{_sha256(contents[name])}  {name}\n" for name in FILES).encode()
        version = _sha256(sums)
        try:
            signature = sign(ensure_key(self._data_dir), sums)
            with locked(self.root / ".lock"):
                if not self._is_whole(version):
                    self._replace(version, contents | {SUMS: sums, SIGNATURE: signature})
        except SigningError as error:
            raise ArtefactError(str(error)) from error
        except OSError as error:
            raise ArtefactError(f"{version[:VERSION_CHARS]} cannot be written: {error}") from error
        return self.load(version)

    def _is_whole(self, version: str) -> bool:
        try:
            self._read_proven(version)
        except ArtefactError:
            return False
        return True

    def _replace(self, version: str, contents: dict[str, bytes]) -> None:
        """Under the lock, so that every draft there is was left by a crash."""
        for left in self.root.glob(f"{DRAFT}*"):
            shutil.rmtree(left, ignore_errors=True)
        draft, folder = self.root / f"{DRAFT}{version}-{os.getpid()}", self.root / version
        draft.mkdir()
        for name, data in contents.items():
            write_new(draft / name, data)
        fsync_folder(draft)
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
        fsync_folder(self.root)

    def slots(self, environment: Environment) -> dict[str, Slot]:
        """Plan → its current, shadow and previous version. Raises ArtefactError where they cannot be read."""
        try:
            return self.pointers.slots(environment)
        except PointerError as error:
            raise ArtefactError(str(error)) from error

    def current(self, environment: Environment) -> dict[str, str]:
        """Plan → current version, of the plans that have one. Raises ArtefactError where they cannot be read."""
        return {plan: slot.current for plan, slot in self.slots(environment).items() if slot.current}

    def versions(self) -> list[str]:
        """Full versions of all registered folders, verified or not."""
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if VERSION.fullmatch(path.name))

    def find(self, prefix: str) -> Artefact:
        """The verified artefact whose version starts with `prefix`. Raises ArtefactError: none, several, or refused."""
        found = [sha256 for sha256 in self.versions() if sha256.startswith(prefix)]
        if len(found) != 1:
            raise ArtefactError(f"{len(found)} registered models have a version that starts with {prefix}")
        return self.load(found[0])

    def load(self, sha256: str) -> Artefact:
        """The verified artefact. Raises ArtefactError: missing, incomplete, changed, not signed by a trusted key, or of
        other features or logic.

        A folder is verified when first used; what is in memory afterwards cannot be changed through the disk.
        """
        if sha256 not in self._verified:
            self._verified[sha256] = self._verify(sha256)
        return self._verified[sha256]

    def load_for(self, sha256: str, environment: Environment, plan: str) -> Artefact:
        """As `load`, and of this environment and plan. Raises ArtefactError."""
        artefact = self.load(sha256)
        if (artefact.environment, artefact.plan) != (environment, plan):
            raise ArtefactError(f"{artefact.version} is of another environment or horizon than its pointer says")
        return artefact

    def usable(self) -> list[Artefact]:
        """All artefacts that pass verification, oldest training first."""
        found = []
        for version in self.versions():
            try:
                found.append(self.load(version))
            except ArtefactError:
                continue
        return sorted(found, key=lambda artefact: (artefact.trained_through, artefact.sha256))

    def _verify(self, sha256: str) -> Artefact:
        if not VERSION.fullmatch(sha256):
            raise ArtefactError("a version is 64 hexadecimal digits")
        contents = self._read_proven(sha256)
        try:
            artefact = _parse(sha256, contents)
            features, logic = artefact.manifest["features_hash"], artefact.manifest["logic_version"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtefactError(f"{sha256[:VERSION_CHARS]} is not of this registry's format") from error
        _, own_logic, own_features = code_of(artefact.plan)
        if logic != own_logic:
            raise ArtefactError(
                f"{sha256[:VERSION_CHARS]} was trained under logic {logic}, this is {own_logic}: "
                "train again with `sauda ml train`"
            )
        if artefact.plan != INTRADAY and [artefact.manifest.get(name) for name in PLAN] != list(PLAN.values()):
            raise ArtefactError(
                f"{sha256[:VERSION_CHARS]} was judged by another position plan or other costs than this code trades: "
                "train again with `sauda ml train`"
            )
        if features != own_features:
            raise ArtefactError(
                f"{sha256[:VERSION_CHARS]} was trained on other features than this code computes: "
                "train again with `sauda ml train`"
            )
        return artefact

    def _read_proven(self, sha256: str) -> dict[str, bytes]:
        """The files' bytes, once they are known to be what a trusted key signed. Nothing is parsed before that."""
        short = sha256[:VERSION_CHARS]
        try:
            with open_folder(self.root / sha256) as folder:
                sums = read_bounded(SUMS, SUMS_BYTES_MAX, folder)
                verify(read_bounded(SIGNATURE, SIGNATURE_BYTES_MAX, folder), sums, self._keys())
                if _sha256(sums) != sha256:
                    raise ArtefactError(f"{short}: {SUMS} does not match the version: {_AGAIN}")
                listed = dict(line.split("  ", 1)[::-1] for line in sums.decode().splitlines())
                if tuple(listed) != FILES:
                    raise ArtefactError(f"{short}: {SUMS} lists other files than a model has: {_AGAIN}")
                contents = {}
                for name, expected in listed.items():
                    contents[name] = read_bounded(name, FILE_BYTES_MAX, folder)
                    if _sha256(contents[name]) != expected:
                        raise ArtefactError(f"{short}: {name} was changed after registration: {_AGAIN}")
                return contents
        except SigningError as error:
            raise ArtefactError(f"{short}: {error}") from error
        except OSError as error:
            raise ArtefactError(f"{short} is incomplete: {error.filename}: {error.strerror}; {_AGAIN}") from error
        except ValueError as error:
            raise ArtefactError(f"{short}: {SUMS} is no list of sums: {_AGAIN}") from error

    def _keys(self) -> Mapping[str, Any]:
        own = load_key(self._data_dir)
        keys = self._trusted | ({key_id(own.public_key()): own.public_key()} if own else {})
        if not keys:
            raise SigningError(
                "no key is trusted here: set MODEL_TRUSTED_KEYS, restore keys/models.ed25519, "
                "or train again with `sauda ml train`"
            )
        return keys


_AGAIN = "restore it from a backup, or train again with `sauda ml train`"


def _parse(sha256: str, contents: Mapping[str, bytes]) -> Artefact:
    models = {name: model_from_json(data) for name, data in json.loads(contents["models.json"]).items()}
    fitted = {name: Calibration.from_json(data) for name, data in json.loads(contents["calibration.json"]).items()}
    artefact = Artefact(sha256, models, fitted, json.loads(contents["manifest.json"]))
    if models.keys() != fitted.keys() or code_of(artefact.plan)[0] not in models:
        raise ValueError("a strategy lacks its model or its calibration")
    # Asked now, so that a manifest that lacks them is refused here and not in the middle of an answer.
    _ = (artefact.trained_through, artefact.calibrated_through, artefact.environment, artefact.plan)
    _ = [artefact.certified(name) for name in models]
    return artefact
