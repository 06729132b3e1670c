"""A model is used whole, proven and signed, or not at all."""

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import (
    SIMULATED,
    folder,
    registered,
    reread,
    small_calibration,
    small_manifest,
    small_model,
)

from contracts.common import Environment
from ml_service import registry as registry_module
from ml_service.model import STRATEGY
from ml_service.registry import FILE_BYTES_MAX, FILES, SIGNATURE, SUMS, Artefact, ArtefactError, Registry
from ml_service.signing import ensure_key, sign

ALL_FILES = (*FILES, SUMS, SIGNATURE)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


@pytest.fixture
def artefact(registry: Registry) -> Artefact:
    return registered(registry)


def refused(registry: Registry, version: str, match: str) -> None:
    with pytest.raises(ArtefactError, match=match):
        reread(registry).load(version)


def test_what_is_registered_is_what_is_loaded(registry: Registry, artefact: Artefact) -> None:
    loaded = reread(registry).load(artefact.sha256)
    assert loaded.models[STRATEGY].to_json() == small_model().to_json()
    assert loaded.models["momentum"].to_json() == small_model(0.2).to_json()
    assert loaded.calibrations == {STRATEGY: small_calibration(), "momentum": small_calibration(0.5)}
    assert loaded.manifest == small_manifest()
    assert registry.versions() == [artefact.sha256]
    assert registry.current(SIMULATED) == {}, "registering makes nothing current"
    assert {path.name for path in folder(registry, artefact).iterdir()} == set(ALL_FILES)


def test_an_artefact_says_what_it_is_for(registry: Registry) -> None:
    artefact = registered(registry, certified=2)
    assert (artefact.plan, artefact.environment, artefact.horizon_sessions) == ("10", SIMULATED, 10)
    assert artefact.certified_modes == ["conservative", "moderate"]
    assert (artefact.certified("momentum"), artefact.certified("nosuch")) == ([], [])
    assert registered(registry, plan="20").plan == "20"


def test_the_same_content_is_the_same_version_byte_for_byte(registry: Registry, artefact: Artefact) -> None:
    before = {path.name: path.read_bytes() for path in folder(registry, artefact).iterdir()}
    shutil.rmtree(folder(registry, artefact))
    assert registered(reread(registry)).sha256 == artefact.sha256
    assert {path.name: path.read_bytes() for path in folder(registry, artefact).iterdir()} == before
    assert registered(registry, provider="another").sha256 != artefact.sha256


@pytest.mark.parametrize("name", ALL_FILES)
def test_one_changed_byte_is_refused(registry: Registry, artefact: Artefact, name: str) -> None:
    path = folder(registry, artefact) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused(registry, artefact.sha256, "changed after|signature|trust")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Registry, Artefact, dict[str, bytes]]:
    registry = Registry(tmp_path_factory.mktemp("whole"))
    artefact = registered(registry)
    return registry, artefact, {name: (folder(registry, artefact) / name).read_bytes() for name in ALL_FILES}


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_changed_bits_anywhere_are_refused(
    whole: tuple[Registry, Artefact, dict[str, bytes]], data: st.DataObject
) -> None:
    registry, artefact, contents = whole
    name = data.draw(st.sampled_from(ALL_FILES))
    changed = bytearray(contents[name])
    place = data.draw(st.integers(0, len(changed) - 1))
    changed[place] ^= data.draw(st.integers(1, 255))
    path = folder(registry, artefact) / name
    path.write_bytes(changed)
    try:
        with pytest.raises(ArtefactError):
            reread(registry).load(artefact.sha256)
    finally:
        path.write_bytes(contents[name])
    assert reread(registry).load(artefact.sha256).sha256 == artefact.sha256


@settings(max_examples=50, deadline=None)
@given(name=st.sampled_from(ALL_FILES), tail=st.binary(min_size=1, max_size=40), cut=st.booleans())
def test_a_longer_or_shorter_file_is_refused(
    whole: tuple[Registry, Artefact, dict[str, bytes]], name: str, tail: bytes, cut: bool
) -> None:
    registry, artefact, contents = whole
    path = folder(registry, artefact) / name
    path.write_bytes(contents[name][: -len(tail)] if cut else contents[name] + tail)
    try:
        with pytest.raises(ArtefactError):
            reread(registry).load(artefact.sha256)
    finally:
        path.write_bytes(contents[name])


def test_another_models_files_under_this_name_are_refused(registry: Registry, artefact: Artefact) -> None:
    other = registered(registry, provider="another")
    for path in folder(registry, other).iterdir():
        (folder(registry, artefact) / path.name).write_bytes(path.read_bytes())
    refused(registry, artefact.sha256, "does not match the version")


def test_another_models_signature_is_refused(registry: Registry, artefact: Artefact) -> None:
    other = registered(registry, provider="another")
    shutil.copy(folder(registry, other) / SIGNATURE, folder(registry, artefact) / SIGNATURE)
    refused(registry, artefact.sha256, "signature by key [0-9a-f]{16} is wrong")


def test_whoever_writes_the_registry_but_has_no_trusted_key_cannot_add_a_model(
    registry: Registry, artefact: Artefact, tmp_path: Path
) -> None:
    stranger = Registry(tmp_path / "stranger")
    forged = registered(stranger, certified=3)
    shutil.copytree(folder(stranger, forged), folder(registry, forged))
    refused(registry, forged.sha256, r"does not trust.*sauda ml train.*MODEL_TRUSTED_KEYS")


def test_re_signing_a_changed_model_with_another_key_does_not_help(
    registry: Registry, artefact: Artefact, tmp_path: Path
) -> None:
    place = folder(registry, artefact)
    sums = (place / SUMS).read_bytes()
    (place / SIGNATURE).write_bytes(sign(ensure_key(tmp_path / "stranger"), sums))
    refused(registry, artefact.sha256, "does not trust")
    own = sign(ensure_key(registry.root.parent), sums)
    stranger = sign(ensure_key(tmp_path / "stranger"), sums)
    (place / SIGNATURE).write_bytes(own[:25] + stranger[25:])
    refused(registry, artefact.sha256, "is wrong")


def test_the_signature_is_judged_before_anything_else_and_nothing_is_parsed_before_it_is_proven(
    registry: Registry, artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder(registry, artefact)
    (place / "models.json").write_bytes((place / "models.json").read_bytes() + b" ")
    parsed = []
    monkeypatch.setattr(json, "loads", parsed.append)
    refused(registry, artefact.sha256, "models.json was changed after registration")
    (place / SUMS).write_bytes((place / SUMS).read_bytes() + b" ")
    refused(registry, artefact.sha256, "signature by key")
    assert parsed == []


def test_a_signed_folder_that_vouches_for_other_files_is_no_model(registry: Registry, artefact: Artefact) -> None:
    for sums in (b"0" * 64 + b"  models.json\n", b"nothing\n", b"\xff  models.json\n", b""):
        version = hashlib.sha256(sums).hexdigest()
        place = registry.root / version
        shutil.copytree(folder(registry, artefact), place)
        (place / SUMS).write_bytes(sums)
        (place / SIGNATURE).write_bytes(sign(ensure_key(registry.root.parent), sums))
        refused(registry, version, "other files|no list of sums")


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_half_written_model_is_refused(registry: Registry, artefact: Artefact, name: str) -> None:
    (folder(registry, artefact) / name).unlink()
    refused(registry, artefact.sha256, f"incomplete: {name}: No such file.*sauda ml train")


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_link_is_not_followed(registry: Registry, artefact: Artefact, name: str, tmp_path: Path) -> None:
    path = folder(registry, artefact) / name
    path.rename(tmp_path / name)
    path.symlink_to(tmp_path / name)
    refused(registry, artefact.sha256, f"incomplete: {name}")


def test_a_linked_folder_is_refused_and_replaced_by_a_real_one(
    registry: Registry, artefact: Artefact, tmp_path: Path
) -> None:
    place = folder(registry, artefact)
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    refused(registry, artefact.sha256, "incomplete")
    assert registered(reread(registry)).sha256 == artefact.sha256
    assert not place.is_symlink()
    assert (tmp_path / "elsewhere" / SUMS).exists(), "what a link points to is not ours to remove"


def test_a_pipe_in_a_files_place_does_not_hang(registry: Registry, artefact: Artefact) -> None:
    path = folder(registry, artefact) / "manifest.json"
    path.unlink()
    os.mkfifo(path)
    refused(registry, artefact.sha256, "not a regular file")


@pytest.mark.parametrize("name", ALL_FILES)
def test_an_oversized_file_is_not_read(registry: Registry, artefact: Artefact, name: str) -> None:
    os.truncate(folder(registry, artefact) / name, FILE_BYTES_MAX + 1)
    refused(registry, artefact.sha256, f"{name}: larger than")


def test_a_draft_left_by_a_crash_is_no_model_and_goes_with_the_next(registry: Registry, artefact: Artefact) -> None:
    left = registry.root / f".draft-{artefact.sha256}-1"
    left.mkdir()
    assert registry.versions() == [artefact.sha256]
    registered(registry, provider="another")
    assert not left.exists()


def test_killed_between_draft_and_rename_leaves_no_model(registry: Registry, artefact: Artefact) -> None:
    def run() -> None:
        pytest.MonkeyPatch().setattr(Path, "rename", lambda *_: os._exit(9))
        registered(registry, provider="another")

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join(30)
    assert child.exitcode == 9
    assert registry.versions() == [artefact.sha256]
    assert len(list(registry.root.glob(".draft-*"))) == 1
    assert registered(registry, provider="another").sha256 in registry.versions()
    assert not list(registry.root.glob(".draft-*"))


def test_a_full_disk_is_an_error_and_no_model(
    registry: Registry, artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(registry_module, "write_new", fail)
    with pytest.raises(ArtefactError, match=r"cannot be written.*No space"):
        registered(registry, provider="another")
    assert registry.versions() == [artefact.sha256]


def test_registering_a_damaged_model_again_mends_it(registry: Registry, artefact: Artefact) -> None:
    (folder(registry, artefact) / "models.json").write_text("{}")
    assert registered(reread(registry)).sha256 == artefact.sha256
    assert reread(registry).load(artefact.sha256).manifest == artefact.manifest


def test_many_trainings_at_once_register_one_whole_model(registry: Registry) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(registered(reread(registry)).sha256)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert registry.versions() == [found[0]]
    assert reread(registry).load(found[0]).version


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"features_hash": "0" * 64}, "other features.*sauda ml train"),
        ({"logic_version": "linear_v1.1"}, r"logic linear_v1\.1.*sauda ml train"),
        ({"trained_through": "soon"}, "format"),
        ({"environment": "elsewhere"}, "format"),
        ({"strategies": {STRATEGY: {"modes": {"moderate": {}}}}}, "format"),
    ],
)
def test_a_model_that_this_code_cannot_use_is_refused(
    registry: Registry, changed: dict[str, object], match: str
) -> None:
    with pytest.raises(ArtefactError, match=match):
        registered(registry, **changed)


def test_every_strategy_has_a_model_and_a_calibration(registry: Registry) -> None:
    model, calibration = small_model(), small_calibration()
    for models, calibrations in (
        ({STRATEGY: model, "momentum": model}, {STRATEGY: calibration}),
        ({"momentum": model}, {"momentum": calibration}),
        ({}, {}),
    ):
        with pytest.raises(ArtefactError, match="format"):
            registry.register(models, calibrations, small_manifest())


@pytest.mark.parametrize("name", ["../../etc", "A" * 64, "0" * 12, ""])
def test_a_version_is_a_hash_and_not_a_path(registry: Registry, artefact: Artefact, name: str) -> None:
    with pytest.raises(ArtefactError, match="64 hexadecimal digits"):
        registry.load(name)


def test_a_version_is_found_by_its_beginning(registry: Registry, artefact: Artefact) -> None:
    assert registry.find(artefact.version) == artefact
    with pytest.raises(ArtefactError, match="0 registered models"):
        registry.find("z")
    registered(registry, provider="another")
    with pytest.raises(ArtefactError, match="2 registered models"):
        registry.find("")


def test_a_model_serves_only_the_environment_and_plan_it_was_made_for(registry: Registry, artefact: Artefact) -> None:
    assert registry.load_for(artefact.sha256, SIMULATED, "10") == artefact
    for environment, plan in ((Environment.LIVE, "10"), (SIMULATED, "5"), (SIMULATED, "intraday")):
        with pytest.raises(ArtefactError, match="another environment or horizon"):
            registry.load_for(artefact.sha256, environment, plan)


def test_coefficients_survive_json_exactly() -> None:
    model = small_model()
    assert type(model).from_json(json.loads(json.dumps(model.to_json()))).to_json() == model.to_json()


@pytest.mark.parametrize("changed", [{"cost_fraction": 0.0}, {"bracket": {"target_atr": 9.0}}, {"bracket": None}])
def test_certificates_of_another_plan_are_refused(registry: Registry, changed: dict[str, object]) -> None:
    with pytest.raises(ArtefactError, match="another position plan or other costs"):
        registered(registry, **changed)
