"""Sealing other people's secrets: AES-256-GCM envelopes that open only for whom, and under the key, they were made.

Each secret gets a data key of its own; a named master key wraps it. Both layers are bound to a context (such as user,
broker and field) and to the master key's name as associated data, so that a sealed text moved to another row, field,
user or key does not open. Losing the master keys loses the secrets: they are backed up apart from the database.
NIST SP 800-38D (GCM, 96-bit random nonces); the envelope is that of NIST SP 800-57 part 1, 5.3.5 (key wrapping).
"""

import base64
import binascii
import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

log = structlog.get_logger()

KEY_BYTES = 32
NONCE_BYTES = 12
KEY_NAME_MAX = 40
_BLOB_VERSION = 1


class VaultError(Exception):
    """A secret cannot be sealed or opened. The message never holds any of it."""


@dataclass(frozen=True, slots=True, repr=False)
class Sealed:
    """A sealed secret: the master key's name, the wrapped data key and the ciphertext, each after its nonce."""

    key_id: str
    wrapped_key: bytes
    sealed: bytes


class Vault:
    """Seals with the first of its master keys and opens with any of them.

    `reload` reads the keys again, so that a process that runs learns of a new one: it is asked before each sealing, and
    where a key is not known. A key that was known once goes on opening; keys that cannot be read change nothing.

    Raises:
        VaultError: no key, or one that is not KEY_BYTES long or has an impossible name.
    """

    def __init__(
        self, master_keys: Mapping[str, bytes], reload: Callable[[], Mapping[str, bytes]] | None = None
    ) -> None:
        self._reload = reload
        self._masters: dict[str, AESGCM] = {}
        self._take(master_keys)

    def _take(self, master_keys: Mapping[str, bytes]) -> None:
        if not master_keys:
            raise VaultError("there is no master key: set MASTER_KEY_FILE or MASTER_KEYS")
        for name, key in master_keys.items():
            if not name.isascii() or not name.isprintable() or not 0 < len(name) <= KEY_NAME_MAX:
                raise VaultError(f"a master key's name is 1 to {KEY_NAME_MAX} printable ASCII characters")
            if len(key) != KEY_BYTES:
                raise VaultError(f"the master key {name} has {len(key)} bytes, not {KEY_BYTES}")
        known = {name: cipher for name, cipher in self._masters.items() if name not in master_keys}
        self._masters = {name: AESGCM(key) for name, key in master_keys.items()} | known

    def _look_again(self) -> None:
        if self._reload is not None:
            try:
                self._take(self._reload())
            except VaultError as error:
                log.warning("master_keys_unreadable", error=str(error))  # those it has go on working

    @property
    def current(self) -> str:
        """The name of the key that seals."""
        return next(iter(self._masters))

    @property
    def key_ids(self) -> Sequence[str]:
        """The names of all keys, the sealing one first."""
        return list(self._masters)

    def seal(self, context: Sequence[str], secret: bytes) -> Sealed:
        """Seal a secret for a context, such as (user id, broker, field): the same is needed to open it."""
        self._look_again()
        data_key = secrets.token_bytes(KEY_BYTES)
        current, master = next(iter(self._masters.items()))
        return Sealed(
            current,
            _encrypt(master, data_key, b"key" + _associated(context, current)),
            _encrypt(AESGCM(data_key), secret, b"secret" + _associated(context)),
        )

    def open(self, context: Sequence[str], sealed: Sealed) -> bytes:
        """The secret.

        Raises:
            VaultError: the master key is not here, or anything of it was changed, moved or made for another context.
        """
        data_key = self._data_key(context, sealed)
        return _decrypt(AESGCM(data_key), sealed.sealed, b"secret" + _associated(context))

    def rewrap(self, context: Sequence[str], sealed: Sealed) -> Sealed:
        """The same secret under the sealing master key; the ciphertext itself stays.

        Raises:
            VaultError: as `open`.
        """
        data_key = self._data_key(context, sealed)
        wrapped = _encrypt(self._masters[self.current], data_key, b"key" + _associated(context, self.current))
        return Sealed(self.current, wrapped, sealed.sealed)

    def seal_bytes(self, context: Sequence[str], secret: bytes) -> bytes:
        """`seal` in one piece, for a column of its own."""
        sealed = self.seal(context, secret)
        name = sealed.key_id.encode()
        return bytes([_BLOB_VERSION, len(name)]) + name + sealed.wrapped_key + sealed.sealed

    def open_bytes(self, context: Sequence[str], blob: bytes) -> bytes:
        """What `seal_bytes` sealed.

        Raises:
            VaultError: as `open`.
        """
        return self.open(context, unpack(blob))

    def rewrap_bytes(self, context: Sequence[str], blob: bytes) -> bytes:
        """`rewrap` for what `seal_bytes` made.

        Raises:
            VaultError: as `open`.
        """
        sealed = self.rewrap(context, unpack(blob))
        name = sealed.key_id.encode()
        return bytes([_BLOB_VERSION, len(name)]) + name + sealed.wrapped_key + sealed.sealed

    def _data_key(self, context: Sequence[str], sealed: Sealed) -> bytes:
        if sealed.key_id not in self._masters:
            self._look_again()
        master = self._masters.get(sealed.key_id)
        if master is None:
            raise VaultError(f"the master key {sealed.key_id!r} is not here: add it to MASTER_KEY_FILE")
        return _decrypt(master, sealed.wrapped_key, b"key" + _associated(context, sealed.key_id))


def unpack(blob: bytes) -> Sealed:
    """The parts of what `seal_bytes` made.

    Raises:
        VaultError: it is not such a text.
    """
    wrapped_length = NONCE_BYTES + KEY_BYTES + 16
    if len(blob) < 2 or blob[0] != _BLOB_VERSION or len(blob) < 2 + blob[1] + wrapped_length:
        raise VaultError("this is nothing that was sealed here")
    name, rest = blob[2 : 2 + blob[1]], blob[2 + blob[1] :]
    try:
        return Sealed(name.decode("ascii"), rest[:wrapped_length], rest[wrapped_length:])
    except UnicodeDecodeError:
        raise VaultError("this is nothing that was sealed here") from None


def _associated(context: Sequence[str], *key_id: str) -> bytes:
    """JSON, so that ("a", "bc") and ("ab", "c") differ."""
    return json.dumps([*context, *key_id], ensure_ascii=True).encode()


def _encrypt(cipher: AESGCM, secret: bytes, associated: bytes) -> bytes:
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, secret, associated)


def _decrypt(cipher: AESGCM, sealed: bytes, associated: bytes) -> bytes:
    try:
        return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], associated)
    except (InvalidTag, ValueError):
        raise VaultError("a sealed secret does not open: it was changed, or sealed for something else") from None


def read_master_keys(text: str) -> dict[str, bytes]:
    """Master keys out of lines (or parts between commas) `name:base64 of 32 bytes`; # begins a comment line.

    Raises:
        VaultError: a part is not of that form, or a name comes twice. It names the part by number, never by content.
    """
    keys: dict[str, bytes] = {}
    parts = [part.strip() for part in text.replace(",", "\n").splitlines()]
    for number, part in enumerate((p for p in parts if p and not p.startswith("#")), start=1):
        name, colon, encoded = part.partition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not colon or not name or len(key) != KEY_BYTES:
            raise VaultError(f"master key {number} is not of the form name:base64 of {KEY_BYTES} bytes")
        if name in keys:
            raise VaultError(f"master key {number} has the name of another")
        keys[name] = key
    return keys


def read_master_key_file(path: Path) -> dict[str, bytes]:
    """The keys of a file that its owner alone may read.

    Raises:
        VaultError: it cannot be read, others may read it, or it holds something else.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VaultError(f"the master keys in {path} cannot be read: {error}") from None
    if mode & 0o077:
        raise VaultError(f"others may read the master keys in {path}: chmod 600 {path}")
    return read_master_keys(text)


def make_master_key_file(path: Path, name: str) -> None:
    """Put a new key in front of those of a file, or make the file: whole or not at all, for its owner's eyes alone.

    Raises:
        VaultError: a key of that name is in it, or it cannot be read.
        OSError: it cannot be written.
    """
    before = path.stat() if path.exists() else None
    old = path.read_text(encoding="utf-8") if before else ""
    if name in read_master_keys(old):
        raise VaultError(f"{path} has a key {name} already")
    line = f"{name}:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}\n"
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(line + old)
        file.flush()
        os.fsync(file.fileno())
    try:
        if before is not None:
            os.chown(temporary, before.st_uid, before.st_gid)  # a process under another user must go on reading it
    except OSError:
        temporary.unlink()
        raise
    temporary.replace(path)
