"""Secrets open for whom they were sealed, whole, and for nobody and nothing else."""

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.vault import (
    Sealed,
    Vault,
    VaultError,
    make_master_key_file,
    read_master_key_file,
    read_master_keys,
    unpack,
)

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
VAULT = Vault({"new": NEW, "old": OLD})
ONLY_OLD = Vault({"old": OLD})
CONTEXT = ("7", "zerodha", "api_secret")

texts = st.text(max_size=12)
contexts = st.lists(texts, min_size=1, max_size=4).map(tuple)


@given(contexts, st.binary(max_size=200))
def test_what_was_sealed_opens_and_shows_nothing(context, secret) -> None:
    sealed = VAULT.seal(context, secret)
    assert VAULT.open(context, sealed) == secret
    assert VAULT.open_bytes(context, VAULT.seal_bytes(context, secret)) == secret
    assert VAULT.seal(context, secret).sealed != sealed.sealed
    assert len(secret) < 6 or secret not in sealed.sealed
    assert "Sealed" in repr(sealed)
    assert repr(sealed.sealed) not in repr(sealed)


@given(contexts, contexts)
def test_it_opens_in_its_own_context_only(made, other) -> None:
    sealed = VAULT.seal(made, b"secret")
    if made == other:
        return
    with pytest.raises(VaultError):
        VAULT.open(other, sealed)
    with pytest.raises(VaultError):
        VAULT.rewrap(other, sealed)


@given(st.data())
def test_no_bit_of_it_may_change(data) -> None:
    blob = VAULT.seal_bytes(CONTEXT, b"secret")
    at = data.draw(st.integers(0, len(blob) * 8 - 1))
    changed = bytearray(blob)
    changed[at // 8] ^= 1 << at % 8
    with pytest.raises(VaultError):
        VAULT.open_bytes(CONTEXT, bytes(changed))


@given(st.binary(max_size=120))
def test_no_bytes_break_it(blob) -> None:
    with pytest.raises(VaultError):
        VAULT.open_bytes(CONTEXT, blob)


@pytest.mark.parametrize("field", ["key_id", "wrapped_key", "sealed"])
def test_parts_of_two_secrets_do_not_mix(field) -> None:
    """Also where both were sealed for one context: a part of an older value must not come back under a newer key."""
    a, b = ONLY_OLD.seal(CONTEXT, b"first"), VAULT.seal(CONTEXT, b"second")
    parts = {"key_id": a.key_id, "wrapped_key": a.wrapped_key, "sealed": a.sealed}
    mixed = Sealed(**(parts | {field: getattr(b, field)}))
    with pytest.raises(VaultError):
        VAULT.open(CONTEXT, mixed)


def test_rewrapping_needs_the_old_key_and_then_no_more() -> None:
    sealed = ONLY_OLD.seal(CONTEXT, b"secret")
    blob = ONLY_OLD.seal_bytes(CONTEXT, b"secret")
    only_new = Vault({"new": NEW})
    with pytest.raises(VaultError, match="'old' is not here"):
        only_new.open(CONTEXT, sealed)
    moved, moved_blob = VAULT.rewrap(CONTEXT, sealed), VAULT.rewrap_bytes(CONTEXT, blob)
    assert (moved.key_id, moved.sealed, unpack(moved_blob).key_id) == ("new", sealed.sealed, "new")
    assert only_new.open(CONTEXT, moved) == only_new.open_bytes(CONTEXT, moved_blob) == b"secret"


@pytest.mark.parametrize("keys", [{}, {"a": b"short"}, {"": NEW}, {"ä": NEW}, {"a" * 41: NEW}, {"a\n": NEW}])
def test_impossible_keys_are_refused(keys) -> None:
    with pytest.raises(VaultError):
        Vault(keys)


GOOD = f"k:{base64.b64encode(NEW).decode()}"


@pytest.mark.parametrize("text", ["k", "k:", "k:???", f":{GOOD[2:]}", f"{GOOD},{GOOD}", f"{GOOD},l:{GOOD[2:-8]}"])
def test_a_bad_list_is_refused_without_showing_it(text) -> None:
    with pytest.raises(VaultError) as refused:
        read_master_keys(text)
    assert GOOD[2:20] not in str(refused.value)


def test_a_file_of_keys_is_its_owners_alone_and_grows_at_the_front(tmp_path) -> None:
    path = tmp_path / "master.keys"
    make_master_key_file(path, "first")
    make_master_key_file(path, "second")
    keys = read_master_key_file(path)
    assert list(keys) == ["second", "first"]
    assert keys["first"] != keys["second"]
    assert path.stat().st_mode & 0o777 == 0o600
    if os.geteuid() == 0:  # an operator with all rights takes it from nobody
        os.chown(path, 12345, 12346)
        make_master_key_file(path, "third")
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)
        os.chown(path, 0, 0)
    with pytest.raises(VaultError, match="has a key first already"):
        make_master_key_file(path, "first")
    path.chmod(0o640)
    with pytest.raises(VaultError, match="chmod 600"):
        read_master_key_file(path)
    with pytest.raises(VaultError, match="cannot be read"):
        read_master_key_file(tmp_path / "none")


def test_a_running_process_learns_of_a_new_key(tmp_path) -> None:
    path = tmp_path / "master.keys"
    make_master_key_file(path, "first")
    running = Vault(read_master_key_file(path), lambda: read_master_key_file(path))
    old = running.seal(CONTEXT, b"secret")
    make_master_key_file(path, "second")
    theirs = Vault(read_master_key_file(path)).seal(CONTEXT, b"theirs")
    assert theirs.key_id == "second"
    assert running.open(CONTEXT, theirs) == b"theirs"
    assert running.seal(CONTEXT, b"new").key_id == "second"
    path.write_text("nonsense")  # being written by somebody else: what is known goes on
    assert running.seal(CONTEXT, b"newer").key_id == "second"
    assert running.open(CONTEXT, old) == b"secret"
    unknown = Sealed("third", old.wrapped_key, old.sealed)
    with pytest.raises(VaultError, match="'third' is not here"):
        running.open(CONTEXT, unknown)
