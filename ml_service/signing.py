"""Who made a model: Ed25519 signatures (RFC 8032), the key that makes them, and the keys that are believed.

The private key lies beside the registry, not in it: whoever can write models cannot sign them. A host that only serves
needs no private key, only the public ones in MODEL_TRUSTED_KEYS.
"""

import base64
import binascii
import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ml_service.files import fsync_folder, read_bounded, write_new

KEY_BYTES_MAX = 4096
KEY_ID_CHARS = 16
SIGNATURE_BYTES_MAX = 256
TRUSTED_KEYS_MAX = 20
_SIGNATURE = re.compile(rb"ed25519 ([0-9a-f]{16}) ([A-Za-z0-9+/]{86}==)\n")


class SigningError(Exception):
    """A key or a signature cannot be used; the message says what to do."""


def key_path(data_dir: Path) -> Path:
    """Where the signing key of a data folder lies."""
    return data_dir / "keys" / "models.ed25519"


def public_text(key: Ed25519PublicKey) -> str:
    """The raw public key in base64, as MODEL_TRUSTED_KEYS takes it."""
    return base64.b64encode(key.public_bytes_raw()).decode()


def key_id(key: Ed25519PublicKey) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the raw public key."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:KEY_ID_CHARS]


def trusted_keys(text: str) -> dict[str, Ed25519PublicKey]:
    """Key id → public key of a comma-separated list of base64 raw public keys. Raises SigningError."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if len(words) > TRUSTED_KEYS_MAX:
        raise SigningError(f"MODEL_TRUSTED_KEYS has more than {TRUSTED_KEYS_MAX} keys")
    found = {}
    for number, word in enumerate(words, 1):
        try:
            key = Ed25519PublicKey.from_public_bytes(base64.b64decode(word, validate=True))
        except (ValueError, binascii.Error) as error:
            raise SigningError(
                f"MODEL_TRUSTED_KEYS: key {number} is no base64 of a raw Ed25519 public key; "
                "`sauda ml list` on the training host shows it"
            ) from error
        found[key_id(key)] = key
    return found


def load_key(data_dir: Path) -> Ed25519PrivateKey | None:
    """The data folder's signing key, None where it has none. Raises SigningError: readable by others, or damaged."""
    path = key_path(data_dir)
    try:
        info = path.lstat()
        if stat.S_IMODE(path.parent.lstat().st_mode) & 0o022:
            raise SigningError(f"others may write in {path.parent}: `chmod 700 {path.parent}`")
        if stat.S_ISREG(info.st_mode) and stat.S_IMODE(info.st_mode) & 0o077:
            raise SigningError(
                f"{path} is open to others: `chmod 600 {path}`, "
                "and if somebody may have read it, remove it and train again"
            )
        key = load_pem_private_key(read_bounded(path, KEY_BYTES_MAX), password=None)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SigningError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise SigningError(_damaged(path)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningError(_damaged(path))
    return key


def _damaged(path: Path) -> str:
    return f"{path} is no Ed25519 key in PEM: restore it, or remove it and train again"


def ensure_key(data_dir: Path) -> Ed25519PrivateKey:
    """The data folder's signing key, made if there is none: 0600 in a folder of 0700. Raises SigningError."""
    key = load_key(data_dir)
    if key is not None:
        return key
    try:
        _make_key(key_path(data_dir))
    except OSError as error:
        raise SigningError(f"no signing key can be made in {key_path(data_dir).parent}: {error.strerror}") from error
    key = load_key(data_dir)
    if key is None:
        raise SigningError(f"{key_path(data_dir)} is gone again")
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    draft = path.with_name(f".{path.name}-{os.getpid()}-{os.urandom(4).hex()}")
    write_new(draft, pem, 0o600)
    # A link to a finished file, refused where the name is taken: of two first trainings, one key stays, and whole.
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()
    fsync_folder(path.parent)


def sign(key: Ed25519PrivateKey, data: bytes) -> bytes:
    """The line `ed25519 KEYID SIGNATURE`, base64. The same key and data give the same bytes (RFC 8032)."""
    return f"ed25519 {key_id(key.public_key())} {base64.b64encode(key.sign(data)).decode()}\n".encode()


def verify(line: bytes, data: bytes, trusted: Mapping[str, Ed25519PublicKey]) -> None:
    """Return where `line` is what a trusted key says of `data`. Raises SigningError."""
    found = _SIGNATURE.fullmatch(line)
    # Re-encoding refuses base64 whose unused last bits were changed: one signature, one text.
    if found is None or base64.b64encode(signature := base64.b64decode(found[2])) != found[2]:
        raise SigningError("the signature is not of the form `ed25519 KEYID BASE64`")
    name = found[1].decode()
    if name not in trusted:
        raise SigningError(
            f"signed by key {name}, which this host does not trust: train again with `sauda ml train`, restore "
            "keys/models.ed25519, or add that public key to MODEL_TRUSTED_KEYS"
        )
    try:
        trusted[name].verify(signature, data)
    except InvalidSignature as error:
        raise SigningError(f"the signature by key {name} is wrong: train again with `sauda ml train`") from error
