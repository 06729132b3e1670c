"""Only a key that this host trusts makes a model, and only its owner can read the private part."""

import base64
import os
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from small_models import registered

from ml_service.registry import ArtefactError, Registry
from ml_service.signing import (
    SigningError,
    ensure_key,
    key_id,
    key_path,
    load_key,
    public_text,
    sign,
    trusted_keys,
    verify,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = {key_id(KEY.public_key()): KEY.public_key()}


def test_the_first_use_makes_a_key_for_its_owner_alone_and_the_next_uses_it(tmp_path: Path) -> None:
    assert load_key(tmp_path) is None
    made = ensure_key(tmp_path)
    assert ensure_key(tmp_path).private_bytes_raw() == made.private_bytes_raw()
    path = key_path(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [other.name for other in path.parent.iterdir()] == [path.name], "no draft is left"


def test_of_two_first_uses_one_key_stays(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(ensure_key(tmp_path).private_bytes_raw())) for _ in "12345"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 5
    assert len(set(found)) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_key_open_to_others_is_not_used(tmp_path: Path, mode: int) -> None:
    ensure_key(tmp_path)
    key_path(tmp_path).chmod(mode)
    with pytest.raises(SigningError, match=r"chmod 600 .*remove it and train again"):
        load_key(tmp_path)
    with pytest.raises(ArtefactError, match="chmod 600"):
        registered(Registry(tmp_path))


def test_a_key_that_others_could_swap_is_not_used(tmp_path: Path) -> None:
    ensure_key(tmp_path)
    key_path(tmp_path).parent.chmod(0o770)
    with pytest.raises(SigningError, match="chmod 700"):
        load_key(tmp_path)


def pem_of_another_kind() -> bytes:
    return generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x00" * 64, pem_of_another_kind(), b"x" * 5000])
def test_a_damaged_key_is_named_with_its_fix_and_never_replaced(tmp_path: Path, content: bytes) -> None:
    ensure_key(tmp_path)
    key_path(tmp_path).write_bytes(content)
    with pytest.raises(SigningError, match=r"models.ed25519 (is no Ed25519 key.*remove it|cannot be read: larger)"):
        ensure_key(tmp_path)
    assert key_path(tmp_path).read_bytes() == content


def test_a_linked_key_is_not_followed(tmp_path: Path) -> None:
    ensure_key(tmp_path / "elsewhere")
    key_path(tmp_path).parent.mkdir(mode=0o700)
    key_path(tmp_path).symlink_to(key_path(tmp_path / "elsewhere"))
    with pytest.raises(SigningError, match="cannot be read"):
        load_key(tmp_path)


def test_a_key_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file in its place")
    with pytest.raises(SigningError, match=r"keys"):
        ensure_key(tmp_path)


def test_a_signature_is_deterministic_and_of_the_published_form() -> None:
    line = sign(KEY, b"sums")
    assert line == sign(KEY, b"sums")
    kind, name, text = line.decode().split()
    assert (kind, name, len(base64.b64decode(text))) == ("ed25519", key_id(KEY.public_key()), 64)
    verify(line, b"sums", TRUSTED)


@given(st.data())
def test_no_other_line_and_no_other_data_verify(data: st.DataObject) -> None:
    line = bytearray(sign(KEY, b"sums"))
    line[data.draw(st.integers(0, len(line) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SigningError):
        verify(bytes(line), b"sums", TRUSTED)
    with pytest.raises(SigningError, match="is wrong"):
        verify(sign(KEY, b"sums"), b"sums" + data.draw(st.binary(min_size=1)), TRUSTED)


def test_the_unused_bits_of_base64_cannot_be_changed() -> None:
    line = sign(KEY, b"sums")
    last = line[-4:-3].decode()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    twin = alphabet[alphabet.index(last) ^ 1].encode()
    same = line[:-4] + twin + line[-3:]
    assert base64.b64decode(same.split()[2]) == base64.b64decode(line.split()[2])
    with pytest.raises(SigningError, match="not of the form"):
        verify(same, b"sums", TRUSTED)


def test_trusted_keys_are_a_list_of_public_keys() -> None:
    other = Ed25519PrivateKey.generate().public_key()
    mine = public_text(KEY.public_key())
    text = f" {mine} ,{public_text(other)},"
    assert set(trusted_keys(text)) == {key_id(KEY.public_key()), key_id(other)}
    assert trusted_keys("") == {}
    for wrong in ("nonsense", public_text(other)[:-8], base64.b64encode(b"1" * 31).decode(), "é"):
        with pytest.raises(SigningError, match="key 2 is no base64"):
            trusted_keys(f"{mine},{wrong}")
    with pytest.raises(SigningError, match="more than 20"):
        trusted_keys(",".join([public_text(other)] * 21))
    with pytest.raises(ArtefactError, match="MODEL_TRUSTED_KEYS"):
        Registry(Path("unused"), "nonsense")


def test_a_serving_host_needs_the_public_key_only(tmp_path: Path) -> None:
    trainer = Registry(tmp_path / "trainer")
    artefact = registered(trainer)
    public = public_text(ensure_key(tmp_path / "trainer").public_key())
    (tmp_path / "server").mkdir()
    os.rename(trainer.root, tmp_path / "server" / "models")
    server = Registry(tmp_path / "server", public)
    assert server.load(artefact.sha256).manifest == artefact.manifest
    assert not key_path(tmp_path / "server").exists(), "serving makes no private key"
    with pytest.raises(ArtefactError, match=r"no key is trusted here.*MODEL_TRUSTED_KEYS"):
        Registry(tmp_path / "server").load(artefact.sha256)
    stranger = public_text(KEY.public_key())
    with pytest.raises(ArtefactError, match="does not trust"):
        Registry(tmp_path / "server", stranger).load(artefact.sha256)


def test_a_lost_key_is_named_with_the_ways_back(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    artefact = registered(registry)
    key_path(tmp_path).unlink()
    with pytest.raises(ArtefactError, match=r"restore keys/models.ed25519"):
        Registry(tmp_path).load(artefact.sha256)
    assert registered(Registry(tmp_path)).sha256 == artefact.sha256, "training again signs with the new key"
    assert Registry(tmp_path).load(artefact.sha256).manifest == artefact.manifest
