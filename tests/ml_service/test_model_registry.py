"""A model is used whole and proven, or not at all."""

import hashlib
import json
from pathlib import Path

import pytest

from contracts.common import Environment
from ml_service.model import LinearModel
from ml_service.registry import FILES, SUMS, Artefact, ArtefactError, Registry
from ml_service.train import Trained

SIMULATED = Environment.SIMULATED


def folder(registry: Registry, artefact: Artefact) -> Path:
    return registry.root / artefact.sha256


def reread(registry: Registry) -> Registry:
    """A registry that remembers nothing."""
    return Registry(registry.root.parent)


def test_what_is_registered_is_what_is_loaded(registry: Registry, artefact: Artefact, trained: Trained) -> None:
    loaded = reread(registry).load(artefact.sha256)
    assert loaded.model.to_json() == trained.model.to_json()
    assert loaded.calibration == trained.calibration
    assert loaded.manifest == artefact.manifest
    assert registry.current(SIMULATED) == {10: artefact.sha256}
    assert registry.versions() == [artefact.sha256]


def test_the_same_content_is_the_same_version(registry: Registry, artefact: Artefact, trained: Trained) -> None:
    assert registry.register(trained.model, trained.calibration, artefact.manifest).sha256 == artefact.sha256
    other = registry.register(trained.model, trained.calibration, artefact.manifest | {"provider": "another"})
    assert other.sha256 != artefact.sha256


@pytest.mark.parametrize("name", [*FILES, SUMS])
def test_one_changed_byte_is_refused(registry: Registry, artefact: Artefact, name: str) -> None:
    path = folder(registry, artefact) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtefactError):
        reread(registry).load(artefact.sha256)


def test_changing_the_list_of_sums_too_does_not_help(registry: Registry, artefact: Artefact, trained: Trained) -> None:
    forged = registry.register(trained.model, trained.calibration, artefact.manifest | {"provider": "forged"})
    for path in folder(registry, forged).iterdir():
        (folder(registry, artefact) / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ArtefactError, match="does not match the version"):
        reread(registry).load(artefact.sha256)


def test_nothing_is_parsed_before_it_is_proven(
    registry: Registry, artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder(registry, artefact) / "model.json"
    path.write_bytes(path.read_bytes() + b" ")
    parsed = []
    monkeypatch.setattr(json, "loads", parsed.append)
    with pytest.raises(ArtefactError, match="changed after registration"):
        reread(registry).load(artefact.sha256)
    assert parsed == []


def test_a_folder_that_vouches_for_other_files_is_no_model(registry: Registry, artefact: Artefact) -> None:
    sums = b"0" * 64 + b"  model.json\n"
    version = hashlib.sha256(sums).hexdigest()
    folder(registry, artefact).rename(registry.root / version)
    (registry.root / version / SUMS).write_bytes(sums)
    with pytest.raises(ArtefactError, match="other files"):
        registry.load(version)


@pytest.mark.parametrize("name", [*FILES, SUMS])
def test_a_half_written_model_is_refused(registry: Registry, artefact: Artefact, name: str) -> None:
    (folder(registry, artefact) / name).unlink()
    with pytest.raises(ArtefactError, match="incomplete"):
        reread(registry).load(artefact.sha256)


def test_a_draft_left_by_a_crash_is_no_model(registry: Registry, artefact: Artefact) -> None:
    (registry.root / f".draft-{artefact.sha256}-1").mkdir()
    assert registry.versions() == [artefact.sha256]


def test_a_crash_while_writing_leaves_no_model(
    registry: Registry, trained: Trained, artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="disk full"):
        registry.register(trained.model, trained.calibration, artefact.manifest | {"provider": "another"})
    assert registry.versions() == [artefact.sha256]


def test_a_model_of_other_features_is_refused(registry: Registry, trained: Trained, artefact: Artefact) -> None:
    with pytest.raises(ArtefactError, match="other features"):
        registry.register(trained.model, trained.calibration, artefact.manifest | {"features_hash": "0" * 64})


def test_a_model_of_other_logic_is_refused_with_the_command_that_helps(
    registry: Registry, trained: Trained, artefact: Artefact
) -> None:
    with pytest.raises(ArtefactError, match=r"logic linear_v1\.1.*sauda ml train"):
        registry.register(trained.model, trained.calibration, artefact.manifest | {"logic_version": "linear_v1.1"})


def test_registering_a_damaged_model_again_mends_it(registry: Registry, trained: Trained, artefact: Artefact) -> None:
    (folder(registry, artefact) / "model.json").write_text("{}")
    again = reread(registry).register(trained.model, trained.calibration, artefact.manifest)
    assert again.sha256 == artefact.sha256
    assert reread(registry).load(artefact.sha256).manifest == artefact.manifest


def test_an_oversized_file_is_not_read(registry: Registry, artefact: Artefact) -> None:
    with (folder(registry, artefact) / "model.json").open("r+b") as file:
        file.truncate(5_000_000)
    with pytest.raises(ArtefactError, match="larger"):
        reread(registry).load(artefact.sha256)


@pytest.mark.parametrize("name", ["../../etc", "A" * 64, "0" * 12, ""])
def test_a_version_is_a_hash_and_not_a_path(registry: Registry, artefact: Artefact, name: str) -> None:
    with pytest.raises(ArtefactError, match="64 hexadecimal digits"):
        registry.load(name)


def test_an_unreadable_pointer_is_an_error_and_not_an_empty_one(registry: Registry, artefact: Artefact) -> None:
    (registry.root / "current.simulated.json").write_text("{")
    with pytest.raises(ArtefactError, match="unreadable"):
        registry.current(SIMULATED)
    assert registry.current(Environment.LIVE) == {}


def test_each_horizon_has_its_own_current_model(registry: Registry, artefact: Artefact, trained: Trained) -> None:
    other = registry.register(trained.model, trained.calibration, artefact.manifest | {"horizon_sessions": 5})
    registry.promote(other)
    assert registry.current(SIMULATED) == {5: other.sha256, 10: artefact.sha256}


def test_coefficients_survive_json_exactly(trained: Trained) -> None:
    text = json.dumps(trained.model.to_json())
    assert LinearModel.from_json(json.loads(text)).to_json() == trained.model.to_json()
